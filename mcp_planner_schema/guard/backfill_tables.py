"""The tables in which a backfill stands: what it does, how far it has come, and what somebody wants of it meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy import Connection

TABLES = """
CREATE TABLE IF NOT EXISTS {schema}.backfill (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    version_table text NOT NULL,
    revision     text NOT NULL,
    direction    text NOT NULL CHECK (direction IN ('upgrade', 'downgrade')),
    name         text NOT NULL,
    target       text NOT NULL,
    digest       text NOT NULL,
    verify       text,
    state        text NOT NULL DEFAULT 'running' CHECK (state IN ('running', 'done')),
    wanted       text NOT NULL DEFAULT 'run' CHECK (wanted IN ('run', 'pause', 'stop')),
    waits_for    text,
    waits_since  timestamptz,
    rows_expected bigint NOT NULL DEFAULT 0,
    rows_per_second double precision,
    run          bigint NOT NULL,
    begun_at     timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    done_at      timestamptz,
    verified_at  timestamptz,
    detail       jsonb NOT NULL DEFAULT '{{}}',
    UNIQUE (version_table, revision, direction, name)
);
CREATE TABLE IF NOT EXISTS {schema}.backfill_range (
    backfill     bigint NOT NULL REFERENCES {schema}.backfill ON DELETE CASCADE,
    place        integer NOT NULL,
    relation     text NOT NULL,
    above        text[],
    up_to        text[],
    reached      text[],
    rows_seen    bigint NOT NULL DEFAULT 0,
    rows_written bigint NOT NULL DEFAULT 0,
    batches      bigint NOT NULL DEFAULT 0,
    seconds      double precision NOT NULL DEFAULT 0,
    pass_written bigint NOT NULL DEFAULT 0,
    done         boolean NOT NULL DEFAULT false,
    worker       text,
    moved_at     timestamptz,
    PRIMARY KEY (backfill, place)
) WITH (fillfactor = 50);
COMMENT ON TABLE {schema}.backfill IS
'One row a backfill; gone when its revision has gone the other way. wanted: what somebody asked of it from another shell';
COMMENT ON TABLE {schema}.backfill_range IS
'A piece of a table: rows whose key is above the one and up to the other (NULL: from the first, to the last), done up to
reached. Keys are text; of a table without a key they are numbers of blocks';
"""


def settle(connection: Connection, schema: str, version_table: str, revision: str, direction: str) -> None:
    """The revision has gone all the way: what its backfills did in the other direction is to be done anew next time.

    One of this direction that is not done has another name now, or was taken out of the file: nobody comes back to it.
    """
    connection.exec_driver_sql(
        f"DELETE FROM {schema}.backfill WHERE version_table = %s AND revision = %s AND (direction <> %s OR state <> 'done')",
        (version_table, revision, direction),
    )


def unfinished(connection: Connection, schema: str, run: int) -> list[str]:
    """How far each backfill is that a run has begun and not finished, for people. Reads only."""
    there = connection.exec_driver_sql("SELECT pg_catalog.to_regclass(%s) IS NOT NULL", (f"{schema}.backfill",))
    if not there.scalar_one():
        return []
    found = connection.exec_driver_sql(
        f"SELECT b.name, b.rows_expected, (SELECT coalesce(pg_catalog.sum(p.rows_seen), 0)::bigint "
        f"FROM {schema}.backfill_range p WHERE p.backfill = b.id) FROM {schema}.backfill b "
        "WHERE b.run = %s AND b.state <> 'done' ORDER BY b.id",
        (run,),
    )
    return [
        f"{done:,}{f' of {known:,}' if known else ''} rows of backfill {name} are done" for name, known, done in found
    ]


def half_back(connection: Connection, schema: str, version_table: str, heads: Sequence[str]) -> list[tuple[str, str]]:
    """Revision and name of each backfill that was giving back values when its downgrade was interrupted. Reads only."""
    there = connection.exec_driver_sql("SELECT pg_catalog.to_regclass(%s) IS NOT NULL", (f"{schema}.backfill",))
    if not there.scalar_one():
        return []
    found = connection.exec_driver_sql(
        f"SELECT revision, name FROM {schema}.backfill WHERE version_table = %s AND direction = 'downgrade' "
        "AND revision = ANY (%s) ORDER BY id",
        (version_table, list(heads)),
    )
    return [(revision, name) for revision, name in found]
