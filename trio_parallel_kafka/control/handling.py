"""What a record meets between its lane and its completion, put together for one consumer."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Final

from trio_parallel_kafka.config import ConsumerConfig
from trio_parallel_kafka.control.dead_letters import DeadLetters
from trio_parallel_kafka.control.failure_policy import FailurePolicy
from trio_parallel_kafka.core.assignments import Assignment
from trio_parallel_kafka.core.batching import BatchScope, BatchTaker
from trio_parallel_kafka.core.member import Member
from trio_parallel_kafka.execution.batches import BatchHandler, BatchVisits, decoding_batches
from trio_parallel_kafka.execution.clock import CoarseClock
from trio_parallel_kafka.execution.deadline import timed
from trio_parallel_kafka.execution.decoding import decoding
from trio_parallel_kafka.execution.outbox import Outbox
from trio_parallel_kafka.execution.settling import Settler
from trio_parallel_kafka.execution.tally import Tally
from trio_parallel_kafka.execution.visits import Handler, Probing, RecordVisits
from trio_parallel_kafka.record import Record


class Handling:
    """Makes what the workers do with lanes, for a handler of records or of batches.

    Args:
        config: deserialisers, deadline, and what becomes of failures.
        member: the core.
        outbox: takes what handlers return, and dead letters.
        probing: lets records through an open breaker.
        tally: counted here.
        clock: the time.
        on_stop: told of the errors that stop the consumer.
        on_failed_attempt: told of each attempt that raised or timed out.
        on_progress: told of a completion in a partition that is paused.
    """

    def __init__(
        self,
        config: ConsumerConfig,
        member: Member[Record],
        outbox: Outbox,
        *,
        probing: Probing,
        tally: Tally,
        clock: CoarseClock,
        on_stop: Callable[[Record, Exception], None],
        on_failed_attempt: Callable[[], None],
        on_progress: Callable[[Assignment[Record]], None],
    ) -> None:
        self._config: Final = config
        self._lanes: Final = member.lanes
        policy = FailurePolicy(config, random.random)
        dead_letters = DeadLetters(
            config,
            outbox,
            is_assigned=lambda topic: any(each.partition.topic == topic for each in member.assignments),
            backoff=policy.backoff,
        )
        settler = Settler(
            tally=tally,
            judge=policy,
            outbox=outbox,
            bury=dead_letters.bury,
            on_stop=on_stop,
            on_failed_attempt=on_failed_attempt,
        )
        self._shared: Final[dict[str, Any]] = {
            "settler": settler,
            "tally": tally,
            "probing": probing,
            "on_progress": on_progress,
            "clock": clock,
        }

    def records(self, handler: Handler) -> RecordVisits:
        """Call ``handler`` with one record at a time."""
        config = self._config
        attempt = timed(decoding(handler, config.deserialize_key, config.deserialize_value), config.handler_timeout)
        return RecordVisits(self._lanes, attempt, **self._shared)

    def batches(
        self,
        handler: BatchHandler,
        *,
        size: int,
        scope: BatchScope,
        linger: float,
        on_unripe: Callable[[float], None],
        on_left: Callable[[], None],
    ) -> BatchVisits:
        """Call ``handler`` with several."""
        config = self._config
        taker: BatchTaker[Record] = BatchTaker(
            self._lanes, size=size, scope=scope, linger=linger, received_at=lambda record: record.received_at
        )
        attempt = timed(
            decoding_batches(handler, config.deserialize_key, config.deserialize_value), config.handler_timeout
        )
        return BatchVisits(taker, self._lanes, attempt, on_unripe=on_unripe, on_left=on_left, **self._shared)
