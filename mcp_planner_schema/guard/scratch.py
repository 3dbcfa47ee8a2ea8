"""A database that lives for one restore: made like the one an archive came from, and dropped whatever happens."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shlex
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard import client, connect, dump, fingerprint
from mcp_planner_schema.guard.checksum import Checksum, checksum, large_objects
from mcp_planner_schema.guard.client import Impossible
from mcp_planner_schema.guard.dump import DISK_FULL, Content, last
from mcp_planner_schema.guard.findings import Broken, GuardError
from mcp_planner_schema.guard.fingerprint import Lines
from mcp_planner_schema.guard.postcheck import execute, identifier, literal
from mcp_planner_schema.guard.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection, Engine

_MAY_CREATE = "SELECT rolcreatedb OR rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user"
_LIKE = """
SELECT pg_catalog.to_jsonb(d), pg_catalog.pg_encoding_to_char(d.encoding), d.datname::text
FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()
"""
# Only a superuser makes an event trigger or publishes all tables; a policy names roles, which another server has not, and a table
# whose rows are forced to be seen by policies could not be read here; and a database with a subscription cannot be dropped.
_NOT_TRIED = re.compile(rb"\d+; \d+ \d+ (EVENT TRIGGER|POLICY|ROW SECURITY|PUBLICATION|SUBSCRIPTION)\b")
_ROW_SECURITY = "row level security"
_LEFT = """
SELECT d.datname::text FROM pg_catalog.pg_database d
WHERE d.datname ~ ('_archive_check_' || %s || '_[0-9a-f]{8}$')
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_stat_activity a WHERE a.datid = d.oid)
"""


def refuse_without(settings: Settings, engine: Engine) -> None:
    """Ask before the first byte is written whether a scratch database can be made. Raises :class:`Impossible`."""
    with _server(settings, engine) as connection:
        if not execute(connection, _MAY_CREATE).scalar_one():
            role = execute(connection, "SELECT current_user").scalar_one()
            grant = f"ALTER ROLE {identifier(role)} CREATEDB;"
            raise Impossible(
                f"the role {role} may not create a database to restore the archive into",
                f"{grant}   (in psql, as a superuser)\n"
                "or let archive_check_url in alembic.ini name a server where it may",
                f"psql -c {shlex.quote(grant)}",
            )


def prove(settings: Settings, engine: Engine, content: Content, file: int) -> tuple[str, ...]:
    """Restore an archive and compare each table's rows with those of the snapshot. Raises :class:`Impossible`.

    Of a whole database everything is restored: gives in what its schema differs then.
    """
    with (
        _restored(settings, engine, content.programs, file, whole=content.structure is not None) as url,
        connect.opened(connect.engine(url, "mcp-planner-guard archive check")) as connection,
    ):
        for table, before in content.tables:
            _compare(
                f"{table.schema}.{table.name} has", "rows", before, checksum(connection, table.rows_of, table.columns)
            )
        if content.large:
            _compare("the database has", "large objects", content.large, large_objects(connection))
        if content.structure is None:
            return ()
        found = fingerprint.together(fingerprint.read(connection, settings.schema, without=()))
        return tuple(fingerprint.difference(_provable(content.structure), _provable(found)))


def _provable(lines: Lines) -> Lines:
    """What a restore makes again: an index that is not valid is not dumped, and _NOT_TRIED not restored."""
    return frozenset(
        line._replace(definition=line.definition.replace(_ROW_SECURITY, "")) for line in fingerprint.structure(lines)
        if line.kind not in ("eventtrigger", "publication", "policy")
        and not (line.kind == "index" and line.definition.endswith("invalid"))
    )  # fmt: skip


def _compare(subject: str, things: str, before: Checksum, after: Checksum) -> None:
    if after != before:
        differs = f"{after.rows} {things} instead of {before.rows}" if after.rows != before.rows else f"other {things}"
        raise Impossible(
            f"restored from it, {subject} {differs}",
            "repeat the command; if that changes nothing, the table cannot be dumped and restored exactly",
        )


@contextmanager
def restored(settings: Settings, engine: Engine, file: int) -> Iterator[URL]:
    """The URL of a database that holds what the archive in the open file holds; dropped at the end.

    Raises :class:`Impossible`.
    """
    with _server(settings, engine) as connection:
        major = int(execute(connection, "SHOW server_version_num").scalar_one()) // 10000
    with _restored(settings, engine, client.find(settings.pg_bin, major), file) as url:
        yield url


@contextmanager
def _restored(
    settings: Settings, engine: Engine, programs: client.Programs, file: int, *, whole: bool = False
) -> Iterator[URL]:  # fmt: skip
    from sqlalchemy.exc import DBAPIError

    with connect.opened(engine, autocommit=True) as source:
        like = execute(source, _LIKE).one()
    with _server(settings, engine) as connection:
        name = _name(like[2])
        try:
            _hold(connection, like[2])
            try:
                execute(connection, _create(name, *like[:2]))
            except DBAPIError as error:
                said = str(error.orig).strip().splitlines()[0]
                raise Impossible(
                    f"no database can be made to restore it into: {said}",
                    "remove the cause, or let archive_check_url in alembic.ini name another server",
                ) from None
            if whole:
                _restore_whole(programs, connection, name, file)
            else:
                _restore(programs, connection, name, file, ["--section=pre-data", "--section=data"])
            yield client.place(connection).url(name)
        finally:
            _drop(connection, name)


@contextmanager
def _server(settings: Settings, engine: Engine) -> Iterator[Connection]:
    """A connection to where archives are restored: the same server, or the one of ``archive_check_url``."""
    if not settings.archive_check_url:
        with connect.opened(engine, autocommit=True) as connection:
            yield connection
        return
    from mcp_planner_schema.guard import address

    try:
        named = address.parse(settings.archive_check_url).set(drivername="postgresql+psycopg2")
    except ValueError:
        raise Impossible(
            "archive_check_url is no database URL (it is not shown: it may hold a password)",
            "archive_check_url = postgresql://user@host:5432/postgres",
        ) from None
    other = connect.engine(named, "mcp-planner-guard archive check")
    try:
        opened = other.connect()
    except Exception as error:
        told = connect.failure(error, named)
        raise Impossible(f"archive_check_url: {told.message}", "a URL that can be reached, or none") from None
    with opened:
        yield opened.execution_options(isolation_level="AUTOCOMMIT")


def _digest(source: str) -> bytes:
    return hashlib.sha256(source.encode()).digest()


def _name(source: str) -> str:
    # A name has 63 bytes; what is cut off is in the digest.
    begin = source.encode()[:30].decode(errors="ignore")
    return f"{begin}_archive_check_{_digest(source)[:4].hex()}_{secrets.token_hex(4)}"


def _hold(connection: Connection, source: str) -> None:
    """Drop what killed runs for the same database have left, unless another run is at work; say that one is, from now on.

    The lock ends with the connection, so a killed run holds none.
    """
    from sqlalchemy.exc import DBAPIError

    key = int.from_bytes(_digest(source)[:8], "big", signed=True)
    execute(connection, "SET lock_timeout = '60s'")
    alone = execute(connection, f"SELECT pg_catalog.pg_try_advisory_lock({key})").scalar_one()
    if alone:
        for (name,) in connection.exec_driver_sql(_LEFT, (_digest(source)[:4].hex(),)).all():
            try:
                execute(connection, f"DROP DATABASE IF EXISTS {identifier(name)}")
            except DBAPIError as error:
                if error.connection_invalidated:
                    raise
    execute(connection, f"SELECT pg_catalog.pg_advisory_lock_shared({key})")
    if alone:
        execute(connection, f"SELECT pg_catalog.pg_advisory_unlock({key})")


def _create(name: str, like: dict[str, Any], encoding: str) -> str:
    """Encoding and locale of the source, as the server's version names them: a sum of text must not depend on either."""
    parts = {"ENCODING": encoding, "LC_COLLATE": like["datcollate"], "LC_CTYPE": like["datctype"]}
    locale = like.get("datlocale") or like.get("daticulocale")
    match like.get("datlocprovider"):
        case "i":
            parts |= {"LOCALE_PROVIDER": "icu", "ICU_LOCALE": locale, "ICU_RULES": like.get("daticurules")}
        case "b":
            parts |= {"LOCALE_PROVIDER": "builtin", "BUILTIN_LOCALE": locale}
        case "c":
            parts |= {"LOCALE_PROVIDER": "libc"}
    said = " ".join(f"{word} {literal(value)}" for word, value in parts.items() if value)
    return f"CREATE DATABASE {identifier(name)} TEMPLATE template0 {said}"


