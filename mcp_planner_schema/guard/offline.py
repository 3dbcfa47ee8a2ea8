"""``--sql``: the same steps as text for psql. One ``run_migrations`` over a wrapped generator, or not a line at all.

Written for each revision: header as comments, BEGIN, budgets, body, post-check, version row, COMMIT.
"""

from __future__ import annotations

import functools
import io
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard import body, budget, judge, plan, postcheck
from mcp_planner_schema.guard.environments import ENVIRONMENTS
from mcp_planner_schema.guard.findings import Finding, GuardError, Refused
from mcp_planner_schema.guard.progress import name_of, script_of
from mcp_planner_schema.guard.settings import Settings

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext
    from sqlalchemy import MetaData

    from mcp_planner_schema.guard.progress import Step

_NOTE = """\
\\set ON_ERROR_STOP on
-- Written by the migration guard. Run it with: psql -X -v ON_ERROR_STOP=1 -f <this file>
-- It changes the schema and the version, and writes nothing into the schema {schema}: no history, and a
-- rollback in here keeps nothing of what it destroys. Run online, the guard does both.
-- For the environment {environment} (PLANNER_ENV says which).

"""
# The marker is asked as online: a dump of another database brings it along.
_MARKED = """
DECLARE
  marked pg_catalog.text;
BEGIN
  IF EXISTS (
    SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
    WHERE n.nspname OPERATOR(pg_catalog.=) '{schema}' AND c.relname OPERATOR(pg_catalog.=) 'environment'
      AND c.relkind OPERATOR(pg_catalog.=) 'r' AND NOT c.relhasrules AND NOT c.relrowsecurity
      AND pg_catalog.has_schema_privilege(n.oid, 'USAGE') AND pg_catalog.has_table_privilege(c.oid, 'SELECT')
  ) THEN
    SELECT name INTO marked FROM {schema}.environment ORDER BY number DESC LIMIT 1;
    IF marked OPERATOR(pg_catalog.<>) '{environment}' THEN
      RAISE EXCEPTION 'this was written for {environment}, and the database says that it is %', marked;
    END IF;
  END IF;
END
"""
_CAME = """
DECLARE
  came pg_catalog.text;
BEGIN
  IF pg_catalog.to_regclass('{schema}.history') IS NOT NULL THEN
    SELECT h.outcome INTO came FROM {schema}.history h
    WHERE h.revision OPERATOR(pg_catalog.=) {name} AND h.direction OPERATOR(pg_catalog.=) 'upgrade'
      AND h.outcome OPERATOR(pg_catalog.<>) 'failed'
    ORDER BY h.id DESC LIMIT 1;
    IF came OPERATOR(pg_catalog.=) '{outcome}' THEN
      RAISE EXCEPTION USING MESSAGE = {message};
    END IF;
  END IF;
END
"""
TAB = "\ue009"  # private use; stands for a tab until Alembic, which would make four spaces of it, has passed it on


class _Unanswered(Exception):
    """The revision asked the database something, and here is none."""


class _Answer:
    """What ``execute()`` gives offline: to be ignored. Looking at it raises."""

    def _look(self, *_: Any) -> Any:
        raise _Unanswered("it looks at the answer of a query")

    __getattr__ = __getitem__ = __iter__ = __len__ = __bool__ = _look


