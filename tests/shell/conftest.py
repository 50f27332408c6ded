"""A consumer in virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio
from shell.fake_outbox import FakeOutbox
from shell.kit import World
from trio.testing import MockClock

HANG = 900.0
"""Virtual seconds after which a test hangs; the control plane's own clockwork goes on for ever."""


@pytest.fixture
async def world(nursery: trio.Nursery) -> AsyncIterator[World]:
    """A fake broker that consumers find; the test names ``autojump_clock`` too, for pytest-trio to take it."""
    assert isinstance(trio.lowlevel.current_clock(), MockClock)

    async def guard() -> None:
        await trio.sleep(HANG)
        pytest.fail("the test hangs")

    made = World()
    nursery.start_soon(guard)
    with made.found():
        yield made


@pytest.fixture
def outbox(monkeypatch: pytest.MonkeyPatch) -> FakeOutbox:
    """Where consumers send what handlers return, and dead letters."""
    made = FakeOutbox()
    monkeypatch.setattr("trio_parallel_kafka.control.controller.ProducerOutbox", made)
    return made
