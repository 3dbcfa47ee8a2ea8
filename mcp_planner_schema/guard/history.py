"""History: what was run, by whom, from which source, and how it ended. Tables ``run`` and ``history`` in the guard's schema."""

from __future__ import annotations

import getpass
import json
import os
import shlex
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcp_planner_schema import __version__
from mcp_planner_schema.guard import backfill_tables, events, journal, lineage, manifest_tables, marker
from mcp_planner_schema.guard.findings import Broken
from mcp_planner_schema.guard.trial import COMMIT_GUARD

if TYPE_CHECKING:
    from sqlalchemy import Connection

_SCHEMA = """
CREATE SCHEMA {schema};
COMMENT ON SCHEMA {schema} IS 'What the migration guard writes: runs, history, kept data';
"""
# How many of the tables are missing, counting one as missing while it lacks its newest column; whether the schema is.
_MISSING = """
SELECT pg_catalog.count(*) FILTER (WHERE pg_catalog.to_regclass(name) IS NULL
         OR name = pg_catalog.concat(%(schema)s::text, '.history') AND NOT EXISTS (SELECT FROM pg_catalog.pg_attribute
           WHERE attrelid = pg_catalog.to_regclass(name) AND attname = 'handed')
         OR name = pg_catalog.concat(%(schema)s::text, '.stash') AND NOT EXISTS (SELECT FROM pg_catalog.pg_attribute
           WHERE attrelid = pg_catalog.to_regclass(name) AND attname = 'went')
         OR name = pg_catalog.concat(%(schema)s::text, '.stash_object') AND NOT EXISTS (SELECT FROM pg_catalog.pg_attribute
           WHERE attrelid = pg_catalog.to_regclass(name) AND attname = 'body_read')
         OR name = pg_catalog.concat(%(schema)s::text, '.run') AND NOT EXISTS (SELECT FROM pg_catalog.pg_attribute
           WHERE attrelid = pg_catalog.to_regclass(name) AND attname = 'preflight')),
       pg_catalog.to_regnamespace(%(schema)s::text) IS NULL
FROM pg_catalog.unnest(%(names)s::text[]) AS name
"""
# What would run somebody else's code with the guard's rights, or be changed behind it: the SQL that ends it, and why.
_FOREIGN = """
WITH here (oid) AS (SELECT pg_catalog.to_regclass(%(table)s::text)::oid),
     owned (kind, name, owner) AS (
  SELECT 'SCHEMA', pg_catalog.quote_ident(nspname::text), nspowner FROM pg_catalog.pg_namespace
  WHERE nspname = %(schema)s::name
  UNION ALL
  SELECT 'TABLE', pg_catalog.concat(pg_catalog.quote_ident(n.nspname::text), '.', pg_catalog.quote_ident(c.relname::text)),
         c.relowner
  FROM here JOIN pg_catalog.pg_class c USING (oid) JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace)
SELECT pg_catalog.format('ALTER %%s %%s OWNER TO %%I'::text, kind, name, current_user),
       pg_catalog.format('The %%s %%s belongs to %%I'::text, pg_catalog.lower(kind), name, r.rolname)
FROM owned JOIN pg_catalog.pg_roles r ON r.oid = owner
WHERE NOT r.rolsuper AND NOT pg_catalog.pg_has_role(session_user::name, owner, 'MEMBER'::text)
  AND NOT pg_catalog.pg_has_role(current_user::name, owner, 'MEMBER'::text)
UNION ALL
SELECT pg_catalog.format('DROP %%s %%I ON %%s'::text, code.kind, code.name, owned.name),
       pg_catalog.format('The table %%s carries the %%s %%I'::text, owned.name, pg_catalog.lower(code.kind), code.name)
FROM owned, here, (SELECT 'TRIGGER', tgname, tgrelid FROM pg_catalog.pg_trigger WHERE NOT tgisinternal
                   UNION ALL SELECT 'RULE', rulename, ev_class FROM pg_catalog.pg_rewrite) AS code (kind, name, "on")
WHERE owned.kind = 'TABLE' AND code."on" = here.oid
"""
_TABLES = """
CREATE TABLE IF NOT EXISTS {schema}.run (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    version_table text NOT NULL DEFAULT 'alembic_version',
    command      text NOT NULL,
    state        text NOT NULL CHECK (state IN ('running', 'done', 'failed', 'interrupted')),
    from_heads   text[] NOT NULL,
    to_heads     text[],
    planned      integer NOT NULL,
    started_at   timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    finished_at  timestamptz,
    who          text NOT NULL,
    db_user      text NOT NULL DEFAULT session_user,
    host         text NOT NULL,
    pid          integer NOT NULL,
    git_commit   text,
    tool_version text NOT NULL,
    error        text,
    sequences    jsonb,
    preflight    jsonb
);
ALTER TABLE {schema}.run ADD COLUMN IF NOT EXISTS version_table text NOT NULL DEFAULT 'alembic_version',
    ADD COLUMN IF NOT EXISTS sequences jsonb, ADD COLUMN IF NOT EXISTS preflight jsonb;
COMMENT ON COLUMN {schema}.run.preflight IS 'What preflight would have refused and somebody has accepted, and why; else empty';
COMMENT ON COLUMN {schema}.run.sequences IS
'Where sequences stood before a downgrade was tried: the next run puts them back where this one was killed; else empty';
COMMENT ON TABLE {schema}.run IS 'One row a run; written as running before its first step, so that a killed run leaves a trace';

CREATE TABLE IF NOT EXISTS {schema}.history (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run_id       bigint NOT NULL REFERENCES {schema}.run,
    revision     text NOT NULL,
    direction    text NOT NULL CHECK (direction IN ('upgrade', 'downgrade', 'stamp', 'accept')),
    outcome      text NOT NULL CHECK (outcome IN ('done', 'failed', 'skipped')),
    description  text,
    author       text,
    started_at   timestamptz NOT NULL,
    finished_at  timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
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
    error        text,
    scripts      jsonb,
    checksum_before text,
    xid          text,
    wrote        jsonb,
    handed       jsonb
);
ALTER TABLE {schema}.history ADD COLUMN IF NOT EXISTS scripts jsonb, ADD COLUMN IF NOT EXISTS checksum_before text,
    ADD COLUMN IF NOT EXISTS xid text, ADD COLUMN IF NOT EXISTS wrote jsonb, ADD COLUMN IF NOT EXISTS handed jsonb,
    DROP CONSTRAINT history_direction_check,
    ADD CONSTRAINT history_direction_check CHECK (direction IN ('upgrade', 'downgrade', 'stamp', 'accept'));
CREATE INDEX IF NOT EXISTS history_revision ON {schema}.history (revision, id);
CREATE INDEX IF NOT EXISTS history_run ON {schema}.history (run_id);
COMMENT ON TABLE {schema}.history IS 'One row per finished attempt of a step; that of a success commits with the step itself';
COMMENT ON COLUMN {schema}.history.duration_ms IS 'Milliseconds from the first try of the step to its end, pauses included';
COMMENT ON COLUMN {schema}.history.lock_wait_ms IS 'Milliseconds the step was seen waiting for locks, over all tries';
COMMENT ON COLUMN {schema}.history.hold_ms IS 'Milliseconds of the last try, or of its longest part: no lock was held longer';
COMMENT ON COLUMN {schema}.history.rows_touched IS 'Rows inserted, updated, deleted; null where it committed in the middle';
COMMENT ON COLUMN {schema}.history.scripts IS 'What op.run_script has run: name, arguments (secrets masked), seconds';
COMMENT ON COLUMN {schema}.history.checksum IS 'v1: sha256 over revision (no header, comments, layout) and SQL files';
COMMENT ON COLUMN {schema}.history.xid IS
'The step''s transaction, whose last xid is the row''s own xmin; null where it committed in the middle or left newer rows';
COMMENT ON COLUMN {schema}.history.wrote IS
'The tables, by OID, of which it has written what nobody else had written to since a downgrade';
COMMENT ON COLUMN {schema}.history.handed IS
'The tables, by OID, that a downgrade has read, and the columns, by number, that it has made in which table';
COMMENT ON COLUMN {schema}.history.checksum_before IS 'Of direction accept: what stood for the revision until then';
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
    scripts: tuple[Mapping[str, Any], ...] = ()
    checksum_before: str | None = None
    xid: str | None = None
    wrote: tuple[int, ...] = ()
    handed: Mapping[str, Any] = field(default_factory=dict)


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


def refuse_foreign(connection: Connection, schema: str, table: str, repeat: str) -> None:
    """Raise :class:`Broken` where the guard's schema or the version table (``table``, quoted) is in somebody else's hand.

    Their owner could replace what is in them, and a trigger would run its code as whoever migrates. Call it on the
    connection that migrates: its search_path says which version table is meant.
    """
    found = connection.exec_driver_sql(_FOREIGN, {"schema": schema, "table": table}).all()
    if found:
        raise Broken(
            "; ".join(why for _, why in found) + ": code or rows of somebody else's would decide what the guard does. "
            "Nothing was changed.",
            f"psql -c {shlex.quote('; '.join(sql for sql, _ in found))}   (as a superuser), then {repeat}",
        )


def prepare(connection: Connection, schema: str) -> None:
    """Create the guard's tables where they are missing. Call under the deployers' lock; commits by autocommit.

    Raises :class:`Broken` with the line to run when the role may not create a schema.
    """
    from sqlalchemy.exc import ProgrammingError

    names = [f"{schema}.{table}" for table in ("run", "history", "journal", "backfill", "backfill_range", "stash", "stash_object",
             "commit_guard", "revision", "event", "environment")]  # fmt: skip
    missing, no_schema = connection.exec_driver_sql(_MISSING, {"schema": schema, "names": names}).one()
    if not missing:
        return
    # IF NOT EXISTS asks for the right to create a schema even where there is one, made for a role without that right.
    tables = (
        (_SCHEMA if no_schema else "")
        + _TABLES
        + journal.TABLES
        + backfill_tables.TABLES
        + manifest_tables.TABLES
        + COMMIT_GUARD
        + lineage.TABLES
        + events.TABLES
        + marker.TABLES
    )
    try:
        connection.exec_driver_sql(tables.format(schema=schema))
    except ProgrammingError as error:
        if getattr(error.orig, "pgcode", "") != "42501":
            raise
        user = connection.exec_driver_sql("SELECT pg_catalog.quote_ident(session_user::text)").scalar_one()
        raise Broken(
            f"The role {user} may not create what it needs in the schema {schema}, where history and kept data live. "
            "Nothing was changed.",
            f"psql -c 'CREATE SCHEMA {schema} AUTHORIZATION {user}'   (as the owner of the database), then repeat",
        ) from error


def begin(
    connection: Connection,
    schema: str,
    who: Origin,
    *,
    version_table: str,
    command: str,
    heads: tuple[str, ...],
    planned: int,
    preflight: Mapping[str, Any] | None = None,
) -> tuple[int, list[str]]:
    """Write the run as running. Gives its id, and the descriptions of earlier runs that never ended: see :func:`end_dead`.

    ``preflight`` is what whoever runs it has accepted.
    """
    dead = end_dead(connection, schema, version_table, heads)
    number: int = connection.exec_driver_sql(
        f"INSERT INTO {schema}.run "
        "(version_table, command, state, from_heads, planned, who, host, pid, git_commit, tool_version, preflight) "
        "VALUES (%s, %s, 'running', %s, %s, %s, %s, %s, %s, %s, %s) RETURNING id",
        (
            version_table,
            command,
            list(heads),
            planned,
            who.who,
            who.host,
            os.getpid(),
            who.git_commit,
            __version__,
            json.dumps(preflight) if preflight else None,
        ),
    ).scalar_one()
    return number, dead


def end_dead(connection: Connection, schema: str, version_table: str, heads: tuple[str, ...]) -> list[str]:
    """Write that runs which never ended were interrupted; gives their descriptions.

    The caller holds the deployers' lock of this version table, so whatever run of it still says running is dead. Sequences
    that such a run has set back stand where they stood.
    """
    dead = connection.exec_driver_sql(
        "SELECT id, command, who, pg_catalog.date_trunc('second'::text, started_at)::text, sequences "
        f"FROM {schema}.run WHERE state = 'running' AND version_table = %s ORDER BY id",
        (version_table,),
    ).all()
    for row in dead:
        _recover(connection, schema, row.sequences, heads)
        events.interrupted(connection, schema, row.id)
    # Only now: whoever fails before this leaves it to the next run.
    connection.exec_driver_sql(
        f"UPDATE {schema}.run SET state = 'interrupted', finished_at = pg_catalog.clock_timestamp() "
        "WHERE state = 'running' AND version_table = %s",
        (version_table,),
    )
    return [f"run {row[0]} ({row[1]}, by {row[2]}, {row[3]})" for row in dead]


def _recover(connection: Connection, schema: str, remembered: Any, heads: tuple[str, ...]) -> None:
    if remembered:
        from mcp_planner_schema.guard import sequences

        sequences.recover(connection, schema, remembered, heads)


def end(connection: Connection, schema: str, run: int, heads: tuple[str, ...], error: str | None) -> None:
    """Write how the run ended: done, or failed with its error. What it has remembered of sequences is put back then."""
    if error:  # where the step's own connection was lost, nobody has done it yet
        asked = f"SELECT sequences FROM {schema}.run WHERE id = %s"
        _recover(connection, schema, connection.exec_driver_sql(asked, (run,)).scalar(), heads)
    connection.exec_driver_sql(
        f"UPDATE {schema}.run SET state = %s, finished_at = pg_catalog.clock_timestamp(), to_heads = %s, error = %s, "
        "sequences = NULL "
        "WHERE id = %s",
        ("failed" if error else "done", list(heads), error, run),
    )


def write(connection: Connection, schema: str, run: int, who: Origin, entry: Entry) -> str:
    """Insert one row: on the step's connection for a success, on another for a failure. Gives its transaction's id.

    Where the entry has an xid, the row's own is the last that the step's transaction has used until then.
    """
    values = {
        "run_id": run, "revision": entry.revision, "direction": entry.direction, "outcome": entry.outcome,
        "description": entry.description, "author": entry.author, "started_at": entry.started_at,
        "duration_ms": entry.duration_ms, "lock_wait_ms": entry.lock_wait_ms, "hold_ms": entry.hold_ms,
        "attempts": entry.attempts, "rows_touched": entry.rows_touched, "checksum": entry.checksum,
        "source": entry.source, "waivers": list(entry.waivers), "who": who.who, "host": who.host,
        "git_commit": who.git_commit, "tool_version": __version__, "error": entry.error,
        "scripts": json.dumps(entry.scripts) if entry.scripts else None, "checksum_before": entry.checksum_before,
        "xid": entry.xid, "wrote": json.dumps(entry.wrote) if entry.wrote else None,
        "handed": json.dumps(entry.handed) if entry.handed else None,
    }  # fmt: skip
    columns, places = ", ".join(values), ", ".join(["%s"] * len(values))
    written = (
        f"INSERT INTO {schema}.history ({columns}) VALUES ({places}) RETURNING pg_catalog.pg_current_xact_id()::text"
    )
    if entry.xid is None:
        return str(connection.exec_driver_sql(written, tuple(values.values())).scalar_one())
    connection.exec_driver_sql("SAVEPOINT guard_history")
    found = str(connection.exec_driver_sql(written, tuple(values.values())).scalar_one())
    connection.exec_driver_sql("RELEASE SAVEPOINT guard_history")
    return found


def steps_since(connection: Connection, schema: str, stash: int, xid: str) -> list[tuple[int, int, frozenset[int]]]:
    """The first and last xid, as numbers that never begin anew, and the tables of each step since a downgrade's transaction:
    upgrades that have given back, and downgrades of the same run."""
    rows = connection.exec_driver_sql(
        "SELECT h.xid::bigint, pg_catalog.pg_current_xact_id()::text::bigint - pg_catalog.age(h.xmin), h.wrote "
        f"FROM {schema}.history h WHERE h.xid::bigint > %s AND h.wrote IS NOT NULL AND (h.direction = 'upgrade' "
        f"OR h.run_id = (SELECT s.run_id FROM {schema}.stash s WHERE s.id = %s)) ORDER BY 1",
        (int(xid), stash),
    )
    return [(first, last, frozenset(wrote)) for first, last, wrote in rows]


def made_by(connection: Connection, schema: str, version_table: str, revision: str) -> tuple[str, str] | None:
    """Checksum and source of the newest upgrade to a revision, or of the edit accepted since; None where none is kept."""
    row = connection.exec_driver_sql(
        f"SELECT h.checksum, h.source FROM {schema}.history h JOIN {schema}.run r ON r.id = h.run_id "
        "WHERE h.outcome = 'done' AND h.direction IN ('upgrade', 'accept') AND r.version_table = %s AND h.revision = %s "
        "AND h.checksum IS NOT NULL AND h.source IS NOT NULL ORDER BY h.id DESC LIMIT 1",
        (version_table, revision),
    ).first()
    return tuple(row) if row else None


def upgraded_as(connection: Connection, schema: str, version_table: str) -> dict[str, str]:
    """For each revision how its newest upgrade ended that counts: ``done`` or ``skipped``. Reads only.

    What is skipped on the way down, and nothing is expected of, is what was skipped on the way up, whatever the database
    counts as by now.
    """
    if not _has_history(connection, schema):
        return {}
    rows = connection.exec_driver_sql(
        f"SELECT DISTINCT ON (h.revision) h.revision, h.outcome FROM {schema}.history h JOIN {schema}.run r ON r.id = h.run_id "
        "WHERE h.direction = 'upgrade' AND h.outcome IN ('done', 'skipped') AND r.version_table = %s "
        "ORDER BY h.revision, h.id DESC",
        (version_table,),
    )
    return {row[0]: row[1] for row in rows}


def _has_history(connection: Connection, schema: str) -> bool:
    asked = "SELECT pg_catalog.to_regclass(%s::text) IS NOT NULL"
    return bool(connection.exec_driver_sql(asked, (f"{schema}.history",)).scalar_one())


def applied(connection: Connection, schema: str, version_table: str) -> dict[str, tuple[int, str, str, str]]:
    """For each revision whose last finished step is an upgrade: history id, day, checksum, source. Reads only.

    Where an edit of it was accepted since, these are the accepted text's.

    Two histories in one database, each with its version table, may use the same ids; only the named one's count.
    """
    if not _has_history(connection, schema):
        return {}
    rows = connection.exec_driver_sql(
        "SELECT DISTINCT ON (h.revision) h.revision, h.id, h.finished_at::date::text, h.checksum, h.source, h.direction "
        f"FROM {schema}.history h JOIN {schema}.run r ON r.id = h.run_id "
        "WHERE h.outcome = 'done' AND h.direction <> 'stamp' AND r.version_table = %s ORDER BY h.revision, h.id DESC",
        (version_table,),
    )
    return {row[0]: (row[1], row[2], row[3], row[4]) for row in rows if row[5] != "downgrade" and row[3]}
