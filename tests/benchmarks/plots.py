"""Plots as SVG, readable on light and dark pages: bars of several measures, and lines over a logarithmic axis."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, BAR, GAP = 760, 18, 26
COLOURS = ("#1f77b4", "#d9822b", "#5a8f3c", "#8a5fb0")
STYLE = "font: 13px sans-serif; fill: #777"


def svg(height: int, parts: Sequence[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" style="{STYLE}">'
    return "\n".join([head, *parts, "</svg>"]) + "\n"


def bars(groups: Mapping[str, Sequence[tuple[str, float]]]) -> str:
    """Return a group of bars for each title. The longest of a group fills the width; the first is this server's."""
    parts, y = [], 10
    left, right = 250, 80
    for title, values in groups.items():
        most = max(value for _, value in values)
        parts.append(f'<text x="0" y="{y + 14}" font-weight="bold">{escape(title)}</text>')
        y += 24
        for number, (name, value) in enumerate(values):
            wide = max(1.0, (WIDTH - left - right) * value / most)
            colour = COLOURS[0] if number == 0 else "#999"
            parts += [
                f'<text x="{left - 8}" y="{y + 13}" text-anchor="end">{escape(name)}</text>',
                f'<rect x="{left}" y="{y}" width="{wide:.1f}" height="{BAR}" fill="{colour}"/>',
                f'<text x="{left + wide + 6:.1f}" y="{y + 13}">{number_text(value)}</text>',
            ]
            y += BAR + 4
        y += GAP
    return svg(y, parts)


def lines(series: Mapping[str, Mapping[int, Sequence[float]]], x_title: str, y_title: str) -> str:
    """Return a line through the medians of each series, with a mark from least to greatest; y begins at 0."""
    height, left, right, top, bottom = 300, 60, 20, 30, 50
    sizes = sorted({size for points in series.values() for size in points})
    low, high = math.log10(sizes[0]), math.log10(max(sizes[-1], sizes[0] * 2))
    most = nice(max(max(runs) for points in series.values() for runs in points.values()))

    def x(size: int) -> float:
        return left + (WIDTH - left - right) * (math.log10(size) - low) / (high - low)

    def y(value: float) -> float:
        return height - bottom - (height - bottom - top) * value / most

    parts = [f'<text x="0" y="16">{escape(y_title)}</text>']
    for part in range(5):
        value = most * part / 4
        parts += [
            f'<line x1="{left}" x2="{WIDTH - right}" y1="{y(value):.1f}" y2="{y(value):.1f}" stroke="#ccc"/>',
            f'<text x="{left - 8}" y="{y(value) + 4:.1f}" text-anchor="end">{number_text(value)}</text>',
        ]
    parts += [
        f'<text x="{x(size):.1f}" y="{height - bottom + 20}" text-anchor="middle">{size:,}</text>' for size in sizes
    ]
    parts.append(f'<text x="{WIDTH / 2}" y="{height - 8}" text-anchor="middle">{escape(x_title)}</text>')
    for number, (name, points) in enumerate(series.items()):
        colour = COLOURS[number % len(COLOURS)]
        middles = [(x(size), y(statistics.median(runs))) for size, runs in sorted(points.items())]
        path = " ".join(f"{at:.1f},{value:.1f}" for at, value in middles)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for size, runs in points.items():
            ends = f'y1="{y(min(runs)):.1f}" y2="{y(max(runs)):.1f}"'
            parts.append(f'<line x1="{x(size):.1f}" x2="{x(size):.1f}" {ends} stroke="{colour}" stroke-width="5"/>')
        parts.append(f'<text x="{left + 8}" y="{top + 16 * number + 8}" style="fill: {colour}">{escape(name)}</text>')
    return svg(height, parts)


def nice(value: float) -> float:
    """Return the next greater of 1, 2, 4, 5, 8 times a power of ten, so that a quarter of it is a short number."""
    power = 10.0 ** math.floor(math.log10(value)) if value > 0 else 1.0
    return next(power * step for step in (1, 2, 4, 5, 8, 10, 20) if power * step >= value)


def number_text(value: float) -> str:
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"
