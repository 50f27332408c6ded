"""One member's core: what each call does, and that a call that fails changes nothing."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import pytest
from core.kit import ORDERS, Item, new_member, started, state_of, taken

from trio_parallel_kafka.core.assignments import Assignment, Phase, TopicPartition, TransitionError
from trio_parallel_kafka.core.flow import FlowLimits
from trio_parallel_kafka.core.member import BUFFER_FULL, ENOUGH_READ, POSITION_UNKNOWN, STOPPING, Member
from trio_parallel_kafka.core.tracker import OffsetWentBackError

SMALL = FlowLimits(max_records=8, max_bytes=1000)
OTHER = TopicPartition("orders", 1)


def fill(member: Member[Item], assignment: Assignment[Item], keys: str, size: int = 1) -> None:
    """Deliver a record for each letter."""
    for key in keys:
        member.deliver(assignment, key, Item(assignment.tracker.next_offset, size))


def complete_one(member: Member[Item]) -> None:
    """Take a lane, complete its head, put it back."""
    lane = taken(member)
    assert lane.group.owner.complete(lane.head)
    if member.lanes.advance(lane):
        member.lanes.put_back(lane)


def busy_member() -> tuple[Member[Item], Assignment[Item]]:
    """Make a member with lanes anywhere, paused, with a commit acknowledged and one to be made."""
    member = new_member()
    assignment = started(member, 5, ((7, 8),))
    member.ledger.inherit(assignment, 5, "")
    fill(member, assignment, "aabcde")
    complete_one(member)
    member.lanes.seal(taken(member))
    member.lanes.park(taken(member), 5.0)
    taken(member)
    assignment.pause_reason = BUFFER_FULL
    member.assign(OTHER)
    return member, assignment


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda member, each: member.deliver(each, "a", Item(3)), OffsetWentBackError),
        (lambda member, each: member.deliver(each, [], Item(50)), TypeError),
        (lambda member, each: member.deliver_failed(each, Item(3), ValueError()), OffsetWentBackError),
        (lambda _member, each: each.complete(Item(5)), KeyError),
        (lambda member, each: member.assign(each.partition), TransitionError),
        (lambda member, _each: member.assign(OTHER), TransitionError),
        (lambda member, each: member.start(each, 9, ((10, 11),), b"i" * 16), TransitionError),
        (lambda member, _each: member.begin_revoke(member.assignments.get(OTHER)), TransitionError),
    ],
    ids=[
        "went back",
        "unhashable",
        "failed and went back",
        "twice",
        "owned",
        "starting",
        "started",
        "revoked while starting",
    ],
)
def test_call_that_fails_changes_nothing(
    call: Callable[[Member[Item], Assignment[Item]], object], error: type[Exception]
) -> None:
    """Whatever is refused leaves tracker, lanes, bytes, phase, pause and ledger as they were."""
    member, assignment = busy_member()
    before = state_of(member)
    with pytest.raises(error):
        call(member, assignment)
    assert state_of(member) == before


@pytest.mark.parametrize("ends_after_revoke", [True, False])
def test_ended_assignment_refuses_to_move(ends_after_revoke: bool) -> None:
    """After its end nothing starts it, revokes it or ends it again, and nothing changes by trying."""
    member, assignment = busy_member()
    if ends_after_revoke:
        member.begin_revoke(assignment)
    member.end(assignment)
    current = started(member, 5)
    fill(member, current, "ab")
    member.acknowledge(member.pending_commits())
    before = state_of(member, assignment)
    for call in (member.begin_revoke, member.end, lambda each: member.start(each, 0)):
        with pytest.raises(TransitionError):
            call(assignment)
        assert state_of(member, assignment) == before


def test_revoking_twice_is_refused() -> None:
    """A second revoke, or a position that comes too late, changes nothing."""
    member, assignment = busy_member()
    member.begin_revoke(assignment)
    before = state_of(member)
    with pytest.raises(TransitionError):
        member.begin_revoke(assignment)
    with pytest.raises(TransitionError):
        member.start(assignment, 0)
    assert state_of(member) == before


def test_assigned_partition_waits_for_its_position() -> None:
    """Until it starts, it is paused and says why; neither full nor low changes that."""
    member = new_member(SMALL)
    assignment = member.assign(ORDERS)
    assert (assignment.phase, assignment.pause_reason) == (Phase.STARTING, POSITION_UNKNOWN)
    assert not member.pause_if_full(assignment)
    assert not member.resume_if_low(assignment)
    member.start(assignment, 5, topic_id=b"i" * 16)
    assert (assignment.phase, assignment.pause_reason, assignment.topic_id) == (Phase.ACTIVE, None, b"i" * 16)
    assert member.assignments.get(ORDERS) is assignment


def test_delivered_record_is_handled_unless_an_earlier_owner_completed_it() -> None:
    """What the map says is completed costs neither lane nor bytes."""
    member = new_member()
    assignment = started(member, 5, ((6, 7),))
    assert [member.deliver(assignment, "a", Item(offset, 10)) for offset in (5, 6, 7)] == [True, False, True]
    assert assignment.buffered_bytes == 20
    lane = taken(member)
    assert (lane.head.offset, lane.waiting) == (5, 1)


def test_delivered_records_without_an_order() -> None:
    """Of several, those are handled that no earlier owner completed; each as soon as a worker is free."""
    member = new_member()
    member.lanes.may_be_loose = True
    assignment = started(member, 5, ((7, 8),))
    assert member.deliver_loose(assignment, [5, 6, 7], [Item(5), Item(6), Item(7)]) == 2
    assert {taken(member).head.offset, taken(member).head.offset} == {5, 6}
    assert member.lanes.take() is None
    assert member.deliver_loose(assignment, [8], [Item(8)]) == 1


def test_revoked_partition_starts_nothing_but_counts_what_completes() -> None:
    """Of a revoked partition nothing is handed out; what runs may complete, and is committed."""
    member = new_member()
    assignment = started(member)
    fill(member, assignment, "aab")
    lane = taken(member)
    member.begin_revoke(assignment)
    assert member.lanes.take() is None
    assert assignment.complete(lane.head)
    assert not member.lanes.advance(lane)
    assert [entry.offset for entry in member.pending_commits([assignment])] == [1]


@pytest.mark.parametrize("is_revoked", [True, False])
def test_end_drops_everything(is_revoked: bool) -> None:
    """After the end nothing is handed out, completed, pending or acknowledged; a late completion changes nothing."""
    member, assignment = busy_member()
    lane = taken(member)
    if is_revoked:
        member.begin_revoke(assignment)
    member.end(assignment)
    before = state_of(member, assignment)
    assert member.lanes.take() is None
    assert not assignment.complete(lane.head)
    assert member.pending_commits([assignment]) == ()
    assert member.ledger.acknowledged(assignment) is None
    assert state_of(member, assignment) == before
    assert member.assignments.get(ORDERS) is None


def test_end_leaves_other_partitions_alone() -> None:
    """Losing one partition takes nothing from another."""
    member = new_member()
    first, second = started(member), member.assign(OTHER)
    member.start(second, 0)
    fill(member, first, "a")
    fill(member, second, "ab")
    member.acknowledge(member.pending_commits())
    member.end(first)
    assert [taken(member).group.owner for _ in range(2)] == [second, second]
    assert member.ledger.acknowledged(second) is not None


def test_commits_are_of_all_partitions_or_of_those_asked_for() -> None:
    """Without a choice every current assignment is looked at; what is acknowledged isn't pending."""
    member = new_member()
    first, second = started(member, 3), member.assign(OTHER)
    member.start(second, 4)
    assert {entry.offset for entry in member.pending_commits()} == {3, 4}
    assert [entry.offset for entry in member.pending_commits([second])] == [4]
    assert member.pending_commits([]) == ()
    member.acknowledge(member.pending_commits([first]))
    assert [entry.offset for entry in member.pending_commits()] == [4]


