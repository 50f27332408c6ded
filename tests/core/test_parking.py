"""Lanes that wait: for their next attempt, for more records, or for what holds all lanes to be gone."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from math import log2

import attrs
import pytest
from core.kit import ORDERS, Item, Moment, is_dropped, new_member, started, steps_of, taken
from hypothesis import example, given, strategies as st

from trio_parallel_kafka.core.assignments import Assignment, TopicPartition
from trio_parallel_kafka.core.flow import FlowLimits
from trio_parallel_kafka.core.lane import Lane, LaneGroup
from trio_parallel_kafka.core.lanes import LaneScheduler
from trio_parallel_kafka.core.member import Member

OTHER = TopicPartition("orders", 1)


@attrs.frozen
class Linger:
    """Lanes wait for so many items, until a time that is the same for all, or that each item says."""

    size: int
    due: float | None = None

    def until(self, head: int) -> float | None:
        return head if self.due is None else self.due


def new_scheduler() -> tuple[LaneScheduler[int], LaneGroup[int]]:
    """Make a scheduler, and a group."""
    return LaneScheduler(), LaneGroup("owner")


def take(scheduler: LaneScheduler[int]) -> Lane[int]:
    """Take a lane that has to be ready."""
    lane = scheduler.take()
    assert lane is not None
    return lane


def heads(scheduler: LaneScheduler[int]) -> list[int]:
    """Take all that is ready."""
    taken = []
    while (lane := scheduler.take()) is not None:
        taken.append(lane.head)
    return taken


# Until their next attempt


def test_parked_lane_holds_up_its_own_key_alone() -> None:
    """What was parked comes again, when it is due, before what came after it; other keys go on all the while."""
    scheduler, group = new_scheduler()
    scheduler.offer(group, "bad", 1)
    scheduler.park(take(scheduler), 10.0)
    for item, key in [(2, "bad"), (3, "good"), (4, "bad")]:
        scheduler.offer(group, key, item)
    assert heads(scheduler) == [3]
    assert (scheduler.release_due(9.9), heads(scheduler)) == (False, [])
    assert scheduler.release_due(10.0)
    lane = take(scheduler)
    order = [lane.head]
    while scheduler.advance(lane):
        order.append(lane.head)
    assert order == [1, 2, 4]


@given(delays=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 20)), max_size=30), now=st.integers(0, 20))
def test_exactly_what_is_due_becomes_ready(delays: list[tuple[int, int]], now: int) -> None:
    """In each partition in the order of its time, and among equals in that of their parking; the next is told."""
    scheduler, _ = new_scheduler()
    told: list[float] = []
    scheduler.on_parked = told.append
    groups = [LaneGroup[int](number) for number in range(3)]
    for item, (number, until) in enumerate(delays):
        scheduler.offer(groups[number], item, item)
        scheduler.park(take(scheduler), until)
    assert told == [until for _, until in delays]
    assert scheduler.next_due() == min(told, default=None)
    assert scheduler.release_due(now) is any(until <= now for until in told)
    for number, group in enumerate(groups):
        due = [(until, item) for item, (each, until) in enumerate(delays) if each == number and until <= now]
        assert [lane.head for lane in group.ready] == [item for _, item in sorted(due)]
        assert group.stuck == sum(each == number and until > now for each, until in delays)
    assert scheduler.next_due() == min((until for until in told if until > now), default=None)


def test_partition_that_is_gone_is_waited_for_no_more() -> None:
    """Parked lanes go with their partition; the time of another's stays."""
    scheduler, group = new_scheduler()
    other = LaneGroup[int]("other")
    for each, until in [(group, 5.0), (other, 9.0)]:
        scheduler.offer(each, "key", 1)
        scheduler.park(take(scheduler), until)
    scheduler.close(group)
    assert is_dropped(group)
    assert (scheduler.next_due(), scheduler.release_due(8.0)) == (9.0, False)
    scheduler.close(other)
    assert (scheduler.next_due(), scheduler.release_due(99.0)) == (None, False)


