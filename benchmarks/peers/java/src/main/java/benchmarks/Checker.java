package benchmarks;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.util.Map;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.atomic.AtomicReference;
import java.util.concurrent.atomic.LongAdder;
import org.apache.kafka.clients.consumer.ConsumerRecord;

/** Counts records, checks their order and their completeness, and notes when what was reached. Any thread may call. */
final class Checker {
    private final Job job;
    private final Lanes lanes;
    private final AtomicLong done = new AtomicLong();
    private final AtomicLong running = new AtomicLong();
    private final AtomicLong peak = new AtomicLong(1);
    private final LongAdder violations = new LongAdder();
    private final ConcurrentLinkedQueue<Long> latencies = new ConcurrentLinkedQueue<>();
    private final AtomicReference<Moment> first = new AtomicReference<>();
    private final AtomicReference<Moment> last = new AtomicReference<>();
    private final CountDownLatch finished = new CountDownLatch(1);
    private volatile Moment half;

    /** When something was reached, in seconds, and the processor's seconds by then. */
    private record Moment(double at, double cpu) {
        static Moment now() {
            return new Moment(System.nanoTime() / 1e9, Usage.cpuSeconds());
        }
    }

    Checker(Job job) {
        this.job = job;
        this.lanes = Lanes.of(job);
    }

    /** Say that a handler starts that doesn't wait. */
    void handled(ConsumerRecord<String, byte[]> record) {
        begin(record);
        if (!lanes.handled(record)) {
            violations.increment();
        }
        count();
    }

    /** Say that a handler starts that waits, until it has {@link #ended}. */
    void started(ConsumerRecord<String, byte[]> record) {
        begin(record);
        long now = running.incrementAndGet();
        if (now > peak.get()) {
            peak.accumulateAndGet(now, Math::max);
        }
        if (!lanes.started(record)) {
            violations.increment();
        }
    }

    void ended(ConsumerRecord<String, byte[]> record) {
        lanes.ended(record);
        running.decrementAndGet();
        count();
    }

    long done() {
        return done.get();
    }

    /** Wait for the last record, or for the end of the job's time; tell whether it came within these seconds. */
    boolean awaitEnd(long seconds) throws InterruptedException {
        return finished.await(seconds, TimeUnit.SECONDS);
    }

    Outcome outcome(Map<String, String> versions, Map<String, String> settings) throws IOException {
        long records = done.get();
        Moment began = first.get();
        Moment ended = last.get();
        return new Outcome(
                records,
                ended.at - began.at,
                half == null ? 0 : records - records / 2,
                half == null ? 0 : ended.at - half.at,
                ended.cpu - began.cpu,
                Usage.peakRssMb(),
                violations.sum(),
                Math.max(0, job.count() - (records - violations.sum())),
                peak.get(),
                latencies.isEmpty() ? null : Latencies.of(latencies.stream().mapToLong(Long::longValue).toArray()),
                versions,
                settings);
    }

    private void begin(ConsumerRecord<String, byte[]> record) {
        if (first.get() == null) {
            first.compareAndSet(null, Moment.now());
        }
        if (job.measuresLatency()) {
            time(record);
        }
    }

    private void time(ConsumerRecord<String, byte[]> record) {
        long now = System.nanoTime();
        double since = now / 1e9 - first.get().at - job.warmUp();
        if (since >= job.seconds()) {
            finish();
        } else if (since >= 0) {
            latencies.add(now - ByteBuffer.wrap(record.value()).getLong());
        }
    }

    private void count() {
        long number = done.incrementAndGet();
        if (number == job.count() / 2) {
            half = Moment.now();
        }
        if (number == job.count()) {
            finish();
        }
    }

    private void finish() {
        if (last.compareAndSet(null, Moment.now())) {
            finished.countDown();
        }
    }
}