def _restore_whole(programs: client.Programs, connection: Connection, name: str, file: int) -> None:
    """Everything but :data:`_NOT_TRIED`."""
    with tempfile.NamedTemporaryFile("wb") as chosen:
        entries = dump.listed(programs, file)
        chosen.writelines(line for line in entries.splitlines(keepends=True) if not _NOT_TRIED.match(line))
        chosen.flush()
        _restore(programs, connection, name, file, [f"--use-list={chosen.name}"])


def _restore(programs: client.Programs, connection: Connection, name: str, file: int, parts: list[str]) -> None:
    """For rows, definitions and rows do; what is made after them (indexes, foreign keys, triggers) can be made again."""
    arguments = [
        *parts,
        "--exit-on-error",
        "--no-owner",
        "--no-privileges",
        "--no-comments",
    ]
    os.lseek(file, 0, os.SEEK_SET)
    ended = client.run(
        programs.pg_restore,
        [*arguments, "--no-security-labels", "--no-tablespaces"],
        client.place(connection),
        name,
        stdin=file,
    )
    if ended.code == 0:
        return
    if DISK_FULL.search(ended.said):
        raise Impossible(
            f"the server's disk is full, the archive cannot be restored there ({last(ended.said)})",
            "free space, or let archive_check_url in alembic.ini name another server",
        )
    major = int(execute(connection, "SHOW server_version_num").scalar_one()) // 10000
    own = f"let pg_bin in alembic.ini name PostgreSQL {major}'s own programs (these are {programs.version})"
    may = "remove the cause that it names; for what only a superuser may make, a role that may in archive_check_url"
    raise Impossible(
        f"it cannot be restored: {last(ended.said)}", may if programs.version.startswith(str(major)) else own
    )


def _drop(connection: Connection, name: str) -> None:
    from sqlalchemy.exc import DBAPIError

    sql = f"DROP DATABASE IF EXISTS {identifier(name)} WITH (FORCE)"
    try:
        try:
            execute(connection, sql)
        except DBAPIError:  # the connection may be gone, and the server not
            with connect.opened(connection.engine, autocommit=True) as again:
                execute(again, sql)
    except (DBAPIError, GuardError):
        raise Broken(
            f"The scratch database {name} could not be dropped. It holds a copy of the archive; the next archive drops it.",
            f"psql -c {shlex.quote(f'DROP DATABASE {identifier(name)};')}",
        ) from None
