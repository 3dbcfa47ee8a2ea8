"""A column gets another name, type or shape: expand, migrate, contract."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.generate import belongings
from mcp_planner_schema.generate.belongings import Constraint, IndexShape
from mcp_planner_schema.generate.facts import Column, Table, quoted
from mcp_planner_schema.generate.revision import Revision, sql
from mcp_planner_schema.operations.sync import Sync
from mcp_planner_schema.operations.written import quoted as python

if TYPE_CHECKING:
    from sqlalchemy import Connection


@dataclass(frozen=True)
class New:
    """A column to be made: its type with schema and as psql shows it, its default and comment."""

    name: str
    type: str
    shown: str
    default: str | None = None
    comment: str | None = None


@dataclass(frozen=True)
class Change:
    """One old column becomes one or several new ones. ``before`` and ``after`` are lines of the expand's two bodies around it."""

    table: Table
    old: Column
    new: Sequence[New]
    sync: Sync
    says: str
    constraints: Sequence[Constraint] = ()
    indexes: Sequence[tuple[IndexShape, IndexShape | None]] = ()
    before: Sequence[str] = ()
    after: Sequence[str] = ()
    enum: str = ""
    lossy: bool = False

    @property
    def kept(self) -> list[Constraint]:
        """The constraints that come along."""
        return [one for one in self.constraints if one.new_definition]

    @property
    def notes(self) -> list[str]:
        """What does not come along, for people."""
        left = [f"constraint {one.name}" for one in self.constraints if not one.new_definition]
        left += [f"index {one.name}" for one, other in self.indexes if other is None]
        return [f"{one} has no equal on the new side: write one where it is wanted" for one in left]

    @property
    def not_null(self) -> bool:
        """Whether the new column may hold no null either."""
        return self.old.not_null and len(self.new) == 1


def carried(
    connection: Connection, table: Table, old: Column, new: New
) -> tuple[list[Constraint], list[tuple[IndexShape, IndexShape | None]]]:
    """The checks, foreign keys and indexes that come along to the new column."""
    type_sql = new.type if new.type != old.type else None
    return (
        belongings.constraints(connection, table, old.name, new.name, type_sql),
        belongings.indexes(connection, table, old.name, new.name, type_sql),
    )


def uncarried(
    connection: Connection, table: Table, old: Column
) -> tuple[list[Constraint], list[tuple[IndexShape, IndexShape | None]]]:
    """The checks, foreign keys and indexes that are the old column's alone."""
    constraints, indexes = carried(connection, table, old, New(old.name + "_", old.type, old.shown))
    return [replace(one, new_definition="") for one in constraints], [(one, None) for one, _ in indexes]


def revisions(change: Change) -> list[Revision]:
    """The three revisions, in the order in which they run."""
    return [_expand(change), _migrate(change), _contract(change)]


def _expand(change: Change) -> Revision:
    table, names = change.table, [quoted(one.name) for one in change.new]
    added = [f"ADD COLUMN {quoted(one.name)} {one.type}" for one in change.new]
    added += [f"ADD CONSTRAINT {quoted(one.new_name)} {_not_valid(one.new_definition)}" for one in change.kept]
    upgrade = [*change.before, alter(table, added)]
    for one in change.new:
        if one.default:
            # By itself, and not with the column: rows that are there stay without the value, and are filled.
            upgrade.append(sql(f"ALTER TABLE {table.sql} ALTER COLUMN {quoted(one.name)} SET DEFAULT {one.default}"))
        if one.comment:
            upgrade.append(_comment(table, one.name, one.comment))
    upgrade.append("op.sync_columns(**SYNC)")
    return Revision(
        f"add {words([one.name for one in change.new])} to {words([table.name])}",
        f"{change.says}: made here, with a trigger that keeps old and new in agreement.",
        "expand",
        upgrade,
        ["op.drop_sync(**SYNC)", alter(table, [f"DROP COLUMN {name}" for name in names]), *change.after],
        [
            *([change.enum] if change.enum else []),
            *(expected("column", table, one.name, type=one.shown, nullable=True) for one in change.new),
            *(expected("constraint", table, one.new_name, validated=False) for one in change.kept),
            *_synced(change),
        ],
        reversible="stash",
        notes=change.notes,
        constants={"SYNC": _sync(change.sync)},
    )


