"""What somebody wants of a backfill from another shell: that it waits, goes on, or stops. It looks between two batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mcp_planner_schema.backfill import standing
from mcp_planner_schema.backfill.spec import typed
from mcp_planner_schema.backfill.standing import Standing
from mcp_planner_schema.guard import banner, connect, settings, version_table
from mcp_planner_schema.guard.findings import Broken, WrongUse

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy import Connection

_WANTED = {"pause": "pause", "resume": "run", "stop": "stop"}
_RIGHTS = (
    "GRANT USAGE ON SCHEMA {schema} TO {role}; "
    "GRANT SELECT ON {schema}.backfill, {schema}.backfill_range, {schema}.run TO {role}; "
    "GRANT UPDATE (wanted) ON {schema}.backfill TO {role}"
)


def ask(config: Config, action: str, name: str | None, revision: str | None) -> str:
    """Write down what is wanted: ``pause``, ``resume`` or ``stop``. Gives a line for people.

    ``name`` may be left out where there is one, ``revision`` where the name is one revision's. Raises :class:`WrongUse` where
    none or several are meant, :class:`Broken` where the role may not.
    """
    from sqlalchemy.exc import SQLAlchemyError

    given = settings.load(config)
    engine = connect.engine(connect.url(given), f"mcp-planner-guard backfill-{action}")
    repeat = str(config.attributes.get("repeat") or typed(action, name or "…"))
    with connect.opened(engine, autocommit=True) as connection:
        banner.met(config, connection, given, changes=True)
        try:
            one = _meant(standing.read(connection, given.schema, *version_table.of(config)), action, name, revision)
            moved = connection.exec_driver_sql(
                f"UPDATE {given.schema}.backfill SET wanted = %s WHERE id = %s AND state <> 'done'",
                (_WANTED[action], one.id),
            ).rowcount
        except SQLAlchemyError as error:
            if getattr(getattr(error, "orig", None), "pgcode", "") == "42501":
                raise _forbidden(connection, given.schema, repeat) from error
            raise connect.outside(error, engine.url, repeat) from error
    return _told(one, action) if moved else f"{one.called} has just come to its end"


def _meant(every: Sequence[Standing], action: str, name: str | None, revision: str | None) -> Standing:
    there = [one for one in every if one.state != "done"]
    if not there:
        raise WrongUse("No backfill runs, and none was interrupted.", "make migrate-status")
    found = [one for one in there if name in (None, one.name) and revision in (None, one.revision)]
    if name is None and len(found) > 1:  # the one that runs is meant, and not what was left long ago
        found = [one for one in found if (one.state == "paused" if action == "resume" else one.alive)] or found
    example = typed(action, (found or there)[0].name)
    listed = "\n".join(f"  {one.line()}" for one in found or there)
    if not found:
        asked = " ".join(filter(None, [name, f"of {revision}" if revision else ""]))
        raise WrongUse(f"There is no backfill {asked}. There are:\n{listed}", example)
    if len(found) > 1:
        same = len({one.name for one in found}) == 1
        said = f"Several are called {found[0].name}" if same else "There are several"
        raise WrongUse(
            f"{said}; which is meant?\n{listed}", f"{example} REVISION={found[0].revision}" if same else example
        )
    if action == "stop" and not found[0].alive:
        raise WrongUse(f"There is no run to stop. {found[0].line()}", "make migrate-status")
    return found[0]


def _told(one: Standing, action: str) -> str:
    again = "migrate-up" if one.direction == "upgrade" else "migrate-down"
    if action == "pause":
        when = "waits after the batch that it is at" if one.alive else "will wait as soon as a run comes to it"
        return f"{one.called} {when}; {typed('resume', one.name)} lets it go on"
    if action == "stop":
        return f"{one.called} ends after the batch that it is at, its run with exit 75; make {again} goes on there"
    return f"{one.called} goes on" if one.alive else f"{one.called} may go on: make {again} does so"


def _forbidden(connection: Connection, schema: str, repeat: str) -> Broken:
    role = connection.exec_driver_sql("SELECT pg_catalog.quote_ident(current_user::text)").scalar_one()
    return Broken(
        f"The role {role} may not write into {schema}.backfill, where a run looks what is wanted of it.",
        f'psql -c "{_RIGHTS.format(schema=schema, role=role)}"   (as the role that migrates), then {repeat}',
    )
