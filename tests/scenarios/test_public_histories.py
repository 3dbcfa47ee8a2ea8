"""Histories that other people have published reach the same catalog under guard as without it.

They come from their packages, which are no dependency of ours: PLANNER_TEST_HISTORIES names a folder with a virtual environment
for each, in which the package and what the guard needs are installed (docs/7-testing.md shows how).
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from mcp_planner_schema import embedded
from mcp_planner_schema.guard import connect, fingerprint
from mcp_planner_schema.guard.address import parse
from tests.conftest import ROOT, Database

pytestmark = pytest.mark.long

PLAIN = """\
import os
import sqlalchemy as sa
from alembic import context

url = sa.make_url(os.environ["DATABASE_URL"]).set(drivername="postgresql+psycopg2")
with sa.create_engine(url).connect() as connection:
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()
"""
GUARDED = "from alembic import context\nfrom mcp_planner_schema.guard import run\n\nrun(context)\n"
TABLES = (
    "SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace ORDER BY 1"
)


@dataclass(frozen=True)
class History:
    """``folder`` of the revisions in the package, ``count`` of them at least, and what alembic.ini says beside.

    ``before`` stands above env.py where the revisions want the package set up; ``tables`` is Python that makes what the first
    revision expects to be there, with ``engine``; ``targets`` are one after the other.
    """

    package: str
    folder: str
    count: int
    ini: str = ""
    before: str = ""
    tables: str = ""
    targets: tuple[str, ...] = ("heads",)


HISTORIES = [
    # Ids that are versions, batch operations, rows moved by the ORM.
    History("optuna", "optuna/storages/_rdb/alembic/versions", 8),
    # Random ids, reflection; begins with tables of its former models.
    History("mlflow", "mlflow/store/db_migrations/versions", 40, tables=(
        "from mlflow.store.tracking.dbmodels.initial_models import Base; Base.metadata.create_all(engine)")),
    # Enums, triggers, statistics, concurrent indexes in autocommit blocks. The next one is written for asyncpg alone.
    History("prefect", "prefect/server/database/_migrations/versions/postgresql", 100, targets=("9e9dadc36797",)),
    # Two labelled branches in a tree of folders.
    History("keystone", "keystone/common/sql/migrations/versions", 9, "recursive_version_locations = true",
            "import keystone.conf\n\nkeystone.conf.configure()\n"),
    # Two labelled branches that depend on each other, in a tree of folders. The next one is for MySQL alone.
    History("neutron", "neutron/db/migration/alembic_migrations/versions", 90, "recursive_version_locations = true",
            targets=("contract@head", "ad80a9f07c5c")),
]  # fmt: skip


def python(history: History) -> Path:
    """The interpreter of its environment; the test is skipped where there is none."""
    named = os.environ.get("PLANNER_TEST_HISTORIES")
    if not named:
        pytest.skip("PLANNER_TEST_HISTORIES names no folder of environments with published histories")
    found = Path(named) / history.package / "bin" / "python"
    if not found.is_file():
        pytest.skip(f"{named} has no environment {history.package}")
    return found


def upgrade(history: History, folder: Path, env: str, database: Database) -> tuple[float, str]:
    """``alembic upgrade heads`` by the package's own interpreter: seconds, and what it said."""
    interpreter = python(history)
    (site,) = interpreter.parent.parent.glob("lib/python*/site-packages")
    versions = site / history.folder
    assert len(list(versions.rglob("*.py"))) >= history.count
    (folder / "migrations").mkdir(parents=True)
    (folder / "migrations" / "env.py").write_text(history.before + env)
    (folder / "alembic.ini").write_text(
        f"[alembic]\nscript_location = %(here)s/migrations\nprepend_sys_path = {ROOT}\npath_separator = os\n"
        f"version_locations = {versions}\n{history.ini}\n"
    )
    environment = {
        **os.environ,
        "DATABASE_URL": database.url,
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONWARNINGS": "ignore",
    }
    if history.tables:
        engine = f"import sqlalchemy; engine = sqlalchemy.create_engine({_psycopg2(database)!r}); {history.tables}"
        subprocess.run([interpreter, "-c", engine], cwd=folder, env=environment, capture_output=True, check=True)
    began, said = time.monotonic(), ""
    for target in history.targets:
        done = subprocess.run(
            [interpreter, "-m", "alembic", "upgrade", target], cwd=folder, env=environment, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-4000:]
        said += done.stderr
    return time.monotonic() - began, said


def _psycopg2(database: Database) -> str:
    return database.url.replace("postgresql:", "postgresql+psycopg2:")


def catalog(database: Database) -> fingerprint.Lines:
    """What the catalog is like, as the guard reads it."""
    engine = connect.engine(parse(_psycopg2(database)), "the test")
    with connect.opened(engine) as connection:
        found = fingerprint.together(fingerprint.read(connection, "migration"))
        connection.rollback()
    engine.dispose()
    return found


def dump(database: Database) -> str:
    """What the catalog is like, as pg_dump writes it."""
    done = subprocess.run(
        [str(embedded.binary("pg_dump")), "-s", "-N", "migration*", "-h", database.host, "-p", str(database.port),
         "-U", database.user, database.name], capture_output=True, text=True, check=True,
    )  # fmt: skip
    return re.sub(r"^\\(un)?restrict .*$", "", done.stdout, flags=re.MULTILINE)


def counts(database: Database) -> dict[str, int]:
    """How many rows each table has."""
    return {name: database.value(f"SELECT count(*) FROM {name}") for (name,) in database.rows(TABLES)}


@pytest.mark.parametrize("history", HISTORIES, ids=lambda one: one.package)
def test_the_same_catalog_with_and_without_the_guard(
    history: History,
    new_database: Callable[[], Database],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    """Catalog, dump, version and the number of rows of each table are the same; nothing was set but where the folder is."""
    plain, guarded = new_database(), new_database()

    alone, _ = upgrade(history, tmp_path / "plain", PLAIN, plain)
    under, said = upgrade(history, tmp_path / "guarded", GUARDED, guarded)

    applied = guarded.value("SELECT count(*) FROM migration.history WHERE direction = 'upgrade' AND outcome = 'done'")
    for name, value in (("revisions", applied), ("plain", alone), ("guarded", under)):
        record_property(name, value)
    print(f"{history.package}: {applied} revisions, {alone:.1f} s, {under:.1f} s under guard")
    assert applied >= history.count, said
    assert fingerprint.difference(catalog(plain), catalog(guarded)) == []
    assert fingerprint.of(catalog(plain)) == fingerprint.of(catalog(guarded))
    assert dump(guarded) == dump(plain)
    versions = "SELECT version_num FROM alembic_version ORDER BY 1"
    assert guarded.rows(versions) == plain.rows(versions)
    assert counts(guarded) == counts(plain)