@pytest.mark.parametrize("is_kept", [True, False])
def test_parked_lane_is_small(is_kept: bool) -> None:
    """Beside its record and its key it takes a few hundred bytes, also after a batch, whatever became of that."""
    scheduler, group = new_scheduler()
    for item in range(1000):
        scheduler.offer(group, item, 0)
    lanes = [take(scheduler) for _ in range(1000)]
    tracemalloc.start()
    try:
        for lane in lanes:
            scheduler.gather(lane, 10)
            if is_kept:
                scheduler.keep(lane, [0])
            scheduler.park(lane, 5.0)
        assert tracemalloc.get_traced_memory()[0] < 1000 * 400
    finally:
        tracemalloc.stop()


def test_lane_without_an_error_remembers_none() -> None:
    """Saying so costs nothing; an error is remembered until then."""
    scheduler, group = new_scheduler()
    lane = scheduler.offer(group, "key", 1)
    lane.error = None
    assert lane.detour is None
    error = lane.error = ValueError()
    assert lane.error is error
    lane.error = None
    assert lane.error is None


@given(
    count=st.integers(1, 8),
    batches=st.lists(st.tuples(st.integers(1, 5), st.sets(st.integers(0, 4)), st.booleans()), max_size=8),
)
@example(count=4, batches=[(4, {0, 1, 2, 3}, True), (2, {0, 1}, True)])  # fewer than the time before
def test_records_of_a_lane_stay_in_order_whatever_is_done_of_a_batch(
    count: int, batches: list[tuple[int, set[int], bool]]
) -> None:
    """What is left of a batch comes before what wasn't in it, and before what comes later."""
    scheduler, group = new_scheduler()
    for item in range(count):
        scheduler.offer(group, "key", item)
    left = list(range(count))
    for most, undone, is_finished in batches:
        lane = take(scheduler)
        assert scheduler.gather(lane, most) == left[:most]
        if is_finished:
            remaining = [item for index, item in enumerate(left[:most]) if index in undone]
            left[:most] = remaining
            if not scheduler.keep(lane, remaining):
                break
        scheduler.put_back(lane)
        left.append(count)
        scheduler.offer(group, "key", count)
        count += 1
    last, found = scheduler.take(), []
    while last is not None:
        found.append(last.head)
        last = last if scheduler.advance(last) else None
    assert found == left
    assert not group.by_key


# Until they are filled


def test_lane_that_was_filled_early_and_has_failed_waits_for_its_own_time() -> None:
    """The time at which it would have been filled says nothing any more."""
    scheduler, group = new_scheduler()
    scheduler.lingering = Linger(size=2, due=5.0)
    for item, key in [(3, "b"), (1, "a"), (2, "a")]:
        scheduler.offer(group, key, item)
    scheduler.park(take(scheduler), 7.0)
    assert [until for until, _, _ in group.parked] == [5.0, 5.0, 7.0]
    assert scheduler.release_due(5.0)
    assert heads(scheduler) == [3]
    assert scheduler.release_due(7.0)
    assert heads(scheduler) == [1]


def test_lane_without_a_key_does_not_wait_to_be_filled() -> None:
    """Nothing can ever come behind it: it was late by the whole time, for nothing."""
    scheduler, group = new_scheduler()
    scheduler.lingering = Linger(size=2, due=5.0)
    scheduler.offer(group, None, 1)
    lane = take(scheduler)
    scheduler.put_back(lane)
    assert take(scheduler) is lane
    assert scheduler.next_due() is None


