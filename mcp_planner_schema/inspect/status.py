"""Where a database stands: its version, what is pending, what the last runs did. Reads only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard import connect, graph, settings
from mcp_planner_schema.guard.findings import WrongUse

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.script import ScriptDirectory
    from sqlalchemy import Connection


@dataclass(frozen=True)
class Status:
    """One answer to "where are we?". ``pending`` are revisions in the order they would run; ``edited`` were changed since."""

    database: str
    environment: str
    current: tuple[str, ...]
    head: tuple[str, ...]
    pending: tuple[str, ...]
    unknown: tuple[str, ...]
    edited: tuple[str, ...]
    last_runs: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """The same as plain lists and strings."""
        return asdict(self)

    def text(self) -> str:
        """The same for people."""
        lines = [
            f"database   {self.database}  ({self.environment})",
            f"version    {', '.join(self.current) or 'base'}",
            f"head       {', '.join(self.head) or 'none'}",
            "pending    " + (f"{len(self.pending)}" if self.pending else "nothing"),
            *(f"           {line}" for line in self.pending),
            *(f"unknown    {revision}: no file here has it" for revision in self.unknown),
            *(f"edited     {line}" for line in self.edited),
            *(f"run        {line}" for line in self.last_runs),
        ]
        return "\n".join(lines)


@contextmanager
def connected(config: Config) -> Iterator[tuple[Connection, settings.Settings]]:
    """A read-only connection to the configured database; failures come as one sentence."""
    from sqlalchemy.exc import OperationalError

    read = settings.load(config)
    target = connect.url(read)
    engine = connect.engine(target, "mcp-planner-guard inspect")
    try:
        connection = engine.connect().execution_options(postgresql_readonly=True)
    except OperationalError as error:
        raise connect.failure(error, target) from None
    with connection:
        yield connection, read


def read(config: Config) -> Status:
    """Ask the database and the folder. Imports the revisions, as Alembic does."""
    script = _script(config)
    with connected(config) as (connection, given):
        current = _heads(connection)
        unknown = tuple(head for head in current if not _known(script, head))
        pending = () if unknown else tuple(_pending(script, current))
        findings = graph.edited(script, given, connection, "alembic_version")
        edited = tuple(finding.text().splitlines()[1].strip() for finding in findings)
        url = connection.engine.url
        return Status(
            database=f"{url.database} at {connect.place(url)}",
            environment=given.environment,
            current=current,
            head=tuple(script.get_heads()),
            pending=pending,
            unknown=unknown,
            edited=edited,
            last_runs=tuple(_runs(connection, given.schema)),
        )


def resolve(config: Config, target: str, here: str) -> str:
    """The revision that ``target`` (``head``, ``003``, ``-2``) means from ``here``. Raises :class:`WrongUse`."""
    script = _script(config)
    if not target.startswith("-"):
        if target == "head":
            return script.get_current_head() or "base"
        return "base" if target == "base" else _revision(script, target)
    line = [*(one.revision for one in script.iterate_revisions(here, "base")), "base"] if here != "base" else ["base"]
    steps = int(target[1:])
    if steps >= len(line):
        raise WrongUse(f"The database is {len(line) - 1} steps above base; {steps} is too many.", "make migrate-status")
    return line[steps]


def lies_behind(config: Config, target: str) -> bool:
    """Whether going to ``target`` from where the database is means going back. Raises :class:`WrongUse` if unknown."""
    script = _script(config)
    with connected(config) as (connection, _):
        current = _heads(connection)
    if target == "base":
        return bool(current)
    wanted = _revision(script, target)
    return any(
        wanted in {one.revision for one in script.iterate_revisions(head, "base")} and wanted != head
        for head in current
    )


def history(config: Config) -> list[dict[str, Any]]:
    """The rows of the guard's history, oldest first, without source texts."""
    with connected(config) as (connection, given):
        if not _exists(connection, f"{given.schema}.history"):
            return []
        rows = connection.exec_driver_sql(
            "SELECT id, run_id, revision, direction, outcome, description, author, date_trunc('second', started_at)::text "
            "AS started_at, round(duration_ms::numeric, 1)::float8 AS duration_ms, round(lock_wait_ms::numeric, 1)::float8 "
            "AS lock_wait_ms, round(hold_ms::numeric, 1)::float8 AS hold_ms, attempts, rows_touched, checksum, waivers, "
            f"who, host, git_commit, tool_version, error FROM {given.schema}.history ORDER BY id"
        )
        return [dict(row) for row in rows.mappings()]


