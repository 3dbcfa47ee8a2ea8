"""``make migrate-export FORMAT=prisma``: a ``schema.prisma`` for the database as it is.

Prisma's validator accepts it, its formatter leaves it as it is, and it is called by the names that ``prisma db pull`` would
give. The database is only read.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mcp_planner_schema.guard.findings import WrongUse
from mcp_planner_schema.guard.fingerprint import other_tools
from mcp_planner_schema.interop import table as tables
from mcp_planner_schema.interop.prisma import left_out, model, names, query, relations, text
from mcp_planner_schema.interop.prisma.catalog import Catalog

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy import Connection

NAME = "schema.prisma"
_HEAD = """\
// Written by make migrate-export FORMAT=prisma from a database whose schema is made by migrations: a change begins there, and
// this file is written anew. What Prisma has no words for stands above the model that has it, and in a list at the end.

"""


def write(config: Config, into: Path) -> Path | None:
    """Write the file into a folder; gives it, or None where it is what it was. Somebody's own one is refused."""
    from mcp_planner_schema.guard import version_table
    from mcp_planner_schema.inspect import status

    table = version_table.of(config)
    with status.connected(config) as (connection, given):
        content = schema(connection, given.schema, tables.of_alembic(connection, table))
    path = into / NAME
    there = path.read_bytes() if path.is_file() else None
    if there == content.encode():
        return None
    if there is not None and not there.startswith(_HEAD.split("\n")[0].encode()):
        raise WrongUse(
            f"{path} was not written by this command: what somebody has written into it would be lost.",
            "make migrate-export FORMAT=prisma DIR=…, or remove that file (its generator can stand in another one beside it)",
        )
    into.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode())
    return path


def schema(connection: Connection, own: str, without: set[tuple[str, str]]) -> str:
    """The text for a database; ``own`` is the guard's schema and ``without`` Alembic's table, which are no part of it."""
    connection.rollback()  # a transaction that is under way keeps the isolation that it has
    snapshot = connection.execution_options(isolation_level="REPEATABLE READ")
    return of(query.read(snapshot, own, sorted(without | other_tools.there(snapshot, own))))


def of(catalog: Catalog) -> str:
    """The text for what a database holds."""
    filled = [table for table in catalog.tables if table.columns]
    by_oid = {table.oid: table for table in filled}
    every = names.types([*filled, *catalog.enums])
    hidden = [table for table in filled if relations.joins(table, by_oid, every)]
    shown = [table for table in filled if table not in hidden]
    types = names.types([*shown, *catalog.enums])
    naming = relations.Naming(
        types,
        {table.oid: names.plain(table.name) for table in shown},
        {table.oid: names.distinct(column.name for column in table.columns) for table in shown},
    )
    values = {one.oid: names.distinct(one.values, "EMPTY_ENUM_VALUE") for one in catalog.enums}
    left = left_out.everything(catalog, hidden)
    related = relations.fields(shown, hidden, naming)
    several = catalog.schemas not in ([], ["public"])
    blocks = [
        model.model(table, naming, values, related[table.oid], several, left_out.notes(table, left)) for table in shown
    ]
    blocks += [model.enum(one, types[one.oid], values[one.oid], several) for one in catalog.enums]
    parts = [_source(catalog.schemas if several else []), *(block.written() for block in blocks)]
    return _HEAD + "\n".join([*parts, left_out.written(catalog, left)])


def _source(schemas: list[str]) -> str:
    lines = ['provider = "postgresql"']
    if schemas:
        lines.append(f"schemas  = [{', '.join(map(text.quoted, schemas))}]")
    return "datasource db {\n" + "".join(f"  {line}\n" for line in lines) + "}\n"
