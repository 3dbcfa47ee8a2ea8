"""Alembic's version table: where the project's ``env.py`` keeps it, what it says, and room for long revision ids in it.

Its column holds 32 characters, and a longer id fails after all the work is done.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mcp_planner_schema.guard.findings import Broken, GuardError
from mcp_planner_schema.guard.postcheck import identifier

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy import Connection

_ALEMBIC_WIDTH = 32
_WIDTH = """
SELECT a.atttypmod - 4 FROM pg_catalog.pg_attribute a
WHERE a.attrelid = to_regclass(%s) AND a.attname = 'version_num' AND a.atttypid = 'varchar'::regtype AND a.atttypmod > 0
"""
# An env.py that calls the guard itself and hands over no option of that name keeps the version where Alembic does.
_OURS = re.compile(r"^from mcp_planner_schema\.guard import run\b", re.MULTILINE)
_MAY_NAME_IT = re.compile(r"version_table|\*\*")


class VersionTable(NamedTuple):
    """The version table by its parts; without a schema it is found by the session's search_path."""

    name: str = "alembic_version"
    schema: str | None = None

    @property
    def sql(self) -> str:
        """As a statement names it, quoted."""
        return ".".join(identifier(part) for part in (self.schema, self.name) if part)

    @property
    def shown(self) -> str:
        """As the guard's rows name it."""
        return ".".join(filter(None, (self.schema, self.name)))


def of(config: Config) -> VersionTable:
    """The table that ``env.py`` names. It is run for that, with nothing to do; no database is asked.

    Raises :class:`Broken` where it fails.
    """
    text = _env(config)
    if _OURS.search(text) and not _MAY_NAME_IT.search(text):
        return VersionTable()
    told = _options(config)
    return VersionTable(told.get("version_table") or "alembic_version", told.get("version_table_schema"))


def set_up(config: Config) -> None:
    """Let ``env.py`` do what the revisions need before they run (a configuration, types of its own), where they run without it.

    Not one that does not call the guard: it would ask the database. Raises as :func:`of` does.
    """
    if _OURS.search(_env(config)):
        _options(config)


def _env(config: Config) -> str:
    from alembic.script import ScriptDirectory

    path = Path(ScriptDirectory.from_config(config).env_py_location)
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _options(config: Config) -> dict[str, Any]:
    from alembic.runtime.environment import EnvironmentContext
    from alembic.script import ScriptDirectory

    script = ScriptDirectory.from_config(config)
    path = Path(script.env_py_location)
    told: dict[str, Any] = {}
    config.attributes["only_options"] = told
    try:
        with EnvironmentContext(config, script, fn=lambda heads, context: []):
            script.run_env()
    except GuardError:
        raise
    except Exception as error:
        raise Broken(
            f"{path} cannot be run: {type(error).__name__}: {error}", f"correct {path}, then repeat the command"
        ) from error
    finally:
        del config.attributes["only_options"]
    return told


def heads(connection: Connection, table: VersionTable) -> tuple[str, ...]:
    """What the version table says; ends the transaction it was read in."""
    from alembic.runtime.migration import MigrationContext

    named = {"version_table": table.name, "version_table_schema": table.schema}
    found = MigrationContext.configure(connection, opts=named).get_current_heads()
    connection.rollback()
    return tuple(found)


def fit(connection: Connection, name: str, schema: str | None, longest: int) -> None:
    """Make room for an id of ``longest`` characters, before the first step. Commits by autocommit; rewrites nothing."""
    if longest <= _ALEMBIC_WIDTH:
        return
    from sqlalchemy import Column, MetaData, PrimaryKeyConstraint, Table, Text

    key = PrimaryKeyConstraint("version_num", name=f"{name}_pkc")
    table = Table(name, MetaData(), Column("version_num", Text, nullable=False), key, schema=schema)
    table.create(connection, checkfirst=True)
    shown = connection.dialect.identifier_preparer.format_table(table)
    width = connection.exec_driver_sql(_WIDTH, (shown,)).scalar_one_or_none()
    if width is not None and width < longest:
        connection.exec_driver_sql(f"ALTER TABLE {shown} ALTER COLUMN version_num TYPE text")
