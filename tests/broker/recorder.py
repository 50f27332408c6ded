"""A log of what handlers did, and the checks on it.

Each record carries its number: where it stands among all records produced. So the checks need nothing from the
broker, and a log says what happened even if its writer was killed in the middle.
"""

from __future__ import annotations

import enum
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from broker.scenario import until

from trio_parallel_kafka import Record


class Step(enum.StrEnum):
    START = "start"
    END = "end"
    CUT = "cut"
    """The handler was cancelled, or raised."""
    DIED = "died"
    """The member's process was killed, and its handlers with it."""


class Entry(NamedTuple):
    """One step of one handler, at ``at`` nanoseconds on the clock that all processes share."""

    at: int
    member: str
    step: Step
    number: int = -1
    partition: int = -1
    assignment_epoch: int = -1


class Workload:
    """``count`` records, numbered from 0, whose keys take turns; ``count`` may grow.

    Args:
        count: how many there are.
        keys: how many keys take turns.
        value_size: bytes of each value.
    """

    def __init__(self, count: int, keys: int, *, value_size: int = 20) -> None:
        self.count = count
        self.keys = keys
        self._value_size = value_size

    def records(self, first: int = 0, end: int | None = None) -> Iterator[tuple[bytes, bytes]]:
        """Keys and values of the records from ``first`` up to ``end``, by default all."""
        for number in range(first, self.count if end is None else end):
            yield self.key(number), b"%d" % number + b" " * (self._value_size - len(str(number)))

    def key(self, number: int) -> bytes:
        return b"key-%d" % (number % self.keys)

    def lane(self, number: int) -> set[int]:
        """This record and all behind it with the same key."""
        return set(range(number, self.count, self.keys))


def number_of(record: Record) -> int:
    """Which record of the workload this is."""
    return int(record.value or b"")


class Recorder:
    """Logs handlers' steps, from any thread; with a path, also from any process that appends to the file.

    Args:
        path: the file to append to, a line for a step; ``None`` keeps the log in memory alone.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.entries: list[Entry] = []
        self.done: set[int] = set()
        self._file = None if path is None else os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        self._read_to = 0
        self._half_line = b""

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    @contextmanager
    def handling(self, member: str, record: Record) -> Iterator[int]:
        """Log the start of a handler and how it ends; yields the record's number."""
        place = (number_of(record), record.partition, record.assignment_epoch)
        self._log(Entry(time.monotonic_ns(), member, Step.START, *place))
        try:
            yield place[0]
        except BaseException:
            self._log(Entry(time.monotonic_ns(), member, Step.CUT, *place))
            raise
        self._log(Entry(time.monotonic_ns(), member, Step.END, *place))

    def died(self, member: str) -> None:
        """Log that a member's process is gone; call it once that is sure."""
        self._log(Entry(time.monotonic_ns(), member, Step.DIED))

    def handler(self, member: str, work: Callable[[int], Awaitable[object]]) -> Callable[[Record], Awaitable[None]]:
        """A handler that logs, and between does ``work`` on the record's number."""

        async def handle(record: Record) -> None:
            with self.handling(member, record) as number:
                await work(number)

        return handle

    async def wait_done(self, count: int) -> None:
        """Wait until ``count`` different records have been handled to their end."""
        await until(lambda: self.refresh() >= count)

    def refresh(self) -> int:
        """Read what was appended to the file; return how many records have been handled to their end."""
        if self._file is not None:
            while chunk := os.pread(self._file, 1 << 20, self._read_to):
                self._read_to += len(chunk)
                *lines, self._half_line = (self._half_line + chunk).split(b"\n")
                for line in lines:
                    self._keep(_entry(line.decode()))
        return len(self.done)

    def _log(self, entry: Entry) -> None:
        if self._file is None:
            self._keep(entry)
        else:
            # One short write in append mode: lines of several processes don't mix, and a kill doesn't cut one.
            os.write(self._file, f"{' '.join(map(str, entry))}\n".encode())

    def _keep(self, entry: Entry) -> None:
        self.entries.append(entry)
        if entry.step is Step.END:
            self.done.add(entry.number)


