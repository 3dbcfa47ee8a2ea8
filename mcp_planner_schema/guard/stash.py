"""Keeps what a downgrade is about to destroy: a copy in the guard's schema, in the same transaction, behind a lock."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mcp_planner_schema.guard.findings import Finding, Refused
from mcp_planner_schema.guard.trial import Column, Loss, Table

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.sql.compiler import IdentifierPreparer


def keep(connection: Connection, schema: str, run: int, revision: str, lost: Sequence[Loss], who: str) -> list[str]:
    """Copy every lost table and column, and write its manifest row. Gives one line for each, for people.

    All tables are locked first, in OID order, so that no write falls between copy and drop. Takes ACCESS EXCLUSIVE until
    the step commits. Raises :class:`Refused` for columns of a table with rows and no primary key.
    """
    if not lost:
        return []
    quote = connection.dialect.identifier_preparer
    locked = ", ".join(_name(quote, loss.table) for loss in lost)
    connection.exec_driver_sql(f"LOCK TABLE {locked} IN ACCESS EXCLUSIVE MODE")
    # A copy that row level security shortens would be a silent loss; off turns it into an error.
    connection.exec_driver_sql("SET LOCAL row_security = off")
    return [_copy(connection, quote, schema, run, revision, loss, who) for loss in lost]


def _copy(
    connection: Connection,
    quote: IdentifierPreparer,
    schema: str,
    run: int,
    revision: str,
    loss: Loss,
    who: str,
) -> str:
    table = loss.table
    columns = _columns(connection, quote, revision, loss)
    number = connection.exec_driver_sql(
        "SELECT nextval(pg_get_serial_sequence(%s, 'id'))", (f"{schema}.stash",)
    ).scalar_one()
    kept_in = f"{schema}.stash_{number}"
    selected = ", ".join(_value(quote, column) for column in columns)
    # A table with inheritance children shows their rows too; those are kept with the child. A partitioned one has no own.
    only = "" if table.kind == "p" else "ONLY "
    rows = connection.exec_driver_sql(
        f"CREATE TABLE {kept_in} AS SELECT {selected} FROM {only}{_name(quote, table)}"
    ).rowcount
    connection.exec_driver_sql(
        f"INSERT INTO {schema}.stash (id, run_id, revision, object, kind, kept_in, key_columns, columns, types, row_count, who) "
        "OVERRIDING SYSTEM VALUE VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
        (
            number, run, revision, f"{table.schema}.{table.name}", "columns" if loss.columns else "table", kept_in,
            list(table.key), [column.name for column in columns], [column.type for column in columns], rows, who,
        ),
    )  # fmt: skip
    return f"kept {loss}: {rows} rows in {kept_in}"


def _columns(connection: Connection, quote: IdentifierPreparer, revision: str, loss: Loss) -> list[Column]:
    table, everything = loss.table, list(loss.table.columns.values())
    if not loss.columns:
        return everything
    if not table.key:
        rows = connection.exec_driver_sql(f"SELECT EXISTS (SELECT FROM {_name(quote, table)})").scalar_one()
        if rows:
            raise Refused(
                [Finding("stash-keyless", table.shown, revision, {"table": table.shown})],
                f"ALTER TABLE {_name(quote, table)} ADD PRIMARY KEY (…);   (in a revision of its own), then go back",
            )
        return everything
    lost = {column.name for column in loss.columns}
    if lost & set(table.key):
        return everything  # without its key a value finds no way back: the whole row is kept
    return [column for column in everything if column.name in lost or column.name in table.key]


def _name(quote: IdentifierPreparer, table: Table) -> str:
    return f"{quote.quote_identifier(table.schema)}.{quote.quote_identifier(table.name)}"


def _value(quote: IdentifierPreparer, column: Column) -> str:
    # A user-defined type would let DROP TYPE … CASCADE reach into the copy; its text form comes back exactly.
    name = quote.quote_identifier(column.name)
    return name if column.builtin else f"{name}::text AS {name}"
