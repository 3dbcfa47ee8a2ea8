"""Loading example projects: one transaction, one COPY per table and batch, the next batch made while the server works."""

from __future__ import annotations

import io
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.example_data.project import COLUMNS, project_id
from mcp_planner_schema.example_data.rows import rows
from mcp_planner_schema.guard import banner, connect, settings, version_table
from mcp_planner_schema.guard.findings import Broken, Busy, WrongUse

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy import URL, Connection

BATCH = 2 << 20  # bytes of COPY text: enough that twelve COPYs cost nothing, little enough that memory stays flat
CHUNK = 256 << 10  # bytes handed to libpq at once
PATIENCE = 2.0  # seconds before a progress line appears
LOCK_TIMEOUT = "10s"  # for other writers to finish
MOST = 16**12  # the last twelve digits of a project's id are its number

Say = Callable[[int, int, int, float], None]


_WRITTEN_BY = "mcp_planner_schema/models/ and mcp_planner_schema/example_data/project.py"


class _Unlike(Broken):
    """The tables are not those that the rows are made for."""


@dataclass(frozen=True)
class Loaded:
    """What one load wrote: rows by table, the number of its first project, and how long it took in seconds."""

    rows: dict[str, int]
    first: int
    projects: int
    seconds: float

    @property
    def total(self) -> int:
        """Rows of all tables."""
        return sum(self.rows.values())

    def text(self) -> str:
        """One line for people."""
        return (
            f"{self.projects:,} projects (number {self.first + 1:,} to {self.first + self.projects:,}): {self.total:,} rows "
            f"in {len(self.rows)} tables, {self.seconds:.1f} s, {self.total / max(self.seconds, 1e-9):,.0f} rows/s"
        )


def fill(config: Config, *, projects: int, seed: int = 1) -> str:
    """Add `projects` example projects to the configured database and commit; gives one line with rows and rows/s.

    The projects of a seed are numbered. A second run goes on where the first ended: twice 10 is the same as once 20.
    All or nothing: whatever fails, nothing is written. Other sessions cannot write to these tables until the end.
    Raises :class:`WrongUse` outside development and for impossible numbers, :class:`Broken` when a table is missing or
    rows are in the way, :class:`Busy` when another session keeps writing for 10 s.
    """
    from sqlalchemy.exc import OperationalError

    given = settings.load(config)
    if not given.disposable:
        raise WrongUse(
            f"Example data belongs into development only, and nobody has said that this is it (it counts as "
            f"{given.environment}).",
            f"PLANNER_ENV=development make example-data PROJECTS={projects}   (if it really is one)",
        )
    target = connect.url(given)
    try:
        connection = connect.engine(target, "mcp-planner example-data").connect()
    except OperationalError as error:
        raise connect.failure(error, target) from None
    terminal = sys.stderr.isatty()
    try:
        banner.met(config, connection, given, changes=True)
        with connection, connection.begin():
            return load(connection, projects=projects, seed=seed, say=_line if terminal else None).text()
    except _Unlike as error:
        raise _at_head(config, target, error, f"make example-data PROJECTS={projects}") or error from None
    finally:
        if terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def load(connection: Connection | Any, *, projects: int, seed: int = 1, say: Say | None = None) -> Loaded:
    """Add `projects` example projects through a SQLAlchemy or psycopg2 connection.

    On a psycopg2 connection in autocommit mode this is one transaction of its own; otherwise it joins the caller's, who
    commits. The tables' own triggers rest meanwhile (constraints and foreign keys do not): the rows hold already what
    triggers would add, such as the audit log and the links. `say` is told, at most five times a second, how many projects of
    how many and how many rows are written after how many seconds. Errors as :func:`fill` has them.
    """
    import psycopg2
    from psycopg2 import errors

    if projects < 1 or seed < 0:
        raise WrongUse(
            f"{projects} projects of seed {seed} cannot be made: at least 1 project, and a seed of 0 or more.",
            "make example-data PROJECTS=100 SEED=1",
        )
    # SQLAlchemy's connection wraps a pool's, which wraps the driver's.
    raw: Any = getattr(getattr(connection, "connection", None), "driver_connection", connection)
    repeat = f"make example-data PROJECTS={projects}"
    try:
        # psycopg2's own `with` begins a transaction in autocommit mode too, and commits or rolls back at the end.
        with raw if raw.autocommit else nullcontext(), raw.cursor() as cursor:
            return _load(cursor, projects, seed, say)
    except errors.UniqueViolation as error:
        raise Broken(
            f"Some rows of seed {seed} are there already ({error.diag.constraint_name}), perhaps the log of example "
            "projects that were deleted. Nothing was written.",
            f"{repeat} SEED={seed + 1}",
        ) from error
    except (errors.LockNotAvailable, errors.DeadlockDetected) as error:
        raise Busy(
            f"Other sessions are writing to these tables; nothing was written after {LOCK_TIMEOUT}.", repeat
        ) from error
    except errors.UndefinedColumn as error:
        raise _Unlike(
            f"The database is not at head: {error.diag.message_primary}. Nothing was written.", "make migrate-up"
        ) from error
    except psycopg2.Error as error:
        said = str(error).strip().splitlines() or ["the connection was lost"]
        raise Broken(f"PostgreSQL refused the rows, nothing was written: {said[0]}", "make migrate-status") from error


