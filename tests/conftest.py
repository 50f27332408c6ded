"""What all tests share: hypothesis profiles, and no skipped test in CI."""

from __future__ import annotations

import os
from collections.abc import Generator
from fnmatch import fnmatch
from typing import Final

import pytest
from hypothesis import HealthCheck, settings

SKIPS_ALLOWED_IN_CI: Final[dict[str, str]] = {}
"""Patterns of node ids whose tests may skip in CI, each with the reason."""

# A loaded machine is slow now and then: neither a deadline nor a health check may fail a test for it.
settings.register_profile("dev", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# No database: CI starts from nothing, and the blob that is printed reproduces a failure elsewhere.
settings.register_profile("ci", settings.get_profile("dev"), max_examples=200, database=None, print_blob=True)
# One of several Pythons draws many examples, the others a few.
settings.register_profile("brief", settings.get_profile("ci"), max_examples=50)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skipped test into a failed one when ``CI`` is set."""
    report = yield
    # An expected failure is reported as skipped, too; "strict" makes it fail once it passes.
    if report.skipped and not hasattr(report, "wasxfail") and not _may_skip(item.nodeid):
        report.outcome = "failed"
        report.longrepr = _refusal(item.nodeid, report.longreprtext)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Do likewise with a whole file that skips itself."""
    report = yield
    if report.skipped and not _may_skip(collector.nodeid):
        report.outcome = "failed"
        report.longrepr = _refusal(collector.nodeid, report.longreprtext)
    return report


def _may_skip(nodeid: str) -> bool:
    return not os.environ.get("CI") or any(fnmatch(nodeid, pattern) for pattern in SKIPS_ALLOWED_IN_CI)


def _refusal(nodeid: str, reason: str) -> str:
    return f"{nodeid} skipped, which CI doesn't allow (see SKIPS_ALLOWED_IN_CI): {reason}"