@pytest.mark.parametrize("lingering", [0, 1, 10])
def test_lanes_that_are_filled_before_they_are_due_leave_nothing(lingering: int) -> None:
    """They left entries in the heap, with their records, until they would have been due: more and more."""
    scheduler, group = new_scheduler()
    scheduler.lingering = Linger(size=2, due=1e9)
    for key in range(lingering):
        scheduler.offer(group, key, 0)
    for key in range(lingering, 1000):
        scheduler.offer(group, key, 0)
        scheduler.offer(group, key, 1)
        lane = take(scheduler)
        assert [scheduler.advance(lane) for _ in range(2)] == [True, False]
    assert len(group.by_key) == group.stuck == lingering
    assert len(group.parked) <= 2 * lingering
    assert scheduler.next_due() == (1e9 if lingering else None)


def test_forgetting_what_was_filled_costs_each_lane_the_same() -> None:
    """Ten times the lanes, ten times the work, however many of them wait when others are filled."""

    def fill(lanes: int) -> int:
        scheduler, group = new_scheduler()
        scheduler.lingering = Linger(size=2, due=1e9)

        def offer_twice() -> None:
            for item in range(2):
                for key in range(lanes):
                    scheduler.offer(group, key, item)

        steps = steps_of(offer_twice)
        assert len(group.ready) == lanes
        return steps

    assert fill(1000) < 10 * fill(100) * 1.2


@given(
    lanes=st.lists(st.tuples(st.integers(1, 30), st.booleans()), min_size=8, max_size=30),
    tried_at=st.none() | st.integers(1, 30),
)
@example(lanes=[(until, until > 10) for until in (1, 20, 2, 21, 22, 3, 4, 23, 24, 25, 26, 5, 6, 7, 8)], tried_at=None)
@example(lanes=[(9, True)] * 5 + [(8, False)], tried_at=2)  # its old time was later than that of its next attempt
def test_forgetting_what_was_filled_delays_nothing(lanes: list[tuple[int, bool]], tried_at: int | None) -> None:
    """What wasn't filled is ready in its time, and so is what was filled first and is to be tried again."""
    scheduler, group = new_scheduler()
    scheduler.lingering = Linger(size=2)
    expected = []
    for key, (until, _) in enumerate(lanes):
        scheduler.offer(group, key, until)
    for key, (until, is_filled) in enumerate(lanes):
        if not is_filled:
            expected.append((until, key))
            continue
        scheduler.offer(group, key, 0)
        lane = take(scheduler)
        assert lane.key == key
        if tried_at is not None:
            scheduler.park(lane, tried_at)
            expected.append((tried_at, key))
            tried_at = None
    found = []
    for now in range(1, 31):
        scheduler.release_due(now)
        while (lane_or_none := scheduler.take()) is not None:
            found.append((now, lane_or_none.key))
    assert sorted(found) == sorted(expected)
    assert scheduler.next_due() is None


def test_lane_that_waits_again_until_the_same_time_is_in_the_heap_once() -> None:
    """Records that came at the same moment make a lane due at the same moment, batch after batch."""
    scheduler, group = new_scheduler()
    scheduler.lingering = Linger(size=2, due=5.0)
    for key in range(10):
        scheduler.offer(group, key, 0)
    for _ in range(4):
        for key in (0, 1):
            scheduler.offer(group, key, 0)
            lane = take(scheduler)
            assert scheduler.advance(lane)
            scheduler.put_back(lane)
    assert len(group.parked) > 10  # there is room for it
    for key in range(2, 10):
        scheduler.offer(group, key, 0)
    assert sorted(str(lane.key) for until, _, lane in group.parked if lane.parked_until == until) == ["0", "1"]


def test_no_lane_lingers_any_more_once_that_is_over() -> None:
    """Whatever waited to be filled is ready, what comes is ready at once, and a record to be retried still waits."""
    scheduler, group = new_scheduler()
    scheduler.offer(group, "retried", 0)
    scheduler.park(take(scheduler), 7.0)
    scheduler.lingering = Linger(size=9, due=5.0)
    for item in (1, 2, 3):
        scheduler.offer(group, item, item)
    scheduler.stop_lingering()
    scheduler.offer(group, 4, 4)
    assert sorted(heads(scheduler)) == [1, 2, 3, 4]
    assert (scheduler.next_due(), group.stuck) == (7.0, 1)


