"""The lane scheduler against queues that remember when each lane became ready."""

from __future__ import annotations

from collections.abc import Hashable
from itertools import count

import attrs
import pytest
from core.kit import BufferMaker, WatchedBuffer, state_of_group, state_of_scheduler
from hypothesis import given, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from trio_parallel_kafka.core.lanes import Lane, LaneGroup, LaneScheduler

GROUPS = 3
MAX_SPARE = 2

group_numbers = st.integers(0, GROUPS - 1)
keys = st.sampled_from(["a", "b", "c", "d", None])
picks = st.integers(0, 20)


@attrs.define(eq=False)
class NaiveLane:
    """All items of one key, and where the lane is."""

    key: Hashable | None
    items: list[int]
    place: str = "ready"
    ready_since: int = 0
    due_by: int = 0


@attrs.define(eq=False)
class NaiveGroup:
    """Lanes in the order in which they came; the one that waited longest is next."""

    lanes: list[NaiveLane] = attrs.field(factory=list)
    turn_since: int = 0

    @property
    def ready(self) -> list[NaiveLane]:
        return sorted((lane for lane in self.lanes if lane.place == "ready"), key=lambda lane: lane.ready_since)

    def find(self, key: Hashable | None) -> NaiveLane | None:
        return next((lane for lane in self.lanes if key is not None and lane.key == key), None)


