"""What a plan asks the database: sizes, what goes on, who is in the way, what a revision took before. Reads only."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mcp_planner_schema.guard import blockers, connect, version_table
from mcp_planner_schema.guard.findings import Broken
from mcp_planner_schema.guard.stored_locks import MODES
from mcp_planner_schema.guard.version_table import VersionTable
from mcp_planner_schema.inspect import status, table_sizes, table_stats
from mcp_planner_schema.inspect.planned import Before
from mcp_planner_schema.inspect.table_sizes import Rates, Size
from mcp_planner_schema.inspect.table_stats import TableStats

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy import Connection

_BEFORE = """
SELECT DISTINCT ON (h.revision) h.revision, h.checksum, h.finished_at::date::text, h.duration_ms, h.hold_ms
FROM {schema}.history h JOIN {schema}.run r ON r.id = h.run_id
WHERE h.outcome = 'done' AND h.direction = 'upgrade' AND r.version_table = %s AND h.revision = ANY (%s::text[])
ORDER BY h.revision, h.id DESC
"""


@dataclass(frozen=True)
class Facts:
    """What is known of the tables. ``database`` is None where none was asked; ``origin`` says where the sizes are from.

    ``at`` is when they were read, by ``time.monotonic()``.
    """

    heads: tuple[str, ...]
    database: str | None = None
    server: str = "18.0"
    sizes: Mapping[str, Size] = field(default_factory=dict)
    origin: str = ""
    at: float = 0.0

    def stats(self) -> TableStats:
        """As the lint wants to know them."""
        return table_stats.of(self.heads, self.server, self.sizes)


@contextmanager
def connected(config: Config, repeat: str) -> Iterator[Connection]:
    """A read-only connection; where there is none to be had, the error says what can be told without one."""
    from sqlalchemy.exc import DBAPIError

    with ExitStack() as stack:
        try:
            connection, _ = stack.enter_context(status.connected(config))
        except Broken as error:
            without = "Without it there are SQL and locks, but no sizes: make migrate-plan FROM=003, where 003 is its version."
            raise Broken(f"{error.message} {without}", error.next_command) from None
        try:
            yield connection
        except DBAPIError as error:
            raise connect.outside(error, connection.engine.url, repeat) from error


def ask(connection: Connection, table: VersionTable) -> Facts:
    """The version, and every table as it is now."""
    url = connection.engine.url
    heads, server = version_table.heads(connection, table), table_stats.server(connection)
    connection.rollback()
    sizes, at = table_sizes.read(connection), time.monotonic()
    return Facts(heads, f"{url.database} at {connect.place(url)}", server, sizes, "of this database", at)


def committed(script_dir: str, heads: tuple[str, ...]) -> Facts:
    """What ``alembic/table-stats.json`` knows, where no database is asked."""
    stats = table_stats.load(script_dir)
    if not stats.bytes:
        return Facts(heads)
    sizes = {name: Size(size, None, stats.rows[name]) for name, size in stats.bytes.items()}
    origin = f"of alembic/table-stats.json, taken at {', '.join(stats.heads) or 'base'}"
    return Facts(heads, None, stats.server, sizes, origin)


def activity(connection: Connection, facts: Facts) -> Rates:
    """Writes and scans a second since the statistics were reset; where that is not known, between two readings."""
    since = table_sizes.counted_since(connection)
    if since:
        return table_sizes.rates(None, facts.sizes, since[1], since[0])
    time.sleep(max(0.0, table_sizes.APART - (time.monotonic() - facts.at)))
    again, now = table_sizes.read(connection), time.monotonic()
    return table_sizes.rates(facts.sizes, again, now - facts.at, None)


# The weakest mode that each waits for, by their places in MODES; what is stronger is waited for too, but SHARE for no SHARE.
_WAITS_FOR = dict(zip(MODES, (7, 6, 4, 3, 2, 2, 1, 0), strict=True))
_PLACES = {mode.title().replace(" ", "") + "Lock": place for place, mode in enumerate(MODES)}  # as pg_locks calls them


def users(connection: Connection, schema: str, tables: Sequence[str]) -> list[str]:
    """One line for each session that has one of these tables in use for long."""
    own: int = connection.exec_driver_sql("SELECT pg_catalog.pg_backend_pid()").scalar_one()
    lines = blockers.beforehand(connection, schema, frozenset(tables), [own])
    connection.rollback()
    return lines


def waits_for(mode: str, user: str) -> bool:
    """Whether who wants a table in this mode waits for a session of :func:`users`, whose line ends with the mode it holds."""
    held = _PLACES.get(user.rpartition(" ")[2], 0)
    return held >= _WAITS_FOR.get(mode, len(MODES)) and not (mode == "SHARE" and MODES[held] == mode)


def before(connection: Connection, schema: str, table: VersionTable, checksums: Mapping[str, str]) -> dict[str, Before]:
    """What the newest upgrade of each revision took here, where it was of the same text (``checksums``)."""
    there = "SELECT pg_catalog.to_regclass(%s::text) IS NOT NULL"
    if not connection.exec_driver_sql(there, (f"{schema}.history",)).scalar_one():
        return {}
    rows = connection.exec_driver_sql(_BEFORE.format(schema=schema), (table.shown, list(checksums))).all()
    connection.rollback()
    return {name: Before(*took) for name, checksum, *took in rows if checksum == checksums[name]}
