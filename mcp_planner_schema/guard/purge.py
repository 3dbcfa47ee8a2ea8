"""Deletes what a downgrade kept, for good. The manifest's row stays and says that, when and by whom it was done."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from mcp_planner_schema.guard import alone, banner, connect, left, manifest, over_commit
from mcp_planner_schema.guard.findings import Broken, Finding, Refused, WrongUse
from mcp_planner_schema.guard.manifest import Stash
from mcp_planner_schema.guard.postcheck import execute, identifier

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy import Connection

_NEWEST = """
SELECT pg_catalog.max(id), pg_catalog.max(id) FILTER (WHERE state IN ('kept', 'partly restored'))
FROM {schema}.stash s WHERE state <> 'purged' AND direction = 'downgrade'
  AND EXISTS (SELECT FROM {schema}.stash_object o WHERE o.stash_id = s.id)
"""
_THERE = """
SELECT c.relname::text FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relname = ANY (%s::text[]) AND c.relkind IN ('r', 'p') ORDER BY 1
"""
# Of the rows nothing is left that could confirm a guess: the sums of one row are its fingerprint.
_FORGOTTEN = "UPDATE {schema}.stash_object SET sum_0 = NULL, sum_1 = NULL, algorithm = NULL WHERE stash_id = %s"


def purge(config: Config, number: int, confirmed: str) -> list[str]:
    """Drop the kept rows of a stash, and delete its archive. Gives lines for people.

    ``confirmed`` is the name of its schema, as typed, in production with the database's before it. Raises
    :class:`WrongUse` or, in production, :class:`Refused` for another name, :class:`Refused` within
    the retention, for the newest, and where the manifest names a schema that is no stash.
    """
    with alone.deploying(config) as here:
        schema, folder = here.settings.schema, here.settings.archive_dir
        with connect.opened(here.engine) as connection:
            stash = manifest.find(connection, schema, number)
            _own(schema, stash)
            _confirm(connection, here, stash, confirmed)
            if stash.state != "purged":
                _refuse(connection, here, stash)
        if stash.state == "purged":
            return [f"nothing to do: stash {number} was purged before", *_without_archive(stash, folder, here.repeat)]
        with alone.told(here):
            lines = alone.attempt(here, here.settings.budgets, lambda connection: _drop(connection, here, number))
            return lines + _without_archive(stash, folder, here.repeat)


def _own(schema: str, stash: Stash) -> None:
    name = manifest.schema_of(schema, stash.id)
    if stash.kept_in != name:
        raise _refused(
            stash, f"the manifest says that it lies in {stash.kept_in}, and the guard would have made {name}",
            "find out who has written to the manifest; what lies elsewhere is no stash and is not touched",
            f"make migrate-stash-show ID={stash.id}",
        )  # fmt: skip


def _confirm(connection: Connection, here: alone.Alone, stash: Stash, confirmed: str) -> None:
    name = stash.kept_in
    if here.settings.rules.confirms:
        deed = f"stash {stash.id} would be deleted for good"
        banner.confirmed(connection, here.settings, confirmed, deed, here.repeat, inside=name)
    elif confirmed != name:
        raise WrongUse(
            f"CONFIRM is {confirmed!r}; to delete stash {stash.id} for good, type the name of its schema: {name}.",
            f"make migrate-stash-purge ID={stash.id} CONFIRM={name}",
        )


def _refuse(connection: Connection, here: alone.Alone, stash: Stash) -> None:
    schema, listed = here.settings.schema, "make migrate-stash-list"
    now = connection.exec_driver_sql("SELECT pg_catalog.clock_timestamp()").scalar_one()
    until = stash.kept_until(here.settings.stash_retention)
    if now < until:
        raise _refused(
            stash, f"it is kept until {until:%Y-%m-%d %H:%M}",
            "wait until then. Where it must be forgotten sooner (somebody's personal data), shorten stash_retention in "
            "alembic.ini, reviewed like any change: the shorter of the two counts", listed,
        )  # fmt: skip
    newest, waiting = connection.exec_driver_sql(_NEWEST.format(schema=schema)).one()
    if stash.id == waiting:
        raise _refused(
            stash, "it is the newest that waits to be given back",
            f"give it back first, or keep it until a newer one is there (make migrate-restore VERSION={stash.revision})", listed,
        )  # fmt: skip
    if stash.id == newest:
        raise _refused(stash, "it is the newest there is", "keep it until a newer one is there", listed)
    aside = [name for one in stash.objects for name in manifest.set_aside(connection, stash.kept_in, one)]
    if aside:
        raise _refused(
            stash, f"rows that the upgrade had put there gave way to kept ones, and stand nowhere else: {', '.join(aside)}",
            "look at them, copy what is to stay, and drop that table",
            connect.psql(here.settings, f"DROP TABLE {', '.join(aside)}"),
        )  # fmt: skip


def _drop(connection: Connection, here: alone.Alone, number: int) -> list[str]:
    """Drop exactly what is recorded: no CASCADE, so that nothing goes along that the guard has not put there."""
    from sqlalchemy.exc import DBAPIError

    schema = here.settings.schema
    execute(connection, f"LOCK TABLE {schema}.stash IN SHARE ROW EXCLUSIVE MODE")
    stash = manifest.find(connection, schema, number)
    _own(schema, stash)
    _refuse(connection, here, stash)
    wanted = [one.relation for one in stash.objects if one.relation]
    tables = list(connection.exec_driver_sql(_THERE, (stash.kept_in, wanted)).scalars())
    beside = [left.relation(one) for one in stash.objects]
    lists = [
        *connection.exec_driver_sql(_THERE, (stash.kept_in, beside)).scalars(),
        *over_commit.lists(connection, stash.kept_in),
    ]
    asked = "SELECT pg_catalog.to_regnamespace(%s) IS NOT NULL"
    there = connection.exec_driver_sql(asked, (identifier(stash.kept_in),)).scalar_one()
    try:
        if tables or lists:
            names = ", ".join(f"{identifier(stash.kept_in)}.{identifier(one)}" for one in (*tables, *lists))
            execute(connection, f"DROP TABLE {names}")
        if there:
            execute(connection, f"DROP SCHEMA {identifier(stash.kept_in)}")
    except DBAPIError as error:
        if getattr(error.orig, "pgcode", "") != "2BP01":
            raise
        detail = " ".join((error.orig.diag.message_detail or "").split())  # type: ignore[union-attr]
        raise _refused(
            stash, f"something that the guard has not made is in its schema, or depends on it: {detail}",
            "drop that by hand, or move it elsewhere", here.repeat,
        ) from None  # fmt: skip
    connection.exec_driver_sql(_FORGOTTEN.format(schema=schema), (number,))
    manifest.mark(connection, schema, number, "purged", here.origin.who)
    missing = len(wanted) - len(tables)
    lines = [
        f"purged stash {number}: {len(tables)} table{'' if len(tables) == 1 else 's'} of {stash.kept_in} deleted for good"
    ]
    return lines + ([f"{missing} of its tables had been dropped before"] if missing else [])


def _without_archive(stash: Stash, folder: str, repeat: str) -> list[str]:
    """Delete the archive's file, which lies in the archives' folder itself. A link is never followed, nor removed."""
    if not stash.archive:
        return []
    path = Path(stash.archive)
    if not os.path.lexists(path):
        return [f"its archive {path} is not there"]
    try:
        inside = path.parent.resolve() == Path(folder).resolve()
        if not inside:
            raise OSError(f"it does not lie in archive_dir ({folder})")
        handle = os.open(path.parent.resolve(), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.stat(path.name, dir_fd=handle, follow_symlinks=False).st_mode):
                raise OSError("it is a symbolic link or no ordinary file")
            os.unlink(path.name, dir_fd=handle)
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        raise Broken(
            f"Stash {stash.id} is purged, but its archive {path} still holds the rows and was not deleted: "
            f"{error.strerror or error}.",
            f"delete it by hand where it is to be forgotten, or correct archive_dir and then {repeat}",
        ) from error
    return [f"deleted its archive {path}"]


def _refused(stash: Stash, problem: str, instead: str, command: str) -> Refused:
    values = {"stash": str(stash.id), "problem": problem, "instead": instead}
    return Refused([Finding("stash-retained", stash.kept_in, stash.revision, values)], command)