class LaneMachine(RuleBasedStateMachine):
    """Does anything to a scheduler that its callers may do."""

    def __init__(self) -> None:
        super().__init__()
        self.maker: BufferMaker[int] = BufferMaker()
        self.scheduler: LaneScheduler[int] = LaneScheduler(self.maker, MAX_SPARE)
        self.clock = count(1)
        self.items = count()
        self.takes = 0
        self.groups = [LaneGroup[int](number) for number in range(GROUPS)]
        self.models = [NaiveGroup() for _ in range(GROUPS)]
        self.hands: list[tuple[Lane[int], NaiveLane, NaiveGroup]] = []
        self.orphans: list[Lane[int]] = []

    def make_ready(self, model: NaiveGroup, lane: NaiveLane) -> None:
        """The lane waits behind the ready ones of its group, and is served within so many rounds of all groups."""
        if not model.ready:
            model.turn_since = next(self.clock)
        ahead = len(model.ready)
        lane.place, lane.ready_since = "ready", next(self.clock)
        lane.due_by = self.takes + (ahead + 1) * GROUPS

    @rule(number=group_numbers, key=keys)
    def offer(self, number: int, key: str | None) -> None:
        """A record of a key, or of none, arrives."""
        item, model = next(self.items), self.models[number]
        made, spare = len(self.maker.made), len(self.scheduler._spare)
        lane = model.find(key)
        if lane is None:
            lane = NaiveLane(key, [item])
            self.make_ready(model, lane)
            model.lanes.append(lane)
        else:
            lane.items.append(item)
        self.scheduler.offer(self.groups[number], key, item)
        needs_buffer = len(lane.items) == 2
        assert len(self.maker.made) - made == (needs_buffer and not spare)

    @rule(number=group_numbers)
    def offer_what_cannot_be_hashed(self, number: int) -> None:
        """A key that can't be hashed is refused, and nothing changed."""
        before = [state_of_group(group) for group in self.groups], state_of_scheduler(self.scheduler)
        with pytest.raises(TypeError):
            self.scheduler.offer(self.groups[number], [], 0)  # type: ignore[arg-type]  # the point
        assert before == ([state_of_group(group) for group in self.groups], state_of_scheduler(self.scheduler))

    @rule()
    def take(self) -> None:
        """The group that waited longest is served, and in it the lane that waited longest."""
        waiting = [model for model in self.models if model.ready]
        taken = self.scheduler.take()
        if not waiting:
            assert taken is None
            return
        assert taken is not None
        model = min(waiting, key=lambda each: each.turn_since)
        lane = model.ready[0]
        assert (taken.group, taken.key, taken.head) == (self.groups[self.models.index(model)], lane.key, lane.items[0])
        lane.place = "hands"
        model.turn_since = next(self.clock)
        self.hands.append((taken, lane, model))
        self.takes += 1
        assert self.takes <= lane.due_by

    @precondition(lambda self: self.hands)
    @rule(pick=picks, goes_on=st.booleans())
    def finish_head(self, pick: int, goes_on: bool) -> None:
        """A record is finished; the worker takes the next of the lane, or gives the lane back."""
        taken, lane, model = hand = self.hands[pick % len(self.hands)]
        lane.items.pop(0)
        assert self.scheduler.advance(taken) is bool(lane.items)
        if not lane.items:
            self.hands.remove(hand)
            model.lanes.remove(lane)
            return
        assert taken.head == lane.items[0]
        if not goes_on:
            self.give_back(hand)

    @precondition(lambda self: self.hands)
    @rule(pick=picks)
    def put_back(self, pick: int) -> None:
        """A worker gives a lane back before it started the head."""
        self.give_back(self.hands[pick % len(self.hands)])

    def give_back(self, hand: tuple[Lane[int], NaiveLane, NaiveGroup]) -> None:
        taken, lane, model = hand
        self.hands.remove(hand)
        self.make_ready(model, lane)
        self.scheduler.put_back(taken)

    @precondition(lambda self: self.hands)
    @rule(pick=picks)
    def seal(self, pick: int) -> None:
        """A record failed for good."""
        taken, lane, _ = hand = self.hands[pick % len(self.hands)]
        self.hands.remove(hand)
        lane.place = "sealed"
        self.scheduler.seal(taken)

    @rule(number=group_numbers, twice=st.booleans())
    def close(self, number: int, twice: bool) -> None:
        """A partition is gone; another of the same number comes."""
        for hand in [hand for hand in self.hands if hand[2] is self.models[number]]:
            self.hands.remove(hand)
            self.orphans.append(hand[0])
        closed = self.groups[number]
        self.scheduler.close(closed)
        if twice:
            self.scheduler.close(closed)
        self.groups[number], self.models[number] = LaneGroup(number), NaiveGroup()
        assert state_of_group(closed) == ((), (), (), True)

    @precondition(lambda self: self.orphans)
    @rule(pick=picks, act=st.sampled_from(["advance", "put_back", "seal"]))
    def return_late(self, pick: int, act: str) -> None:
        """A worker returns a lane of a closed group, in whatever way: nothing comes of it."""
        lane = self.orphans.pop(pick % len(self.orphans))
        before = [state_of_group(group) for group in self.groups], state_of_scheduler(self.scheduler)
        result = getattr(self.scheduler, act)(lane)
        assert not result
        assert before == ([state_of_group(group) for group in self.groups], state_of_scheduler(self.scheduler))
        assert state_of_group(lane.group) == ((), (), (), True)

    @invariant()
    def ready_is_told(self) -> None:
        """The scheduler is true exactly while something can be taken."""
        assert bool(self.scheduler) is any(model.ready for model in self.models)

    @invariant()
    def each_lane_is_in_one_place(self) -> None:
        """Lanes exist for keys with records alone, and each is ready, in a worker's hands, or sealed."""
        for group, model in zip(self.groups, self.models, strict=True):
            assert group.by_key.keys() == {lane.key for lane in model.lanes if lane.key is not None}
            assert [lane.head for lane in group.ready] == [lane.items[0] for lane in model.ready]
            sealed = {lane.items[0] for lane in model.lanes if lane.place == "sealed"}
            assert {lane.head for lane in group.sealed} == sealed
            assert len(group.sealed) == len(sealed)
            for lane in group.by_key.values():
                expected = model.find(lane.key)
                assert expected is not None
                assert lane.waiting == len(expected.items) - 1
                buffer = lane.buffer
                assert (buffer is None) is (lane.waiting == 0)
                if isinstance(buffer, WatchedBuffer):
                    assert [lane.head, *buffer.items] == expected.items

    @invariant()
    def buffers_are_recycled(self) -> None:
        """A buffer is open while a lane waits in it or while it is spare, and then it is empty."""
        used = [lane.buffer for group in self.groups for lane in group.by_key.values() if lane.buffer is not None]
        spare = self.scheduler._spare
        assert len(spare) <= MAX_SPARE
        assert all(isinstance(buffer, WatchedBuffer) and not buffer.items for buffer in spare)
        assert {id(buffer) for buffer in (*used, *spare)} == {id(buffer) for buffer in self.maker.open}
        assert len(used) + len(spare) == len(self.maker.open)


TestLaneMachine = LaneMachine.TestCase
TestLaneMachine.settings = settings(stateful_step_count=40, max_examples=100)


