"""What a revision does to the tables that are there before it, found by running it: locks, rewrites, scans.

Each is run up, down and up again on a scratch database that the revisions before it have built. That one lies on the server
of ``archive_check_url``, else on the embedded one; the database of the project is only asked for its version. Its tables are
empty: what rows alone would set off (a loop over them, their triggers) is not seen, but a rewrite is, and so is a scan.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard import address, connect, judge, source, stored_locks, version_table
from mcp_planner_schema.guard import settings as settings_module
from mcp_planner_schema.guard.findings import Broken, Finding, GuardError, WrongUse
from mcp_planner_schema.guard.postcheck import execute, identifier
from mcp_planner_schema.guard.settings import Settings
from mcp_planner_schema.guard.stored_locks import Found
from mcp_planner_schema.inspect import route, status
from mcp_planner_schema.inspect.recorder import Recorder, Taken

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.script import Script, ScriptDirectory
    from sqlalchemy import URL, Connection

_LEFT = """
SELECT d.datname::text FROM pg_catalog.pg_database d WHERE d.datname ~ '^planner_trace_[0-9a-f]{8}$'
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_stat_activity a WHERE a.datid = d.oid)
"""
_KEY = int.from_bytes(b"planner", "big")  # of an advisory lock in the server's database postgres


@dataclass(frozen=True)
class Traced:
    """One direction of one revision, statement by statement."""

    revision: str
    title: str
    direction: str
    statements: tuple[Taken, ...]

    def found(self) -> Found:
        """What is stored of it."""
        modes: dict[str, list[str]] = {}
        for taken in self.statements:
            for table, mode in taken.locks.items():
                modes.setdefault(table, []).append(mode)
        locks = {table: stored_locks.strongest(held) for table, held in modes.items()}
        return Found(locks, tuple(sorted({table for taken in self.statements for table in taken.rewritten})))

    def text(self) -> str:
        """A table for people: each statement that took something, and below it what."""
        lines = [f"{self.revision} {self.title}  {self.direction}"]
        for taken in self.statements:
            if taken.locks or taken.rewritten or taken.scanned:
                lines.append(f"  {taken.shown()}")
                for table in sorted({*taken.locks, *taken.rewritten, *taken.scanned}):
                    did = [
                        word
                        for word, where in (("rewritten", taken.rewritten), ("scanned", taken.scanned))
                        if table in where
                    ]
                    lines.append(f"    {table:<40} {taken.locks.get(table, ''):<22} {', '.join(did)}".rstrip())
        return "\n".join(lines if len(lines) > 1 else [*lines, "  no table that was there before"])


def trace(config: Config, wanted: str | None = None) -> list[Traced]:
    """Trace one revision, ``all``, or without ``wanted`` those that the configured database has pending.

    Raises :class:`WrongUse` for an unknown revision, :class:`Broken` where one does not run on the scratch database.
    """
    given = settings_module.load(config)
    heads: tuple[str, ...] = ()
    if wanted is None:
        with status.connected(config) as (connection, _):
            heads = version_table.heads(connection, version_table.of(config))
    with route.history(config, given, heads) as script:
        every = list(reversed(list(script.walk_revisions())))
        applied = {one.revision for one in script.iterate_revisions(heads, "base")} if heads else set()
    if wanted is None:
        chosen = [one for one in every if one.revision not in applied]
    else:
        chosen = [one for one in every if wanted in ("all", one.revision)]
        if not chosen:
            raise WrongUse(f"There is no revision {wanted}.", "make migrate-trace VERSION=003   (or VERSION=all)")
    return chosen_ones(config, given, script, {one.revision for one in chosen})


def chosen_ones(
    config: Config, given: Settings, script: ScriptDirectory, chosen: set[str], *, back: bool = True
) -> list[Traced]:
    """Trace these revisions, up and, unless ``back`` is false, down. Raises as :func:`trace` does."""
    every = list(reversed(list(script.walk_revisions())))
    wanted = [place for place, one in enumerate(every) if one.revision in chosen]
    if not wanted:
        return []
    version_table.set_up(config)
    with scratch(given) as target:
        return _through(config, script, target, every[: wanted[-1] + 1], chosen, back)


def store(script: ScriptDirectory, traced: Sequence[Traced]) -> list[str]:
    """Write what was found into ``alembic/locks``, each with the checksum of its revision. Gives the revisions."""
    by_revision: dict[str, dict[str, Found]] = {}
    for one in traced:
        by_revision.setdefault(one.revision, {})[one.direction] = one.found()
    for revision, found in by_revision.items():
        path = stored_locks.place(script.dir, revision)
        path.parent.mkdir(exist_ok=True)
        path.write_text(stored_locks.text(found, checksum(script, revision)), encoding="utf-8")
    return list(by_revision)


def checksum(script: ScriptDirectory, revision: str) -> str | None:
    """Of the revision's source and files as they are now, as the history keeps it; None where it cannot be read."""
    one = script.get_revision(revision)
    read = source.read(Path(one.path)) if one else None
    if read is None or isinstance(read, Finding):
        return None
    return source.checksum(read, judge.texts(read, judge.sql_folder(script)))


