"""Where a database stands: its version, what is pending, what the last runs did. Reads only."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.backfill import standing
from mcp_planner_schema.backfill.standing import Standing
from mcp_planner_schema.guard import ahead, banner, connect, deploy_lock, graph, settings, version_table
from mcp_planner_schema.guard import history as guard_history
from mcp_planner_schema.guard.version_table import VersionTable

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy import Connection

    from mcp_planner_schema.compatible import Compatibility


"""Whose runs are told of where nobody has asked the environment."""


@dataclass(frozen=True)
class Status:
    """One answer to "where are we?". ``pending`` are revisions in the order they would run; ``edited`` were changed since.

    ``skipped`` are applied and were not run, as not for this environment. ``unknown`` are heads that no file here has;
    ``ahead`` is then what the database knows of such revisions.
    """

    database: str
    environment: str
    current: tuple[str, ...]
    head: tuple[str, ...]
    pending: tuple[str, ...]
    unknown: tuple[str, ...]
    edited: tuple[str, ...]
    skipped: tuple[str, ...]
    last_runs: tuple[str, ...]
    stashes: dict[str, Any] | None = None
    backfills: tuple[Standing, ...] = ()
    ahead: dict[str, Any] | None = None

    def as_json(self) -> dict[str, Any]:
        """The same as plain lists and strings."""
        return asdict(self)

    def text(self) -> str:
        """The same for people."""
        lines = [
            f"database   {self.database}  ({self.environment})",
            f"version    {', '.join(self.current) or 'base'}",
            f"head       {', '.join(self.head) or 'none'}",
            "pending    " + (f"{len(self.pending)}" if self.pending else "nothing"),
            *(f"           {line}" for line in self.pending),
            *(f"unknown    {revision}: no file here has it" for revision in self.unknown),
            *(f"{'':10} {line}" for line in self._ahead()),
            *(f"edited     {line}" for line in self.edited),
            *(f"skipped    {line}: it was not for this environment when it came" for line in self.skipped),
            *(f"run        {line}" for line in self.last_runs),
            *(f"backfill   {one.line()}" for one in self.backfills),
            *(
                f"stashes    {one['count']} wait, {one['rows']} rows, since {one['oldest']}: make migrate-stash-list"
                for one in [self.stashes]
                if one
            ),
        ]
        return "\n".join(lines)

    def _ahead(self) -> list[str]:
        if self.ahead is None:
            return []
        revisions = [f"  {one['revision']}  {one['description']}  [{one['phase']}]" for one in self.ahead["revisions"]]
        meaning = f"of an application of this build: {self.ahead['meaning']}"
        return [f"{self.ahead['count']}:", *revisions, meaning, f"next: {self.ahead['next']}"]


@contextmanager
def connected(config: Config) -> Iterator[tuple[Connection, settings.Settings]]:
    """A read-only connection to the configured database; failures come as one sentence."""
    from sqlalchemy.exc import OperationalError

    read = settings.load(config)
    target = connect.url(read)
    engine = connect.engine(target, "mcp-planner-guard inspect")
    try:
        connection = engine.connect().execution_options(postgresql_readonly=True)
    except OperationalError as error:
        raise connect.failure(error, target) from None
    with connection:
        banner.met(config, connection, read, changes=False)
        yield connection, read


def read(config: Config) -> Status:
    """Ask the database and the folder. Imports the revisions, as Alembic does."""
    from mcp_planner_schema.inspect import route, stashes

    table = version_table.of(config)
    with connected(config) as (connection, given):
        current = version_table.heads(connection, table)
        with route.history(config, given, ()) as script:
            every = [(one.revision, one.doc) for one in reversed(list(script.walk_revisions()))]
            unknown = tuple(head for head in current if head not in dict(every))
            applied = set() if unknown else {one.revision for one in script.iterate_revisions(current, "base")}
            head = tuple(script.get_heads())
        recorded = guard_history.upgraded_as(connection, given.schema, table.shown)
        findings = graph.edited(script, given, connection, table.shown, current)
        further = ahead.look(connection, script, given, table.name, table.schema) if unknown else None
        url = connection.engine.url
        return Status(
            database=f"{url.database} at {connect.place(url)}",
            environment=given.environment,
            current=current,
            head=head,
            pending=() if unknown else tuple(f"{name}  {doc}" for name, doc in every if name not in applied),
            unknown=unknown,
            edited=tuple(f"{one.revision} was changed after it was applied ({one.where})" for one in findings),
            skipped=tuple(
                f"{name}  {doc.rstrip('.')}"
                for name, doc in every
                if name in applied and recorded.get(name) == "skipped"
            ),
            last_runs=tuple(_runs(connection, given.schema, table)),
            stashes=stashes.waiting(connection, given.schema),
            backfills=tuple(_backfills(connection, given.schema, table)),
            ahead=_further(further) if further else None,
        )


def _further(found: Compatibility) -> dict[str, Any]:
    return {
        "state": found.state,
        "may_start": found.ok,
        "count": ahead.count(found),
        "meaning": ahead.meaning(found),
        "next": ahead.command(found),
        "revisions": [asdict(one) for one in found.ahead],
    }


def history(config: Config) -> list[dict[str, Any]]:
    """The rows of the guard's history, oldest first, without source texts."""
    with connected(config) as (connection, given):
        if not _exists(connection, f"{given.schema}.history"):
            return []
        rows = connection.exec_driver_sql(
            "SELECT id, run_id, revision, direction, outcome, description, author, "
            "pg_catalog.date_trunc('second', started_at)::text AS started_at, duration_ms, lock_wait_ms, hold_ms, attempts, "
            "rows_touched, checksum, waivers, who, host, git_commit, tool_version, error, "
            # A database that an earlier version has written into has no such column until the next run.
            f"pg_catalog.to_jsonb(h) -> 'scripts' AS scripts, pg_catalog.to_jsonb(h) ->> 'checksum_before' AS checksum_before, "
            f"CASE direction WHEN 'stamp' THEN (SELECT from_heads FROM {given.schema}.run r WHERE r.id = h.run_id) END "
            f"AS from_heads FROM {given.schema}.history h ORDER BY id"
        )
        return [dict(row) for row in rows.mappings()]


