"""Constraints that come without a scan under a lock: first for new rows only (NOT VALID), or by an index that is there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mcp_planner_schema.guard.postcheck import identifier
from mcp_planner_schema.operations import indexes, not_null, online, partitioned, rows, twin
from mcp_planner_schema.operations.indexes import Definition
from mcp_planner_schema.operations.online import Table

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext

_FOUND = """
SELECT k.contype::text, pg_catalog.pg_get_constraintdef(k.oid), k.convalidated, pg_catalog.pg_get_expr(k.conbin, k.conrelid),
  k.confrelid::bigint, ARRAY(SELECT a.attname::text FROM pg_catalog.unnest(k.conkey) WITH ORDINALITY u (n, place)
    JOIN pg_catalog.pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.n ORDER BY place),
  ARRAY(SELECT a.attname::text FROM pg_catalog.unnest(k.confkey) WITH ORDINALITY u (n, place)
    JOIN pg_catalog.pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.n ORDER BY place),
  pg_catalog.concat(k.confupdtype, k.confdeltype, k.confmatchtype), k.condeferrable, k.condeferred
FROM pg_catalog.pg_constraint k WHERE k.conrelid = %s AND k.conname = %s
"""
_BY_OID = """
SELECT c.oid::bigint, n.nspname::text, c.relname::text, c.relkind::text
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = %s
"""
_LEAVES = """
SELECT c.oid::bigint, n.nspname::text, c.relname::text, c.relkind::text
FROM pg_catalog.pg_partition_tree(%s::pg_catalog.regclass) AS tree JOIN pg_catalog.pg_class c ON c.oid = tree.relid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE tree.isleaf ORDER BY c.oid
"""
_ACTIONS = {"NO ACTION": "a", "RESTRICT": "r", "CASCADE": "c", "SET NULL": "n", "SET DEFAULT": "d"}
_VIOLATED = ("23514", "23503", "23502")


@dataclass(frozen=True)
class Constraint:
    """A constraint as the catalog has it; ``shown`` is its definition, whether rows were checked against it or not."""

    kind: str
    shown: str
    validated: bool
    condition: str | None
    referent: int
    columns: tuple[str, ...]
    referred: tuple[str, ...]
    behaviour: str
    deferrable: bool
    deferred: bool


@dataclass(frozen=True)
class ForeignKey:
    """What a foreign key is, without its name and table."""

    columns: tuple[str, ...]
    referent: str
    referred: tuple[str, ...]
    referent_schema: str | None = None
    onupdate: str | None = None
    ondelete: str | None = None
    match: str | None = None
    deferrable: bool | None = None
    initially: str | None = None

    def sql(self, referent: str) -> str:
        """The definition; ``referent`` is quoted."""
        parts = [
            f"FOREIGN KEY ({online.columns_sql(self.columns)}) REFERENCES {referent} ({online.columns_sql(self.referred)})",
            f"MATCH {self.match}" if self.match else "",
            f"ON UPDATE {self.onupdate}" if self.onupdate else "",
            f"ON DELETE {self.ondelete}" if self.ondelete else "",
            deferral(self.deferrable, self.initially),
        ]
        return " ".join(filter(None, parts))

    def behaviour(self) -> str:
        """Its actions and its way to match, in the catalog's letters."""
        deleted = (self.ondelete or "NO ACTION").partition("(")[0].strip().upper()
        return (
            _ACTIONS[(self.onupdate or "NO ACTION").upper()] + _ACTIONS[deleted] + (self.match or "SIMPLE")[0].lower()
        )

    def offends(self, referent: str) -> str:
        """The condition of a row (``t``) that refers to nothing."""
        present = [f"t.{identifier(one)} IS NOT NULL" for one in self.columns]
        same = [
            f"r.{identifier(other)} = t.{identifier(one)}"
            for one, other in zip(self.columns, self.referred, strict=True)
        ]
        lost = f"{' AND '.join(present)} AND NOT EXISTS (SELECT FROM {referent} AS r WHERE {' AND '.join(same)})"
        if (self.match or "").upper() != "FULL":
            return lost
        return f"({lost}) OR (({' OR '.join(present)}) AND NOT ({' AND '.join(present)}))"


