"""``make models-pull``: SQLAlchemy models of a live database, for a team that has had none so far.

The text is made by sqlacodegen, which is asked for only here. Left out is what is no table of the application: Alembic's version
table, the guard's, other tools', partitions, and what belongs to an extension.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard import version_table
from mcp_planner_schema.guard.evidence import own
from mcp_planner_schema.guard.findings import WrongUse
from mcp_planner_schema.guard.fingerprint import other_tools
from mcp_planner_schema.guard.postcheck import execute, identifier, literal
from mcp_planner_schema.interop import table as tables

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy import Connection, MetaData

    from mcp_planner_schema.guard.version_table import VersionTable

_MARK = '"""Models of the tables of a database, written by make models-pull: run again, it writes this file anew."""'
_TABLES = """
SELECT n.nspname::text, c.relname::text
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
  AND n.nspname !~ {own}
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                  WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = c.oid AND d.deptype = 'e')
ORDER BY 1, 2
"""


def write(config: Config, into: Path, schemas: Collection[str] = ()) -> bool:
    """Write the models of these schemas (of all there are, without any) and say whether the file has changed.

    Raises :class:`WrongUse` where sqlacodegen is missing, and where the file is one that somebody has written himself.
    """
    there = into.read_text(encoding="utf-8") if into.exists() else None
    if there is not None and not there.startswith(_MARK):
        raise WrongUse(
            f"{into} is there, and was not written by this command: it would be lost.",
            f"make models-pull OUT={into.with_name('pulled.py')}",
        )
    made = text(config, schemas)
    if made == there:
        return False
    into.parent.mkdir(parents=True, exist_ok=True)
    into.write_text(made, encoding="utf-8")
    return True


def text(config: Config, schemas: Collection[str] = ()) -> str:
    """The models as a module in Python. What SQLAlchemy can say of no table stands in comments at the end."""
    from sqlalchemy import MetaData, inspect

    from mcp_planner_schema.inspect import status

    generator = _generator()
    own_table = version_table.of(config)
    with status.connected(config) as (connection, given), warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        default, metadata = inspect(connection).default_schema_name, MetaData()
        found = list(_tables(connection, given.schema, own_table))
        missing = set(schemas) - {schema for schema, _ in found}
        if missing or not found:
            known = ", ".join(sorted({schema for schema, _ in found})) or "none"
            said = f"no table in schema {', '.join(sorted(missing))}" if missing else "no table"
            raise WrongUse(
                f"This database has {said} (schemas with tables: {known}).", "make models-pull OUT=models.py"
            )
        for schema in sorted({schema for schema, _ in found if not schemas or schema in schemas}):
            names = [name for one, name in found if one == schema]
            metadata.reflect(connection, schema=None if schema == default else schema, only=names)
        notes = list(_without_expressions(connection, metadata))
        body: str = generator(metadata, connection, []).generate()
    # On one line each: a literal in an index may hold the end of one, and what follows would be run.
    notes = sorted({" ".join(note.split()) for note in [*notes, *(str(one.message) for one in told)]})
    end = (
        "".join(
            f"# {note}\n"
            for note in ["Not said above, and to be written by hand (to AUTO=1 it would be gone):", *notes]
        )
        if notes
        else ""
    )
    return f"{_MARK}\n\n{body.strip()}\n{chr(10) + end if end else ''}"


def _generator() -> Any:
    try:
        return importlib.import_module("sqlacodegen.generators").DeclarativeGenerator
    except ImportError as error:
        raise WrongUse(
            f"models-pull writes the models with sqlacodegen, which is not installed here ({error}).",
            ".venv/bin/python -m pip install 'sqlacodegen>=4.0,<5'   (or mcp-planner-schema[models])",
        ) from None


def _without_expressions(connection: Connection, metadata: MetaData) -> Iterator[str]:
    """Take out the indexes of expressions, which sqlacodegen writes without what they are of; gives their definitions."""
    from sqlalchemy import Column

    for table in metadata.tables.values():
        for index in [one for one in table.indexes if not all(isinstance(part, Column) for part in one.expressions)]:
            table.indexes.discard(index)
            home = table.schema or execute(connection, "SELECT pg_catalog.current_schema()").scalar_one()
            name = f"{identifier(home)}.{identifier(str(index.name))}"
            asked = f"SELECT pg_catalog.pg_get_indexdef({literal(name)}::pg_catalog.regclass)"
            yield str(execute(connection, asked).scalar_one())


def _tables(connection: Connection, schema: str, own_table: VersionTable) -> Iterator[tuple[str, str]]:
    """The schema and name of each table of the application."""
    others = other_tools.there(connection, schema) | tables.of_alembic(connection, own_table)
    for home, name in execute(connection, _TABLES.format(own=literal(own(schema)))):
        if (home, name) not in others:
            yield home, name