# While they are held


def test_every_reason_has_to_be_gone() -> None:
    """Nothing is handed out while one is left, whatever was said twice."""
    scheduler, group = new_scheduler()
    scheduler.offer(group, "key", 1)
    for reason in ("paused", "circuit open", "paused"):
        scheduler.hold(reason)
    for reason in ("paused", "never held"):
        scheduler.release(reason)
        assert (bool(scheduler), scheduler.groups, scheduler.take()) == (False, (), None)
    scheduler.release("circuit open")
    assert (bool(scheduler), scheduler.groups) == (True, (group,))
    assert take(scheduler).head == 1


@pytest.mark.parametrize(("also", "goes_through"), [((), True), (("paused",), False)])
def test_probe_goes_through_what_it_may_alone(also: tuple[str, ...], goes_through: bool) -> None:
    """One lane is handed out in spite of one reason, not of two; all the others stay held."""
    scheduler, group = new_scheduler()
    for item in (1, 2):
        scheduler.offer(group, item, item)
    for reason in ("circuit open", *also):
        scheduler.hold(reason)
    lane = scheduler.take_despite("circuit open")
    assert (lane is not None) is goes_through
    assert (scheduler.is_held, scheduler.take()) == (True, None)


def test_held_partition_leaves_the_others_alone() -> None:
    """Whatever becomes ready in it waits; when it goes on it is behind the others, with nothing lost or doubled."""
    scheduler, held = new_scheduler()
    other = LaneGroup[int]("other")
    scheduler.offer(held, "a", 1)
    scheduler.offer(held, "b", 2)
    scheduler.park(take(scheduler), 5.0)
    scheduler.hold_group(held)
    scheduler.hold_group(held)
    scheduler.offer(held, "c", 3)
    scheduler.release_due(5.0)
    scheduler.offer(other, "d", 4)
    assert heads(scheduler) == [4]
    scheduler.offer(other, "e", 5)
    scheduler.release_group(held)
    scheduler.release_group(held)
    assert heads(scheduler) == [5, 2, 3, 1]


def test_partition_that_ends_while_it_is_held_is_gone() -> None:
    """Its end finds nothing of it in the turn, and letting it go on brings nothing back."""
    scheduler, group = new_scheduler()
    scheduler.offer(group, "key", 1)
    scheduler.hold_group(group)
    scheduler.close(group)
    scheduler.release_group(group)
    assert is_dropped(group)
    assert not scheduler


# 100,000 of them


def member_with_parked(parked: int) -> tuple[Member[Item], Assignment[Item], Assignment[Item]]:
    """Make a member of two partitions, with so many parked lanes in the first."""
    member = new_member(FlowLimits(10**6, 10**9))
    first = started(member)
    second = member.assign(OTHER)
    member.start(second, 0)
    for offset in range(parked):
        member.deliver(first, offset, Item(offset))
        member.lanes.park(taken(member), Moment(1000 + offset * 7919 % parked))
    return member, first, second


