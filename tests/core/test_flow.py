"""Flow control: the bound holds, there is always progress, and nothing flaps."""

from __future__ import annotations

import pytest
from hypothesis import example, given, strategies as st

from trio_parallel_kafka.core.flow import MAX_BATCH, FlowLimits

limits = st.builds(
    FlowLimits,
    max_records=st.integers(1, 50) | st.integers(1, 100_000),
    max_bytes=st.integers(1, 50) | st.integers(1, 2**40),
)
counts = st.integers(0, 60) | st.integers(0, 100_000)
sizes = st.integers(0, 60) | st.integers(0, 2**41)

SMALL = range(1, 11)


@given(flow=limits)
@example(flow=FlowLimits(1, 1))
@example(flow=FlowLimits(7, 1))
@example(flow=FlowLimits(10**9, 1))
def test_what_is_on_its_way_leaves_three_quarters_of_the_bound(flow: FlowLimits) -> None:
    """It is a quarter of the bound, at least one record, and at most two of the largest batches."""
    assert flow.on_the_way == sorted((1, flow.max_records // 4, 2 * MAX_BATCH))[1] or flow.on_the_way == 1
    assert 1 <= flow.batch_size <= flow.batch_size * flow.batches_out <= flow.on_the_way <= flow.max_records
    assert flow.batch_size <= MAX_BATCH
    assert flow.batches_out <= 2


@pytest.mark.parametrize(
    ("max_records", "batches", "size"),
    [(1, 1, 1), (400, 1, 100), (4 * MAX_BATCH, 1, MAX_BATCH), (8 * MAX_BATCH - 1, 1, MAX_BATCH), (10**6, 2, MAX_BATCH)],
)
def test_two_batches_on_their_way_where_there_is_room(max_records: int, batches: int, size: int) -> None:
    """A bound isn't used up by what is on its way."""
    flow = FlowLimits(max_records, 1)
    assert (flow.batches_out, flow.batch_size) == (batches, size)


@given(records=counts)
def test_a_larger_bound_holds_no_fewer(records: int) -> None:
    """One record more is never the reason to pause earlier."""
    for max_records in range(1, 40_000, 997):
        if FlowLimits(max_records + 1, 1).is_full(records, 0):
            assert FlowLimits(max_records, 1).is_full(records, 0)


@given(flow=limits, records=counts, size=sizes)
@example(flow=FlowLimits(1, 1), records=0, size=0)
@example(flow=FlowLimits(8, 1000), records=6, size=0)
def test_what_is_on_its_way_never_passes_the_bound(flow: FlowLimits, records: int, size: int) -> None:
    """A partition that isn't full has room for what is on its way, and is below its bound in bytes."""
    has_room = records + flow.on_the_way <= flow.max_records and size < flow.max_bytes
    assert flow.is_full(records, size) is not has_room


@given(flow=limits, records=counts, size=sizes, runnable=counts)
@example(flow=FlowLimits(2, 1), records=1, size=1, runnable=0)  # both at once, it went back and forth for ever
@example(flow=FlowLimits(4, 7), records=1, size=7, runnable=0)
def test_never_full_and_resumable_at_once(flow: FlowLimits, records: int, size: int, runnable: int) -> None:
    """What is resumed isn't paused again at once."""
    runnable = min(runnable, records)
    assert not (flow.may_resume(records, size, runnable) and flow.is_full(records, size))


@given(flow=limits, records=counts, size=sizes)
@example(flow=FlowLimits(1000, 10**9), records=750, size=0)  # paused at 751, resumed at 750: a pause for each record
@example(flow=FlowLimits(8, 10**9), records=6, size=0)
@example(flow=FlowLimits(1000, 1000), records=1, size=900)
def test_buffer_of_stuck_records_does_not_flap(flow: FlowLimits, records: int, size: int) -> None:
    """A resumed partition takes an eighth of its bound more, in records and in bytes, before it is paused again."""
    if flow.may_resume(records, size, runnable=0):
        assert not flow.is_full(records + flow.max_records // 8, size + flow.max_bytes // 8)


@given(flow=limits, records=counts, size=sizes, runnable=counts)
@example(flow=FlowLimits(10, 100), records=6, size=0, runnable=6)
@example(flow=FlowLimits(10, 100), records=4, size=80, runnable=4)
def test_resumes_only_when_half_is_left_to_run(flow: FlowLimits, records: int, size: int, runnable: int) -> None:
    """While over half of the bound can still run, in records or in their share of the bytes, nothing is fetched."""
    runnable = min(runnable, records)
    if runnable * 2 > flow.max_records or (size * runnable // max(records, 1)) * 2 > flow.max_bytes:
        assert not flow.may_resume(records, size, runnable)


@pytest.mark.parametrize(("runnable", "resumes"), [(0, True), (1, True), (2, False)])
def test_bytes_that_can_run_are_the_share_of_the_records_that_can_run(runnable: int, resumes: bool) -> None:
    """Of 600 bytes in two records, one of them stuck, 300 count against half of the bound."""
    assert FlowLimits(1000, 800).may_resume(2, 600, runnable) is resumes


@given(flow=limits)
@example(flow=FlowLimits(1, 1))
@example(flow=FlowLimits(1000, 1))
def test_drained_partition_resumes(flow: FlowLimits) -> None:
    """With nothing buffered there is always progress: it isn't full, and it may resume."""
    assert flow.may_resume(0, 0, 0)
    assert not flow.is_full(0, 0)


@given(flow=limits, records_filled=st.floats(0, 0.5), bytes_filled=st.floats(0, 0.5))
@example(flow=FlowLimits(1000, 10**6), records_filled=0.5, bytes_filled=0.5)
@example(flow=FlowLimits(10_000, 10**6), records_filled=0.5, bytes_filled=0)
def test_stuck_records_hold_back_only_what_they_fill(
    flow: FlowLimits, records_filled: float, bytes_filled: float
) -> None:
    """With the runnable ones drained, stuck records up to half of either bound never keep their partition waiting."""
    stuck, size = int(flow.max_records * records_filled), int(flow.max_bytes * bytes_filled)
    assert flow.may_resume(stuck, size, runnable=0)


@pytest.mark.parametrize("max_records", SMALL)
@pytest.mark.parametrize("record_size", [0, 1, 3, 20])
def test_small_bounds_always_get_through(max_records: int, record_size: int) -> None:
    """With any small bounds all records pass, however large each, and the bound in records holds."""
    for max_bytes in SMALL:
        flow = FlowLimits(max_records, max_bytes)
        left, buffered, is_paused = 100, 0, False
        while left or buffered:
            while left and not is_paused:
                batch = min(flow.batch_size, left)
                left, buffered = left - batch, buffered + batch
                assert buffered <= max_records
                is_paused = flow.is_full(buffered, buffered * record_size)
            assert buffered, "paused with nothing that could end the pause"
            buffered -= 1
            is_paused = is_paused and not flow.may_resume(buffered, buffered * record_size, buffered)


@pytest.mark.parametrize("max_records", SMALL)
def test_small_bound_resumes_with_room_for_a_batch_and_an_eighth(max_records: int) -> None:
    """A partition with stuck records resumes as soon as a batch and an eighth of the bound are free, and not before."""
    flow = FlowLimits(max_records, 1000)
    least_free = flow.on_the_way + max_records // 8
    for stuck in range(max_records + 1):
        assert flow.may_resume(stuck, stuck, runnable=0) is (max_records - stuck >= least_free)


def test_read_ahead_covers_two_batches() -> None:
    """While one batch is in hands, the next can become full."""
    flow = FlowLimits(5000, 10**9)
    assert flow.for_batches(1).read_ahead == flow.read_ahead
    assert flow.for_batches(2000).read_ahead == 4000
