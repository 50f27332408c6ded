"""What a member's process holds at one moment."""

from __future__ import annotations

import ctypes
import gc
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Final, Self

import attrs
import trio
from broker.measured import lanes_of, memory
from soak.ledger import Faults

from trio_parallel_kafka import ParallelConsumer

_C: Final = ctypes.CDLL(None)


@attrs.frozen
class Quantity:
    """What may not grow.

    Attributes:
        unit: of which it is so many.
        scale: by what a value is divided to have it in that unit.
        tolerated: how much it may grow in an hour, at least.
        tolerated_share: the same as a share of what it is on average; for what goes up and down with the load.
        noticeable: how much it may grow in all, however short the time is.
    """

    unit: str = ""
    scale: int = 1
    tolerated: float = 12.0
    tolerated_share: float = 0.0
    noticeable: float = 1.0

    def tolerance(self, mean: float, hours: float) -> float:
        """How much it may grow in an hour, having been watched for so many."""
        return max(self.tolerated, self.tolerated_share * mean, self.noticeable / hours)


QUANTITIES: Final[Mapping[str, Quantity]] = MappingProxyType(
    {
        # At 50,000 records/s, 10 MiB/h are 0.06 bytes for each.
        "memory": Quantity("MiB", 1024 * 1024, tolerated=10.0, noticeable=2.0),
        "files": Quantity(),
        "threads": Quantity(),
        "tasks": Quantity(),
        # What is really in use, of Python's and of C's: what is resident besides comes and goes in pieces.
        "objects": Quantity(tolerated=20_000.0, noticeable=5_000.0),
        "heap": Quantity("MiB", 1024 * 1024, tolerated=2.0, noticeable=0.5),
        "lanes": Quantity(tolerated=500.0, tolerated_share=1.0),
        "buffered": Quantity(tolerated=500.0, tolerated_share=1.0),
        "lag": Quantity(tolerated=20_000.0, tolerated_share=1.0),
    }
)


@attrs.frozen
class Sample:
    """One moment of one process.

    Attributes:
        at: seconds, on the clock that all processes share.
        values: what was measured, by its name in :data:`QUANTITIES`.
        completed: records completed since the consumer was opened.
        faults: what has gone wrong by then.
    """

    at: float
    values: dict[str, float]
    completed: int = 0
    faults: Faults = attrs.field(factory=Faults)

    @classmethod
    def take(cls, pc: ParallelConsumer | None, faults: Faults) -> Self:
        """Sample this process, with the consumer that it has open; if there is none, after tidying up."""
        if pc is None:
            tidy_up()
        values: dict[str, float] = {
            "memory": memory(),
            "files": _count("/proc/self/fd") - 1,  # the one that lists them
            "threads": _count("/proc/self/task"),
            "tasks": tasks(),
        }
        if pc is None:
            values |= {"objects": sys.getallocatedblocks(), **heap()}
            return cls(time.monotonic(), values, faults=faults)
        statistics = pc.statistics()
        values |= {"lanes": lanes_of(pc), "buffered": statistics.buffered_records}
        return cls(time.monotonic(), values, statistics.totals.completed, faults)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read what :meth:`to_json` wrote."""
        fields: dict[str, Any] = json.loads(text)
        return cls(**{**fields, "faults": Faults(**fields["faults"])})

    def to_json(self) -> str:
        """Write it in a line."""
        return json.dumps(attrs.asdict(self))


class _MallocInfo(ctypes.Structure):
    """What ``mallinfo2`` of glibc returns."""

    _fields_: ClassVar = [
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
        )
    ]  # fmt: skip


def tidy_up() -> None:
    """Let go of what nobody uses."""
    gc.collect()
    trim = getattr(_C, "malloc_trim", None)
    if trim is not None:
        trim(0)


def heap() -> dict[str, float]:
    """Bytes that C has in use, where its library tells."""
    ask = getattr(_C, "mallinfo2", None)
    if ask is None:
        return {}
    ask.restype = _MallocInfo
    found = ask()
    return {"heap": found.uordblks + found.hblkhd}


def _count(folder: str) -> int:
    return sum(1 for _ in Path(folder).iterdir())


def tasks() -> int:
    """How many tasks Trio has."""
    count, waiting = 0, [trio.lowlevel.current_root_task()]
    while waiting:
        task = waiting.pop()
        assert task is not None
        count += 1
        waiting += [child for nursery in task.child_nurseries for child in nursery.child_tasks]
    return count
