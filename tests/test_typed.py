"""Commands that are printed for people: typed as they stand they do what they say, and no password is in them."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest
from alembic.config import Config

from mcp_planner_schema import embedded
from mcp_planner_schema.guard import connect, settings
from mcp_planner_schema.guard.address import parse
from tests.conftest import Database
from tests.test_deploy import called

SQL = "SELECT 'it''s ' || current_database()"


@pytest.mark.parametrize("driver", ["postgresql", "postgres", "postgresql+psycopg2", "postgresql+asyncpg"])
@pytest.mark.parametrize("exported", [True, False])
def test_a_statement_for_psql_can_be_typed(
    empty: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, driver: str, *, exported: bool
) -> None:
    """Whatever driver the URL names, in any shell, and where only .env has it: psql reaches the database that is meant."""
    url = parse(empty.url).set(drivername=driver, password="s3cret:w@rd").render_as_string(hide_password=False)
    monkeypatch.setenv("DATABASE_URL", url if exported else "")
    if not exported:
        (tmp_path / ".env").write_text(f"DATABASE_URL={url}\n")
        (tmp_path / ".env").chmod(0o600)
        monkeypatch.setenv("PLANNER_DOTENV", str(tmp_path / ".env"))
    path = f"{embedded.binary('psql').parent}:{os.environ['PATH']}"

    command = connect.psql(settings.load(Config()), SQL)
    ended = subprocess.run(
        ["/bin/sh", "-c", command], env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
    )

    assert f"it's {empty.name}" in ended.stdout, ended.stderr
    assert "s3cret" not in command
    assert ("DATABASE_URL" in command) is exported


@pytest.mark.parametrize("reason", ['it\'s "due" for $5 `today`', "no pod of release 41 since 14:00", "…"])
def test_a_deploy_names_itself_as_it_was_called(reason: str) -> None:
    """What failed says how to go on: all its words are there, and a shell reads them as they were typed."""
    words = ["--contract", "--reason", reason, "--without-rehearsal"]

    ended = called(*words, DATABASE_URL="", PGPASSWORD="s3cret")

    line = ended.stderr.splitlines()[-1]
    typed = line[line.index("scripts/production-migrate.sh") :]
    assert shlex.split(typed) == ["scripts/production-migrate.sh", *words]
    assert "s3cret" not in ended.stderr + ended.stdout
