"""A report as Markdown. Whatever a name, an error or an application says stays where it stands, as in a plan's."""

from __future__ import annotations

import re
from collections.abc import Iterable

from mcp_planner_schema.inspect.plan_markdown import text
from mcp_planner_schema.telemetry.report.page import Block, Code, Facts, Folded, Page, Section, Table, Timeline
from mcp_planner_schema.telemetry.report.timeline import Row
from mcp_planner_schema.telemetry.report.words import lasting, visible, when

LIMIT = 60_000
"""Characters of the whole: a comment on GitHub may have 65,536. What is longer goes without what is folded."""

_WIDE, _NAMED = 48, 12
_WORK, _HOLD, _WAIT = "─", "█", "░"


def markdown(page: Page) -> str:
    """All of it; where that is too long for a comment, without the parts of changed objects."""
    whole = _markdown(page, folded=True)
    return whole if len(whole) <= LIMIT else _markdown(page, folded=False)


def _markdown(page: Page, *, folded: bool) -> str:
    numbers = " · ".join(f"**{text(number)}** {text(what)}" for number, what in page.numbers)
    lines = [
        f"# {text(page.title)}",
        "",
        text(page.above),
        "",
        text(page.summary),
        "",
        *([numbers, ""] if numbers else []),
    ]
    for one in page.sections:
        lines += _section(one, folded=folded)
    return "\n".join([*lines, text(page.foot)]) + "\n"


def _section(section: Section, *, folded: bool) -> list[str]:
    lines = [f"## {text(section.title)}", ""]
    for block in section.blocks:
        lines += [*_block(block, folded=folded), ""]
    return lines


def _block(block: Block, *, folded: bool) -> list[str]:
    match block:
        case Facts(pairs):
            return [f"- **{text(name)}** {text(value)}" for name, value in pairs]
        case Code(label, code):
            return [f"{text(label)}:", "", *_fenced(code)]
        case Table(caption, heads, rows):
            under = "|".join("---:" if kind == "number" else "---" for _, kind in heads)
            return [f"{text(caption)}:", "", _row(name for name, _ in heads), f"|{under}|", *map(_row, rows)]
        case Timeline(begin, total, rows):
            drawn = [f"{_name(row)} |{_drawn(row)}| {lasting(row.step.duration)}" for row in rows]
            signs = f"{_WORK} at work, {_HOLD} locks held, {_WAIT} waiting for a lock"
            return [f"From {when(begin)} on, within {lasting(total)}; {signs}:", "", *_fenced("\n".join(drawn))]
        case Folded(sign, title, lines):
            return _folded(f"{text(sign)} {text(title)}", lines if folded else ())
    return [text(block.text)]


def _folded(title: str, lines: tuple[str, ...]) -> list[str]:
    """The empty lines let what is between the tags be read as Markdown."""
    if not lines:
        return [f"- {title}"]
    return ["<details>", f"<summary>{title}</summary>", "", *_fenced("\n".join(lines)), "", "</details>"]


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(text(cell) for cell in cells) + " |"


def _fenced(code: str) -> list[str]:
    """The text as it is, in a fence that it cannot close."""
    lines = visible(code).rstrip("\n").split("\n")
    fence = "`" * max([3, *(len(run) + 1 for run in re.findall("`+", code))])
    return [f"{fence}text", *lines, fence]


def _name(row: Row) -> str:
    return " ".join(row.step.revision.split())[:_NAMED].ljust(_NAMED)


def _drawn(row: Row) -> str:
    """The bars of one step in a line of letters; what came last lies on top, as on the page."""
    cells = [" "] * _WIDE
    for bar in row.bars:
        first = min(int(bar.start * _WIDE / 100), _WIDE - 1)
        last = max(round((bar.start + bar.width) * _WIDE / 100), first + 1)
        cells[first:last] = {"work": _WORK, "hold": _HOLD, "wait": _WAIT}[bar.kind] * (last - first)
    return "".join(cells[:_WIDE])