def test_acknowledgement_counts_in_its_own_assignment_alone() -> None:
    """An answer to an ended assignment's commit doesn't make the next one clean."""
    member = new_member()
    first = started(member, 3)
    sent = member.pending_commits()
    member.end(first)
    started(member, 3)
    member.acknowledge(sent)
    assert [entry.assignment_epoch for entry in member.pending_commits()] == [2]


def check_resumed_by_the_third_completion(member: Member[Item], assignment: Assignment[Item]) -> None:
    """Two change nothing; the third is what it takes, and that is said once."""
    for _ in range(2):
        complete_one(member)
        assert not member.resume_if_low(assignment)
    complete_one(member)
    assert member.resume_if_low(assignment)
    assert assignment.pause_reason is None
    assert not member.resume_if_low(assignment)


def test_full_partition_pauses_once_and_resumes_once() -> None:
    """Full is said when it happens, low likewise, and each only once."""
    member = new_member(SMALL)
    assignment = started(member)
    fill(member, assignment, "abcdef")
    assert not member.pause_if_full(assignment)
    fill(member, assignment, "g")
    assert member.pause_if_full(assignment)
    assert assignment.pause_reason == BUFFER_FULL
    assert not member.pause_if_full(assignment)
    check_resumed_by_the_third_completion(member, assignment)


