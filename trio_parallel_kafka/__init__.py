"""Consume Kafka in parallel with Trio: far beyond the partition count, in key order, losing nothing."""

from trio_parallel_kafka.config import ConsumerConfig as ConsumerConfig, Ordering as Ordering
from trio_parallel_kafka.consumer import (
    ParallelConsumer as ParallelConsumer,
    parallel_consumer as parallel_consumer,
)
from trio_parallel_kafka.errors import (
    AuthenticationError as AuthenticationError,
    AuthorizationError as AuthorizationError,
    BrokerUnreachableError as BrokerUnreachableError,
    CloseTimeoutError as CloseTimeoutError,
    CommitError as CommitError,
    ConfigError as ConfigError,
    ConsumerBusyError as ConsumerBusyError,
    ConsumerClosedError as ConsumerClosedError,
    InvalidHandlerError as InvalidHandlerError,
    KafkaError as KafkaError,
    OffsetResetError as OffsetResetError,
    ParallelKafkaError as ParallelKafkaError,
    TopicNotFoundError as TopicNotFoundError,
)
from trio_parallel_kafka.record import Record as Record
from trio_parallel_kafka.statistics import (
    ConsumerStatistics as ConsumerStatistics,
    OldestRecord as OldestRecord,
    PartitionStatistics as PartitionStatistics,
    PollStatistics as PollStatistics,
    Totals as Totals,
)