def write(context: Any, settings: Settings, target_metadata: MetaData | None, options: dict[str, Any]) -> None:
    """Write the SQL to Alembic's output, all of it or, when a revision cannot be said in SQL, none.

    A list in ``config.attributes["sql_begins"]`` gets each revision with the character at which its SQL begins.
    Needs no database. Raises :class:`Refused` for findings against the revisions, the same as online.
    """
    output = context.config.output_buffer or sys.stdout
    buffer = io.StringIO()
    arguments = {
        "dialect_name": "postgresql",
        "target_metadata": target_metadata,
        "transaction_per_migration": True,
        "literal_binds": True,
        **options,
        # The drivers' own style would double every percent sign.
        "dialect_opts": {"paramstyle": "named", **options.get("dialect_opts", {})},
        "output_buffer": buffer,
    }
    context.configure(**arguments)
    work = context.get_context().opts["fn"]
    begins: list[tuple[str, int]] = context.config.attributes.get("sql_begins", [])

    def guarded(heads: tuple[str, ...], migration: MigrationContext) -> Iterator[Step]:
        prepare(migration)
        steps = _steps(context, settings, migration, work, heads)
        judged = plan.judge_steps(context, settings, steps)
        for step in steps:
            begins.append((name_of(step), buffer.tell()))
            yield _said(settings, migration, step, judged.get(name_of(step)), buffer, plan.repeat_of(context))

    buffer.write(_NOTE.format(schema=settings.schema, environment=settings.environment))
    asked = _MARKED.format(schema=settings.schema, environment=settings.environment)
    buffer.write(f"{postcheck.do_block(asked)};\n\n")
    context.configure(**arguments, fn=guarded)
    with redirect_stdout(sys.stderr), context.begin_transaction():  # what a revision prints is no SQL
        context.run_migrations()
    output.write(buffer.getvalue().replace(TAB, "\t"))
    output.flush()


def prepare(migration: MigrationContext) -> None:
    """Make Alembic's stand-in for a connection refuse questions, and its text the same as what is sent online."""
    from sqlalchemy.schema import CreateTable

    connection, dialect = migration.connection, migration.dialect
    assert connection is not None
    inherited = connection.execute

    def execute(statement: Any, parameters: Any = None, execution_options: Any = None) -> _Answer:
        if parameters:
            raise _Unanswered("it passes parameters beside the statement; text(…).bindparams(…) can be written down")
        if isinstance(statement, CreateTable) and statement.element.name == migration.version_table:
            # It stays, empty, after a downgrade to base.
            statement = CreateTable(statement.element, if_not_exists=True)
        inherited(statement)
        return _Answer()

    connection.execute = execute  # type: ignore[method-assign, assignment]
    dialect.insert_returning = False  # nobody reads what psql would print for the version row
    dialect.statement_compiler = _keeping_tabs(dialect.statement_compiler)
    dialect.ddl_compiler = _keeping_tabs(dialect.ddl_compiler)


def _keeping_tabs(compiler: Any) -> Any:
    def text(self: Any) -> str:
        return str(compiler.__str__(self)).replace("\t", TAB)

    return type(compiler.__name__, (compiler,), {"__str__": text})


def _steps(
    context: Any, settings: Settings, migration: MigrationContext, work: Any, heads: tuple[str, ...]
) -> list[Step]:
    steps = plan.steps(context, settings, migration, work, heads)
    for step in steps:
        if not name_of(step).isprintable():  # Alembic writes it into a comment
            values = {"revision": repr(name_of(step)), "problem": "its id is no plain text", "command": "upgrade"}
            raise Refused([Finding("offline-impossible", repr(name_of(step)), "", values)], plan.repeat_of(context))
    return steps


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
        buffer.write(_comment(f"Rollback for: {name}{' ' + header.title if header else ''}"))
    buffer.write("".join(map(_comment, header.lines if header else [f"Revision: {name} {step.doc or ''}"])))
    own = body.budgets(judged.source) if judged and judged.source else {}
    budgets = budget.of_revision(settings.budgets, own)
    original, write = step.migration_fn, migration.impl.static_output

    def limit() -> None:
        for statement in budget.statements(budgets):
            write(statement + ";")

    @functools.wraps(original)
    def said(**arguments: Any) -> None:
        limit()
        if begins := _begins_at(migration, step):
            write(begins)
        if header and header.environments != ENVIRONMENTS and not upgrade:
            write(_as_it_came(settings, name, judged) + ";")
        if judge.left_out(judged, settings):
            assert header is not None
            write(f"-- Nothing to do: not for {settings.environment}, only for {', '.join(header.environments)}")
            return
        try:
            with _committing(migration, budgets, limit):
                original(**arguments)
        except GuardError:
            raise
        except Exception as error:
            where = judged.source.shown if judged and judged.source else name
            problem = str(error) if isinstance(error, _Unanswered) else f"{type(error).__name__}: {error}"
            online = command.replace(" --sql", "")
            values = {"revision": name, "problem": problem, "command": online.replace("alembic ", "")}
            raise Refused([Finding("offline-impossible", f"{where}:1", name, values)], online) from error
        wanted = postcheck.expectations(script_of(step).module, upgrade=upgrade)
        if wanted:
            write(postcheck.compile_block(name, wanted, upgrade=upgrade) + ";")

    step.migration_fn = said
    return step


