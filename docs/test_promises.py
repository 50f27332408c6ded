"""The page of promises names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "design" / "promises.rst").read_text()


def test_files_that_are_named_exist() -> None:
    """A test file that is renamed or deleted is noticed."""
    named = re.findall(r"``(tests/\S+\.py)``", PAGE)
    assert named
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_tests_that_are_named_exist() -> None:
    """A test that is renamed or deleted is noticed."""
    sources = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    named = re.findall(r"``(test_\w+)``", PAGE)
    assert named
    assert [name for name in named if f"def {name}(" not in sources] == []
