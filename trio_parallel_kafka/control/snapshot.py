"""From the state of the planes to public statistics."""

from __future__ import annotations

import attrs
import trio

from trio_parallel_kafka.control.client import Client
from trio_parallel_kafka.control.controller import Controller
from trio_parallel_kafka.core.assignments import Assignment, Phase
from trio_parallel_kafka.execution.engine import ExecutionEngine
from trio_parallel_kafka.record import Record
from trio_parallel_kafka.statistics import ConsumerStatistics, OldestRecord, PartitionStatistics, Totals


def take_snapshot(
    state: str, max_concurrency: int, controller: Controller, client: Client, engine: ExecutionEngine
) -> ConsumerStatistics:
    """Everything at one moment."""
    counted, tally, pool = controller.totals, controller.tally, controller.pool
    partitions = sorted(
        (_partition(each, controller) for each in controller.member.assignments),
        key=lambda each: (each.topic, each.partition),
    )
    return ConsumerStatistics(
        state=state,
        in_flight=pool.in_flight,
        max_concurrency=max_concurrency,
        buffered_records=sum(each.buffered_records for each in partitions),
        buffered_bytes=sum(each.buffered_bytes for each in partitions),
        poll=client.poll_statistics(),
        totals=Totals(
            received=counted.received,
            completed=tally.completed,
            failed=tally.failed,
            retried=tally.retried,
            skipped=tally.skipped,
            dead_lettered=tally.dead_lettered,
            sent=tally.sent,
            not_replayed=counted.not_replayed,
            fenced=tally.fenced,
            abandoned=tally.abandoned,
            commits=counted.commits,
            failed_commits=counted.failed_commits,
            lost_to_retention=counted.lost_to_retention,
        ),
        partitions=tuple(partitions),
        held=tuple(sorted(controller.member.lanes.holds)),
        last_error=controller.last_trouble,
        engine=attrs.evolve(engine.statistics(), abandoned=controller.handling.given_up.count),
    )


def _partition(assignment: Assignment[Record], controller: Controller) -> PartitionStatistics:
    tracker = assignment.tracker
    has_started = assignment.phase is not Phase.STARTING
    acknowledged = controller.member.ledger.acknowledged(assignment)
    running = {record for lane in controller.pool.running_on([assignment]) for record in lane.in_hands}
    retry_at = {  # there may be very many
        lane.head: until
        for until, _, lane in assignment.lanes.parked
        if (detour := lane.detour) is not None and detour.parked_until == until and not detour.lingers
    }
    oldest = tracker.oldest
    now = trio.current_time()
    return PartitionStatistics(
        topic=assignment.partition.topic,
        partition=assignment.partition.partition,
        assignment_epoch=assignment.assignment_epoch,
        phase=assignment.phase.value,
        position=tracker.position if has_started else None,
        committed=acknowledged.offset if acknowledged is not None else None,
        next_offset=tracker.next_offset if has_started else None,
        buffered_records=len(tracker),
        buffered_bytes=assignment.buffered_bytes,
        in_flight=len(running),
        parked=len(retry_at),
        paused=assignment.pause_reason,
        is_held=assignment.lanes.is_held,
        completed_above=sum(end - start for start, end in tracker.completed_above()),
        is_map_cut=acknowledged is not None and acknowledged.is_cut,
        oldest_incomplete=None
        if oldest is None
        else OldestRecord(
            offset=oldest.offset,
            key=oldest.key,
            age=now - oldest.received_at,
            attempt=oldest.attempt,
            is_running=oldest in running,
            retry_in=max(0.0, retry_at[oldest] - now) if oldest in retry_at else None,
        ),
    )
