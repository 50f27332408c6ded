"""A group that keeps every guarantee, acts at random, and writes down what it does."""

from __future__ import annotations

import random
from collections import defaultdict

import attrs
from testing.script import ranges

from trio_parallel_kafka.core import offset_map
from trio_parallel_kafka.core.assignments import TopicPartition
from trio_parallel_kafka.testing.events import (
    Assigned,
    AttemptEvent,
    Cancelled,
    Committed,
    Completed,
    Died,
    Event,
    Failed,
    GivenUp,
    Joined,
    Lost,
    Output,
    Place,
    Produced,
    Revoked,
    Started,
)

MEMBERS = ("m", "n", "o")
PARTITIONS = (TopicPartition("orders", 0), TopicPartition("orders", 1))
KEYS = (b"a", b"b", None)


@attrs.define(eq=False)
class Seat:
    """A member's assignment: what it takes for done, its calls of the handler, and lanes that stand still."""

    member: str
    partition: TopicPartition
    epoch: int
    done: set[int]
    given_up: set[int] = attrs.field(factory=set)
    calls: dict[bytes | int, list[Started]] = attrs.field(factory=dict)
    sealed: set[bytes | int] = attrs.field(factory=set)
    attempts: defaultdict[int, int] = attrs.field(factory=lambda: defaultdict(int))


