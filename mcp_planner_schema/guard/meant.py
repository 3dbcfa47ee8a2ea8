"""Kept references whose number another row has by now: who was an editor is not to be what came in the editor's place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mcp_planner_schema.guard import evidence, references, silence, since, twins, write_back
from mcp_planner_schema.guard.back import Back
from mcp_planner_schema.guard.evidence import Table, rows_of
from mcp_planner_schema.guard.manifest import AFTER, Object
from mcp_planner_schema.guard.postcheck import execute, identifier

if TYPE_CHECKING:
    from sqlalchemy import Connection


def another(connection: Connection, back: Back, one: Object, table: Table) -> str:
    """SQL: that the kept row ``c`` refers to a row that the downgrade has deleted, and whose key another row has by now.

    ``false`` where there is none. The keys are in temporary tables. To be called with OUTPUT pinned, and again whenever rows are
    put in: while the body runs, what is to have the key may not be back yet.
    """
    deleted = {(each.schema, each.name): each for each in back.rows() if each.kind == "rows" and each.key}
    if not deleted:
        return "false"
    there, (columns, _) = {column.name: column for column in table.columns.values()}, write_back.common(one, table)
    found: list[str] = []
    for key in references.of(connection, table.oid):
        parent, referred = evidence.named(connection, *key.parent_name), deleted.get(key.parent_name)
        if (
            parent is None
            or referred is None
            or set(key.theirs) != set(referred.key)
            or not set(key.own) <= set(columns)
        ):
            continue
        name = f"guard_another_{one.number}_{len(found)}"
        if _list(connection, back, referred, parent, name):
            match = key.match(lambda column: write_back.typed(there[column]), "n")
            found.append(f"EXISTS (SELECT FROM pg_temp.{name} AS n WHERE {match})")
    return f"({' OR '.join(found)})" if found else "false"


def _list(connection: Connection, back: Back, one: Object, table: Table, name: str) -> int:
    """Make the temporary table of the keys of deleted rows that another row has. Gives how many."""
    columns, _ = write_back.common(one, table)
    if not set(one.key) <= set(columns):
        return 0
    compared, unique = (
        twins.told_apart_by(connection, one, table, columns),
        twins.by_unique(connection, one, table, columns),
    )
    keys = ", ".join(f"l.{identifier(column)}" for column in one.key)
    other = f"{twins.told_by('c', compared, unique)} <> {twins.told_by('l', compared, unique)}"
    if not set(one.key) <= set(
        twins.given(connection, table)
    ):  # under a key of its own text the upgrade's row is the same one
        other += f" AND CASE WHEN {other} THEN {since.by_others()} ELSE false END"
    execute(connection, f"DROP TABLE IF EXISTS pg_temp.{name}")
    with silence.unveiled(connection, table.oid, evidence.name_of(table)):
        return int(
            execute(
                connection,
                f"CREATE TEMPORARY TABLE {name} ON COMMIT DROP AS SELECT {keys} FROM {back.stash.place(one)} AS c "
                f"JOIN {rows_of(table)} AS l ON {write_back.same_key(one.key, table)} "
                f"WHERE c.{identifier(AFTER)} IS NULL AND {other}",
            ).rowcount
        )
