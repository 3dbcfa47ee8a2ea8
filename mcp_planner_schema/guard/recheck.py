"""Reads what was kept again and compares it with the manifest. A moved table gets its checksums at the first time."""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mcp_planner_schema.guard import banner, checksum, connect, intact, manifest
from mcp_planner_schema.guard import settings as settings_module
from mcp_planner_schema.guard.manifest import Object, Stash
from mcp_planner_schema.guard.postcheck import execute

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy import Connection, Engine

_WRITE = """
UPDATE {schema}.stash_object SET row_count = %s, sum_0 = %s, sum_1 = %s, algorithm = %s
WHERE stash_id = %s AND number = %s AND sum_0 IS NULL
"""


@dataclass(frozen=True)
class Report:
    """``lines`` for people, one a stash and one for each checksum written; ``wrong`` is what differs."""

    lines: tuple[str, ...]
    wrong: tuple[str, ...]


def recheck(config: Config, number: int | None) -> Report:
    """Read every kept table of one stash, or of all, once. Takes a reader's lock on one stash's tables at a time."""
    from sqlalchemy.exc import SQLAlchemyError

    given, repeat = settings_module.load(config), str(config.attributes["repeat"])
    target = connect.url(given)
    asking = connect.engine(target, "mcp-planner-guard " + connect.masked(repeat, target))
    engine = connect.own(asking)
    try:
        with connect.opened(engine) as connection:
            banner.met(config, connection, given, changes=False)
            if number is not None:
                found = [manifest.find(connection, given.schema, number)]
            else:
                found = manifest.read(connection, given.schema) if manifest.exists(connection, given.schema) else []
            connection.rollback()
        reports = [_one(engine, given.schema, stash) for stash in found]
    except SQLAlchemyError as error:
        raise connect.outside(error, target, repeat) from error
    finally:
        engine.dispose()
        asking.dispose()
    return Report(
        tuple(line for one in reports for line in one.lines), tuple(line for one in reports for line in one.wrong)
    )


def _one(engine: Engine, schema: str, stash: Stash) -> Report:
    if stash.state == "purged":
        return Report((f"stash {stash.id}: purged, nothing to read",), ())
    lines, wrong = [], []
    with connect.opened(engine) as connection:
        if stash.kept_in != manifest.schema_of(schema, stash.id):
            wrong.append(f"the manifest says {stash.kept_in} and not {manifest.schema_of(schema, stash.id)}")
        # A table that was moved here is not here any more once it went back.
        here = tuple(one for one in stash.objects if not (one.moved and stash.state == "restored"))
        wrong += intact.damaged(connection, replace(stash, objects=here))
        for one in here:
            if one.moved and one.relation and one.checksum is None:
                lines += _first_time(connection, schema, stash, one)
        if wrong and manifest.find(connection, schema, stash.id).state != stash.state:
            connection.rollback()
            return Report((f"stash {stash.id}: changed by another run meanwhile; repeat the command",), ())
        connection.commit()
    wrong += _archive(stash)
    tables = sum(1 for one in here if one.relation)
    if not wrong:
        lines.append(f"stash {stash.id}: {tables} table{'' if tables == 1 else 's'} as the manifest says")
    return Report(tuple(lines), tuple(f"stash {stash.id}: {one}" for one in wrong))


def _first_time(connection: Connection, schema: str, stash: Stash, one: Object) -> list[str]:
    """Moving a table reads none of its rows, so its checksums are computed when there is time for it."""
    place = stash.place(one)
    execute(connection, f"LOCK TABLE {place} IN SHARE MODE")
    with checksum.reading(connection):
        sums = checksum.of(connection, place, one.columns)
    connection.exec_driver_sql(
        _WRITE.format(schema=schema), (sums.rows, sums.sum_0, sums.sum_1, checksum.ALGORITHM, stash.id, one.number)
    )
    return [f"stash {stash.id}: checksums of {place} written for the first time ({sums.rows} rows)"]


def _archive(stash: Stash) -> list[str]:
    if not stash.archive or not stash.archive_sha256:
        return []
    path = Path(stash.archive)
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                return [f"its archive {path} is no ordinary file"]
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return [f"its archive {path} is missing"]
    except OSError as error:
        return [f"its archive {path} cannot be read ({error.strerror})"]
    return (
        [] if found == stash.archive_sha256 else [f"its archive {path} has another sha256 than was recorded: {found}"]
    )
