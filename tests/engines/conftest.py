"""Consumers on a fake broker: in virtual time, and, where threads and processes take part, in real time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from engines.live import Stage, live_stage
from shell.conftest import outbox as outbox, world as world


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """A fake broker that consumers find, in real time, and the journal of their handlers."""
    with live_stage(tmp_path) as made:
        yield made
