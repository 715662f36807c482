"""Draws seconds over namespaces, both logarithmic, as an SVG that is readable on white and on black."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from html import escape

WIDTH, HEIGHT = 760, 460
LEFT, RIGHT, TOP, BOTTOM = 64, 20, 20, 52
TITLE = "Seconds from apply to Ready, over namespaces"
STYLE = """\
  text { font: 13px system-ui, sans-serif; fill: #24292f }
  .grid { stroke: #8c959f; stroke-opacity: .35 }
  .line { fill: none; stroke-width: 2 }
  .floor { stroke-dasharray: 6 4 }
  circle.line { stroke-dasharray: none }
  .a { stroke: #0969da }
  .b { stroke: #bc4c00 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 }
    .a { stroke: #58a6ff }
    .b { stroke: #f0883e }
  }"""
Series = Mapping[int, float]


class _Axes:
    """Where a point of the data is in the picture."""

    def __init__(self, curves: Mapping[str, Series]) -> None:
        seconds = [value for series in curves.values() for value in series.values()]
        self.columns = sorted({count for series in curves.values() for count in series})
        self.lines = _ticks(min(seconds), max(seconds))

    def x(self, count: float) -> float:
        return LEFT + _share(count, self.columns[0], self.columns[-1]) * (WIDTH - LEFT - RIGHT)

    def y(self, seconds: float) -> float:
        return HEIGHT - BOTTOM - _share(seconds, self.lines[0], self.lines[-1]) * (HEIGHT - TOP - BOTTOM)


def draw(curves: Mapping[str, Series]) -> str:
    """The SVG of seconds by namespaces, by series; a series `X, bare client` has the colour of X, and is dashed."""
    axes = _Axes(curves)
    parts = [*_grid(axes), *_legend(curves)]
    for name, series in curves.items():
        look = _look(name, curves)
        points = [(axes.x(count), axes.y(seconds), count, seconds) for count, seconds in sorted(series.items())]
        parts.append(f'<polyline class="{look}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y, *_ in points)}"/>')
        for x, y, count, seconds in points:
            told = f"<title>{escape(name)}, {count} namespaces: {seconds:.2f} s</title>"
            parts.append(f'<circle class="{look}" cx="{x:.1f}" cy="{y:.1f}" r="2.5">{told}</circle>')
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{TITLE}">'
    return "\n".join([head, f"<title>{TITLE}</title>", f"<style>\n{STYLE}\n</style>", *parts, "</svg>"]) + "\n"


def _grid(axes: _Axes) -> Iterator[str]:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    for count in axes.columns:
        x = axes.x(count)
        yield f'<line class="grid" x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{bottom}"/>'
        yield f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{count:g}</text>'
    for seconds in axes.lines:
        y = axes.y(seconds)
        yield f'<line class="grid" x1="{LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}"/>'
        yield f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{seconds:g}</text>'
    yield f'<text x="{(LEFT + right) / 2}" y="{HEIGHT - 10}" text-anchor="middle">namespaces of the grant</text>'
    middle = (TOP + bottom) / 2
    yield f'<text x="16" y="{middle}" text-anchor="middle" transform="rotate(-90 16 {middle})">seconds from apply to Ready</text>'


def _legend(curves: Mapping[str, Series]) -> Iterator[str]:
    for number, name in enumerate(curves):
        y = TOP + 18 + 20 * number
        yield f'<line class="{_look(name, curves)}" x1="{LEFT + 14}" y1="{y}" x2="{LEFT + 46}" y2="{y}"/>'
        yield f'<text x="{LEFT + 54}" y="{y + 4}">{escape(name)}</text>'


def _look(name: str, curves: Mapping[str, Series]) -> str:
    kind, _, floor = name.partition(",")
    kinds = list(dict.fromkeys(each.partition(",")[0] for each in curves))
    return f"line {'ab'[kinds.index(kind) % 2]}" + (" floor" if floor else "")


def _ticks(least: float, most: float) -> list[float]:
    """1, 3, 10, 30, …: from the last that is not above the least value to the first that is not below the most."""
    steps = [factor * 10.0**power for power in range(-4, 6) for factor in (1, 3)]
    low = max(step for step in steps if step <= least)
    high = min(step for step in steps if step >= most)
    return [step for step in steps if low <= step <= high]


def _share(value: float, low: float, high: float) -> float:
    return (math.log(value) - math.log(low)) / (math.log(high) - math.log(low)) if low < high else 0.5
