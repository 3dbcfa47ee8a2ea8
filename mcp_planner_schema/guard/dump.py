"""Writes an archive: the whole schema and the rows of some tables, with their checksums in the very same snapshot."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mcp_planner_schema.guard import client, connect, ladder
from mcp_planner_schema.guard.checksum import Checksum, checksum, large_objects
from mcp_planner_schema.guard.client import Impossible
from mcp_planner_schema.guard.fingerprint import Lines, read, together
from mcp_planner_schema.guard.postcheck import SYSTEM_PATH, execute, identifier, pinned
from mcp_planner_schema.guard.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

# A partitioned table has no rows of its own: its leaves have them. Generated columns are not in a dump.
_TABLE = """
SELECT c.oid::int8, c.relkind::text,
       array(SELECT a.attname::text FROM pg_catalog.pg_attribute a
             WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''),
       array(SELECT t.relid::oid::int8 FROM pg_catalog.pg_partition_tree(c.oid) t WHERE t.isleaf AND c.relkind = 'p'),
       coalesce((SELECT e.extcondition[array_position(e.extconfig, c.oid)] FROM pg_catalog.pg_extension e
                 WHERE c.oid = ANY (e.extconfig)), '')
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relname = %s
"""

# What pg_dump locks or reads, and what stops it there; it would say so in the server's language, after minutes of work.
_OBSTACLES = """
SELECT DISTINCT ON (c.relname) n.nspname || '.' || c.relname, CASE
         WHEN NOT has_schema_privilege(n.oid, 'USAGE') THEN 'right'
         WHEN NOT has_table_privilege(c.oid, 'SELECT') THEN 'right'
         WHEN c.relkind = 'f' THEN 'foreign'
         ELSE 'hidden' END
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE left(n.nspname, 3) <> 'pg_' AND n.nspname <> 'information_schema' AND left(n.nspname, length(%(stash)s)) <> %(stash)s
  AND (c.relkind IN ('r', 'p', 'S') AND NOT (has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT'))
       OR c.oid = ANY (%(kept)s::oid[]) AND (c.relkind = 'f' OR row_security_active(c.oid)))
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                  WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
ORDER BY c.relname
LIMIT 3
"""

# The largest first, should there be too many to name them all.
_OTHERS = """
SELECT n.nspname::text, c.relname::text
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND NOT c.oid = ANY (%(kept)s::oid[])
  AND left(n.nspname, 3) <> 'pg_' AND n.nspname <> 'information_schema' AND left(n.nspname, length(%(stash)s)) <> %(stash)s
ORDER BY c.relpages DESC, n.nspname, c.relname
"""

# The number of a large object may stand in any column of type oid, or of a domain over it.
_LARGE = """
SELECT EXISTS (SELECT FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
               WHERE a.attrelid = ANY (%s::oid[]) AND a.attnum > 0 AND 'oid'::regtype IN (t.oid, t.typbasetype, t.typelem))
"""
_NAMED = 500_000  # bytes of names on one command line; Linux takes 2 MB together, and 128 KB in one word
_TOGETHER = 50
DISK_FULL = re.compile(r"No space left on device|Disk quota exceeded|File too large")


class Locked(Exception):
    """Somebody holds a lock that an archive needs."""


@dataclass(frozen=True)
class Table:
    """A table whose rows are in the archive. ``holders`` are the OIDs of what has them: itself, or a partitioned one's leaves.

    ``condition`` says which rows of an extension's table are a user's (pg_extension_config_dump): only these are dumped.
    """

    schema: str
    name: str
    kind: str
    columns: tuple[str, ...]
    holders: tuple[int, ...]
    condition: str = ""

    @property
    def rows_of(self) -> str:
        """What to read to see what the archive holds: an inheritance child's rows are the child's."""
        quoted = f"{identifier(self.schema)}.{identifier(self.name)}"
        only = quoted if self.kind == "p" else f"ONLY {quoted}"
        return f"(SELECT * FROM {only} {self.condition})" if self.condition else only


@dataclass(frozen=True)
class Content:
    """What was written, and by whom. ``large``: what the large objects add up to, where they are in it. ``structure``: what a
    dump of the whole database has to make, as fingerprints see it."""

    tables: tuple[tuple[Table, Checksum], ...]
    large: Checksum | None
    server_version: str
    programs: client.Programs
    structure: Lines | None = None


def write(
    settings: Settings, engine: Engine, tables: Sequence[tuple[str, str]], file: int, *, whole: bool = False
) -> Content:  # fmt: skip
    """Write the archive into the open file. Tried again while only a lock is in the way.

    ``whole``: nothing of the database is left out, whether or not it belongs to ``tables``, whose rows are summed up.

    Raises :class:`Locked`, :class:`Impossible`, or what PostgreSQL says.
    """
    for attempt in range(1, settings.lock_attempts + 1):
        try:
            return _once(settings, engine, tables, file, whole=whole)
        except Locked:
            if attempt == settings.lock_attempts:
                raise
        os.ftruncate(file, 0)
        os.lseek(file, 0, os.SEEK_SET)
        time.sleep(ladder.pause(attempt))
    raise AssertionError("lock_attempts is at least 1")


def entries(programs: client.Programs, file: int) -> set[int]:
    """The OIDs of the tables whose rows an archive holds, as pg_restore --list shows them. Raises :class:`Impossible`."""
    # Dump number; catalog's OID (0 for rows), the table's OID, what it is, and names that may hold anything.
    return {int(oid) for oid in re.findall(rb"^\d+; 0 (\d+) TABLE DATA ", listed(programs, file), re.MULTILINE)}


def listed(programs: client.Programs, file: int) -> bytes:
    """What pg_restore --list says of an archive. Raises :class:`Impossible`."""
    os.lseek(file, 0, os.SEEK_SET)
    done = subprocess.run(
        [str(programs.pg_restore), "--list"],
        stdin=file,
        capture_output=True,
        check=False,
        env={**os.environ, "LC_ALL": "C"},
    )
    if done.returncode:
        said = last(done.stderr.decode(errors="replace"))
        # What pg_dump still holds in its buffer when it ends is written unchecked, and its exit code is 0.
        raise Impossible(
            f"pg_restore cannot read it: {said} (pg_dump does not notice a disk that is full at the very end of its work)",
            "free space if there is none left, then repeat the command",
        )
    return done.stdout


def last(said: str) -> str:
    """The last lines of what a program said, enough to see what it means."""
    return " / ".join(line.strip() for line in said.splitlines()[-3:] if line.strip()) or "it gives no reason"


def _once(
    settings: Settings, engine: Engine, names: Sequence[tuple[str, str]], file: int, *, whole: bool
) -> Content:  # fmt: skip
    stash = f"{settings.schema}_stash_"
    with connect.opened(engine) as opened:
        # Every look in this transaction, and pg_dump's, is at the same moment: what others write meanwhile is in neither.
        connection = opened.execution_options(isolation_level="REPEATABLE READ")
        version = execute(connection, "SHOW server_version").scalar_one()
        programs = client.find(settings.pg_bin, int(re.split(r"\D", version, maxsplit=1)[0]))
        connection.rollback()
        _lock(connection, names, settings.budgets.lock_timeout)
        with pinned(connection, search_path=SYSTEM_PATH):
            tables = [_table(connection, schema, name) for schema, name in sorted(set(names))]
            kept = [oid for table in tables for oid in table.holders]
            _refuse_obstacles(connection, kept, stash)
            others = connection.exec_driver_sql(_OTHERS, {"kept": kept, "stash": stash}).all()
            large = whole or connection.exec_driver_sql(_LARGE, (kept,)).scalar_one()
            utf8 = execute(connection, "SHOW server_encoding").scalar_one() == "UTF8"
            snapshot = execute(connection, "SELECT pg_export_snapshot()").scalar_one()
        seen = together(read(connection, settings.schema, without=())) if whole else None
        left_out = [
            # What earlier downgrades have kept is not theirs to drop, and nothing depends on it.
            f"--exclude-schema={identifier(stash)}*",
            *(() if large else ("--no-blobs",)),
            *(f"--exclude-table-data={one}" for one in patterns(others, plain=not utf8)),
        ]
        arguments = [
            "--format=custom",
            f"--snapshot={snapshot}",
            f"--lock-wait-timeout={settings.budgets.lock_timeout}",
            *(() if whole else left_out),
        ]
        at = client.place(connection)
        ended = client.run(programs.pg_dump, arguments, at, at.values["dbname"], stdout=file)
        _judge(ended, settings)
        found = tuple((table, checksum(connection, table.rows_of, table.columns)) for table in tables)
        objects = large_objects(connection) if large else None
        connection.rollback()
    return Content(found, objects, version, programs, seen)


def _lock(connection: Connection, names: Sequence[tuple[str, str]], timeout: int) -> None:
    """Before the snapshot, so that it shows the tables as they stay until the end."""
    from sqlalchemy.exc import DBAPIError

    listed = ", ".join(f"{identifier(schema)}.{identifier(name)}" for schema, name in sorted(set(names)))
    try:
        execute(connection, f"SET LOCAL lock_timeout = '{timeout}ms'; LOCK TABLE {listed} IN ACCESS SHARE MODE")
    except DBAPIError as error:
        said = str(error.orig).strip().splitlines()[0]
        if getattr(error.orig, "pgcode", None) in ("55P03", "40P01"):
            raise Locked(said) from None
        if getattr(error.orig, "pgcode", None) == "42501":
            raise Impossible(f"PostgreSQL says: {said}", "GRANT pg_read_all_data TO the role, as a superuser") from None
        raise


def _table(connection: Connection, schema: str, name: str) -> Table:
    oid, kind, columns, leaves, condition = connection.exec_driver_sql(_TABLE, (schema, name)).one()
    if kind not in ("r", "p"):
        raise Impossible(f"{schema}.{name} is no table with rows of its own", "leave it out")
    return Table(schema, name, kind, tuple(columns), tuple(leaves) if kind == "p" else (oid,), condition)


def _refuse_obstacles(connection: Connection, kept: list[int], stash: str) -> None:
    found = connection.exec_driver_sql(_OBSTACLES, {"kept": kept, "stash": stash}).all()
    for kind, problem, instead in (
        ("right", "the role may not read {}, and pg_dump reads every definition", "GRANT pg_read_all_data TO the role"),
        (
            "foreign",
            "{} is a foreign table: its rows lie on another server",
            "archive them there, and detach the table first",
        ),
        (
            "hidden",
            "row level security hides rows of {} from the role, although it may own the table",
            "ALTER ROLE … BYPASSRLS, or ALTER TABLE … NO FORCE ROW LEVEL SECURITY for this while",
        ),
    ):
        shown = ", ".join(name for name, why in found if why == kind)
        if shown:
            raise Impossible(problem.format(shown), instead)


def patterns(tables: Sequence[tuple[str, str]], *, plain: bool = False) -> Iterator[str]:
    """pg_dump's patterns for these tables and no others. ``plain``: names that ASCII cannot write are left out.

    To leave one out is safe: its rows are then in the archive too. Some tables of one schema share a pattern, for pg_dump
    searches the catalog once for each.
    """
    schemas: dict[str, list[str]] = {}
    size = 0
    for schema, name in tables:
        size += len(identifier(name).encode()) + 1
        if size > _NAMED:
            break
        if not plain or (schema + name).isascii():
            schemas.setdefault(schema, []).append(identifier(name))
    for schema, names in schemas.items():
        for start in range(0, len(names), _TOGETHER):
            yield f"{identifier(schema)}.({'|'.join(names[start : start + _TOGETHER])})"


def _judge(ended: client.Ended, settings: Settings) -> None:
    if ended.code == 0:
        return
    if DISK_FULL.search(ended.said):
        raise Impossible(
            f"the disk is full ({last(ended.said)})",
            "free space, or let archive_dir in alembic.ini name a folder on another disk",
            f"df -h {settings.archive_dir}",
        )
    # That the role may lock every table was asked before: what is left is somebody else's lock.
    if "LOCK TABLE" in ended.said:
        raise Locked(last(ended.said))
    how = f"was ended by signal {-ended.code}" if ended.code < 0 else f"ended with exit code {ended.code}"
    raise Impossible(f"pg_dump {how}: {last(ended.said)}", "remove the cause that it names")
