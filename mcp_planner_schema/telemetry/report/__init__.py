"""What happened in one run, as Markdown, as one HTML page that needs nothing else, or as JSON: ``make migrate-report``."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alembic.config import Config


def write(config: Config, number: int | None = None, form: str = "markdown") -> str:
    """The report of run ``number``, or of the newest, as ``markdown``, ``html`` or ``json``. Reads only.

    Raises :class:`WrongUse` for a run that is not there, and where none was ever recorded.
    """
    from mcp_planner_schema.telemetry.report import gather

    report = gather.read(config, number)
    if form == "json":
        import json

        from mcp_planner_schema.telemetry.report import facts

        return json.dumps(facts.as_json(report), indent=2)
    from mcp_planner_schema.telemetry.report import html, markdown, sections

    page = sections.page(report)
    return html.html(page) if form == "html" else markdown.markdown(page)
