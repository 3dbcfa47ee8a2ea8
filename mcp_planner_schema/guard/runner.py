"""The spine: what happens, in which order, when Alembic is asked to do something online.

Alembic hands over its work as one function that gives steps. ``context.configure()``, reading that function from the
context's options, and a second ``configure(fn=…)`` let the guard take the steps one by one, each in a transaction of its
own that can be rolled back and tried again. A test pins this behaviour of Alembic.
"""

from __future__ import annotations

import functools
import logging
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard import settings as settings_module
from mcp_planner_schema.guard.findings import BUSY, Broken, Finding, GuardError, Refused, WrongUse
from mcp_planner_schema.guard.settings import Settings

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.runtime.migration import MigrationContext
    from sqlalchemy import Connection, Engine, MetaData

    from mcp_planner_schema.guard.progress import Step
    from mcp_planner_schema.guard.session import Session
    from mcp_planner_schema.guard.tries import Asked

_log = logging.getLogger("mcp_planner_schema.guard")


def run(context: Any, target_metadata: MetaData | None = None, **options: Any) -> None:
    """Do what Alembic was asked to do, under guard. The only call an ``env.py`` needs.

    ``context`` is ``alembic.context``; ``options`` go to ``context.configure()``. Called through the ``alembic`` command a
    failure is printed and ends the process with 1 (broken), 2 (wrong use), 3 (refused) or 75 (busy); called from code the
    :class:`GuardError` is raised. Ctrl-C and SIGTERM roll the running step back and end with 75, or KeyboardInterrupt.
    """
    config: Config = context.config
    from_command_line = config.cmd_opts is not None
    try:
        settings = settings_module.load(config)
        if context.is_offline_mode():
            from mcp_planner_schema.guard import offline

            offline.write(context, settings, target_metadata, options)
        else:
            _online(context, settings, target_metadata, options)
    except GuardError as error:
        if not from_command_line:
            raise
        print(error.text(), file=sys.stderr)
        raise SystemExit(error.code) from None
    except KeyboardInterrupt as stop:
        if not from_command_line:
            raise
        from mcp_planner_schema.guard import plan

        told = str(stop) if " " in str(stop) else "Stopped between two steps; the finished ones stay."
        print(f"{told}\n\nnext: {plan.repeat_of(context)}", file=sys.stderr)
        raise SystemExit(BUSY) from None


def say(text: str) -> None:
    """One line for people: through logging where the application has set it up, else to stderr."""
    if _log.hasHandlers() and _log.isEnabledFor(logging.INFO):
        _log.info(text)
    else:
        print(text, file=sys.stderr, flush=True)


def _online(context: Any, settings: Settings, target_metadata: MetaData | None, options: dict[str, Any]) -> None:
    from mcp_planner_schema.guard import plan, scope

    with _connection(context, settings) as (connection, engine):
        configure = functools.partial(
            context.configure,
            **{
                "target_metadata": target_metadata,
                "dialect_name": "postgresql",
                "compare_server_default": True,  # or `alembic check` passes over a default that differs
                **options,
                "transaction_per_migration": True,
                "connection": connection,
                "include_name": scope.include_name(connection, settings.schema, options.get("include_name")),
                "process_revision_directives": scope.new_revision(context, settings, options, say),
            },
        )
        configure()
        migration: MigrationContext = context.get_context()
        # Only upgrade, downgrade and stamp have a destination; current, check, revision and show change no version.
        if connection is None:
            # A new revision file: run_migrations() would ask the database for its heads, which nothing here needs.
            migration.opts["fn"]((), migration)
            return
        if "destination_rev" not in migration.opts:
            with (
                _alone(context, settings, engine),
                plan.explained(context.script, settings, (), plan.repeat_of(context), migration),
            ):
                _migrate(context)
                connection.commit()  # a version table that was made: no step of Alembic's has committed it
            return
        work, typed = migration.opts["fn"], plan.repeat_of(context)
        heads, steps = plan.read(context, settings, migration, work)
        if not steps or (steps[0].is_upgrade and not steps[0].info.is_stamp):
            _refuse_half_back(settings, migration, heads)
        if not steps:
            _end_dead(settings, migration, engine, heads, typed)
            say(f"nothing to do: the database is at {', '.join(heads) or 'base'}")
            return
        with plan.explained(context.script, settings, heads, plan.repeat_of(context)):
            work = plan.pin(context, migration, heads, steps) or work
        from mcp_planner_schema.guard import interrupt

        # Around all of it: while it waits for the deployers' lock it is stopped too, and a second signal cuts no end off.
        cancel = connection.connection.dbapi_connection.cancel  # type: ignore[union-attr]  # it is connected
        with interrupt.cancelling(cancel, last=context.config.cmd_opts is not None):
            _run(context, settings, connection, engine, configure, work, typed)


