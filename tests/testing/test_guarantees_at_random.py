"""Whatever a lawful group does is held; one thing done wrong in it is found."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

import attrs
import pytest
from hypothesis import assume, given, settings, strategies as st
from testing.lawful import lawful_events

from trio_parallel_kafka.testing.events import (
    Assigned,
    AttemptEvent,
    Committed,
    Completed,
    Died,
    Event,
    GivenUp,
    GroupEvent,
    Output,
    Place,
    Produced,
    Revoked,
    Started,
)
from trio_parallel_kafka.testing.exactly_once import ExactlyOnceOutput
from trio_parallel_kafka.testing.guarantee import Guarantee
from trio_parallel_kafka.testing.guarantees import AtLeastOnce, KeyOrder, KeySerial, LittleReplay, OneOwner
from trio_parallel_kafka.testing.history import History

Events = list[Event]
Edit = Callable[[Events], Iterator[Events]]
GUARANTEES: Sequence[type[Guarantee]] = (AtLeastOnce, KeyOrder, KeySerial, OneOwner, LittleReplay, ExactlyOnceOutput)
RUNS = st.builds(lambda seed, steps: lawful_events(random.Random(seed), steps), st.integers(0), st.integers(1, 80))


@given(RUNS)
def test_lawful_runs_are_held(events: Events) -> None:
    """Retries, batches, rebalances, losses, deaths and replays break nothing."""
    history = History(events)
    for guarantee in GUARANTEES:
        guarantee(history).check()


# Each of these yields all histories that differ from a lawful one by one mistake.


def forget_a_record(events: Events) -> Iterator[Events]:
    """No attempt at it ever ended well."""
    given_up = {event.place for event in events if isinstance(event, GivenUp)}
    for produced in events:
        if isinstance(produced, Produced) and produced.place not in given_up:
            yield [each for each in events if not (isinstance(each, Completed) and each.place == produced.place)]


def commit_one_too_far(events: Events) -> Iterator[Events]:
    """The offset of a commit is that of the record after the first that isn't done."""
    known = {event.place for event in events if isinstance(event, Produced)}
    done: set[Place] = set()
    for index, event in enumerate(events):
        if isinstance(event, Completed | GivenUp):
            done.add(event.place)
        if isinstance(event, Committed) and Place(*event.partition, event.offset) in known - done:
            yield [*events[:index], attrs.evolve(event, offset=event.offset + 1, metadata=""), *events[index + 1 :]]


def start_too_early(events: Events) -> Iterator[Events]:
    """A record is started before the one before it in its lane is done for the first time."""
    done: set[Place] = set()
    for index, event in enumerate(events):
        if isinstance(event, Completed | GivenUp) and event.place not in done:
            done.add(event.place)
            started = next(_starts_behind(event.place, events[index:], events), None)
            if started is not None:
                yield [*events[:index], attrs.evolve(started, member="z"), *events[index:]]


def start_a_key_twice(events: Events) -> Iterator[Events]:
    """A record is started once more while it is being handled."""
    for index, event in enumerate(events):
        if isinstance(event, Started):
            yield [*events[: index + 1], attrs.evolve(event, call=-1), *events[index + 1 :]]


def start_beside_the_owner(events: Events) -> Iterator[Events]:
    """While a record is being handled, another of its partition is by a member that doesn't own it."""
    for index, event in enumerate(events):
        if isinstance(event, Started) and _is_revoked_next(event, events[index:]):
            stranger = attrs.evolve(event, member="z", place=event.place._replace(offset=1_000), call=-1)
            yield [*events[: index + 1], stranger, *events[index + 1 :]]


def answer_too_early(events: Events) -> Iterator[Events]:
    """A member lets a partition go while its handlers still end."""
    for index, event in enumerate(events):
        if isinstance(event, Revoked):
            own = [each for each in range(index) if _is_end_in(events[each], event)]
            latest_assigned = max(each for each in range(index) if _gives(events[each], event))
            if own and own[-1] > latest_assigned:
                rest = [each for each in events[own[-1] :] if each is not event]
                yield [*events[: own[-1]], event, *rest]


def handle_what_was_committed(events: Events) -> Iterator[Events]:
    """A new assignment starts a record that was committed when it began."""
    position = {}
    for index, event in enumerate(events):
        if isinstance(event, Committed):
            position[event.partition] = event.offset
        if isinstance(event, Assigned) and position.get(event.partitions[0]):
            started = next(_starts_in(event, events[index:]), None)
            if started is not None:
                replayed = attrs.evolve(started, place=Place(*event.partitions[0], 0), call=-1)
                yield [*events[: index + 1], replayed, *events[index + 1 :]]


