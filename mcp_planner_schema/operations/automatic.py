"""What autogenerate writes for tables that are in use: operations nobody waits behind, and comments where only people know.

Models and database show what differs, and not what was meant: a column that is gone and one that is new may be one that was
renamed. What would destroy rows or values is written as a comment, with the command that does it without loss.
"""

from __future__ import annotations

import copy
import shlex
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from alembic.operations import ops
from alembic.util import rev_id

from mcp_planner_schema.guard import committing, scope
from mcp_planner_schema.operations import columns, constraint_ops, index_ops, not_null_ops
from mcp_planner_schema.operations.constraints import ForeignKey
from mcp_planner_schema.operations.undecided import Nothing, Undecided, names_in

if TYPE_CHECKING:
    from alembic.operations.ops import MigrateOperation
    from alembic.runtime.migration import MigrationContext
    from sqlalchemy import Column

Place = tuple[str | None, str]
"""A table: schema and name."""

# What PostgreSQL keeps as one value beside the table.
_FIXED = ("now()", "current_timestamp", "current_date", "transaction_timestamp()", "statement_timestamp()")


def revise(migration: MigrationContext, revision: Any, directives: list[Any]) -> None:
    """Alembic's ``process_revision_directives``: operations in the place of what blocks, comments in that of what destroys.

    What commits by itself gets a revision of its own, after what is one transaction: in one revision, half of it could stay,
    and a downgrade that commits in the middle and destroys something is refused.
    """
    script, arguments = directives[0], migration.opts.get("template_args")
    if migration.config is not None and scope.is_check(migration.config, script):
        return  # its author is to see what differs
    if len(directives) > 1 or len(script.upgrade_ops_list) > 1 or script.upgrade_ops.is_empty():
        return
    groups = _groups(migration, list(_flat(script.upgrade_ops.ops)))
    if arguments is not None:
        arguments["notes"] = [one.says[0] for group in groups for one in group if isinstance(one, Undecided)]
    for number, group in enumerate(groups, 1):
        if number > 1:
            tokens = script.upgrade_ops.upgrade_token, script.downgrade_ops.downgrade_token
            script = ops.MigrationScript(
                rev_id(), ops.UpgradeOps([], upgrade_token=tokens[0]), ops.DowngradeOps([], downgrade_token=tokens[1]),
                message=f"{directives[0].message} part {number}", head=script.rev_id,
            )  # fmt: skip
            directives.append(script)
        script.upgrade_ops.ops[:] = group
        script.upgrade_ops.reverse_into(script.downgrade_ops)


def _flat(found: Iterable[MigrateOperation]) -> Iterator[MigrateOperation]:
    for one in found:
        if isinstance(one, ops.OpContainer):
            yield from _flat(one.ops)
        else:
            yield one


def _groups(migration: MigrationContext, found: list[MigrateOperation]) -> list[list[MigrateOperation]]:
    """What belongs into one revision each: one transaction; new columns that are filled; whatever else commits by itself."""
    made = {_place(one) for one in found if isinstance(one, ops.CreateTableOp)}
    found, asked = _tables(migration, found)
    for place in dict.fromkeys(map(_place, found)):
        if place not in made:
            found, more = _columns(migration, found, place)
            asked += more
    groups: list[list[MigrateOperation]] = [[], [], []]
    for one in found:
        for part in [one] if _place(one) in made else _online(migration, one):
            filled = isinstance(one, ops.AddColumnOp) and part is not one
            groups[1 if filled else 2 if committing.commits(part) else 0].append(part)
    groups = [group for group in groups if group] or [[Nothing()]]
    groups[0] += asked
    return groups


def _place(operation: Any) -> Place:
    if isinstance(operation, ops.CreateForeignKeyOp):
        return operation.kw.get("source_schema"), operation.source_table
    return getattr(operation, "schema", None), str(getattr(operation, "table_name", ""))


def _shown(place: Place) -> str:
    return f"{place[0]}.{place[1]}" if place[0] else place[1]


def _command(kind: str, **values: str) -> str:
    return f"make migrate-create KIND={kind} " + " ".join(f"{key}={shlex.quote(one)}" for key, one in values.items())


