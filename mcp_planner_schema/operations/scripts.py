"""``op.run_script``: a Python or SQL file with arguments, for what a data revision cannot say in a statement or two.

``alembic/scripts/025/merge_users.py`` belongs to revision 025 as its own text does. It runs where the revision runs: in the
step's transaction, or, with ``Transaction: none``, in autocommit and with a row in the journal.
"""

from __future__ import annotations

import functools
import hashlib
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from alembic.operations import MigrateOperation, Operations

from mcp_planner_schema.guard import brief, failure, journal, ladder, trial
from mcp_planner_schema.guard import script as files
from mcp_planner_schema.guard.findings import Broken
from mcp_planner_schema.guard.settings import duration
from mcp_planner_schema.operations import called_script, online, python_script, sql_script, time_limit
from mcp_planner_schema.operations.called_script import Called
from mcp_planner_schema.operations.written import rendered

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext
    from sqlalchemy import Connection

    from mcp_planner_schema.guard.journal import Entry

_TRIES_ALONE = 41
Say = Callable[[str], None]


@rendered("run_script")
@Operations.register_operation("run_script")
@dataclass(frozen=True)
class RunScript(MigrateOperation):
    """Run a script of the revision's own. For a revision with ``Type: data``; see docs/5-data-migrations.md."""

    script: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    per_environment: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    timeout: str = "10min"

    def __post_init__(self) -> None:
        try:
            duration(self.timeout)
        except ValueError as error:
            raise ValueError(f"run_script({self.script!r}): timeout is {self.timeout!r}: {error}") from None

    @classmethod
    def run_script(
        cls, operations: Operations, script: str, *, arguments: Mapping[str, Any] | None = None,
        per_environment: Mapping[str, Mapping[str, Any]] | None = None, timeout: str = "10min",
    ) -> None:  # fmt: skip
        """Run ``alembic/scripts/<script>``: a Python file's ``run(connection, **arguments)``, or the statements of a SQL file
        with ``:name`` for an argument. ``per_environment`` are arguments that differ there (``{"development": {…}}``)."""
        operations.invoke(cls(script, dict(arguments or {}), dict(per_environment or {}), timeout))

    def reverse(self) -> Any:
        """Nobody knows what would undo it."""
        raise NotImplementedError(f"what undoes {self.script} is written by hand")


@Operations.implementation_for(RunScript)
def _run_script(operations: Operations, operation: RunScript) -> None:
    context = operations.migration_context
    called = called_script.of(
        context, operation.script, operation.arguments, operation.per_environment, operation.timeout
    )
    if context.as_sql:
        _write(context, called)
    elif not called.commits:
        _work(context, called, lambda connection, say: _send(connection, called, say))
    else:
        online.carry_out(
            context, "run_script", called.target, lambda entry: _alone(context, called, entry), lambda: None
        )


def _write(context: MigrationContext, called: Called) -> None:
    """As text. A Python script cannot be said in SQL: only where nothing but reading is meant, it is named."""
    write: Say = context.impl.static_output
    says = f"{called.target} with {files.told(called.arguments)}"
    if called.script.tree is None:
        write(f"-- {says}")
        for statement in called.script.statements:
            with context.autocommit_block() if called.commits else nullcontext():
                write(sql_script.written(statement, called.arguments) + ";")
        return
    environment = context.environment_context
    if environment is None or not environment.config.attributes.get("only_shown"):
        online.unwritable(f"it runs {says}, which is Python")
    write(f"-- Here it runs {says}, which is Python and no SQL: a file with this cannot be run by psql.")
    write(sql_script.stops(f"revision {called.revision} runs {called.target}: it can only be run online"))


def _alone(context: MigrationContext, called: Called, entry: Entry) -> None:
    """In autocommit: what an earlier run has finished is not done again."""
    parts = [called.script.text] if called.script.tree is not None else [one.text for one in called.script.statements]
    digests = [hashlib.sha256(part.encode()).hexdigest()[:16] for part in parts]
    done = list(entry.detail.get("done", []))
    differs = next((place for place, one in enumerate(done) if digests[place : place + 1] != [one]), None)
    if differs is not None:
        what = f"statement {differs + 1}" if called.script.tree is None else "it"
        called_script.refuse(context, "script-differs", called.where, called.revision, file=called.script.name,
                problem=f"{what} was run before, with another text")  # fmt: skip
    if entry.before == "done":
        online.say(context, f"{called.target}: done before")
        return
    step = journal.of(context)
    entry.detail.update(arguments=files.masked(called.arguments), done=done)
    _mark_sent(step)

    def work(connection: Connection, say: Say) -> int | None:
        began = time.monotonic()
        if called.script.tree is not None:
            again(context, lambda: _send(connection, called, say))
            done.append(digests[0])
        else:
            if done:
                say(f"{called.target} goes on with statement {len(done) + 1} of {len(digests)}")
            for place, one in enumerate(called.script.statements[len(done) :], len(done)):
                entry.detail["done"] = [*done, digests[place]]
                # In one transaction with how far it has come: of a statement that was killed both are there, or none.
                mark = journal.remembering(context, entry)
                again(context, functools.partial(sql_script.send, connection, one, called.arguments, say, mark))
                if one.alone or not mark:
                    journal.remember(context, entry)
                done.append(digests[place])
        entry.detail["done"] = done
        entry.detail["seconds"] = round(time.monotonic() - began, 3)
        return None

    _work(context, called, work)


