"""The bars: figures that have to be reached, each from outcomes alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import Final

import attrs

from benchmarks import scenarios as sc
from benchmarks.job import Latencies, Outcome
from benchmarks.results import Measure, Results, cpu, of_compiled, rate, warm_rate

Figures = Callable[[Results], Sequence[float]]


@attrs.frozen(kw_only=True)
class Bar:
    """One of them.

    Attributes:
        number: of the group that it belongs to.
        title: what is measured.
        wanted: what its median has to reach, or may reach.
        at_least: whether more is better.
        figures: one for each round.
        cpu: the same in CPU time, where ``figures`` compare rates: that of this library beside that of the other.
        unit: of the figures; empty for a ratio.
    """

    number: str
    title: str
    wanted: float
    at_least: bool
    figures: Figures
    cpu: Figures | None = None
    unit: str = ""


@attrs.frozen
class Verdict:
    """What became of a bar.

    Attributes:
        bar: which.
        figures: one for each round in which all was measured that it needs.
        cpu: see :class:`Bar`.
    """

    bar: Bar
    figures: Sequence[float]
    cpu: Sequence[float] = ()

    @property
    def figure(self) -> float | None:
        """The median."""
        return median(self.figures) if self.figures else None

    @property
    def word(self) -> str:
        """``held``, ``short`` or ``not measured``."""
        if self.figure is None:
            return "not measured"
        held = self.figure >= self.bar.wanted if self.bar.at_least else self.figure <= self.bar.wanted
        return "held" if held else "short"


def judge(results: Results) -> list[Verdict]:
    """Judge all bars."""
    return [Verdict(bar, bar.figures(results), bar.cpu(results) if bar.cpu else ()) for bar in BARS]


def judge_compiled(results: Results) -> list[Verdict]:
    """Judge the compiled wheel in the pure one's place, where it was measured and counts."""
    return [each for each in judge(of_compiled(results)) if each.figures]


def ratio(scenario: str, run: str, beside: str, measure: Measure) -> Figures:
    """A run's measure over that of another one, round by round."""
    return lambda results: [measure(one) / measure(other) for one, other in results.together(scenario, run, beside)]


def each_round(scenario: str, run: str, measure: Measure) -> Figures:
    """A run's measure, round by round."""
    return lambda results: [measure(each) for each in results.outcomes(scenario, run)]


def growth(scenario: str, runs: Sequence[str]) -> Figures:
    """The highest cost of a record among all runs beside that in the first, round by round."""
    return lambda results: [max(map(cpu, others)) / cpu(first) for first, *others in results.together(scenario, *runs)]


def growth_beyond_bytes(size: int) -> Figures:
    """The cost of a record with a large value beside that of one with a small value and what the client adds to it."""
    smallest = min(sc.VALUE_STEPS)
    runs = [sc.with_values(system, each) for system in (sc.OWN, sc.CLIENT) for each in (size, smallest)]

    def figure(large: Outcome, small: Outcome, client_large: Outcome, client_small: Outcome) -> float:
        return cpu(large) / (cpu(small) + max(0.0, cpu(client_large) - cpu(client_small)))

    return lambda results: [figure(*each) for each in results.together("values", *runs)]


def _faster(number: str, title: str, wanted: float, pair: tuple[str, str, str]) -> Bar:
    return Bar(
        number=number,
        title=title,
        wanted=wanted,
        at_least=True,
        figures=ratio(*pair, rate),
        cpu=ratio(*pair, cpu),
    )


def _at_most(number: str, title: str, wanted: float, unit: str, figures: Figures) -> Bar:
    return Bar(number=number, title=title, wanted=wanted, at_least=False, figures=figures, unit=unit)


def _latency(measure: Callable[[Latencies], float]) -> Measure:
    def measured(outcome: Outcome) -> float:
        assert outcome.latencies_ms is not None  # or it wouldn't count
        return measure(outcome.latencies_ms)

    return measured


_P50: Final = _latency(lambda each: each.p50)
_P99: Final = _latency(lambda each: each.p99)

