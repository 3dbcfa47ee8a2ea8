"""Whether a live database is what its revisions have made of it, object by object: ``make migrate-drift``. Reads only."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard import catalog_change, connect, version_table
from mcp_planner_schema.guard.findings import WrongUse
from mcp_planner_schema.guard.fingerprint import at_once, difference, of, stored, structure, together, without
from mcp_planner_schema.inspect import route, status

if TYPE_CHECKING:
    from alembic.config import Config


@dataclass(frozen=True)
class Drift:
    """``structure`` is what makes the database another one; ``beside`` is order of columns, comments, grants.

    Both hold lines for people; what is indented belongs to the line above it. ``found`` and ``expected`` are fingerprints.
    """

    database: str
    heads: tuple[str, ...]
    expected: str
    found: str
    structure: tuple[str, ...]
    beside: tuple[str, ...]

    def text(self) -> str:
        """All of it for people."""
        at = ", ".join(self.heads) or "base"
        lines = [*self.structure, *(f"note: {line}" if not line.startswith(" ") else line for line in self.beside)]
        count = sum(not line.startswith(" ") for line in self.structure)
        differ = (
            f"{count} object{' differs' if count == 1 else 's differ'}" if count else "as the revisions have made it"
        )
        return "\n".join([*lines, f"{self.database} at {at}: {differ}"])

    def as_json(self) -> dict[str, Any]:
        """The same for machines."""
        return asdict(self)


def read_drift(config: Config) -> Drift:
    """Compare. Raises :class:`WrongUse` where nothing is stored for a revision that is applied."""
    table = version_table.of(config)
    with status.connected(config) as (connection, given):
        heads = version_table.heads(connection, table)
        with route.history(config, given, (), connection, table) as script:
            applied = catalog_change.chain(script, heads)
            if not catalog_change.kept(script):
                raise WrongUse(
                    "Nothing is stored of what the revisions make of the catalog, so nothing can be compared.",
                    "make migrate-fingerprint VERSION=all   (and commit what it writes)",
                )
            expected = stored.expected(script.dir, applied)
        with connect.opened(connection.engine, autocommit=True) as asking:
            found = together(at_once(asking, given.schema, without=without(asking, given.schema, table.shown)))
        url = connection.engine.url
        told = difference(structure(expected), structure(found))
        every = difference(expected, found)
        return Drift(
            f"{url.database} at {connect.place(url)}", heads, str(of(expected)), str(of(found)), tuple(told),
            tuple(line for line in every if line not in told),
        )  # fmt: skip
