"""The tests that the page about testing shows pass where its readers put them: into a file, for pytest."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

PAGE = Path(__file__).with_name("testing.rst").read_text(encoding="utf-8")


def test_the_tests_of_the_page(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """All pass, with nothing configured but Trio's mode; the one for a real cluster is skipped where there is none."""
    monkeypatch.delenv("TPK_BOOTSTRAP_SERVERS", raising=False)
    blocks = re.findall(r"^\.\. code-block:: python\n\n((?:   .*\n|\n)+)", PAGE, re.MULTILINE)
    code = "".join(map(textwrap.dedent, blocks))
    shown = re.findall(r"^async def (test_\w+)", code, re.MULTILINE)
    assert len(shown) == len(set(shown))
    pytester.makeini("[pytest]\ntrio_mode = true\nfilterwarnings = error\naddopts = --strict-markers")
    pytester.makepyfile(test_billing=code)
    result = pytester.runpytest_inprocess("-rP")
    result.assert_outcomes(passed=len(shown) - 1 + (20 - 1), skipped=1)
    (story,) = re.findall(r"^\.\. code-block:: text\n\n((?:   KeyOrder.*\n)(?:   .*\n|\n)+)", PAGE, re.MULTILINE)
    assert textwrap.dedent(story).strip() in result.stdout.str()
