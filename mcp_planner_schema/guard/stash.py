"""Keeps what a downgrade is about to destroy: a copy in the guard's schema, in the same transaction, behind a lock.

Only rows of tables are kept. What a materialized view shows can be computed again, what a foreign table shows lies on another
server, and temporary tables end with their session.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mcp_planner_schema.guard import damage, trial
from mcp_planner_schema.guard.evidence import Column, Loss, Table, snapshot
from mcp_planner_schema.guard.findings import Finding, Refused
from mcp_planner_schema.guard.postcheck import execute, identifier, pinned
from mcp_planner_schema.guard.tripwire import CommitInside

if TYPE_CHECKING:
    from sqlalchemy import Connection

# What the text form of a value depends on, and whose functions and operators are meant; and a copy that row level security
# shortens is to be an error.
_READING = {
    "search_path": "pg_catalog, pg_temp",
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "row_security": "off",
}

_GRANTED = """
SELECT DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(r.rolname) END
FROM pg_catalog.pg_class c CROSS JOIN LATERAL pg_catalog.aclexplode(c.relacl) a
LEFT JOIN pg_catalog.pg_roles r ON r.oid = a.grantee
WHERE c.oid = %s::pg_catalog.regclass::pg_catalog.oid AND a.grantee <> c.relowner
"""


def keep(connection: Connection, schema: str, run: int, revision: str, lost: Sequence[Loss], who: str) -> list[str]:
    """Copy every lost table and column, and write its manifest row. Gives one line for each, for people.

    All tables are locked first, in OID order, so that no write falls between copy and drop; readers go on until the real
    run drops something. What it did is left in ``connection.info`` for :func:`trial.disarm`, which proves it after the
    real run. Raises :class:`Refused` for columns of a table with rows and no primary key, :class:`CommitInside` where a
    copy would not be what the real run destroys.
    """
    tried: trial.Trial = connection.info.pop(trial.TRIED, None) or trial.Trial()
    locked = {loss.table.oid: loss.table for loss in lost} | {table.oid: table for table in tried.empty}
    if locked:
        isolation = connection.exec_driver_sql("SHOW transaction_isolation").scalar_one()
        if isolation != "read committed":
            # Its snapshot is older than the lock: rows committed in between would be destroyed and not be in the copy.
            raise CommitInside(f"its transaction is {isolation}, and only read committed sees every row")
        execute(connection, "; ".join(_lock(connection, table) for _, table in sorted(locked.items())))
    before = snapshot(connection, schema)
    changed = [table.shown for oid, table in sorted(locked.items()) if before.get(oid) != table]
    changed += [table.shown for table in damage.filled(connection, tried.empty)]
    if changed:
        raise CommitInside(f"{', '.join(changed)} was changed by somebody else since the trial; repeat the command")
    copies: dict[str, list[str]] = {}
    lines = []
    with pinned(connection, **_READING):
        for loss in lost:
            name, columns, line = _copy(connection, schema, run, revision, loss, who)
            copies[name] = columns
            lines.append(line)
    harmed = {harm.table.oid for harm in tried.harms} | {loss.table.oid for loss in lost if not loss.columns}
    connection.info[trial.KEPT] = trial.Kept(
        before, tuple(lost), copies, trial.watched(connection, before, tried), frozenset(harmed | tried.rewritten)
    )
    return lines + [f"also goes: {one}" for one in tried.also]


def waiting(connection: Connection, schema: str, revision: str) -> list[str]:
    """Lines about rows that an earlier downgrade of this revision kept and nobody has put back. Reads only."""
    rows = connection.exec_driver_sql(
        f"SELECT object, kept_in, row_count FROM {schema}.stash WHERE revision = %s AND row_count > 0 ORDER BY id DESC LIMIT 3",
        (revision,),
    )
    return [f"not put back: {row[2]} rows of {row[0]}, kept in {row[1]} by an earlier downgrade" for row in rows]


def _copy(
    connection: Connection, schema: str, run: int, revision: str, loss: Loss, who: str
) -> tuple[str, list[str], str]:
    table = loss.table
    # A table with inheritance children shows their rows too; those are kept with the child. A partitioned one has no own.
    rows_of = _name(table) if table.kind == "p" else f"ONLY {_name(table)}"
    hidden = _hidden(connection, table)
    if hidden:  # its owner may lift that, and nobody else can look: the table is locked
        execute(connection, f"ALTER TABLE {_name(table)} NO FORCE ROW LEVEL SECURITY")
    columns = _columns(connection, revision, loss, rows_of)
    names = [column.name for column in columns]
    number = connection.exec_driver_sql(
        "SELECT pg_catalog.nextval(pg_catalog.pg_get_serial_sequence(%s, 'id')::pg_catalog.regclass)",
        (f"{schema}.stash",),
    ).scalar_one()
    kept_in = f"{schema}.stash_{number}"
    selected = ", ".join(_value(column) for column in columns)
    rows = execute(connection, f"CREATE TABLE {kept_in} AS SELECT {selected} FROM {rows_of}").rowcount
    _close(connection, kept_in)
    if hidden:
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
    # It is the one of the type's output function: a cast to text may be a function of somebody's own. A row of nulls
    # "IS NULL", and is a value.
    name = identifier(column.name)
    if column.builtin:
        return name
    given = f"pg_catalog.num_nonnulls({name}) OPERATOR(pg_catalog.=) 1"
    return f"CASE WHEN {given} THEN pg_catalog.format('%s', {name}) END COLLATE pg_catalog.\"C\" AS {name}"


def _lock(connection: Connection, table: Table) -> str:
    # SHARE keeps writers out and lets readers in; a table whose rule must be lifted for the copy needs the strongest anyway.
    return f"LOCK TABLE {_name(table)} IN {'ACCESS EXCLUSIVE' if _hidden(connection, table) else 'SHARE'} MODE"


def _hidden(connection: Connection, table: Table) -> bool:
    """Whether row level security holds for the guard's own role, which is then the table's owner."""
    return table.forced and bool(
        connection.exec_driver_sql("SELECT pg_catalog.row_security_active(%s::pg_catalog.oid)", (table.oid,)).scalar()
    )


def _close(connection: Connection, kept_in: str) -> None:
    """Take every right to a copy from everybody but its owner: default privileges give some, and know no REVOKE at the source."""
    granted = connection.exec_driver_sql(_GRANTED, (kept_in,)).scalars().all()
    if granted:
        execute(connection, f"REVOKE ALL ON TABLE {kept_in} FROM {', '.join(granted)} CASCADE")