# --- what only people know --------------------------------------------------------------------------------------------


def _tables(
    migration: MigrationContext, found: list[MigrateOperation]
) -> tuple[list[MigrateOperation], list[MigrateOperation]]:
    """What is left when tables that go, and those that they may have become, are taken out with all that is theirs."""
    asked: list[MigrateOperation] = []
    for gone in [one for one in found if isinstance(one, ops.DropTableOp)]:
        place, before = _place(gone), gone._reverse
        alike = [
            _place(one)
            for one in found
            if isinstance(one, ops.CreateTableOp)
            and before is not None
            and one.schema == gone.schema
            and _shape(migration, one.columns) == _shape(migration, before.columns)
        ]
        says = list[str]()
        for other in alike:
            says += [
                f"{_shown(place)} goes, and {_shown(other)} comes with the same columns: this looks like a rename. If it is one:",
                _command("rename_table", TABLE=_shown(place), TO=other[1]),
            ]
        says += [
            f"{_shown(place)} goes with its rows; in two revisions, with a way back from the first:",
            _command("drop_table", TABLE=_shown(place)),
        ]
        theirs = [one for one in found if _place(one) in (place, *alike)]
        found = [one for one in found if one not in theirs]
        asked.append(Undecided(tuple(says), tuple(theirs)))
    return found, asked


def _columns(
    migration: MigrationContext, found: list[MigrateOperation], place: Place
) -> tuple[list[MigrateOperation], list[MigrateOperation]]:
    """The same for the columns of one table."""
    own = [one for one in found if _place(one) == place]
    gone = [one for one in own if isinstance(one, ops.DropColumnOp)]
    retyped = {
        one.column_name: one.modify_type
        for one in own
        if isinstance(one, ops.AlterColumnOp) and one.modify_type is not None
    }
    if not gone and not retyped:
        return found, []
    says, held = list[str](), {one.column_name for one in gone} | retyped.keys()
    for name, type_ in retyped.items():
        to = type_.compile(dialect=migration.dialect)
        says += [
            f"{_shown(place)}.{name} changes its type, which may write every row anew under a lock that stops everybody. "
            "By way of a second column, or without TO= where no row is written for it:",
            _command("change_type", TABLE=_shown(place), FROM=name, TO=f"{name}_new", TO_TYPE=to),
        ]
    for one in gone:
        alike = [
            str(other.column.name)
            for other in own
            if isinstance(other, ops.AddColumnOp)
            and _type(migration, other.column) == _type(migration, one.to_column())
        ]
        for name in alike:
            says += [
                f"{_shown(place)}.{one.column_name} goes, and {name} comes with the same type: this looks like a rename. "
                "If it is one:",
                _command("rename_column", TABLE=_shown(place), FROM=one.column_name, TO=name),
            ]
        held |= set(alike)
        says += [
            f"{_shown(place)}.{one.column_name} goes with its values; in two revisions, with a way back from the first:",
            _command("drop_column", TABLE=_shown(place), FROM=one.column_name),
        ]
    theirs = [one for one in own if not held.isdisjoint(_columns_of(migration, one))]
    return [one for one in found if one not in theirs], [Undecided(tuple(says), tuple(theirs))]


def _columns_of(migration: MigrationContext, operation: Any) -> set[str]:
    """The columns an operation is about, as far as it names them."""
    if isinstance(operation, ops.AddColumnOp):
        return {str(operation.column.name)}
    if isinstance(operation, (ops.DropColumnOp, ops.AlterColumnOp)):
        return {operation.column_name}
    if isinstance(operation, (ops.DropIndexOp, ops.DropConstraintOp)) and operation._reverse is not None:
        operation = operation.reverse()
    return names_in(migration, operation)


def _shape(migration: MigrationContext, parts: Sequence[Any]) -> list[tuple[str, str]]:
    return [(str(one.name), _type(migration, one)) for one in parts if one.__visit_name__ == "column"]


def _type(migration: MigrationContext, column: Column[Any]) -> str:
    return column.type.compile(dialect=migration.dialect)