def _run(
    context: Any, settings: Settings, connection: Connection, engine: Engine, configure: Callable[..., None], work: Any,
    typed: str,
) -> None:  # fmt: skip
    """Lock, re-read, judge, take each step, verify. Everything a run with nothing to do does not need is imported here."""
    import contextlib
    from pathlib import Path

    from sqlalchemy.exc import SQLAlchemyError

    from mcp_planner_schema.guard import (
        connect,
        deploy_lock,
        forced,
        history,
        lineage,
        plan,
        progress,
        session,
        tries,
        version_table,
    )

    migration: MigrationContext = context.get_context()
    repeat = plan.repeat_of(context)
    shown = connect.masked(typed, engine.url)
    origin = history.origin(Path(context.script.dir))
    before, asked = session.read(connection), _asked(context, settings)
    lock = deploy_lock.of(connection, migration.version_table, migration.version_table_schema)
    named = plan.version_table(migration)
    table = connection.dialect.identifier_preparer.format_table(migration._version)
    history.refuse_foreign(connection, settings.schema, table, repeat)
    connection.rollback()
    with (
        deploy_lock.held(engine, lock, settings.deploy_lock_timeout, say, repeat) as still_held,
        connect.opened(engine, autocommit=True) as beside,
        connect.opened(engine, autocommit=True) as watcher,
    ):
        heads, steps = plan.read(context, settings, migration, work)
        if not steps:
            say(f"nothing to do: another run has brought the database to {', '.join(heads) or 'base'}")
            return
        judged, why = plan.judge_steps(context, settings, steps, heads, beside), forced.reason(context)
        if steps[0].info.is_stamp:
            forced.require(beside, settings, context.script, [progress.name_of(one) for one in steps], why)
        orphans = deploy_lock.end_orphans(beside, lock)
        if steps[0].info.is_stamp and migration.purge:
            steps = [_all_at_once(steps)]
        this = tries.Run(
            settings, 0, origin, engine, beside, before, configure, functools.partial(_migrate, context),
            context.get_context, tuple(migration.on_version_apply_callbacks),
            why, say, repeat, still_held, heads, watcher, asked,
            deploy_lock.tag(lock), context.script.dir,
        )  # fmt: skip
        back = progress.direction_of(steps[0]) == "downgrade"
        if _only_shown(context, back=back):
            from mcp_planner_schema.guard import rehearsal

            rehearsal.show(this, steps, judged, context.config.print_stdout)
            return
        preflight = None
        if not steps[0].info.is_stamp:
            from mcp_planner_schema.guard.preflight import gate

            preflight = gate.passed(context, this, steps, judged)
        history.prepare(beside, settings.schema)
        lineage.complete(beside, settings.schema, named, context.script, heads)
        longest = max(len(progress.name_of(one)) for one in steps)
        if longest > 32:  # what Alembic's column holds
            with connect.opened(
                engine, autocommit=True
            ) as migrating:  # the caller's search_path says which table is meant
                session.restore(migrating, before)
                migrating.exec_driver_sql("SET lock_timeout = '3s'")
                version_table.fit(migrating, migration.version_table, migration.version_table_schema, longest)
        this.number, dead = history.begin(
            beside,
            settings.schema,
            origin,
            version_table=named,
            command=shown,
            heads=heads,
            planned=len(steps),
            preflight=preflight,
        )
        _tell_dead(dead, orphans)
        error: str | None = "stopped"
        try:
            if not steps[0].info.is_stamp:
                from mcp_planner_schema.guard import catalog_change

                this.catalog = catalog_change.begin(engine, context.script, settings.schema, heads, named, repeat)
            if back and len(steps) > 1:
                from mcp_planner_schema.guard import rehearsal

                rehearsal.require(this, steps, judged)
            for place, one in enumerate(steps):
                if connection.invalidated:
                    at = ", ".join(this.heads) or "base"
                    raise Broken(f"The connection to the server was lost; the database is at {at}.", repeat)
                still_held(this.called(progress.name_of(one)))
                try:
                    tries.take(this, one, judged.get(progress.name_of(one)))
                except Refused as refused:
                    if not place:
                        raise
                    kept = refused.left if "stay" in refused.left else "this step was undone"
                    left = f"{kept}; the database is at {', '.join(this.heads) or 'base'}"
                    raise Refused(refused.findings, refused.next_command, left) from refused
            error = None
        except (Exception, KeyboardInterrupt) as failure:
            error = connect.masked(str(failure), engine.url) or type(failure).__name__
            raise
        finally:
            heads = this.heads
            try:
                history.end(beside, settings.schema, this.number, heads, error)
            except SQLAlchemyError:
                try:
                    with connect.opened(engine, autocommit=True) as fresh:
                        history.end(fresh, settings.schema, this.number, heads, error)
                except (GuardError, SQLAlchemyError):
                    say("how the run ended could not be written: the connection is gone")
            with contextlib.suppress(SQLAlchemyError):  # a connection that is gone needs no settings
                session.restore(connection, before)
                connection.commit()
        _verify(engine, before, migration, heads)
        _let_read(engine, before, settings, table)
        if this.catalog:
            note = catalog_change.after(this.catalog, engine, heads, repeat)
            if note:
                say(note)
        say(f"done: {len(steps)} step{'s' if len(steps) != 1 else ''}, the database is at {', '.join(heads) or 'base'}")


