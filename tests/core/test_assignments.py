"""Assignments: phases, the fence, and the registry against a plain dictionary."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import pytest
from core.kit import ORDERS, Item, state_of_assignment
from hypothesis import example, given, strategies as st

from trio_parallel_kafka.core.assignments import (
    TRANSITIONS,
    Assignment,
    AssignmentRegistry,
    Phase,
    TopicPartition,
    TransitionError,
)
from trio_parallel_kafka.core.tracker import OffsetWentBackError

Move = Literal["start", "begin_revoke", "end"]
MOVES: dict[Move, Callable[[Assignment[Item]], None]] = {
    "start": lambda assignment: assignment.start(5),
    "begin_revoke": Assignment.begin_revoke,
    "end": Assignment.end,
}
LEADS_TO = {"start": Phase.ACTIVE, "begin_revoke": Phase.REVOKING, "end": Phase.ENDED}
ALLOWED = {
    (Phase.STARTING, "start"),
    (Phase.STARTING, "end"),
    (Phase.ACTIVE, "begin_revoke"),
    (Phase.ACTIVE, "end"),
    (Phase.REVOKING, "end"),
}
PHASES = list(Phase)

moves = st.lists(st.sampled_from(list(MOVES)), max_size=6)
offsets = st.integers(0, 10)


def after(*names: Move) -> Assignment[Item]:
    """Make an assignment that went through these moves."""
    assignment: Assignment[Item] = Assignment(ORDERS, 1)
    for name in names:
        MOVES[name](assignment)
    return assignment


@given(names=moves)
@example(names=["begin_revoke"])  # it was allowed, and the commit that follows carried offset 0
@example(names=["end", "end"])
def test_phases_only_move_forward(names: list[Move]) -> None:
    """A move along the table leads where it says; any other is refused, and changes nothing."""
    assignment = after()
    for name in names:
        before, phase = state_of_assignment(assignment), assignment.phase
        if (phase, name) in ALLOWED:
            MOVES[name](assignment)
            assert assignment.phase is LEADS_TO[name]
        else:
            with pytest.raises(TransitionError, match=rf"orders\[0\] epoch=1 {phase.value}> can't become"):
                MOVES[name](assignment)
            assert state_of_assignment(assignment) == before


def test_table_leads_forward_and_to_an_end() -> None:
    """Every phase is in the table, leads to later ones alone, and can end."""
    assert set(TRANSITIONS) == set(Phase)
    for phase, targets in TRANSITIONS.items():
        assert all(PHASES.index(target) > PHASES.index(phase) for target in targets)
        assert (Phase.ENDED in targets) is (phase is not Phase.ENDED)


@pytest.mark.parametrize(
    ("names", "is_current"),
    [
        ([], False),
        (["start"], True),
        (["start", "begin_revoke"], True),
        (["start", "begin_revoke", "end"], False),
        (["start", "end"], False),
        (["end"], False),
    ],
)
def test_assignment_is_current_from_its_start_to_its_end(names: list[Move], is_current: bool) -> None:
    """Completions count, and commits are made, only in between."""
    assignment = after(*names)
    assert assignment.is_current is is_current
    if not is_current:
        before = state_of_assignment(assignment)
        assert assignment.complete(Item(5)) is False
        assert state_of_assignment(assignment) == before


def test_start_takes_position_map_and_topic_id() -> None:
    """What an earlier owner completed isn't handled, nor counted as buffered."""
    assignment = after()
    assignment.start(5, ((6, 7),), b"i" * 16)
    assert assignment.tracker.position == 5
    assert [assignment.seen(Item(offset, size=10)) for offset in (5, 6, 7)] == [True, False, True]
    assert assignment.buffered_bytes == 20
    assert assignment.topic_id == b"i" * 16


