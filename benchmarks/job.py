"""What a system under measurement is told, what it answers, and how it checks itself meanwhile.

Each system is a program in a process of its own: it gets a :class:`Job` as JSON in its one argument, and prints an
:class:`Outcome` as JSON in the last line of its output. This module needs nothing but attrs and cattrs.
"""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import attrs
import cattrs

_RUNNING: Final = 1 << 63
"""Stands for the offset of what is being handled: no next record of its lane may begin."""


@attrs.frozen(kw_only=True)
class Job:
    """What to do.

    Attributes:
        bootstrap_servers: where the topic is.
        topic: what to read, from its start.
        group_id: a group that nobody has used yet.
        count: records to be handled, all of those in the topic; 0 in a job that ends after ``seconds``.
        keys: distinct keys among them; 0: no two records have the same one.
        partitions: of the topic.
        ordering: what keeps its order.
        concurrency: handlers at once at most.
        delay: seconds that a handler sleeps; 0: it does nothing.
        ask: ``host:port`` of a server that the handler sends a line to, and awaits a line of, instead of sleeping; or
            nothing.
        seconds: how long to measure latencies, while records come in, each with the system's monotonic clock in
            nanoseconds as the first 8 bytes of its value (big-endian); 0: no latencies are wanted.
        warm_up: seconds of such a job, from the first record on, that don't count.
        options: what only this system understands.
    """

    bootstrap_servers: str
    topic: str
    group_id: str
    count: int
    keys: int
    partitions: int
    ordering: Literal["key", "partition", "unordered"]
    concurrency: int
    delay: float
    ask: str
    seconds: float
    warm_up: float
    options: Mapping[str, Any]


@attrs.frozen(kw_only=True)
class Latencies:
    """From the producer's call to the handler's start, in milliseconds.

    Attributes:
        histogram: pairs of an upper bound and how many were above the one before, up to it.
    """

    p50: float
    p90: float
    p99: float
    p999: float
    max: float
    histogram: Sequence[tuple[float, int]] = ()


@attrs.frozen(kw_only=True)
class Outcome:
    """What came of it.

    Attributes:
        records: how many were handled.
        seconds: from the moment in which the first handler started until the last ended.
        warm_records: those of the second half.
        warm_seconds: what they took.
        cpu_seconds: user and system time of the process, its threads and its children, over ``seconds``.
        peak_rss_mb: the most memory that the process ever held.
        order_violations: records that started before an earlier one of their lane had ended, or came twice.
        missing: records that weren't handled.
        peak_concurrency: handlers at once.
        latencies_ms: ``None`` (or ``{}``) where none were wanted.
        versions: of what ran, by name.
        settings: those that matter, by name.
        figures: what else was measured, by name.
    """

    records: int
    seconds: float
    warm_records: int
    warm_seconds: float
    cpu_seconds: float
    peak_rss_mb: float
    order_violations: int
    missing: int
    peak_concurrency: int
    latencies_ms: Latencies | None = None
    versions: Mapping[str, str] = attrs.field(factory=dict)
    settings: Mapping[str, str] = attrs.field(factory=dict)
    figures: Mapping[str, float] = attrs.field(factory=dict)


def _latencies_of(given: Any, _type: Any) -> Latencies | None:
    return _converter.structure(given, Latencies) if given else None


_converter: Final = cattrs.Converter(forbid_extra_keys=True)
_converter.register_structure_hook(Latencies | None, _latencies_of)


def load_job(argv: Sequence[str]) -> Job:
    """Take the job from a program's arguments (``sys.argv``)."""
    return _converter.structure(json.loads(argv[1]), Job)


def dump_job(job: Job) -> str:
    """Make the argument that :func:`load_job` takes."""
    return json.dumps(_converter.unstructure(job))


def load_outcome(text: str) -> Outcome:
    """Take an outcome from the last line of a program's output."""
    return _converter.structure(json.loads(text), Outcome)


def dump_outcome(outcome: Outcome) -> dict[str, Any]:
    """Make plain data of it."""
    plain: dict[str, Any] = _converter.unstructure(outcome)
    return plain | {"latencies_ms": plain["latencies_ms"] or {}}


