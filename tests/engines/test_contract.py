"""Async functions, threads and processes keep one contract."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from engines.engine_contract import ASYNC_IN_PROCESSES, CONTRACT, KINDS, Kind
from engines.journal import Journal
from engines.live import Stage, is_through, live_stage, until
from shell.failing import graveyard
from shell.kit import P0, P1, Place

from trio_parallel_kafka import DeadLetterConfig, ProducerRecord, Totals
from trio_parallel_kafka.config import RetryPolicy

COUNT = 100
KEYS = 10
SPECIAL = {
    5: "fail 2",
    17: "retry 1",
    29: "skip",
    31: "bury",
    43: "send",
    57: "several",
    61: "garbled",
    73: "strange",
}
"""What the records at these offsets of partition 0 are to become."""


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("clause", CONTRACT, ids=lambda clause: clause.__name__)
async def test_contract(stage: Stage, kind: Kind, clause: Callable[[Stage, Kind], Any]) -> None:
    """See the clause."""
    await clause(stage, kind)


@attrs.frozen
class Life:
    """What was seen of a consumer that has handled :data:`COUNT` records in each of two partitions."""

    journal: Journal
    totals: Totals
    sent: Sequence[tuple[Place, ProducerRecord]]
    committed: Sequence[int | None]


@pytest.fixture(scope="module", params=[*KINDS, ASYNC_IN_PROCESSES], ids=str)
def life(request: pytest.FixtureRequest) -> Iterator[Life]:
    """One consumer's life; several tests look at it, for processes take their time to start."""
    with tempfile.TemporaryDirectory() as folder, live_stage(Path(folder)) as stage:
        totals = trio.run(_live, stage, request.param)
        yield Life(stage.journal, totals, stage.outbox.sent, [stage.committed(P0), stage.committed(P1)])


async def _live(stage: Stage, kind: Kind) -> Totals:
    graveyard(stage)
    stage.send(P0, [(f"k{offset % KEYS}", SPECIAL.get(offset, "do")) for offset in range(COUNT)])
    stage.send(P1, [(f"k{offset % KEYS}", "do") for offset in range(COUNT)])

    def decode(data: bytes | None, _context: object) -> list[str]:
        words = (data or b"").decode().split()
        if words == ["garbled"]:
            raise ValueError(words)
        return words

    name = f"{kind.handler.__module__}:{kind.handler.__name__}"
    async with stage.running(
        name,
        retry=RetryPolicy(max_attempts=3, initial_backoff=0.0),
        on_failure="skip",
        dead_letter=DeadLetterConfig(),
        deserialize_value=decode,
        max_concurrency=16,
        **kind.fields,
    ) as pc:
        await until(lambda: is_through(pc, P0, COUNT)() and is_through(pc, P1, COUNT)())
    return pc.statistics().totals


def test_each_record_is_handled_once(life: Life) -> None:
    """A handler named by "module:function" gets each record, and gets none again that is done; all is committed."""
    odd = {offset for offset, command in SPECIAL.items() if command.partition(" ")[0] in {"fail", "retry", "strange"}}
    for partition in range(2):
        for offset in set(range(COUNT)) - (odd | {61} if partition == 0 else set()):
            assert life.journal.attempts(partition, offset) == [1]
    assert life.committed == [COUNT, COUNT]


def test_keys_keep_their_order(life: Life) -> None:
    """The records of a key begin in the order of their offsets, retries included, and never two at once."""
    order = life.journal.order()
    assert len(order) == 2 * KEYS
    for offsets in order.values():
        assert offsets == sorted(offsets)
    assert not life.journal.overlaps()


def test_attempts_are_counted(life: Life) -> None:
    """A handler is told which attempt it is; failures and wishes for another count, and end at the bound."""
    assert life.journal.attempts(0, 5) == [1, 2, 3]
    assert life.journal.attempts(0, 17) == [1, 2]
    assert life.journal.attempts(0, 73) == [1, 2, 3]
    assert life.totals.retried == 2 + 1 + 2 + 2


def test_decisions_arrive(life: Life) -> None:
    """Skip and DeadLetter do what they say, wherever they were raised."""
    (letter,) = [record for place, record in life.sent if place == (0, 31)]
    assert letter.topic == "orders.dlt"
    assert any("beyond help" in str(value) for _, value in letter.headers)
    assert life.totals.dead_lettered == 1
    assert life.totals.skipped == 3  # of its own will, what can't be decoded, and what can't be sent


def test_results_are_sent(life: Life) -> None:
    """What a handler returns goes to the broker, made of what the deserialiser had made."""
    sent = [(place, record.value) for place, record in life.sent if record.topic == "results"]
    assert sorted(sent, key=lambda each: each[0]) == [((0, 43), "['send']"), ((0, 57), "0"), ((0, 57), "1")]


def test_what_cannot_be_decoded_reaches_no_handler(life: Life) -> None:
    """A record that can't be deserialised has failed before it comes to the engine."""
    assert life.journal.attempts(0, 61) == []
