"""Keeps what a downgrade is about to destroy: a copy in the guard's schema, in the same transaction, behind a lock.

Only rows of tables are kept. What a materialized view shows can be computed again, what a foreign table shows lies on another
server, and temporary tables end with their session.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mcp_planner_schema.guard import trial
from mcp_planner_schema.guard.findings import Finding, Refused
from mcp_planner_schema.guard.postcheck import execute, identifier, pinned
from mcp_planner_schema.guard.trial import Column, CommitInside, Loss, Table

if TYPE_CHECKING:
    from sqlalchemy import Connection

# What the text form of a value depends on; and a copy that row level security shortens is to be an error.
_READING = {
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "row_security": "off",
}


def keep(connection: Connection, schema: str, run: int, revision: str, lost: Sequence[Loss], who: str) -> list[str]:
    """Copy every lost table and column, and write its manifest row. Gives one line for each, for people.

    All tables are locked first, in OID order, so that no write falls between copy and drop. Takes ACCESS EXCLUSIVE until
    the step commits. What it did is left in ``connection.info`` for :func:`trial.disarm`, which proves it after the real
    run. Raises :class:`Refused` for columns of a table with rows and no primary key, :class:`CommitInside` where a copy
    would not be what the real run destroys.
    """
    if lost:
        isolation = connection.exec_driver_sql("SHOW transaction_isolation").scalar_one()
        if isolation != "read committed":
            # Its snapshot is older than the lock: rows committed in between would be destroyed and not be in the copy.
            raise CommitInside(f"its transaction is {isolation}, and only read committed sees every row")
        execute(connection, f"LOCK TABLE {', '.join(_name(loss.table) for loss in lost)} IN ACCESS EXCLUSIVE MODE")
    before = trial.snapshot(connection, schema)
    changed = [loss.table.shown for loss in lost if before.get(loss.table.oid) != loss.table]
    if changed:
        raise CommitInside(f"{', '.join(changed)} was changed by somebody else since the trial; repeat the command")
    copies: dict[str, list[str]] = {}
    lines = []
    with pinned(connection, **_READING):
        for loss in lost:
            name, columns, line = _copy(connection, schema, run, revision, loss, who)
            copies[name] = columns
            lines.append(line)
    connection.info[trial.KEPT] = trial.Kept(before, tuple(lost), copies)
    return lines


def _copy(
    connection: Connection, schema: str, run: int, revision: str, loss: Loss, who: str
) -> tuple[str, list[str], str]:
    table = loss.table
    # A table with inheritance children shows their rows too; those are kept with the child. A partitioned one has no own.
    rows_of = _name(table) if table.kind == "p" else f"ONLY {_name(table)}"
    if table.forced:  # its owner may lift that, and nobody else can look: the table is locked
        execute(connection, f"ALTER TABLE {_name(table)} NO FORCE ROW LEVEL SECURITY")
    columns = _columns(connection, revision, loss, rows_of)
    names = [column.name for column in columns]
    number = connection.exec_driver_sql(
        "SELECT nextval(pg_get_serial_sequence(%s, 'id'))", (f"{schema}.stash",)
    ).scalar_one()
    kept_in = f"{schema}.stash_{number}"
    selected = ", ".join(_value(column) for column in columns)
    rows = execute(connection, f"CREATE TABLE {kept_in} AS SELECT {selected} FROM {rows_of}").rowcount
    if table.forced:
        execute(connection, f"ALTER TABLE {_name(table)} FORCE ROW LEVEL SECURITY")
    connection.exec_driver_sql(
        f"INSERT INTO {schema}.stash (id, run_id, revision, object, kind, kept_in, key_columns, columns, types, row_count, who) "
        "OVERRIDING SYSTEM VALUE VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
        (
            number, run, revision, f"{table.schema}.{table.name}", "columns" if loss.columns else "table", kept_in,
            list(table.key), names, [column.type for column in columns], rows, who,
        ),
    )  # fmt: skip
    return f"stash_{number}", names, f"kept {loss}: {rows} rows in {kept_in}"


def _columns(connection: Connection, revision: str, loss: Loss, rows_of: str) -> list[Column]:
    table, everything = loss.table, list(loss.table.columns.values())
    if not loss.columns:
        return everything
    if not table.key:
        if execute(connection, f"SELECT EXISTS (SELECT FROM {rows_of})").scalar_one():
            raise Refused(
                [Finding("stash-keyless", table.shown, revision, {"table": table.shown})],
                f"ALTER TABLE {_name(table)} ADD PRIMARY KEY (…);   (in a revision of its own), then go back",
            )
        return everything
    lost = {column.name for column in loss.columns}
    if lost & set(table.key):
        return everything  # without its key a value finds no way back: the whole row is kept
    return [column for column in everything if column.name in lost or column.name in table.key]


def _name(table: Table) -> str:
    return f"{identifier(table.schema)}.{identifier(table.name)}"


def _value(column: Column) -> str:
    # A type or collation of the user's own would let DROP … CASCADE reach into the copy; the text form comes back exactly.
    name = identifier(column.name)
    return name if column.builtin else f'{name}::text COLLATE pg_catalog."C" AS {name}'