@given(steps=st.lists(st.tuples(st.sampled_from(["seen", "complete"]), offsets, st.integers(0, 9)), max_size=40))
@example(steps=[("seen", 1, 5), ("complete", 1, 5), ("complete", 1, 5)])
def test_buffered_bytes_are_those_of_incomplete_records(steps: list[tuple[str, int, int]]) -> None:
    """Bytes follow what was seen and isn't completed; what is refused changes nothing."""
    assignment: Assignment[Item] = Assignment(ORDERS, 1)
    assignment.start(0)
    incomplete: dict[int, Item] = {}
    read_to = 0
    for name, offset, size in steps:
        before = state_of_assignment(assignment)
        if name == "seen" and offset >= read_to:
            incomplete[offset] = Item(offset, size)
            assert assignment.seen(incomplete[offset])
            read_to = offset + 1
        elif name == "seen":
            with pytest.raises(OffsetWentBackError):
                assignment.seen(Item(offset, size))
            assert state_of_assignment(assignment) == before
        elif offset in incomplete:
            assert assignment.complete(incomplete.pop(offset))
        else:
            with pytest.raises(KeyError):
                assignment.complete(Item(offset, size))
            assert state_of_assignment(assignment) == before
        assert assignment.buffered_bytes == sum(item.size for item in incomplete.values())


@pytest.mark.parametrize(
    ("names", "counts"), [(["start"], True), (["start", "begin_revoke"], True), (["start", "end"], False)]
)
def test_next_attempt_takes_the_place_of_the_one_that_failed(names: list[Move], counts: bool) -> None:
    """It is what is told of the offset, in its old place and with its old bytes; after the end nothing changes."""
    assignment = after(*names[:1])
    first, second = Item(5, size=10), Item(6, size=20)
    assignment.seen(first)
    assignment.seen(second)
    for name in names[1:]:
        MOVES[name](assignment)
    again = Item(5, size=10, attempt=2)
    assignment.replace(again)
    assert assignment.tracker.oldest is (again if counts else first)
    assert (len(assignment.tracker), assignment.buffered_bytes, assignment.tracker.position) == (2, 30, 5)
    assert assignment.complete(again) is counts


def test_next_attempt_of_what_is_not_incomplete_is_refused() -> None:
    """It would be taken for a record that was just seen, and be committed never."""
    assignment = after("start")
    assignment.seen(Item(5))
    assignment.complete(Item(5))
    before = state_of_assignment(assignment)
    with pytest.raises(AssertionError):
        assignment.replace(Item(5))
    assert state_of_assignment(assignment) == before


@given(steps=st.lists(st.tuples(st.sampled_from(["assign", "end", "end again"]), st.integers(0, 2)), max_size=30))
@example(steps=[("assign", 0), ("assign", 0)])
@example(steps=[("assign", 0), ("end", 0), ("assign", 0), ("end again", 0)])  # the old one doesn't end the new one
def test_registry_matches_a_dictionary(steps: list[tuple[str, int]]) -> None:
    """A partition has one assignment at most, each with a higher epoch, and the ended ones are forgotten."""
    registry: AssignmentRegistry[Item] = AssignmentRegistry()
    current: dict[TopicPartition, Assignment[Item]] = {}
    ended: list[Assignment[Item]] = []
    epoch = 0
    for name, number in steps:
        partition = TopicPartition("orders", number)
        if name == "assign" and partition not in current:
            current[partition] = registry.assign(partition)
            epoch += 1
            opened = current[partition]
            assert (opened.partition, opened.assignment_epoch, opened.phase) == (partition, epoch, Phase.STARTING)
        elif name == "assign":
            with pytest.raises(TransitionError, match="is still current"):
                registry.assign(partition)
        elif name == "end" and partition in current:
            registry.end(current[partition])
            ended.append(current.pop(partition))
        elif name == "end again" and ended:
            with pytest.raises(TransitionError, match="can't become ended"):
                registry.end(ended[number % len(ended)])
        assert {each.partition: each for each in registry} == current
        assert len(registry) == len(current)
        for each in range(3):
            assert registry.get(("orders", each)) is current.get(TopicPartition("orders", each))


def test_registry_may_change_while_it_is_walked() -> None:
    """Ending what a loop comes to is no error."""
    registry: AssignmentRegistry[Item] = AssignmentRegistry()
    for number in range(3):
        registry.assign(TopicPartition("orders", number))
    for assignment in registry:
        registry.end(assignment)
    assert len(registry) == 0


def test_names_tell_who_is_who() -> None:
    """Errors and logs name topic, partition, epoch and phase."""
    assert repr(after("start")) == "<Assignment orders[0] epoch=1 active>"
