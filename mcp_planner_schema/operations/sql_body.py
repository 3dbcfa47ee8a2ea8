"""``op.run_sql``: a revision's body in SQL, ``026_add_x.up.sql`` or ``026_add_x.down.sql`` beside ``026_add_x.py``.

In the step's transaction each statement is sent by itself, so that whoever watches statements (locks, kept rows, a trial) sees
them as if ``op.execute`` had sent them. With ``Transaction: none`` see :mod:`.sql_alone`.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alembic.operations import MigrateOperation, Operations

from mcp_planner_schema.guard import header, journal, judge, source, sql_body, sql_body_calls
from mcp_planner_schema.guard.findings import Finding, Refused
from mcp_planner_schema.guard.postcheck import execute
from mcp_planner_schema.guard.sql_body import Place
from mcp_planner_schema.operations import sql_alone
from mcp_planner_schema.operations.written import rendered

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext

    from mcp_planner_schema.guard.sql_body import Statement


@rendered("run_sql")
@Operations.register_operation("run_sql")
@dataclass(frozen=True)
class RunSql(MigrateOperation):
    """Run a file of SQL that is the revision's body; see docs/plain-sql.md."""

    file: str

    @classmethod
    def run_sql(cls, operations: Operations, file: str) -> None:
        """Run what stands in ``file``, which lies beside the revision and is called after it."""
        operations.invoke(cls(file))

    def reverse(self) -> Any:
        """What undoes it is in a file of its own."""
        raise NotImplementedError(f"what undoes {self.file} is written by hand, in its .down.sql")


@dataclass(frozen=True)
class Body:
    """A file that is about to be run, read again; ``commits``: the revision says ``Transaction: none``."""

    path: Path
    statements: list[Statement]
    commits: bool


@Operations.implementation_for(RunSql)
def _run_sql(operations: Operations, operation: RunSql) -> None:
    context = operations.migration_context
    body = _body(context, operation.file)
    if context.as_sql:
        _write(context, body)
    elif body.commits:
        sql_alone.run(operations, body.path, body.statements)
    else:
        assert context.connection is not None
        for statement in body.statements:
            with sql_body.sending(Place(body.path, statement)):
                execute(context.connection, statement.text)


def _write(context: MigrationContext, body: Body) -> None:
    """As text, with the comments of the file."""
    for statement in body.statements:
        with (
            sql_body.sending(Place(body.path, statement)),
            context.autocommit_block() if body.commits else nullcontext(),
        ):
            context.impl.static_output("\n".join(filter(None, [statement.before, statement.text + ";"])))


def _body(context: MigrationContext, name: str) -> Body:
    """What was judged, read again: the file, and what the revision's header says. Runs nothing."""
    environment = context.environment_context
    if environment is None:
        raise NotImplementedError(f"run_sql({name!r}): only an env.py knows where its files lie")
    stem = name.rsplit(".", 2)[0]
    path = next((one for one in judge.files(environment.script) if one.name == f"{stem}.py"), None)
    read = source.read(path) if path else None
    if path is None or not isinstance(read, source.Source) or name not in sql_body_calls.names(read):
        values = {"problem": f"no {stem}.py has op.run_sql({name!r}) written out", "stem": stem}
        raise _refused(context, Finding("sql-body-literal", "alembic", stem.split("_")[0], values))
    transaction = header.parse(read, judge.today(), {})[0].transaction
    beside = path.with_name(name)
    try:
        return Body(beside, sql_body.statements(sql_body.content(beside), transaction), transaction == "none")
    except sql_body.Objection as one:
        values = {"problem": str(one), "instead": one.instead, "what": str(one)}
        raise _refused(context, source.finding(beside, one.line, one.code, **values)) from None


def _refused(context: MigrationContext, finding: Finding) -> Refused:
    step = journal.of(context)
    left = "nothing was changed" if step is None or not step.sent else "what the revision has finished stays"
    return Refused([finding], step.repeat if step else "correct the revision", left)
