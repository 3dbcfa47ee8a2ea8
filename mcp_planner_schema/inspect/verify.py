"""Runs the expectations of all applied revisions against a live database. Reads only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mcp_planner_schema.guard import history, judge, version_table
from mcp_planner_schema.guard.postcheck import CATALOG_PATH, Expectation, execute, expectations, pinned
from mcp_planner_schema.inspect import route, status

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.script import Script
    from sqlalchemy import Connection

_GONE = ("42P01", "42703", "42883", "42704")
"""SQLSTATEs of a query whose table, column, function or type does not exist."""


@dataclass(frozen=True)
class Report:
    """How many expectations were run, and a line for each that is not met."""

    revisions: int
    checked: int
    failures: tuple[str, ...]


def verify(config: Config) -> Report:
    """Check what each applied revision promised, as far as no later one has promised otherwise.

    Each question is a transaction of its own that is rolled back. A revision that was skipped here, as not for this environment,
    has changed nothing, so nothing is expected of it.
    """
    table = version_table.of(config)
    with status.connected(config) as (connection, settings):
        current = version_table.heads(connection, table)
        with route.history(config, settings, (), connection, table) as script:
            applied = list(reversed(list(script.iterate_revisions(current, "base")))) if current else []
        judged = judge.judge_pending(script, [one.path for one in applied], settings)
        recorded = history.upgraded_as(connection, settings.schema, table.shown)
        here = [
            one
            for one, found in zip(applied, judged, strict=True)
            if not judge.left_out(found, settings, recorded.get(one.revision))
        ]
        standing = _standing(here)
        failures = [line for one in standing if (line := _unmet(connection, *one))]
        return Report(len(applied), len(standing), tuple(failures))


def _standing(applied: list[Script]) -> list[tuple[str, Expectation, bool]]:
    """What still counts: revision, expectation, and whether a later revision has taken something away."""
    newest: dict[str, tuple[int, Expectation]] = {}
    taken_at = -1
    for place, revision in enumerate(applied):
        for one in expectations(revision.module, upgrade=True):
            # What a later revision says of the same object, or of the table it was part of, counts instead.
            if one.absent:
                taken_at = place
                newest = {
                    subject: (at, held)
                    for subject, (at, held) in newest.items()
                    if held.within != one.subject or at == place
                }
            newest[one.subject] = (place, one)
    return [(applied[place].revision, one, place < taken_at) for place, one in newest.values()]


def _unmet(connection: Connection, revision: str, one: Expectation, something_taken: bool) -> str:
    from sqlalchemy.exc import DBAPIError

    asked = f"SELECT ({one.holds}), ({one.found})"
    try:
        if one.catalog:
            with pinned(connection, search_path=CATALOG_PATH):
                holds, found = execute(connection, asked).one()
        else:
            holds, found = execute(connection, asked).one()
    except DBAPIError as error:
        # A query about something that a later revision has dropped asks about the past.
        holds = something_taken and getattr(error.orig, "pgcode", "") in _GONE
        found = str(error.orig).strip().splitlines()[0]
    finally:
        connection.rollback()
    return "" if holds else f"{revision}: expected {one.says}, found {found if found is not None else 'nothing'}"