def deferral(deferrable: bool | None, initially: str | None) -> str:
    """As it is written at the end of a constraint."""
    said = "" if deferrable is None else "DEFERRABLE" if deferrable else "NOT DEFERRABLE"
    return " ".join(filter(None, [said, f"INITIALLY {initially}" if initially else ""]))


def find(context: MigrationContext, table: Table, name: str) -> Constraint | None:
    """The table's constraint of this name."""
    found = online.ask(context, _FOUND, (table.oid, name))
    if not found:
        return None
    kind, shown, validated, condition, referent, columns, referred, behaviour, deferrable, deferred = found[0]
    shown = shown.removesuffix(" NOT VALID")
    return Constraint(kind, shown, validated, condition, referent, tuple(columns), tuple(referred), behaviour, deferrable,
                      deferred)  # fmt: skip


def add_check(context: MigrationContext, table: Table, name: str, condition: str) -> None:
    """A check that holds for new rows at once, and then for all."""
    wanted = twin.constraint(context, table, f"CHECK ({condition})")
    there = find(context, table, name)
    if there is not None and there.shown != wanted:
        _differs(context, name, there.shown, wanted)
    if there is None or not there.validated:
        rows.refuse_offending(context, table, f"NOT ({condition})", f"the check {name}")
    if there is None:
        online.hold(context, f"ALTER TABLE {table.sql} ADD CONSTRAINT {identifier(name)} CHECK ({condition}) NOT VALID")
    validate(context, table, name)


def add_foreign_key(context: MigrationContext, table: Table, name: str, key: ForeignKey) -> None:
    """A foreign key that holds for new rows at once, and then for all."""
    referent = online.table(context, key.referent, key.referent_schema)
    there = find(context, table, name)
    wanted = (referent.oid, key.columns, key.referred, key.behaviour(), bool(key.deferrable),
              (key.initially or "").upper() == "DEFERRED")  # fmt: skip
    if there is not None:
        found = (there.referent, there.columns, there.referred, there.behaviour, there.deferrable, there.deferred)
        if found != wanted:
            _differs(context, name, there.shown, key.sql(referent.shown))
    if there is None or not there.validated:
        rows.refuse_offending(context, table, key.offends(referent.sql), f"the foreign key {name}")
    if there is None and table.partitioned and online.version(context) < 18:
        # There is no NOT VALID for it before 18; the parent's takes over what its partitions have, without a scan.
        for leaf in online.ask(context, _LEAVES, (table.oid,)):
            add_foreign_key(context, Table(*leaf), name, key)
        online.hold(context, f"ALTER TABLE {table.sql} ADD CONSTRAINT {identifier(name)} {key.sql(referent.sql)}")
    elif there is None:
        statement = f"ALTER TABLE {table.sql} ADD CONSTRAINT {identifier(name)} {key.sql(referent.sql)} NOT VALID"
        online.hold(context, statement)
    validate(context, table, name)


def add_key(
    context: MigrationContext, table: Table, name: str, kind: str, definition: str, index: Definition,
    columns: Sequence[str], more: str,
) -> None:  # fmt: skip
    """A UNIQUE or PRIMARY KEY constraint (``kind``) of an index that is built first. ``more`` is its deferral."""
    wanted = twin.constraint(context, table, " ".join(filter(None, [kind, definition, more])))
    there = find(context, table, name)
    if there is not None and there.shown != wanted:
        _differs(context, name, there.shown, wanted)
    if kind == "PRIMARY KEY":
        _refuse_second_key(context, table, name)
        for column in columns:
            not_null.set_on(context, table, column)
    built = indexes.find(context, table.schema, name)
    if table.partitioned:
        whole = f"{kind} {definition}"
        if built is None:
            _, keys = twin.index(context, table, index.text, unique=True)
            rows.refuse_duplicates(context, table, keys, f"the constraint {name}")
            online.hold(
                context, f"ALTER TABLE ONLY {table.sql} ADD CONSTRAINT {identifier(name)} {whole} {more}".rstrip()
            )
        partitioned.complete(context, table, name, index, constraint=whole)
    elif there is None:
        indexes.build(context, table, name, index)
        if indexes.find(context, table.schema, name) is None and online.tried(context):
            return
        partitioned.use_index(context, table, name, kind, f" {more}" if more else "")
    _prove(context, table, name)


