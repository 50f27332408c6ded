"""The report."""

from __future__ import annotations

import attrs
from benchmarks.outcomes import LATENCIES, OUTCOME, at_rate, results

from benchmarks import scenarios as sc
from benchmarks.bars import judge, judge_compiled
from benchmarks.report import report, spread
from benchmarks.results import Results
from benchmarks.scenarios import SCENARIOS


def _report(found: Results) -> str:
    compiled = judge_compiled(found)
    return report(
        found, SCENARIOS, judge(found), compiled, machine={"cores": "2"}, remarks=["Quick."], plots={"a.svg": "A plot"}
    )


def _row(text: str, begins: str) -> list[str]:
    (line,) = (line for line in text.splitlines() if line.startswith(f"| {begins} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_spread_is_the_median_and_both_ends() -> None:
    """A single figure stands for itself."""
    assert spread([3.0, 1.0, 2.0], lambda figure: f"{figure:g}") == "2 (1 to 3)"
    assert spread([3.0], lambda figure: f"{figure:g}") == "3"


def test_rates_and_verdicts() -> None:
    """A table has the medians, the bars their verdicts, those that aren't measured included."""
    found = results(
        {
            ("5-ms", sc.OWN): [at_rate(900), at_rate(1_100), at_rate(1_000)],
            ("5-ms", sc.BARE): [at_rate(1_000), at_rate(1_000), at_rate(1_000)],
        }
    )
    text = _report(found)
    assert _row(text, sc.OWN)[:2] == [sc.OWN, "1,000 (900 to 1,100)"]
    assert "| 4 | 5 ms, 256 at once: rate beside bare Trio tasks | ≥ 0.8 | 1.00 (0.90 to 1.10) |" in text
    assert "| 3 | held |" in text
    assert "| 0 | not measured |" in text
    assert "**short**" not in text
    assert "- cores: 2" in text
    assert "Quick." in text
    assert "![A plot](a.svg)" in text


def test_the_compiled_wheel_has_its_own_bars() -> None:
    """Those for which it was measured; this library's other runs are none of its."""
    fast, slow = at_rate(900), at_rate(700)
    found = results(
        {
            ("5-ms", sc.OWN): [slow],
            ("5-ms", sc.COMPILED): [fast],
            ("5-ms", sc.BARE): [at_rate(1_000)],
            ("no-op", sc.COMPILED): [fast],
            ("no-op", sc.UNORDERED): [slow],
            ("no-op", sc.COMPILED_UNIQUE_KEYS): [attrs.evolve(slow, figures={"grown_mb": 1.0})],
        }
    )
    pure, compiled = _report(found).split("### The compiled wheel")
    assert "| 5 ms, 256 at once: rate beside bare Trio tasks | ≥ 0.8 | 0.70 |" in pure
    assert "| 5 ms, 256 at once: rate beside bare Trio tasks | ≥ 0.8 | 0.90 |" in compiled
    assert "| no-op: rate with unique keys beside 1,000 keys | ≥ 0.75 | 0.78 |" in compiled
    bars, *_ = compiled.split("## ")
    assert "unordered" not in bars
    assert "not measured" not in bars
    assert "### The compiled" not in _report(results({("no-op", sc.OWN): [fast], ("no-op", sc.UNORDERED): [fast]}))


def test_what_is_short_stands_out() -> None:
    """A bar that isn't reached is marked."""
    found = results({("5-ms", sc.OWN): [at_rate(500)], ("5-ms", sc.BARE): [at_rate(1_000)]})
    assert "**short**" in _report(found)


def test_what_cannot_run_is_left_out_with_its_reason() -> None:
    """A system that isn't there has no row, but a line."""
    text = _report(
        results({("latency", sc.OWN): [attrs.evolve(OUTCOME, latencies_ms=LATENCIES)], ("latency", sc.JAVA): [None]})
    )
    assert f"- {sc.JAVA} doesn't count: it broke" in text
    assert f"| {sc.JAVA} |" not in text
    assert _row(text, sc.OWN)[1:6] == ["1.00", "2.00", "3.00", "4.00", "5.00"]


def test_versions_and_settings_are_named_with_all_their_values() -> None:
    """Where programs differ in one, both are there."""
    first = attrs.evolve(OUTCOME, versions={"CPython": "3.11"}, settings={"concurrency": "256"})
    second = attrs.evolve(OUTCOME, versions={"CPython": "3.12"}, settings={"concurrency": "30"})
    text = _report(results({("no-op", sc.OWN): [first, first], ("5-ms", sc.OWN): [second]}))
    assert "- CPython: 3.11 / 3.12" in text
    assert f"- {sc.OWN}: `concurrency` 256 / 30" in text
