"""What indexes are in the catalog, and how one is built, dropped and put in another's place without stopping anybody."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard.postcheck import identifier
from mcp_planner_schema.operations import online, rows, twin
from mcp_planner_schema.operations.online import Table

if TYPE_CHECKING:
    from alembic.operations import ops
    from alembic.runtime.migration import MigrationContext

_FOUND = f"""
SELECT f.indexrelid::bigint, f.indrelid::bigint, r.relname::text, f.indisvalid AND f.indisready, r.relkind = 'I',
  r.relispartition,
  (SELECT k.conname::text FROM pg_catalog.pg_constraint k WHERE k.conindid = f.indexrelid AND k.contype IN ('p', 'u', 'x')),
  ({twin.SHOWN.strip().replace("%", "%%")} WHERE i.indexrelid = f.indexrelid)
FROM pg_catalog.pg_index f JOIN pg_catalog.pg_class r ON r.oid = f.indexrelid
"""
_OTHER = "SELECT c.relkind::text FROM pg_catalog.pg_class c WHERE c.oid = pg_catalog.to_regclass(%s::text)"
# A backend that builds holds this lock on the table for its session; the progress view shows its pid to everybody.
_BUILDER = """
SELECT l.pid FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_stat_progress_create_index p ON p.pid = l.pid
WHERE l.locktype = 'relation' AND l.relation = %s AND l.mode = 'ShareUpdateExclusiveLock' AND l.granted
  AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
  AND l.pid <> pg_catalog.pg_backend_pid()
"""
# REINDEX CONCURRENTLY names its new index <name>_ccnew, or _ccnew1 and so on, the name cut so that it fits.
_LEFTOVERS = """
SELECT x.relname::text FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
CROSS JOIN LATERAL (SELECT pg_catalog.regexp_replace(x.relname::text, '_cc(new|old)[0-9]*$', '')) AS s (stem)
WHERE i.indrelid = %s AND NOT i.indisvalid AND s.stem <> x.relname AND x.relkind = 'i'
  AND (s.stem = %s OR pg_catalog.octet_length(x.relname::text) >= 62 AND pg_catalog.starts_with(%s, s.stem))
ORDER BY 1
"""


BRIEFLY_READ = 8 * 1024 * 1024
"""Bytes of a table that may be read under a lock, some twenty milliseconds: a downgrade's trial really builds its index."""


@dataclass(frozen=True)
class Index:
    """An index as the catalog has it. ``shown`` is its definition without names; ``constraint`` is the one it serves."""

    oid: int
    of: int
    name: str
    valid: bool
    partitioned: bool
    attached: bool
    constraint: str | None
    shown: str


@dataclass(frozen=True)
class Definition:
    """What an index is, without its name and table: ``text`` begins with USING or the opening parenthesis."""

    unique: bool
    text: str

    def sql(self, name: str, table: str, way: str = "", only: str = "") -> str:
        """The statement that makes one; ``table`` is quoted."""
        return f"CREATE {'UNIQUE ' if self.unique else ''}INDEX {way}{identifier(name)} ON {only}{table} {self.text}"


def definition(operation: ops.CreateIndexOp) -> Definition:
    """What Alembic's operation describes, as SQLAlchemy writes it for PostgreSQL."""
    import sqlalchemy as sa
    from alembic.operations import ops
    from sqlalchemy.dialects.postgresql.base import PGDialect
    from sqlalchemy.schema import CreateIndex

    kw: dict[str, Any] = {name: value for name, value in operation.kw.items() if name != "postgresql_concurrently"}
    plain = ops.CreateIndexOp("guard_index", "guard_table", operation.columns, unique=operation.unique, **kw)
    index: sa.Index = plain.to_index()
    assert index.table is not None
    for column in kw.get("postgresql_include") or ():  # SQLAlchemy looks them up in the table
        if str(column) not in index.table.c:
            index.table.append_column(sa.Column(str(column), sa.types.NULLTYPE))
    # Another paramstyle would double every percent sign.
    dialect = PGDialect(paramstyle="named")  # type: ignore[no-untyped-call]  # so has SQLAlchemy left it
    written = str(CreateIndex(index).compile(dialect=dialect))
    return Definition(bool(operation.unique), written.partition(" ON guard_table ")[2])


