package benchmarks;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;

/** From the producer's call to the handler's start, in milliseconds; each bar is its upper bound and a number of records. */
record Latencies(double p50, double p90, double p99, double p999, double max, List<List<Number>> histogram) {
    private static final double FIRST_BOUND = 0.1;
    private static final double GROWTH = 1.25;

    /** Sum up at least one. */
    static Latencies of(long[] nanoseconds) {
        double[] ordered = Arrays.stream(nanoseconds).mapToDouble(each -> each / 1e6).sorted().toArray();
        return new Latencies(
                quantile(ordered, 0.5),
                quantile(ordered, 0.9),
                quantile(ordered, 0.99),
                quantile(ordered, 0.999),
                ordered[ordered.length - 1],
                histogram(ordered));
    }

    private static double quantile(double[] ordered, double share) {
        return ordered[Math.min((int) (ordered.length * share), ordered.length - 1)];
    }

    private static List<List<Number>> histogram(double[] ordered) {
        List<List<Number>> bars = new ArrayList<>();
        int below = 0;
        for (double bound = FIRST_BOUND; below < ordered.length; bound *= GROWTH) {
            int upto = below;
            while (upto < ordered.length && ordered[upto] <= bound) {
                upto++;
            }
            bars.add(List.of(Math.round(bound * 1e4) / 1e4, upto - below));
            below = upto;
        }
        return bars;
    }
}
