"""History: what was run, by whom, from which source, and how it ended. Tables ``run`` and ``history`` in the guard's schema."""

from __future__ import annotations

import getpass
import os
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcp_planner_schema import __version__
from mcp_planner_schema.guard.findings import Broken
from mcp_planner_schema.guard.trial import COMMIT_GUARD

if TYPE_CHECKING:
    from sqlalchemy import Connection

_TABLES = """
CREATE SCHEMA IF NOT EXISTS {schema};
COMMENT ON SCHEMA {schema} IS 'What the migration guard writes: runs, history, kept data';

CREATE TABLE IF NOT EXISTS {schema}.run (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    command      text NOT NULL,
    state        text NOT NULL CHECK (state IN ('running', 'done', 'failed', 'interrupted')),
    from_heads   text[] NOT NULL,
    to_heads     text[],
    planned      integer NOT NULL,
    started_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at  timestamptz,
    who          text NOT NULL,
    db_user      text NOT NULL DEFAULT session_user,
    host         text NOT NULL,
    pid          integer NOT NULL,
    git_commit   text,
    tool_version text NOT NULL,
    error        text
);
COMMENT ON TABLE {schema}.run IS 'One row a run; written as running before its first step, so that a killed run leaves a trace';

CREATE TABLE IF NOT EXISTS {schema}.history (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run_id       bigint NOT NULL REFERENCES {schema}.run,
    revision     text NOT NULL,
    direction    text NOT NULL CHECK (direction IN ('upgrade', 'downgrade', 'stamp')),
    outcome      text NOT NULL CHECK (outcome IN ('done', 'failed', 'skipped')),
    description  text,
    author       text,
    started_at   timestamptz NOT NULL,
    finished_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    duration_ms  double precision NOT NULL,
    lock_wait_ms double precision NOT NULL,
    hold_ms      double precision NOT NULL,
    attempts     integer NOT NULL,
    rows_touched bigint,
    checksum     text,
    source       text,
    waivers      text[] NOT NULL DEFAULT '{{}}',
    who          text NOT NULL,
    host         text NOT NULL,
    git_commit   text,
    tool_version text NOT NULL,
    error        text
);
CREATE INDEX IF NOT EXISTS history_revision ON {schema}.history (revision, id);
CREATE INDEX IF NOT EXISTS history_run ON {schema}.history (run_id);
COMMENT ON TABLE {schema}.history IS 'One row per finished attempt of a step; that of a success commits with the step itself';
COMMENT ON COLUMN {schema}.history.duration_ms IS 'Milliseconds from the first try of the step to its end, pauses included';
COMMENT ON COLUMN {schema}.history.lock_wait_ms IS 'Milliseconds the step was seen waiting for locks, over all tries';
COMMENT ON COLUMN {schema}.history.hold_ms IS 'Milliseconds from the first statement of the last try to its last: its locks were held no longer';
COMMENT ON COLUMN {schema}.history.rows_touched IS 'Rows inserted, updated and deleted by the step; null where it committed in the middle';
COMMENT ON COLUMN {schema}.history.checksum IS 'v1: sha256 over the tokens of the revision, header, comments and layout left out';

CREATE TABLE IF NOT EXISTS {schema}.stash (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run_id      bigint NOT NULL REFERENCES {schema}.run,
    revision    text NOT NULL,
    object      text NOT NULL,
    kind        text NOT NULL CHECK (kind IN ('table', 'columns')),
    kept_in     text NOT NULL,
    key_columns text[] NOT NULL,
    columns     text[] NOT NULL,
    types       text[] NOT NULL,
    row_count   bigint NOT NULL,
    kept_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    who         text NOT NULL
);
COMMENT ON TABLE {schema}.stash IS 'What downgrades would have destroyed: one row per kept table or set of columns';
"""


@dataclass(frozen=True)
class Origin:
    """Who runs this, where, from which commit of the history."""

    who: str
    host: str
    git_commit: str | None


@dataclass(frozen=True)
class Entry:
    """One row of ``history``. Times are milliseconds; ``started_at`` is the server's clock at the first try."""

    revision: str
    direction: str
    outcome: str
    description: str | None
    author: str | None
    started_at: Any
    duration_ms: float
    lock_wait_ms: float
    hold_ms: float
    attempts: int
    rows_touched: int | None
    checksum: str | None
    source: str | None
    waivers: tuple[str, ...]
    error: str | None = None


