package benchmarks;

import com.google.gson.JsonElement;
import io.confluent.parallelconsumer.ParallelConsumerOptions.ProcessingOrder;
import java.util.Locale;
import java.util.Map;
import java.util.Set;

/** What to consume, and how: the job that every measured system is given. Times are in seconds. */
record Job(
        String bootstrapServers,
        String topic,
        String groupId,
        long count,
        long keys,
        int partitions,
        String ordering,
        int concurrency,
        double delay,
        String ask,
        double seconds,
        double warmUp,
        Map<String, JsonElement> options) {

    ProcessingOrder processingOrder() {
        return ProcessingOrder.valueOf(ordering.toUpperCase(Locale.ROOT));
    }

    boolean handlersWait() {
        return delay > 0 || !ask.isEmpty();
    }

    boolean measuresLatency() {
        return seconds > 0;
    }

    int option(String name, int otherwise) {
        return options.containsKey(name) ? options.get(name).getAsInt() : otherwise;
    }

    /** Refuse options that nothing here reads: a misspelt one would go unnoticed. */
    void checkOptions(Set<String> known) {
        if (!known.containsAll(options.keySet())) {
            throw new IllegalArgumentException("options can be " + known + ", has " + options.keySet());
        }
    }
}
