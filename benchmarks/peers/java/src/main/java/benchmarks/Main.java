package benchmarks;

import com.google.gson.FieldNamingPolicy;
import com.google.gson.Gson;
import com.google.gson.GsonBuilder;
import com.google.gson.JsonElement;
import io.confluent.parallelconsumer.ParallelConsumerOptions;
import io.confluent.parallelconsumer.ParallelConsumerOptions.CommitMode;
import io.confluent.parallelconsumer.ParallelStreamProcessor;
import io.confluent.parallelconsumer.PollContext;
import java.io.IOException;
import java.io.InputStream;
import java.time.Duration;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.Set;
import java.util.concurrent.atomic.AtomicReference;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.utils.AppInfoParser;

/** Does a job with the parallel-consumer: JSON in, JSON out. */
public final class Main {
    private static final int STALL_SECONDS = 30;
    private static final Duration COMMIT_INTERVAL = Duration.ofSeconds(1);
    private static final String LIBRARY_PROPERTIES =
            "/META-INF/maven/io.confluent.parallelconsumer/parallel-consumer-core/pom.properties";
    private static final Gson JSON = new GsonBuilder()
            .setFieldNamingPolicy(FieldNamingPolicy.LOWER_CASE_WITH_UNDERSCORES)
            .serializeNulls()
            .create();

    private final Job job;
    private final Checker checker;
    private final Work work;
    private final int batchSize;
    private final Map<String, String> consumerSettings = new LinkedHashMap<>();
    private final AtomicReference<Throwable> failure = new AtomicReference<>();

    private Main(Job job) {
        job.checkOptions(Set.of("batch_size", "consumer", "message_buffer_size"));
        this.job = job;
        this.checker = new Checker(job);
        this.work = Work.of(job);
        this.batchSize = job.option("batch_size", 1);
        if (batchSize > 1 && job.handlersWait()) {
            throw new IllegalArgumentException("a batch is handled at once: batch_size goes with no-op handlers only");
        }
        consumerSettings.put("max.poll.records", "2000");
        if (job.options().containsKey("consumer")) {
            for (Map.Entry<String, JsonElement> each : job.options().get("consumer").getAsJsonObject().entrySet()) {
                consumerSettings.put(each.getKey(), each.getValue().getAsString());
            }
        }
    }

    /** The process ends whatever threads the library has left running. */
    public static void main(String[] arguments) {
        try {
            System.out.println(JSON.toJson(new Main(JSON.fromJson(arguments[0], Job.class)).run()));
            System.exit(0);
        } catch (Exception error) {
            error.printStackTrace();
            System.exit(1);
        }
    }

    private Outcome run() throws InterruptedException, IOException {
        ParallelConsumerOptions<String, byte[]> options = options();
        ParallelStreamProcessor<String, byte[]> processor = ParallelStreamProcessor.createEosStreamProcessor(options);
        processor.subscribe(List.of(job.topic()));
        processor.poll(job.handlersWait() ? this::handleWaiting : this::handle);
        awaitEnd(processor);
        processor.closeDontDrainFirst();
        return checker.outcome(versions(), settings(options));
    }

    private ParallelConsumerOptions<String, byte[]> options() {
        return ParallelConsumerOptions.<String, byte[]>builder()
                .consumer(new KafkaConsumer<>(consumerProperties()))
                .ordering(job.processingOrder())
                .maxConcurrency(job.concurrency())
                .batchSize(batchSize)
                .messageBufferSize(job.option("message_buffer_size", 0))
                .commitMode(CommitMode.PERIODIC_CONSUMER_ASYNCHRONOUS)
                .commitInterval(COMMIT_INTERVAL)
                .build();
    }

    private Properties consumerProperties() {
        Properties properties = new Properties();
        properties.put("bootstrap.servers", job.bootstrapServers());
        properties.put("group.id", job.groupId());
        properties.put("auto.offset.reset", "earliest");
        properties.put("enable.auto.commit", "false");
        // The lanes of the check are found by equal keys; in Java no two arrays are equal.
        properties.put("key.deserializer", StringDeserializer.class);
        properties.put("value.deserializer", ByteArrayDeserializer.class);
        properties.putAll(consumerSettings);
        return properties;
    }

    private void handle(PollContext<String, byte[]> records) {
        records.forEach(each -> checker.handled(each.getConsumerRecord()));
    }

    private void handleWaiting(PollContext<String, byte[]> records) {
        ConsumerRecord<String, byte[]> record = records.getSingleConsumerRecord();
        checker.started(record);
        try {
            work.run();
        } catch (Exception error) {
            // The library would try again, later and for ever.
            failure.compareAndSet(null, error);
        }
        checker.ended(record);
    }

    private void awaitEnd(ParallelStreamProcessor<String, byte[]> processor) throws InterruptedException {
        long before = -1;
        while (!checker.awaitEnd(STALL_SECONDS)) {
            if (processor.isClosedOrFailed()) {
                throw new IllegalStateException("the consumer has failed");
            }
            if (checker.done() == before) {
                throw new IllegalStateException(
                        "handled %d of %d, then nothing more for %d s".formatted(before, job.count(), STALL_SECONDS));
            }
            before = checker.done();
        }
        if (failure.get() != null) {
            throw new IllegalStateException("a handler has failed", failure.get());
        }
    }

    private static Map<String, String> versions() throws IOException {
        return Map.of(
                "parallel-consumer-core", libraryVersion(),
                "kafka-clients", AppInfoParser.getVersion(),
                "java", Runtime.version().toString());
    }

    private static String libraryVersion() throws IOException {
        Properties properties = new Properties();
        try (InputStream file = ParallelConsumerOptions.class.getResourceAsStream(LIBRARY_PROPERTIES)) {
            properties.load(file);
        }
        return properties.getProperty("version");
    }

    private Map<String, String> settings(ParallelConsumerOptions<String, byte[]> options) {
        Map<String, String> settings = new LinkedHashMap<>(consumerSettings);
        settings.put("ordering", options.getOrdering().toString());
        settings.put("maxConcurrency", Integer.toString(options.getMaxConcurrency()));
        settings.put("batchSize", Integer.toString(batchSize));
        if (options.getMessageBufferSize() > 0) {
            settings.put("messageBufferSize", Integer.toString(options.getMessageBufferSize()));
        }
        settings.put("commitMode", options.getCommitMode().toString());
        settings.put("commitInterval", options.getCommitInterval().toString());
        return settings;
    }
}
