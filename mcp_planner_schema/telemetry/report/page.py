"""A report as a page: sections of a few kinds of blocks, which each form renders in its own way. All of it is plain text."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from mcp_planner_schema.telemetry.report.timeline import Row


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Facts:
    """Names and what they are."""

    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Code:
    """Something to type, or that was said: as it is, in lines of its own."""

    label: str
    text: str


@dataclass(frozen=True)
class Table:
    """``heads`` are names of columns with how they are set: text, number or code."""

    caption: str
    heads: tuple[tuple[str, str], ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Timeline:
    """The steps over time, ``total`` milliseconds from ``begin`` on."""

    begin: dt.datetime
    total: float
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Folded:
    """What is to be opened: ``sign`` and ``title``, and ``lines`` as they are."""

    sign: str
    title: str
    lines: tuple[str, ...]


Block = Text | Facts | Code | Table | Timeline | Folded


@dataclass(frozen=True)
class Section:
    """``name`` is its anchor."""

    name: str
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Page:
    """``state`` is the run's; ``numbers`` are a few that tell most, each with what it is."""

    state: str
    title: str
    above: str
    summary: str
    numbers: tuple[tuple[str, str], ...]
    sections: tuple[Section, ...]
    foot: str
