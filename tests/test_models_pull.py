"""``make models-pull``: the models of a live database make the same tables again, and no file of somebody's own is lost."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mcp_planner_schema import cli
from mcp_planner_schema.guard import connect, fingerprint
from mcp_planner_schema.guard.address import parse
from mcp_planner_schema.guard.findings import WrongUse
from mcp_planner_schema.guard.version_table import VersionTable
from mcp_planner_schema.interop import pulled
from tests.conftest import Database, Project
from tests.prisma_migrate import TABLE

needs_sqlacodegen = pytest.mark.skipif(
    importlib.util.find_spec("sqlacodegen") is None, reason="no sqlacodegen: pip install 'sqlacodegen>=4.0,<5'"
)
SQL = """
CREATE SCHEMA app;
CREATE TYPE mood AS ENUM ('good', 'it''s bad');
CREATE TABLE users (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, mail varchar(80) NOT NULL, mood mood DEFAULT 'good',
  tags text[] NOT NULL DEFAULT '{}', at timestamptz(3) DEFAULT now(), size numeric(10, 2),
  CONSTRAINT mail CHECK (mail ~ '@'), CONSTRAINT once UNIQUE (mail, mood));
CREATE INDEX users_at ON users (at) WHERE size > 0;
CREATE TABLE app."Order" (id uuid PRIMARY KEY, "userId" bigint NOT NULL REFERENCES users ON DELETE CASCADE, said jsonb);
CREATE INDEX order_said ON app."Order" USING gin (said);
"""


def lines(database: Database) -> frozenset[Any]:
    """What the catalog is like."""
    engine = connect.engine(parse(database.url).set(drivername="postgresql+psycopg2"), "the test")
    with connect.opened(engine) as connection:
        found = fingerprint.structure(fingerprint.together(fingerprint.read(connection, "migration")))
        connection.rollback()
    engine.dispose()
    return found


def create(models: Path, database: Database) -> None:
    """Make the tables of a file of models."""
    spec = importlib.util.spec_from_file_location("pulled_models", models)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["pulled_models"] = module  # SQLAlchemy looks names of annotations up there
    try:
        spec.loader.exec_module(module)
        engine = connect.engine(parse(database.url).set(drivername="postgresql+psycopg2"), "the test")
        module.Base.metadata.create_all(engine)
        engine.dispose()
    finally:
        del sys.modules["pulled_models"]


@pytest.mark.long
@needs_sqlacodegen
def test_the_models_make_the_same_tables_again(
    empty: Database, new_database: Callable[[], Database], project: Project, tmp_path: Path
) -> None:
    """Two schemas, an enum, a list, identity, checks, partial and GIN indexes: line by line the same catalog."""
    again = new_database()
    empty.rows(SQL)
    again.rows("CREATE SCHEMA app")

    first = pulled.write(project.config(), tmp_path / "models.py")
    second = pulled.write(project.config(), tmp_path / "models.py")
    create(tmp_path / "models.py", again)

    assert (first, second) == (True, False)
    assert lines(again) == lines(empty)


@pytest.mark.long
@needs_sqlacodegen
def test_only_tables_of_the_application_become_models(
    empty: Database, project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not Alembic's, the guard's or Prisma's, no partition; SCHEMA chooses, and an index of an expression is in a comment."""
    project.revision(
        "001", "create_t1", "op.execute('CREATE TABLE t1 (id int PRIMARY KEY, name text)')", "op.drop_table('t1')"
    )
    project.upgrade()
    empty.rows(
        TABLE
        + "; CREATE INDEX low ON t1 (lower(name || '\nraise SystemExit')); CREATE TABLE p (id int) PARTITION BY RANGE (id);"
        "CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (1) TO (2); CREATE SCHEMA app; CREATE TABLE app.a (id int)"
    )
    monkeypatch.setattr(cli, "ROOT", project.folder)
    capsys.readouterr()

    codes = [cli.main(["models-pull", "OUT=-", *more]) for more in ([], ["SCHEMA=public"], ["SCHEMA=nothing"])]
    told = capsys.readouterr()

    assert (
        codes == [0, 0, WrongUse.code] and "no table in schema nothing (schemas with tables: app, public)" in told.err
    )
    whole, only = told.out.split("Models of the tables")[1:]
    there = [name for name in ("'t1'", "'p'", "'a'", "'p1'", "prisma", "alembic", "history") if name in whole]
    assert there == ["'t1'", "'p'", "'a'"]
    assert "'t1'" in only and "'a'" not in only
    assert "\n# CREATE INDEX low ON public.t1 USING btree (lower((name || ' raise SystemExit'::text)))\n" in whole


def test_only_the_version_table_that_alembic_finds_is_left_out(empty: Database) -> None:
    """It is found by the search_path; a table of that name in another schema is one of the application's."""
    empty.rows(
        f"CREATE SCHEMA app; ALTER DATABASE {empty.name} SET search_path = app, public;"
        "CREATE TABLE public.alembic_version (id int); CREATE TABLE app.alembic_version (version_num text)"
    )
    engine = connect.engine(parse(empty.url).set(drivername="postgresql+psycopg2"), "the test")

    with connect.opened(engine) as connection:
        found = [list(pulled._tables(connection, "migration", VersionTable(schema=one))) for one in (None, "public")]
        connection.rollback()
    engine.dispose()

    assert found == [[("public", "alembic_version")], [("app", "alembic_version")]]


def test_without_sqlacodegen_it_says_what_to_install(
    empty: Database, project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sentence and the command, before the database is asked; and a file of somebody's own stays as it is."""
    monkeypatch.setitem(sys.modules, "sqlacodegen", None)
    monkeypatch.setitem(sys.modules, "sqlacodegen.generators", None)
    own = tmp_path / "models.py"
    own.write_text("class Mine: ...\n")

    with pytest.raises(WrongUse, match="sqlacodegen, which is not installed here") as missing:
        pulled.write(project.config(), tmp_path / "new.py")
    with pytest.raises(WrongUse, match="was not written by this command"):
        pulled.write(project.config(), own)

    assert "pip install 'sqlacodegen>=4.0,<5'" in missing.value.next_command
    assert own.read_text() == "class Mine: ...\n" and not (tmp_path / "new.py").exists()