def history_text(rows: list[dict[str, Any]]) -> str:
    """One line a row, for people, and one for each script that it has run."""
    lines = [
        f"{row['id']:>5}  {row['started_at']:<22}  {row['revision']:<6} {row['direction']:<9} {row['outcome']:<7} "
        f"{row['duration_ms']:>8.0f} ms  {row['who']}  {_first_line(row['error'] or row['description'])}{_moved(row)}"
        + "".join(
            f"\n{'':31}{one['script']}  {json.dumps(one['arguments'])}  {one['seconds']} s"
            for one in row["scripts"] or ()
        )
        for row in rows
    ]
    return "\n".join(lines) or "no run yet"


def _moved(row: dict[str, Any]) -> str:
    """From where a stamp has moved the version; from which text to which an edit was accepted."""
    if row["direction"] == "stamp":
        return f"  (from {', '.join(row['from_heads'] or ()) or 'base'})"
    if row["direction"] == "accept":
        return f"  ({_short(row['checksum_before'])} -> {_short(row['checksum'])})"
    return ""


def _short(checksum: str | None) -> str:
    return (checksum or "unknown")[:11]


def _first_line(text: str | None) -> str:
    return (text or "").strip().partition("\n")[0]


def _runs(connection: Connection, schema: str, table: VersionTable) -> list[str]:
    if not _exists(connection, f"{schema}.run"):
        return []
    rows = connection.exec_driver_sql(
        "SELECT id, command, state, pg_catalog.date_trunc('second', started_at)::text, who "
        f"FROM {schema}.run ORDER BY id DESC LIMIT 3"
    ).all()
    # A run whose process was killed says running until the next one finds it; the lock tells them apart.
    alive = deploy_lock.taken(connection, deploy_lock.of(connection, *table))
    state = {"running": "running" if alive else "killed; the next run will say interrupted"}
    lines = [f"{row[0]}: {row[1]}: {state.get(row[2], row[2])} ({row[3]}, by {row[4]})" for row in rows]
    ended_well = not rows or rows[0][2] == "done" or (rows[0][2] == "running" and alive)
    return lines if ended_well else [f"{lines[0]}; what happened: make migrate-report RUN={rows[0][0]}", *lines[1:]]


def _backfills(connection: Connection, schema: str, table: VersionTable) -> list[Standing]:
    """Those that are not done; where there is none, the one that the last run has done."""
    every = standing.read(connection, schema, *table)
    there = [one for one in every if one.state != "done"]
    if there or not every:
        return there
    last = connection.exec_driver_sql(f"SELECT pg_catalog.max(id) FROM {schema}.run").scalar()
    return [one for one in every if one.run == last][-1:]


def _exists(connection: Connection, name: str) -> bool:
    return connection.exec_driver_sql("SELECT pg_catalog.to_regclass(%s) IS NOT NULL", (name,)).scalar_one() is True