BARS: Final = (
    _faster("1", "no-op: rate beside Java parallel-consumer", 3.2, ("no-op", sc.OWN, sc.JAVA)),
    Bar(
        number="1",
        title="no-op: rate in the second half beside Java parallel-consumer's",
        wanted=2.5,
        at_least=True,
        figures=ratio("no-op", sc.OWN, sc.JAVA, warm_rate),
    ),
    _faster("1", "no-op: rate beside Pyrallel", 75, ("no-op", sc.OWN, sc.PYRALLEL)),
    _faster("1", "no-op: rate beside the client alone", 0.25, ("no-op", sc.OWN, sc.CLIENT)),
    _at_most("1", "no-op: CPU time beside the client alone", 4, "", ratio("no-op", sc.OWN, sc.CLIENT, cpu)),
    _faster("2", "no-op: rate with unique keys beside 1,000 keys", 0.75, ("no-op", sc.UNIQUE_KEYS, sc.OWN)),
    _faster("3", "no-op: rate unordered beside key order", 1, ("no-op", sc.UNORDERED, sc.OWN)),
    _faster("3", "no-op: rate in partition order beside key order", 1, ("no-op", sc.PARTITION_ORDER, sc.OWN)),
    _faster("4", "5 ms, 256 at once: rate beside bare Trio tasks", 0.8, ("5-ms", sc.OWN, sc.BARE)),
    _faster("4", "0.1 ms, 256 at once: rate beside bare Trio tasks", 0.8, ("0.1-ms", sc.OWN, sc.BARE)),
    _faster("4", "5 ms, 1,000 at once: rate beside bare Trio tasks", 0.8, ("1000-at-once", sc.OWN, sc.BARE)),
    _faster("4", "5 ms, 10,000 at once: rate beside bare Trio tasks", 0.8, ("10000-at-once", sc.OWN, sc.BARE)),
    _faster("4", "5 ms, 10 at once: rate beside bare Trio tasks", 0.95, ("10-at-once", sc.OWN, sc.BARE)),
    _faster("5", "10 ms, 30 at once: rate beside bare Trio tasks", 0.98, ("3-partitions", sc.OWN, sc.BARE)),
    _faster("5", "the same, asking a server that takes 10 ms", 0.98, ("3-partitions", sc.ASKING, sc.BARE_ASKING)),
    _at_most("6", "latency at 1,000 records/s, p50", 1.5, "ms", each_round("latency", sc.OWN, _P50)),
    _at_most("6", "latency at 1,000 records/s, p99", 10, "ms", each_round("latency", sc.OWN, _P99)),
    _at_most("6", "p50 beside Java parallel-consumer's", 1, "", ratio("latency", sc.OWN, sc.JAVA, _P50)),
    _at_most("6", "p99 beside Java parallel-consumer's", 1, "", ratio("latency", sc.OWN, sc.JAVA, _P99)),
    _at_most("6", "p99 while the loop is busy half of the time", 50, "ms", each_round("latency", sc.BURNING, _P99)),
    _faster("7", "no-op: rate of two members beside one", 1.5, ("no-op", sc.TWO_MEMBERS, sc.OWN)),
    _faster("7", "5 ms: rate of two members beside Java parallel-consumer", 1.6, ("5-ms", sc.TWO_MEMBERS, sc.JAVA)),
    _at_most(
        "8", "peak memory over a million records", 120, "MB", each_round("no-op", sc.OWN, lambda each: each.peak_rss_mb)
    ),
    _at_most(
        "8",
        "CPU time with 16 partitions and nothing to do",
        1.5,
        "% of a core",
        each_round("upkeep", sc.IDLE, lambda each: each.figures["cpu_percent"]),
    ),
    _at_most(
        "8",
        "memory that half a million further unique keys leave behind",
        10,
        "MB",
        each_round("no-op", sc.UNIQUE_KEYS, lambda each: each.figures["grown_mb"]),
    ),
    _at_most(
        "8",
        "no-op: how late a task of the application comes at worst",
        20,
        "ms",
        each_round("upkeep", sc.HEARTBEAT, lambda each: each.figures["worst_gap_ms"]),
    ),
    _at_most(
        "10",
        "cost of a record, up to 256 partitions beside 1",
        1.2,
        "",
        growth("partitions", [sc.with_partitions(each) for each in sc.PARTITION_STEPS]),
    ),
    _at_most(
        "10",
        "cost of a record, up to 100,000 keys beside 10",
        1.2,
        "",
        growth("keys", [sc.with_keys(each) for each in sc.KEY_STEPS]),
    ),
    _at_most("10", "cost of a record above a hung one", 1.2, "", growth("held", [sc.OWN, sc.HUNG])),
    *(
        _at_most(
            "10",
            f"cost of a record with {size:,} B beside one with 100 B and the client's cost of the bytes beyond",
            1.2,
            "",
            growth_beyond_bytes(size),
        )
        for size in list(sc.VALUE_STEPS)[1:]
    ),
)
