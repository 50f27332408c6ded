"""What is to be committed, and when the broker has it."""

from __future__ import annotations

from typing import Literal

import pytest
from core.kit import ORDERS, Item, to_offsets
from hypothesis import example, given, strategies as st

from trio_parallel_kafka.core.assignments import Assignment, TopicPartition, TransitionError
from trio_parallel_kafka.core.commits import CommitEntry, CommitLedger
from trio_parallel_kafka.core.metadata import read_metadata
from trio_parallel_kafka.core.offset_map import MAX_METADATA_LENGTH

TOPIC_ID = bytes(range(16))

Operation = tuple[Literal["see", "complete", "send", "answer", "lose"], int]
operations = st.lists(
    st.tuples(st.sampled_from(["see", "see", "complete", "send", "answer", "lose"]), st.integers(0, 20)), max_size=40
)


def active(position: int = 0, epoch: int = 1, topic_id: bytes | None = None) -> Assignment[Item]:
    """Make an assignment that is read."""
    assignment: Assignment[Item] = Assignment(ORDERS, epoch)
    assignment.start(position, topic_id=topic_id)
    return assignment


def acknowledge(ledger: CommitLedger, entries: tuple[CommitEntry, ...], epoch: int = 1) -> None:
    """Let the broker take entries, in an assignment epoch."""
    ledger.acknowledge(entries, {ORDERS: epoch})


@given(steps=operations)
@example(steps=[("see", 0), ("send", 0), ("complete", 0), ("answer", 0)])  # the answer is about what was, not what is
@example(steps=[("send", 0), ("lose", 0)])
def test_clean_means_that_the_broker_holds_it(steps: list[Operation]) -> None:
    """Nothing is pending exactly while the last acknowledged commit says what the tracker says now."""
    ledger, assignment = CommitLedger(), active()
    sent: list[CommitEntry] = []
    held: tuple[int, str] | None = None
    for name, number in steps:
        if name == "see":
            assignment.seen(Item(assignment.tracker.next_offset + number % 3))
        elif name == "complete" and len(assignment.tracker):
            incomplete = list(assignment.tracker._incomplete.values())
            assignment.complete(incomplete[number % len(incomplete)])
        elif name == "send":
            sent.extend(ledger.pending([assignment]))
        elif name == "answer" and sent:
            entry = sent.pop(0)
            held = entry.offset, entry.metadata
            acknowledge(ledger, (entry,))
        elif name == "lose" and sent:
            sent.pop(0)
        now = ledger.entry_of(assignment)
        assert (now.offset, now.assignment_epoch) == (assignment.tracker.position, 1)
        assert ledger.pending([assignment]) == (() if held == (now.offset, now.metadata) else (now,))
        told = ledger.acknowledged(assignment)
        assert held == (None if told is None else (told.offset, told.metadata))


@given(
    position=st.integers(0, 2**40),
    gaps=st.lists(st.integers(0, 3), min_size=1, max_size=60),
    done=st.sets(st.integers(0, 59)),
    halvings=st.integers(0, 13),
    topic_id=st.sampled_from([None, TOPIC_ID]),
)
@example(position=0, gaps=[0] * 30, done={*range(1, 30, 2)}, halvings=7, topic_id=TOPIC_ID)
@example(position=0, gaps=[3] * 60, done={*range(1, 60, 2)}, halvings=7, topic_id=None)  # a part of it fits
@example(position=2**40, gaps=[0, 0], done={1}, halvings=12, topic_id=TOPIC_ID)
def test_map_is_read_back_or_said_to_be_cut(
    position: int, gaps: list[int], done: set[int], halvings: int, topic_id: bytes | None
) -> None:
    """An entry's metadata covers what completed and no incomplete record; what it lacks at the end, it admits."""
    ledger, assignment = CommitLedger(), active(position, topic_id=topic_id)
    items = []
    for gap in gaps:
        items.append(Item(assignment.tracker.next_offset + gap))
        assignment.seen(items[-1])
    for number in done & set(range(len(items))):
        assignment.complete(items[number])
    for _ in range(halvings):
        ledger.metadata_refused()
    entry = ledger.entry_of(assignment)
    assert len(entry.metadata) <= MAX_METADATA_LENGTH >> halvings
    covered = to_offsets(read_metadata(entry.metadata, entry.offset).completed)
    completed = to_offsets(assignment.tracker.completed_above())
    assert entry.is_cut is (covered != completed)
    assert covered == {offset for offset in completed if offset <= max(covered, default=-1)}


def test_metadata_names_the_topic_even_when_nothing_completed_above() -> None:
    """A topic that is made anew is told by the id in the metadata."""
    entry = CommitLedger().entry_of(active(5, topic_id=TOPIC_ID))
    assert read_metadata(entry.metadata, 5).topic_id == TOPIC_ID


def test_what_the_broker_held_at_the_start_is_not_committed_again() -> None:
    """A partition that starts where its last owner stopped, with the same metadata, is clean."""
    ledger, assignment = CommitLedger(), active(5)
    assert [entry.offset for entry in ledger.pending([assignment])] == [5]
    ledger.inherit(assignment, 5, "")
    assert ledger.pending([assignment]) == ()
    ledger.inherit(assignment, 5, "of another client")
    assert [entry.metadata for entry in ledger.pending([assignment])] == [""]


def test_partition_without_a_known_position_is_not_committed() -> None:
    """While the position is looked up, the group's offset is left alone; nor can a revoke ask for a last commit.

    One could once: the tracker stood at 0, and a commit of 0 would have had the whole partition replayed.
    """
    assignment: Assignment[Item] = Assignment(ORDERS, 1)
    assert CommitLedger().pending([assignment]) == ()
    with pytest.raises(TransitionError):
        assignment.begin_revoke()
    assert CommitLedger().pending([assignment]) == ()


def test_ended_assignment_is_not_committed() -> None:
    """Once it has ended, whatever it had left to commit is left to its next owner."""
    assignment = active(5)
    assignment.begin_revoke()
    assert len(CommitLedger().pending([assignment])) == 1
    assignment.end()
    assert CommitLedger().pending([assignment]) == ()


def test_acknowledgement_of_an_earlier_tenure_changes_nothing() -> None:
    """What was sent before the partition went and came back says nothing about now."""
    ledger, first = CommitLedger(), active(5)
    sent = ledger.pending([first])
    ledger.forget(first)
    second = active(5, epoch=2)
    acknowledge(ledger, sent, epoch=2)
    assert ledger.acknowledged(second) is None
    assert len(ledger.pending([second])) == 1
    ledger.acknowledge(sent, {})
    assert ledger.acknowledged(first) is None


def test_what_an_earlier_tenure_left_does_not_make_the_next_one_clean() -> None:
    """Entries are compared with those of their own tenure alone."""
    ledger, first, second = CommitLedger(), active(5), active(5, epoch=2)
    acknowledge(ledger, ledger.pending([first]))
    assert ledger.acknowledged(second) is None
    assert len(ledger.pending([second])) == 1
    ledger.forget(second)
    assert ledger.acknowledged(first) is None


def test_a_cut_alone_is_no_reason_to_commit_again() -> None:
    """An entry is known by what is sent; that its map was cut is for the statistics."""
    entry = CommitEntry(TopicPartition("orders", 0), 1, 5, "")
    assert entry == CommitEntry(TopicPartition("orders", 0), 1, 5, "", is_cut=True)
    assert not entry.is_cut
