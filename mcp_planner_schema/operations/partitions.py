"""Partitions that come and go: whatever reads rows is done before, so that the lock is brief."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mcp_planner_schema.guard import journal
from mcp_planner_schema.guard.postcheck import identifier
from mcp_planner_schema.operations import constraints, indexes, not_null, online, partitioned, rows, twin
from mcp_planner_schema.operations.indexes import Definition
from mcp_planner_schema.operations.online import Table

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext

    from mcp_planner_schema.guard.journal import Entry

_PLACE = """
SELECT h.inhparent::bigint, h.inhdetachpending, pg_catalog.pg_get_expr(c.relpartbound, c.oid)
FROM pg_catalog.pg_inherits h JOIN pg_catalog.pg_class c ON c.oid = h.inhrelid WHERE h.inhrelid = %s AND c.relispartition
"""
_DEFAULT = """
SELECT c.oid::bigint, n.nspname::text, c.relname::text, c.relkind::text
FROM pg_catalog.pg_partitioned_table p JOIN pg_catalog.pg_class c ON c.oid = p.partdefid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE p.partrelid = %s
"""
_INDEXES = f"""
SELECT f.indexrelid::bigint, r.relname::text, f.indisvalid, r.relispartition, k.contype::text,
  ({twin.SHOWN.strip().replace("%", "%%")} WHERE i.indexrelid = f.indexrelid), f.indisunique, f.indnkeyatts::int,
  ARRAY(SELECT a.attname::text FROM pg_catalog.unnest(f.indkey::int2[]) WITH ORDINALITY u (n, place)
    JOIN pg_catalog.pg_attribute a ON a.attrelid = f.indrelid AND a.attnum = u.n WHERE place <= f.indnkeyatts ORDER BY place)
FROM pg_catalog.pg_index f JOIN pg_catalog.pg_class r ON r.oid = f.indexrelid
LEFT JOIN pg_catalog.pg_constraint k ON k.conindid = f.indexrelid AND k.contype IN ('p', 'u')
WHERE f.indrelid = %s AND f.indislive ORDER BY r.relname
"""
_RULES = """
SELECT k.conname::text, k.contype::text, pg_catalog.pg_get_constraintdef(k.oid), pg_catalog.pg_get_expr(k.conbin, k.conrelid)
FROM pg_catalog.pg_constraint k WHERE k.conrelid = %s AND k.contype IN ('c', 'f') AND NOT (k.contype = 'c' AND k.connoinherit)
ORDER BY k.conname
"""
_NOT_NULL = """
SELECT p.attname::text FROM pg_catalog.pg_attribute p WHERE p.attrelid = %s AND p.attnotnull AND p.attnum > 0
  AND NOT p.attisdropped ORDER BY p.attnum