def _through(
    config: Config, script: ScriptDirectory, target: URL, line: Sequence[Script], chosen: set[str], back: bool
) -> list[Traced]:
    engine = connect.engine(target, "mcp-planner-guard trace")
    traced = []
    try:
        with connect.opened(engine) as connection:
            for one in line:
                if one.revision not in chosen:
                    step(config, script, connection, one, None, upgrade=True)
                    continue
                down = back and _comes_back(one)
                for upgrade in (True, False) if down else (True,):
                    with Recorder(connection, target).recording() as recorder:
                        step(config, script, connection, one, recorder, upgrade=upgrade)
                    direction = "upgrade" if upgrade else "downgrade"
                    traced.append(Traced(one.revision, one.doc.rstrip("."), direction, tuple(recorder.taken)))
                if down and one is not line[-1]:
                    step(config, script, connection, one, None, upgrade=True)
    finally:
        engine.dispose()
    return traced


def _comes_back(one: Script) -> bool:
    return "Reversible: forward-only" not in (one.module.__doc__ or "")


class Fails(Broken):
    """A revision does not run where its history has. ``everywhere``: by its own text, so it will not run anywhere else."""

    def __init__(self, one: Script, direction: str, said: str, *, everywhere: bool) -> None:
        super().__init__(
            f"Revision {one.revision} cannot be traced: its {direction} does not run on an empty database: {said}",
            f"correct {one.path}, then make migrate-trace VERSION={one.revision}",
        )
        self.revision, self.said, self.everywhere = one.revision, said, everywhere


def step(
    config: Config,
    script: ScriptDirectory,
    connection: Connection,
    one: Script,
    recorder: Recorder | None,
    *,
    upgrade: bool,
) -> None:
    """One step as Alembic makes it, without the guard: what is read is what the revision itself does."""
    from alembic.runtime.environment import EnvironmentContext

    def steps(heads: Any, context: Any) -> Any:
        found = script._upgrade_revs(one.revision, heads) if upgrade else script._downgrade_revs("-1", heads)
        for step in found:
            step.migration_fn = _watched(step.migration_fn, recorder) if recorder else step.migration_fn
        return found

    environment = EnvironmentContext(config, script)
    try:
        with environment:
            environment.configure(connection=connection, fn=steps, transaction_per_migration=True)
            with environment.begin_transaction():
                environment.run_migrations()
        connection.commit()
    except GuardError:
        raise
    except Exception as error:
        direction = "upgrade" if upgrade else "downgrade"
        said = str(getattr(error, "orig", None) or error).strip().partition("\n")[0]
        raise Fails(one, direction, said, everywhere=_of_the_text(error)) from error


def _of_the_text(error: BaseException) -> bool:
    """Whether the server refuses the statement for what it says: a syntax error, or a name that is nowhere (class 42)."""
    code = getattr(getattr(error, "orig", None), "pgcode", None) or ""
    return code.startswith("42") and code != "42501"  # insufficient_privilege is about who runs it


def _watched(body: Any, recorder: Recorder) -> Any:
    def run(**arguments: Any) -> None:
        with recorder.on():
            body(**arguments)

    return run


@contextmanager
def scratch(given: Settings) -> Iterator[URL]:
    """The URL of an empty database, dropped at the end. Those that a killed trace has left are dropped first."""
    server = connect.engine(_server(given), "mcp-planner-guard trace")
    name = f"planner_trace_{secrets.token_hex(4)}"
    try:
        with connect.opened(server, autocommit=True) as connection:
            _clear(connection)
            execute(connection, f"CREATE DATABASE {identifier(name)} TEMPLATE template0")
            try:
                yield server.url.set(database=name)
            finally:
                execute(connection, f"DROP DATABASE IF EXISTS {identifier(name)} WITH (FORCE)")
    finally:
        server.dispose()


def _clear(connection: Connection) -> None:
    """Drop what killed traces have left, unless another one is at work; say that one is, until the connection ends."""
    if execute(connection, f"SELECT pg_catalog.pg_try_advisory_lock({_KEY})").scalar_one():
        for (left,) in execute(connection, _LEFT).all():
            execute(connection, f"DROP DATABASE IF EXISTS {identifier(left)}")
        execute(connection, f"SELECT pg_catalog.pg_advisory_lock_shared({_KEY}), pg_catalog.pg_advisory_unlock({_KEY})")
    else:
        execute(connection, f"SELECT pg_catalog.pg_advisory_lock_shared({_KEY})")


def _server(given: Settings) -> URL:
    if given.archive_check_url:
        try:
            return address.parse(given.archive_check_url).set(drivername="postgresql+psycopg2")
        except ValueError:
            raise WrongUse(
                "archive_check_url is no database URL (it is not shown: it may hold a password).",
                "archive_check_url = postgresql://user@host:5432/postgres",
            ) from None
    if not given.embedded:  # a project of somebody's own, which names its databases only
        raise WrongUse(
            "There is no server to make a scratch database on: neither embedded nor archive_check_url is set.",
            "write embedded = %(here)s below [guard] in alembic.ini (a PostgreSQL of that folder's own), or archive_check_url = "
            "postgresql://user@host:5432/postgres, then repeat the command",
        )
    import dataclasses

    return connect.url(dataclasses.replace(given, url=None)).set(database="postgres")