def _refuse_half_back(settings: Settings, migration: MigrationContext, heads: tuple[str, ...]) -> None:
    """Raise :class:`Refused` where an interrupted downgrade has given back some of a revision's values, and not all."""
    from mcp_planner_schema.guard import backfill_tables, plan

    connection = migration.connection
    assert connection is not None
    half = backfill_tables.half_back(connection, settings.schema, plan.version_table(migration), heads)
    connection.rollback()
    if half:
        command = "make migrate-down, or alembic downgrade -1"
        findings = [
            Finding("downgrade-interrupted", "alembic", one, {"revision": one, "name": name, "command": command})
            for one, name in half
        ]
        raise Refused(findings, command)


def _end_dead(
    settings: Settings, migration: MigrationContext, engine: Engine, heads: tuple[str, ...], repeat: str
) -> None:  # fmt: skip
    """Write that a run was interrupted which was killed behind its last step: no later run has a step to begin with."""
    from mcp_planner_schema.guard import dead_runs, plan

    connection, named = migration.connection, plan.version_table(migration)
    assert connection is not None
    dead = dead_runs.has_dead(connection, settings.schema, named)
    connection.rollback()
    if not dead:
        return
    from mcp_planner_schema.guard import connect, deploy_lock, history

    lock = deploy_lock.of(connection, migration.version_table, migration.version_table_schema)
    alive = deploy_lock.taken(connection, lock)
    connection.rollback()
    if alive:
        return
    with (
        deploy_lock.held(engine, lock, settings.deploy_lock_timeout, say, repeat),
        connect.opened(engine, autocommit=True) as beside,
    ):
        orphans = deploy_lock.end_orphans(beside, lock)
        _tell_dead(history.end_dead(beside, settings.schema, named, heads), orphans)


def _tell_dead(dead: list[str], orphans: list[str]) -> None:
    for line in dead:
        say(f"note: {line} was interrupted; its finished steps stand, the server rolls the one it was in back")
    for line in orphans:
        say(line)


def _asked(context: Any, settings: Settings) -> Asked:
    """What whoever runs this allows: ``-x hold_limit=5min``, ``-x cancel_blockers=app=NAME``, ``-x workers=4``,
    ``-x progress=json``, or ``attributes`` so named."""
    from mcp_planner_schema.guard import blockers
    from mcp_planner_schema.guard.tries import Asked

    named = context.get_x_argument(as_dictionary=True)
    hold, cancel, workers, told = (
        named.get(name) or context.config.attributes.get(name)
        for name in ("hold_limit", "cancel_blockers", "workers", "progress")
    )
    try:
        limit = settings_module.duration(hold) if hold else settings.hold_limit
    except ValueError as error:
        raise WrongUse(f"hold_limit is {hold!r}: {error}.", "alembic -x hold_limit=5min downgrade -1") from None
    if not re.fullmatch("[1-9]|[1-5][0-9]|6[0-4]", str(workers or 1)):
        raise WrongUse(f"workers is {workers!r}; it is a number from 1 to 64.", "alembic -x workers=4 upgrade head")
    if told not in (None, "json"):
        raise WrongUse(f"progress is {told!r}; it is json or left out.", "alembic -x progress=json upgrade head")
    return Asked(limit, blockers.application(cancel), int(workers or 1), told == "json")


