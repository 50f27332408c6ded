"""Which outputs go with which commit."""

from __future__ import annotations

from typing import Literal

from core.kit import ORDERS, Item
from hypothesis import given, strategies as st

from trio_parallel_kafka.core.assignments import Assignment, TopicPartition
from trio_parallel_kafka.core.commits import CommitLedger
from trio_parallel_kafka.core.held import Held, HeldOutputs
from trio_parallel_kafka.core.metadata import read_metadata

OTHERS = TopicPartition("orders", 1)

Step = tuple[Literal["see", "complete"], int]
steps = st.lists(st.tuples(st.sampled_from(["see", "see", "complete"]), st.integers(0, 40)), max_size=60)


def active(partition: TopicPartition = ORDERS, epoch: int = 1, records: int = 0) -> Assignment[Item]:
    """An assignment that is read, with so many records seen."""
    assignment: Assignment[Item] = Assignment(partition, epoch)
    assignment.start(0)
    for offset in range(records):
        assignment.seen(Item(offset))
    return assignment


def hold(
    outputs: HeldOutputs[str], assignment: Assignment[Item], offset: int, *, count: int = 1, size: int = 1
) -> Held[str]:
    """Hold outputs of a record, and complete it."""
    held = Held(assignment, offset, [f"{offset}"] * count, size)
    outputs.hold(held)
    assignment.complete(Item(offset))
    return held


@given(steps=steps, halvings=st.integers(0, 11))
def test_what_goes_is_what_the_commit_says_is_done(steps: list[Step], halvings: int) -> None:
    """Whatever the map's bound cuts off, outputs go with a commit exactly if its reader takes their record for done."""
    outputs: HeldOutputs[str] = HeldOutputs(10**6, 10**6)
    assignment, ledger = active(), CommitLedger()
    for _ in range(halvings):
        ledger.metadata_refused()
    for name, number in steps:
        if name == "see":
            assignment.seen(Item(assignment.tracker.next_offset + number))
        elif len(assignment.tracker):
            incomplete = list(assignment.tracker._incomplete)
            hold(outputs, assignment, incomplete[number % len(incomplete)])
    entry = ledger.entry_of(assignment)
    said = read_metadata(entry.metadata, entry.offset).completed
    done = {
        held.offset
        for held in outputs._held
        if held.offset < entry.offset or any(start <= held.offset < end for start, end in said)
    }
    assert {held.offset for held in outputs.fitting([entry])} == done
    outputs.set_beyond([entry])
    assert {held.offset for held in outputs._beyond} == {held.offset for held in outputs._held} - done


def test_order() -> None:
    """Outputs go in the order in which they were held, whatever their offsets and partitions are."""
    outputs: HeldOutputs[str] = HeldOutputs(10, 10)
    first, second = active(records=3), active(OTHERS, 2, records=1)
    held = [hold(outputs, first, 2), hold(outputs, second, 0), hold(outputs, first, 0)]
    assert outputs.fitting(CommitLedger().pending([second, first])) == held


def test_not_completed_yet() -> None:
    """What is held of a record that isn't completed doesn't go, even if it is below what the map tells of."""
    outputs: HeldOutputs[str] = HeldOutputs(10, 10)
    assignment = active(records=4)
    outputs.hold(Held(assignment, 1, ["early"], 1))
    done = hold(outputs, assignment, 3)
    assert outputs.fitting(CommitLedger().pending([assignment])) == [done]


def test_another_assignment() -> None:
    """Outputs don't go with a commit of another assignment of their partition, and end with their own."""
    outputs: HeldOutputs[str] = HeldOutputs(10, 10)
    earlier, later = active(records=1), active(epoch=2, records=1)
    hold(outputs, earlier, 0)
    kept = hold(outputs, later, 0)
    assert outputs.fitting(CommitLedger().pending([later])) == [kept]
    earlier.end()
    outputs.drop_ended()
    assert (outputs.count, outputs.size) == (1, 1)


def test_kept_until_released() -> None:
    """Outputs go with every commit that tells of them until they are released; that they are twice changes nothing."""
    outputs: HeldOutputs[str] = HeldOutputs(10, 10)
    assignment, ledger = active(records=2), CommitLedger()
    first = hold(outputs, assignment, 0, count=3, size=5)
    assert outputs.fitting(ledger.pending([assignment])) == [first]
    second = hold(outputs, assignment, 1)
    assert outputs.fitting(ledger.pending([assignment])) == [first, second]
    outputs.release([first])
    outputs.release([first])
    assert (outputs.count, outputs.size) == (1, 1)
    assert outputs.fitting(ledger.pending([assignment])) == [second]


def test_bounds() -> None:
    """It is half full, and full, by outputs or by bytes."""
    outputs: HeldOutputs[str] = HeldOutputs(4, 100)
    assignment = active(records=4)
    assert not outputs.is_half_full
    hold(outputs, assignment, 0, count=2)
    assert (outputs.is_half_full, outputs.is_full) == (True, False)
    large = hold(outputs, assignment, 1, size=99)
    assert outputs.is_full
    outputs.release([large])
    hold(outputs, assignment, 2, count=2)
    assert outputs.is_full


def test_beyond_the_map_there_is_no_bound() -> None:
    """What no commit can tell of yet doesn't count towards the bound; once it can, it does."""
    outputs: HeldOutputs[str] = HeldOutputs(2, 100)
    assignment, ledger = active(records=3), CommitLedger()
    for _ in range(12):
        ledger.metadata_refused()
    hold(outputs, assignment, 1)
    last = hold(outputs, assignment, 2)
    assert outputs.is_full
    outputs.set_beyond(ledger.pending([assignment]))
    assert not outputs.is_half_full
    assert outputs.beyond_the_map == {assignment}
    assignment.complete(Item(0))
    outputs.set_beyond(ledger.pending([assignment]))
    assert outputs.is_full
    assert outputs.beyond_the_map == set()
    outputs.set_beyond(())
    outputs.release([last])
    assert not outputs.is_half_full
