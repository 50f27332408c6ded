"""What this library guarantees, as objects to be held against what a run did, simulated or real."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Final, Generic, TypeVar

from trio_parallel_kafka.core.metadata import read_metadata
from trio_parallel_kafka.core.ranges import OffsetRanges
from trio_parallel_kafka.testing.events import (
    Assigned,
    AttemptEvent,
    Committed,
    Completed,
    Died,
    GivenUp,
    Place,
    Produced,
    Revoked,
    Started,
)
from trio_parallel_kafka.testing.explanations import Finding, Lane
from trio_parallel_kafka.testing.guarantee import Facts, Guarantee, KeyOf
from trio_parallel_kafka.testing.history import History
from trio_parallel_kafka.testing.lane_order import LaneOrder
from trio_parallel_kafka.testing.offsets import Offsets
from trio_parallel_kafka.testing.timeline import Attempt, Tenure

Who = TypeVar("Who")


class AtLeastOnce(Guarantee):
    """Nothing is lost: each record was completed or given up, and no commit ever covered one that wasn't by then.

    >>> history = History()
    >>> history.produced("orders", 0, 0, b"customer-7")
    >>> AtLeastOnce(history).is_held
    False
    >>> print(AtLeastOnce(history).violation())
    AtLeastOnce doesn't hold: orders[0]@0 was produced, but never completed nor given up
    <BLANKLINE>
    What happened to orders[0]@0 and the records of its lane:
      #0  0.000 s  Produced  orders[0]@0  key=b'customer-7'

    A commit covers what is below its offset and what the map in its metadata says. Where no commits are noted, only
    the first half is looked at.

    Args:
        history: what happened.
        key_of: as for :class:`KeyOrder`; it only chooses what the explanation tells.
        is_finished: whether all that was produced was to be handled by its end. ``False``: only commits are looked at.
    """

    def __init__(self, history: History, *, key_of: KeyOf | None = None, is_finished: bool = True) -> None:
        super().__init__(history, key_of=key_of)
        self._is_finished: Final = is_finished

    def _findings(self, facts: Facts) -> Iterator[Finding]:
        offsets_in = defaultdict(list)
        for place in facts.lanes:
            offsets_in[place[:2]].append(place.offset)
        records = {partition: Offsets(offsets) for partition, offsets in offsets_in.items()}
        done: set[Place] = set()
        for moment in facts.moments:
            event = moment.event
            if isinstance(event, Completed | GivenUp):
                done.add(event.place)
                if event.place in facts.lanes:
                    records[event.place[:2]].done(event.place.offset)
            elif isinstance(event, Committed) and event.partition in records:
                yield from _not_done(event, moment.index, records[event.partition])
        if self._is_finished:
            for event in facts.events:
                if isinstance(event, Produced) and event.place not in done:
                    yield Finding(f"{event.place} was produced, but never completed nor given up", event.place)


def _not_done(event: Committed, index: int, records: Offsets) -> Iterator[Finding]:
    below = records.first_undone(-1, event.offset)
    if below is not None:
        place = Place(*event.partition, below)
        yield Finding(f"{place} wasn't completed nor given up when offset {event.offset} was committed", place, index)
    for start, end in _completed_by(event):
        mapped = records.first_undone(start, end)
        if mapped is not None:
            place = Place(*event.partition, mapped)
            text = f"{place} wasn't completed nor given up when it was committed in the map, with offset {event.offset}"
            yield Finding(text, place, index)


def _completed_by(event: Committed) -> OffsetRanges:
    return read_metadata(event.metadata, event.offset).completed


class KeyOrder(Guarantee):
    """Records of a key are handled in their order, and one starts only when those before it are done.

    That is: when each earlier record of its topic, partition and key has been completed or given up at some time, in
    whatever member; and, within an assignment, when those that were started in it have been, and none after it was.
    Records without a key have no order. Those of a batch may start together.

    What is earlier is known from the records produced or, if that wasn't noted, from what was started.
    """

    def _findings(self, facts: Facts) -> Iterator[Finding]:
        offsets_of = defaultdict(list)
        for place, lane in facts.lanes.items():
            offsets_of[lane].append(place.offset)
        orders = {lane: LaneOrder(offsets) for lane, offsets in offsets_of.items()}
        for moment in facts.moments:
            event = moment.event
            if isinstance(event, Started):
                (attempt,) = moment.attempts
                problem = orders[facts.lanes[event.place]].started(attempt)
                if problem is not None:
                    yield Finding(f"{event.place} was started {problem}", event.place, moment.index)
            elif isinstance(event, Completed):
                orders[facts.lanes[event.place]].completed(*moment.attempts)
            elif isinstance(event, GivenUp) and event.place in facts.lanes:
                orders[facts.lanes[event.place]].given_up(event.place.offset)


class KeySerial(Guarantee):
    """Never are two records of a topic, partition and key handled at once, in whatever members; nor one record twice.

    Two exceptions: records of a batch; and attempts in an assignment that was lost, which may go on beside those of
    the new owner in another member, because nobody can keep a member from it that can't be reached.
    """

    def _findings(self, facts: Facts) -> Iterator[Finding]:
        at_work: defaultdict[Lane, _AtWork[tuple[Tenure, int]]] = defaultdict(_AtWork)
        for moment in facts.moments:
            for attempt in moment.attempts:
                start = attempt.start
                who = (attempt.tenure, start.call)
                if isinstance(moment.event, Started):
                    other = at_work[facts.lanes[start.place]].begin(who, attempt)
                    if other is not None:
                        text = f"{start.place} was started while {_named(other)} was being handled"
                        yield Finding(text, start.place, moment.index, also=(other.index,))
                elif isinstance(moment.event, AttemptEvent | Died):
                    at_work[facts.lanes[start.place]].end(who, attempt)


class OneOwner(Guarantee):
    """A member that has let a partition go handles none of its records any more, and nobody does beside the owner.

    So nothing of a revoked assignment runs or starts once the member has answered; records of a partition aren't
    handled at once in two assignments; and once a later assignment has begun, none before it goes on. For one that was
    lost, :class:`KeySerial` makes the same exception.
    """

    def _findings(self, facts: Facts) -> Iterator[Finding]:
        partitions: defaultdict[tuple[str, int], _Ownership] = defaultdict(_Ownership)
        for moment in facts.moments:
            index, event = moment.index, moment.event
            for attempt in moment.attempts:
                start = attempt.start
                partition = partitions[start.place[:2]]
                if isinstance(event, Started):
                    for problem, also in partition.started(index, attempt):
                        yield Finding(f"{start.place} was started {problem}", start.place, index, also)
                elif isinstance(event, AttemptEvent | Died):
                    partition.ended(attempt)
                elif isinstance(event, Revoked):
                    text = f"{start.place} was still being handled by {event.member!r} when that had let it go"
                    yield Finding(text, start.place, index, (attempt.index,))


class LittleReplay(Guarantee):
    """What was committed when a partition was assigned, by the offset or in the map, isn't handled again.

    It takes commits and assignments that were noted. Records that an operator has the group read once more have to be
    noted as a commit of the lower offset.
    """

    def _findings(self, facts: Facts) -> Iterator[Finding]:
        commits: dict[tuple[str, int], tuple[int, Committed]] = {}
        known: dict[Tenure, tuple[int, int, OffsetRanges]] = {}
        for moment in facts.moments:
            event = moment.event
            if isinstance(event, Committed):
                commits[event.partition] = moment.index, event
            elif isinstance(event, Assigned):
                for tenure, partition in zip(moment.tenures, event.partitions, strict=True):
                    if partition in commits:
                        index, commit = commits[partition]
                        known[tenure] = index, commit.offset, _completed_by(commit)
            elif isinstance(event, Started):
                tenure = moment.attempts[0].tenure
                # A later epoch in the same tenure: the log went back, and is read once more.
                if tenure in known and event.assignment_epoch == tenure.first_epoch:
                    index, position, completed = known[tenure]
                    if event.place.offset < position or _is_in(completed, event.place.offset):
                        text = f"{event.place} was started again although it was committed when it was assigned"
                        yield Finding(text, event.place, moment.index, (index,))


def _is_in(ranges: OffsetRanges, offset: int) -> bool:
    before = bisect_right(ranges, offset, key=lambda each: each[0])
    return before > 0 and offset < ranges[before - 1][1]


class _AtWork(Generic[Who]):
    """Who is handling records of something that isn't to be handled by two at once."""

    def __init__(self) -> None:
        self._attempts: Final[dict[Who, dict[Attempt, None]]] = {}

    def begin(self, who: Who, attempt: Attempt) -> Attempt | None:
        """An attempt begins; return one by somebody else that goes on, if that mustn't be."""
        others = (next(iter(attempts)) for each, attempts in self._attempts.items() if each != who)
        other = next((each for each in others if not _may_overlap(each, attempt)), None)
        self._attempts.setdefault(who, {})[attempt] = None
        return other

    def end(self, who: Who, attempt: Attempt) -> None:
        """It has ended."""
        attempts = self._attempts[who]
        del attempts[attempt]
        if not attempts:
            del self._attempts[who]