def _migrate(change: Change) -> Revision:
    table, [first, *_] = change.table, change.new
    upgrade, downgrade = ["op.fill_synced_columns(**SYNC)"], list[str]()
    expectations = [_agreed(change)]
    upgrade += [
        call("op.validate_constraint", python(one.new_name), python(table.name), *schema_of(table))
        for one in change.kept
    ]
    downgrade += [
        call("op.invalidate_constraint", python(one.new_name), python(table.name), *schema_of(table))
        for one in change.kept
    ]
    expectations += [expected("constraint", table, one.new_name) for one in change.kept]
    for index in [other for _, other in change.indexes if other]:
        upgrade.append(create_index(table, index))
        downgrade.insert(0, f"op.drop_index_concurrently({python(index.name)}, {of(table)})")
        expectations.append(expected("index", table, index.name, first=True))
    if change.not_null:
        upgrade.append(f"op.set_not_null_concurrently({python(table.name)}, {python(first.name)}{schema_kw(table)})")
        downgrade.insert(0, f"op.drop_not_null({python(table.name)}, {python(first.name)}{schema_kw(table)})")
        expectations.append(expected("column", table, first.name, nullable=False))
    return Revision(
        f"fill {words([one.name for one in change.new])} of {words([table.name])}",
        f"{change.says}: rows that are older than the trigger are filled.",
        "migrate",
        upgrade,
        # What was filled stays true, for the trigger keeps it.
        downgrade or ["# What was filled stays true: the trigger keeps it.", "op.sync_columns(**SYNC)"],
        expectations,
        type="data",
        transaction="none",
        budgets={"statement_timeout": "1h"},
        constants={"SYNC": _sync(change.sync)},
    )


def _contract(change: Change) -> Revision:
    table, old, [first, *_] = change.table, change.old, change.new
    upgrade = ["op.drop_sync(**SYNC)", alter(table, [f"DROP COLUMN {quoted(old.name)}"])]
    extra = [f"default={python(old.default)}"] if old.default else []
    extra += [f"comment={python(old.comment)}"] if old.comment else []
    downgrade = [
        call("op.ensure_column", python(table.name), python(old.name), python(old.type), *extra, *schema_of(table))
    ]
    if old.volatile and len(change.new) == 1 and change.sync.forward is None:
        name = f"ALTER TABLE {table.sql} ALTER COLUMN {quoted(first.name)}"
        upgrade.insert(0, sql(f"{name} SET DEFAULT {old.default}"))
        downgrade.append(sql(f"{name} DROP DEFAULT"))
    downgrade += [
        call(
            "op.ensure_constraint",
            python(table.name),
            python(one.name),
            python(_valid(one.definition)),
            *schema_of(table),
        )
        for one in change.constraints
    ]
    downgrade += [
        "# Until all rows are filled, those that are not take the old value from the new one.",
        'op.sync_columns(**SYNC, fill="old")',
        'op.fill_synced_columns(**SYNC, fill="old")',
    ]
    downgrade += [
        call("op.validate_constraint", python(one.name), python(table.name), *schema_of(table))
        for one in change.constraints
    ]
    downgrade += [create_index(table, index) for index, _ in change.indexes]
    if old.not_null:
        downgrade.append(f"op.set_not_null_concurrently({python(table.name)}, {python(old.name)}{schema_kw(table)})")
    downgrade.append("op.sync_columns(**SYNC)")
    return Revision(
        f"drop {words([old.name])} of {words([table.name])}",
        f"{change.says}: no release uses the old column any more, so it goes.",
        "contract",
        upgrade,
        downgrade,
        [
            f"expect.absent({expected('column', table, old.name)})",
            # What earlier revisions expect of it counts until a later one says that it is gone.
            *(f"expect.absent({expected('constraint', table, one.name)})" for one in change.constraints),
            *(f"expect.absent({expected('index', table, index.name, first=True)})" for index, _ in change.indexes),
            *(f"expect.absent({one})" for one in _synced(change)),
        ],
        [
            expected("column", table, old.name, type=old.shown, nullable=not old.not_null),
            *(expected("constraint", table, one.name) for one in change.constraints),
            *(expected("index", table, index.name, first=True) for index, _ in change.indexes),
            *_synced(change),
            _agreed(change),
        ],
        transaction="none",
        budgets={"statement_timeout": "1h"},
        constants={"SYNC": _sync(change.sync)},
    )


