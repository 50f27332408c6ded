"""How a consumer ends on a real broker: what completed is committed, nothing hangs, nothing is left behind.

Each ending is one of a process of its own, so that what it leaves behind can be told.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import trio
from broker.cluster import Cluster, NewRecord
from broker.kafka_server import StartKafka
from broker.scenario import PATIENCE, configured, handled, topic_with

from trio_parallel_kafka import ConsumerConfig

CLOSE_TIMEOUT = 3.0
SHUTDOWN_TIMEOUT = 0.5


class Leaving:
    """The process, and what it says."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.seconds = 0.0

    def wait_for(self, **line: Any) -> dict[str, Any]:
        """Wait until it says a line with these fields; without any, its last line."""
        assert self.process.stdout is not None
        said: dict[str, Any] = {}
        for text in self.process.stdout:
            said = json.loads(text)
            if line and said.items() >= line.items():
                return said
        assert not line, f"never said {line}"
        return said

    def tell(self, line: str) -> None:
        """Send a command."""
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def end(self) -> dict[str, Any]:
        """Wait for its end; return what became of it."""
        report = self.wait_for()
        assert self.process.wait(PATIENCE) == 0
        return report


@contextmanager
def leaving(how: str, config: ConsumerConfig) -> Iterator[Leaving]:
    """Run a leaver for the length of a block; what is left of it then is killed."""
    fields = {
        "bootstrap_servers": config.bootstrap_servers,
        "group_id": config.group_id,
        "topics": config.topics,
        "commit_interval": config.commit_interval,
        "shutdown_timeout": SHUTDOWN_TIMEOUT,
        "close_timeout": CLOSE_TIMEOUT,
        "kafka": dict(config.kafka),
    }
    command = [sys.executable, "-m", "broker.leaver", how, json.dumps(fields)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe) as process:
        # A process that hangs is ended, and so is the test that reads what it says.
        reaper = subprocess.Popen(["sh", "-c", f"sleep {PATIENCE:g}; kill -9 {process.pid}"], start_new_session=True)
        try:
            yield Leaving(process)
        finally:
            os.killpg(reaper.pid, signal.SIGKILL)
            reaper.wait()
            process.kill()


def configuration(kafka: Cluster, /, *values: str, **fields: Any) -> ConsumerConfig:
    """For a topic that holds these values, under a key each but for ``behind``, which has the key of ``fail``."""
    records = [
        NewRecord(b"bad" if value in {"fail", "behind"} else b"key-%d" % n, value.encode())
        for n, value in enumerate(values)
    ]
    fields = {"commit_interval": 3600, **fields}
    return configured(kafka, topic_with(kafka, records), **fields)


async def come_again(config: ConsumerConfig, count: int) -> list[str]:
    """What the next member is given."""
    return sorted((record.value or b"").decode() for record in await handled(config, count))


def assert_nothing_left(report: dict[str, Any]) -> None:
    """No file, socket or pipe, no task and no thread."""
    assert (report["files"], report["tasks"], report["threads"]) == ({}, 0, [])


@pytest.mark.parametrize(
    ("how", "raised"),
    [
        ("stop", []),
        ("sigterm", []),
        ("cancel", []),
        ("body error", ["RuntimeError"]),
        ("nothing", ["KeyboardInterrupt"]),
    ],
    ids=["stop", "SIGTERM", "outer cancellation", "body error", "Ctrl-C"],
)
async def test_endings(kafka: Cluster, how: str, raised: list[str]) -> None:
    """What completed is committed, what was running comes again; no file, task or thread is left."""
    config = configuration(kafka, "now", "hang", "now", "late", "hang", "now")
    with leaving(how, config) as member:
        member.wait_for(started=6)
        member.tell("go on")
        member.tell("leave")
        member.wait_for(leaving=True)
        if raised == ["KeyboardInterrupt"]:
            member.process.send_signal(signal.SIGINT)
        elif how == "sigterm":
            member.process.terminate()
        report = member.end()
    print(f"\n{how}: ended {report['seconds']:.1f} s after its start")
    assert report["raised"] == raised
    assert report["notes"] == []
    assert_nothing_left(report)
    assert kafka.committed(config.group_id, config.topics[0])[0][0] == 1
    assert await come_again(config, 2) == ["hang", "hang"]