def _mark_sent(step: journal.Step | None) -> None:
    if step is not None:
        step.sent = True


def again(context: MigrationContext, send: Callable[[], Any]) -> None:
    """Send in autocommit, where nobody tries the step again: what meets a lock is sent again here."""
    from sqlalchemy.exc import DBAPIError

    connection = context.connection
    assert connection is not None
    policy = connection.info.get(brief.POLICY)
    tries = 1
    while True:
        try:
            send()
            return
        except DBAPIError as error:
            code = getattr(error.orig, "pgcode", None)
            if error.connection_invalidated or code not in ladder.TRANSIENT or trial.TRYING in connection.info:
                raise
            if tries >= (policy.attempts if policy else _TRIES_ALONE):
                raise
        if policy:
            shown = policy.waits.shown()
            policy.emit(
                "try-failed", line=f"{policy.name:<4} waits (try {tries} of {policy.attempts}): {shown}", attempt=tries,
                of=policy.attempts, sqlstate=code, late=False, blockers=[shown],
            )  # fmt: skip
        time.sleep(ladder.pause(tries) * (0.5 + random.random() / 2))
        tries += 1


def _send(connection: Connection, called: Called, say: Say) -> int | None:
    """All of it; gives how many rows it has written, where that is known."""
    if called.script.tree is not None:
        python_script.run(connection, called.script, called.arguments, say)
        return None
    return sum(sql_script.send(connection, one, called.arguments, say) for one in called.script.statements)


def _work(context: MigrationContext, called: Called, work: Callable[[Connection, Say], int | None]) -> None:
    """Run it within its time, with all rows to be seen; what it says goes to the guard, line by line, without secrets."""
    step, began = journal.of(context), time.monotonic()
    hidden = list(files.secrets(called.arguments))

    def say(text: str) -> None:
        for secret in hidden:
            text = text.replace(secret, files.MASK)
        if step is not None and not tried:
            step.say(f"{step.revision:<4} {text}")

    assert context.connection is not None
    tried, ended = trial.TRYING in context.connection.info, list[BaseException]()
    try:
        with context.autocommit_block() if called.commits else nullcontext():
            try:
                rows = _in_time(context.connection, called, work, say)
            except BaseException as error:
                ended.append(error)
                raise
    except BaseException as error:
        # To leave the block is to ask a connection that may be gone by now: what counts is what came first.
        first = ended[0] if ended else error
        if isinstance(first, time_limit.Expired):
            raise _late(called, step) from first
        raise first from first.__cause__
    seconds = time.monotonic() - began
    counted = f", {rows:,} rows" if rows is not None else ""
    say(f"{called.target}: done in {seconds:.1f} s{counted}")
    if step is not None and not tried:
        one = {"script": called.target, "arguments": files.masked(called.arguments), "seconds": round(seconds, 3)}
        step.scripts.append(one | ({"rows": rows} if rows is not None else {}))


def _in_time(
    connection: Connection, called: Called, work: Callable[[Connection, Say], int | None], say: Say
) -> int | None:
    cancel = connection.connection.dbapi_connection.cancel  # type: ignore[union-attr]  # it is connected
    try:
        with time_limit.within(duration(called.timeout) / 1000, cancel), _all_rows(connection):
            return work(connection, say)
    except Exception as error:
        line = python_script.line_of(error, called.script) or getattr(error, sql_script.LINE, None)
        if line is not None:
            say(f"{called.target}:{line}: {failure.told(error).splitlines()[0]}")
        raise


def _late(called: Called, step: journal.Step | None) -> Broken:
    left = (
        "What it has committed stays, and the version has not moved."
        if called.commits
        else "The step was rolled back whole; steps before it stay."
    )
    return Broken(
        f"Revision {called.revision}: {called.target} was not done within its timeout of {called.timeout}. {left}",
        f'give it more time in {called.where.split(":")[0]}: timeout="1h", then {step.repeat if step else "again"}',
    )


@contextmanager
def _all_rows(connection: Connection) -> Iterator[None]:
    """While inside, row level security hides no row: where it would, PostgreSQL raises instead."""
    asked = "SELECT pg_catalog.current_setting('row_security')"
    with journal.own(connection):
        before = connection.exec_driver_sql(asked).scalar_one()
        connection.exec_driver_sql("SET row_security = off")
    yield
    with journal.own(connection):
        connection.exec_driver_sql("SELECT pg_catalog.set_config('row_security', %s, false)", (before,))
