"""PostgreSQL's own programs: the ones that fit a server, and how they connect to it without a password in sight."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection

# What libpq has resolved from URL, environment and service file, and every libpq since 14 knows. Newer words are handed on
# only where the URL itself says them: to an older program they would be an error, even with their default.
_KNOWN = frozenset({
    "dbname", "user", "host", "hostaddr", "port", "connect_timeout", "options", "keepalives", "keepalives_idle",
    "keepalives_interval", "keepalives_count", "tcp_user_timeout", "sslmode", "sslcert", "sslkey", "sslpassword",
    "sslrootcert", "sslcrl", "sslcrldir", "sslsni", "requirepeer", "ssl_min_protocol_version",
    "ssl_max_protocol_version", "gssencmode", "krbsrvname", "gsslib", "channel_binding", "require_auth",
})  # fmt: skip
_NEWER = frozenset({"sslnegotiation", "sslcertmode", "gssdelegation"})
# These would lead a program elsewhere, or write the archive in another encoding than the database's.
_MISLEADING = (
    "PGHOST", "PGHOSTADDR", "PGPORT", "PGDATABASE", "PGUSER", "PGPASSWORD", "PGSERVICE", "PGSERVICEFILE", "PGOPTIONS",
    "PGAPPNAME", "PGTARGETSESSIONATTRS", "PGLOADBALANCEHOSTS", "PGCLIENTENCODING",
)  # fmt: skip


class Impossible(Exception):
    """No archive can be had: what is wrong, what to write instead, and what to type next if not the same command again."""

    def __init__(self, problem: str, instead: str, command: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.instead = instead
        self.command = command


@dataclass(frozen=True)
class Programs:
    """A pg_dump and a pg_restore that belong together."""

    pg_dump: Path
    pg_restore: Path
    version: str


@dataclass(frozen=True)
class Place:
    """One server as an open connection has reached it, with several hosts the one that answered. Never shows its password."""

    values: Mapping[str, str]
    password: str | None = field(repr=False)

    def url(self, database: str) -> URL:
        """Another database of this server."""
        from sqlalchemy import URL

        query = {name: value for name, value in self.values.items() if name not in ("user", "dbname")}
        return URL.create(
            "postgresql+psycopg2", self.values.get("user"), self.password or None, database=database, query=query
        )


@dataclass(frozen=True)
class Ended:
    """How a program ended, and what it said."""

    code: int
    said: str


def place(connection: Connection) -> Place:
    """Where a connection leads to, as libpq has resolved it."""
    info = connection.connection.dbapi_connection.info  # type: ignore[union-attr]
    asked = connection.engine.url.query
    values = {
        name: value
        for name, value in info.dsn_parameters.items()
        if value and (name in _KNOWN or (name in _NEWER and name in asked))
    }
    if "," in values.get("hostaddr", ""):
        del values["hostaddr"]
    values |= {"host": info.host, "port": str(info.port), "user": info.user, "dbname": info.dbname}
    return Place({name: value for name, value in values.items() if value}, info.password)


def find(folder: str, major: int) -> Programs:
    """The programs of ``folder``; without one: of the PATH, the system's places, the embedded server's wheel.

    Those of the server's own major version come before newer ones. Raises :class:`Impossible`.
    """
    problems, newer = [], None
    for place_ in [Path(folder)] if folder else _places(major):
        try:
            found, its_major = _examined(place_, major)
        except Impossible as error:
            problems.append(error)
            continue
        if its_major == major:
            return found
        newer = newer or found
    if newer is not None:
        return newer
    # What exists and is too old says more than what does not exist.
    raise next((one for one in problems if "older" in one.problem), problems[0])


def run(program: Path, arguments: list[str], at: Place, database: str, **streams: Any) -> Ended:
    """Run a program on a database and wait for it. How to connect stands in a file without a name, so that nothing is left
    where this is killed, and the password in the environment; neither is seen by ``ps``. The program is ended where this is
    interrupted. Raises :class:`Impossible`."""
    if any(character in value for value in (*at.values.values(), database) for character in "\r\n"):
        raise Impossible(
            "a line break in a connection's parameter cannot be handed to PostgreSQL's programs", "rename it"
        )
    lines = {**at.values, "dbname": database, "application_name": f"mcp-planner-guard {program.name}"}
    with tempfile.TemporaryFile() as service:
        service.write(("[it]\n" + "".join(f"{name}={value}\n" for name, value in lines.items())).encode())
        service.seek(0)
        environment = {name: value for name, value in os.environ.items() if name not in _MISLEADING}
        environment |= {"PGSERVICEFILE": f"/dev/fd/{service.fileno()}", "LC_ALL": "C"}
        if at.password:
            environment["PGPASSWORD"] = at.password
        ended = subprocess.run(
            [str(program), *arguments, "--no-password", "--dbname=service=it"], pass_fds=(service.fileno(),),
            stderr=subprocess.PIPE, env=environment, check=False, **{"stdin": subprocess.DEVNULL, **streams},
        )  # fmt: skip
    from mcp_planner_schema.guard import connect

    return Ended(ended.returncode, connect.masked(ended.stderr.decode(errors="replace").strip(), at.url(database)))


def _places(major: int) -> Iterator[Path]:
    on_path = shutil.which("pg_dump")
    if on_path:
        yield Path(on_path).parent
    yield from (
        place_
        for place_ in (Path(f"/usr/lib/postgresql/{major}/bin"), Path(f"/usr/pgsql-{major}/bin"))
        if place_.is_dir()
    )
    from mcp_planner_schema import embedded

    try:
        yield embedded.binary("pg_dump").parent
    except embedded.EmbeddedError:
        if not on_path:
            yield Path("the PATH")


def _examined(folder: Path, major: int) -> tuple[Programs, int]:
    wanted = f"install PostgreSQL {major}'s client programs and let pg_bin in alembic.ini name their folder"
    versions = {}
    for name in ("pg_dump", "pg_restore"):
        try:
            done = subprocess.run(
                [str(folder / name), "--version"],
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
                timeout=20,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            told = getattr(error, "strerror", None) or "it does not answer"
            raise Impossible(f"there is no {name} to run in {folder} ({told})", wanted) from None
        match = re.match(rf"{name} \([^)]*\) ((\d+)\S*)", done.stdout)
        if done.returncode or match is None:
            raise Impossible(f"{folder / name} does not say which version it is", wanted)
        versions[name] = match
    found = int(versions["pg_dump"][2])
    if found < major:
        raise Impossible(
            f"{folder / 'pg_dump'} is version {versions['pg_dump'][1]}, older than the server ({major})", wanted
        )
    if int(versions["pg_restore"][2]) < found:
        raise Impossible(
            f"{folder / 'pg_restore'} is version {versions['pg_restore'][1]}, older than pg_dump beside it", wanted
        )
    return Programs(folder / "pg_dump", folder / "pg_restore", versions["pg_dump"][1]), found
