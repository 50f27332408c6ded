"""A picture of all samples over time, as SVG: a panel for each quantity, a line for each process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final
from xml.sax.saxutils import escape

from soak.findings import WARM_UP, Findings
from soak.samples import QUANTITIES

WIDTH: Final = 900
HEIGHT: Final = 120
LEFT: Final = 90
"""For the labels of the values."""

GAP: Final = 40
COLOURS: Final = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#8c564b")

Points = Sequence[tuple[float, float]]


def plot(findings: Findings) -> str:
    """Draw it; what decides nothing, because it is early, is on grey."""
    names = list(findings.series)
    height = GAP + len(QUANTITIES) * (HEIGHT + GAP)
    size = f'width="{LEFT + WIDTH + GAP}" height="{height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        *(
            f'<text x="{LEFT + 130 * n}" y="18" fill="{COLOURS[n % len(COLOURS)]}">{escape(name)}</text>'
            for n, name in enumerate(names)
        ),
    ]
    for row, quantity in enumerate(QUANTITIES):
        lines = [list(_points(findings, name, quantity)) for name in names]
        parts += _panel(quantity, lines, GAP + row * (HEIGHT + GAP), findings.ended - findings.began)
    return "\n".join([*parts, "</svg>"])


def _points(findings: Findings, name: str, quantity: str) -> Iterator[tuple[float, float]]:
    for sample in findings.series[name]:
        if findings.began <= sample.at <= findings.ended and quantity in sample.values:
            yield sample.at - findings.began, sample.values[quantity] / QUANTITIES[quantity].scale


def _panel(quantity: str, lines: Sequence[Points], top: float, seconds: float) -> Iterator[str]:
    highest = max((value for line in lines for _, value in line), default=0.0) * 1.05 or 1.0

    def x(at: float) -> float:
        return LEFT + at / seconds * WIDTH

    def y(value: float) -> float:
        return top + HEIGHT - value / highest * HEIGHT

    unit = QUANTITIES[quantity].unit
    title = f"{quantity} ({unit})" if unit else quantity
    yield f'<rect x="{LEFT}" y="{top}" width="{WIDTH * WARM_UP:.0f}" height="{HEIGHT}" fill="#eeeeee"/>'
    yield f'<rect x="{LEFT}" y="{top}" width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#999999"/>'
    yield f'<text x="{LEFT}" y="{top - 5}">{escape(title)}</text>'
    yield f'<text x="{LEFT - 6}" y="{top + 12}" text-anchor="end">{highest:,.0f}</text>'
    yield f'<text x="{LEFT - 6}" y="{top + HEIGHT}" text-anchor="end">0</text>'
    yield f'<text x="{LEFT + WIDTH}" y="{top + HEIGHT + 14}" text-anchor="end">{seconds / 60:.1f} min</text>'
    for number, line in enumerate(lines):
        colour = COLOURS[number % len(COLOURS)]
        points = " ".join(f"{x(at):.1f},{y(value):.1f}" for at, value in line)
        yield f'<polyline points="{points}" fill="none" stroke="{colour}"/>'
