"""A small backfill: rows of one table are given what they lack, a batch by key at a time, each its own short transaction.

It may run again: a row that has what it should have is not written. In a downgrade's trial it does nothing, for a trial is
one transaction, and what it writes destroys nothing.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard import brief, journal, ladder, trial
from mcp_planner_schema.guard.findings import Busy
from mcp_planner_schema.guard.postcheck import do_block, identifier
from mcp_planner_schema.operations import online

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext
    from sqlalchemy import Connection

    from mcp_planner_schema.operations.online import Table

BATCH = 1000
"""Rows, at most. Whoever changes one of them waits for the whole batch: with 5,000 that was seen to be half a second."""

AIM = 0.1
"""Seconds that a batch is to take, however slow a trigger makes each row. One that meets the deadline is undone, and becomes
smaller."""

PAUSE = 0.02
"""Seconds between two batches, in which those who waited come first."""

_TRIES = 40

# The primary key, or the smallest other key that every row has: a batch begins where the one before has ended.
_KEY = """
SELECT array(SELECT a.attname::text FROM pg_catalog.unnest(i.indkey::int2[]) WITH ORDINALITY AS k(number, place)
             JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number
             WHERE k.place <= i.indnkeyatts ORDER BY k.place)
FROM pg_catalog.pg_index i
WHERE i.indrelid = %s::bigint::oid AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
  AND i.indimmediate AND NOT EXISTS (SELECT FROM pg_catalog.unnest(i.indkey::int2[]) AS k(number)
    JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number WHERE NOT a.attnotnull)
ORDER BY i.indisprimary DESC, i.indnkeyatts, i.indexrelid LIMIT 1
"""


def run(context: MigrationContext, table: Table, settings: str, where: str) -> int:
    """``UPDATE table SET settings WHERE where`` for all rows, batch by batch; gives how many were written.

    ``settings`` and ``where`` are SQL. Readers never wait; a writer waits for a row no longer than its batch takes. Raises
    :class:`Busy` where somebody keeps a row locked, and refuses a table without a key.
    """
    with context.autocommit_block():
        assert context.connection is not None
        driver: Any = context.connection.connection.dbapi_connection
        if not driver.autocommit:
            context.connection.info[trial.LEFT_OUT] = True
            return 0
        key = key_of(context, table)
        if not key:
            problem = "it has no primary key, and no other that every row has, so its rows cannot be taken by batches"
            online.refuse(context, "operation-unsupported", what=f"table {table.shown}", problem=problem)
        return _all(context, context.connection, table, key, settings, where)


def text(context: MigrationContext, table: str, key: Sequence[str], settings: str, where: str) -> None:
    """Write the same down for psql: a DO block that commits after each batch. ``table`` is quoted already."""
    names = [identifier(name) for name in key]
    beyond = f"({', '.join(names)}) > ({', '.join(f'reached.{name}' for name in names)})"
    same = " AND ".join(f"filled.{name} = batch.{name}" for name in names)
    body = (
        f"\nDECLARE\n    reached {table}%ROWTYPE;\n    begun boolean := false;\nBEGIN\n    LOOP\n"
        f"        WITH batch AS MATERIALIZED (\n            SELECT {', '.join(names)} FROM {table}\n"
        f"            WHERE NOT begun OR {beyond} ORDER BY {', '.join(names)} LIMIT {BATCH}\n        ), written AS (\n"
        f"            UPDATE {table} AS filled SET {settings} FROM batch\n            WHERE {same} AND ({where})\n        )\n"
        f"        SELECT {', '.join(names)} INTO {', '.join(f'reached.{name}' for name in names)}\n"
        f"        FROM batch ORDER BY {', '.join(f'{name} DESC' for name in names)} LIMIT 1;\n"
        "        EXIT WHEN NOT FOUND;\n        begun := true;\n        COMMIT;\n    END LOOP;\nEND\n"
    )
    with context.autocommit_block():
        context.impl.static_output("SET statement_timeout = 0;")
        context.impl.static_output(do_block(body) + ";")
        context.impl.static_output("RESET statement_timeout;")


def key_of(context: MigrationContext, table: Table) -> list[str]:
    """The columns that tell the table's rows apart; none where nothing does."""
    found = online.ask(context, _KEY, (table.oid,))
    return list(found[0][0]) if found else []


def _all(
    context: MigrationContext, connection: Connection, table: Table, key: Sequence[str], settings: str, where: str
) -> int:
    # Values go beside the text, so every percent sign in it is doubled.
    table_sql, settings, where = (part.replace("%", "%%") for part in (table.sql, settings, where))
    names = [identifier(name).replace("%", "%%") for name in key]
    listed, own = ", ".join(names), [f"batch.key_{place}" for place in range(len(key))]
    same = " AND ".join(f"filled.{name} = {mine}" for name, mine in zip(names, own, strict=True))
    reached: tuple[Any, ...] = ()
    written, told, size = 0, time.monotonic(), BATCH
    while True:
        beyond = f"WHERE ({listed}) > ({', '.join(['%s'] * len(key))})" if reached else ""
        sql = (
            f"WITH batch ({', '.join(own).replace('batch.', '')}) AS MATERIALIZED "
            f"(SELECT {listed} FROM {table_sql} {beyond} ORDER BY {listed} LIMIT %s), "
            f"written AS (UPDATE {table_sql} AS filled SET {settings} FROM batch WHERE {same} AND ({where}) RETURNING 1) "
            f"SELECT {', '.join(own)}, (SELECT pg_catalog.count(*) FROM written) FROM batch "
            f"ORDER BY {', '.join(f'{one} DESC' for one in own)} LIMIT 1"
        )
        row, size = _patiently(context, connection, table, sql, reached, size)
        if row is None:
            return written
        reached, written = tuple(row[:-1]), written + row[-1]
        if time.monotonic() - told > 10:
            told = time.monotonic()
            online.say(context, f"backfill of {table.shown}: {written:,} rows written so far")
        if row[-1]:
            time.sleep(PAUSE)


def _patiently(
    context: MigrationContext, connection: Connection, table: Table, sql: str, reached: tuple[Any, ...], size: int
) -> tuple[Any, int]:
    """One batch of ``size`` rows, and the size for the next one.

    One that does not end within the deadline is tried again with fewer rows, for others wait for them meanwhile; where it is
    one row, somebody keeps it locked, and it is given a moment.
    """
    from sqlalchemy.exc import DBAPIError

    tries = 0
    while True:
        connection.info[brief.RUNNING], began = True, time.monotonic()
        try:
            row = connection.exec_driver_sql(sql, (*reached, size)).first()
            return row, max(1, min(BATCH, int(size * min(2.0, AIM / max(time.monotonic() - began, 0.001)))))
        except DBAPIError as error:
            code = getattr(error.orig, "pgcode", None)
            if error.connection_invalidated or not (code == ladder.CANCELED or code in ladder.TRANSIENT):
                raise
            if size > 1:
                size = max(1, size // 4)
                continue
            tries += 1
            if tries == _TRIES:
                step = journal.of(context)
                raise Busy(
                    f"The backfill of {table.shown} met rows that somebody keeps locked, try {tries}.\n"
                    "The batches before stay and are not written again; the version has not moved.",
                    step.repeat if step else "the same command again",
                ) from error
            online.say(context, f"backfill of {table.shown} waits for a locked row (try {tries} of {_TRIES})")
            time.sleep(min(2.0, 0.1 * 1.3**tries) * (0.5 + random.random() / 2))
        finally:
            connection.info.pop(brief.RUNNING, None)
