"""Indexes of partitioned tables: CREATE INDEX CONCURRENTLY knows none, so each partition gets its own, which is then attached.

The parent's index exists from the beginning, on ONLY the parent and not valid: a partition that appears meanwhile gets its
index from PostgreSQL. It becomes valid with the last partition, and what is missing is asked anew each time.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from mcp_planner_schema.guard.postcheck import identifier
from mcp_planner_schema.operations import indexes, online, rows, twin
from mcp_planner_schema.operations.indexes import Definition
from mcp_planner_schema.operations.online import Table

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext

# Partitions of a table, with the index of each that belongs to the parent's.
_PARTITIONS = """
SELECT c.oid::bigint, n.nspname::text, c.relname::text, c.relkind::text, own.name, own.valid
FROM pg_catalog.pg_inherits h JOIN pg_catalog.pg_class c ON c.oid = h.inhrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN LATERAL (
  SELECT x.relname::text, i.indisvalid FROM pg_catalog.pg_inherits a JOIN pg_catalog.pg_index i ON i.indexrelid = a.inhrelid
  JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid WHERE a.inhparent = %s AND i.indrelid = c.oid) AS own (name, valid) ON true
WHERE h.inhparent = %s AND c.relkind IN ('r', 'p', 'f') AND NOT h.inhdetachpending ORDER BY c.oid
"""
_TREE = """
SELECT n.nspname::text, x.relname::text, t.relname::text
FROM pg_catalog.pg_partition_tree(%s::pg_catalog.regclass) AS tree JOIN pg_catalog.pg_class x ON x.oid = tree.relid
JOIN pg_catalog.pg_namespace n ON n.oid = x.relnamespace JOIN pg_catalog.pg_index i ON i.indexrelid = x.oid
JOIN pg_catalog.pg_class t ON t.oid = i.indrelid WHERE tree.level > 0 ORDER BY tree.level, x.relname
"""


def build(context: MigrationContext, table: Table, name: str, wanted: Definition, *, root: str = "") -> None:
    """Build the index on any table, with partitions or without, as far as it is missing.

    ``root`` is the name of the uppermost index, after which those of all partitions are named.
    """
    if not table.partitioned:
        indexes.build(context, table, name, wanted)
        return
    there = indexes.find(context, table.schema, name)
    shown, keys = twin.index(context, table, wanted.text, unique=wanted.unique)
    if there is not None:
        indexes.refuse_other(context, table, there, shown)
        if there.valid:
            online.say(context, f"index {name} is there already")
            return
    else:
        if wanted.unique:
            rows.refuse_duplicates(context, table, keys, f"the unique index {name}")
        online.hold(context, wanted.sql(name, table.sql, only="ONLY "))
    complete(context, table, name, wanted, root=root)


def complete(
    context: MigrationContext, table: Table, name: str, wanted: Definition, *, root: str = "", constraint: str = ""
) -> None:
    """Give each partition its index and attach it, until the parent's is valid.

    ``constraint`` (UNIQUE or PRIMARY KEY) is what the parent's index serves: a partition's must serve one too.
    """
    root = root or name
    while part := _incomplete(context, table, name):
        partition, attached = part
        own = attached or partition_index(partition.name, root)
        try:
            if attached and not partition.partitioned:
                online.send(context, f"REINDEX INDEX CONCURRENTLY {online.qualified(partition.schema, own)}")
                continue
            if constraint and partition.partitioned and indexes.find(context, partition.schema, own) is None:
                online.hold(context, f"ALTER TABLE ONLY {partition.sql} ADD CONSTRAINT {identifier(own)} {constraint}")
            if constraint and partition.partitioned:
                complete(context, partition, own, wanted, root=root, constraint=constraint)
            else:
                build(context, partition, own, wanted, root=root)
                there = indexes.find(context, partition.schema, own)
                if constraint and there is not None and there.constraint is None:
                    use_index(context, partition, own, constraint.partition(" (")[0])
            _attach(context, table, name, partition.schema, own)
        except Exception as error:
            if getattr(error, "orig", None) is None or _belongs(context, table, partition):
                raise
            # It was detached or dropped meanwhile.
    there = indexes.find(context, table.schema, name)
    if there is not None and not there.valid:
        # The one that was missing has gone: attaching any of the others again makes PostgreSQL look.
        for schema, own, _ in tree(context, there.oid)[:1]:
            _attach(context, table, name, schema, own)
    indexes.prove(context, table.schema, name)


def use_index(context: MigrationContext, table: Table, name: str, kind: str, more: str = "") -> None:
    """Make a constraint (UNIQUE or PRIMARY KEY) of an index that is there, under the index's name."""
    quoted = identifier(name)
    online.hold(context, f"ALTER TABLE {table.sql} ADD CONSTRAINT {quoted} {kind} USING INDEX {quoted}{more}")


def tree(context: MigrationContext, oid: int) -> list[tuple[str, str, str]]:
    """The indexes below a partitioned one: schema, name, table."""
    return [tuple(row) for row in online.ask(context, _TREE, (oid,))]


def partition_index(partition: str, index: str) -> str:
    """The name of a partition's index: both names, each cut and told apart by a checksum where they are too long."""
    name = f"{partition}_{index}"
    if len(name.encode()) <= 63:
        return name
    return online.shortened(
        online.shortened(partition, "")[:26] + "_" + index[:26], f"_{zlib.crc32(name.encode()):08x}"
    )


def _incomplete(context: MigrationContext, table: Table, name: str) -> tuple[Table, str | None] | None:
    """The first partition without a valid index that belongs to the parent's, with the name of an invalid one."""
    parent = indexes.find(context, table.schema, name)
    if parent is None:
        online.unproven(context, f"The index {name} is missing")
    for *found, own, valid in online.ask(context, _PARTITIONS, (parent.oid, table.oid)):
        if found[3] == "f":
            online.refuse(context, "operation-unsupported", what=f"index {name}",
                          problem=f"the partition {found[2]} is a foreign table, which has no indexes here")  # fmt: skip
        if not valid:
            return Table(*found), own
    return None


def _attach(context: MigrationContext, table: Table, name: str, schema: str, own: str) -> None:
    online.hold(
        context, f"ALTER INDEX {online.qualified(table.schema, name)} ATTACH PARTITION {online.qualified(schema, own)}"
    )


def _belongs(context: MigrationContext, table: Table, partition: Table) -> bool:
    asked = "SELECT FROM pg_catalog.pg_inherits WHERE inhparent = %s AND inhrelid = %s AND NOT inhdetachpending"
    return bool(online.ask(context, asked, (table.oid, partition.oid)))
