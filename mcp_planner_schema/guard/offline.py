"""``--sql``: the same steps as text for psql. One ``run_migrations`` over a wrapped generator, or not a line at all.

Written for each revision: header as comments, BEGIN, budgets, body, post-check, version row, COMMIT.
"""

from __future__ import annotations

import functools
import io
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard import body, budget, graph, judge, postcheck
from mcp_planner_schema.guard.findings import Finding, GuardError, Refused, WrongUse, refuse
from mcp_planner_schema.guard.settings import Settings
from mcp_planner_schema.guard.step import direction_of, name_of, script_of

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext
    from sqlalchemy import MetaData

    from mcp_planner_schema.guard.step import Step

_NOTE = """\
-- Written by the migration guard. Run it with: psql -X -v ON_ERROR_STOP=1 -f <this file>
-- It changes the schema and the version, and writes nothing into the schema {schema}: no history, and a
-- rollback in here keeps nothing of what it destroys. Run online, the guard does both.
"""


def write(context: Any, settings: Settings, target_metadata: MetaData | None, options: dict[str, Any]) -> None:
    """Write the SQL to Alembic's output, all of it or, when a revision cannot be said in SQL, none.

    Needs no database. Raises :class:`Refused` for findings against the revisions, the same as online.
    """
    from mcp_planner_schema.guard.runner import repeat_of

    output = context.config.output_buffer or sys.stdout
    buffer = io.StringIO()
    arguments = {
        "dialect_name": "postgresql",
        "target_metadata": target_metadata,
        "transaction_per_migration": True,
        "literal_binds": True,
        **options,
        "output_buffer": buffer,
    }
    context.configure(**arguments)
    work = context.get_context().opts["fn"]

    def guarded(heads: tuple[str, ...], migration: MigrationContext) -> Iterator[Step]:
        steps = _steps(context, settings, migration, work, heads)
        judged = {}
        if steps and not steps[0].info.is_stamp:
            paths = [script_of(step).path for step in steps]
            judged = dict(zip(map(name_of, steps), judge.judge_pending(context.script, paths, settings), strict=True))
            findings = [finding for one in judged.values() for finding in one.findings]
            if direction_of(steps[0]) == "downgrade":
                findings += [
                    Finding("forward-only", f"{one.source.shown}:1", revision,
                            {"revision": revision, "reason": one.header.reason, "above": revision})
                    for revision, one in judged.items()
                    if one.source and one.header and one.header.reversible == "forward-only"
                ]  # fmt: skip
            refuse(findings, "make migrate-validate")
        for step in steps:
            yield _said(settings, migration, step, judged.get(name_of(step)), buffer, repeat_of(context))

    buffer.write(_NOTE.format(schema=settings.schema) + "\n")
    context.configure(**arguments, fn=guarded)
    with context.begin_transaction():
        context.run_migrations()
    output.write(buffer.getvalue())
    output.flush()


def _steps(
    context: Any, settings: Settings, migration: MigrationContext, work: Any, heads: tuple[str, ...]
) -> list[Step]:
    from alembic.util import CommandError

    graph.explain(context.script, settings, ())
    try:
        return list(work(heads, migration))
    except CommandError as error:
        raise WrongUse(str(error).rstrip(".") + ".", "alembic history   (lists the revisions there are)") from error


def _said(
    settings: Settings,
    migration: MigrationContext,
    step: Step,
    judged: judge.Judged | None,
    buffer: io.StringIO,
    command: str,
) -> Step:
    upgrade, name = step.is_upgrade, name_of(step)
    if step.info.is_stamp:
        return step
    header = judged.header if judged else None
    if not upgrade:
        buffer.write(f"-- Rollback for: {name}{' ' + header.title if header else ''}\n")
    buffer.write(
        "".join(f"-- {line}\n" for line in header.lines) if header else f"-- Revision: {name} {step.doc or ''}\n"
    )
    original = step.migration_fn

    @functools.wraps(original)
    def said(**arguments: Any) -> None:
        own = body.budgets(judged.source) if judged and judged.source else {}
        for statement in budget.statements(budget.of_revision(settings.budgets, own)):
            migration.impl.static_output(statement + ";")
        try:
            original(**arguments)
        except GuardError:
            raise
        except Exception as error:
            where = judged.source.shown if judged and judged.source else name
            problem = f"{type(error).__name__}: {error}"
            values = {
                "revision": name,
                "problem": problem,
                "command": command.replace("alembic ", "").replace(" --sql", ""),
            }
            raise Refused(
                [Finding("offline-impossible", f"{where}:1", name, values)], command.replace(" --sql", "")
            ) from error
        wanted = postcheck.expectations(script_of(step).module, upgrade=upgrade)
        if wanted:
            migration.impl.static_output(postcheck.compile_block(name, wanted, upgrade=upgrade) + ";")

    step.migration_fn = said
    return step
