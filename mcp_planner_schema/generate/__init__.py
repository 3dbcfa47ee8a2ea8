"""``make migrate-create KIND=…``: a change that takes several releases, written as the revisions that it takes.

The facts come from the database, which stands at the newest revision; what is written is ready to run.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mcp_planner_schema.generate.kinds import KINDS as KINDS
from mcp_planner_schema.generate.kinds import NAMES as NAMES

if TYPE_CHECKING:
    from alembic.config import Config


def write(config: Config, values: Mapping[str, str], say: Callable[[str], None] = lambda note: None) -> list[Path]:
    """Write the revisions of one change and give their files. Reads the database, and changes nothing in it.

    ``say`` is told what the author has still to see to.

    Raises :class:`WrongUse` where a value is missing or wrong, where something hangs on the column that could not come along,
    or where the database is not at the newest revision.
    """
    from alembic.script import ScriptDirectory
    from sqlalchemy.exc import DBAPIError

    from mcp_planner_schema.generate import kinds
    from mcp_planner_schema.guard import connect, settings, version_table
    from mcp_planner_schema.guard.findings import WrongUse
    from mcp_planner_schema.guard.scope import author, next_number

    given = settings.load(config)
    repeat = "make migrate-create KIND=" + values["KIND"]
    if given.headers != "required":
        raise WrongUse("KIND writes revisions with headers and numbers; here headers is not required.", "make help")
    script = ScriptDirectory.from_config(config)
    heads, table = tuple(script.get_heads()), version_table.of(config)
    with connect.opened(connect.engine(connect.url(given), "mcp-planner-guard create")) as connection:
        stands = version_table.heads(connection, table)
        if stands != heads or len(heads) > 1:
            raise WrongUse(
                f"The database is at {', '.join(stands) or 'base'}, the newest revision is "
                f"{', '.join(heads) or 'none'}: what is written follows what the database has.",
                "make migrate-up",
            )
        connection.exec_driver_sql("SET LOCAL search_path = pg_catalog")
        try:
            made = kinds.written(connection, values)
        except DBAPIError as error:
            raise WrongUse(f"PostgreSQL refuses it: {str(error.orig).strip()}", repeat) from error
        connection.rollback()
    folder = Path(script.version_locations[0] if script.version_locations else f"{script.dir}/versions")
    by, today = author(values.get("AUTHOR", "")), str(dt.datetime.now(dt.UTC).date())
    parent, paths = heads[0] if heads else None, []
    for one in made:
        for note in one.notes:
            say(note)
        number = next_number(script)
        path = folder / f"{number}_{one.title.replace(' ', '_')}.py"
        path.write_text(one.text(number, parent, by, today), encoding="utf-8")
        parent = number
        paths.append(path)
    return paths