def _entry(line: str) -> Entry:
    at, member, step, number, partition, assignment_epoch = line.split(" ")
    return Entry(int(at), member, Step(step), int(number), int(partition), int(assignment_epoch))


class Findings(NamedTuple):
    """What a log shows.

    Attributes:
        missing: records never handled to their end.
        out_of_order: records that started before the one before them in their key had ever ended, or after a
            later one in the same assignment.
        key_overlaps: handlers of one key at once, in whatever member.
        owner_overlaps: handlers of one partition at once in two members, or in two assignments of one.
        replayed: how often a record was handled to its end again, by its number.
        cut: handlers that didn't end, by the record's number.
        peak: most handlers at once, by member.
    """

    missing: list[int]
    out_of_order: list[str]
    key_overlaps: list[str]
    owner_overlaps: list[str]
    replayed: Counter[int]
    cut: Counter[int]
    peak: dict[str, int]

    def check(self) -> None:
        """Nothing is missing, keys are in order, and nobody worked on what somebody else had."""
        assert not self.missing, f"{len(self.missing)} records missing: {self.missing[:20]}"
        assert not self.out_of_order, f"{len(self.out_of_order)} out of order: {self.out_of_order[:10]}"
        assert not self.key_overlaps, f"{len(self.key_overlaps)} overlaps: {self.key_overlaps[:10]}"
        assert not self.owner_overlaps, f"{len(self.owner_overlaps)} owned twice: {self.owner_overlaps[:10]}"


def examine(entries: Iterable[Entry], workload: Workload) -> Findings:
    """Go through a log in the order of its times."""
    ends: Counter[int] = Counter()
    cut: Counter[int] = Counter()
    peak: Counter[str] = Counter()
    out_of_order: list[str] = []
    key_overlaps: list[str] = []
    owner_overlaps: list[str] = []
    running_by_key: dict[int, list[Entry]] = {}
    running_by_partition: dict[int, list[Entry]] = {}
    running: Counter[str] = Counter()
    last_in_tenure: dict[tuple[str, int, int, int], int] = {}

    def stop(started: Entry) -> None:
        running_by_key[started.number % workload.keys].remove(started)
        running_by_partition[started.partition].remove(started)
        running[started.member] -= 1

    for entry in sorted(entries, key=lambda each: each.at):
        if entry.step is Step.DIED:
            alive = [each for group in running_by_partition.values() for each in group]
            for each in alive:
                if each.member == entry.member:
                    stop(each)
                    cut[each.number] += 1
            continue
        key = entry.number % workload.keys
        of_key = running_by_key.setdefault(key, [])
        of_partition = running_by_partition.setdefault(entry.partition, [])
        if entry.step is not Step.START:
            stop(next(each for each in of_key if each[3:] == entry[3:] and each.member == entry.member))
            (ends if entry.step is Step.END else cut)[entry.number] += 1
            continue
        tenure = (entry.member, entry.partition, entry.assignment_epoch)
        before = entry.number - workload.keys
        if before >= 0 and not ends[before]:
            out_of_order.append(f"{entry} before {before} had ended")
        if last_in_tenure.get((*tenure, key), -1) >= entry.number:
            out_of_order.append(f"{entry} after {last_in_tenure[(*tenure, key)]}")
        last_in_tenure[(*tenure, key)] = entry.number
        key_overlaps.extend(f"{entry} while {each} ran" for each in of_key)
        owner_overlaps.extend(
            f"{entry} while {each} ran"
            for each in of_partition
            if (each.member, each.partition, each.assignment_epoch) != tenure
        )
        of_key.append(entry)
        of_partition.append(entry)
        running[entry.member] += 1
        peak[entry.member] = max(peak[entry.member], running[entry.member])
    return Findings(
        missing=[number for number in range(workload.count) if not ends[number]],
        out_of_order=out_of_order,
        key_overlaps=key_overlaps,
        owner_overlaps=owner_overlaps,
        replayed=Counter({number: count - 1 for number, count in ends.items() if count > 1}),
        cut=cut,
        peak=dict(peak),
    )
