"""What tests/conftest.py does with tests that skip."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).with_name("conftest.py")

SKIPS_AND_AN_EXPECTED_FAILURE = """
import pytest

def test_that_skips():
    pytest.skip("no luck")

@pytest.mark.skip(reason="no luck")
def test_with_a_mark():
    pass

@pytest.mark.xfail
def test_that_is_known_to_fail():
    assert False
"""

FILE_THAT_SKIPS = """
import pytest

pytest.skip("no luck", allow_module_level=True)
"""


@pytest.fixture
def skipping_tests(tmp_path: Path) -> Path:
    """A folder with this conftest, where tests skip in each of the usual ways."""
    (tmp_path / "conftest.py").write_text(CONFTEST.read_text())
    (tmp_path / "test_some.py").write_text(SKIPS_AND_AN_EXPECTED_FAILURE)
    (tmp_path / "test_file.py").write_text(FILE_THAT_SKIPS)
    return tmp_path


def test_a_skipped_test_fails_in_ci(skipping_tests: Path) -> None:
    """With CI set every skip is a failure that tells its reason; an expected failure stays one."""
    outcome = run_pytest(skipping_tests, ci="true")
    assert "1 failed, 1 xfailed, 2 errors" in outcome
    assert outcome.count("which CI doesn't allow") >= 3
    assert "no luck" in outcome


def test_a_test_may_skip_elsewhere(skipping_tests: Path) -> None:
    """Without CI a skip is a skip."""
    assert "3 skipped, 1 xfailed" in run_pytest(skipping_tests, ci="")


def test_a_listed_test_may_skip_in_ci(skipping_tests: Path) -> None:
    """What is listed with a reason may skip in CI, too, and nothing else may."""
    conftest = skipping_tests / "conftest.py"
    listed = "{'test_file.py': 'it may', 'test_some.py::test_with*': 'it may, too'}"
    conftest.write_text(conftest.read_text().replace("= {}", f"= {listed}"))
    assert "1 failed, 2 skipped, 1 xfailed" in run_pytest(skipping_tests, ci="true")


def run_pytest(folder: Path, *, ci: str) -> str:
    """Run pytest on its own, as CI would (``ci="true"``) or as a person would (``ci=""``)."""
    return subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "--rootdir", folder, "-p", "no:cacheprovider"),
            *("-ra", "--continue-on-collection-errors", folder),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={**os.environ, "CI": ci},
    ).stdout
