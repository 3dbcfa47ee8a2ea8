"""A report as one HTML page that needs nothing else: no script, no font, no picture, and a policy that would let none in.

Every value is plain text and goes through :func:`.words.shown`, the template's default filter. The page's one style is named in
the policy by its hash, so no other is obeyed either.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from mako.template import Template

from mcp_planner_schema.telemetry.report.page import Page, Timeline
from mcp_planner_schema.telemetry.report.words import clock, lasting, many, when

_HERE = Path(__file__).resolve().parent
# A thin line, a block and an outlined box: told apart without colour.
_SHAPES = {
    "work": 'y="8" height="2"',
    "hold": 'y="2" height="14"',
    "wait": 'y="5" height="8"',
}


def html(page: Page) -> str:
    """All of it."""
    style = (_HERE / "page.css").read_text(encoding="utf-8")
    template = Template(
        filename=str(_HERE / "page.mako"),
        default_filters=["shown"],
        imports=["from mcp_planner_schema.telemetry.report.words import shown"],
        strict_undefined=True,
    )
    rendered: str = template.render(
        page=page,
        style=style,
        policy=policy(style),
        shapes=_SHAPES,
        caption=_caption,
        marked=_marked,
        clock=clock,
        lasting=lasting,
    )
    return rendered


def policy(style: str) -> str:
    """What a browser may do with the page: show it in this style, and nothing else."""
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


def _caption(timeline: Timeline) -> str:
    return f"{many(len(timeline.rows), 'step')} from {when(timeline.begin)} on, within {lasting(timeline.total)}"


def _marked(kind: str, cell: str) -> str:
    """An attribute for a cell that says by its first sign how something ended."""
    return f' data-mark="{cell[0]}"' if kind == "text" and cell[:1] in ("✓", "✕", "…") else ""