def validate(context: MigrationContext, table: Table, name: str) -> None:
    """Check all rows against a constraint that is NOT VALID. Refuses where rows offend, naming some."""
    there = find(context, table, name)
    if there is None:
        online.refuse(context, "operation-missing", what=f"constraint {name} on {table.shown}")
    if there.validated:
        online.say(context, f"constraint {name} is valid already")
        return
    if online.unfilled(context):
        return
    _scan(context, table, name, lambda: offending(context, table, name, there))
    _prove(context, table, name)


def invalidate(context: MigrationContext, table: Table, name: str) -> None:
    """The way back from :func:`validate`: the same constraint, NOT VALID."""
    there = find(context, table, name)
    if there is None:
        online.refuse(context, "operation-missing", what=f"constraint {name} on {table.shown}")
    if there.validated:
        quoted = identifier(name)
        change = f"DROP CONSTRAINT {quoted}, ADD CONSTRAINT {quoted} {there.shown} NOT VALID"
        online.hold(context, f"ALTER TABLE {table.sql} {change}")


def offending(context: MigrationContext, table: Table, name: str, there: Constraint) -> None:
    """Refuse if rows stand against a check or a foreign key that is there."""
    if there.kind == "c":
        rows.refuse_offending(context, table, f"NOT ({there.condition})", f"the check {name}")
    elif there.kind == "f":
        referent = Table(*online.ask(context, _BY_OID, (there.referent,))[0])
        match = {"f": "FULL", "s": None}[there.behaviour[2]]
        key = ForeignKey(there.columns, referent.name, there.referred, referent.schema, match=match)
        rows.refuse_offending(context, table, key.offends(referent.sql), f"the foreign key {name}")


def drop(context: MigrationContext, table: Table, name: str, *, known: bool) -> None:
    """Drop a constraint; ``known``: it may be gone already."""
    if find(context, table, name) is not None:
        online.hold(context, f"ALTER TABLE {table.sql} DROP CONSTRAINT {identifier(name)}")
    elif known:
        online.say(context, f"constraint {name} is gone already")
    else:
        online.refuse(context, "operation-missing", what=f"constraint {name} on {table.shown}")


def _scan(context: MigrationContext, table: Table, name: str, explain: Callable[[], None]) -> None:
    try:
        online.send(context, f"ALTER TABLE {table.sql} VALIDATE CONSTRAINT {identifier(name)}")
    except Exception as error:
        if not online.tried(context) and getattr(getattr(error, "orig", None), "pgcode", None) in _VIOLATED:
            explain()  # rows that came between the count and the constraint
        raise


def _refuse_second_key(context: MigrationContext, table: Table, name: str) -> None:
    asked = "SELECT k.conname::text FROM pg_catalog.pg_constraint k WHERE k.conrelid = %s AND k.contype = 'p' AND k.conname <> %s"
    for (other,) in online.ask(context, asked, (table.oid, name)):
        online.refuse(
            context, "operation-differs", what=f"primary key {name}", found=f"the primary key {other} already"
        )


def _prove(context: MigrationContext, table: Table, name: str) -> None:
    there = find(context, table, name)
    if there is None or not there.validated:
        online.unproven(context, f"The constraint {name} is {'missing' if there is None else 'NOT VALID'}")


def _differs(context: MigrationContext, name: str, found: str, wanted: str) -> None:
    online.refuse(context, "operation-differs", what=f"constraint {name}", found=f"{found}, and not {wanted}")
