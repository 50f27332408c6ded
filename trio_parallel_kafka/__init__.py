"""Consume Kafka in parallel with Trio: far beyond the partition count, in key order, losing nothing."""

from trio_parallel_kafka.config import (
    BreakerPolicy as BreakerPolicy,
    ConsumerConfig as ConsumerConfig,
    DeadLetterConfig as DeadLetterConfig,
    Delivery as Delivery,
    ExecutionMode as ExecutionMode,
    OnFailure as OnFailure,
    Ordering as Ordering,
    ProducerConfig as ProducerConfig,
    RetryPolicy as RetryPolicy,
)
from trio_parallel_kafka.consumer import (
    ParallelConsumer as ParallelConsumer,
    parallel_consumer as parallel_consumer,
)
from trio_parallel_kafka.core.batching import BatchScope as BatchScope
from trio_parallel_kafka.errors import (
    AuthenticationError as AuthenticationError,
    AuthorizationError as AuthorizationError,
    BrokerUnreachableError as BrokerUnreachableError,
    CloseTimeoutError as CloseTimeoutError,
    CommitError as CommitError,
    ConfigError as ConfigError,
    ConsumerBusyError as ConsumerBusyError,
    ConsumerClosedError as ConsumerClosedError,
    DeadLetterError as DeadLetterError,
    DeliveryError as DeliveryError,
    HandlerStuckError as HandlerStuckError,
    HandlerTimeoutError as HandlerTimeoutError,
    InvalidHandlerError as InvalidHandlerError,
    InvalidResultError as InvalidResultError,
    KafkaError as KafkaError,
    OffsetResetError as OffsetResetError,
    ParallelKafkaError as ParallelKafkaError,
    ProducerClosedError as ProducerClosedError,
    ProducerFencedError as ProducerFencedError,
    RecordTooLargeError as RecordTooLargeError,
    SerializationError as SerializationError,
    TopicNotFoundError as TopicNotFoundError,
    WorkerDiedError as WorkerDiedError,
    WorkerStartError as WorkerStartError,
)
from trio_parallel_kafka.execution.engine import (
    Attempt as Attempt,
    Execute as Execute,
    ExecutionEngine as ExecutionEngine,
)
from trio_parallel_kafka.outcomes import DeadLetter as DeadLetter, Retry as Retry, Skip as Skip
from trio_parallel_kafka.produced import ProducerRecord as ProducerRecord, RecordMetadata as RecordMetadata
from trio_parallel_kafka.producer import Producer as Producer, open_producer as open_producer
from trio_parallel_kafka.producing.deliveries import PendingDelivery as PendingDelivery
from trio_parallel_kafka.record import Record as Record
from trio_parallel_kafka.serialization import Inline as Inline, InThread as InThread
from trio_parallel_kafka.statistics import (
    ConsumerStatistics as ConsumerStatistics,
    EngineStatistics as EngineStatistics,
    OldestRecord as OldestRecord,
    PartitionStatistics as PartitionStatistics,
    PollStatistics as PollStatistics,
    Totals as Totals,
)