def costs(parked: int) -> dict[str, tuple[int, int]]:
    """Count the steps, and the comparisons of times, of whatever is done to a member with so many parked lanes."""
    member, first, second = member_with_parked(parked)
    lanes = member.lanes
    in_hands: list[Lane[Item]] = []
    found: dict[str, tuple[int, int]] = {}

    def measure(name: str, call: Callable[[], object]) -> None:
        compared = Moment.compared
        found[name] = steps_of(call), Moment.compared - compared

    measure("deliver beside", lambda: [member.deliver(second, "key", Item(offset)) for offset in range(3)])
    measure("deliver another key", lambda: member.deliver(first, "another", Item(parked)))
    measure("deliver behind", lambda: member.deliver(first, 0, Item(parked + 1)))
    measure("take", lambda: in_hands.extend([taken(member), taken(member)]))
    measure("complete beside", lambda: second.complete(in_hands[0].head) and lanes.advance(in_hands[0]))
    measure("put back", lambda: lanes.put_back(in_hands[0]))
    measure("gather", lambda: lanes.gather(taken(member), 2))
    measure("keep", lambda: lanes.keep(in_hands[0], []))
    measure("retry", lambda: lanes.park(in_hands[1], Moment(999)))
    measure("when", lanes.next_due)
    measure("nothing is due", lambda: lanes.release_due(998))
    measure("one is due", lambda: lanes.release_due(999))
    measure("seal", lambda: lanes.seal(taken(member)))
    measure("next attempt", lambda: first.replace(Item(0, attempt=2)))
    measure("hold", lambda: lanes.hold("paused"))
    measure("go on", lambda: lanes.release("paused"))
    measure("hold one", lambda: lanes.hold_group(first.lanes))
    measure("let it go on", lambda: lanes.release_group(first.lanes))
    first.pause_reason = "buffer full"
    measure("resume", lambda: member.resume_if_low(first))
    measure("pause", lambda: member.pause_if_full(first))
    return found


def test_cost_of_nothing_grows_with_parked_lanes() -> None:
    """With 100,000 parked lanes whatever is done to any lane takes the steps that it takes with ten of them."""
    few, many = costs(10), costs(100_000)
    for name, (steps, compared) in many.items():
        assert steps <= few[name][0] * 1.1 + 10, name
        assert compared <= 10 * log2(100_000), name
    assert few["take"][0] > 10
    assert many["one is due"][1] > 1


def test_partition_without_failures_is_served_as_if_it_were_alone() -> None:
    """Whatever is parked in another partition, even if more fails all the while, takes no turn of it."""
    member, first, second = member_with_parked(1000)
    for offset in range(100):
        member.deliver(second, offset % 10, Item(offset))
    member.deliver(first, "fails", Item(1000))
    served = []
    for now in range(200):
        lane = member.lanes.take()
        if lane is None:
            break
        owner: Assignment[Item] = lane.group.owner
        served.append(owner.partition)
        if owner is first:
            member.lanes.park(lane, now + 500)
        else:
            second.complete(lane.head)
            if member.lanes.advance(lane):
                member.lanes.put_back(lane)
    assert served.count(OTHER) == 100
    assert served.count(ORDERS) == 1


def test_partition_full_of_parked_lanes_pauses_and_goes_on() -> None:
    """Its bound holds though all fail at first; it fetches again while lanes are parked, and another never pauses."""
    limits = FlowLimits(max_records=400, max_bytes=10**9)
    member = new_member(limits)
    first = started(member)
    second = member.assign(OTHER)
    member.start(second, 0)
    left = {first: 2000, second: 2000}
    resumed_among_parked = pauses = now = 0
    while any(left.values()) or len(first.tracker):
        for assignment, more in left.items():
            if assignment.pause_reason is None and more:
                for _ in range(limits.batch_size):
                    offset = assignment.tracker.next_offset
                    member.deliver(assignment, offset, Item(offset))
                left[assignment] = more - limits.batch_size
                assert len(assignment.tracker) <= limits.max_records
                pauses += member.pause_if_full(assignment)
                assert second.pause_reason is None
        while (lane := member.lanes.take()) is not None:
            owner: Assignment[Item] = lane.group.owner
            if owner is first and lane.head.attempt == 1:
                lane.head = attrs.evolve(lane.head, attempt=2)
                owner.replace(lane.head)
                member.lanes.park(lane, now + 50 + lane.head.offset % 50)
                continue
            owner.complete(lane.head)
            assert not member.lanes.advance(lane)
            if member.resume_if_low(owner):
                resumed_among_parked += len(owner.tracker) == owner.lanes.stuck > 0
        assert first.lanes.stuck == len(first.tracker)
        now += 1
        member.lanes.release_due(now)
    assert (first.tracker.position, second.tracker.position) == (2000, 2000)
    assert pauses > 1
    assert resumed_among_parked
