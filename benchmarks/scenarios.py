"""What is measured: scenarios, each of runs that are compared with one another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import attrs

OWN: Final = "this library"
COMPILED: Final = "this library, compiled"
MEMBERS: Final = "this library, members"
COMPILED_MEMBERS: Final = "this library, compiled, members"
IDLE: Final = "this library, idle"
CLIENT: Final = "the client alone"
BARE: Final = "bare Trio tasks"
BY_HAND: Final = "Trio by hand"
AIOKAFKA: Final = "aiokafka by hand"
PYRALLEL: Final = "Pyrallel"
JAVA: Final = "Java parallel-consumer"


@attrs.frozen
class Load:
    """The records of a topic.

    Attributes:
        keys: distinct ones, taken at random; 0: no two records have the same one.
        partitions: of the topic.
        count: records; 0: they come while it is measured.
        value_size: bytes.
    """

    keys: int
    partitions: int
    count: int
    value_size: int = 100


@attrs.frozen(kw_only=True)
class Run:
    """A system at work, once in each round.

    Attributes:
        name: what it is called in its scenario.
        system: what runs.
        load: what it reads.
        ordering, concurrency, delay, seconds, warm_up, options: see :class:`~benchmarks.job.Job`.
        asks: handlers ask a server, instead of sleeping.
        rate: records produced in a second meanwhile.
        guess: about how many seconds it takes, before that is known.
    """

    name: str
    system: str
    load: Load
    ordering: Literal["key", "partition", "unordered"] = "key"
    concurrency: int = 256
    delay: float = 0.0
    asks: bool = False
    seconds: float = 0.0
    warm_up: float = 0.0
    rate: int = 0
    options: Mapping[str, Any] = attrs.field(factory=dict)
    guess: float = 6.0


@attrs.frozen(kw_only=True)
class Scenario:
    """Runs that are compared.

    Attributes:
        name: what it is called on the command line.
        title: what it is called in the report.
        runs: in each round, in an order that rotates.
        rounds: how many.
        quick_rounds: how many when there is little time; 0: it is left out then.
    """

    name: str
    title: str
    runs: tuple[Run, ...]
    rounds: int = 9
    quick_rounds: int = 0

    def quick(self) -> Scenario:
        """The same with fewer records and rounds."""
        return attrs.evolve(self, rounds=self.quick_rounds, runs=tuple(map(_quick, self.runs)))


QUICK_SHARE: Final = 0.3
QUICK_GUESS: Final = 0.5
"""Of the time: starting and ending take as long as ever."""


def _quick(run: Run) -> Run:
    count = max(int(run.load.count * QUICK_SHARE), min(run.load.count, 4_000))
    return attrs.evolve(
        run,
        load=attrs.evolve(run.load, count=count),
        seconds=run.seconds / 2,
        warm_up=run.warm_up / 2,
        guess=run.guess * QUICK_GUESS,
    )


MILLION: Final = Load(1_000, 16, 1_000_000)
UNIQUE: Final = Load(0, 16, 1_000_000)

UNIQUE_KEYS: Final = f"{OWN}, all keys unique"
COMPILED_UNIQUE_KEYS: Final = f"{COMPILED}, all keys unique"
UNORDERED: Final = f"{OWN}, unordered"
PARTITION_ORDER: Final = f"{OWN}, partition order"
TWO_MEMBERS: Final = f"{OWN}, 2 members"
TWO_COMPILED_MEMBERS: Final = f"{COMPILED}, 2 members"
IN_BATCHES: Final = f"{JAVA}, batches of 100"
ASKING: Final = f"{OWN}, asking a server"
BARE_ASKING: Final = f"{BARE}, asking a server"
BURNING: Final = f"{OWN}, a busy loop"
HEARTBEAT: Final = f"{OWN}, beside a heartbeat"
COMPILED_HEARTBEAT: Final = f"{COMPILED}, beside a heartbeat"
FROZEN_HEARTBEAT: Final = f"{HEARTBEAT}, after gc.freeze()"
HUNG: Final = f"{OWN}, all above a hung record"

NO_OP: Final = Scenario(
    name="no-op",
    title="Handlers that do nothing: 16 partitions, 1,000 keys",
    quick_rounds=3,
    runs=(
        Run(name=OWN, system=OWN, load=MILLION, guess=8),
        Run(name=COMPILED, system=COMPILED, load=MILLION, guess=8),
        Run(name=TWO_MEMBERS, system=MEMBERS, load=MILLION, options={"members": 2}, guess=8),
        Run(name=UNIQUE_KEYS, system=OWN, load=UNIQUE, guess=9),
        Run(name=COMPILED_UNIQUE_KEYS, system=COMPILED, load=UNIQUE, guess=9),
        Run(name=UNORDERED, system=OWN, load=MILLION, ordering="unordered", guess=8),
        Run(name=PARTITION_ORDER, system=OWN, load=MILLION, ordering="partition", guess=8),
        Run(name=CLIENT, system=CLIENT, load=MILLION, guess=3),
        Run(name=JAVA, system=JAVA, load=MILLION, guess=20),
        Run(name=AIOKAFKA, system=AIOKAFKA, load=attrs.evolve(MILLION, count=200_000)),
        Run(name=BY_HAND, system=BY_HAND, load=attrs.evolve(MILLION, count=100_000), guess=8),
        Run(name=PYRALLEL, system=PYRALLEL, load=attrs.evolve(MILLION, count=20_000), guess=14),
    ),
)

BATCHES: Final = Scenario(
    name="no-op-batches",
    title="Handlers that do nothing, beside one that gets batches of 100: 16 partitions, 1,000 keys",
    rounds=3,
    runs=(
        Run(name=OWN, system=OWN, load=MILLION, guess=8),
        Run(name=IN_BATCHES, system=JAVA, load=MILLION, options={"batch_size": 100}, guess=14),
    ),
)

PEERS_UNIQUE: Final = Scenario(
    name="no-op-unique",
    title="Handlers that do nothing: 16 partitions, all keys unique",
    rounds=3,
    runs=(
        Run(name=OWN, system=OWN, load=UNIQUE, guess=9),
        Run(name=JAVA, system=JAVA, load=UNIQUE, guess=20),
        Run(name=AIOKAFKA, system=AIOKAFKA, load=attrs.evolve(UNIQUE, count=200_000)),
        Run(name=BY_HAND, system=BY_HAND, load=attrs.evolve(UNIQUE, count=100_000), guess=8),
        Run(name=PYRALLEL, system=PYRALLEL, load=attrs.evolve(UNIQUE, count=20_000)),
    ),
)

SOME: Final = Load(1_000, 16, 100_000)


def _waiting(delay: float, load: Load, concurrency: int, *systems: str) -> tuple[Run, ...]:
    return tuple(
        Run(name=each, system=each, load=load, delay=delay, concurrency=concurrency) for each in (OWN, BARE, *systems)
    )


WAITING: Final = Scenario(
    name="5-ms",
    title="Handlers that sleep 5 ms: 256 at once, 1,000 keys",
    quick_rounds=2,
    runs=(
        *_waiting(0.005, SOME, 256, COMPILED, JAVA, AIOKAFKA),
        Run(name=TWO_MEMBERS, system=MEMBERS, load=SOME, delay=0.005, options={"members": 2}),
        Run(name=TWO_COMPILED_MEMBERS, system=COMPILED_MEMBERS, load=SOME, delay=0.005, options={"members": 2}),
    ),
)

BRIEF: Final = Scenario(
    name="0.1-ms",
    title="Handlers that sleep 0.1 ms: 256 at once, 1,000 keys",
    quick_rounds=2,
    runs=_waiting(0.0001, SOME, 256, JAVA, AIOKAFKA),
)

SOME_UNIQUE: Final = attrs.evolve(SOME, keys=0)

THOUSAND: Final = Scenario(
    name="1000-at-once",
    title="Handlers that sleep 5 ms: 1,000 at once, all keys unique",
    quick_rounds=1,
    runs=_waiting(0.005, SOME_UNIQUE, 1_000, COMPILED),
)

TEN_THOUSAND: Final = Scenario(
    name="10000-at-once",
    title="Handlers that sleep 5 ms: 10,000 at once, all keys unique",
    quick_rounds=1,
    runs=_waiting(0.005, attrs.evolve(SOME_UNIQUE, count=120_000), 10_000, COMPILED),
)

FEW: Final = Scenario(
    name="10-at-once",
    title="Handlers that sleep 5 ms: 10 at once, 1,000 keys",
    quick_rounds=1,
    runs=_waiting(0.005, attrs.evolve(SOME, count=8_000), 10),
)

THREE_PARTITIONS: Final = Scenario(
    name="3-partitions",
    title="Handlers that wait 10 ms: 3 partitions, 30 at once, 1,000 keys",
    quick_rounds=1,
    runs=(
        *_waiting(0.01, Load(1_000, 3, 10_000), 30, JAVA),
        Run(name=ASKING, system=OWN, load=Load(1_000, 3, 10_000), concurrency=30, asks=True),
        Run(name=BARE_ASKING, system=BARE, load=Load(1_000, 3, 10_000), concurrency=30, asks=True),
    ),
)


def _latency(name: str, system: str, **options: bool) -> Run:
    load = Load(1_000, 16, 0)
    return Run(name=name, system=system, load=load, seconds=5, warm_up=4, rate=1_000, options=options, guess=12)


LATENCY: Final = Scenario(
    name="latency",
    title="From the producer's call to the handler's start, at 1,000 records/s",
    quick_rounds=1,
    runs=(_latency(OWN, OWN), _latency(JAVA, JAVA), _latency(BURNING, OWN, burn=True)),
)

UPKEEP: Final = Scenario(
    name="upkeep",
    title="What the application notices: how late its own tasks come, and what waiting costs",
    rounds=3,
    quick_rounds=1,
    runs=(
        Run(name=HEARTBEAT, system=OWN, load=MILLION, options={"heartbeat": True}, guess=8),
        Run(name=COMPILED_HEARTBEAT, system=COMPILED, load=MILLION, options={"heartbeat": True}, guess=8),
        Run(name=FROZEN_HEARTBEAT, system=OWN, load=MILLION, options={"heartbeat": True, "freeze": True}, guess=8),
        Run(name=IDLE, system=IDLE, load=Load(1_000, 16, 0), seconds=10, guess=16),
    ),
)

GROWTH_COUNT: Final = 200_000
GROWTH_ROUNDS: Final = 5
PARTITION_STEPS: Final = (1, 16, 64, 256)
KEY_STEPS: Final = (10, 1_000, 100_000)
VALUE_STEPS: Final = {100: 100_000, 1_000: 100_000, 10_000: 20_000}
"""How many records of which size."""


def with_partitions(count: int) -> str:
    """The name of the run with so many."""
    return f"{OWN}, {count:,} partition{'s' if count > 1 else ''}"


def with_keys(count: int) -> str:
    """The name of the run with so many."""
    return f"{OWN}, {count:,} keys"


def with_values(system: str, size: int) -> str:
    """The name of the run with values of so many bytes."""
    return f"{system}, values of {size:,} B"


GROWTH: Final = (
    Scenario(
        name="partitions",
        title="Growth: handlers that do nothing, 1,000 keys in more and more partitions",
        rounds=GROWTH_ROUNDS,
        runs=tuple(
            Run(name=with_partitions(each), system=OWN, load=Load(1_000, each, GROWTH_COUNT), guess=4)
            for each in PARTITION_STEPS
        ),
    ),
    Scenario(
        name="keys",
        title="Growth: handlers that do nothing, more and more keys in 16 partitions",
        rounds=GROWTH_ROUNDS,
        runs=tuple(
            Run(name=with_keys(each), system=OWN, load=Load(each, 16, GROWTH_COUNT), guess=4) for each in KEY_STEPS
        ),
    ),
    Scenario(
        name="held",
        title=f"Growth: up to {GROWTH_COUNT:,} completed offsets above a hung record; 1 partition, all keys unique",
        rounds=GROWTH_ROUNDS,
        runs=(
            Run(name=OWN, system=OWN, load=Load(0, 1, GROWTH_COUNT), guess=4),
            Run(name=HUNG, system=OWN, load=Load(0, 1, GROWTH_COUNT), options={"hang": True}, guess=4),
        ),
    ),
    Scenario(
        name="values",
        title="Growth: handlers that do nothing, larger and larger values",
        rounds=GROWTH_ROUNDS,
        runs=tuple(
            Run(name=with_values(system, size), system=system, load=Load(1_000, 16, count, size), guess=4)
            for size, count in VALUE_STEPS.items()
            for system in (OWN, CLIENT)
        ),
    ),
)

SCENARIOS: Final = (
    NO_OP,
    BATCHES,
    PEERS_UNIQUE,
    WAITING,
    BRIEF,
    FEW,
    THOUSAND,
    TEN_THOUSAND,
    THREE_PARTITIONS,
    LATENCY,
    UPKEEP,
    *GROWTH,
)


def chosen(only: Sequence[str], *, quick: bool, rounds: int | None) -> list[Scenario]:
    """The scenarios that the command line asks for.

    Args:
        only: their names; none: all, or all that are quick.
        quick: take less time for each.
        rounds: so many, in place of each scenario's own number.
    """
    picked = [each for each in SCENARIOS if (each.name in only if only else each.quick_rounds or not quick)]
    if quick:
        picked = [attrs.evolve(each.quick(), rounds=each.quick_rounds or 1) for each in picked]
    return [attrs.evolve(each, rounds=rounds or each.rounds) for each in picked]
