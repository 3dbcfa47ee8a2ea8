"""Masks the guard's own tables in a copy: who ran it where, what errors quote, keys that backfills have come to.

What is not named here as harmless is emptied: :data:`STAYS` has the columns that hold names of the catalog or what stands in the
revisions' files, which staging has too. The tables have neither an index nor a foreign key yet.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from mcp_planner_schema.guard.postcheck import execute, identifier, literal

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from mcp_planner_schema.staging.masks import Column

_SOMEBODY, _SOMEWHERE = "somebody", "somewhere"
_SAYS = {"who": _SOMEBODY, "db_user": _SOMEBODY, "host": _SOMEWHERE, "command": "masked"}
"""What stands in columns that have to say something."""

_FILES = ("version_table", "revision", "direction", "git_commit", "tool_version")
_OF_A_BACKFILL = ("name", "target", "digest", "verify", "state", "wanted", "detail")
STAYS: dict[str, frozenset[str]] = {
    "adopted": frozenset({*_FILES, "tool", "relation", "version"}),
    "commit_guard": frozenset(),
    "backfill": frozenset({*_FILES, *_OF_A_BACKFILL}),
    "backfill_range": frozenset({"relation", "above", "up_to", "reached"}),  # what of them stays: _forget_keys
    "deploy": frozenset({*_FILES, "kind", "state", "stage", "from_head", "to_head", "revisions"}),
    "environment": frozenset({"name"}),
    "history": frozenset({*_FILES, "outcome", "author", "checksum", "checksum_before", "source", "waivers"}),
    "journal": frozenset({*_FILES, "operation", "target", "state", "detail"}),  # but for a script's arguments
    "revision": frozenset({*_FILES, "parents", "phase", "title", "file"}),
    "run": frozenset({*_FILES, "state", "from_heads", "to_heads", "sequences"}),
    "stash": frozenset({*_FILES, "kept_in", "state", "server_version", "archive_sha256", "xid", "written", "rights"}),
    "stash_object": frozenset({
        "kind", "object_schema", "object_name", "relation", "key_columns", "columns", "types", "lost_columns", "algorithm",
        "grants", "definition", "left_as", "structure",
    }),
}  # fmt: skip
"""Of each table of the guard's the columns with words in them that stay as they are. Rows of any other table there go."""

# Numbers and the like, enums and domains over them hold no words.
_COLUMNS = """
SELECT c.relname::text, a.attname::text, a.attnotnull, t.typcategory::text
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
WHERE c.relkind IN ('r', 'p') AND n.nspname = %s AND t.typcategory NOT IN ('N', 'B', 'D', 'T', 'E') AND t.typname <> 'uuid'
ORDER BY 1, a.attnum
"""
_TABLES = """
SELECT c.relname::text FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND n.nspname = %s ORDER BY 1
"""
_LEAVES = """
SELECT n.nspname::text, c.relname::text FROM pg_catalog.pg_partition_tree(pg_catalog.to_regclass(%s)) t
JOIN pg_catalog.pg_class c ON c.oid = t.relid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
"""
# A key that is a number or a UUID says nothing that the key column itself does not say, unless that is masked.
_NUMBER = literal("^(-?[0-9]+|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})$")
_WORDY = "EXISTS (SELECT FROM pg_catalog.unnest(r.above || r.up_to || r.reached) AS k (part) WHERE k.part !~ {})"


def mask(connection: Connection, schema: str, decided: Iterable[tuple[Column, str]] = ()) -> None:
    """Leave nothing in the guard's tables that is about people. ``decided`` are the masked columns of all others.

    What downgrades have kept is given up.
    """
    there = tables(connection, schema)
    for table, column, required, category in connection.exec_driver_sql(_COLUMNS, (schema,)).all():
        if table not in STAYS or column in STAYS[table]:
            continue
        empty = literal(_SAYS.get(column, "masked")) if category == "S" else "'{}'"
        value = empty if required else "NULL"
        execute(connection, f"UPDATE {schema}.{identifier(table)} SET {identifier(column)} = {value}")
    for table in there:
        if table not in STAYS:  # events: errors, blockers, commands; what a trial has laid aside
            execute(connection, f"DELETE FROM {schema}.{identifier(table)}")
    if "stash" in there:
        execute(connection, f"UPDATE {schema}.stash SET state = 'purged' WHERE state IN ('kept', 'partly restored')")
    if "journal" in there:
        execute(connection, f"UPDATE {schema}.journal SET detail = detail - 'arguments'")
    if "backfill" in there:
        _forget_keys(connection, schema, _masked(connection, decided))


def _forget_keys(connection: Connection, schema: str, masked: Collection[str]) -> None:
    """How far a backfill is, is told by keys. One that is done needs none; another begins anew where they say something."""
    named = ", ".join(map(literal, masked)) or "NULL"
    telling = f"{_WORDY.format(_NUMBER)} OR r.relation IN ({named})"
    execute(
        connection,
        f"WITH gone AS (DELETE FROM {schema}.backfill b WHERE b.state <> 'done' AND EXISTS "
        f"(SELECT FROM {schema}.backfill_range r WHERE r.backfill = b.id AND ({telling})) RETURNING b.id) "
        f"DELETE FROM {schema}.backfill_range r USING gone WHERE r.backfill = gone.id",
    )
    execute(
        connection,
        f"UPDATE {schema}.backfill_range r SET above = NULL, up_to = NULL, reached = NULL "
        f"FROM {schema}.backfill b WHERE b.id = r.backfill AND b.state = 'done'",
    )


def _masked(connection: Connection, decided: Iterable[tuple[Column, str]]) -> set[str]:
    """The tables that have a masked column which may be a key, and their partitions, as the guard's rows name them."""
    unique = ("hash", "email", "unique-words")
    found = {(one.schema, one.table, one.rows_of.removeprefix("ONLY "))
             for one, rule in decided if rule in unique or not (one.is_text or one.is_json)}  # fmt: skip
    names = {(schema, table) for schema, table, _ in found}
    for *_, quoted in found:
        names |= {tuple(row) for row in connection.exec_driver_sql(_LEAVES, (quoted,))}
    return {form for schema, name in names
            for form in (f"{schema}.{name}".removeprefix("public."), f"{identifier(schema)}.{identifier(name)}")}  # fmt: skip


def tables(connection: Connection, schema: str) -> list[str]:
    """The guard's tables that there are."""
    return list(connection.exec_driver_sql(_TABLES, (schema,)).scalars())