def print_outcome(outcome: Outcome) -> None:
    """Say what came of it: the last that a program prints."""
    print(json.dumps(dump_outcome(outcome)), flush=True)


@attrs.frozen
class Moment:
    """When something was reached, and what had been used by then.

    Attributes:
        at: seconds on the monotonic clock, which all processes of a machine share.
        cpu: seconds of this process and of the children that it has waited for.
        rss_mb: memory held.
    """

    at: float
    cpu: float
    rss_mb: float

    @classmethod
    def now(cls) -> Moment:
        """Take this one."""
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return cls(time.monotonic(), sum(each.ru_utime + each.ru_stime for each in used), memory_mb("VmRSS"))


def memory_mb(name: str) -> float:
    """What the system says about this process's memory: ``VmRSS`` now, ``VmHWM`` at the most."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    raise LookupError(name)


class Checker:
    """Counts records, checks their order and their completeness, and notes when what was reached.

    A record's cost is one call for a handler that doesn't wait (:attr:`handled`), two for one that does
    (:attr:`started`, :attr:`ended`); all take the record's key, partition and offset. They are plain functions: keep
    them in local variables. They belong to one thread.

    Args:
        job: what is done.
        finished: called once, when the last record has been handled, or the time is over.
        awaited: records that make up all; by default those of the job.

    Attributes:
        handled: say that a record was handled, without any waiting.
        started: say that a handler starts.
        ended: say that it has ended.
        timed: say, with the record's value and before ``handled`` or ``started``, that a handler starts in a job for
            latencies.
        done: tells how many records have been handled.
        first: when the first handler started.
    """

    handled: Callable[[bytes | None, int, int], None]
    started: Callable[[bytes | None, int, int], None]
    ended: Callable[[bytes | None, int, int], None]
    timed: Callable[[bytes], None]
    done: Callable[[], int]

    def __init__(self, job: Job, finished: Callable[[], None], awaited: int | None = None) -> None:
        self._job: Final = job
        self._awaited: Final = job.count if awaited is None else awaited
        self._finished: Final = finished
        self._marks: Final = sorted({self._awaited * quarter // 4 for quarter in (1, 2, 3, 4)} - {0})
        self._reached: Final[dict[int, Moment]] = {}
        self.first = self._last = Moment(0.0, 0.0, 0.0)
        self._latencies: Final[list[int]] = []
        self._counts: Callable[[], tuple[int, int, int, int]]
        if job.ordering == "unordered" or (job.ordering == "key" and not job.keys):
            self._check_completeness()
        else:
            self._check_order(by_partition=job.ordering == "partition")
        self.timed = self._timing()

    def outcome(
        self,
        versions: Mapping[str, str],
        settings: Mapping[str, str],
        figures: Mapping[str, float] | None = None,
    ) -> Outcome:
        """Sum up, after the end."""
        done, distinct, violations, peak = self._counts()
        first, last, half = self.first, self._last, self._reached.get(self._awaited // 2)
        return Outcome(
            records=done,
            seconds=last.at - first.at,
            warm_records=done - done // 2 if half else 0,
            warm_seconds=last.at - half.at if half else 0.0,
            cpu_seconds=last.cpu - first.cpu,
            peak_rss_mb=memory_mb("VmHWM"),
            order_violations=violations,
            missing=max(0, self._awaited - distinct),
            peak_concurrency=peak,
            latencies_ms=latencies_of(self._latencies) if self._latencies else None,
            versions=versions,
            settings=settings,
            figures={**self._growth(), **(figures or {})},
        )

    def _growth(self) -> dict[str, float]:
        """By how much memory grew over the middle half, with as many records waiting at its end as at its start."""
        first, last = (self._reached.get(self._awaited * quarter // 4) for quarter in (1, 3))
        return {"grown_mb": last.rss_mb - first.rss_mb} if first and last else {}

    def _reach(self, done: int) -> int:
        """Note the moment; return the count at which to call again."""
        now = Moment.now()
        if not self.first.at:
            self.first = now
        if done:
            self._reached[done] = now
        if done and done == self._awaited:
            self._finish()
        return next((mark for mark in self._marks if mark > done), 0)

    def _finish(self) -> None:
        if not self._last.at:
            self._last = Moment.now()
            self._finished()

    def _timing(self) -> Callable[[bytes], None]:
        counts_from = ends = 0
        clock, note, job = time.monotonic_ns, self._latencies.append, self._job

        def timed(value: bytes) -> None:
            nonlocal counts_from, ends
            now = clock()
            if not ends:
                counts_from = now + int(job.warm_up * 1e9)
                ends = counts_from + int(job.seconds * 1e9)
            if now >= ends:
                self._finish()
            elif now >= counts_from:
                note(now - int.from_bytes(value[:8], "big"))

        return timed

    def _check_order(self, *, by_partition: bool) -> None:
        """In each lane offsets rise strictly, one at a time. So no record comes twice, and counting them is enough."""
        last: dict[bytes | int | None, int] = {}
        running = peak = done = violations = 0
        mark, begun = 1, False
        reach, offset_of = self._reach, last.get

        def handled(key: bytes | None, partition: int, offset: int) -> None:
            nonlocal done, violations, mark
            lane = partition if by_partition else key
            if offset_of(lane, -1) >= offset:
                violations += 1
            last[lane] = offset
            done += 1
            if done == mark:
                mark = reach(done)

        def started(key: bytes | None, partition: int, offset: int) -> None:
            nonlocal running, peak, violations, begun
            if not begun:
                begun = True
                reach(0)
            running += 1
            if running > peak:  # noqa: PLR1730 - a call for each record would be slower
                peak = running
            lane = partition if by_partition else key
            if offset_of(lane, -1) >= offset:
                violations += 1
            last[lane] = _RUNNING

        def ended(key: bytes | None, partition: int, offset: int) -> None:
            nonlocal running, done, mark
            last[partition if by_partition else key] = offset
            running -= 1
            done += 1
            if done == mark:
                mark = reach(done)

        self.handled, self.started, self.ended = handled, started, ended
        self.done = lambda: done
        self._counts = lambda: (done, done - violations, violations, peak or 1)

    def _check_completeness(self) -> None:
        """Each record once: a byte for each. Memory that is zero and never written to takes no room."""
        seen = [bytearray(self._job.count) for _ in range(self._job.partitions)]
        running = peak = done = twice = 0
        mark, begun = 1, False
        reach = self._reach

        def handled(_key: bytes | None, partition: int, offset: int) -> None:
            nonlocal done, twice, mark
            row = seen[partition]
            if row[offset]:
                twice += 1
            row[offset] = 1
            done += 1
            if done == mark:
                mark = reach(done)

        def started(_key: bytes | None, partition: int, offset: int) -> None:
            nonlocal running, peak, twice, begun
            if not begun:
                begun = True
                reach(0)
            running += 1
            if running > peak:  # noqa: PLR1730 - likewise
                peak = running
            row = seen[partition]
            if row[offset]:
                twice += 1
            row[offset] = 1

        def ended(_key: bytes | None, _partition: int, _offset: int) -> None:
            nonlocal running, done, mark
            running -= 1
            done += 1
            if done == mark:
                mark = reach(done)

        self.handled, self.started, self.ended = handled, started, ended
        self.done = lambda: done
        self._counts = lambda: (done, done - twice, twice, peak or 1)


def latencies_of(nanoseconds: Sequence[int]) -> Latencies:
    """Sum up at least one."""
    ordered = sorted(nanoseconds)

    def quantile(share: float) -> float:
        return ordered[min(int(len(ordered) * share), len(ordered) - 1)] / 1e6

    histogram: list[tuple[float, int]] = []
    below, bound = 0, 0.1
    while below < len(ordered):
        upto = sum(1 for each in ordered[below:] if each <= bound * 1e6)
        histogram.append((round(bound, 4), upto))
        below += upto
        bound *= 1.25
    return Latencies(
        p50=quantile(0.5),
        p90=quantile(0.9),
        p99=quantile(0.99),
        p999=quantile(0.999),
        max=ordered[-1] / 1e6,
        histogram=histogram,
    )
