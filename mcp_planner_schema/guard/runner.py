"""The spine: what happens, in which order, when Alembic is asked to do something online.

Alembic hands over its work as one function that gives steps. ``context.configure()``, reading that function from the
context's options, and a second ``configure(fn=…)`` let the guard take the steps one by one, each in a transaction of its
own that can be rolled back and tried again. A test pins this behaviour of Alembic.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard import saying
from mcp_planner_schema.guard import settings as settings_module
from mcp_planner_schema.guard.findings import BUSY, Broken, Finding, GuardError, Refused, WrongUse
from mcp_planner_schema.guard.saying import say
from mcp_planner_schema.guard.settings import Settings

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.runtime.migration import MigrationContext
    from sqlalchemy import Connection, Engine, MetaData

    from mcp_planner_schema.guard.judge import Judged
    from mcp_planner_schema.guard.progress import Step
    from mcp_planner_schema.guard.session import Session
    from mcp_planner_schema.guard.tries import Run


def run(context: Any, target_metadata: MetaData | None = None, **options: Any) -> None:
    """Do what Alembic was asked to do, under guard. The only call an ``env.py`` needs.

    ``context`` is ``alembic.context``; ``options`` go to ``context.configure()``. Called through the ``alembic`` command a
    failure is printed and ends the process with 1 (broken), 2 (wrong use), 3 (refused) or 75 (busy); called from code the
    :class:`GuardError` is raised. Ctrl-C and SIGTERM roll the running step back and end with 75, or KeyboardInterrupt.
    """
    config: Config = context.config
    from_command_line, form = config.cmd_opts is not None, "text"
    told = config.attributes.get("only_options")
    if told is not None:  # whoever asks without a run goes by the same version table: see guard/version_table.py
        told.update(options)
        return
    try:
        settings = settings_module.load(config)
        form = settings.log_format
        with saying.as_asked(form):
            if context.is_offline_mode():
                from mcp_planner_schema.guard import offline

                offline.write(context, settings, target_metadata, options)
            else:
                _heard(context, settings, target_metadata, options)
    except GuardError as error:
        error.form = form
        if not from_command_line:
            raise
        saying.last(error)
        raise SystemExit(error.code) from None
    except KeyboardInterrupt as stop:
        if not from_command_line:
            raise
        from mcp_planner_schema.guard import plan

        told = str(stop) if " " in str(stop) else "Stopped between two steps; the finished ones stay."
        saying.stopped(told, plan.repeat_of(context), form)
        raise SystemExit(BUSY) from None


def _heard(context: Any, settings: Settings, target_metadata: MetaData | None, options: dict[str, Any]) -> None:
    """:func:`_online`, and what ends it so early that nobody could listen is heard all the same where that is asked for."""
    try:
        _online(context, settings, target_metadata, options)
    except GuardError as error:
        from mcp_planner_schema.guard import plan

        measured = settings.measured and not isinstance(error, WrongUse)
        if measured and not error.heard and "destination_rev" in plan.options_of(context):
            from mcp_planner_schema.guard import connect, listening

            listening.unheard(settings, connect.url(settings).database or "", error)
        raise


def _online(context: Any, settings: Settings, target_metadata: MetaData | None, options: dict[str, Any]) -> None:
    from mcp_planner_schema.guard import banner, plan, scope, version_apply

    with _connection(context, settings) as (connection, engine):
        configure = functools.partial(
            context.configure,
            **{
                "target_metadata": target_metadata,
                "dialect_name": "postgresql",
                "compare_server_default": True,  # or `alembic check` passes over a default that differs
                **options,
                "on_version_apply": version_apply.called(context, settings, options),
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
        banner.met(context.config, connection, settings, changes="destination_rev" in migration.opts)
        if "destination_rev" not in migration.opts:
            with (
                _alone(context, settings, engine),
                plan.explained(
                    context.script,
                    settings,
                    (),
                    plan.repeat_of(context),
                    migration,
                    hooks=context.config.cmd_opts is None,
                ),
            ):
                _migrate(context)
                connection.commit()  # a version table that was made: no step of Alembic's has committed it
            return
        from mcp_planner_schema.guard import dead_runs

        work, typed = migration.opts["fn"], plan.repeat_of(context)
        heads, steps = plan.read(context, settings, migration, work)
        if not steps or (steps[0].is_upgrade and not steps[0].info.is_stamp):
            dead_runs.refuse_half_back(settings, migration, heads)
        if not steps:
            dead_runs.end(settings, migration, engine, heads, typed)
            say(f"nothing to do: the database is at {', '.join(heads) or 'base'}")
            return
        _confirm(context, settings, connection, heads, steps)
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
    from pathlib import Path

    from mcp_planner_schema.guard import (
        allowed,
        banner,
        connect,
        deploy_lock,
        forced,
        history,
        lineage,
        listening,
        marker,
        plan,
        progress,
        recorded,
        session,
        tries,
        version_table,
    )

    migration: MigrationContext = context.get_context()
    repeat = plan.repeat_of(context)
    shown = connect.masked(typed, engine.url)
    origin = history.origin(Path(context.script.dir))
    before, asked = session.read(connection), allowed.read(context, settings)
    lock = deploy_lock.of(connection, migration.version_table, migration.version_table_schema)
    named = plan.version_table(migration)
    table = connection.dialect.identifier_preparer.format_table(migration._version)
    history.refuse_foreign(connection, settings.schema, table, repeat)
    connection.rollback()
    with (
        listening.to(context, settings, engine, named) as happens,
        recorded.told(happens, engine),
        deploy_lock.held(engine, lock, settings.deploy_lock_timeout, say, repeat) as still_held,
        connect.opened(engine, autocommit=True) as beside,
        connect.opened(engine, autocommit=True) as watcher,
    ):
        # It also writes what it sees: a standby that is away, or a lock, may not keep it from ending a step that is late.
        watcher.exec_driver_sql("SET synchronous_commit = off; SET statement_timeout = '2s'")
        marker.require(beside, settings, banner.place(beside))  # it may have been set while this one waited
        heads, steps = plan.read(context, settings, migration, work)
        if not steps:
            say(f"nothing to do: another run has brought the database to {', '.join(heads) or 'base'}")
            return
        judged, why = plan.judge_steps(context, settings, steps, heads, beside), forced.reason(context)
        if steps[0].info.is_stamp:
            forced.require(beside, settings, context.script, [progress.name_of(one) for one in steps], why, named)
        orphans = deploy_lock.end_orphans(beside, lock)
        if steps[0].info.is_stamp and migration.purge:
            steps = [_all_at_once(steps)]
        this = tries.Run(
            settings, 0, origin, engine, beside, before, configure, functools.partial(_migrate, context),
            context.get_context, tuple(migration.on_version_apply_callbacks),
            why, say, repeat, still_held, heads, watcher, asked,
            deploy_lock.tag(lock), context.script.dir, happens,
        )  # fmt: skip
        if allowed.only_shown(context, back=progress.direction_of(steps[0]) == "downgrade"):
            from mcp_planner_schema.guard import rehearsal

            happens.listeners = ()  # it is no run
            rehearsal.show(this, steps, judged, context.config.print_stdout)
            return
        preflight = None
        if not steps[0].info.is_stamp:
            from mcp_planner_schema.guard.preflight import gate

            preflight = gate.passed(context, this, steps, judged)
        history.prepare(beside, settings.schema)
        marker.keep(beside, settings, origin, say)
        lineage.complete(beside, settings.schema, named, context.script, heads)
        longest = max(len(progress.name_of(one)) for one in steps)
        if longest > 32:  # what Alembic's column holds
            with connect.opened(
                engine, autocommit=True
            ) as migrating:  # the caller's search_path says which table is meant
                session.restore(migrating, before)
                migrating.exec_driver_sql("SET lock_timeout = '3s'")
                version_table.fit(migrating, migration.version_table, migration.version_table_schema, longest)
        names = [progress.name_of(one) for one in steps]
        with recorded.running(
            this, connection, command=shown, version_table=named, steps=names, preflight=preflight, orphans=orphans
        ):
            _take_all(context, this, connection, steps, judged)
        heads = this.heads
        _verify(engine, before, migration, heads)
        _let_read(engine, before, settings, table)
        if this.catalog:
            from mcp_planner_schema.guard import catalog_change

            note = catalog_change.after(this.catalog, engine, heads, repeat)
            if note:
                say(note)
        say(f"done: {len(steps)} step{'s' if len(steps) != 1 else ''}, the database is at {', '.join(heads) or 'base'}")


def _confirm(
    context: Any, settings: Settings, connection: Connection, heads: tuple[str, ...], steps: list[Step]
) -> None:  # fmt: skip
    """Raise :class:`Refused` where these steps destroy or forget something, and nobody has named the database."""
    from mcp_planner_schema.guard import allowed, banner, plan
    from mcp_planner_schema.guard.progress import direction_of, name_of

    way, here = direction_of(steps[0]), ", ".join(heads) or "base"
    if way == "upgrade" or (way == "downgrade" and allowed.only_shown(context, back=True)):
        return
    if way == "stamp":
        deed = f"the version is moved from {here} to {', '.join(map(name_of, steps))}, and nothing is run"
    else:
        deed = f"{', '.join(map(name_of, steps))} would be taken back"
    given = context.get_x_argument(as_dictionary=True).get("confirm") or context.config.attributes.get("confirm")
    banner.confirmed(connection, settings, given, deed, plan.repeat_of(context))


def _take_all(
    context: Any, this: Run, connection: Connection, steps: list[Step], judged: Mapping[str, Judged]
) -> None:  # fmt: skip
    """Each step, one after the other. What is raised says what stays."""
    from mcp_planner_schema.guard import plan, progress, tries, version_apply

    settings = this.settings
    if not steps[0].info.is_stamp:
        from mcp_planner_schema.guard import catalog_change

        named = plan.version_table(this.migration())
        this.catalog = catalog_change.begin(
            this.engine, context.script, settings.schema, this.heads, named, this.repeat
        )
    if len(steps) > 1 and progress.direction_of(steps[0]) == "downgrade":
        from mcp_planner_schema.guard import rehearsal

        rehearsal.require(this, steps, judged)
    for place, one in enumerate(steps):
        if connection.invalidated:
            at = ", ".join(this.heads) or "base"
            raise Broken(f"The connection to the server was lost; the database is at {at}.", this.repeat)
        this.still_held(this.called(progress.name_of(one)))
        version_apply.ask_before(this.callbacks, this.migration(), this.beside, one)
        try:
            tries.take(this, one, judged.get(progress.name_of(one)))
        except Refused as refused:
            if not place:
                raise
            kept = refused.left if "stay" in refused.left else "this step was undone"
            left = f"{kept}; the database is at {', '.join(this.heads) or 'base'}"
            raise Refused(refused.findings, refused.next_command, left) from refused


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
    with ExitStack() as opened:
        if given is None:
            target = connect.url(settings)
            engine = connect.engine(target, "mcp-planner-guard " + connect.masked(plan.repeat_of(context), target))
            opened.callback(engine.dispose)
            connection = opened.enter_context(connect.opened(engine))
            beside = connect.own(engine)
        else:
            connection = opened.enter_context(connect.borrowed(given))
            engine = beside = connect.beside(connection)
            opened.callback(engine.dispose)
            if connection.in_transaction():
                raise Refused(
                    [Finding("external-transaction", 'config.attributes["connection"]')], plan.repeat_of(context)
                )
        try:
            yield connection, beside
        except SQLAlchemyError as error:
            raise connect.outside(error, engine.url, plan.repeat_of(context)) from error
