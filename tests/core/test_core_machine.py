"""The whole core, in three members that share a broker: the promises hold whatever happens, in whatever order."""

from __future__ import annotations

from core.machine import PARTITIONS, TOPIC_ID, Content, CoreMachine
from core.naive_broker import Tenure
from hypothesis import settings

from trio_parallel_kafka.core.flow import FlowLimits

TestCoreMachine = CoreMachine.TestCase
TestCoreMachine.settings = settings(stateful_step_count=50, max_examples=150)


def a_machine(content: Content) -> CoreMachine:
    """Make a machine with wide bounds, key order, and these records in one of two partitions."""
    machine = CoreMachine()
    machine.begin(FlowLimits(40, 100), "key", TOPIC_ID, (content, []))
    return machine


def check(machine: CoreMachine) -> None:
    """Check all promises."""
    machine.nothing_is_lost()
    machine.only_owners_commit()
    machine.clean_means_committed()
    machine.bounds_are_kept()
    machine.everything_is_somewhere()
    machine.attempts_are_noted()


def play(machine: CoreMachine, *plan: tuple[str, int]) -> None:
    """Let a machine work, and check all promises after each act."""
    for act in plan:
        machine.work([act])
        check(machine)


def hand_over(machine: CoreMachine, *, is_taken: bool) -> Tenure:
    """Revoke the first partition, and give it to another member."""
    machine.suffer(0, is_taken, "revoked")
    machine.end_revoke(0, is_taken, earlier=False)
    machine.assign_what_is_free(1, starts=True)
    check(machine)
    tenure = machine.logs[PARTITIONS[0]].owner
    assert tenure is not None
    return tenure


ONE_KEY_HANGS = [(0, b"a", 1), (0, b"b", 1), (5, b"c", 1), (0, b"a", 1), (0, b"b", 1), (1, b"b", 0)]
WHILE_ONE_HANGS = [("fetch to the end", 8), *[("take", 0)] * 3, *[("go on", 1)] * 3]


def test_graceful_hand_over_replays_only_what_hangs() -> None:
    """With one record hung, its key's are all that the next owner is offered, across a gap and markers at the end."""
    machine = a_machine(ONE_KEY_HANGS)
    play(machine, *WHILE_ONE_HANGS)
    tenure = hand_over(machine, is_taken=True)
    play(machine, ("fetch to the end", 8))
    assert [item.offset for item in tenure.assignment.tracker._incomplete.values()] == [0, 8]
    play(machine, ("go on", 0))  # the hung handler returns at last
    assert len(tenure.assignment.tracker) == 2


def test_hand_over_without_a_commit_replays_in_order() -> None:
    """When the last commit fails, all comes again, in the order of each key."""
    machine = a_machine(ONE_KEY_HANGS)
    play(machine, *WHILE_ONE_HANGS)
    tenure = hand_over(machine, is_taken=False)
    play(machine, ("fetch to the end", 8), *[("take", 0)] * 3, *[("go on", 9)] * 5)
    assert tenure.started == {0, 1, 7, 8, 9}


def test_commit_whose_answer_is_lost_is_sent_again() -> None:
    """The broker took it and the answer never came: it stays to be committed, and the next owner has it anyway."""
    machine = a_machine(ONE_KEY_HANGS)
    play(machine, *WHILE_ONE_HANGS)
    machine.send_commits()
    machine.answer_commit(0, "taken, answer lost")
    check(machine)
    owner = machine.logs[PARTITIONS[0]].owner
    assert owner is not None
    assert len(owner.process.member.pending_commits([owner.assignment])) == 1
    machine.suffer(0, is_taken=False, how="lost")
    machine.assign_what_is_free(1, starts=True)
    play(machine, ("fetch to the end", 8))
    owner = machine.logs[PARTITIONS[0]].owner
    assert owner is not None
    assert len(owner.assignment.tracker) == 2


def test_answer_that_comes_after_the_partition_came_back_changes_nothing() -> None:
    """A member that lost a partition and got it again isn't told by an old answer that it is clean."""
    machine = a_machine(ONE_KEY_HANGS)
    play(machine, *WHILE_ONE_HANGS)
    machine.send_commits()
    machine.suffer(0, is_taken=True, how="lost")
    machine.assign_what_is_free(6, starts=False)
    machine.answer_commit(0, "taken")
    check(machine)
    machine.start_late(0)
    check(machine)
    assert machine.logs[PARTITIONS[0]].owner is not None
