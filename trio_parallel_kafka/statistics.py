"""What a consumer says about itself at one moment: frozen snapshots."""

from __future__ import annotations

import attrs


@attrs.frozen
class PollStatistics:
    """How the thread that polls the client gets on, over its last 1,000 polls.

    Attributes:
        hop_p50: seconds from one poll to the next that weren't spent waiting for records, median.
        hop_p99: the same, 99th percentile: what a busy Trio loop and the GIL cost the polling.
        hop_max: the same, longest.
        is_held: the Trio loop hasn't taken a batch for seconds; everything is paused, and polling goes on.
    """

    hop_p50: float = 0.0
    hop_p99: float = 0.0
    hop_max: float = 0.0
    is_held: bool = False


@attrs.frozen
class EngineStatistics:
    """What runs the handlers.

    Attributes:
        mode: ``"async"``, ``"thread"``, ``"process"``, or how an engine of one's own calls itself.
        busy: threads, or worker processes, that are at work now.
        waiting: records that wait for a free worker process.
        abandoned: handlers that were given up, because their time was over or their partition taken away, but go on
            in their threads; nothing of their lanes starts before they have ended.
        died: worker processes that ended by themselves, or were killed by others.
        killed: worker processes killed to end a handler that was given up.
        retired: worker processes replaced because of ``max_tasks_per_worker`` or ``max_worker_memory``.
    """

    mode: str = "async"
    busy: int = 0
    waiting: int = 0
    abandoned: int = 0
    died: int = 0
    killed: int = 0
    retired: int = 0


@attrs.frozen
class OldestRecord:
    """The record that holds a partition's position.

    Attributes:
        offset: its offset.
        key: its raw key, or ``None``.
        age: seconds since it was fetched.
        attempt: which attempt it is in, from 1.
        is_running: a handler has it now.
        retry_in: seconds until its next attempt if it is parked after a failed one, else ``None``.
    """

    offset: int
    key: bytes | None
    age: float
    attempt: int
    is_running: bool
    retry_in: float | None = None


@attrs.frozen
class PartitionStatistics:
    """One assigned partition.

    Attributes:
        topic: its topic.
        partition: its number.
        assignment_epoch: in which assignment; a partition that comes back has a higher one.
        phase: ``"starting"`` (position not known yet), ``"active"`` or ``"revoking"``.
        position: the lowest offset not completed: what a commit may name.
        committed: the offset that the broker has acknowledged in this assignment or handed over, or ``None``.
        next_offset: one above the highest offset fetched.
        buffered_records: records fetched and not completed, those in flight included.
        buffered_bytes: their keys and values, in bytes.
        in_flight: records that a handler has now.
        parked: keys whose next record has failed and waits for another attempt.
        paused: why nothing is fetched for it, or ``None``.
        is_held: the application has paused it: nothing of it is started.
        completed_above: offsets at or above the position that are completed (or don't exist).
        is_map_cut: the last commit's map didn't fit and lost its end; a restart would replay that.
        oldest_incomplete: the record that holds the position, or ``None``.
    """

    topic: str
    partition: int
    assignment_epoch: int
    phase: str
    position: int | None
    committed: int | None
    next_offset: int | None
    buffered_records: int
    buffered_bytes: int
    in_flight: int
    parked: int
    paused: str | None
    is_held: bool
    completed_above: int
    is_map_cut: bool
    oldest_incomplete: OldestRecord | None


@attrs.frozen
class Totals:
    """Counts since the consumer was opened.

    Attributes:
        received: records fetched.
        completed: records that were handled, or given up by policy, in time to count.
        failed: attempts that raised or took too long; each record of a failed batch counts.
        retried: failed attempts after which another was to follow.
        skipped: records completed without having been handled.
        dead_lettered: records sent to the dead letters.
        sent: records that handlers returned and that were sent, or are to be with the next transaction.
        not_replayed: records dropped because an earlier owner had completed them.
        fenced: handlers that returned after their assignment had ended; nothing was changed by them.
        abandoned: handlers cancelled because their assignment ended.
        commits: commits that the broker acknowledged, counted by partition.
        failed_commits: commits that it refused or never answered, counted by partition.
        lost_to_retention: offsets deleted by the broker before they were read.
    """

    received: int = 0
    completed: int = 0
    failed: int = 0
    retried: int = 0
    skipped: int = 0
    dead_lettered: int = 0
    sent: int = 0
    not_replayed: int = 0
    fenced: int = 0
    abandoned: int = 0
    commits: int = 0
    failed_commits: int = 0
    lost_to_retention: int = 0


@attrs.frozen
class ConsumerStatistics:
    """A consumer at one moment.

    Attributes:
        state: ``"open"``, ``"running"``, ``"draining"``, ``"stopped"`` or ``"closed"``.
        in_flight: records that a handler has now.
        max_concurrency: the bound from the configuration.
        buffered_records: records fetched and not completed, over all partitions.
        buffered_bytes: their keys and values, in bytes.
        poll: how the polling goes.
        totals: counts since the consumer was opened.
        partitions: the partitions assigned now, in order.
        held: why no handler is started at all: ``"paused"``, ``"circuit open"``, ``"stopping"``.
        last_error: the last trouble that the client reported, or ``None``.
        engine: how what runs the handlers gets on.
    """

    state: str
    in_flight: int
    max_concurrency: int
    buffered_records: int
    buffered_bytes: int
    poll: PollStatistics
    totals: Totals
    partitions: tuple[PartitionStatistics, ...]
    held: tuple[str, ...]
    last_error: str | None
    engine: EngineStatistics = EngineStatistics()
