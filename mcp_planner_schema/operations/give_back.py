"""What a backfill has overwritten goes back by batches: ``op.give_back_backfill``, for the downgrade of its revision."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from alembic.operations import MigrateOperation, Operations

from mcp_planner_schema.backfill import together, work
from mcp_planner_schema.backfill.spec import Backfill
from mcp_planner_schema.guard import brief, evidence, intact, journal, kept_rows, trial
from mcp_planner_schema.operations import backfill, online
from mcp_planner_schema.operations.written import rendered

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext
    from sqlalchemy import Connection

    from mcp_planner_schema.guard.journal import Step
    from mcp_planner_schema.guard.manifest import Stash


@rendered("give_back_backfill")
@Operations.register_operation("give_back_backfill")
@dataclass(frozen=True)
class GiveBackBackfill(MigrateOperation):
    """Give old values back where a row still has what ``op.backfill`` has put there. For the downgrade of its revision, which
    says ``Transaction: none`` and ``Reversible: stash``.

    Rows that were changed since keep the newer value, and are counted. What does not go back stays in the stash.
    """

    table: str
    columns: Sequence[str]
    name: str = ""
    schema: str | None = None
    batch: int = 50_000

    @classmethod
    def give_back_backfill(
        cls, operations: Operations, table: str, columns: Sequence[str], *, name: str = "", schema: str | None = None,
        batch: int = 50_000,
    ) -> None:  # fmt: skip
        """``columns`` are those that the backfill has set, ``name`` is its name where it has one of its own."""
        operations.invoke(cls(table, tuple(columns), name, schema, batch))

    def reverse(self) -> Any:
        """The backfill itself, which only its author can write."""
        raise NotImplementedError("what was filled in is not in what gives it back")


@Operations.implementation_for(GiveBackBackfill)
def _give_back(operations: Operations, operation: GiveBackBackfill) -> None:
    context = operations.migration_context
    if context.as_sql:
        online.unwritable(f"give_back_backfill({operation.table!r}): what was kept is known to the database only")
    table = online.table(context, operation.table, operation.schema)
    name = operation.name or f"{operation.table}.{'_'.join(operation.columns)}"
    step, found = journal.of(context), None
    with context.autocommit_block(), journal.own(context.connection):
        assert context.connection is not None
        driver: Any = context.connection.connection.dbapi_connection
        if not driver.autocommit:  # the trial: what it will write was written by the backfill, and is no loss
            context.connection.info[trial.LEFT_OUT] = True
            return
        found = _found(context, step, name)
    if found is None or step is None:
        return
    settings, where = found[0].given_back()
    backfill.fill_rows(context, table, Backfill(name, settings, where, most=operation.batch))
    with context.autocommit_block(), journal.own(context.connection), _reading(context.connection):
        policy = context.connection.info.get(brief.POLICY)
        who = policy.keeping.who if policy and policy.keeping else ""
        back, newer, gone = kept_rows.given(context.connection, step, name, *found, who)
    others = [f"{newer:,} were changed since and keep the newer ones"] * bool(newer) + [f"{gone:,} are gone"] * bool(
        gone
    )
    online.say(context, "; ".join([f"{name}: {back:,} rows have their old values again", *others]))


def _found(context: MigrationContext, step: Step | None, name: str) -> tuple[kept_rows.Kept, evidence.Table] | None:
    """What is kept, proven to be what the manifest says, and the table it is of; says why where there is nothing."""
    connection = context.connection
    assert connection is not None
    stash: Stash | None = kept_rows.of(connection, step, name) if step else None
    if stash is None:
        online.say(context, f"warning: {name}: nothing was kept when it was filled, and nothing goes back")
        return None
    if stash.state == "purged":
        online.say(context, f"warning: {name}: what stash {stash.id} kept was purged, and nothing goes back")
        return None
    with _reading(connection):
        intact.check(connection, stash)
        return kept_rows.again(connection, stash)


@contextmanager
def _reading(connection: Connection) -> Iterator[None]:
    """While inside, it is one transaction, which may read the whole of what was kept."""
    with work.unlimited(connection), together.transaction(connection):
        yield
