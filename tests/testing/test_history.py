"""A history keeps what it is told, and is written to files and read from them."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import trio
from testing.watched import raises, record

from trio_parallel_kafka import (
    Skip,
)
from trio_parallel_kafka.core.assignments import TopicPartition
from trio_parallel_kafka.testing.events import (
    Assigned,
    Cancelled,
    Committed,
    Died,
    Joined,
    Lost,
    Output,
    Place,
    Produced,
    Revoked,
    Started,
)
from trio_parallel_kafka.testing.guarantees import AtLeastOnce
from trio_parallel_kafka.testing.history import History


def test_time() -> None:
    """Before any Trio run time stands still; with a clock it is that one's, wherever an event happens."""
    history = History()
    history.produced("orders", 0, 0, None)
    assert history.events == [Produced(0.0, Place("orders", 0, 0), None)]
    history = History(clock=iter([3.0, 4.0]).__next__)
    history.produced("orders", 0, 0, None)
    trio.run(trio.to_thread.run_sync, history.died, "m")
    assert [event.at for event in history.events] == [3.0, 4.0]


# What else there is to tell


def told() -> History:
    """A history with an event of each kind."""
    history = History(clock=iter(range(100)).__next__)
    history.produced("orders", 0, 7, b"\x00\xff\n")
    watched = history.watch(raises(Skip("no\nneed")), "m")
    with pytest.raises(Skip):
        watched(record())
    history.watch(lambda _record: None)(record())
    with pytest.raises(KeyboardInterrupt):
        history.watch(raises(KeyboardInterrupt()))(record())
    history.committed("m", ("orders", 0), 8, "tpk1.")
    history.committed("m", ("orders", 0), 9)
    history.assigned("m", [("orders", 0), ("orders", 1)])
    history.revoked("m", iter([("orders", 0)]))
    history.lost("m", [])
    history.died("m")
    history.output("invoices", None, b"12", origin=("orders", 0, 7))
    history.output("invoices", b"", None)
    history.add(Cancelled(99.0, "m", Place("orders", 0, 7), None, 1, 1, 9))
    return history


def test_what_is_told() -> None:
    """What happened around handlers is kept as it is told, in that order."""
    events = told().events
    assert [type(event).__name__ for event in events] == [
        *("Produced", "Joined", "Started", "Failed", "GivenUp"),
        *("Joined", "Started", "Completed", "Joined", "Started", "Failed"),
        *("Committed", "Committed", "Assigned", "Revoked", "Lost", "Died", "Output", "Output", "Cancelled"),
    ]
    partition = TopicPartition("orders", 0)
    assert [event for event in events if isinstance(event, Committed)] == [
        Committed(10, "m", partition, 8, "tpk1."),
        Committed(11, "m", partition, 9, ""),
    ]
    assert [event for event in events if isinstance(event, Assigned | Revoked | Lost | Died)] == [
        Assigned(12, "m", (partition, TopicPartition("orders", 1))),
        Revoked(13, "m", (partition,)),
        Lost(14, "m", ()),
        Died(15, "m"),
    ]
    assert [event for event in events if isinstance(event, Output)] == [
        Output(16, "invoices", None, b"12", Place("orders", 0, 7)),
        Output(17, "invoices", b"", None, None),
    ]


# Files


def test_files(tmp_path: Path) -> None:
    """What was written is read again, event by event; what happens meanwhile goes to the file alone."""
    history = told()
    before = list(history.events)
    with history.write(tmp_path / "first"):
        history.add(Died(100.0, "n"))
    history.add(Died(101.0, "o"))
    assert history.events == [*before, Died(101.0, "o")]
    found = History.read([tmp_path / "first"]).events
    assert found == [*before, Died(100.0, "n")]
    assert [type(event) for event in found] == [*map(type, before), Died]
    assert len((tmp_path / "first").read_text().splitlines()) == len(found)


def test_files_are_merged(tmp_path: Path) -> None:
    """Files of several processes are merged by time, and what one wrote keeps its order."""
    times = {"one": [1.0, 4.0, 4.0], "two": [2.0, 3.0, 5.0]}
    for name, at in times.items():
        history = History()
        with history.write(tmp_path / name):
            for number, each in enumerate(at):
                history.add(Died(each, f"{name}-{number}"))
        with history.write(tmp_path / name):
            history.add(Joined(6.0, name))
    events = History.read(tmp_path / name for name in times).events
    assert [getattr(event, "member", "") for event in events] == [
        *("one-0", "two-0", "two-1", "one-1", "one-2", "two-2", "one", "two")
    ]


@pytest.mark.parametrize(
    "line", ["no JSON", "{}", '{"event": "Unheard"}', '{"event": "Died", "at": 1.0}', '{"event": "Died", "at": 1.0, "m']
)
def test_bad_files(tmp_path: Path, line: str) -> None:
    """What isn't an event is named by file and line."""
    path = tmp_path / "history"
    with History().write(path):
        pass
    with (history := History()).write(path):
        history.died("m")
    with path.open("a") as file:
        file.write(line)
    with pytest.raises(ValueError, match=r"history, line 2: not an event of a history: '.+'$"):
        History.read([path])


MEMBER = """
import sys, time
from trio_parallel_kafka import Record
from trio_parallel_kafka.testing.history import History

history = History(clock=time.monotonic)
with history.write(sys.argv[1]):
    handle = history.watch(lambda record: print(flush=True), sys.argv[2])
    for offset in range(int(sys.argv[3]), 1_000_000):
        handle(Record("orders", 0, offset))
"""


def test_killed_processes(tmp_path: Path) -> None:
    """Two processes write to one file until they are killed: each line is whole, and nothing seen is missing."""
    path = tmp_path / "history"
    members = [
        subprocess.Popen([sys.executable, "-c", MEMBER, path, name, first], stdout=subprocess.PIPE)
        for name, first in (("m", "0"), ("n", "500000"))
    ]
    seen = {}
    for member, name in zip(members, "mn", strict=True):
        assert member.stdout is not None
        for _ in range(200):
            assert member.stdout.readline()
        member.kill()
        seen[name] = 200 + len(member.stdout.readlines())
        assert member.wait() == -signal.SIGKILL
        member.stdout.close()
        with (history := History(clock=time.monotonic)).write(path):
            history.died(name)
    found = History.read([path])
    for name, count in seen.items():
        starts = [each.place.offset for each in found.events if isinstance(each, Started) and each.member == name]
        assert starts == list(range(starts[0], starts[0] + len(starts)))
        assert len(starts) in {count, count + 1}
    assert AtLeastOnce(found).is_held
