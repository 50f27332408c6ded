"""Consume Kafka in parallel with Trio: far beyond the partition count, in key order, losing nothing."""

from trio_parallel_kafka.config import ConsumerConfig as ConsumerConfig
from trio_parallel_kafka.config import Ordering as Ordering
from trio_parallel_kafka.consumer import ParallelConsumer as ParallelConsumer
from trio_parallel_kafka.consumer import parallel_consumer as parallel_consumer
from trio_parallel_kafka.errors import AuthenticationError as AuthenticationError
from trio_parallel_kafka.errors import AuthorizationError as AuthorizationError
from trio_parallel_kafka.errors import BrokerUnreachableError as BrokerUnreachableError
from trio_parallel_kafka.errors import CloseTimeoutError as CloseTimeoutError
from trio_parallel_kafka.errors import CommitError as CommitError
from trio_parallel_kafka.errors import ConfigError as ConfigError
from trio_parallel_kafka.errors import ConsumerBusyError as ConsumerBusyError
from trio_parallel_kafka.errors import ConsumerClosedError as ConsumerClosedError
from trio_parallel_kafka.errors import InvalidHandlerError as InvalidHandlerError
from trio_parallel_kafka.errors import KafkaError as KafkaError
from trio_parallel_kafka.errors import OffsetResetError as OffsetResetError
from trio_parallel_kafka.errors import ParallelKafkaError as ParallelKafkaError
from trio_parallel_kafka.errors import TopicNotFoundError as TopicNotFoundError
from trio_parallel_kafka.record import Record as Record
from trio_parallel_kafka.statistics import ConsumerStatistics as ConsumerStatistics
from trio_parallel_kafka.statistics import OldestRecord as OldestRecord
from trio_parallel_kafka.statistics import PartitionStatistics as PartitionStatistics
from trio_parallel_kafka.statistics import PollStatistics as PollStatistics
from trio_parallel_kafka.statistics import Totals as Totals