def _only_shown(context: Any, *, back: bool) -> bool:
    """Whether the steps are to be rehearsed and told, and not run: ``attributes["dry_run"]``, or ``-x dry_run=1``."""
    named = context.get_x_argument(as_dictionary=True)
    asked = context.config.attributes.get("dry_run") or named.get("dry_run") == "1"
    if ("dry_run" in named and not asked) or (asked and not back):
        raise WrongUse(
            "dry_run is 1 or left out, and shows what a downgrade would do; of an upgrade there is the SQL.",
            "alembic -x dry_run=1 downgrade -1, or alembic upgrade <from>:<to> --sql",
        )
    return bool(asked)


def _alone(context: Any, settings: Settings, engine: Engine) -> AbstractContextManager[object]:
    """The deployers' lock for what makes the version table where there is none: ensure_version, and an autogenerate."""
    from mcp_planner_schema.guard import deploy_lock, plan

    migration: MigrationContext = context.get_context()
    if migration.opts.get("dont_mutate"):
        return nullcontext()
    assert migration.connection is not None
    lock = deploy_lock.of(migration.connection, migration.version_table, migration.version_table_schema)
    migration.connection.rollback()
    return deploy_lock.held(engine, lock, settings.deploy_lock_timeout, say, plan.repeat_of(context))


def _migrate(context: Any) -> None:
    with context.begin_transaction():
        context.run_migrations()


def _all_at_once(steps: list[Step]) -> Step:
    if len(steps) > 1:
        raise WrongUse(
            "stamp --purge with several heads would forget all but the last.", "alembic stamp --purge <one revision>"
        )
    return steps[0]


def _verify(engine: Engine, before: Session, migration: MigrationContext, heads: tuple[str, ...]) -> None:
    """Read the version again on a fresh connection: a success that was rolled back somewhere shows here."""
    from mcp_planner_schema.guard import plan

    found = plan.version(engine, before, migration)
    if found != tuple(sorted(heads)):
        raise Broken(
            f"The run ended well, but the database says {', '.join(found) or 'base'} instead of "
            f"{', '.join(heads) or 'base'}: something outside the guard has moved the version.",
            "alembic current",
        )


def _let_read(engine: Engine, before: Session, settings: Settings, table: str) -> None:
    """Who may read the version may know what the revisions are; the caller's search_path says which version table is meant."""
    from mcp_planner_schema.guard import connect, lineage, session

    with connect.opened(engine) as fresh:
        session.restore(fresh, before)
        lineage.share(fresh, settings.schema, table)
        fresh.commit()


@contextmanager
def _connection(context: Any, settings: Settings) -> Iterator[tuple[Connection | None, Any]]:
    """The connection to migrate on: the caller's (``config.attributes["connection"]``), or one of our own; and an engine
    for the connections beside it.

    Neither while a revision file without autogenerate is being written: that needs no database.
    """
    from mcp_planner_schema.guard import connect, plan

    writing = plan.options_of(context).get("revision_context")
    if writing is not None and not writing.command_args["autogenerate"]:
        yield None, None
        return
    from sqlalchemy.exc import SQLAlchemyError

    given = context.config.attributes.get("connection")
    if given is None:
        target = connect.url(settings)
        engine = connect.engine(target, "mcp-planner-guard " + connect.masked(plan.repeat_of(context), target))
    else:
        engine = connect.beside(given)
        if given.in_transaction():
            raise Refused([Finding("external-transaction", 'config.attributes["connection"]')], plan.repeat_of(context))
    try:
        if given is not None:
            yield given, engine
        else:
            with connect.opened(engine) as connection:
                yield connection, connect.own(engine)
    except SQLAlchemyError as error:
        raise connect.outside(error, engine.url, plan.repeat_of(context)) from error
    finally:
        engine.dispose()
