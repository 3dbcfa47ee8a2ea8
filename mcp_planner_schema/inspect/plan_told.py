"""In which form a plan is told: for people, as JSON, or as Markdown."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable

from mcp_planner_schema.guard.findings import WrongUse
from mcp_planner_schema.inspect import plan_json, plan_markdown, plan_text
from mcp_planner_schema.inspect.planned import Plan


def form(as_json: str | None, named: str | None, full: str | None = None) -> Callable[[Plan], str]:
    """The form that JSON=1 or FORMAT=… asks for. Raises :class:`WrongUse` for one that is not there, and for both.

    ``full``: for people, all of it; the other two tell all anyway.
    """
    if named not in (None, "markdown"):
        raise WrongUse(f"FORMAT is {named!r}; it is markdown or left out.", "make migrate-plan FORMAT=markdown")
    if as_json and named:
        raise WrongUse("JSON and FORMAT both say how it is told.", "make migrate-plan JSON=1")
    if as_json:
        return lambda plan: json.dumps(plan_json.as_json(plan), indent=2)
    return plan_markdown.markdown if named else functools.partial(plan_text.text, full=bool(full))
