package benchmarks;

import io.confluent.parallelconsumer.ParallelConsumerOptions.ProcessingOrder;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.atomic.AtomicLongArray;
import org.apache.kafka.clients.consumer.ConsumerRecord;

/** What a record is checked against. Any thread may call. */
interface Lanes {
    /** Note that a record was handled without any waiting; tell whether it might. */
    boolean handled(ConsumerRecord<String, byte[]> record);

    /** Note that a handler starts; tell whether it may. */
    boolean started(ConsumerRecord<String, byte[]> record);

    void ended(ConsumerRecord<String, byte[]> record);

    static Lanes of(Job job) {
        ProcessingOrder ordering = job.processingOrder();
        if (ordering == ProcessingOrder.UNORDERED || ordering == ProcessingOrder.KEY && job.keys() == 0) {
            return new Completeness(job);
        }
        return new Order(ordering == ProcessingOrder.PARTITION);
    }

    /** In each lane offsets rise strictly, one at a time. So no record comes twice, and counting them is enough. */
    final class Order implements Lanes {
        private static final long RUNNING = Long.MAX_VALUE;

        private final ConcurrentHashMap<Object, AtomicLong> last = new ConcurrentHashMap<>();
        private final boolean byPartition;

        Order(boolean byPartition) {
            this.byPartition = byPartition;
        }

        @Override
        public boolean handled(ConsumerRecord<String, byte[]> record) {
            return laneOf(record).getAndSet(record.offset()) < record.offset();
        }

        @Override
        public boolean started(ConsumerRecord<String, byte[]> record) {
            return laneOf(record).getAndSet(RUNNING) < record.offset();
        }

        @Override
        public void ended(ConsumerRecord<String, byte[]> record) {
            laneOf(record).set(record.offset());
        }

        private AtomicLong laneOf(ConsumerRecord<String, byte[]> record) {
            Object name = byPartition ? (Object) record.partition() : record.key();
            AtomicLong lane = last.get(name);
            return lane == null ? last.computeIfAbsent(name, ignored -> new AtomicLong(-1)) : lane;
        }
    }

    /** Each record once: a bit for each. */
    final class Completeness implements Lanes {
        private final AtomicLongArray[] seen;

        Completeness(Job job) {
            seen = new AtomicLongArray[job.partitions()];
            for (int partition = 0; partition < seen.length; partition++) {
                seen[partition] = new AtomicLongArray((int) (job.count() / Long.SIZE) + 1);
            }
        }

        @Override
        public boolean handled(ConsumerRecord<String, byte[]> record) {
            long bit = 1L << record.offset();
            AtomicLongArray row = seen[record.partition()];
            return (row.getAndAccumulate((int) (record.offset() / Long.SIZE), bit, (a, b) -> a | b) & bit) == 0;
        }

        @Override
        public boolean started(ConsumerRecord<String, byte[]> record) {
            return handled(record);
        }

        @Override
        public void ended(ConsumerRecord<String, byte[]> record) {}
    }
}
