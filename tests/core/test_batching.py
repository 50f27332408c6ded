"""Which lanes make up a batch, and when: against what is ready, looked at naively."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from itertools import product
from random import Random

import attrs
import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from trio_parallel_kafka.core.batching import BatchScope, BatchTaker
from trio_parallel_kafka.core.lane import Lane, LaneGroup
from trio_parallel_kafka.core.lanes import LaneScheduler

GROUPS = 3

Key = tuple[LaneGroup["Arrival"], Hashable]
"""A lane's key, with its group."""

KEYS = ["a", "b", "c", None]
ACTS = {
    "arrive": 10,
    "take": 4,
    "take_all": 4,
    "finish": 7,
    "cut_short": 1,
    "wait": 6,
    "stop_lingering": 0.1,
    "hold_or_release": 1,
    "revoke": 0.5,
}
"""What may happen, and how often."""

names = [name for name, weight in ACTS.items() for _ in range(round(10 * weight))]
acts = [*product(names, range(36))]
Random(1).shuffle(acts)  # the first of a list are drawn more often than the others
plans = st.lists(st.sampled_from(acts), min_size=2, max_size=30)


@attrs.frozen
class Arrival:
    """A record, as far as batches look at it."""

    number: int
    received_at: float = 0.0


def new_taker(scope: BatchScope, *, size: int, linger: float) -> tuple[LaneScheduler[Arrival], BatchTaker[Arrival]]:
    """Make a scheduler whose lanes are taken in batches."""
    scheduler: LaneScheduler[Arrival] = LaneScheduler()
    return scheduler, BatchTaker(
        scheduler, size=size, scope=scope, linger=linger, received_at=lambda arrival: arrival.received_at
    )


def records(lanes: Sequence[Lane[Arrival]]) -> list[int]:
    """Name the records of a batch."""
    return [each.number for lane in lanes for each in lane.in_hands]


