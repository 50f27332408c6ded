"""The lane scheduler against queues that remember when each lane became ready."""

from __future__ import annotations

from collections.abc import Hashable

import pytest
from core.kit import is_dropped
from core.lane_machine import LaneMachine
from hypothesis import given, settings, strategies as st

from trio_parallel_kafka.core.lane import Lane, LaneGroup
from trio_parallel_kafka.core.lanes import LaneScheduler


def taken_from(scheduler: LaneScheduler[int]) -> Lane[int]:
    """Take a lane, of which there is one."""
    lane = scheduler.take()
    assert lane is not None
    return lane


TestLaneMachine = LaneMachine.TestCase
TestLaneMachine.settings = settings(stateful_step_count=12, max_examples=150)


@given(
    lanes=st.lists(st.integers(1, 8), min_size=1, max_size=6),
    hot=st.integers(0, 5),
    quantum=st.integers(1, 4),
)
def test_hot_key_starves_nobody(lanes: list[int], hot: int, quantum: int) -> None:
    """Each ready lane is served within one round of all groups for each lane ahead of it, whatever is hot."""
    scheduler: LaneScheduler[int] = LaneScheduler()
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


def test_records_without_order_and_lanes_by_turns() -> None:
    """However many lanes become ready again at once, a record without an order is served, and the other way round."""
    scheduler: LaneScheduler[int] = LaneScheduler()
    scheduler.may_be_loose = True
    group = LaneGroup[int]("group")
    scheduler.offer_loose(group, range(100, 120))
    scheduler.offer(group, "key", 0)
    scheduler.offer(group, "other", 1)
    heads = []
    for _ in range(6):
        lane = taken_from(scheduler)
        heads.append(lane.head)
        scheduler.put_back(lane)
    assert heads == [0, 100, 1, 101, 0, 102]


def test_a_worker_goes_on_with_the_next_record_without_order() -> None:
    """In the same lane, as long as its partition isn't held, or closed, and the lane was never put aside."""
    scheduler: LaneScheduler[int] = LaneScheduler()
    scheduler.may_be_loose = True
    group = LaneGroup[int]("group")
    scheduler.offer_loose(group, range(3))
    lane = taken_from(scheduler)
    assert not scheduler.advance(lane)
    assert scheduler.go_on(lane)
    assert lane.head == 1
    scheduler.hold_group(group)
    assert not scheduler.go_on(lane)
    scheduler.release_group(group)
    assert scheduler.go_on(lane)
    assert (lane.head, bool(scheduler)) == (2, False)
    assert not scheduler.go_on(lane)
    scheduler.park(lane, 1.0)
    scheduler.offer_loose(group, [3])
    assert not scheduler.go_on(lane)
    other = taken_from(scheduler)
    scheduler.offer_loose(group, [4])
    scheduler.close(group)
    assert not scheduler.go_on(other)
    assert is_dropped(group)


def test_each_record_has_a_lane_for_who_looks_at_them() -> None:
    """Batches are made of lanes, so records without an order are in lanes, too, unless told otherwise."""
    scheduler: LaneScheduler[int] = LaneScheduler()
    group = LaneGroup[int]("group")
    scheduler.offer_loose(group, [1, 2])
    assert [lane.head for lane in group.ready] == [1, 2]
    assert not group.loose


def test_full_partition_does_not_delay_another() -> None:
    """A thousand ready lanes of one partition leave another partition's only lane every second turn."""
    scheduler: LaneScheduler[int] = LaneScheduler()
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
    """Records without a key are lanes of their own: all may be in workers' hands at once, and none is kept anywhere."""
    scheduler: LaneScheduler[int] = LaneScheduler()
    group = LaneGroup[int]("owner")
    for number in range(5):
        scheduler.offer(group, None, number)
    taken = [scheduler.take() for _ in range(5)]
    assert [lane.head for lane in taken if lane is not None] == [0, 1, 2, 3, 4]
    assert not group.by_key
    assert scheduler.take() is None


def test_lanes_that_run_dry() -> None:
    """A thousand keys that run dry in turn leave no lane; one that has but a record has nothing for others either."""
    scheduler: LaneScheduler[int] = LaneScheduler()
    group = LaneGroup[int]("owner")
    for key in range(1000):
        assert scheduler.offer(group, key, 0).behind is None
        scheduler.offer_all(group, [key, key], [1, 2])
        lane = scheduler.take()
        assert lane is not None
        assert [scheduler.advance(lane) for _ in range(3)] == [True, True, False]
    assert not group.by_key


@pytest.mark.parametrize(
    ("act", "more"),
    [("advance", ()), ("put_back", ()), ("seal", ()), ("park", (5.0,)), ("keep", ([1],)), ("keep", ([],))],
)
def test_lane_that_comes_back_after_its_partition_is_gone_leaves_nothing(act: str, more: tuple[object, ...]) -> None:
    """A handler that returns, or fails, in its grace: the closed group isn't filled again, and nothing is ready."""
    scheduler: LaneScheduler[int] = LaneScheduler()
    group = LaneGroup[int]("owner")
    scheduler.offer(group, "key", 1)
    scheduler.offer(group, "key", 2)
    lane = scheduler.take()
    assert lane is not None
    scheduler.close(group)
    assert not getattr(scheduler, act)(lane, *more)
    assert is_dropped(group)
    assert (scheduler.take(), scheduler.next_due()) == (None, None)


def test_sealed_lane_waits_for_ever() -> None:
    """What is offered to a sealed lane isn't handed out, and other keys go on."""
    scheduler: LaneScheduler[int] = LaneScheduler()
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