"""
_CHECKS = "SELECT k.conname::text FROM pg_catalog.pg_constraint k WHERE k.conrelid = %s AND k.contype = 'c'"
_SIZE = """
SELECT coalesce(pg_catalog.sum(pg_catalog.pg_relation_size(t.relid)), 0)::bigint
FROM pg_catalog.pg_partition_tree(%s::pg_catalog.regclass) AS t
"""
_STOPPED = ("55P03", "57014")


@dataclass(frozen=True)
class Place:
    """Where a partition belongs to; ``pending``: its detaching was begun and is not finished."""

    parent: int
    pending: bool
    bound: str


def attach(context: MigrationContext, table: Table, partition: Table, bound: str) -> None:
    """Attach a partition whose rows, indexes and constraints are known to fit before the lock is taken."""
    shown, rule = _meaning(context, table, bound)
    there = place(context, partition)
    if there is not None and there.parent == table.oid and there.pending:
        finish(context, table, partition)
        there = None
    if there is not None:
        if there.parent != table.oid or there.bound != shown:
            online.refuse(context, "operation-differs", what=f"partition {partition.shown} {shown}",
                          found=f"the same table as a partition {there.bound} already")  # fmt: skip
        online.say(context, f"{partition.shown} is a partition of {table.shown} already")
        return
    checked = [partition] if rule and not rule.startswith("satisfies_hash_partition") else []
    default = [Table(*row) for row in online.ask(context, _DEFAULT, (table.oid,)) if checked and shown != "DEFAULT"]
    for one in default:
        _refuse_in_default(context, one, rule, partition)
    for one in checked:
        constraints.add_check(context, one, check_name(one), rule)
    _fit(context, table, partition)
    spared = [one for one in default if _spare(context, one, rule, partition)]
    try:
        online.hold(
            context,
            f"ALTER TABLE {table.sql} ATTACH PARTITION {partition.sql} {bound}",
            *(f"ALTER TABLE {one.sql} DROP CONSTRAINT {identifier(check_name(one))}" for one in checked + spared),
        )
    except Exception as error:
        if getattr(getattr(error, "orig", None), "pgcode", None) == "23514":
            for one in default:  # rows that came since it was asked
                _refuse_in_default(context, one, rule, partition)
        raise
    there = place(context, partition)
    if there is None or there.bound != shown:
        online.unproven(context, f"{partition.shown} is no partition {shown}")


def detach(context: MigrationContext, table: Table, partition: Table, entry: Entry) -> None:
    """Detach a partition while its parent is in use; what was begun before is finished."""
    there = place(context, partition)
    if (there is None and entry.before is None) or (there is not None and there.parent != table.oid):
        online.refuse(context, "operation-missing", what=f"partition {partition.shown} of {table.shown}")
    if "checks" not in entry.detail:
        journal.remember(context, entry, checks=[row[0] for row in online.ask(context, _CHECKS, (partition.oid,))])
    if there is None:
        online.say(context, f"{partition.shown} is detached already")
    elif there.pending:
        finish(context, table, partition)
    elif online.ask(context, _DEFAULT, (table.oid,)):  # CONCURRENTLY is not to be had beside a default partition
        online.hold(context, f"ALTER TABLE {table.sql} DETACH PARTITION {partition.sql}")
    else:
        _concurrently(context, table, partition)
    if place(context, partition) is not None:
        online.unproven(context, f"{partition.shown} is a partition still")
    # CONCURRENTLY leaves a check that says what the bound has said.
    for (name,) in online.ask(context, _CHECKS, (partition.oid,)):
        if name not in entry.detail["checks"]:
            online.hold(context, f"ALTER TABLE {partition.sql} DROP CONSTRAINT {identifier(name)}")


def place(context: MigrationContext, partition: Table) -> Place | None:
    """Where the table is a partition, if it is one."""
    found = online.ask(context, _PLACE, (partition.oid,))
    return Place(*found[0]) if found else None


def finish(context: MigrationContext, table: Table, partition: Table) -> None:
    """End a detaching that was begun, unless the server has ended it for a run that was killed."""
    try:
        online.hold(context, f"ALTER TABLE {table.sql} DETACH PARTITION {partition.sql} FINALIZE")
    except Exception as error:
        if getattr(error, "orig", None) is None or place(context, partition) is not None:
            raise


def check_name(table: Table) -> str:
    """The check that spares ATTACH its scan, there for a while."""
    return online.shortened(table.name, "_attach_check")


def _concurrently(context: MigrationContext, table: Table, partition: Table) -> None:
    """Its first half waits for whoever uses the parent; once that is begun, the rest is a brief lock."""
    try:
        online.send(context, f"ALTER TABLE {table.sql} DETACH PARTITION {partition.sql} CONCURRENTLY")
    except Exception as error:
        there = place(context, partition)
        if getattr(getattr(error, "orig", None), "pgcode", None) not in _STOPPED or there is None or not there.pending:
            raise
        finish(context, table, partition)


def _spare(context: MigrationContext, default: Table, rule: str, partition: Table) -> bool:
    """Whether the default partition got a check that spares it its scan under the lock; refuses rows of the new partition there.

    From the check on that spares it, rows for the new partition are an error until it is there, so it comes last, and not at
    all where the scan is not felt.
    """
    _refuse_in_default(context, default, rule, partition)
    name = check_name(default)
    ((size,),) = online.ask(context, _SIZE, (default.oid,))
    if size <= indexes.BRIEFLY_READ and constraints.find(context, default, name) is None:
        return False
    constraints.add_check(context, default, name, f"NOT ({rule})")
    return True


def _refuse_in_default(context: MigrationContext, default: Table, rule: str, partition: Table) -> None:
    rows.refuse_offending(context, default, f"({rule})", f"the new partition {partition.shown}")


def _meaning(context: MigrationContext, table: Table, bound: str) -> tuple[str, str]:
    """How PostgreSQL shows a bound, and the condition it sets for rows: found out on empty copies."""
    siblings = online.ask(
        context,
        "SELECT pg_catalog.pg_get_expr(c.relpartbound, c.oid) FROM pg_catalog.pg_inherits h "
        "JOIN pg_catalog.pg_class c ON c.oid = h.inhrelid WHERE h.inhparent = %s ORDER BY c.oid",
        (table.oid,),
    )
    ((key,),) = online.ask(context, "SELECT pg_catalog.pg_get_partkeydef(%s)", (table.oid,))
    with twin.copied(context, table, f"PARTITION BY {key}") as copy:
        if bound.strip().upper() == "DEFAULT":  # its condition is what the others leave
            for number, (other,) in enumerate(siblings):
                if other != "DEFAULT":
                    online.ask(context, f"CREATE TEMPORARY TABLE guard_twin_{number} PARTITION OF {copy} {other}")
        online.ask(context, f"CREATE TEMPORARY TABLE guard_twin PARTITION OF {copy} {bound}")
        ((shown, rule),) = online.ask(
            context,
            "SELECT pg_catalog.pg_get_expr(c.relpartbound, c.oid), pg_catalog.pg_get_partition_constraintdef(c.oid) "
            "FROM pg_catalog.pg_class c WHERE c.oid = 'pg_temp.guard_twin'::pg_catalog.regclass",
        )
    return shown, rule or ""


def _fit(context: MigrationContext, table: Table, partition: Table) -> None:
    """Give the partition what the parent has, so that ATTACH finds it and makes nothing itself."""
    for (column,) in online.ask(context, _NOT_NULL, (table.oid,)):
        not_null.set_on(context, partition, column)
    for name, kind, shown, condition in online.ask(context, _RULES, (table.oid,)):
        if kind == "c":
            constraints.add_check(context, partition, name, condition)
        else:
            _foreign_key(context, table, partition, name, shown)
    own = online.ask(context, _INDEXES, (partition.oid,))
    for _, name, _, _, kind, shown, unique, *_ in online.ask(context, _INDEXES, (table.oid,)):
        if any(one[5] == shown and one[2] and not one[3] and one[4] == kind for one in own):
            continue
        made = partitioned.partition_index(partition.name, name)
        wanted = Definition(unique, shown.removeprefix("UNIQUE "))
        partitioned.build(context, partition, made, wanted)
        built = indexes.find(context, partition.schema, made)
        if kind and not partition.partitioned and built is not None and built.constraint is None:
            partitioned.use_index(context, partition, made, "PRIMARY KEY" if kind == "p" else "UNIQUE")


def _foreign_key(context: MigrationContext, table: Table, partition: Table, name: str, shown: str) -> None:
    wanted = constraints.find(context, table, name)
    there = constraints.find(context, partition, name)
    if wanted is None or (partition.partitioned and online.version(context) < 18):
        return  # the latter has no NOT VALID: PostgreSQL makes it while it attaches
    constraints.offending(context, partition, name, wanted)
    if there is None:
        online.hold(context, f"ALTER TABLE {partition.sql} ADD CONSTRAINT {identifier(name)} {wanted.shown} NOT VALID")
    constraints.validate(context, partition, name)