def _begins_at(migration: MigrationContext, step: Step) -> str:
    """A DO block that stops the file on a database at another version: an UPDATE of no row would be a success.

    Empty where branches meet or part: the version table need not name the parent there.
    """
    import sqlalchemy as sa

    table = migration.dialect.identifier_preparer.format_table(
        sa.table(migration.version_table, schema=migration.version_table_schema)
    )
    before, script = step.from_revisions_no_deps, script_of(step)
    scripts: Any = migration.script
    around = [script, *map(scripts.get_revision, before)]
    if len(before) > 1 or any(one.is_branch_point or one.is_merge_point for one in around):
        return ""
    row = f"version_num::pg_catalog.text OPERATOR(pg_catalog.=) {postcheck.literal((*before, name_of(step))[0])}"
    if not before and len(scripts.get_bases()) == 1:
        row = "true"  # no other line of revisions can have its row there
    at_it = f"EXISTS (SELECT FROM {table} WHERE {row})"
    message = postcheck.literal(f"{name_of(step)} begins at {', '.join(before) or 'base'}, but the database is at ")
    found = f"coalesce((SELECT pg_catalog.string_agg(version_num::pg_catalog.text, ', ') FROM {table}), 'base')"
    return (
        postcheck.do_block(
            f"\nBEGIN\n  IF {'NOT ' if before else ''}{at_it} THEN\n"
            f"    RAISE EXCEPTION USING MESSAGE = {message} || {found};\n  END IF;\nEND\n"
        )
        + ";"
    )


def _as_it_came(settings: Settings, name: str, judged: judge.Judged | None) -> str:
    """A DO block that stops the file where the revision was run when it came, and would be skipped here; or the reverse."""
    skips = judge.left_out(judged, settings)
    told = (
        "was run here when it came, and this would skip it"
        if skips
        else "was skipped here when it came, and this would undo it"
    )
    return postcheck.do_block(
        _CAME.format(schema=settings.schema, name=postcheck.literal(name), outcome="done" if skips else "skipped",
                     message=postcheck.literal(f"{name} {told}; run it online, where that is known"))
    )  # fmt: skip


@contextmanager
def _committing(migration: MigrationContext, budgets: Any, limit: Callable[[], None]) -> Iterator[None]:
    """While inside, ``autocommit_block()`` writes budgets before each of its statements, and after it those of the step."""
    inherited, write = migration.autocommit_block, migration.impl.static_output

    def limited(text: str) -> None:
        write(f"SET lock_timeout = '{0 if budget.online(text) else budgets.lock_timeout}ms';")
        write(f"SET statement_timeout = '{0 if budget.online(text) else budgets.statement_timeout}ms';")
        write(text)

    @contextmanager
    def block() -> Iterator[None]:
        with inherited():
            migration.impl.static_output = limited  # type: ignore[method-assign]
            try:
                yield
            finally:
                migration.impl.static_output = write  # type: ignore[method-assign]
            write("RESET lock_timeout;")
            write("RESET statement_timeout;")
        limit()

    migration.autocommit_block = block  # type: ignore[method-assign]
    try:
        yield
    finally:
        del migration.autocommit_block  # the class's own shows again


def _comment(text: str) -> str:
    """One comment line, whatever stands in the text: psql ends a comment at CR too."""
    return "-- " + "".join(char if char.isprintable() else " " for char in text).rstrip() + "\n"
