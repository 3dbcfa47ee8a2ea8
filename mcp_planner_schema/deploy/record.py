"""What a deploy has come to, in the database it works on: who goes on after a kill, on whatever machine, finds it there."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mcp_planner_schema import __version__
from mcp_planner_schema.guard import history
from mcp_planner_schema.guard.history import Origin

if TYPE_CHECKING:
    from sqlalchemy import Connection

_TABLE = """
CREATE TABLE IF NOT EXISTS {schema}.deploy (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind         text NOT NULL CHECK (kind IN ('expand', 'contract')),
    state        text NOT NULL CHECK (state IN ('running', 'stopped', 'done')),
    stage        text NOT NULL,
    from_head    text NOT NULL,
    to_head      text,
    exit_code    integer,
    reason       text,
    backup       jsonb,
    revisions    jsonb NOT NULL DEFAULT '{{}}',
    started_at   timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    finished_at  timestamptz,
    who          text NOT NULL,
    host         text NOT NULL,
    git_commit   text,
    tool_version text NOT NULL
);
COMMENT ON TABLE {schema}.deploy IS 'One row a deploy by scripts/production-migrate.sh; a later call goes on with it';
COMMENT ON COLUMN {schema}.deploy.stage IS 'The last one that is known: of a deploy that was killed, runs and history say more';
COMMENT ON COLUMN {schema}.deploy.reason IS 'Why without a rehearsal, or how it is known that no older release runs';
COMMENT ON COLUMN {schema}.deploy.revisions IS 'What it was begun for, with checksums: rehearsed, or waived for the reason';
COMMENT ON COLUMN {schema}.deploy.backup IS
'Path, SHA-256 and size of what was written, or whose word was taken; first: the one from before, where it was written again';
"""
_READ = """
SELECT id, kind, state, stage, from_head, backup, revisions,
       pg_catalog.date_part('epoch', pg_catalog.clock_timestamp() - (backup ->> 'at')::timestamptz),
       pg_catalog.date_part('epoch', pg_catalog.clock_timestamp() - started_at)
FROM {schema}.deploy
"""


@dataclass(frozen=True)
class Deploy:
    """One row. ``start`` is the revision, or ``base``, that the database was at before; ``age`` of the backup, and the time
    ``since`` it began, are in seconds."""

    id: int
    kind: str
    state: str
    stage: str
    start: str
    backup: Mapping[str, Any] | None
    revisions: Mapping[str, str]
    age: float | None
    since: float

    @property
    def before(self) -> Mapping[str, Any]:
        """The file from before its first step; empty where none was written."""
        kept = self.backup or {}
        return next((one for one in (kept.get("first", {}), kept) if one.get("path")), {})


def prepare(connection: Connection, schema: str) -> None:
    """Make the table where it is missing. Call under the deployers' lock; commits by autocommit."""
    history.prepare(connection, schema)
    if not _there(connection, schema):
        connection.exec_driver_sql(_TABLE.format(schema=schema))


def unfinished(connection: Connection, schema: str, kind: str, applied: Sequence[str]) -> Deploy | None:
    """The newest deploy of this kind, where it is not done and the database has not gone back behind its beginning."""
    found = newest(connection, schema, kind)
    return found if found and found.state != "done" and found.start in ("base", *applied) else None


def newest(connection: Connection, schema: str, kind: str = "", *, saved: bool = False) -> Deploy | None:
    """The newest deploy, of one ``kind``, with a backup of its own (``saved``); None where there is none."""
    if not _there(connection, schema):
        return None
    row = connection.exec_driver_sql(
        f"{_READ.format(schema=schema)} WHERE %s IN ('', kind) AND (NOT %s "
        "OR coalesce(backup ->> 'path', backup #>> '{first,path}') IS NOT NULL) ORDER BY id DESC LIMIT 1",
        (kind, saved),
    ).first()
    return Deploy(*row) if row else None


def read(connection: Connection, schema: str, number: int) -> Deploy:
    """One deploy."""
    return Deploy(*connection.exec_driver_sql(f"{_READ.format(schema=schema)} WHERE id = %s", (number,)).one())


def begin(
    connection: Connection, schema: str, kind: str, start: str, revisions: Mapping[str, str], reason: str | None,
    who: Origin,
) -> int:  # fmt: skip
    """Write a new deploy as running; gives its id."""
    number: int = connection.exec_driver_sql(
        f"INSERT INTO {schema}.deploy (kind, state, stage, from_head, revisions, reason, who, host, git_commit, "
        "tool_version) VALUES (%s, 'running', 'begin', %s, %s, %s, %s, %s, %s, %s) RETURNING id",
        (kind, start, json.dumps(revisions), reason, who.who, who.host, who.git_commit, __version__),
    ).scalar_one()
    return number


def resume(
    connection: Connection, schema: str, number: int, revisions: Mapping[str, str], reason: str | None
) -> None:  # fmt: skip
    """Write that it runs again; a reason that is given now goes behind the one that there was."""
    connection.exec_driver_sql(
        f"UPDATE {schema}.deploy SET state = 'running', exit_code = NULL, finished_at = NULL, "
        "revisions = revisions || %s::jsonb, "
        "reason = nullif(pg_catalog.concat_ws('; ', reason, nullif(%s, reason)), '') WHERE id = %s",
        (json.dumps(revisions), reason, number),
    )


def at(connection: Connection, schema: str, number: int, stage: str) -> None:
    """Write which stage it has come to: by the commands of the deploy's own, which cost no process more."""
    connection.exec_driver_sql(f"UPDATE {schema}.deploy SET stage = %s WHERE id = %s", (stage, number))


def save(connection: Connection, schema: str, number: int, backup: Mapping[str, Any]) -> None:
    """Write which backup there is. The one from before the deploy's first step stays, as ``first`` of those that come after."""
    sql = (
        f"UPDATE {schema}.deploy SET backup = %s::jsonb || pg_catalog.jsonb_build_object('at', "
        "pg_catalog.clock_timestamp()) || CASE WHEN backup IS NULL THEN '{}'::jsonb ELSE "
        "pg_catalog.jsonb_build_object('first', coalesce(backup -> 'first', backup)) END WHERE id = %s"
    )
    connection.exec_driver_sql(sql, (json.dumps(backup), number))


def end(connection: Connection, schema: str, number: int, head: str, code: int) -> None:
    """Write how it ended: done with 0, else stopped."""
    connection.exec_driver_sql(
        f"UPDATE {schema}.deploy SET state = %s, exit_code = %s, to_head = %s, "
        "finished_at = pg_catalog.clock_timestamp() WHERE id = %s",
        ("stopped" if code else "done", code, head, number),
    )


def runs(connection: Connection, schema: str, number: int) -> list[int]:
    """The guard's runs since it began, up to its end."""
    rows = connection.exec_driver_sql(
        f"SELECT r.id FROM {schema}.run r JOIN {schema}.deploy d ON r.started_at >= d.started_at "
        "AND (d.state = 'running' OR d.finished_at IS NULL OR r.started_at <= d.finished_at) "
        "WHERE d.id = %s ORDER BY r.id",
        (number,),
    )
    return list(rows.scalars())


def _there(connection: Connection, schema: str) -> bool:
    asked = "SELECT pg_catalog.to_regclass(%s) IS NOT NULL"
    return connection.exec_driver_sql(asked, (f"{schema}.deploy",)).scalar_one() is True