class LawfulGroup:
    """Call :meth:`act` now and then, and :meth:`finish` at the end; ``events`` is what happened."""

    def __init__(self, rng: random.Random) -> None:
        self.events: list[Event] = []
        self._rng = rng
        self._logs: dict[TopicPartition, list[bytes | None]] = {each: [] for each in PARTITIONS}
        self._committed: dict[TopicPartition, tuple[int, frozenset[int]]] = dict.fromkeys(PARTITIONS, (0, frozenset()))
        self._sent: set[Place] = set()
        self._seats: dict[TopicPartition, Seat] = {}
        self._zombies: list[Seat] = []
        self._epochs = dict.fromkeys(MEMBERS, 0)
        self._dead: set[str] = set()
        self._calls = 0

    @property
    def now(self) -> float:
        return float(len(self.events))

    def act(self) -> None:
        """Do something at random that may be done."""
        step = self._rng.choices(
            [self._produce, self._assign, self._start, self._end, self._commit, self._revoke, self._lose, self._die],
            [6, 4, 12, 10, 3, 1, 1, 0.5],
        )[0]
        step()

    def finish(self) -> None:
        """Handle what is left."""
        for seat in [*self._zombies]:
            self._end_all(seat)
        self._zombies.clear()
        for partition in PARTITIONS:
            if partition in self._seats:
                self._let_go(self._seats[partition])
        self._join_all()
        self._assign()
        self._assign()
        for seat in self._seats.values():
            while lanes := self._ready(seat):
                self._call(seat, min(lanes, key=str), 1)
                self._end_call(seat, min(seat.calls, key=str), well=True)
            self._let_go(seat, forget=False)

    def _produce(self) -> None:
        partition = self._rng.choice(PARTITIONS)
        key = self._rng.choice(KEYS)
        self.events.append(Produced(self.now, Place(*partition, len(self._logs[partition])), key))
        self._logs[partition].append(key)

    def _assign(self) -> None:
        """Somebody gets a partition that nobody has, but not who still works on it."""
        free = [each for each in PARTITIONS if each not in self._seats]
        if not free:
            return
        partition = free[0]
        busy = {seat.member for seat in self._zombies if seat.partition == partition and seat.calls}
        members = [each for each in MEMBERS if each not in busy | self._dead]
        if not members:
            self._join_all()
            return
        member = self._rng.choice(members)
        self._zombies = [each for each in self._zombies if (each.member, each.partition) != (member, partition)]
        self._epochs[member] += 1
        position, above = self._committed[partition]
        self._seats[partition] = Seat(member, partition, self._epochs[member], {*range(position), *above})
        self.events.append(Assigned(self.now, member, (partition,)))

    def _start(self) -> None:
        seats = [each for each in (*self._seats.values(), *self._zombies) if self._ready(each)]
        if seats:
            seat = self._rng.choice(seats)
            self._call(seat, self._rng.choice(self._ready(seat)), self._rng.choice((1, 1, 2, 3)))

    def _end(self) -> None:
        seats = [each for each in (*self._seats.values(), *self._zombies) if each.calls]
        if seats:
            seat = self._rng.choice(seats)
            self._end_call(seat, self._rng.choice(list(seat.calls)))

    def _commit(self) -> None:
        if self._seats:
            self._commit_of(self._rng.choice(list(self._seats.values())))

    def _revoke(self) -> None:
        if self._seats:
            self._let_go(self._rng.choice(list(self._seats.values())))

    def _lose(self) -> None:
        if self._seats:
            seat = self._rng.choice(list(self._seats.values()))
            del self._seats[seat.partition]
            self._zombies.append(seat)
            self.events.append(Lost(self.now, seat.member, (seat.partition,)))

    def _die(self) -> None:
        """A member is killed, or the dead come back."""
        if self._dead:
            self._join_all()
            return
        member = self._rng.choice(MEMBERS)
        self._dead.add(member)
        self._seats = {partition: seat for partition, seat in self._seats.items() if seat.member != member}
        self._zombies = [seat for seat in self._zombies if seat.member != member]
        self.events.append(Died(self.now, member))

    def _join_all(self) -> None:
        for member in sorted(self._dead):
            self.events.append(Joined(self.now, member))
            self._epochs[member] = 0
        self._dead.clear()

    def _lanes(self, seat: Seat) -> dict[bytes | int, list[int]]:
        """What isn't done, by key; a record without one is a lane of its own."""
        lanes: defaultdict[bytes | int, list[int]] = defaultdict(list)
        for offset, key in enumerate(self._logs[seat.partition]):
            if offset not in seat.done:
                lanes[offset if key is None else key].append(offset)
        return lanes

    def _ready(self, seat: Seat) -> list[bytes | int]:
        return [lane for lane in self._lanes(seat) if lane not in seat.calls and lane not in seat.sealed]

    def _call(self, seat: Seat, lane: bytes | int, size: int) -> None:
        self._calls += 1
        seat.calls[lane] = []
        for offset in self._lanes(seat)[lane][:size]:
            seat.attempts[offset] += 1
            place = Place(*seat.partition, offset)
            key = self._logs[seat.partition][offset]
            started = Started(self.now, seat.member, place, key, seat.attempts[offset], seat.epoch, self._calls)
            seat.calls[lane].append(started)
            self.events.append(started)

    def _end_call(self, seat: Seat, lane: bytes | int, *, well: bool = False) -> None:
        started = seat.calls.pop(lane)
        is_cancelled = not well and self._rng.random() < 0.1
        for each in started:
            outcome = 1.0 if well else self._rng.random()
            offset = each.place.offset
            if is_cancelled:
                seat.sealed.add(lane)
                self.events.append(Cancelled(self.now, *_fields(each)))
            elif outcome < 0.2:
                self.events.append(Failed(self.now, *_fields(each), "ValueError()"))
            elif outcome < 0.25:
                self.events.append(Failed(self.now, *_fields(each), "Skip()"))
                self.events.append(GivenUp(self.now, each.place))
                seat.done.add(offset)
                seat.given_up.add(offset)
            else:
                self.events.append(Completed(self.now, *_fields(each)))
                seat.done.add(offset)

    def _end_all(self, seat: Seat) -> None:
        for lane in list(seat.calls):
            self._end_call(seat, lane)

    def _commit_of(self, seat: Seat) -> None:
        """Outputs are seen when they are committed, in the order of their records."""
        end = len(self._logs[seat.partition])
        position = next((offset for offset in range(end) if offset not in seat.done), end)
        above = frozenset(offset for offset in seat.done if offset >= position)
        self._committed[seat.partition] = position, above
        metadata = offset_map.encode(position, ranges(above)).text
        self.events.append(Committed(self.now, seat.member, seat.partition, position, metadata))
        for offset in sorted(seat.done):
            place = Place(*seat.partition, offset)
            if place not in self._sent:
                self._sent.add(place)
                key = self._logs[seat.partition][offset]
                if offset not in seat.given_up:
                    self.events.append(Output(self.now, "invoices", key, str(place).encode(), place))

    def _let_go(self, seat: Seat, *, forget: bool = True) -> None:
        self._end_all(seat)
        self._commit_of(seat)
        self.events.append(Revoked(self.now, seat.member, (seat.partition,)))
        if forget:
            del self._seats[seat.partition]


def _fields(event: AttemptEvent) -> tuple[str, Place, bytes | None, int, int, int]:
    return event.member, event.place, event.key, event.attempt, event.assignment_epoch, event.call


def lawful_events(rng: random.Random, steps: int) -> list[Event]:
    """What such a group has done in so many steps, and until all was handled."""
    group = LawfulGroup(rng)
    for _ in range(steps):
        group.act()
    group.finish()
    return group.events
