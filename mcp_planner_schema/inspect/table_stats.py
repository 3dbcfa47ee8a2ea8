"""How large the tables are where it matters: ``alembic/table-stats.json``, committed, refreshed by ``make table-stats``.

Numbers of rows and bytes, nothing of what is in them, rounded so that the file changes only when a table really does. The
revision it was taken at divides the history: what comes after it is judged as what will be deployed next.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mcp_planner_schema.guard import version_table
from mcp_planner_schema.guard.findings import WrongUse
from mcp_planner_schema.inspect import status, table_sizes
from mcp_planner_schema.inspect.table_sizes import Size

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy import Connection

SMALL = 8_000_000
"""Bytes, with indexes, up to which a table is read or written anew well within a quarter of a second."""


@dataclass(frozen=True)
class TableStats:
    """``heads`` is where the database stood, ``server`` its version; ``bytes`` and ``rows`` are by ``schema.table``."""

    heads: tuple[str, ...] = ()
    server: str = "18.0"
    bytes: Mapping[str, int] = field(default_factory=dict)
    rows: Mapping[str, int] = field(default_factory=dict)

    def small(self, table: str) -> bool:
        """Whether the table is known to be small. One that is not in the file may have any size."""
        size = self.bytes.get(table if "." in table else f"public.{table}")
        return size is not None and size <= SMALL


def load(script_dir: str | Path) -> TableStats:
    """The committed file; where there is none, nothing was deployed yet."""
    return read(place(script_dir))


def read(path: Path) -> TableStats:
    """A file of sizes, this history's or another; where there is none, nothing is known."""
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
        tables = read["tables"]
        return TableStats(
            tuple(read["version"]), str(read["server"]),
            {name: int(one["bytes"]) for name, one in tables.items()},
            {name: int(one["rows"]) for name, one in tables.items()},
        )  # fmt: skip
    except FileNotFoundError:
        return TableStats()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WrongUse(
            f"{path} cannot be read: {type(error).__name__}: {error}.",
            "make table-stats   (against the largest database)",
        ) from None


def place(script_dir: str | Path) -> Path:
    """The file, beside the folder of the revisions."""
    return Path(script_dir) / "table-stats.json"


def measure(config: Config) -> TableStats:
    """Ask the configured database. Reads the catalog only, no row of any table."""
    table = version_table.of(config)
    with status.connected(config) as (connection, _):
        heads = version_table.heads(connection, table)
        return of(heads, server(connection), table_sizes.read(connection))


def server(connection: Connection) -> str:
    """The server's version, as the file names it."""
    number = int(connection.exec_driver_sql("SHOW server_version_num").scalar_one())
    return f"{number // 10000}.{number % 10000}"


def of(heads: tuple[str, ...], server: str, sizes: Mapping[str, Size]) -> TableStats:
    """What the file would say of these tables. One of unknown size is not in it, so it counts as large."""
    known = {name: size for name, size in sizes.items() if size.bytes is not None}
    return TableStats(
        heads, server,
        {name: _rounded(size.bytes or 0) for name, size in known.items()},
        {name: _rounded(size.rows or 0) for name, size in known.items()},
    )  # fmt: skip


def text(stats: TableStats) -> str:
    """The file's content, sorted."""
    tables = {name: {"rows": stats.rows[name], "bytes": stats.bytes[name]} for name in sorted(stats.bytes)}
    return json.dumps({"version": list(stats.heads), "server": stats.server, "tables": tables}, indent=2) + "\n"


def _rounded(number: int) -> int:
    digits = len(str(number)) - 2
    return round(number, -digits) if digits > 0 else number
