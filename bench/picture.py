"""The picture of the availability measurement: for each change three bars, the longest wait, on a logarithmic scale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from bench.availability import Felt

_COLOURS = {"plain Alembic": "#c0392b", "with lock_timeout": "#e0a030", "ours": "#2e7d4f"}
_LEFT, _WIDTH, _BAR, _GAP, _TOP = 230, 560, 9, 12, 84
_LEAST, _MOST = 1.0, 100_000.0
"""Milliseconds at both ends of the scale."""


def draw(felt: Sequence[Felt], allowed: float) -> str:
    """An SVG of the longest waits; what failed has a cross behind it, and errors are counted there."""
    idle = next((one.worst for one in felt if one.contestant == "idle"), 0.0)
    changes = list(dict.fromkeys(one.change for one in felt if one.contestant != "idle"))
    step = len(_COLOURS) * _BAR + _GAP
    bottom = _TOP + len(changes) * step
    rows = felt[0].rows if felt else 0
    parts = [_text(16, 24, f"Longest wait of a reader or writer while {rows:,} rows are changed", size=15)]
    for place, (name, colour) in enumerate(_COLOURS.items()):
        parts += [_box(16 + place * 150, 38, 12, _BAR + 1, colour), _text(34 + place * 150, 47, name)]
    for power in range(6):
        at, name = _at(10.0**power), f"{10**power:,} ms" if power < 3 else f"{10 ** (power - 3)} s"
        parts += [_line(at, "#8884", bottom), _text(at, _TOP - 6, name, anchor="middle")]
    limit = idle + allowed
    parts += [
        _line(_at(limit * 1000), "#2e7d4f", bottom, dashed=True),
        _text(
            _at(limit * 1000), bottom + 14, f"idle + {allowed * 1000:.0f} ms = {limit * 1000:.0f} ms", anchor="middle"
        ),
    ]
    for number, change in enumerate(changes):
        top = _TOP + number * step
        parts.append(_text(_LEFT - 8, top + 2 * _BAR, change, anchor="end"))
        for one in felt:
            if one.change == change:
                parts += _bar(one, top + list(_COLOURS).index(one.contestant) * _BAR)
    height, width = bottom + 26, _LEFT + _WIDTH + 110
    style = "<style>text{font:12px sans-serif;fill:#222}rect.page{fill:#fff}</style>"
    page = f'<rect class="page" width="{width}" height="{height}"/>'
    opened = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
    )
    return "\n".join([opened, style, page, *parts, "</svg>", ""])


def _bar(one: Felt, top: int) -> list[str]:
    end = _at(one.worst * 1000)
    said = f"{one.worst * 1000:.0f} ms" if one.worst < 1 else f"{one.worst:.1f} s"
    said += f", {one.errors} errors" if one.errors else ""
    said += "" if one.done else ", change failed"
    return [_box(_LEFT, top, end - _LEFT, _BAR - 1, _COLOURS[one.contestant]), _text(end + 4, top + 8, said, size=9)]


def _at(milliseconds: float) -> float:
    share = math.log10(min(max(milliseconds, _LEAST), _MOST) / _LEAST) / math.log10(_MOST / _LEAST)
    return _LEFT + share * _WIDTH


def _box(x: float, y: float, width: float, height: float, colour: str) -> str:
    return f'<rect x="{x:.1f}" y="{y}" width="{max(width, 1):.1f}" height="{height}" fill="{colour}"/>'


def _line(x: float, colour: str, bottom: float, *, dashed: bool = False) -> str:
    dash = ' stroke-dasharray="4 3"' if dashed else ""
    return f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{bottom}" stroke="{colour}"{dash}/>'


def _text(x: float, y: float, text: str, *, anchor: str = "start", size: int = 12) -> str:
    return f'<text x="{x:.1f}" y="{y}" text-anchor="{anchor}" style="font-size:{size}px">{escape(text)}</text>'
