"""What has to hold after each run: the promises P1 to P8, by the public guarantees and a few looks of the run's own."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator
from typing import Final

import attrs
import trio
from simulation.schedule import Schedule
from simulation.world import COMMITS_FAIL, RESULTS, World, outputs_of

from trio_parallel_kafka.core.assignments import TopicPartition
from trio_parallel_kafka.core.offset_map import decode
from trio_parallel_kafka.core.ranges import MapError, OffsetRanges
from trio_parallel_kafka.testing.events import (
    Assigned,
    Committed,
    Completed,
    Died,
    Failed,
    GivenUp,
    Lost,
    Output,
    Place,
    Produced,
    Revoked,
    Started,
)
from trio_parallel_kafka.testing.exactly_once import ExactlyOnceOutput
from trio_parallel_kafka.testing.guarantee import Guarantee, KeyOf
from trio_parallel_kafka.testing.guarantees import AtLeastOnce, KeyOrder, KeySerial, LittleReplay, OneOwner
from trio_parallel_kafka.testing.history import History
from trio_parallel_kafka.testing.simulation import simulate
from trio_parallel_kafka.testing.timeline import Tenure

KEY_OF: Final[dict[str, KeyOf | None]] = {
    "key": None,
    "partition": lambda _produced: b"",
    "unordered": lambda _produced: None,
}
"""What has an order under each ordering, for guarantees."""


@attrs.frozen
class Verdict:
    """What a run came to.

    Attributes:
        schedule: what was run.
        problems: which promises were broken, and how; nothing if all is well.
        events: how much happened.
        seconds: of virtual time.
        course: what happened, for comparison with another run.
    """

    schedule: Schedule
    problems: tuple[str, ...]
    events: int
    seconds: float
    course: tuple[object, ...] = attrs.field(repr=False)


def examine(schedule: Schedule) -> Verdict:
    """Run a schedule, and hold the promises against it."""
    world = World(schedule)
    seconds = 0.0

    async def main() -> None:
        nonlocal seconds
        counter = _StepKiller(world)
        if schedule.is_killed_at_a_step:
            trio.lowlevel.add_instrument(counter)
        try:
            await world.run()
        finally:
            seconds = trio.current_time()
            if schedule.is_killed_at_a_step:
                trio.lowlevel.remove_instrument(counter)

    try:
        simulate(main, seed=schedule.seed)
    except Exception as error:  # noqa: BLE001 - a problem like any other
        world.problems.append(f"the run ended with {error!r}")
    problems = [*world.problems, *_broken(world)]
    return Verdict(schedule, tuple(problems), len(world.history.events), seconds, tuple(world.history.events))


class _StepKiller(trio.abc.Instrument):
    """Kills members at the steps of the scheduler that the schedule names."""

    def __init__(self, world: World) -> None:
        self._world: Final = world
        self._steps = 0

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self._steps += 1
        for index in self._world.kills_at.get(self._steps, ()):
            self._world.kill(index)


def _broken(world: World) -> Iterator[str]:
    for guarantee in _guarantees(world.schedule, world.history):
        violation = guarantee.violation()
        if violation is not None:
            yield f"{type(guarantee).__name__}: {violation}"
    kinds = {trouble.kind for trouble in world.schedule.troubles}
    # What a handler returned isn't done before its outputs are acknowledged, which may be cut off.
    if not (kinds & COMMITS_FAIL or world.schedule.latency or world.schedule.outputs):
        yield from _not_handed_over(world)
    yield from _forgotten(world.history)
    yield from _miscounted(world)
    may_be_skipped = world.schedule.on_failure == "skip" and kinds & {"produce fails", "broker is down"}
    if not world.schedule.exactly_once and not may_be_skipped:
        yield from _outputs_missing(world)


def _guarantees(schedule: Schedule, history: History) -> Iterator[Guarantee]:
    yield AtLeastOnce(history)
    key_of = KEY_OF[schedule.ordering]
    yield KeyOrder(history, key_of=key_of)
    yield KeySerial(history, key_of=key_of)
    yield OneOwner(history)
    yield LittleReplay(history)
    if schedule.exactly_once:
        expected = functools.partial(_expected, schedule)
        yield ExactlyOnceOutput(history, outputs_of=expected, key_of=key_of)


def _expected(schedule: Schedule, produced: Produced) -> list[bytes]:
    return outputs_of(schedule, *produced.place[1:])


def _outputs_missing(world: World) -> Iterator[str]:
    """At least once: what was made of each record that is done was sent, and nothing of others."""
    given_up = {event.place for event in world.history.events if isinstance(event, GivenUp)}
    seen = Counter(event.value for event in world.history.events if isinstance(event, Output))
    for event in world.history.events:
        if isinstance(event, Produced) and event.place not in given_up:
            for value in _expected(world.schedule, event):
                if not seen[value]:
                    yield f"{value!r} was never sent to {RESULTS}"


def _not_handed_over(world: World) -> Iterator[str]:
    """Where nothing keeps a commit from arriving: what a member had completed is committed when it lets go."""
    done: dict[tuple[str, TopicPartition], dict[Place, float]] = {}
    committed: dict[TopicPartition, tuple[int, str]] = {}
    for event in world.history.events:
        match event:
            case Assigned(member=member, partitions=partitions) | Lost(member=member, partitions=partitions):
                done.update({(member, partition): {} for partition in partitions})
            case Completed(member=member, place=place) if place[1:] not in world.looks.swallowed:
                done.setdefault((member, TopicPartition(*place[:2])), {})[place] = event.at
            case Committed(partition=partition, offset=offset, metadata=metadata):
                committed[partition] = offset, metadata
            case Revoked(member=member, partitions=partitions):
                handed_over = {
                    place: at for partition in partitions for place, at in done.pop((member, partition), {}).items()
                }
                # Of one that returned at this very moment, what it returned may not have been sent any more.
                earlier = (place for place, at in handed_over.items() if at < event.at)
                for place in sorted(place for place in earlier if not _says(committed, place)):
                    yield f"{member} let {place} go without having committed that it is done"
            case Died(member=member):
                done = {owner: places for owner, places in done.items() if owner[0] != member}


def _forgotten(history: History) -> Iterator[str]:
    """What a commit once said to be done, no later one takes back."""
    offsets: dict[TopicPartition, set[int]] = {}
    for event in history.events:
        if isinstance(event, Produced):
            offsets.setdefault(TopicPartition(*event.place[:2]), set()).add(event.place.offset)
    said: dict[TopicPartition, set[int]] = {}
    for event in history.events:
        if isinstance(event, Committed):
            covered = _covered(event.offset, event.metadata)
            now = {offset for offset in offsets.get(event.partition, ()) if _is_in(covered, offset)}
            before, said[event.partition] = said.get(event.partition, set()), now
            if forgotten := before - now:
                yield f"{event.member} committed {event.partition} without {sorted(forgotten)}, which were done before"


def _miscounted(world: World) -> Iterator[str]:
    """An attempt has the number after that of the one before it, and there are no more of them than configured."""
    last: dict[tuple[Tenure, int, Place], Started | Failed] = {}
    most, outputs = world.schedule.max_attempts, bool(world.schedule.outputs)
    is_of_batches = world.schedule.batch_scope is not None
    for moment in world.history.timeline.moments:
        event = moment.event
        if not isinstance(event, Started | Failed):
            continue
        key = moment.attempts[0].tenure, event.assignment_epoch, event.place
        if isinstance(event, Started):
            before = last.get(key)
            expected = {1} if before is None else {before.attempt + isinstance(before, Failed)}
            if before is not None and outputs:  # if they weren't taken, the attempt has failed, too
                expected.add(before.attempt + 1)
            if before is not None and is_of_batches:  # what was cut short later says nothing of its records
                expected.add(before.attempt)
            if event.attempt not in expected:
                yield f"{event.place} has attempt {event.attempt} where {min(expected)} is due"
            if most is not None and event.attempt > most:
                yield f"{event.place} has attempt {event.attempt}, and may have {most}"
        last[key] = event


def _says(committed: dict[TopicPartition, tuple[int, str]], place: Place) -> bool:
    """Whether a commit says that a record is done."""
    return _is_in(_covered(*committed.get(TopicPartition(*place[:2]), (0, ""))), place.offset)


def _covered(offset: int, metadata: str) -> OffsetRanges:
    """What a commit says to be done."""
    try:
        completed = decode(metadata, offset).completed if metadata else ()
    except MapError:
        completed = ()
    return ((0, offset), *completed)


def _is_in(ranges: OffsetRanges, offset: int) -> bool:
    return any(first <= offset < end for first, end in ranges)