def _load(cursor: Any, projects: int, seed: int, say: Say | None) -> Loaded:
    begun = time.monotonic()
    _tables_exist(cursor)
    cursor.execute("SELECT current_setting('lock_timeout'), current_setting('enable_seqscan')")
    lock_timeout, enable_seqscan = cursor.fetchone()
    cursor.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
    # Two loads would take the same numbers; and triggers may rest only while nobody else needs them.
    cursor.execute(f"LOCK TABLE {', '.join(f'public.{table}' for table in COLUMNS)} IN SHARE ROW EXCLUSIVE MODE")
    cursor.execute("SELECT set_config('lock_timeout', %s, true)", (lock_timeout,))
    # A session plans each foreign key's check once, perhaps when its table has one page: reading all of it is cheapest
    # then, and stays the plan as the table grows (measured: ten times slower at a million rows). An ANALYZE would
    # correct that, but no other session sees these rows. Plans from before this transaction are dropped.
    cursor.execute("SET LOCAL enable_seqscan = off; DISCARD PLANS")
    first = _next_number(cursor, seed)
    if first + projects > MOST:
        raise WrongUse(f"There are no {projects} numbers left for seed {seed}.", f"make example-data SEED={seed + 1}")
    triggers = _triggers(cursor)
    for table, name, _ in triggers:
        cursor.execute(f"ALTER TABLE public.{table} DISABLE TRIGGER {name}")
    counts: Counter[str] = Counter(dict.fromkeys(COLUMNS, 0))
    told = begun + PATIENCE
    # One batch ahead: libpq lets go of the interpreter while the server checks foreign keys and writes its indexes.
    with ThreadPoolExecutor(1) as ahead:
        made = batches(rows(seed, first, projects))
        coming = ahead.submit(next, made, None)
        while (batch := coming.result()) is not None:
            coming = ahead.submit(next, made, None)
            done, texts = batch
            for table, text in texts.items():
                cursor.copy_expert(f"COPY public.{table} ({COLUMNS[table]}) FROM STDIN", io.BytesIO(text), CHUNK)
                counts[table] += cursor.rowcount
            now = time.monotonic()
            if say is not None and now > told:
                told = now + 0.2
                say(done, projects, counts.total(), now - begun)
    for table, name, state in triggers:
        cursor.execute(f"ALTER TABLE public.{table} ENABLE {state} TRIGGER {name}")
    cursor.execute("SELECT set_config('enable_seqscan', %s, true)", (enable_seqscan,))
    return Loaded(dict(counts), first, projects, time.monotonic() - begun)


def batches(projects: Iterator[dict[str, bytes]]) -> Iterator[tuple[int, dict[str, bytes]]]:
    """Projects put together by table, in the order foreign keys need, with how many projects that makes so far."""
    waiting: dict[str, list[bytes]] = {table: [] for table in COLUMNS}
    size = done = 0
    for done, project in enumerate(projects, start=1):
        for table, text in project.items():
            waiting[table].append(text)
            size += len(text)
        if size >= BATCH:
            yield done, {table: b"".join(texts) for table, texts in waiting.items() if texts}
            waiting, size = {table: [] for table in COLUMNS}, 0
    if size:
        yield done, {table: b"".join(texts) for table, texts in waiting.items() if texts}


def _tables_exist(cursor: Any) -> None:
    for table in COLUMNS:
        cursor.execute("SELECT pg_catalog.to_regclass(%s) IS NULL", (f"public.{table}",))
        if cursor.fetchone()[0]:
            raise _Unlike(f"The database has no table {table}; nothing was written.", "make migrate-up")


def _at_head(config: Config, target: URL, error: Broken, repeat: str) -> Broken | None:
    """What it means that the tables differ where every revision is applied: the package was not changed with them."""
    from alembic.script import ScriptDirectory

    with connect.opened(connect.engine(target, "mcp-planner example-data")) as connection:
        stands = version_table.heads(connection, version_table.of(config))
    if set(stands) != set(ScriptDirectory.from_config(config).get_heads()):
        return None
    said = error.message.removeprefix("The database is not at head: ")
    return Broken(
        f"{said[0].upper()}{said[1:]} The database is at {', '.join(stands)}, the newest revision: the models are not what "
        f"it is. Either {_WRITTEN_BY} do not say yet what a revision has changed, or somebody has changed it by hand "
        "(make migrate-drift).",
        f"change {_WRITTEN_BY} as the revision does, then {repeat}",
    )


def _next_number(cursor: Any, seed: int) -> int:
    """One more than the highest number among the seed's projects; one index lookup."""
    low, high = project_id(seed, 0), project_id(seed, MOST - 1)
    cursor.execute(
        "SELECT id::text FROM public.projects WHERE id BETWEEN %s AND %s ORDER BY id DESC LIMIT 1", (low, high)
    )
    found = cursor.fetchone()
    return int(found[0][-12:], 16) + 1 if found else 0


def _triggers(cursor: Any) -> list[tuple[str, str, str]]:
    """The tables' own enabled triggers, not those of constraints: table, quoted name, and how to enable it again."""
    cursor.execute(
        """
        SELECT class.relname, pg_catalog.format('%%I', tgname),
            CASE tgenabled WHEN 'R' THEN 'REPLICA' WHEN 'A' THEN 'ALWAYS' ELSE '' END
        FROM pg_catalog.pg_trigger JOIN pg_catalog.pg_class class ON class.oid = tgrelid
        WHERE class.relnamespace = 'public'::regnamespace AND class.relname = ANY (%s)
            AND NOT tgisinternal AND tgenabled <> 'D'
        ORDER BY 1, 2
        """,
        (list(COLUMNS),),
    )
    found: list[tuple[str, str, str]] = cursor.fetchall()
    return found


def _line(done: int, projects: int, written: int, seconds: float) -> None:
    """Draw the progress over itself on the terminal."""
    text = f"{done:,} of {projects:,} projects, {written:,} rows, {written / seconds:,.0f} rows/s"
    print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
