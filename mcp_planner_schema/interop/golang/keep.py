"""golang-migrate's row kept in step with the revisions, in the transaction of each step: both tools can be used meanwhile.

``on_version_apply = mcp_planner_schema.interop.golang.keep:in_step`` in alembic.ini lets the guard call it; it does something in
a database that ``make migrate-adopt FROM=golang-migrate KEEP=1`` has said so of.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard import plan, settings
from mcp_planner_schema.guard.findings import Broken, WrongUse
from mcp_planner_schema.guard.postcheck import literal
from mcp_planner_schema.interop import table as tables
from mcp_planner_schema.interop.golang import row as rows
from mcp_planner_schema.interop.golang import versions
from mcp_planner_schema.interop.golang.row import Row

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext
    from sqlalchemy import Connection

NAME = "mcp_planner_schema.interop.golang.keep:in_step"
"""What stands in alembic.ini."""

_FOUND = "mcp_planner_schema.interop.golang.kept"
"""Where ``connection.info`` has what was found before a step."""
_AGAIN = "make migrate-adopt FROM=golang-migrate KEEP=1"


def kept(connection: Connection, schema: str, version_table: str) -> str | None:
    """The table that is kept in step in this database; None where none is."""
    there = connection.exec_driver_sql(
        f"SELECT pg_catalog.to_regclass({literal(schema + '.adopted')}) IS NOT NULL"
    ).scalar_one()
    if not there:
        return None
    found: str | None = connection.exec_driver_sql(
        f"SELECT relation FROM {schema}.adopted WHERE version_table = %s AND tool = 'golang-migrate' AND keep",
        (version_table,),
    ).scalar()
    return found


@dataclass(frozen=True)
class _Kept:
    """The ``table`` that is kept, the numbers of golang-migrate's ``locks``, and the ``versions`` of the revisions.

    ``found`` is what the row said before the step; None where it is set whatever it says, as a stamp does.
    """

    table: str
    locks: tuple[int, ...]
    versions: dict[str, int]
    found: Row | None = None


class _InStep:
    """What Alembic calls after each step, in its transaction, and the guard before it."""

    def before(self, ctx: MigrationContext, beside: Connection, step: Any) -> None:
        """Raise where golang-migrate is at work, or its row is not where the step begins: then nothing of it is done.

        What it finds is remembered for the step, which is not to read files and catalogs while it holds its locks.
        """
        assert ctx.connection is not None
        kept_here = ctx.connection.info[_FOUND] = _kept_here(ctx, beside)
        if kept_here is None or step.info.is_stamp:
            return
        table, there = kept_here.table, kept_here.versions
        rows.refuse_at_work(beside, kept_here.locks, "the same command")
        assert ctx.config is not None, "the guard runs with one"
        tables.refuse_foreign(beside, settings.load(ctx.config).schema, table, "the same command")
        found, at = rows.read(beside, table), step.from_revisions_no_deps
        if found.dirty or found.version != _version(at, there):
            raise Broken(
                f"golang-migrate's row in {table} says {found}, and this step begins at {', '.join(at) or 'base'} (version "
                f"{_version(at, there)}): somebody has migrated with golang-migrate meanwhile, or it has failed half-way. "
                "Nothing was changed.",
                _AGAIN,
            )
        ctx.connection.info[_FOUND] = replace(kept_here, found=found)

    def __call__(self, ctx: MigrationContext, step: Any, heads: Collection[str], run_args: Any) -> None:
        """Write the row. What this raises undoes the step."""
        assert ctx.connection is not None
        found = ctx.connection.info
        if kept_here := found.get(_FOUND) if _FOUND in found else _kept_here(ctx, ctx.connection):
            rows.alone(ctx.connection, kept_here.locks, "the same command")
            version = _version(tuple(heads), kept_here.versions)
            if kept_here.found is None:
                rows.set_to(ctx.connection, kept_here.table, version)
            else:
                rows.move(ctx.connection, kept_here.table, kept_here.found.version, version, "the same command")


in_step = _InStep()


def _kept_here(ctx: MigrationContext, connection: Connection) -> _Kept | None:
    """What is kept in this database; None where nothing is."""
    assert ctx.config is not None, "the guard runs with one"
    table = kept(connection, settings.load(ctx.config).schema, plan.version_table(ctx))
    if table is None:
        return None
    numbers = {place.revision: place.version for place in versions.places(ctx.opts["script"])}
    return _Kept(table, rows.locks(connection, table), numbers)


def _version(heads: Collection[str], there: dict[str, int]) -> int | None:
    known = [there[one] for one in heads if one in there]
    if len(known) != len(heads) or len(known) > 1:
        raise WrongUse(f"golang-migrate has no version for {', '.join(heads)}.", _AGAIN)
    return known[0] if known else None