def history_text(rows: list[dict[str, Any]]) -> str:
    """One line a row, for people."""
    lines = [
        f"{row['id']:>5}  {row['started_at']:<22}  {row['revision']:<6} {row['direction']:<9} {row['outcome']:<7} "
        f"{row['duration_ms']:>8.0f} ms  {row['who']}  {(row['error'] or row['description'] or '').splitlines()[0]}"
        for row in rows
    ]
    return "\n".join(lines) or "no run yet"


def drop_everything(config: Config) -> None:
    """Drop ``public`` and the guard's schemas, in development only. Commits. Raises :class:`WrongUse` elsewhere."""
    from alembic.runtime.migration import MigrationContext

    from mcp_planner_schema.guard import deploy_lock
    from mcp_planner_schema.guard.runner import say

    given = settings.load(config)
    if given.environment != "development":
        raise WrongUse(
            f"This database counts as {given.environment}, and a reset destroys everything in it.",
            "PLANNER_ENV=development make migrate-reset   (if it really is one)",
        )
    with connected(config) as (asking, _):
        engine = asking.engine
    version_table = MigrationContext.configure(dialect_name="postgresql").version_table
    lock = deploy_lock.key(version_table, None)
    with (
        deploy_lock.held(engine, lock, given.deploy_lock_timeout, say, "make migrate-reset"),
        engine.begin() as connection,
    ):
        connection.exec_driver_sql("SET LOCAL lock_timeout = '10s'")
        schemas = connection.exec_driver_sql(
            r"SELECT quote_ident(nspname) FROM pg_catalog.pg_namespace WHERE nspname = 'public' OR nspname LIKE 'migration%%'"
        )
        for (schema,) in schemas.all():
            connection.exec_driver_sql(f"DROP SCHEMA {schema} CASCADE")
        connection.exec_driver_sql("CREATE SCHEMA public")
        say(f"dropped everything in {engine.url.database}")


def _script(config: Config) -> ScriptDirectory:
    from alembic.script import ScriptDirectory

    script = ScriptDirectory.from_config(config)
    graph.explain(script, settings.load(config), (), "make migrate-status")
    return script


def _heads(connection: Connection) -> tuple[str, ...]:
    from alembic.runtime.migration import MigrationContext

    return MigrationContext.configure(connection).get_current_heads()


def _pending(script: ScriptDirectory, current: tuple[str, ...]) -> list[str]:
    done = {one.revision for one in script.iterate_revisions(current, "base")} if current else set()
    every = reversed(list(script.walk_revisions()))
    return [f"{one.revision}  {one.doc}" for one in every if one.revision not in done]


def _known(script: ScriptDirectory, revision: str) -> bool:
    from alembic.util import CommandError

    try:
        return script.get_revision(revision) is not None
    except CommandError:
        return False


def _revision(script: ScriptDirectory, target: str) -> str:
    from alembic.util import CommandError

    try:
        found = script.get_revision(target)
    except CommandError as error:
        raise WrongUse(f"{str(error).rstrip('.')}.", "make migrate-status") from error
    if found is None:
        raise WrongUse(f"There is no revision {target}.", "make migrate-status")
    return found.revision


def _runs(connection: Connection, schema: str) -> list[str]:
    if not _exists(connection, f"{schema}.run"):
        return []
    rows = connection.exec_driver_sql(
        f"SELECT id, command, state, date_trunc('second', started_at)::text, who FROM {schema}.run ORDER BY id DESC LIMIT 3"
    )
    return [f"{row[0]}: {row[1]}: {row[2]} ({row[3]}, by {row[4]})" for row in rows]


def _exists(connection: Connection, name: str) -> bool:
    return connection.exec_driver_sql("SELECT to_regclass(%s) IS NOT NULL", (name,)).scalar_one() is True
