"""The copy itself: nothing of an unmasked row is in its files, and what stands in its place is looked at right before it goes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.config import Config

from mcp_planner_schema import embedded
from mcp_planner_schema.guard import client, marker, settings
from mcp_planner_schema.guard.findings import Refused
from mcp_planner_schema.staging import copying, masks, place
from tests.conftest import Database

SECRET = "Agatha-Xq7-Bronte"


@pytest.fixture
def given(empty: Database, tmp_path: Path) -> settings.Settings:
    """As staging reads them."""
    environ = {"DATABASE_URL": empty.url, "PLANNER_ENV": "staging", "PLANNER_ARCHIVE_DIR": str(tmp_path / "backups")}
    return settings.load(Config(), {**environ, "PLANNER_PG_BIN": str(embedded.binary("pg_dump").parent)})


def url(database: Database) -> sa.URL:
    """As the guard connects."""
    return sa.make_url(database.url).set(drivername="postgresql+psycopg2")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root reads the server's files here")
def test_the_files_of_a_copy_have_no_unmasked_row(
    empty: Database, new_database: Callable[[], Database], given: settings.Settings, tmp_path: Path
) -> None:
    """Neither in the tables, the guard's among them, nor in large objects is what stood there before masking, dead or alive."""
    source = new_database()
    many = "FROM generate_series(1, 999) n"  # the bytes of a few would be overwritten by chance
    source.rows(f"""CREATE TABLE people (id int PRIMARY KEY, name text); INSERT INTO people SELECT n, '{SECRET}' {many};
        CREATE SCHEMA migration; CREATE TABLE migration.backfill_range (backfill bigint, relation text, worker text);
        INSERT INTO migration.backfill_range SELECT 1, 'people', '{SECRET}' || n {many};
        SELECT lo_from_bytea(0, ('{SECRET}' || n)::bytea) {many}""")
    rules = tmp_path / "masks.toml"
    rules.write_text('large_objects = "drop"\n[public.people]\nname = "words"\n')

    with place.server(url(empty)) as server, copying.of_source(given, url(source), tmp_path / "backups") as archive:
        programs = client.find(given.pg_bin, 18)
        created, _ = copying.like(programs, archive)
        with copying.closed(server, url(empty), created) as name:
            copying.fill(given, server, name, archive, programs, masks.read(rules))
            server.exec_driver_sql("CHECKPOINT")
            files = {one: _holding(server, one) for one in (name, source.name)}

    assert files[name] == []
    assert len(files[source.name]) >= 2  # where it was, it is found by this


def _holding(server: sa.Connection, database: str) -> list[str]:
    asked = "SELECT current_setting('data_directory') || '/base/' || oid FROM pg_database WHERE datname = %s"
    folder = Path(server.exec_driver_sql(asked, (database,)).scalar_one())
    return [one.name for one in folder.iterdir() if SECRET.encode() in one.read_bytes()]


def test_what_has_become_productions_meanwhile_is_not_dropped(
    new_database: Callable[[], Database], given: settings.Settings
) -> None:
    """It was empty when the rehearsal began; it is looked at again right before the copy takes its place."""
    target = new_database()
    with place.server(url(target)) as server, copying.closed(server, url(target), "TEMPLATE template0") as name:
        place.refuse_what_is_not_ours(server, url(target), given, "")
        target.rows("CREATE SCHEMA migration;" + marker.TABLES.format(schema="migration"))
        target.rows("INSERT INTO migration.environment (name, who, host) VALUES ('production', 'a', 'b')")

        with pytest.raises(Refused, match="its own marker says that it is production's"):
            copying.put(server, url(target), given, name, "of a test")

    assert target.value("SELECT name FROM migration.environment") == "production"
