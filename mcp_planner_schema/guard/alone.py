"""One change of the guard's own that is no step of a history: under the deployers' lock, with budgets, told in ``run``.

What ``migrate-restore`` and ``migrate-stash-purge`` share. A try that meets a lock is rolled back whole and tried again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from mcp_planner_schema.guard import (
    banner,
    budget,
    checksum,
    connect,
    deploy_lock,
    failure,
    history,
    interrupt,
    ladder,
    marker,
    session,
    version_table,
    watch,
)
from mcp_planner_schema.guard import settings as settings_module
from mcp_planner_schema.guard.findings import Broken, Busy, GuardError
from mcp_planner_schema.guard.saying import say
from mcp_planner_schema.guard.settings import Budgets, Settings
from mcp_planner_schema.guard.version_table import VersionTable

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy import Connection, Engine

Found = TypeVar("Found")


@dataclass(frozen=True)
class Alone:
    """Under the deployers' lock. ``heads`` is where the database stands, ``still_held`` raises where the lock is lost."""

    settings: Settings
    engine: Engine
    origin: history.Origin
    table: VersionTable
    heads: tuple[str, ...]
    repeat: str
    still_held: Callable[[str], None]


@contextmanager
def deploying(config: Config, *, marked: bool = True) -> Iterator[Alone]:
    """Hold the deployers' lock, so that no upgrade or downgrade runs meanwhile. Changes nothing by itself.

    Raises :class:`Refused` where the database says that it is another environment's, unless it is not to be ``marked`` so.
    """
    from sqlalchemy.exc import SQLAlchemyError

    given, repeat = settings_module.load(config), str(config.attributes["repeat"])
    table = version_table.of(config)
    target = connect.url(given)
    asking = connect.engine(target, "mcp-planner-guard " + connect.masked(repeat, target))
    engine = connect.own(asking)
    try:
        with connect.opened(asking) as connection:
            session.read(connection)
            banner.shown(config, connection, given)
            if marked:
                banner.compared(config, connection, given, changes=True)
            history.refuse_foreign(connection, given.schema, table.sql, repeat)
            lock = deploy_lock.of(connection, *table)
            connection.rollback()
            with deploy_lock.held(engine, lock, given.deploy_lock_timeout, say, repeat) as still_held:
                who = history.origin(Path(str(config.get_alembic_option("script_location", "."))))
                yield Alone(given, engine, who, table, version_table.heads(connection, table), repeat, still_held)
    except SQLAlchemyError as error:
        raise connect.outside(error, target, repeat) from error
    finally:
        engine.dispose()
        asking.dispose()


@contextmanager
def told(here: Alone, *, marks: bool = True) -> Iterator[int]:
    """While inside, a row of ``run`` says that this runs, and afterwards how it ended; gives its number."""
    schema = here.settings.schema
    with connect.opened(here.engine, autocommit=True) as beside:
        history.prepare(beside, schema)
        if marks:
            marker.keep(beside, here.settings, here.origin, say)
        number, dead = history.begin(
            beside, schema, here.origin, version_table=here.table.shown,
            command=connect.masked(here.repeat, here.engine.url), heads=here.heads, planned=0,
        )  # fmt: skip
    for line in dead:
        say(f"note: {line} was interrupted; its finished steps stand, the server rolls the one it was in back")
    error: str | None = "stopped"
    try:
        yield number
        error = None
    except (Exception, KeyboardInterrupt) as stop:
        error = connect.masked(str(stop), here.engine.url) or type(stop).__name__
        raise
    finally:
        _end(here, number, error)


def attempt(here: Alone, budgets: Budgets, work: Callable[[Connection], Found], *, final: bool = True) -> Found:
    """Do ``work`` in one transaction, again and again while only locks are in the way; without ``final`` undo it.

    Raises :class:`Busy` where the locks stay; the database is then as before.
    """
    from sqlalchemy.exc import DBAPIError

    tries = 0
    while True:
        tries += 1
        with connect.opened(here.engine) as connection:
            driver = connection.connection.dbapi_connection
            assert driver is not None
            with (
                interrupt.cancelling(driver.cancel),
                connect.opened(here.engine, autocommit=True) as watcher,
                watch.watching(watcher, driver.info.backend_pid, say) as waits,
            ):
                try:
                    budget.apply(connection, budgets)
                    connection.info[checksum.TIMEOUT] = here.settings.stash_timeout
                    found = work(connection)
                    # What is checked at COMMIT is to be seen in a rehearsal too.
                    connection.exec_driver_sql("SET CONSTRAINTS ALL IMMEDIATE")
                    here.still_held("")
                    connection.commit() if final else connection.rollback()
                    return found
                except DBAPIError as error:
                    if connection.invalidated or getattr(error.orig, "pgcode", None) is None:
                        raise
                    if error.orig.pgcode not in ladder.TRANSIENT:  # type: ignore[union-attr]
                        said = connect.masked(failure.told(error), here.engine.url)
                        raise Broken(f"PostgreSQL says: {said}\nEverything was rolled back.", here.repeat) from error
        message = f"met a lock it did not get (try {tries} of {here.settings.lock_attempts}): {waits.shown()}"
        if tries >= here.settings.lock_attempts:
            raise Busy(f"The command {message}. Everything was rolled back.", here.repeat)
        say(f"waits: {message}")
        time.sleep(ladder.pause(tries))


def _end(here: Alone, number: int, error: str | None) -> None:
    from sqlalchemy.exc import SQLAlchemyError

    with suppress(GuardError, SQLAlchemyError):
        with connect.opened(here.engine, autocommit=True) as beside:
            history.end(beside, here.settings.schema, number, here.heads, error)
        return
    say("how the run ended could not be written: the connection is gone")
