"""Runs the examples in README.rst and in the pages of the documentation."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest
from sybil import Document, Sybil
from sybil.parsers.rest import DocTestParser, PythonCodeBlockParser, SkipParser

ROOT: Final = Path(__file__).parents[1]
EXAMPLES: Final = Sybil(parsers=[DocTestParser(), PythonCodeBlockParser(), SkipParser()])
PAGES: Final = [ROOT / "README.rst", *sorted((ROOT / "docs").rglob("*.rst"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_examples_of_a_page_work(page: Path) -> None:
    """The examples of a page run one after another, each with the names of those before it."""
    for example in parsed(page).examples():
        example.evaluate()


def test_the_readme_has_examples() -> None:
    """There is something to run: an example that isn't recognised as one would never fail."""
    assert list(parsed(ROOT / "README.rst").examples())


def parsed(page: Path) -> Document:
    """Return a page as what Sybil found in it."""
    return EXAMPLES.parse(page)