def send_twice(events: Events) -> Iterator[Events]:
    """An output is seen again, sometime later."""
    for index, event in enumerate(events):
        if isinstance(event, Output):
            yield [*events, event]
            yield [*events[:index], event, *events[index:]]


def send_nothing(events: Events) -> Iterator[Events]:
    """An output is never seen."""
    given_up = {event.place for event in events if isinstance(event, GivenUp)}
    for index, event in enumerate(events):
        if isinstance(event, Output) and event.origin not in given_up:
            yield [*events[:index], *events[index + 1 :]]


def send_in_another_order(events: Events) -> Iterator[Events]:
    """Two outputs of a key, not of records of one batch, are swapped."""
    calls: dict[Place, set[int]] = {}
    for event in events:
        if isinstance(event, Started):
            calls.setdefault(event.place, set()).add(event.call)
    seen: dict[object, tuple[int, Output, Place]] = {}
    for index, event in enumerate(events):
        if isinstance(event, Output) and event.origin is not None and event.key is not None:
            lane = event.origin[:2], event.key
            if lane in seen:
                before, other, origin = seen[lane]
                if origin < event.origin and calls[origin].isdisjoint(calls[event.origin]):
                    yield [*events[:before], event, *events[before + 1 : index], other, *events[index + 1 :]]
            seen[lane] = index, event, event.origin


EDITS: Sequence[tuple[Edit, type[Guarantee]]] = (
    (forget_a_record, AtLeastOnce),
    (commit_one_too_far, AtLeastOnce),
    (start_too_early, KeyOrder),
    (start_a_key_twice, KeySerial),
    (start_beside_the_owner, OneOwner),
    (answer_too_early, OneOwner),
    (handle_what_was_committed, LittleReplay),
    (send_twice, ExactlyOnceOutput),
    (send_nothing, ExactlyOnceOutput),
    (send_in_another_order, ExactlyOnceOutput),
)


@pytest.mark.parametrize(("edit", "guarantee"), EDITS, ids=[f"{edit.__name__}-{kind.__name__}" for edit, kind in EDITS])
@settings(max_examples=50)
@given(RUNS, st.randoms(use_true_random=False))
def test_a_mistake_is_found(edit: Edit, guarantee: type[Guarantee], events: Events, rng: random.Random) -> None:
    """Whichever one thing is done wrong, the guarantee that it breaks says so."""
    edited = list(edit(events))
    assume(edited)
    violation = guarantee(History(rng.choice(edited))).violation()
    assert violation is not None
    assert str(violation).count("\n") >= 3


def _starts_behind(place: Place, later: Events, events: Events) -> Iterator[Started]:
    """Starts of records behind this one in its lane."""
    key = next(each.key for each in events if isinstance(each, Produced) and each.place == place)
    for each in later:
        if isinstance(each, Started) and (*each.place[:2], each.key) == (*place[:2], key):
            is_behind = key is not None and each.place.offset > place.offset
            yield from [each] * is_behind


def _starts_in(assigned: Assigned, later: Events) -> Iterator[Started]:
    """Starts by a member in what it was assigned, until it gets something anew."""
    for each in later[1:]:
        if isinstance(each, Assigned | Died) and each.member == assigned.member:
            return
        if isinstance(each, Started) and each.member == assigned.member and each.place[:2] in assigned.partitions:
            yield each


def _is_end_in(event: Event, revoked: Revoked) -> bool:
    """Whether an attempt ends of a member, in what is to be revoked from it."""
    if isinstance(event, Started) or not isinstance(event, AttemptEvent):
        return False
    return event.member == revoked.member and event.place[:2] in revoked.partitions


def _gives(event: Event, revoked: Revoked) -> bool:
    return isinstance(event, Assigned) and (event.member, event.partitions) == (revoked.member, revoked.partitions)


def _is_revoked_next(started: Started, later: Events) -> bool:
    """Whether the assignment of an attempt ends by being revoked."""
    ends = (
        isinstance(each, Revoked)
        for each in later
        if isinstance(each, GroupEvent) and each.member == started.member and started.place[:2] in each.partitions
    )
    return next(ends, False)
