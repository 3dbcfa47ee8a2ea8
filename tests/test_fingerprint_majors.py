"""The same schema has the same fingerprint on every PostgreSQL that is installed here.

``PLANNER_TEST_PG_BINS`` names folders with ``initdb`` and ``postgres`` of further versions, separated as in PATH. PostgreSQL's
packages of Debian are found by themselves; a machine that has neither skips this file.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from alembic import command

from mcp_planner_schema.embedded.place import as_account
from mcp_planner_schema.guard import connect
from mcp_planner_schema.guard.fingerprint import Lines, difference, of, stored
from mcp_planner_schema.inspect import fingerprints
from tests.conftest import HEAD, ROOT, Database, _clone, _private_folder
from tests.every_kind import SCHEMA
from tests.test_fingerprint import lines, opened
from tests.test_schema import REVISIONS
from tests.until import until


def major(binaries: Path) -> int:
    """The major version of an installation."""
    said = subprocess.run([binaries / "postgres", "--version"], capture_output=True, text=True, check=True).stdout
    return int(re.findall(r"\d+", said)[0])


_NAMED = [
    *(Path(name) for name in os.environ.get("PLANNER_TEST_PG_BINS", "").split(os.pathsep) if name),
    *sorted(Path("/usr/lib/postgresql").glob("*/bin")),
]
BINS = [binaries for binaries in _NAMED if major(binaries) >= connect.OLDEST]
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not BINS, reason="no other PostgreSQL is installed, and PLANNER_TEST_PG_BINS names none"),
]


@contextmanager
def running(binaries: Path, environment: dict[str, str] | None = None, *settings: str) -> Iterator[Database]:
    """A server of another installation, on a socket of its own; as root it runs under an unprivileged account.

    ``environment`` is what only the server has besides, ``settings`` are ``name=value``.
    """
    folder = _private_folder()
    try:
        initialized(binaries, folder / "data")
        with serving(binaries, folder / "data", environment, *settings) as database:
            yield database
    finally:
        shutil.rmtree(folder)


def initialized(binaries: Path, data: Path, *options: str) -> None:
    """Make a cluster of its own."""
    data.mkdir(mode=0o700)
    if os.geteuid() == 0:
        shutil.chown(data, "nobody")
    access = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", *options]
    made = [str(binaries / "initdb"), f"--pgdata={data}", *access]
    subprocess.run(made, check=True, capture_output=True, **unprivileged())


@contextmanager
def serving(
    binaries: Path, data: Path, environment: dict[str, str] | None = None, *settings: str, stop: int = signal.SIGQUIT
) -> Iterator[Database]:
    """The server of a cluster that is there; ``stop`` is the signal that ends it."""
    how = unprivileged()
    named = [f"--{one}" for one in ("listen_addresses=", "fsync=off", *settings)]
    options = [str(binaries / "postgres"), "-D", str(data), "-k", str(data), "-p", "5432", *named]
    with data.with_name("log").open("ab") as log:
        how["env"] = {**how.get("env", os.environ), **(environment or {})}
        server = subprocess.Popen(options, stdout=log, stderr=log, **how)
    database = Database(str(data), 5432, "postgres")
    try:
        until(lambda: server.poll() is not None or _answers(database))
        yield database
    finally:
        server.send_signal(stop)
        server.wait()


def unprivileged() -> dict[str, Any]:
    """How a program of PostgreSQL's is run here, for ``subprocess``."""
    return as_account("nobody" if os.geteuid() == 0 else None)


def _answers(database: Database) -> bool:
    try:
        return bool(database.value("SELECT true"))
    except psycopg2.OperationalError:
        return False


@pytest.fixture(scope="module")
def here(empty_template: Any) -> Iterator[Lines]:
    """The lines of the schema with an object of every kind, on the embedded server."""
    with _clone(empty_template) as cloned:
        cloned.rows(SCHEMA)
        with opened(cloned) as connection:
            yield lines(connection)


@pytest.fixture(scope="module", params=BINS, ids=str)
def other(request: pytest.FixtureRequest) -> Iterator[Database]:
    """A running server of another version."""
    with running(request.param) as database:
        yield database


def test_every_kind_of_object_has_the_same_lines(here: Lines, other: Database) -> None:
    """A schema with an object of every kind: no line differs, and so no digest."""
    other.rows("CREATE DATABASE kinds")
    there = Database(other.host, other.port, "kinds")
    there.rows(SCHEMA)

    with opened(there) as connection:
        found = lines(connection)

    assert difference(here, found) == []
    assert of(found) == of(here)
    print(f"{other.value('SHOW server_version')}: {len(found)} lines, {of(found)}")


def test_the_planners_revisions_have_the_stored_fingerprints(
    other: Database, planner: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each revision makes on that server what alembic/fingerprints says, upgrade head under the guard what all make, and a step
    back and forth under it leaves that."""
    monkeypatch.setenv("PLANNER_ARCHIVE_CHECK_URL", other.url)
    other.rows("CREATE DATABASE planner")
    there = Database(other.host, other.port, "planner")
    monkeypatch.setenv("DATABASE_URL", there.url)
    monkeypatch.setenv("PLANNER_ENV", "development")

    found = fingerprints.run(planner, "all")
    command.upgrade(planner, "head")
    command.downgrade(planner, "-1")
    command.upgrade(planner, "head")

    assert {revision: one for revision, (one, _) in found.items()} == stored.fingerprints(ROOT / "alembic")
    with opened(there) as connection:
        now = lines(connection)
    assert difference(stored.expected(ROOT / "alembic", REVISIONS), now) == []
    assert of(now) == stored.fingerprints(ROOT / "alembic")[HEAD]
