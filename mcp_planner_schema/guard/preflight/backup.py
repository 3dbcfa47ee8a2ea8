"""The backup: a command that knows it, or the newest archive of the guard's own; how old it is, and whether it was restored.

``backup_check`` is run without a shell. Its exit code is the verdict: 0 there is a backup to rely on. What it prints may say
more, each on a line of its own: ``age=5h``, ``restored=3d`` (how long ago one was restored and compared), with s, min, h or d.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard import connect
from mcp_planner_schema.guard.preflight.asked import Found, Here, Question, found, span

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from mcp_planner_schema.guard.settings import Settings

_TOLD = re.compile(r"^\s*(age|restored)\s*[=:]\s*(\d{1,9})\s*(s|min|h|d)\s*$", re.MULTILINE)
_SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 86400}
# A database whose tables have no page yet has nothing to lose. What lies in partitions lies in tables too.
_ROWS = """
SELECT pg_catalog.json_build_array(
    EXISTS (SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
            WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND left(n.nspname, 3) <> 'pg_'
              AND n.nspname <> 'information_schema' AND n.nspname !~ %(own)s AND c.relname <> %(version_name)s
              AND pg_catalog.pg_relation_size(c.oid) > 0),
    pg_catalog.to_regclass(%(stashes)s) IS NOT NULL)
"""
_ARCHIVE = """
SELECT s.archive, s.kept_at, extract(epoch FROM pg_catalog.clock_timestamp() - s.kept_at)::float8,
       ARRAY(SELECT DISTINCT pg_catalog.concat(o.object_schema, '.', o.object_name) FROM {schema}.stash_object o
             WHERE o.stash_id = s.id AND o.kind IN ('table', 'columns', 'rows'))
FROM {schema}.stash s WHERE s.archive IS NOT NULL ORDER BY s.id DESC LIMIT 1
"""
# Of the whole database, before a deploy.
_DEPLOYED = """
SELECT backup ->> 'path', backup ->> 'at',
       extract(epoch FROM pg_catalog.clock_timestamp() - (backup ->> 'at')::timestamptz)::float8
FROM {schema}.deploy WHERE backup ->> 'path' IS NOT NULL ORDER BY id DESC LIMIT 1
"""
_EXISTING = """
SELECT pg_catalog.concat(n.nspname, '.', c.relname)
FROM ROWS FROM (pg_catalog.unnest(%(locked_schemas)s::text[]),
                pg_catalog.unnest(%(locked_names)s::text[])) AS w (schema, name)