def test_bytes_alone_fill_a_partition() -> None:
    """A few large records pause it as many small ones do."""
    member = new_member(SMALL)
    assignment = started(member)
    fill(member, assignment, "ab", size=500)
    assert member.pause_if_full(assignment)
    complete_one(member)
    assert member.resume_if_low(assignment)


@pytest.mark.parametrize(
    ("full", "hung", "sealed", "parked", "resumes"),
    [
        ("aaaabcd", "", "", "", False),  # seven may run: more than half
        ("aaaabcd", "a", "", "", False),  # three may, but not enough is free
        ("aaaabcd", "", "", "abcd", False),
        ("aaaab", "", "", "", False),
        ("aaaab", "a", "", "", True),  # four are stuck behind one, one may run
        ("aaaab", "", "a", "", True),
        ("aaaab", "", "", "a", True),
        ("aaabb", "", "", "b", True),
        ("aabbc", "a", "b", "", True),
        ("aabbc", "", "", "ab", True),
        ("aabbc", "a", "", "b", True),
        ("abcde", "", "", "", False),
        ("abcde", "a", "", "", True),  # of five, four may run: half of the bound
        ("abcde", "", "", "e", True),
    ],
)
def test_records_behind_a_stuck_one_do_not_count_as_runnable(
    full: str, hung: str, sealed: str, parked: str, resumes: bool
) -> None:
    """A hung, sealed or parked lane holds up its own records, not its partition, while there is room."""
    member = new_member(SMALL)
    assignment = started(member)
    fill(member, assignment, full)
    assignment.pause_reason = BUFFER_FULL
    stuck = []
    for _ in set(full):
        lane = taken(member)
        if str(lane.key) in hung:
            stuck.append(lane)
        elif str(lane.key) in sealed:
            member.lanes.seal(lane)
        elif str(lane.key) in parked:
            member.lanes.park(lane, 5.0)
        else:
            member.lanes.put_back(lane)
    assert member.resume_if_low(assignment, stuck) is resumes


def test_what_comes_behind_a_parked_record_does_not_count_as_runnable_until_it_is_due() -> None:
    """Records that come for a parked lane wait with it; once it is due, all of them may run again."""
    member = new_member(SMALL)
    assignment = started(member)
    fill(member, assignment, "a")
    member.lanes.park(taken(member), 5.0)
    fill(member, assignment, "aaaab")
    assignment.pause_reason = BUFFER_FULL
    assert member.lanes.release_due(5.0)
    assert not member.resume_if_low(assignment)
    complete_one(member)
    assert not member.resume_if_low(assignment)
    member.lanes.park(taken(member), 10.0)
    assert member.resume_if_low(assignment)


AHEAD = FlowLimits(max_records=100, max_bytes=10**6, read_ahead=6, read_in_all=0)


def hands_of(*lanes: object) -> Callable[[object], int]:
    """Tell that workers have these lanes."""
    return lambda _: len(lanes)


def test_partition_with_enough_read_pauses_until_a_third_of_it_is_handled() -> None:
    """What workers have in their hands doesn't count; six wait, so the seventh is enough, and four are little."""
    member = new_member(AHEAD)
    assignment = started(member)
    fill(member, assignment, "abcdefgh")
    hands = [taken(member), taken(member)]
    assert not member.pause_if_enough(assignment, hands_of(*hands))
    fill(member, assignment, "i")
    assert member.pause_if_enough(assignment, hands_of(*hands))
    assert assignment.pause_reason == ENOUGH_READ
    assert not member.pause_if_enough(assignment, hands_of(*hands))
    assert not member.pause_if_full(assignment)
    check_resumed_by_the_third_completion(member, assignment)


def test_partition_with_enough_read_stays_paused_while_it_is_full() -> None:
    """Records that were put aside, or came after it had paused, keep room that the next batch would need."""
    member = new_member(attrs.evolve(AHEAD, max_records=16))
    assignment = started(member)
    fill(member, assignment, "abcdefgh")
    assert member.pause_if_enough(assignment, hands_of())
    fill(member, assignment, "ijklm")
    for _ in range(10):
        member.lanes.park(taken(member), 5.0)
    assert not member.resume_if_low(assignment)
    complete_one(member)
    assert member.resume_if_low(assignment)