def create_index(table: Table, index: IndexShape) -> str:
    """``op.create_index_concurrently`` of such an index."""
    keys = [python(key) if key in table.columns else f"sa.text({python(key)})" for key in index.keys]
    more = ["unique=True"] if index.unique else []
    more += [f"postgresql_using={python(index.method)}"] if index.method != "btree" else []
    more += [f"postgresql_include={python(list(index.include))}"] if index.include else []
    more += [f"postgresql_where=sa.text({python(index.where)})"] if index.where else []
    more += ["postgresql_nulls_not_distinct=True"] if index.nulls_equal else []
    return call("op.create_index_concurrently", python(index.name), python(table.name), f"[{', '.join(keys)}]", *more,
                 *schema_of(table))  # fmt: skip


def _sync(sync: Sync) -> dict[str, object]:
    """The arguments of the operations, as the revision's constant: what is as it would be anyway is left out."""
    given = {one.name: getattr(sync, one.name) for one in fields(Sync)}
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in given.items()
        if value and not (name == "fill" and value == "new")
    }


def _synced(change: Change) -> list[str]:
    return [
        expected("trigger", change.table, change.sync.trigger),
        f"expect.function({python(change.sync.function + '()')}{schema_kw(change.table)})",
    ]


def _agreed(change: Change) -> str:
    """That each old value is what the new ones give back: nothing would be lost if the old column went."""
    row = "one"
    differs = " OR ".join(
        f"to_jsonb({row}.{quoted(name)}) IS DISTINCT FROM to_jsonb({made})"
        for name, made in change.sync.made("old", row)
    )
    if change.lossy:
        differs = change.sync.differs(row)
    if change.sync.backward is None:
        differs = " OR ".join(
            f"{quoted(old)} IS DISTINCT FROM {quoted(new)}"
            for old, new in zip(change.sync.old, change.sync.new, strict=True)
        )
        row = ""
    query = f"SELECT FROM {change.table.sql}{' AS one' if row else ''} WHERE {differs}"
    return f"expect.rows({python(query)}, count=0)"


def alter(table: Table, parts: Sequence[str]) -> str:
    """``op.execute`` of one ALTER TABLE."""
    if len(parts) == 1:
        return sql(f"ALTER TABLE {table.sql} {parts[0]}")
    lines = [f"    {part}{',' if number < len(parts) else ''}" for number, part in enumerate(parts, 1)]
    return sql(f"ALTER TABLE {table.sql}", *lines)


def _comment(table: Table, column: str, comment: str) -> str:
    from mcp_planner_schema.guard.postcheck import literal

    return sql(f"COMMENT ON COLUMN {table.sql}.{quoted(column)} IS {literal(comment)}")


def expected(kind: str, table: Table, name: str, *, first: bool = False, **more: Any) -> str:
    """An expectation about something of the table; ``first``: its own name stands first."""
    said = "".join(f", {key}={python(value)}" for key, value in more.items())
    parts = f"{python(name)}, table={python(table.name)}" if first else f"{python(table.name)}, {python(name)}"
    return f"expect.{kind}({parts}{said}{schema_kw(table)})"


def _not_valid(definition: str) -> str:
    return definition if definition.endswith(" NOT VALID") else f"{definition} NOT VALID"


def _valid(definition: str) -> str:
    return definition.removesuffix(" NOT VALID")


def call(name: str, *arguments: str) -> str:
    """A call of one line, or of an argument each."""
    one = f"{name}({', '.join(arguments)})"
    if len(one) + 4 <= 120:
        return one
    return f"{name}(\n" + "".join(f"        {argument},\n" for argument in arguments) + "    )"


def of(table: Table) -> str:
    """The table as arguments."""
    return python(table.name) + schema_kw(table)


def schema_kw(table: Table) -> str:
    """``, schema="…"`` where it is needed."""
    return schema_kw_of(table.schema)


def schema_kw_of(schema: str) -> str:
    """The same by the schema's name."""
    return f", schema={python(schema)}" if schema != "public" else ""


def schema_of(table: Table) -> list[str]:
    """The same as one more argument."""
    return [f"schema={python(table.schema)}"] if table.schema != "public" else []


def words(names: Sequence[str]) -> str:
    """Names as words of a title, from which the file's name is made."""
    import re

    words = [" ".join(re.findall("[a-z0-9]+", name.lower())) for name in names]
    return " and ".join(word or "x" for word in words)