# --- what nobody is to wait for ---------------------------------------------------------------------------------------


def _online(migration: MigrationContext, operation: Any) -> list[MigrateOperation]:
    """The operations that do the same to a table in use."""
    if isinstance(operation, ops.CreateIndexOp):
        return [index_ops.CreateIndexConcurrentlyOp.from_index(operation.to_index())]
    if isinstance(operation, ops.DropIndexOp):
        return [index_ops.DropIndexConcurrentlyOp.from_index(operation.to_index())]
    if isinstance(operation, ops.AlterColumnOp) and operation.modify_nullable is not None:
        return list(_nullable(operation))
    if isinstance(operation, ops.AddColumnOp) and _drawn(operation.column):
        return _with_default(migration, operation)
    if isinstance(operation, ops.DropConstraintOp) and operation.constraint_name:
        undo = _constraint(operation.reverse()) if operation._reverse is not None else None
        return [constraint_ops.DropConstraintConcurrentlyOp(
            str(operation.constraint_name), operation.table_name, operation.schema, undo)]  # fmt: skip
    return [_constraint(operation)]


def _constraint(operation: Any) -> MigrateOperation:
    if not getattr(operation, "constraint_name", None):
        return operation  # type: ignore[no-any-return]  # as it came
    name, place = str(operation.constraint_name), _place(operation)
    if isinstance(operation, ops.CreateForeignKeyOp):
        taken = ("onupdate", "ondelete", "deferrable", "initially", "match", "referent_schema")
        kw = operation.kw
        key = ForeignKey(
            tuple(operation.local_cols), operation.referent_table, tuple(operation.remote_cols),
            **{name: kw.get(name) for name in taken},
        )  # fmt: skip
        return constraint_ops.AddForeignKeyConcurrentlyOp(name, place[1], key, place[0])
    if isinstance(operation, ops.CreateUniqueConstraintOp):
        kw = operation.kw
        return constraint_ops.AddUniqueConcurrentlyOp(
            name, place[1], tuple(map(str, operation.columns)), place[0], kw.get("deferrable"), kw.get("initially"),
            tuple(kw.get("postgresql_include") or ()), bool(kw.get("postgresql_nulls_not_distinct")),
        )  # fmt: skip
    if isinstance(operation, ops.CreateCheckConstraintOp):
        return constraint_ops.AddCheckConcurrentlyOp(name, place[1], str(operation.condition), place[0])
    return operation  # type: ignore[no-any-return]  # as it came


def _nullable(operation: ops.AlterColumnOp) -> Iterator[MigrateOperation]:
    """NULL or not apart from the rest of the change: a new default comes before rows are looked at."""
    rest = copy.copy(operation)
    rest.modify_nullable = None
    if rest.has_changes():
        yield rest
    kind = not_null_ops.DropNotNullOp if operation.modify_nullable else not_null_ops.SetNotNullConcurrentlyOp
    yield kind(operation.table_name, operation.column_name, operation.schema)


def _default(column: Column[Any]) -> str | None:
    """A column's default as SQL, where it is one."""
    from sqlalchemy import DefaultClause, TextClause

    from mcp_planner_schema.guard.postcheck import literal

    given = column.server_default
    if not isinstance(given, DefaultClause):
        return None
    return (
        literal(given.arg)
        if isinstance(given.arg, str)
        else str(given.arg)
        if isinstance(given.arg, TextClause)
        else None
    )


def _drawn(column: Column[Any]) -> bool:
    """Whether rows may each get a default of their own; op.add_column_with_default finds out whether they do."""
    default = _default(column)
    return default is not None and "(" in default and default[0] != "'" and default.lower() not in _FIXED


def _with_default(migration: MigrationContext, operation: ops.AddColumnOp) -> list[MigrateOperation]:
    column, schema, name = operation.column, operation.schema, str(operation.column.name)
    made = columns.AddColumnWithDefault(
        operation.table_name, name, _type(migration, column), str(_default(column)), bool(column.nullable), schema
    )
    if not column.comment:
        return [made]
    return [made, ops.AlterColumnOp(operation.table_name, name, schema=schema, modify_comment=column.comment)]
