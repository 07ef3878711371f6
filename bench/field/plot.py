"""Plots as SVG, written out: horizontal bars with their spread, legible on light and dark pages."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import NamedTuple

_CHART, _RIGHT, _ROW, _TOP, _FOOT = 490, 110, 26, 44, 30
_LETTER = 6.6
"""How wide a letter is at most, on the average of a label."""
_FONT = "font-family='system-ui, sans-serif'"
_INK, _GRID, _OURS, _OTHERS = "#777", "#7773", "#2f6fdb", "#9aa0a6"


class Bar(NamedTuple):
    """One row. least, most: its spread. ours: drawn in the colour of the house. text: what stands at its end."""

    label: str
    value: float
    least: float
    most: float
    ours: bool
    text: str


def bars(title: str, rows: Sequence[Bar], *, from_zero: bool = False) -> str:
    """One SVG document. The axis runs over powers of ten around all spreads, or evenly from 0. Values are above 0.

    No rows, no axis.
    """
    height = _TOP + _ROW * len(rows) + _FOOT
    label = 24 + _LETTER * max((len(row.label) for row in rows), default=20)
    width = label + _CHART + _RIGHT
    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width:.0f} {height}' role='img' "
        f"aria-label='{escape(title, quote=True)}'>",
        f"<text x='8' y='22' font-size='15' font-weight='600' fill='{_INK}' {_FONT}>{escape(title)}</text>",
    ]
    if rows:
        low, high = min(row.least for row in rows), max(row.most for row in rows)
        if from_zero:
            step = 10.0 ** math.floor(math.log10(high))
            ticks = [step * number for number in range(math.ceil(high / step) + 1)]
        else:
            first = math.floor(math.log10(low))
            ticks = [10.0**power for power in range(first, max(math.ceil(math.log10(high)), first + 1) + 1)]
        scale = _evenly if from_zero else math.log10
        begin, end = scale(ticks[0]), scale(ticks[-1])

        def across(value: float) -> float:
            return label + _CHART * (scale(value) - begin) / (end - begin)

        for tick in ticks:
            x, bottom = across(tick), height - _FOOT
            parts.append(f"<line x1='{x:.1f}' y1='{_TOP - 8}' x2='{x:.1f}' y2='{bottom}' stroke='{_GRID}'/>")
            parts.append(_text(x, bottom + 18, f"{tick:,.0f}" if tick >= 1 else f"{tick:g}", "middle"))
        for number, row in enumerate(rows):
            parts += _row(row, label, _TOP + _ROW * number, across)
    return "\n".join([*parts, "</svg>\n"])


def _evenly(value: float) -> float:
    return value


def _row(row: Bar, begin: float, top: float, across: Callable[[float], float]) -> list[str]:
    middle = top + _ROW / 2
    end, least, most = across(row.value), across(row.least), across(row.most)
    colour = _OURS if row.ours else _OTHERS
    return [
        _text(begin - 8, middle + 4, row.label, "end"),
        f"<rect x='{begin:.1f}' y='{top + 5}' width='{max(1.0, end - begin):.1f}' height='{_ROW - 10}' fill='{colour}'/>",
        f"<line x1='{least:.1f}' y1='{middle}' x2='{most:.1f}' y2='{middle}' stroke='{_INK}' stroke-width='2'/>",
        _text(max(end, most) + 6, middle + 4, row.text, "start"),
    ]


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f"<text x='{x:.1f}' y='{y:.1f}' font-size='12' fill='{_INK}' text-anchor='{anchor}' {_FONT}>{escape(text)}</text>"
