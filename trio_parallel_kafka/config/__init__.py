"""What a consumer is told: its fields, how they are checked, and where they are loaded from."""

from __future__ import annotations

from trio_parallel_kafka.config.model import ConsumerConfig as ConsumerConfig, Ordering as Ordering
from trio_parallel_kafka.config.policies import (
    BreakerPolicy as BreakerPolicy,
    DeadLetterConfig as DeadLetterConfig,
    Delivery as Delivery,
    ExecutionMode as ExecutionMode,
    OnFailure as OnFailure,
    RetryPolicy as RetryPolicy,
)
from trio_parallel_kafka.config.producer import ProducerConfig as ProducerConfig