class _Ownership:
    """Which assignment of a partition is the one that counts."""

    def __init__(self) -> None:
        self._at_work: Final[_AtWork[tuple[Tenure, int]]] = _AtWork()
        self._newest: Final[dict[str, tuple[Tenure, int]]] = {}
        self._seen: Final[set[tuple[Tenure, int]]] = set()

    def started(self, index: int, attempt: Attempt) -> Iterator[tuple[str, Sequence[int]]]:
        """An attempt starts; say what is wrong with that, and which events have to do with it."""
        member, tenure = attempt.start.member, attempt.tenure
        assignment = tenure, attempt.start.assignment_epoch
        if tenure.revoked is not None and tenure.revoked < index:
            yield f"by {member!r} although that had let it go", (tenure.revoked,)
        other = self._at_work.begin(assignment, attempt)
        if other is not None:
            yield f"while {_named(other)} was being handled in another assignment", (other.index,)
        if assignment in self._seen and self._newest[member] != assignment:
            yield f"in an assignment (epoch {assignment[1]}) that had been followed by another", ()
        self._seen.add(assignment)
        self._newest[member] = assignment

    def ended(self, attempt: Attempt) -> None:
        """One has ended."""
        self._at_work.end((attempt.tenure, attempt.start.assignment_epoch), attempt)


def _may_overlap(one: Attempt, other: Attempt) -> bool:
    return one.tenure.member != other.tenure.member and (one.tenure.is_lost or other.tenure.is_lost)


def _named(attempt: Attempt) -> str:
    return f"{attempt.start.place} (started as #{attempt.index} by {attempt.start.member!r})"
