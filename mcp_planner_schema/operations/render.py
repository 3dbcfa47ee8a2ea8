"""How autogenerate writes the operations into a new revision."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from alembic.autogenerate.render import renderers
from alembic.operations import ops

from mcp_planner_schema.operations import constraint_ops, index_ops, maintenance_ops, not_null_ops, partition_ops

if TYPE_CHECKING:
    from alembic.autogenerate.api import AutogenContext

# Fields that stand in the call without their name.
_POSITIONAL: dict[type[ops.MigrateOperation], tuple[str, tuple[str, ...]]] = {
    constraint_ops.AddCheckConcurrentlyOp: ("add_check_concurrently", ("constraint_name", "table_name", "condition")),
    constraint_ops.AddUniqueConcurrentlyOp: ("add_unique_concurrently", ("constraint_name", "table_name", "columns")),
    constraint_ops.AddPrimaryKeyConcurrentlyOp: (
        "add_primary_key_concurrently",
        ("constraint_name", "table_name", "columns"),
    ),
    constraint_ops.DropConstraintConcurrentlyOp: ("drop_constraint_concurrently", ("constraint_name", "table_name")),
    constraint_ops.ValidateConstraintOp: ("validate_constraint", ("constraint_name", "table_name")),
    constraint_ops.InvalidateConstraintOp: ("invalidate_constraint", ("constraint_name", "table_name")),
    not_null_ops.SetNotNullConcurrentlyOp: ("set_not_null_concurrently", ("table_name", "column_name")),
    not_null_ops.DropNotNullOp: ("drop_not_null", ("table_name", "column_name")),
    partition_ops.AttachPartitionOp: ("attach_partition", ("table_name", "partition_name", "bound")),
    partition_ops.DetachPartitionOp: ("detach_partition", ("table_name", "partition_name")),
    maintenance_ops.ReindexConcurrentlyOp: ("reindex_concurrently", ("table_name", "index_name")),
    maintenance_ops.AnalyzeOp: ("analyze", ("table_name", "columns")),
}
_KEPT_FOR_REVERSE = {"undo", "bound"}


@renderers.dispatch_for(index_ops.CreateIndexConcurrentlyOp)
@renderers.dispatch_for(index_ops.ReplaceIndexConcurrentlyOp)
def _index(context: AutogenContext, operation: ops.CreateIndexOp) -> str:
    plain: Any = ops.CreateIndexOp.from_index(operation.to_index())
    name = "replace" if isinstance(operation, index_ops.ReplaceIndexConcurrentlyOp) else "create"
    return _as(str(renderers.dispatch(plain)(context, plain)), "create_index(", f"{name}_index_concurrently(")


@renderers.dispatch_for(index_ops.DropIndexConcurrentlyOp)
def _drop_index(context: AutogenContext, operation: ops.DropIndexOp) -> str:
    plain: Any = ops.DropIndexOp.from_index(operation.to_index())
    return _as(str(renderers.dispatch(plain)(context, plain)), "drop_index(", "drop_index_concurrently(")


@renderers.dispatch_for(constraint_ops.AddForeignKeyConcurrentlyOp)
def _foreign_key(context: AutogenContext, operation: constraint_ops.AddForeignKeyConcurrentlyOp) -> str:
    key = operation.key
    first = [operation.constraint_name, operation.source_table, key.referent, list(key.columns), list(key.referred)]
    named = {
        "onupdate": key.onupdate, "ondelete": key.ondelete, "deferrable": key.deferrable, "initially": key.initially,
        "match": key.match, "source_schema": operation.source_schema, "referent_schema": key.referent_schema,
    }  # fmt: skip
    return _call(context, "add_foreign_key_concurrently", first, named)


def _plain(context: AutogenContext, operation: Any) -> str:
    name, first = _POSITIONAL[type(operation)]
    given = {
        field.name: getattr(operation, field.name)
        for field in dataclasses.fields(operation)
        if field.name not in first and field.name not in _KEPT_FOR_REVERSE
    }
    return _call(context, name, [getattr(operation, one) for one in first], given)


for _class in _POSITIONAL:
    renderers.dispatch_for(_class)(_plain)


def _call(context: AutogenContext, name: str, first: list[Any], named: dict[str, Any]) -> str:
    """The call in Python; what is not given is not written."""
    while first and first[-1] in (None, ()):
        first = first[:-1]
    arguments = [_literal(one) for one in first]
    arguments += [f"{key}={_literal(one)}" for key, one in named.items() if one not in (None, (), False)]
    return f"{context.opts['alembic_module_prefix'] or ''}{name}({', '.join(arguments)})"


def _literal(value: Any) -> str:
    return repr(list(value) if isinstance(value, tuple) else str(value) if isinstance(value, str) else value)


def _as(text: str, plain: str, name: str) -> str:
    return text.replace(plain, name, 1)
