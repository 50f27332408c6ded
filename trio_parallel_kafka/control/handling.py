"""What a record meets between its lane and its completion, put together for one consumer."""

from __future__ import annotations

import math
import random
from collections.abc import Awaitable, Callable
from typing import Any, Final

from trio_parallel_kafka.config import ConsumerConfig
from trio_parallel_kafka.control.dead_letters import DeadLetters
from trio_parallel_kafka.control.failure_policy import FailurePolicy
from trio_parallel_kafka.core.assignments import Assignment
from trio_parallel_kafka.core.batching import BatchScope, BatchTaker
from trio_parallel_kafka.core.member import Member
from trio_parallel_kafka.execution.attempts import GivenUp, UnderWay, attempting, waiting
from trio_parallel_kafka.execution.batches import BatchVisits, decoding_batches
from trio_parallel_kafka.execution.clock import CoarseClock
from trio_parallel_kafka.execution.deadline import TimeLimit, timed
from trio_parallel_kafka.execution.decoding import decoding
from trio_parallel_kafka.execution.engine import Execute
from trio_parallel_kafka.execution.engines.asynchronous import Direct
from trio_parallel_kafka.execution.outbox import Outbox
from trio_parallel_kafka.execution.settling import Settler
from trio_parallel_kafka.execution.tally import Tally
from trio_parallel_kafka.execution.visits import Probing, RecordVisits
from trio_parallel_kafka.record import Record


class Handling:
    """Makes what the workers do with lanes, one record or a batch at a time.

    Args:
        config: deserialisers, deadline, and what becomes of failures.
        member: the core.
        outbox: takes what handlers return, and dead letters.
        probing: lets records through an open breaker.
        tally: counted here.
        clock: the time.
        on_stop: told of the errors that stop the consumer.
        on_failed_attempt: told of each attempt that raised or timed out.
        on_progress: told of completions in a partition that is paused.
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
        self.given_up: Final = GivenUp()
        self.under_way: Final = UnderWay()
        self.limit: Final = TimeLimit(math.inf if config.handler_timeout is None else config.handler_timeout)
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
            "given_up": self.given_up,
        }

    def records(self, execute: Execute) -> RecordVisits:
        """Have one record at a time handled."""
        config = self._config
        if isinstance(execute, Direct) and config.handler_timeout is not None:
            attempt = decoding(execute.handler, config.deserialize_key, config.deserialize_value)
            return RecordVisits(self._lanes, attempt, limit=self.limit, **self._shared)
        return RecordVisits(self._lanes, self._attempt(execute, decoding), **self._shared)

    def batches(
        self,
        execute: Execute,
        *,
        size: int,
        scope: BatchScope,
        linger: float,
        on_unripe: Callable[[float], None],
        on_left: Callable[[], None],
    ) -> BatchVisits:
        """Have several handled at once."""
        taker: BatchTaker[Record] = BatchTaker(
            self._lanes, size=size, scope=scope, linger=linger, received_at=lambda record: record.received_at
        )
        attempt = self._attempt(execute, decoding_batches)
        return BatchVisits(taker, self._lanes, attempt, on_unripe=on_unripe, on_left=on_left, **self._shared)

    def _attempt(self, execute: Execute, decoded: Callable[..., Any]) -> Callable[[Any], Awaitable[object]]:
        """What workers do with what they take: deserialise it, and have it handled in time."""
        config = self._config
        deserializers = (config.deserialize_key, config.deserialize_value)
        if isinstance(execute, Direct):
            return timed(decoded(execute.handler, *deserializers), config.handler_timeout)
        timeout = config.handler_timeout
        return attempting(decoded(waiting(execute), *deserializers), timeout, self.given_up, self.under_way)