class BatchMachine(RuleBasedStateMachine):
    """Records arrive in some partitions, workers take batches and finish them, in part or not at all."""

    @initialize(scope=st.sampled_from(list(BatchScope)), size=st.integers(1, 4), linger=st.integers(0, 4))
    def begin(self, scope: BatchScope, size: int, linger: int) -> None:
        """Nothing has arrived."""
        self.scope, self.size, self.linger, self.max_linger = scope, size, linger, linger
        self.scheduler, self.taker = new_taker(scope, size=size, linger=linger)
        self.groups = [LaneGroup[Arrival](number) for number in range(GROUPS)]
        self.now = 0
        self.arrived = 0
        self.queues: defaultdict[Key, list[Arrival]] = defaultdict(list)
        self.without_key: dict[LaneGroup[Arrival], set[Arrival]] = {group: set() for group in self.groups}
        self.batches: list[list[Lane[Arrival]]] = []
        self.ready_since: dict[Lane[Arrival], int] = {}

    def ready(self) -> list[Lane[Arrival]]:
        return [lane for group in self.groups for lane in group.ready]

    def note_ready(self) -> None:
        """Remember since when lanes are ready."""
        self.ready_since = {lane: self.ready_since.get(lane, self.now) for lane in self.ready()}

    @rule(plan=plans)
    def work(self, plan: list[tuple[str, int]]) -> None:
        """Anything happens; what always holds is looked at after each."""
        for name, pick in plan:
            getattr(self, name)(pick)
            self.nothing_lingers_for_too_long()

    def arrive(self, pick: int) -> None:
        """Records of a key, or of none, are fetched at once."""
        group, key = self.groups[pick % GROUPS], KEYS[pick // GROUPS % len(KEYS)]
        for _ in range(pick // 12 + 1):
            arrival = Arrival(self.arrived, self.now)
            self.arrived += 1
            self.scheduler.offer(group, key, arrival)
            if key is None:
                self.without_key[group].add(arrival)
            else:
                self.queues[group, key].append(arrival)
        self.note_ready()

    def take(self, _pick: int) -> None:
        """A worker is free."""
        expected = self.naive_batch()
        lanes = self.taker.take(self.now)
        assert [(lane, len(lane.in_hands)) for lane in lanes] == expected
        if lanes:
            self.check(lanes)
            self.batches.append(lanes)
        self.note_ready()

    def take_all(self, pick: int) -> None:
        """Workers are free, as many as it needs: no lane is left that was ready for as long as a batch may linger."""
        while True:
            before = len(self.batches)
            self.take(pick)
            if len(self.batches) == before:
                break
        for group in self.scheduler.groups:
            assert all(self.now - self.ready_since[lane] < self.linger for lane in group.ready), "a lane is starved"
        due = self.taker.next_due()
        heads = [group.ready[0].head.received_at for group in self.scheduler.groups]
        assert due == (min(heads) + self.linger if heads else None)
        assert due is None or due > self.now

    def naive_batch(self) -> list[tuple[Lane[Arrival], int]]:
        """The lanes that make up the next batch, and how many records of each."""
        groups = self.scheduler.groups
        if self.scope is BatchScope.ANY:
            return self.first_of(self.in_turns(groups)) if self.is_ripe(groups) else []
        if self.scope is BatchScope.KEY:
            return self.first_of(list(groups[0].ready)[:1]) if groups else []
        ripe = [group for group in groups if self.is_ripe([group])]
        return self.first_of(list(ripe[0].ready)) if ripe else []

    def is_ripe(self, groups: Sequence[LaneGroup[Arrival]]) -> bool:
        is_full = sum(lane.waiting + 1 for group in groups for lane in group.ready) >= self.size
        return is_full or any(self.now >= group.ready[0].head.received_at + self.linger for group in groups)

    def in_turns(self, groups: Sequence[LaneGroup[Arrival]]) -> list[Lane[Arrival]]:
        """One lane of each group, and so on in rounds."""
        queues = [list(group.ready) for group in groups]
        return [queue[turn] for turn in range(50) for queue in queues if turn < len(queue)]

    def first_of(self, lanes: list[Lane[Arrival]]) -> list[tuple[Lane[Arrival], int]]:
        batch, room = [], self.size
        for lane in lanes:
            if room:
                batch.append((lane, min(room, lane.waiting + 1)))
                room -= batch[-1][1]
        return batch

    def check(self, lanes: list[Lane[Arrival]]) -> None:
        """A batch is within its bounds, its keys' records are in order, and no other batch has these keys."""
        assert len(records(lanes)) <= self.size
        assert len({lane.group for lane in lanes}) == 1 or self.scope is BatchScope.ANY
        assert len(lanes) == 1 or self.scope is not BatchScope.KEY
        assert not {*lanes} & {lane for batch in self.batches for lane in batch}, "P2: two batches of one key"
        assert len({*lanes}) == len(lanes)
        for lane in lanes:
            if lane.key is None:
                assert set(lane.in_hands) <= self.without_key[lane.group]
            else:
                queue = self.queues[lane.group, lane.key]
                assert list(lane.in_hands) == queue[: len(lane.in_hands)], "P2: a record overtakes another of its key"

    def finish(self, pick: int) -> None:
        """The handler returns: some records are done, whichever; what is left comes again, now or later, or never."""
        if self.batches:
            self.finish_one(pick, undone=pick // 3, then=["put back", "put back", "park", "park", "seal"][pick % 5])

    def finish_one(self, pick: int, *, undone: int, then: str) -> None:
        for lane in self.batches.pop(pick % len(self.batches)):
            left = [each for index, each in enumerate(lane.in_hands) if undone & 1 << index]
            self.forget_finished(lane, left)
            if not self.scheduler.keep(lane, left):
                continue
            if not left or then == "put back":
                self.scheduler.put_back(lane)
            elif then == "park":
                self.scheduler.park(lane, self.now + 2)
            else:
                self.scheduler.seal(lane)
        self.note_ready()

    def forget_finished(self, lane: Lane[Arrival], left: list[Arrival]) -> None:
        if lane.key is not None:
            self.queues[lane.group, lane.key][: len(lane.in_hands)] = left
        else:
            self.without_key[lane.group] -= {*lane.in_hands} - {*left}

    def cut_short(self, pick: int) -> None:
        """The handler is cancelled: all comes again."""
        if not self.batches:
            return
        for lane in self.batches.pop(pick % len(self.batches)):
            self.scheduler.put_back(lane)
        self.note_ready()

    def wait(self, pick: int) -> None:
        """Time goes by: what is due is ready."""
        self.pass_by(pick % 4)

    def pass_by(self, seconds: int) -> None:
        self.now += seconds
        self.scheduler.release_due(self.now)
        self.note_ready()

    def stop_lingering(self, _pick: int) -> None:
        """Nothing waits for a fuller batch any more."""
        self.taker.stop_lingering()
        self.linger = 0
        self.note_ready()

    def hold_or_release(self, pick: int) -> None:
        """A partition is paused, or goes on."""
        (self.scheduler.hold_group if pick < 12 else self.scheduler.release_group)(self.groups[pick % GROUPS])

    def revoke(self, pick: int) -> None:
        """A partition goes; what batches have of it changes nothing any more."""
        number = pick % GROUPS
        gone = self.groups[number]
        self.scheduler.close(gone)
        for batch in self.batches:
            for lane in [lane for lane in batch if lane.group is gone]:
                batch.remove(lane)
                assert not self.scheduler.keep(lane, [lane.head])
        self.batches = [batch for batch in self.batches if batch]
        self.queues = defaultdict(list, {key: queue for key, queue in self.queues.items() if key[0] is not gone})
        del self.without_key[gone]
        self.groups[number] = LaneGroup(number)
        self.without_key[self.groups[number]] = set()
        self.note_ready()

    def nothing_lingers_for_too_long(self) -> None:
        """A lane that waits for more is released in time, and with the scope of a key alone; heaps are bounded."""
        lingering = [
            (until, lane)
            for group in self.groups
            for until, _, lane in group.parked
            if lane.parked_until == until and lane.lingers
        ]
        assert not lingering or (self.scope is BatchScope.KEY and self.linger)
        for until, lane in lingering:
            assert until == lane.head.received_at + self.linger
            assert lane.key is not None
            assert lane.waiting + 1 < self.size
        assert all(len(group.parked) <= 2 * group.stuck for group in self.groups), "P6: a heap grows"

    def teardown(self) -> None:
        """Nothing is lost, and nothing waits for ever: in the end all is done but what is sealed."""
        if not hasattr(self, "groups"):
            return
        for group in self.groups:
            self.scheduler.release_group(group)
        while self.ready() or self.batches or self.scheduler.next_due() is not None:
            self.pass_by(self.max_linger + 2)
            self.take_all(0)
            while self.batches:
                self.finish_one(0, undone=0, then="put back")
        sealed = [lane for group in self.groups for lane in group.sealed]
        left = {group: len(each) for group, each in self.without_key.items()}
        for (group, _), queue in self.queues.items():
            left[group] += len(queue)
        assert sum(left.values()) == sum(lane.waiting + 1 for lane in sealed)


TestBatchMachine = BatchMachine.TestCase
TestBatchMachine.settings = settings(stateful_step_count=12, max_examples=150)

every_scope = pytest.mark.parametrize("scope", list(BatchScope))


def offer(scheduler: LaneScheduler[Arrival], group: LaneGroup[Arrival], keyed: str, at: float = 0.0) -> None:
    """Offer a record for each letter, numbered from the group's name on."""
    for key in keyed:
        number = group.owner
        group.owner += 1
        scheduler.offer(group, key, Arrival(number, at))


@pytest.mark.parametrize(
    ("scope", "batches"),
    [
        (BatchScope.KEY, [[0, 2, 3], [100], [1], [101], [4]]),
        (BatchScope.PARTITION, [[0, 2, 3], [100, 101], [1, 4]]),
        (BatchScope.ANY, [[0, 2, 3], [100, 1, 101], [4]]),
    ],
)
def test_batch_holds_what_its_scope_allows(scope: BatchScope, batches: list[list[int]]) -> None:
    """Without lingering what is there is taken at once: of one key, of one partition, or of anything, in turn."""
    scheduler, taker = new_taker(scope, size=3, linger=0)
    first, second = LaneGroup[Arrival](0), LaneGroup[Arrival](100)
    offer(scheduler, first, "abaac")
    offer(scheduler, second, "ab")
    found = []
    while lanes := taker.take(0.0):
        found.append(records(lanes))
        assert not any(scheduler.keep(lane, []) for lane in lanes)
    assert found == batches


@every_scope
@pytest.mark.parametrize(("now", "batch"), [(9.9, []), (10.0, [0])])
def test_batch_that_is_not_full_is_taken_when_its_first_record_has_waited(
    scope: BatchScope, now: float, batch: list[int]
) -> None:
    """Not before, whatever is looked at meanwhile; and when that will be is told."""
    scheduler, taker = new_taker(scope, size=3, linger=6)
    group = LaneGroup[Arrival](0)
    offer(scheduler, group, "a", at=4.0)
    assert taker.take(4.0) == []
    offer(scheduler, group, "b", at=5.0)
    assert {scheduler.next_due(), taker.next_due()} == {10.0, None}
    scheduler.release_due(now)
    assert records(taker.take(now))[:1] == batch


@every_scope
def test_full_batch_is_taken_at_once(scope: BatchScope) -> None:
    """The record that fills it ends the waiting."""
    scheduler, taker = new_taker(scope, size=3, linger=6)
    group = LaneGroup[Arrival](0)
    offer(scheduler, group, "aa", at=0.0)
    assert taker.take(1.0) == []
    offer(scheduler, group, "a", at=1.0)
    assert records(taker.take(1.0)) == [0, 1, 2]
    assert {scheduler.next_due(), taker.next_due()} == {None}


@every_scope
@pytest.mark.parametrize("now", [5.0, 20.0])
def test_lane_that_comes_back_does_not_wait_again(scope: BatchScope, now: float) -> None:
    """If its records have waited for as long as a batch may linger, it is ripe at once."""
    scheduler, taker = new_taker(scope, size=2, linger=5)
    group = LaneGroup[Arrival](0)
    offer(scheduler, group, "aaa")
    lanes = taker.take(now)
    assert records(lanes) == [0, 1]
    assert scheduler.keep(lanes[0], [])
    scheduler.put_back(lanes[0])
    assert records(taker.take(now)) == [2]


@every_scope
def test_without_lingering_a_record_is_ready_when_it_comes(scope: BatchScope) -> None:
    """However long ago a worker looked for the last time."""
    scheduler, taker = new_taker(scope, size=5, linger=0)
    group = LaneGroup[Arrival](0)
    assert taker.take(1.0) == []
    offer(scheduler, group, "a", at=4.0)
    assert (len(group.ready), scheduler.next_due()) == (1, None)


@pytest.mark.parametrize(
    ("scope", "linger", "due"),
    [
        (BatchScope.PARTITION, 6, 10.0),
        (BatchScope.ANY, 6, 10.0),
        (BatchScope.KEY, 6, None),  # a lane is ready when it is ripe
        (BatchScope.PARTITION, 0, None),
        (BatchScope.ANY, 0, None),
        (BatchScope.KEY, 0, None),
    ],
)
def test_time_is_waited_for_only_if_it_makes_a_batch_ripe(scope: BatchScope, linger: float, due: float | None) -> None:
    """What nobody has taken yet isn't due at any time if it is ripe however little it is."""
    scheduler, taker = new_taker(scope, size=2, linger=linger)
    group = LaneGroup[Arrival](0)
    offer(scheduler, group, "aa", at=4.0)
    assert len(group.ready) == 1
    assert taker.next_due() == due


@every_scope
@pytest.mark.parametrize("comes", ["before", "after"])
def test_nothing_lingers_after_the_end_of_lingering(scope: BatchScope, comes: str) -> None:
    """What waited for more, and what comes, or comes back, is taken at once."""
    scheduler, taker = new_taker(scope, size=5, linger=1e9)
    group = LaneGroup[Arrival](0)
    if comes == "before":
        offer(scheduler, group, "a", at=1.0)
        assert taker.take(1.0) == []
    taker.stop_lingering()
    if comes == "after":
        offer(scheduler, group, "a", at=1.0)
    lanes = taker.take(1.0)
    assert records(lanes) == [0]
    scheduler.put_back(lanes[0])
    assert records(taker.take(1.0)) == [0]
    assert taker.next_due() is None


@every_scope
def test_held_partition_is_in_no_batch_and_waited_for_by_nobody(scope: BatchScope) -> None:
    """Held lanes neither fill a batch nor make one due."""
    scheduler, taker = new_taker(scope, size=2, linger=5)
    held, other = LaneGroup[Arrival](0), LaneGroup[Arrival](100)
    offer(scheduler, held, "abc")
    offer(scheduler, other, "a", at=10.0)
    scheduler.hold_group(held)
    scheduler.release_due(10.0)
    assert taker.take(10.0) == []
    scheduler.hold("paused")
    assert taker.next_due() is None
    scheduler.release_due(15.0)
    assert taker.take(15.0) == []
    scheduler.release("paused")
    assert records(taker.take(15.0)) == [100]


@pytest.mark.parametrize(
    ("scope", "rounds"), [(BatchScope.PARTITION, ["full", "other"]), (BatchScope.ANY, ["full, other", "full, other"])]
)
def test_busy_partition_does_not_starve_another(scope: BatchScope, rounds: list[str]) -> None:
    """A partition that could fill all batches leaves another its turn, or its share of each batch."""
    scheduler, taker = new_taker(scope, size=2, linger=0)
    full, other = LaneGroup[Arrival](0), LaneGroup[Arrival](1000)
    offer(scheduler, full, "".join(map(chr, range(100))))
    found = []
    for _ in range(5):
        offer(scheduler, other, "xy")
        for _ in range(2):
            lanes = taker.take(0.0)
            found.append(", ".join(sorted({"full" if lane.group is full else "other" for lane in lanes})))
            assert not any(scheduler.keep(lane, []) for lane in lanes)
    assert found == rounds * 5


def test_retried_lane_does_not_wait_to_be_filled() -> None:
    """It has waited for its next attempt; lingering is for what is new."""
    scheduler, taker = new_taker(BatchScope.KEY, size=3, linger=100)
    group = LaneGroup[Arrival](0)
    offer(scheduler, group, "aaa")
    (lane,) = taker.take(0.0)
    assert scheduler.keep(lane, [lane.head])
    scheduler.park(lane, 5.0)
    offer(scheduler, group, "aaaa")
    assert taker.take(4.0) == []
    assert scheduler.release_due(5.0)
    assert records(taker.take(5.0)) == [0, 3, 4]
