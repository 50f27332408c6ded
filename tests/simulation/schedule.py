"""What happens in one simulated run, and when: all of it data, so that it can be printed, replayed and shortened."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Final

import attrs
from confluent_kafka import KafkaError as ClientError

STEP: Final = 1 / 16
"""Seconds that all times are a multiple of."""

LIVELY: Final = 2.5
"""Seconds after which nothing new goes wrong."""

PROTOCOLS: Final = ("range", "cooperative-sticky", "consumer")

BEHAVIOURS: Final = ("return",) * 6 + ("raise",) * 3 + ("hang", "stubborn", "swallow", "retry", "skip", "dead letter")
"""What an attempt may come to; see :class:`simulation.world.World`."""

TROUBLES: Final = (
    "commit fails",
    "commit fails for good",
    "fetching offsets fails",
    "listing offsets fails",
    "produce fails",
    "transaction fails",
    "transaction is silent",
    "broker is down",
    "member is expelled",
    "slow network",
    "slow acknowledgements",
    "pause",
    "resume",
    "error among records",
    "rebalance",
    "partitions are added",
    # Once more, for these have to meet something rare to show anything.
    "produce fails",
    "transaction is silent",
    "member is expelled",
)

PASSING: Final = (
    ClientError.REQUEST_TIMED_OUT,
    ClientError.COORDINATOR_NOT_AVAILABLE,
    ClientError.NOT_COORDINATOR,
    ClientError.COORDINATOR_LOAD_IN_PROGRESS,
    ClientError._TRANSPORT,
)
"""Errors that a broker answers with now and then."""


@attrs.frozen
class Attempt:
    """What one attempt comes to, after so many seconds."""

    behaviour: str
    seconds: float


@attrs.frozen
class NewRecord:
    """A record, and what becomes of its attempts one after another; each after these returns."""

    at: float
    partition: int
    key: int | None
    attempts: tuple[Attempt, ...] = ()


@attrs.frozen
class Life:
    """A member's: when it comes, when it goes and how: it stops, is cancelled or killed, or is killed at a step.

    ``at_step`` counts steps of all tasks from the run's beginning on.
    """

    joins: float
    leaves: float | None = None
    how: str = "stop"
    at_step: int | None = None


@attrs.frozen
class Trouble:
    """Something that goes wrong, how often or with whom, and for how long."""

    at: float
    kind: str
    number: int
    seconds: float


@attrs.frozen(kw_only=True)
class Schedule:
    """A run. ``seed`` decides on the order of tasks and on the network's latency."""

    seed: int
    protocol: str = "cooperative-sticky"
    partitions: int = 2
    ordering: str = "key"
    max_concurrency: int = 4
    max_buffered_records: int = 32
    commit_interval: float = 0.3
    revoke_grace: float = 0.3
    max_attempts: int | None = None
    handler_timeout: float | None = None
    on_failure: str = "raise"
    exactly_once: bool = False
    outputs: int = 0
    batch_scope: str | None = None
    has_breaker: bool = False
    latency: float = 0.0
    records: tuple[NewRecord, ...] = ()
    members: tuple[Life, ...] = (Life(0.0),)
    troubles: tuple[Trouble, ...] = ()

    @property
    def calm_at(self) -> float:
        """When the last trouble is over, in seconds from the beginning; some take twice as long as they say."""
        return max([LIVELY, *(trouble.at + 2 * trouble.seconds for trouble in self.troubles)])

    @property
    def is_killed_at_a_step(self) -> bool:
        """Whether somebody has to count steps."""
        return any(life.at_step is not None for life in self.members)

    @classmethod
    def drawn(cls, chance: Random, seed: int) -> Schedule:
        """Draw one; smaller draws make tamer schedules."""
        partitions = chance.randint(1, 4)
        return cls(
            seed=seed,
            protocol=chance.choice(PROTOCOLS),
            partitions=partitions,
            ordering=chance.choice(("key", "key", "key", "partition", "unordered")),
            max_concurrency=chance.choice((4, 8, 2, 1)),
            max_buffered_records=chance.choice((32, 4, 16, 8)),
            commit_interval=chance.choice((0.3, 0.1, 1.0, 100.0)),
            revoke_grace=chance.choice((0.3, 0.0, 1.0)),
            max_attempts=chance.choice((None, 2, 3)),
            handler_timeout=chance.choice((None, None, 0.3)),
            on_failure=chance.choice(("raise", "raise", "skip", "dead_letter")),
            exactly_once=chance.random() > 0.7,
            outputs=chance.choice((0, 0, 1, 2)),
            batch_scope=chance.choice((None, None, None, "key", "partition", "any")),
            has_breaker=chance.random() > 0.85,
            latency=chance.choice((0.0, 0.0, STEP / 8, 1.5 * STEP)),
            records=tuple(_record(chance, partitions) for _ in range(chance.randint(3, 30))),
            members=tuple(_life(chance, number) for number in range(chance.randint(1, 4))),
            troubles=tuple(_trouble(chance) for _ in range(chance.choice((0, 1, 2, 4, 7)))),
        )

    @classmethod
    def of(cls, seed: int) -> Schedule:
        """The schedule of a seed."""
        return cls.drawn(Random(seed), seed)


def _moment(chance: Random, first: float = 0.0, last: float = LIVELY) -> float:
    """Often the same for several things: then they happen at once, in any order."""
    return chance.randint(round(first / STEP), round(last / STEP)) * STEP


def _record(chance: Random, partitions: int) -> NewRecord:
    is_odd = chance.random() > 0.6
    attempts = tuple(
        Attempt(chance.choice(BEHAVIOURS), chance.choice((0.0, 0.0, STEP, 2 * STEP, 8 * STEP)))
        for _ in range(chance.randint(1, 3) if is_odd else 0)
    )
    at = 0.0 if chance.random() < 0.5 else _moment(chance)
    return NewRecord(at, chance.randrange(partitions), chance.choice((0, 0, 1, 1, 2, 3, 4, None)), attempts)


def _life(chance: Random, number: int) -> Life:
    joins = 0.0 if number == 0 else _moment(chance)
    if chance.random() < 0.4:
        return Life(joins)
    how = chance.choice(("stop", "cancel", "kill"))
    if how == "kill" and chance.random() < 0.5:
        return Life(joins, None, how, chance.randint(1, 2500))
    return Life(joins, _moment(chance, joins), how)


def _trouble(chance: Random) -> Trouble:
    return Trouble(_moment(chance), chance.choice(TROUBLES), chance.randint(0, 5), _moment(chance, last=1.0))


def simpler(schedule: Schedule) -> Sequence[Schedule]:
    """Schedules that leave out a part of this one."""
    found = []
    for field in ("troubles", "members", "records"):
        parts = getattr(schedule, field)
        for size in (len(parts) // 2, len(parts) // 4, 1):
            for start in range(0, len(parts), size or 1):
                kept = parts[:start] + parts[start + max(1, size) :]
                if kept or field == "troubles":
                    found.append(attrs.evolve(schedule, **{field: kept}))
    calm = Schedule(seed=schedule.seed)
    names = ("batch_scope", "has_breaker", "exactly_once", "outputs", "latency", "handler_timeout", "max_attempts")
    found += [
        attrs.evolve(schedule, **{name: getattr(calm, name)})
        for name in names
        if getattr(schedule, name) != getattr(calm, name)
    ]
    for index, record in enumerate(schedule.records):
        if record.attempts:
            plain = attrs.evolve(record, attempts=record.attempts[:-1])
            found.append(
                attrs.evolve(schedule, records=(*schedule.records[:index], plain, *schedule.records[index + 1 :]))
            )
    return found