def origin(folder: Path) -> Origin:
    """Who and where: the person behind sudo where there is one. Runs git once; no git is no error."""
    who = os.environ.get("SUDO_USER") or _user()
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, timeout=5, check=False
        )
        commit = found.stdout.strip() if found.returncode == 0 else None
    except (OSError, subprocess.SubprocessError):
        commit = None
    return Origin(who, socket.gethostname(), commit)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a uid without a name, as in many containers
        return f"uid {os.getuid()}"


def prepare(connection: Connection, schema: str) -> None:
    """Create the guard's tables where they are missing. Call under the deployers' lock; commits by autocommit.

    Raises :class:`Broken` with the line to run when the role may not create a schema.
    """
    from sqlalchemy.exc import ProgrammingError

    missing = "SELECT count(*) FROM unnest(%s::text[]) AS name WHERE to_regclass(name) IS NULL"
    names = [f"{schema}.{table}" for table in ("run", "history", "stash", "commit_guard")]
    if connection.exec_driver_sql(missing, (names,)).scalar_one() == 0:
        return
    try:
        connection.exec_driver_sql(_TABLES.format(schema=schema) + COMMIT_GUARD.format(schema=schema))
    except ProgrammingError as error:
        if getattr(error.orig, "pgcode", "") != "42501":
            raise
        user = connection.exec_driver_sql("SELECT quote_ident(session_user)").scalar_one()
        raise Broken(
            f"The role may not create the schema {schema}, where history and kept data live. Nothing was changed.",
            f"CREATE SCHEMA {schema} AUTHORIZATION {user};   (in psql, as the owner of the database)",
        ) from error


def begin(
    connection: Connection, schema: str, who: Origin, *, command: str, heads: tuple[str, ...], planned: int
) -> tuple[int, list[str]]:
    """Write the run as running. Gives its id, and the descriptions of earlier runs that never ended.

    The caller holds the deployers' lock, so whatever still says running is dead.
    """
    dead = connection.exec_driver_sql(
        f"UPDATE {schema}.run SET state = 'interrupted', finished_at = clock_timestamp() WHERE state = 'running' "
        "RETURNING id, command, who, date_trunc('second', started_at)::text"
    ).all()
    number: int = connection.exec_driver_sql(
        f"INSERT INTO {schema}.run (command, state, from_heads, planned, who, host, pid, git_commit, tool_version) "
        "VALUES (%s, 'running', %s, %s, %s, %s, %s, %s, %s) RETURNING id",
        (command, list(heads), planned, who.who, who.host, os.getpid(), who.git_commit, __version__),
    ).scalar_one()
    return number, [f"run {row[0]} ({row[1]}, by {row[2]}, {row[3]})" for row in dead]


def end(connection: Connection, schema: str, run: int, heads: tuple[str, ...], error: str | None) -> None:
    """Write how the run ended: done, or failed with its error."""
    connection.exec_driver_sql(
        f"UPDATE {schema}.run SET state = %s, finished_at = clock_timestamp(), to_heads = %s, error = %s WHERE id = %s",
        ("failed" if error else "done", list(heads), error, run),
    )


def write(connection: Connection, schema: str, run: int, who: Origin, entry: Entry) -> None:
    """Insert one row: on the step's connection for a success, on another for a failure."""
    values = {
        "run_id": run, "revision": entry.revision, "direction": entry.direction, "outcome": entry.outcome,
        "description": entry.description, "author": entry.author, "started_at": entry.started_at,
        "duration_ms": entry.duration_ms, "lock_wait_ms": entry.lock_wait_ms, "hold_ms": entry.hold_ms,
        "attempts": entry.attempts, "rows_touched": entry.rows_touched, "checksum": entry.checksum,
        "source": entry.source, "waivers": list(entry.waivers), "who": who.who, "host": who.host,
        "git_commit": who.git_commit, "tool_version": __version__, "error": entry.error,
    }  # fmt: skip
    columns, places = ", ".join(values), ", ".join(["%s"] * len(values))
    connection.exec_driver_sql(f"INSERT INTO {schema}.history ({columns}) VALUES ({places})", tuple(values.values()))


def applied(connection: Connection, schema: str) -> dict[str, tuple[int, str, str, str]]:
    """For each revision whose last finished step is an upgrade: history id, day, checksum, source. Reads only."""
    if connection.exec_driver_sql("SELECT to_regclass(%s)", (f"{schema}.history",)).scalar_one() is None:
        return {}
    rows = connection.exec_driver_sql(
        f"SELECT DISTINCT ON (revision) revision, id, finished_at::date::text, checksum, source, direction "
        f"FROM {schema}.history WHERE outcome = 'done' ORDER BY revision, id DESC"
    )
    return {row[0]: (row[1], row[2], row[3], row[4]) for row in rows if row[5] == "upgrade" and row[3]}