@given(
    lanes=st.lists(st.integers(1, 8), min_size=1, max_size=6),
    hot=st.integers(0, 5),
    quantum=st.integers(1, 4),
)
def test_hot_key_starves_nobody(lanes: list[int], hot: int, quantum: int) -> None:
    """Each ready lane is served within one round of all groups for each lane ahead of it, whatever is hot."""
    scheduler: LaneScheduler[int] = LaneScheduler(WatchedBuffer)
    groups = [LaneGroup[int](number) for number in range(len(lanes))]
    for group, number in zip(groups, lanes, strict=True):
        for key in range(number):
            scheduler.offer(group, key, 0)
    hot_group = groups[hot % len(groups)]
    for item in range(1, 1000):
        scheduler.offer(hot_group, 0, item)
    served: dict[tuple[int, Hashable], int] = {}
    for turn in range(1, max(lanes) * len(lanes) + 1):
        lane = scheduler.take()
        if lane is None:
            break
        served.setdefault((lane.group.owner, lane.key), turn)
        if all(scheduler.advance(lane) for _ in range(quantum)):
            scheduler.put_back(lane)
    for number, size in enumerate(lanes):
        for key in range(size):
            assert served[number, key] <= (key + 1) * len(lanes)


def test_full_partition_does_not_delay_another() -> None:
    """A thousand ready lanes of one partition leave another partition's only lane every second turn."""
    scheduler: LaneScheduler[int] = LaneScheduler(WatchedBuffer)
    full, other = LaneGroup[int]("full"), LaneGroup[int]("other")
    for number in range(1000):
        scheduler.offer(full, number, number)
    turns = []
    for number in range(10):
        scheduler.offer(other, "key", number)
        turns += [lane.group.owner for lane in (scheduler.take(), scheduler.take()) if lane is not None]
        for lane in list(other.by_key.values()):
            scheduler.advance(lane)
    assert turns == ["full", "other"] * 10


def test_null_keys_run_beside_one_another() -> None:
    """Records without a key are lanes of their own: all may be in workers' hands at once, and none has a buffer."""
    maker: BufferMaker[int] = BufferMaker()
    scheduler: LaneScheduler[int] = LaneScheduler(maker)
    group = LaneGroup[int]("owner")
    for number in range(5):
        scheduler.offer(group, None, number)
    taken = [scheduler.take() for _ in range(5)]
    assert [lane.head for lane in taken if lane is not None] == [0, 1, 2, 3, 4]
    assert not maker.made
    assert not group.by_key
    assert scheduler.take() is None


def test_keys_one_after_another_share_one_buffer() -> None:
    """A thousand keys that run dry in turn cost one buffer in all, and leave no lane."""
    maker: BufferMaker[int] = BufferMaker()
    scheduler: LaneScheduler[int] = LaneScheduler(maker)
    group = LaneGroup[int]("owner")
    for key in range(1000):
        for number in range(3):
            scheduler.offer(group, key, number)
        lane = scheduler.take()
        assert lane is not None
        assert [scheduler.advance(lane) for _ in range(3)] == [True, True, False]
    assert len(maker.made) == len(maker.open) == 1
    assert not group.by_key


def test_spare_buffers_have_a_bound() -> None:
    """Of many buffers that run dry, only so many are kept; the rest is closed."""
    maker: BufferMaker[int] = BufferMaker()
    scheduler: LaneScheduler[int] = LaneScheduler(maker, max_spare=3)
    group = LaneGroup[int]("owner")
    for number in (0, 1):
        for key in range(10):
            scheduler.offer(group, key, number)
    while (lane := scheduler.take()) is not None:
        scheduler.advance(lane)
        scheduler.advance(lane)
    assert len(maker.made) == 10
    assert len(maker.open) == 3


@pytest.mark.parametrize("act", ["advance", "put_back", "seal"])
def test_lane_that_comes_back_after_its_partition_is_gone_leaves_nothing(act: str) -> None:
    """A handler that returns, or fails, in its grace: the closed group isn't filled again, and nothing is ready."""
    scheduler: LaneScheduler[int] = LaneScheduler(WatchedBuffer)
    group = LaneGroup[int]("owner")
    scheduler.offer(group, "key", 1)
    scheduler.offer(group, "key", 2)
    lane = scheduler.take()
    assert lane is not None
    scheduler.close(group)
    assert not getattr(scheduler, act)(lane)
    assert state_of_group(group) == ((), (), (), True)
    assert scheduler.take() is None


def test_sealed_lane_waits_for_ever() -> None:
    """What is offered to a sealed lane isn't handed out, and other keys go on."""
    scheduler: LaneScheduler[int] = LaneScheduler(WatchedBuffer)
    group = LaneGroup[int]("owner")
    scheduler.offer(group, "bad", 1)
    lane = scheduler.take()
    assert lane is not None
    scheduler.seal(lane)
    scheduler.offer(group, "bad", 2)
    scheduler.offer(group, "good", 3)
    good = scheduler.take()
    assert good is not None
    assert (good.head, scheduler.take(), lane.waiting) == (3, None, 1)
