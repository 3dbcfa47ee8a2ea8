"""A copy where there is none to be had: example data, as many rows as the statistics of production's tables say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcp_planner_schema import example_data
from mcp_planner_schema.guard import connect
from mcp_planner_schema.guard.findings import Broken
from mcp_planner_schema.inspect import table_stats
from mcp_planner_schema.staging import copying, own, pending
from mcp_planner_schema.staging.copying import impossible

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy import URL, Connection

    from mcp_planner_schema.guard.settings import Settings
    from mcp_planner_schema.inspect.table_stats import TableStats

CREATED = "TEMPLATE = template0 ENCODING = 'UTF8'"
_SAMPLE = 20
"""Projects that tell how many rows one has."""


def stats(config: Config, named: str) -> TableStats:
    """The sizes to be reached: of the file that is named, or of the history's own."""
    path = (
        Path(named).expanduser() if named else table_stats.place(config.get_main_option("script_location") or "alembic")
    )
    found = table_stats.read(path)
    if not found.rows:
        raise impossible(f"{path} tells of no table", "make table-stats, against production; or DUMP=file")
    return found


def fill(config: Config, given: Settings, wanted: TableStats, target: URL) -> dict[str, Any]:
    """Migrate to where production stands, and fill in rows. ``target`` is DATABASE_URL's, empty."""
    from alembic import command

    to = ", ".join(wanted.heads) or "base"
    engine = connect.engine(target, "mcp-planner staging copy")
    try:
        config.attributes["phase"] = "contract"
        command.upgrade(config, to)
        try:
            made = _load(engine.connect(), wanted)
        except Broken:
            if not pending.read(config).revisions:
                raise
            # The rows are made for the newest schema: they go in there, and back with it.
            command.upgrade(config, "head")
            made = _load(engine.connect(), wanted)
            command.downgrade(config, to)
        with connect.opened(connect.own(engine)) as connection:
            own.mask(connection, given.schema)
            connection.commit()
        copying.finish(connect.own(engine), given)
    finally:
        engine.dispose()
    return {"sizes": {table: [rows, wanted.rows.get(f"public.{table}", 0)] for table, rows in made.items()}}


def _load(connection: Connection, wanted: TableStats) -> Mapping[str, int]:
    with connection:
        with connection.begin():
            sample = example_data.load(connection, projects=_SAMPLE)
        more = projects(wanted, sample.rows, _SAMPLE) - _SAMPLE
        rows = dict(sample.rows)
        if more > 0:
            with connection.begin():
                for table, count in example_data.load(connection, projects=more).rows.items():
                    rows[table] += count
        return rows


def projects(wanted: TableStats, sample: Mapping[str, int], sampled: int) -> int:
    """How many projects have as many rows, all tables together, as the statistics say."""
    known = [table for table in sample if f"public.{table}" in wanted.rows]
    total = sum(wanted.rows[f"public.{table}"] for table in known)
    each = sum(sample[table] for table in known) / sampled
    return max(sampled, round(total / each)) if each else sampled
