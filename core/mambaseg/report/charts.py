"""Charts as inline SVG: curves over a training, and the spread of scores over cases."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise

import numpy as np

from mambaseg.report.page import number

__all__ = ["curve", "spread"]

_WIDTH = 520.0
_CURVE_WIDTH = 340.0  # three in a row
_ROW = 38.0  # height of a row of `spread`
_DOT = 3.2
_MOST_POINTS = 600  # of a curve; more would not be seen
_MOST_DOTS = 250  # of a row


def curve(title: str, points: Sequence[tuple[float, float]], x_title: str, mark: tuple[float, float] | None = None,
          mark_words: str = "") -> str:
    """A line over the course of a training.

    Parameters
    ----------
    title : plain text above it
    points : (x, y), x ascending
    x_title : what x is
    mark : a point to point out, and in `mark_words` what it is

    Returns
    -------
    HTML; "" with fewer than two finite points
    """
    points = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    if len(points) < 2:
        return ""
    height, left, right, top, bottom = 210.0, 40.0, 8.0, 10.0, 38.0
    x_ticks = _ticks(points[0][0], points[-1][0], 5)
    y_ticks = _ticks(min(y for _, y in points), max(y for _, y in points), 5)
    x_low, x_high = points[0][0], points[-1][0]
    y_low, y_high = min(y_ticks[0], *(y for _, y in points)), max(y_ticks[-1], *(y for _, y in points))

    def at(x: float, y: float) -> tuple[float, float]:
        return (left + (x - x_low) / (x_high - x_low or 1) * (_CURVE_WIDTH - left - right),
                top + (y_high - y) / (y_high - y_low or 1) * (height - top - bottom))

    parts = []
    for y in y_ticks:
        _, row = at(x_low, y)
        parts.append(f'<line class="grid" x1="{left:g}" x2="{_CURVE_WIDTH - right:g}" y1="{row:.1f}" y2="{row:.1f}"/>'
                     f'<text x="{left - 8:g}" y="{row + 4:.1f}" text-anchor="end">{_tick(y, y_ticks)}</text>')
    for x in x_ticks:
        if x_low <= x <= x_high:
            column, _ = at(x, y_low)
            parts.append(f'<text x="{column:.1f}" y="{height - bottom + 18:g}" text-anchor="middle">{x:,.6g}</text>')
    line = " ".join("{:.1f},{:.1f}".format(*at(x, y)) for x, y in _thinned(points))
    parts.append(f'<polyline class="line" points="{line}"/>')
    if mark is not None:
        column, row = at(*mark)
        parts.append(f'<circle class="best" cx="{column:.1f}" cy="{row:.1f}" r="6"><title>{escape(mark_words)}</title>'
                     "</circle>")
    parts.append(f'<text x="{(left + _CURVE_WIDTH - right) / 2:g}" y="{height - 4:g}" text-anchor="middle">'
                 f"{escape(x_title)}</text>")
    return _chart(title, mark_words, _CURVE_WIDTH, height, parts)


def spread(title: str, rows: Mapping[str, Sequence[tuple[str, float]]], low: float | None = None,
           high: float | None = None) -> str:
    """A box plot with a dot for each case, a row for each class or score.

    The box holds the middle half of the cases, the bar in it is the median, whiskers end at the last case within one
    and a half lengths of the box (Tukey).

    Parameters
    ----------
    title : plain text above it
    rows : by name of the row, (case, value); rows without a value are left out
    low, high : ends of the axis; None: those of the values

    Returns
    -------
    HTML; "" where there is no value
    """
    finite = {name: [(case, value) for case, value in cases if math.isfinite(value)] for name, cases in rows.items()}
    finite = {name: cases for name, cases in finite.items() if cases}
    if not finite:
        return ""
    every = [value for cases in finite.values() for _, value in cases]
    low = min(every) if low is None else low
    high = max(every) if high is None else high
    if high <= low:
        low, high = low - 0.5, high + 0.5
    left = min(190.0, 16 + 7.2 * max(map(len, finite)))
    ticks = _ticks(low, high)
    low, high = min(low, ticks[0]), max(high, ticks[-1])
    height = 26 + _ROW * len(finite)

    def at(value: float) -> float:
        return left + (value - low) / (high - low) * (_WIDTH - left - 12)

    parts = [f'<line class="grid" x1="{at(x):.1f}" x2="{at(x):.1f}" y1="0" y2="{height - 22:g}"/>'
             f'<text x="{at(x):.1f}" y="{height - 6:g}" text-anchor="middle">{_tick(x, ticks)}</text>' for x in ticks]
    for index, (name, cases) in enumerate(finite.items()):
        middle = _ROW * (index + 0.5)
        shown = name if len(name) <= 24 else f"{name[:23]}…"
        parts.append(f'<text class="name" x="{left - 10:g}" y="{middle + 4:g}" text-anchor="end">'
                     f"<title>{escape(name)}</title>{escape(shown)}</text>")
        numbers = [at(value) for _, value in cases]
        parts += _box(numbers, middle) + _dots(cases, numbers, middle)
    return _chart(title, "", _WIDTH, height, parts)


def _box(places: Sequence[float], middle: float) -> list[str]:
    """Box, median and whiskers of one row; nothing for fewer than three cases, where dots say it all."""
    if len(places) < 3:
        return []
    first, median, third = np.quantile(places, [0.25, 0.5, 0.75])
    reach = 1.5 * (third - first)
    low = min(place for place in places if place >= first - reach)
    high = max(place for place in places if place <= third + reach)
    top = middle - 11
    return [f'<line class="whisker" x1="{low:.1f}" x2="{high:.1f}" y1="{middle:g}" y2="{middle:g}"/>'
            f'<rect class="box" x="{first:.1f}" y="{top:g}" width="{max(third - first, 1):.1f}" height="22" rx="3"/>'
            f'<line class="middle" x1="{median:.1f}" x2="{median:.1f}" y1="{top:g}" y2="{middle + 11:g}"/>']


def _dots(cases: Sequence[tuple[str, float]], places: Sequence[float], middle: float) -> list[str]:
    """A dot a case, moved a little up or down so that equal ones can be told apart; hovering names the case."""
    step = max(1, len(cases) // _MOST_DOTS)
    order = sorted(range(len(cases)), key=lambda index: places[index])
    chosen = sorted({*order[::step], order[0], order[-1]})
    return [f'<circle class="dot" cx="{places[index]:.1f}" cy="{middle + 8 * math.sin(2.4 * index):.1f}" r="{_DOT}">'
            f"<title>{escape(cases[index][0])}: {number(cases[index][1])}</title></circle>" for index in chosen]


def _chart(title: str, words: str, width: float, height: float, parts: Sequence[str]) -> str:
    """An SVG under its title, read out as such."""
    said = f'<p class="quiet">{escape(words)}</p>' if words else ""
    return (f'<div class="chart"><h3>{escape(title)}</h3><svg viewBox="0 0 {width:g} {height:g}" role="img" '
            f'aria-label="{escape(title)}">{"".join(parts)}</svg>{said}</div>')


def _ticks(low: float, high: float, n_wanted: int = 6) -> list[float]:
    """Round numbers that span a range: steps of 1, 2 or 5 times a power of ten."""
    span = high - low or abs(high) or 1.0
    rough = span / max(1, n_wanted - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [round(index * step, 10) for index in range(first, max(last, first + 1) + 1)]


def _tick(value: float, ticks: Sequence[float]) -> str:
    """A tick's number, all of one axis with as many digits; no scientific notation."""
    step = min((b - a for a, b in pairwise(ticks)), default=1.0)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    return f"{value:,.{digits}f}"


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """A curve's points, means of neighbours where there are very many."""
    if len(points) <= _MOST_POINTS:
        return list(points)
    parts = np.array_split(np.asarray(points), _MOST_POINTS)
    return [(float(part[:, 0].mean()), float(part[:, 1].mean())) for part in parts]