def find(context: MigrationContext, schema: str, name: str) -> Index | None:
    """The index of this name. Refuses what is no index."""
    found = online.ask(
        context, f"{_FOUND} WHERE f.indexrelid = pg_catalog.to_regclass(%s::text)", (online.qualified(schema, name),)
    )
    if found:
        return Index(*found[0])
    if online.ask(context, _OTHER, (online.qualified(schema, name),)):
        online.refuse(
            context, "operation-differs", what=f"index {name}", found="no index, but something else of that name"
        )
    return None


def build(context: MigrationContext, table: Table, name: str, wanted: Definition) -> None:
    """Build the index on a table with rows of its own, or on nothing but what is missing of it.

    An INVALID one of that name is what an interrupted build has left: it is dropped and built anew.
    """
    there = find(context, table.schema, name)
    if there is not None and not there.valid:
        wait_for_builder(context, table)
        there = find(context, table.schema, name)
    clear_leftovers(context, table, name)
    if online.tried(context) and _large(context, table):
        return  # nothing goes by building it, and as a part of one transaction it would stop every writer
    if there is not None and there.valid:
        shown, _ = twin.index(context, table, wanted.text, unique=wanted.unique)
        refuse_other(context, table, there, shown)
        online.say(context, f"index {name} is there already")
        return
    if there is not None:
        refuse_elsewhere(context, table, there)
        drop_leftover(context, table, name)
    keys = None
    if wanted.unique:
        _, keys = twin.index(context, table, wanted.text, unique=True)
        rows.refuse_duplicates(context, table, keys, f"the unique index {name}")
    try:
        online.send(context, wanted.sql(name, table.sql, "CONCURRENTLY "))
    except Exception as error:
        if keys is None or getattr(getattr(error, "orig", None), "pgcode", None) != "23505":
            raise
        # Rows that came while it was built. An INVALID unique index would refuse others from now on.
        drop_leftover(context, table, name)
        rows.refuse_duplicates(context, table, keys, f"the unique index {name}")
        raise
    prove(context, table.schema, name)


def _large(context: MigrationContext, table: Table) -> bool:
    ((size,),) = online.ask(context, "SELECT pg_catalog.pg_relation_size(%s::pg_catalog.regclass)", (table.oid,))
    return int(size) > BRIEFLY_READ


def drop_leftover(context: MigrationContext, table: Table, name: str) -> None:
    """Drop what an interrupted build has left."""
    online.say(context, f"drops the INVALID index {name}")
    online.send(context, f"DROP INDEX CONCURRENTLY {online.qualified(table.schema, name)}")


def clear_leftovers(context: MigrationContext, table: Table, name: str) -> None:
    """Drop what an interrupted REINDEX CONCURRENTLY of this index has left."""
    left = [row[0] for row in online.ask(context, _LEFTOVERS, (table.oid, name, name))]
    if left:
        wait_for_builder(context, table)
    for one in left:
        drop_leftover(context, table, one)


def wait_for_builder(context: MigrationContext, table: Table) -> None:
    """Wait until nobody builds an index on the table: of a killed run, the server may still be at work."""
    told = False
    while builders := online.ask(context, _BUILDER, (table.oid,)):
        if not told:
            online.say(context, f"waits for pid {builders[0][0]}, which builds an index on {table.shown}")
        told = True
        time.sleep(0.2)


def prove(context: MigrationContext, schema: str, name: str) -> None:
    """The index is there, and valid."""
    there = find(context, schema, name)
    if there is None or not there.valid:
        online.unproven(context, f"The index {name} is {'missing' if there is None else 'INVALID'}")


def refuse_other(context: MigrationContext, table: Table, there: Index, shown: str) -> None:
    """Refuse an index of the wanted name that is another, or on another table."""
    refuse_elsewhere(context, table, there)
    if there.shown != shown:
        online.refuse(context, "operation-differs", what=f"index {there.name}", found=f"{there.shown}, and not {shown}")


def refuse_elsewhere(context: MigrationContext, table: Table, there: Index) -> None:
    """Refuse an index of the wanted name that is on another table."""
    if there.of != table.oid:
        online.refuse(context, "operation-differs", what=f"index {there.name}",
                      found=f"an index of another table than {table.shown}")  # fmt: skip
