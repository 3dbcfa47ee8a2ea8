"""What the guard's schema remembers of a database that was taken over: from which tool, and where that one had stopped."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy import Connection

_TABLE = """
CREATE TABLE IF NOT EXISTS {schema}.adopted (
    version_table text NOT NULL,
    tool         text NOT NULL,
    relation     text NOT NULL,
    keep         boolean NOT NULL,
    version      text,
    revision     text NOT NULL,
    adopted_at   timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    db_user      text NOT NULL DEFAULT session_user,
    PRIMARY KEY (version_table, tool)
);
COMMENT ON TABLE {schema}.adopted IS 'Another tool that has migrated this database, and whether its version is kept in step'
"""


def remember(
    connection: Connection, schema: str, version_table: str, *, tool: str, relation: str, keep: bool, version: str | None,
    revision: str,
) -> None:  # fmt: skip
    """Write down that the database was taken over: ``relation`` is the tool's own table, ``keep`` that it is to be kept in step,
    ``version`` what it said, and ``revision`` what that is here."""
    connection.exec_driver_sql(_TABLE.format(schema=schema))
    connection.exec_driver_sql(
        f"INSERT INTO {schema}.adopted (version_table, tool, relation, keep, version, revision) "
        "VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT (version_table, tool) DO UPDATE SET "
        "relation = excluded.relation, keep = excluded.keep, version = excluded.version, revision = excluded.revision, "
        "adopted_at = excluded.adopted_at, db_user = excluded.db_user",
        (version_table, tool, relation, keep, version, revision),
    )
