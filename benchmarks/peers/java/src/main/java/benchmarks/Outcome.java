package benchmarks;

import java.util.Map;

/** What a run has shown: the outcome that every measured system prints. */
record Outcome(
        long records,
        double seconds,
        long warmRecords,
        double warmSeconds,
        double cpuSeconds,
        double peakRssMb,
        long orderViolations,
        long missing,
        long peakConcurrency,
        Latencies latenciesMs,
        Map<String, String> versions,
        Map<String, String> settings) {}
