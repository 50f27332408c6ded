"""The report: what was measured on what, and which bars are held, as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Final

import attrs

from benchmarks.bars import Verdict
from benchmarks.job import Latencies, Outcome
from benchmarks.results import Measure, Results, cpu, rate, warm_rate
from benchmarks.scenarios import Scenario

Show = Callable[[float], str]


@attrs.frozen
class Column:
    """Of a scenario's table.

    Attributes:
        title: its head.
        measure: what stands in it.
        show: how.
        applies: whether there is anything for an outcome.
    """

    title: str
    measure: Measure
    show: Show
    applies: Callable[[Outcome], bool]


def _whole(figure: float) -> str:
    return f"{figure:,.0f}"


def _fine(figure: float) -> str:
    return f"{figure:,.2f}" if abs(figure) < 10 else f"{figure:,.1f}" if abs(figure) < 100 else _whole(figure)


def _counts(outcome: Outcome) -> bool:
    return bool(outcome.records) and outcome.latencies_ms is None


def _percentile(title: str, of: Callable[[Latencies], float]) -> Column:
    def measure(outcome: Outcome) -> float:
        assert outcome.latencies_ms is not None  # it applies
        return of(outcome.latencies_ms)

    return Column(title, measure, _fine, lambda outcome: outcome.latencies_ms is not None)


def _further(title: str, name: str) -> Column:
    return Column(title, lambda each: each.figures[name], _fine, lambda each: name in each.figures)


ABOUT: Final = """\
All systems ran on one machine, the broker on it too, each in a process of its own, one after another, in rounds whose
order rotates. A ratio is taken within a round. Figures are medians, with the lowest and the highest in brackets. Each
program checked its own order and completeness; what failed that doesn't count."""

ABOUT_COMPILED: Final = """\
Its runs in the place of the pure wheel's; bars for which there are none, or none that count, are left out."""

COLUMNS: Final = (
    Column("records/s", rate, _whole, _counts),
    Column("second half", warm_rate, _whole, lambda each: _counts(each) and bool(each.warm_records)),
    Column("CPU s per million", cpu, _fine, _counts),
    _percentile("p50, ms", lambda each: each.p50),
    _percentile("p90, ms", lambda each: each.p90),
    _percentile("p99, ms", lambda each: each.p99),
    _percentile("p99.9, ms", lambda each: each.p999),
    _percentile("highest, ms", lambda each: each.max),
    Column("at once", lambda each: each.peak_concurrency, _whole, lambda each: each.peak_concurrency > 1),
    Column("memory, MB", lambda each: each.peak_rss_mb, _whole, lambda _each: True),
    _further("a task late by, ms", "worst_gap_ms"),
    _further("CPU, % of a core", "cpu_percent"),
)


def report(
    results: Results,
    scenarios: Sequence[Scenario],
    verdicts: Sequence[Verdict],
    compiled: Sequence[Verdict],
    *,
    machine: Mapping[str, str],
    remarks: Sequence[str],
    plots: Mapping[str, str],
) -> str:
    """Write it.

    Args:
        results: what was measured.
        scenarios: what was to be.
        verdicts: on the bars.
        compiled: the same on the compiled wheel, where it was measured and counts.
        machine: what was measured on, by name.
        remarks: what a reader has to know besides.
        plots: titles of pictures, by their files.
    """
    parts = [
        "# Benchmarks",
        ABOUT,
        *remarks,
        _items(machine),
        "## Bars",
        _bars(verdicts),
        *(["### The compiled wheel", ABOUT_COMPILED, _bars(compiled)] if compiled else []),
        *(_scenario(results, each) for each in scenarios if any(m.scenario == each.name for m in results.measured)),
        *(["## Pictures", *(f"![{title}]({file})" for file, title in plots.items())] if plots else []),
        "## Versions and settings",
        _settings(results),
    ]
    return "\n\n".join(parts) + "\n"


def spread(figures: Sequence[float], show: Show) -> str:
    """The median with the lowest and the highest."""
    if len(figures) == 1:
        return show(figures[0])
    return f"{show(median(figures))} ({show(min(figures))} to {show(max(figures))})"


def _bars(verdicts: Sequence[Verdict]) -> str:
    return _table(
        ["bar", "what", "wanted", "measured", "CPU time", "rounds", ""],
        [
            [
                verdict.bar.number,
                verdict.bar.title,
                f"{'≥' if verdict.bar.at_least else '≤'} {verdict.bar.wanted:g} {verdict.bar.unit}".strip(),
                f"{spread(verdict.figures, _fine)} {verdict.bar.unit}".strip() if verdict.figures else "",
                spread(verdict.cpu, _fine) if verdict.cpu else "",
                str(len(verdict.figures)),
                verdict.word if verdict.word != "short" else "**short**",
            ]
            for verdict in verdicts
        ],
    )


def _scenario(results: Results, scenario: Scenario) -> str:
    found = {run.name: results.outcomes(scenario.name, run.name) for run in scenario.runs}
    everything = [outcome for outcomes in found.values() for outcome in outcomes]
    columns = [column for column in COLUMNS if any(map(column.applies, everything))]
    rows = [
        [name, *(_cell(column, outcomes) for column in columns), str(len(outcomes))]
        for name, outcomes in found.items()
        if outcomes
    ]
    table = _table(["", *(column.title for column in columns), "rounds"], rows) if rows else ""
    reasons = [
        f"{run.name} doesn't count{' in some rounds' if found[run.name] else ''}: {reason}"
        for run in scenario.runs
        for reason in results.problems(scenario.name, run.name)
    ]
    parts = [f"## {scenario.title}", f"`--only {scenario.name}`", table, "\n".join(f"- {each}" for each in reasons)]
    return "\n\n".join(filter(None, parts))


def _cell(column: Column, outcomes: Sequence[Outcome]) -> str:
    figures = [column.measure(each) for each in outcomes if column.applies(each)]
    return spread(figures, column.show) if figures else ""


def _settings(results: Results) -> str:
    versions: dict[str, str] = {}
    settings: dict[str, dict[str, str]] = {}
    for each in results.measured:
        if each.outcome is not None:
            _note(versions, each.outcome.versions)
            _note(settings.setdefault(each.run, {}), each.outcome.settings)
    chosen = (
        f"- {run}: " + ", ".join(f"`{name}` {value}" for name, value in found.items())
        for run, found in settings.items()
        if found
    )
    return "\n\n".join([_items(versions), "\n".join(chosen)])


def _note(known: dict[str, str], found: Mapping[str, str]) -> None:
    """Add values by name; two of one name stand side by side."""
    for name, value in found.items():
        values = known[name].split(" / ") if name in known else []
        known[name] = " / ".join(dict.fromkeys([*values, value]))


def _items(named: Mapping[str, str]) -> str:
    return "\n".join(f"- {name}: {value}" for name, value in named.items())


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