JOIN pg_catalog.pg_namespace n ON n.nspname = w.schema::name
JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = w.name::name AND c.relkind = 'r'
WHERE pg_catalog.pg_relation_size(c.oid) > 0
"""


def values(here: Here) -> dict[str, str]:
    """What the question is about."""
    return {"version_name": here.version_table.rpartition(".")[2], "stashes": f"{here.settings.schema}.stash"}


def _asked_rows(here: Here) -> str | None:
    """Not asked before a downgrade that makes its own archive."""
    if here.settings.preflight.backup_age is None:
        return None
    if here.steps and here.steps[0].direction == "downgrade":
        from mcp_planner_schema.guard import archive

        if archive.wanted(here.settings):
            return None
    return _ROWS


ROWS = Question("the backup", ("backup-missing",), _asked_rows, lambda told, here: ())
"""Whether there is anything to lose, and whether there may be an archive; :func:`ask` goes on from there."""


def ask(connection: Connection, here: Here, there: list[bool] | None) -> Iterator[Found]:
    """Findings about the backup, where ``there`` (the answer of :data:`ROWS`) says that there are rows."""
    rows, stashes = there or (False, False)
    if not rows:
        return
    if here.settings.preflight.backup_check:
        yield from _commanded(here)
    elif stashes:
        yield from _archived(connection, here)
    else:
        yield found("backup-missing", "alembic.ini", problem="no backup_check is configured, and there is no archive")


def age(connection: Connection, settings: Settings, *, ask: bool) -> float | None:
    """Seconds since the newest backup was made, as far as that is known. Reads only; ``ask``: ``backup_check`` is run too."""
    asked = settings.preflight
    if asked.backup_check:
        if not ask:
            return None
        try:
            code, printed = _run(shlex.split(asked.backup_check), asked.backup_timeout / 1000)
        except (OSError, subprocess.TimeoutExpired):
            return None
        told = {what: int(count) * _SECONDS[unit] for what, count, unit in _TOLD.findall(printed)}
        return told.get("age") if code == 0 else None
    ages = []
    for table, newest in (("stash", _ARCHIVE), ("deploy", _DEPLOYED)):
        there = "SELECT pg_catalog.to_regclass(%s) IS NOT NULL"
        if not connection.exec_driver_sql(there, (f"{settings.schema}.{table}",)).scalar_one():
            continue
        found = connection.exec_driver_sql(newest.format(schema=settings.schema)).first()
        if found and Path(found[0]).is_file():
            ages.append(float(found[2]))
    return min(ages, default=None)


def _commanded(here: Here) -> Iterator[Found]:
    asked = here.settings.preflight
    words = shlex.split(asked.backup_check)
    name = words[0]
    try:
        code, printed = _run(words, asked.backup_timeout / 1000)
    except subprocess.TimeoutExpired:
        problem = f"{name} did not end within {span(asked.backup_timeout / 1000)}"
        yield found("backup-missing", "backup_check", problem=problem)
        return
    except OSError as error:
        yield found("backup-missing", "backup_check", problem=f"{name} cannot be run ({error.strerror})")
        return
    if code:
        said = next((line.strip() for line in printed.splitlines() if line.strip()), "it says nothing")
        problem = f"{name} ended with {code}: {connect.masked(said, None)[:200]}"
        yield found("backup-missing", "backup_check", problem=problem)
        return
    told = {what: int(count) * _SECONDS[unit] for what, count, unit in _TOLD.findall(printed)}
    yield from _old(here, told.get("age"), name)
    if "restored" not in told:
        yield found("backup-unproven", "backup_check", name=name)


def _archived(connection: Connection, here: Here) -> Iterator[Found]:
    """The newest archive of a downgrade: restored and compared when it was made, but of the tables that went and no others."""
    newest = connection.exec_driver_sql(_ARCHIVE.format(schema=here.settings.schema)).first()
    if newest is None:
        yield found("backup-missing", "alembic.ini", problem="no backup_check is configured, and there is no archive")
        return
    path, _, age, held = newest
    touched = set(connection.exec_driver_sql(_EXISTING, here.values).scalars())
    lacking = sorted(one.removeprefix("public.") for one in touched - set(held))
    name = Path(path).name
    if not Path(path).is_file():
        yield found(
            "backup-missing", "alembic.ini", problem=f"the newest archive, {name}, is not in its place any more"
        )
    elif lacking or not touched:
        without = f"lacks {', '.join(lacking)}" if lacking else "holds what a downgrade dropped, and nothing else"
        yield found(
            "backup-missing",
            "alembic.ini",
            problem=f"no backup_check is configured, and the newest archive, {name}, {without}",
        )
    else:
        yield from _old(here, age, name)


def _old(here: Here, age: float | None, name: str) -> Iterator[Found]:
    limit = (here.settings.preflight.backup_age or 0) / 1000
    if age is not None and age > limit:
        yield found("backup-old", "backup", name=name, age=span(age), limit=span(limit))


def _run(words: list[str], timeout: float) -> tuple[int, str]:
    """Exit code and output of a command; what it has started itself is ended with it when it takes too long."""
    process: subprocess.Popen[Any]
    with subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        start_new_session=True,
    ) as process:  # fmt: skip
        try:
            printed, _ = process.communicate(timeout=timeout)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return process.returncode, printed
