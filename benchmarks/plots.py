"""Pictures of what was measured, as SVG."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from statistics import median
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks import scenarios as sc
from benchmarks.results import Measure, Results, cpu, rate

SIZE: Final = (8.0, 4.5)
AT_ONCE: Final = {10: "10-at-once", 256: "5-ms", 1_000: "1000-at-once", 10_000: "10000-at-once"}
"""Scenarios with handlers that sleep 5 ms, by how many run at once."""

# The same figures make the same files, and text stays text.
mpl.rcParams.update({"svg.hashsalt": "benchmarks", "svg.fonttype": "none"})


def draw_all(results: Results, folder: Path) -> dict[str, str]:
    """Write every picture for which there are figures; return their titles by file name."""
    titles = {
        "throughput.svg": "Throughput with handlers that do nothing, by system",
        "cpu.svg": "CPU time for a million records, with handlers that do nothing",
        "concurrency.svg": "Throughput with handlers that sleep 5 ms, by how many run at once",
        "latency.svg": "From the producer's call to the handler's start, at 1,000 records/s",
        "scaling.svg": "Cost of a record, by partitions and by keys",
    }
    figures = {
        "throughput.svg": _bars(results, rate, "records/s"),
        "cpu.svg": _bars(results, cpu, "CPU seconds per million records"),
        "concurrency.svg": _by_concurrency(results),
        "latency.svg": _latencies(results),
        "scaling.svg": _scaling(results),
    }
    for file, figure in figures.items():
        if figure is not None:
            figure.suptitle(titles[file])
            figure.savefig(folder / file, metadata={"Date": None})
    return {file: titles[file] for file, figure in figures.items() if figure is not None}


def _figure(columns: int = 1, **options: Any) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False, **options)
    return figure, list(axes[0])


def _bars(results: Results, measure: Measure, label: str) -> Figure | None:
    found = {run.name: list(map(measure, results.outcomes(sc.NO_OP.name, run.name))) for run in sc.NO_OP.runs}
    found = {name: figures for name, figures in found.items() if figures}
    if not found:
        return None
    figure, (axes,) = _figure()
    names = sorted(found, key=lambda name: median(found[name]))
    middles = [median(found[name]) for name in names]
    below = [middle - min(found[name]) for name, middle in zip(names, middles, strict=True)]
    above = [max(found[name]) - middle for name, middle in zip(names, middles, strict=True)]
    colours = ["#7fb2e5" if name.startswith(sc.OWN) else "#bbbbbb" for name in names]
    axes.barh(names, middles, xerr=[below, above], color=colours, capsize=3)
    axes.set_xscale("log")
    axes.set_xlabel(label)
    for row, middle in enumerate(middles):
        figure_shown = f"{middle:,.0f}" if middle >= 100 else f"{middle:.2g}"
        axes.annotate(f" {figure_shown}", (axes.get_xlim()[0], row), va="center", fontsize="small")
    return figure


def _by_concurrency(results: Results) -> Figure | None:
    lines = {
        name: {at_once: list(map(rate, results.outcomes(scenario, name))) for at_once, scenario in AT_ONCE.items()}
        for name in (sc.OWN, sc.BARE)
    }
    if not _has_figures(lines):
        return None
    figure, (axes,) = _figure()
    for name, found in lines.items():
        _line(axes, found, name)
    axes.set(xscale="log", yscale="log", xlabel="handlers at once", ylabel="records/s")
    axes.legend()
    return figure


def _latencies(results: Results) -> Figure | None:
    found = {run.name: _histogram(results, run.name) for run in sc.LATENCY.runs}
    if not any(found.values()):
        return None
    figure, (axes,) = _figure()
    for name, counts in found.items():
        bounds = sorted(counts)
        shares = [below / counts.total() * 100 for below in accumulate(counts[bound] for bound in bounds)]
        axes.step(bounds, shares, where="post", label=name)
    axes.set(xscale="log", xlabel="ms at most", ylabel="% of the records")
    axes.legend()
    return figure


def _histogram(results: Results, run: str) -> Counter[float]:
    """That of all rounds together."""
    counts: Counter[float] = Counter()
    for outcome in results.outcomes(sc.LATENCY.name, run):
        if outcome.latencies_ms is not None:
            for bound, count in outcome.latencies_ms.histogram:
                counts[bound] += count
    return counts


def _scaling(results: Results) -> Figure | None:
    lines = {
        scenario: {step: list(map(cpu, results.outcomes(scenario, name_of(step)))) for step in steps}
        for scenario, steps, name_of in (
            ("partitions", sc.PARTITION_STEPS, sc.with_partitions),
            ("keys", sc.KEY_STEPS, sc.with_keys),
        )
    }
    if not _has_figures(lines):
        return None
    figure, panels = _figure(2, sharey=True)
    for axes, (scenario, found) in zip(panels, lines.items(), strict=True):
        _line(axes, found, sc.OWN)
        axes.set(xscale="log", xlabel=scenario, ylim=(0, None))
    panels[0].set_ylabel("CPU time for a record, µs")
    return figure


def _has_figures(lines: Mapping[str, Mapping[int, Sequence[float]]]) -> bool:
    return any(any(found.values()) for found in lines.values())


def _line(axes: Axes, found: Mapping[int, Sequence[float]], label: str) -> None:
    """Draw medians with their spread, where there are figures."""
    at = [step for step, figures in found.items() if figures]
    middles = [median(found[step]) for step in at]
    below = [middle - min(found[step]) for step, middle in zip(at, middles, strict=True)]
    above = [max(found[step]) - middle for step, middle in zip(at, middles, strict=True)]
    axes.errorbar(at, middles, yerr=[below, above], marker="o", capsize=3, label=label)
