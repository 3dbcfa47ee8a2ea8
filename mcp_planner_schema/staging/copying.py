"""Makes the copy: a new database that nobody else may enter, filled, masked, and only then put in staging's place.

What is masked has no index and no trigger yet: an archive is restored in two halves, and the rows stand between them. The file
that rows of production are taken into on the way has no name, so that nothing is left of it where this is killed; a database
that a killed run has left lets nobody in, and the next run drops it.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard import client, connect, dump, history, marker
from mcp_planner_schema.guard.checksum import checksum
from mcp_planner_schema.guard.client import Impossible
from mcp_planner_schema.guard.findings import Busy, Finding, Refused
from mcp_planner_schema.guard.postcheck import execute, identifier
from mcp_planner_schema.staging import masking, own, place, stopping
from mcp_planner_schema.staging.masks import Masks, columns, large_objects

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection, Engine

    from mcp_planner_schema.guard.dump import Content
    from mcp_planner_schema.guard.settings import Settings

# Tables with rows of their own, and partitioned ones in place of their partitions; not what extensions or the stash hold.
_TABLES = """
SELECT n.nspname::text, c.relname::text
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence <> 't'
  AND n.nspname !~ '^(pg_|information_schema$)' AND pg_catalog.left(n.nspname, pg_catalog.length(%(stash)s)) <> %(stash)s
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                  WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
ORDER BY 1, 2
"""
# A copy that could reach production's other servers would write to them.
_MAPPINGS = "SELECT srvname::text, usename::text FROM pg_catalog.pg_user_mappings"
_STASHES = "SELECT nspname::text FROM pg_catalog.pg_namespace WHERE nspname ~ %s"
_OTHERS = """
SELECT DISTINCT coalesce(nullif(application_name, ''), usename::text) FROM pg_catalog.pg_stat_activity
WHERE datname = %s AND application_name LIKE 'mcp-planner%%' AND pid <> pg_catalog.pg_backend_pid()
"""
_CREATE = re.compile(r"^CREATE DATABASE (?:\"(?:[^\"]|\"\")+\"|\S+)( WITH)?(.*);$", re.MULTILINE)
_UNLINK = """
SELECT pg_catalog.count(pg_catalog.lo_unlink(o.oid))
FROM (SELECT oid FROM pg_catalog.pg_largeobject_metadata LIMIT 1000) o
"""


@dataclass(frozen=True)
class Archive:
    """What a copy is made of: an open file that pg_restore reads, and for people what it is.

    ``content`` are the tables with their checksums, where it was just taken.
    """

    file: int
    told: str
    created: str
    content: Content | None = None


@contextmanager
def of_file(path: Path) -> Iterator[Archive]:
    """An archive of ``pg_dump --format=custom`` that somebody has made."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe would wait for a writer
    except OSError as error:
        raise impossible(
            f"{path} cannot be opened ({error.strerror})", "DUMP=file of pg_dump --format=custom"
        ) from None
    try:
        if not path.is_file():
            raise impossible(f"{path} is no ordinary file", "DUMP=file of pg_dump --format=custom")
        with os.fdopen(os.dup(file), "rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
        yield Archive(file, f"{path.name}, {os.fstat(file).st_size:,} bytes, sha256 {digest[:12]}…", "")
    finally:
        os.close(file)


@contextmanager
def of_source(given: Settings, source: URL, folder: Path) -> Iterator[Archive]:
    """An archive taken now, of a database that is only read: no session of ours there can write."""
    told = f"{source.database} at {connect.place(source)}"
    options = source.query.get("options", "")
    only = f"{options if isinstance(options, str) else ' '.join(options)} -c default_transaction_read_only=on".strip()
    engine = connect.engine(source.update_query_dict({"options": only}), "mcp-planner staging copy")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            with connect.opened(engine) as connection:
                rows = connection.exec_driver_sql(_TABLES, {"stash": f"{given.schema}_stash_"})
                tables = [(schema, name) for schema, name in rows]
                connection.rollback()
            content = dump.write(given, engine, tables, file.fileno())
            yield Archive(file.fileno(), told, "", content)
    except dump.Locked as error:
        raise Busy(f"A table of the source is locked by somebody: {error}", place.AGAIN) from None
    except OSError as error:
        raise impossible(
            f"no file can be written in {folder} ({error.strerror})", "PLANNER_ARCHIVE_DIR=folder with room"
        ) from None
    finally:
        engine.dispose()


@contextmanager
def closed(server: Connection, target: URL, created: str) -> Iterator[str]:
    """A new database that only its owner may enter, by its name; dropped at the end unless :func:`put` has taken it.

    ``created`` is how: what follows WITH in CREATE DATABASE. Raises :class:`Busy` where another run makes one.
    """
    name = target.database or ""
    digest = hashlib.sha256(name.encode()).digest()
    key = int.from_bytes(digest[:8], "big", signed=True)
    if not execute(server, f"SELECT pg_catalog.pg_try_advisory_lock({key})").scalar_one():
        raise Busy(f"Another run makes a copy for {name} just now.", place.AGAIN)
    try:
        _sweep(server, digest)
        own = f"{name.encode()[:30].decode(errors='ignore')}_copy_{digest[:4].hex()}_{secrets.token_hex(4)}"
        try:
            # Closed from its first moment on: who came in before the REVOKE would stay.
            execute(server, f"CREATE DATABASE {identifier(own)} WITH {created} ALLOW_CONNECTIONS = false")
            execute(server, f"REVOKE ALL ON DATABASE {identifier(own)} FROM PUBLIC")
            execute(server, f"ALTER DATABASE {identifier(own)} ALLOW_CONNECTIONS true")
            yield own
        finally:
            with suppress(Exception):  # what went wrong before is told; the next run drops what this one could not
                execute(server, f"DROP DATABASE IF EXISTS {identifier(own)} WITH (FORCE)")
    finally:
        with suppress(Exception):
            execute(server, f"SELECT pg_catalog.pg_advisory_unlock({key})")


def fill(
    given: Settings, server: Connection, name: str, archive: Archive, programs: client.Programs, masks: Masks
) -> dict[str, Any]:
    """Restore, mask, and only then make indexes, foreign keys and triggers. Gives what is to be told of it.

    Raises :class:`Impossible`, or :class:`Refused`.
    """
    at, times = client.place(server), [time.monotonic()]
    _restore(programs, at, name, archive.file, ["--section=pre-data", "--section=data"])
    times.append(time.monotonic())
    engine = connect.own(connect.engine(at.url(name), "mcp-planner staging copy"))
    try:
        with stopping.opened(engine) as connection:
            if archive.content is not None:
                _compare(connection, archive.content)
            _close_off(connection, given.schema, masks)
            there = columns(connection, given.schema)
            decided = masks.decide(there)
            masking.mask(connection, masks, there, decided)
            own.mask(connection, given.schema, decided)
            guards = [f"{given.schema}.{identifier(one)}" for one in own.tables(connection, given.schema)]
            connection.commit()
        with stopping.opened(engine, autocommit=True) as connection:
            for table in (*masking.tables(decided), *guards):  # what stood there is in their files
                execute(connection, f"VACUUM FULL {table}")
            if masks.large_objects != "keep":
                execute(connection, "VACUUM FULL pg_catalog.pg_largeobject")
        times.append(time.monotonic())
        _restore(programs, at, name, archive.file, ["--section=post-data"])
        finish(engine, given)
        times.append(time.monotonic())
    finally:
        engine.dispose()
    return {
        "masked": {one.shown: rule.split(":")[0] for one, rule in decided},
        "rules_without_column": masks.unknown(there),
        "phases": {
            name: round(after - before, 1)
            for name, before, after in zip(("restored", "masked", "indexed"), times[:-1], times[1:], strict=True)
        },
    }


def finish(engine: Engine, given: Settings) -> None:
    """Say what it is, and count anew what the planner goes by: no statistic of an unmasked row is left."""
    with stopping.opened(engine) as connection:
        if marker.read(connection, given.schema):  # production's word, which the dump has brought along
            marker.declare(connection, given.schema, given.environment, history.origin(Path.cwd()), "a masked copy")
        connection.commit()
    with stopping.opened(engine, autocommit=True) as connection:
        execute(connection, "VACUUM (ANALYZE)")


def put(server: Connection, target: URL, given: Settings, name: str, told: str) -> None:
    """Put the copy in the place of the database that is there. It stays closed to others until :func:`open_to_others`.

    Raises :class:`Refused` where that has become somebody else's since the beginning.
    """
    there = target.database or ""
    place.refuse_what_is_not_ours(server, target, given, os.environ.get("CONFIRM", ""))
    busy = server.exec_driver_sql(_OTHERS, (there,)).scalars().all()
    if busy:
        raise Busy(f"Something of ours works in {there} just now: {', '.join(busy)}.", place.AGAIN)
    place.say_what_it_is(server, name, told)
    execute(server, f"DROP DATABASE IF EXISTS {identifier(there)} WITH (FORCE)")
    execute(server, f"ALTER DATABASE {identifier(name)} RENAME TO {identifier(there)}")


def open_to_others(server: Connection, target: URL) -> None:
    """Let in whoever may log in, as PostgreSQL does by itself."""
    execute(server, f"GRANT CONNECT, TEMPORARY ON DATABASE {identifier(target.database or '')} TO PUBLIC")


def like(programs: client.Programs, archive: Archive) -> tuple[str, str]:
    """How the archive's database was created (encoding and locale), as what follows WITH; and when the archive was made."""
    told = _asked(programs, archive.file, "--create", "--schema-only", "--no-tablespaces", "--file=-")
    found = _CREATE.search(told)
    if found is None:
        raise Impossible(
            "the archive does not say how its database was created", "an archive of pg_dump --format=custom"
        )
    made = re.search(r"^; Archive created at (.+)$", _asked(programs, archive.file, "--list"), re.MULTILINE)
    return found[2].strip(), made[1].strip() if made else ""


def impossible(problem: str, instead: str) -> Refused:
    """The refusal that tells why there is no copy."""
    return Refused([Finding("copy-impossible", "staging", "", {"problem": problem, "instead": instead})], place.AGAIN)


def _sweep(server: Connection, digest: bytes) -> None:
    """Drop what killed runs have left. Under the lock: nobody works in them."""
    pattern = f"_copy_{digest[:4].hex()}_[0-9a-f]{{8}}$"
    found = server.exec_driver_sql("SELECT datname::text FROM pg_catalog.pg_database WHERE datname ~ %s", (pattern,))
    for name in found.scalars().all():
        execute(server, f"DROP DATABASE IF EXISTS {identifier(name)} WITH (FORCE)")


def _asked(programs: client.Programs, file: int, *arguments: str) -> str:
    os.lseek(file, 0, os.SEEK_SET)
    done = subprocess.run(
        [str(programs.pg_restore), *arguments],
        stdin=file,
        capture_output=True,
        check=False,
        env={**os.environ, "LC_ALL": "C"},
    )
    if done.returncode:
        said = dump.last(done.stderr.decode(errors="replace"))
        raise Impossible(f"pg_restore cannot read the archive: {said}", "an archive of pg_dump --format=custom, whole")
    return done.stdout.decode(errors="replace")


def _restore(programs: client.Programs, at: client.Place, name: str, file: int, sections: list[str]) -> None:
    """Without owners and grants, whose roles may be production's alone, and without what would connect to other servers."""
    os.lseek(file, 0, os.SEEK_SET)
    left_out = ["--no-owner", "--no-privileges", "--no-tablespaces", "--no-publications", "--no-subscriptions"]
    newer = ["--no-statistics"] if int(programs.version.split(".")[0]) >= 18 else []
    ended = client.run(programs.pg_restore, [*sections, "--exit-on-error", *left_out, *newer], at, name, stdin=file)
    if ended.code == 0:
        return
    if dump.DISK_FULL.search(ended.said):
        raise Impossible("staging's disk is full", "free space on staging's server")
    how = f" (signal {-ended.code})" if ended.code < 0 else ""
    raise Impossible(
        f"pg_restore ({programs.version}) has failed{how}: {_without_rows(ended.said)}",
        "remove the cause that it names; for what only a superuser may make, a DATABASE_URL of one",
    )


def _without_rows(said: str) -> str:
    """What a program said, without what it quotes of rows: a restore that fails does so before anything is masked."""
    lines = [line for line in said.splitlines() if re.search(r"error:|ERROR:", line)] or said.splitlines()[-1:]
    return " / ".join(re.sub(r'(: ")[^"]*"$', r'\1…"', line.strip()) for line in lines[-2:]) or "it gives no reason"


def _compare(connection: Connection, content: Content) -> None:
    """That what was restored is, row for row, what the source had when the archive was taken."""
    for table, before in content.tables:
        after = checksum(connection, table.rows_of, table.columns)
        if after != before:
            problem = f"restored, {table.schema}.{table.name} has {after.rows} rows, the source {before.rows}, or other values"
            raise Impossible(
                problem, "repeat it; if that changes nothing, the table cannot be dumped and restored exactly"
            )
    connection.rollback()


def _close_off(connection: Connection, schema: str, masks: Masks) -> None:
    """Take away what leads elsewhere, what downgrades have kept of rows, and large objects."""
    for server, user in connection.exec_driver_sql(_MAPPINGS).all():
        named = "PUBLIC" if user == "public" else identifier(user)
        execute(connection, f"DROP USER MAPPING FOR {named} SERVER {identifier(server)}")
    for (stash,) in connection.exec_driver_sql(_STASHES, (f"^{schema}_stash_[0-9]+$",)).all():
        execute(connection, f"DROP SCHEMA {identifier(stash)} CASCADE")
    connection.commit()
    if masks.large_objects == "keep":
        return
    there = large_objects(connection)
    if there and not masks.large_objects:
        problem = f"the copy has {there} large objects, and nobody has decided what staging may see of them"
        values = {"problem": problem, "instead": 'large_objects = "drop", or "keep", in the first lines of the file'}
        raise Refused([Finding("mask-unusable", str(masks.path), "", values)], f"edit {masks.path}")
    while execute(connection, _UNLINK).scalar_one():
        connection.commit()
    connection.commit()