async def test_handler_error(kafka: Cluster) -> None:
    """A handler that raises ends the consumer with its error; nothing behind the failed record starts."""
    config = configuration(kafka, "now", "hang", "fail", "late", "behind", "now")
    with leaving("nothing", config) as member:
        member.wait_for(started=5)
        member.tell("go on")
        report = member.end()
    assert (report["raised"], report["messages"]) == (["ValueError"], ["this record is bad"])
    place = f"topic={config.topics[0]!r} partition=0 offset=2 key=b'bad' attempt=1"
    assert report["notes"] == [f"while handling {place}"]
    assert_nothing_left(report)
    assert await come_again(config, 3) == ["behind", "fail", "hang"]


async def test_interrupt_while_a_handler_computes(kafka: Cluster) -> None:
    """Ctrl-C that strikes within a handler ends everything as Ctrl-C does anywhere else."""
    config = configuration(kafka, "now", "late", "spin", "hang", "now")
    with leaving("alone", config) as member:
        member.wait_for(spinning=True)
        member.process.send_signal(signal.SIGINT)
        report = member.end()
    assert report["raised"] == ["KeyboardInterrupt"]
    assert_nothing_left(report)
    # Records that the loop hadn't come to before it was blocked come again, too.
    again = await come_again(config, 2)
    assert {"spin", "hang"} <= set(again)


@pytest.mark.parametrize(("outage", "how"), [("kill", "stop"), ("freeze", "body error")])
async def test_broker_gone_before_leaving(private_kafka: StartKafka, outage: str, how: str) -> None:
    """Without a broker the end is bounded and says so; what wasn't committed comes again, and nothing else.

    A broker that was frozen may yet take the last commit, which it got before it was.
    """
    server = await trio.to_thread.run_sync(private_kafka)
    kafka = Cluster(server.bootstrap_servers)
    short_session = {"session.timeout.ms": 3000, "heartbeat.interval.ms": 300}
    config = configuration(kafka, "now", "hang", "now", "late", commit_interval=0.1, kafka=short_session)
    with leaving(how, config) as member:
        member.wait_for(started=4)
        committed: dict[int, tuple[int, str]] = {}
        with trio.fail_after(PATIENCE):
            while committed.get(0, (0, ""))[0] != 1 or not committed[0][1]:
                await trio.sleep(0.1)
                committed = kafka.committed(config.group_id, config.topics[0])
        (server.kill if outage == "kill" else server.freeze)()
        member.tell("go on")
        member.tell("leave")
        member.wait_for(leaving=True)
        began = trio.current_time()
        report = member.end()
        seconds = trio.current_time() - began
    left = [name for name in report["threads"] if not name.startswith("rdk:")]
    print(f"\n{outage}, {how}: {report['raised']} after {seconds:.1f} s, {report['notes']}, threads left: {left}")
    # Half a minute on top, for a machine that is busy.
    assert seconds < SHUTDOWN_TIMEOUT + 2 * CLOSE_TIMEOUT + 30
    said = " ".join([*report["raised"], *report["messages"], *report["notes"]])
    assert "the last commit" in said  # wasn't acknowledged, or was refused, after the session had timed out
    assert "CommitError" in said
    assert ("RuntimeError" in report["raised"]) == (how == "body error")
    assert report["tasks"] == 0
    if left:
        assert "CloseTimeoutError" in said
        assert len(left) == 1
    else:
        assert_nothing_left(report)

    (server.start_again if outage == "kill" else server.thaw)()
    if outage == "kill":
        assert await come_again(config, 2) == ["hang", "late"]
    else:
        assert await come_again(config, 1) in (["hang"], ["hang", "late"])