def test_partition_reads_on_while_all_together_have_little() -> None:
    """One that has all there is to do may read as much as its bound allows."""
    member = new_member(attrs.evolve(AHEAD, read_in_all=20))
    first, second = started(member), member.assign(OTHER)
    member.start(second, 0)
    fill(member, second, "a" * 12)
    fill(member, first, "abcdefgh")
    assert not member.pause_if_enough(first, hands_of())
    fill(member, first, "i")
    assert member.pause_if_enough(first, hands_of())


def test_nobody_is_asked_what_is_in_hands_while_that_decides_nothing() -> None:
    """Counting that takes time in proportion to the workers."""
    member = new_member(AHEAD)
    assignment = started(member)
    fill(member, assignment, "abcdef")
    assert not member.pause_if_enough(assignment, lambda _: 1 // 0)


def test_records_of_a_running_key_are_not_enough_when_no_lane_waits_for_a_worker() -> None:
    """Reading goes on past those of a hot key up to half of the bound, or the partition's others would starve."""
    member = new_member(AHEAD)
    assignment = started(member)
    fill(member, assignment, "a" * 30)
    hot = taken(member)
    assert not member.pause_if_enough(assignment, hands_of(hot))
    fill(member, assignment, "b")
    assert member.pause_if_enough(assignment, hands_of(hot))
    assert not member.resume_if_dry(assignment, 1)  # "b" waits for a worker
    complete_one(member)
    assert not member.resume_if_low(assignment)
    assert member.resume_if_dry(assignment, 1)
    fill(member, assignment, "a" * 21 + "b")
    assert member.pause_if_enough(assignment, hands_of(hot))
    complete_one(member)
    assert not member.resume_if_dry(assignment, 0)  # 51 are over half of the bound
    assert member.resume_if_dry(assignment, 1)  # but one of them is in a worker's hands
    fill(member, assignment, "ab")
    assert member.pause_if_enough(assignment, hands_of(hot))
    complete_one(member)
    assert not member.resume_if_dry(assignment, 1)
    assert member.resume_if_dry(assignment, 0, [hot])  # it hangs, so none of them can run
    assert assignment.pause_reason is None


def test_enough_read_is_no_reason_to_go_on_with_a_partition_that_is_let_go() -> None:
    """It stays paused while it is revoked, whatever is handled in its grace."""
    member = new_member(AHEAD)
    assignment = started(member)
    fill(member, assignment, "abcdefgh")
    assert member.pause_if_enough(assignment, hands_of())
    member.begin_revoke(assignment)
    for offset in range(8):
        assignment.complete(Item(offset))
    assert not member.resume_if_low(assignment)
    assert not member.resume_if_dry(assignment, 1)


def test_record_that_has_failed_before_it_got_a_key_has_a_lane_of_its_own() -> None:
    """Its error is found there; it counts as buffered like any other."""
    member = new_member()
    assignment = started(member)
    error = ValueError("no key")
    assert member.deliver_failed(assignment, Item(0, 10), error)
    assert member.deliver(assignment, None, Item(1, 10))
    lanes = [taken(member), taken(member)]
    assert [(lane.key, lane.head.offset, lane.error) for lane in lanes] == [(None, 0, error), (None, 1, None)]
    assert (len(assignment.tracker), assignment.buffered_bytes) == (2, 20)


def test_error_of_what_an_earlier_owner_completed_is_not_looked_at() -> None:
    """It has no lane."""
    member = new_member()
    assignment = started(member, 0, ((0, 1),))
    assert not member.deliver_failed(assignment, Item(0), ValueError("no key"))
    assert member.lanes.take() is None


def test_other_reasons_to_pause_are_left_alone() -> None:
    """A partition that is paused because of a stop, or is being revoked, isn't resumed."""
    member = new_member(SMALL)
    assignment = started(member)
    assignment.pause_reason = STOPPING
    assert not member.resume_if_low(assignment)
    fill(member, assignment, "abcdefg")
    assert not member.pause_if_full(assignment)
    assert assignment.pause_reason == STOPPING
    assignment.pause_reason = BUFFER_FULL
    member.begin_revoke(assignment)
    for offset in range(7):
        assignment.complete(Item(offset))
    assert not member.resume_if_low(assignment)
