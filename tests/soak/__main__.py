"""``python -m soak``: two members at half of what they can do, a third that comes and goes; does anything grow?

It starts a Kafka, or uses the one that ``TPK_BOOTSTRAP_SERVERS`` names, measures the highest rate at which records can
be produced and handled, goes on at half of it, and samples what the members' processes hold. It ends with status 1 if
something grows, or if a record is missing or out of the order of its key.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import trio
from broker.cluster import Cluster
from broker.kafka_server import KafkaServer
from broker.scenario import until
from soak.findings import Findings
from soak.ledger import Ledger, sum_of
from soak.plot import plot
from soak.production import Production
from soak.samples import Sample
from soak.supervision import MemberProcess, member_process

KEYS: Final = 10_000
PARTITIONS: Final = 12
CONCURRENCY: Final = 64
"""So few that the burst has every worker started: a worker stays, and is made when it is needed first."""

BURST: Final = 400_000
"""Records by which the highest rate is measured."""

SHARE: Final = 0.5
"""Of the highest rate: what is produced."""

SAMPLES: Final = 240
"""At most so many, but none more often than once a second."""

PROGRESS_EVERY: Final = 30.0
PATIENCE: Final = 120.0
"""Seconds for members to come, to finish or to go."""

TOPIC: Final = {"retention.ms": "300000", "segment.bytes": str(64 * 1024 * 1024)}
"""What is long done needs no room."""


class Soak:
    """One run.

    Args:
        kafka: where.
        seconds: how long half load lasts.
        ledger: what all members write to.
        path: its file.
    """

    def __init__(self, kafka: Cluster, seconds: float, ledger: Ledger, path: Path) -> None:
        self._kafka: Final = kafka
        self._seconds: Final = seconds
        self._every: Final = max(seconds / SAMPLES, 1.0)
        self._ledger: Final = ledger
        self._path: Final = path
        self._topic: Final = kafka.unique("orders")
        kafka.create_topic(self._topic, PARTITIONS, TOPIC)
        self._config: Final[dict[str, Any]] = {
            "bootstrap_servers": kafka.bootstrap_servers,
            "group_id": kafka.unique("billing"),
            "topics": [self._topic],
            "max_concurrency": CONCURRENCY,
            "retry": {"max_attempts": 3, "initial_backoff": 0.05},
        }
        self._production: Final = Production(kafka, self._topic, KEYS)
        self._group: Final[list[Sample]] = []

    async def run(self) -> Findings:
        """Do it all.

        Raises:
            trio.TooSlowError: members don't come, or don't finish.
        """
        async with self._member("a", "stays") as a, self._member("b", "stays") as b:
            maximum = await self._maximum_rate([a, b])
            print(f"highest rate: {maximum:,.0f} records/s; going on at {SHARE:.0%} of it", flush=True)
            first, began = self._production.produced, time.monotonic()
            async with self._member("visitor", "visits") as visitor, trio.open_nursery() as nursery:
                members = [a, b, visitor]
                nursery.start_soon(self._production.produce_at, maximum * SHARE)
                nursery.start_soon(self._sample_group)
                nursery.start_soon(self._show_progress, members, began)
                await trio.sleep(self._seconds)
                nursery.cancel_scope.cancel()
            ended, produced = time.monotonic(), self._production.produced
            await self._finish()
        committed = self._kafka.committed(self._config["group_id"], self._topic)
        ends = self._kafka.end_offsets(self._topic)
        return Findings(
            began,
            ended,
            maximum,
            (produced - first) / (ended - began),
            produced,
            self._ledger.missing(produced),
            sum(committed.get(partition, (0, ""))[0] != end for partition, end in ends.items()),
            sum_of(each.faults for each in members),
            {**{each.name: each.samples for each in members}, "group": self._group},
        )

    def _member(self, name: str, kind: str) -> Any:
        return member_process(name, kind, str(self._every), str(self._path), str(KEYS), json.dumps(self._config))

    async def _maximum_rate(self, members: Sequence[MemberProcess]) -> float:
        """Produce as fast as it goes, while members handle that."""
        with trio.fail_after(PATIENCE):
            await until(lambda: all(each.samples for each in members))
            began = time.monotonic()
            await trio.to_thread.run_sync(self._production.produce, BURST)
            await trio.to_thread.run_sync(self._production.flush)
            await until(lambda: self._ledger.done() == BURST)
        return BURST / (time.monotonic() - began)

    async def _sample_group(self) -> None:
        while True:
            await trio.sleep(self._every)
            self._group.append(Sample(time.monotonic(), {"lag": self._behind()}))

    def _behind(self) -> int:
        return self._production.produced - self._ledger.done()

    async def _finish(self) -> None:
        with trio.fail_after(PATIENCE):
            await trio.to_thread.run_sync(self._production.flush)
            await until(lambda: self._behind() == 0)

    async def _show_progress(self, members: Sequence[MemberProcess], began: float) -> None:
        while True:
            await trio.sleep(PROGRESS_EVERY)
            minutes, seconds = divmod(round(time.monotonic() - began), 60)
            told = "; ".join(_shown(each) for each in members)
            behind = f"{self._production.produced:,} produced, {self._behind():,} behind"
            print(f"{minutes:3}:{seconds:02} {behind}; {told}", flush=True)


def _shown(member: MemberProcess) -> str:
    if member.latest is None:
        return f"{member.name}: nothing yet"
    values = member.latest.values
    held = ", ".join(f"{values[each]:,.0f} {each}" for each in ("files", "threads", "tasks"))
    return f"{member.name}: {values['memory'] / 1024 / 1024:.1f} MiB, {held}"


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """The cluster that the user named, or one that is started here."""
    given = os.environ.get("TPK_BOOTSTRAP_SERVERS")
    if given:
        kafka = Cluster(given)
        yield kafka
        kafka.clean_up()
    else:
        with KafkaServer.start(folder / "kafka") as server:
            yield Cluster(server.bootstrap_servers)


def main() -> int:
    """Run, and tell what was found; return the status to end with."""
    parser = argparse.ArgumentParser(prog="soak", description="Does anything grow, at half load and with rebalances?")
    parser.add_argument("--minutes", type=float, default=20.0, help="how long half load lasts (default: 20)")
    parser.add_argument("--output", type=Path, help="a folder for soak.json and soak.svg")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, cluster(Path(folder)) as kafka:
        path = Path(folder, "ledger")
        with Ledger(path, KEYS) as ledger:
            findings = trio.run(Soak(kafka, options.minutes * 60, ledger, path).run)
    print(f"\n{findings.table()}", flush=True)
    if options.output is not None:
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / "soak.json").write_text(json.dumps(findings.as_mapping()), encoding="utf-8")
        (options.output / "soak.svg").write_text(plot(findings), encoding="utf-8")
    return 0 if findings.is_sound else 1


if __name__ == "__main__":
    sys.exit(main())
