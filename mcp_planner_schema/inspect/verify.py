"""Runs the expectations of all applied revisions against a live database. Reads only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mcp_planner_schema.guard.postcheck import Expectation, execute, expectations
from mcp_planner_schema.inspect import status

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy import Connection


@dataclass(frozen=True)
class Report:
    """How many expectations were run, and a line for each that is not met."""

    revisions: int
    checked: int
    failures: tuple[str, ...]


def verify(config: Config) -> Report:
    """Check what each applied revision promised, as far as no later one has promised otherwise."""
    script = status._script(config)
    with status.connected(config) as (connection, _):
        current = status._heads(connection)
        applied = list(reversed(list(script.iterate_revisions(current, "base")))) if current else []
        newest: dict[str, tuple[str, Expectation]] = {}
        for revision in applied:
            for one in expectations(revision.module, upgrade=True):
                # What a later revision says of the same object, or of the table it was part of, counts instead.
                if one.absent:
                    newest = {subject: held for subject, held in newest.items() if held[1].within != one.subject}
                newest[one.subject] = (revision.revision, one)
        failures = [line for name, one in newest.values() if (line := _unmet(connection, name, one))]
        return Report(len(applied), len(newest), tuple(failures))


def _unmet(connection: Connection, revision: str, one: Expectation) -> str:
    from sqlalchemy.exc import DBAPIError

    try:
        holds, found = execute(connection, f"SELECT ({one.holds}), ({one.found})").one()
    except DBAPIError as error:
        holds, found = False, str(error.orig).strip().splitlines()[0]
    finally:
        connection.rollback()
    return "" if holds else f"{revision}: expected {one.says}, found {found if found is not None else 'nothing'}"
