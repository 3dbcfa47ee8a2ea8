"""What each applied revision is, kept for builds that do not have its file: table ``revision`` of the guard's schema.

Beside ``history``, which says what was run: a stamp runs nothing, and what it passes over is applied all the same. Whoever may
read the version table may read this one, so that an application can ask it when it starts (``check_compatible``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.compatible import chain
from mcp_planner_schema.guard import source

if TYPE_CHECKING:
    from alembic.script import Script
    from sqlalchemy import Connection

TABLES = """
CREATE TABLE IF NOT EXISTS {schema}.revision (
    version_table text NOT NULL,
    revision     text NOT NULL,
    parents      text[] NOT NULL,
    phase        text CHECK (phase IN ('expand', 'migrate', 'contract')),
    title        text NOT NULL,
    file         text NOT NULL,
    git_commit   text,
    noted_at     timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    PRIMARY KEY (version_table, revision)
);
COMMENT ON TABLE {schema}.revision IS
'What each revision is that was applied here; read by applications whose build does not have its file';
COMMENT ON COLUMN {schema}.revision.phase IS 'As its header says; null where it has none';
COMMENT ON COLUMN {schema}.revision.git_commit IS 'Of the build that applied or stamped it; null where that is not known';
"""
_NOTE = """
INSERT INTO {schema}.revision (version_table, revision, parents, phase, title, file, git_commit)
VALUES (%(version_table)s, %(revision)s, %(parents)s, %(phase)s, %(title)s, %(file)s, %(git_commit)s)
ON CONFLICT (version_table, revision) DO UPDATE SET parents = excluded.parents, phase = excluded.phase,
  title = excluded.title, file = excluded.file, git_commit = excluded.git_commit, noted_at = excluded.noted_at
"""
# Roles that may read the version table, and not yet this one. Whom the right to use the schema would open other tables of the
# guard's too (default privileges may have given them away) has to be let in by hand.
_READERS = """
SELECT DISTINCT CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(r.rolname::text) END
FROM pg_catalog.pg_class c CROSS JOIN LATERAL pg_catalog.aclexplode(c.relacl) g
LEFT JOIN pg_catalog.pg_roles r ON r.oid = g.grantee
WHERE c.oid = pg_catalog.to_regclass(%(table)s::text)::pg_catalog.oid AND g.privilege_type = 'SELECT'
  AND g.grantee <> c.relowner AND NOT EXISTS (
    SELECT FROM pg_catalog.pg_class o CROSS JOIN LATERAL pg_catalog.aclexplode(o.relacl) h
    WHERE o.oid = pg_catalog.to_regclass(%(own)s::text)::pg_catalog.oid AND h.grantee = g.grantee)
  AND NOT pg_catalog.has_table_privilege(g.grantee, pg_catalog.to_regclass(%(history)s::text)::pg_catalog.oid, 'SELECT')
"""


@dataclass(frozen=True)
class Noted:
    """One row, but for where and by whom."""

    revision: str
    parents: tuple[str, ...]
    phase: str | None
    title: str
    file: str


def of(scripts: Iterable[Script]) -> list[Noted]:
    """What is to be kept of these revisions. Reads their files; to be called before a step holds any lock."""
    return [_noted(one) for one in scripts]


def note(
    connection: Connection, schema: str, version_table: str, rows: Iterable[Noted], git_commit: str | None
) -> None:
    """Write these rows; what was kept of the same revisions is replaced."""
    asked = [_values(version_table, one, git_commit) for one in rows]
    if asked:
        connection.exec_driver_sql(_NOTE.format(schema=schema), asked)


def complete(beside: Connection, schema: str, version_table: str, script: Any, heads: tuple[str, ...]) -> None:
    """Note what is applied at ``heads`` and has no row: applied by an earlier version of the guard, or by SQL."""
    known = set(
        beside.exec_driver_sql(
            f"SELECT revision FROM {schema}.revision WHERE version_table = %s", (version_table,)
        ).scalars()
    )
    applied = script.iterate_revisions(heads, "base") if heads else ()
    note(beside, schema, version_table, of(one for one in applied if one.revision not in known), None)


def share(beside: Connection, schema: str, table: str) -> None:
    """Let whoever may read the version table (``table``, quoted) read this one. Changes nothing where they may."""
    asked = {"table": table, "own": f"{schema}.revision", "history": f"{schema}.history"}
    readers = beside.exec_driver_sql(_READERS, asked).scalars().all()
    if readers:
        named = ", ".join(readers).replace("%", "%%")
        beside.exec_driver_sql(f"GRANT USAGE ON SCHEMA {schema} TO {named}")
        beside.exec_driver_sql(f"GRANT SELECT ON {schema}.revision TO {named}")


def _noted(script: Script) -> Noted:
    path = Path(script.path)
    read = source.read(path)
    phase, title = chain.said(read.text) if isinstance(read, source.Source) else (None, "")
    return Noted(script.revision, tuple(script._all_down_revisions), phase, title or script.doc or "", path.name)


def _values(version_table: str, one: Noted, git_commit: str | None) -> dict[str, Any]:
    return {
        "version_table": version_table, "revision": one.revision, "parents": list(one.parents), "phase": one.phase,
        "title": one.title, "file": one.file, "git_commit": git_commit,
    }  # fmt: skip
