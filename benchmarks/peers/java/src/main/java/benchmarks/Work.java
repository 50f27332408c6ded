package benchmarks;

import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.OutputStream;
import java.io.UncheckedIOException;
import java.net.Socket;
import java.nio.charset.StandardCharsets;

/** What a handler does between its start and its end. */
interface Work {
    void run() throws InterruptedException, IOException;

    static Work of(Job job) {
        if (!job.ask().isEmpty()) {
            String[] address = job.ask().split(":");
            ThreadLocal<Line> lines = ThreadLocal.withInitial(() -> Line.to(address[0], Integer.parseInt(address[1])));
            return () -> lines.get().ask();
        }
        if (job.delay() > 0) {
            long nanos = Math.round(job.delay() * 1e9);
            return () -> Thread.sleep(nanos / 1_000_000, (int) (nanos % 1_000_000));
        }
        return () -> {};
    }

    /** A worker's own connection to the server that it asks. */
    record Line(OutputStream out, BufferedReader in) {
        private static final byte[] QUESTION = "?\n".getBytes(StandardCharsets.US_ASCII);

        @SuppressWarnings("resource") // the end of the process closes it
        static Line to(String host, int port) {
            try {
                Socket socket = new Socket(host, port);
                socket.setTcpNoDelay(true);
                InputStreamReader reader = new InputStreamReader(socket.getInputStream(), StandardCharsets.US_ASCII);
                return new Line(socket.getOutputStream(), new BufferedReader(reader));
            } catch (IOException error) {
                throw new UncheckedIOException(error);
            }
        }

        void ask() throws IOException {
            out.write(QUESTION);
            if (in.readLine() == null) {
                throw new IOException("the server hung up");
            }
        }
    }
}
