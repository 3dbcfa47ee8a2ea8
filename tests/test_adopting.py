"""docs/adopting.md does what it says: its commands are taken out of the page and run, on what the other tool has made."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mcp_planner_schema import embedded
from tests.conftest import ROOT, Database
from tests.golang import Migrate
from tests.prisma_migrate import Prisma
from tests.test_golang import write

pytestmark = pytest.mark.long
PAGE = (ROOT / "docs" / "adopting.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## From ([^\n]+)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
USERS = "CREATE TABLE users (id bigint PRIMARY KEY, name text);\n"
MAIL = "ALTER TABLE users ADD mail text;\n"


def blocks(section: str, language: str) -> list[str]:
    """The code of one language in a section of the page."""
    return [code for kind, code in _BLOCK.findall(SECTIONS[section]) if kind == language]


@pytest.fixture
def typed(tmp_path: Path, empty_template: object, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Runs a script in a folder as a person would type it, with the programs of this environment found by their names."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, words in {
        "python": '"$PYTHON"', "python3": f'"{sys.executable}"', "alembic": f'"{sys.executable}" -m alembic',
        "mcp-planner-schema": f'"{sys.executable}" -m mcp_planner_schema',
    }.items():  # fmt: skip
        (programs / name).write_text(f'#!/bin/sh\nexec {words} "$@"\n')
        (programs / name).chmod(0o755)
    alone = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKEOVERRIDES", "MFLAGS")}
    path = f"{programs}{os.pathsep}{embedded.binary('psql').parent}{os.pathsep}{os.environ['PATH']}"

    def run(
        folder: Path, database: Database, script: str, *, python: str = sys.executable, scratch: str | None = None
    ) -> str:
        beside = database.url.replace(f"/{database.name}?", "/postgres?") if scratch is None else scratch
        environment = {
            **alone, "PATH": path, "PYTHONPATH": str(ROOT), "PYTHON": python, "DATABASE_URL": database.url,
            "AUTHOR": "A Tester <tester@example.org>", "PYTHONDONTWRITEBYTECODE": "1", "PLANNER_ENV": "development",
            "PLANNER_ARCHIVE_CHECK_URL": beside,
        }  # fmt: skip
        done = subprocess.run(["sh", "-e", "-c", script], cwd=folder, env=environment, capture_output=True, text=True,
                              check=False)  # fmt: skip
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    yield run


def numbered(section: str) -> list[int]:
    """The numbers of the section's commands."""
    return [int(number) for number in re.findall(r"# (\d+)\.", blocks(section, "sh")[0])]


@pytest.mark.parametrize("section", SECTIONS)
def test_the_commands_are_numbered(section: str) -> None:
    """One after the other, and in one block, so that none is there untested."""
    assert len(blocks(section, "sh")) == 1
    assert numbered(section) == list(range(1, len(numbered(section)) + 1))
    assert set(SECTIONS) == {"plain Alembic", "golang-migrate", "Prisma", "Django"}


def test_from_plain_alembic(tmp_path: Path, empty: Database, typed: Callable[..., str]) -> None:
    """A database that Alembic alone has made goes on under guard; a new revision then needs a header."""
    project = tmp_path / "project"
    project.mkdir()
    typed(project, empty, "alembic init alembic")
    (project / "models.py").write_text(
        'import sqlalchemy as sa\nmetadata = sa.MetaData()\nsa.Table("users", metadata, '
        'sa.Column("id", sa.Integer, primary_key=True), sa.Column("name", sa.Text), sa.Column("mail", sa.Text))\n'
    )
    url = empty.url.replace("postgresql:", "postgresql+psycopg2:")
    ini = project / "alembic.ini"
    ini.write_text(re.sub(r"^sqlalchemy.url = .*", f"sqlalchemy.url = {url}", ini.read_text(), flags=re.MULTILINE))
    for revision, parent, up, down in (
        ("1a2b3c4d5e6f", None, 'op.create_table("users", sa.Column("id", sa.Integer, primary_key=True), '
                               'sa.Column("name", sa.Text))', 'op.drop_table("users")'),
        ("7f3e21c9a0d4", "1a2b3c4d5e6f", 'op.add_column("users", sa.Column("mail", sa.Text))', 'op.drop_column("users", "mail")'),
    ):  # fmt: skip
        (project / "alembic" / "versions" / f"{revision}_x.py").write_text(
            f'"""x"""\nimport sqlalchemy as sa\nfrom alembic import op\n\nrevision = {revision!r}\ndown_revision = {parent!r}\n'
            f"\n\ndef upgrade() -> None:\n    {up}\n\n\ndef downgrade() -> None:\n    {down}\n"
        )
    typed(project, empty, "alembic upgrade head")
    empty.rows("INSERT INTO users VALUES (1, 'jane', 'j@example.org')")
    alone = empty.value("SELECT to_regclass('migration.history')")

    [lines], [script], [server, headers] = (blocks("plain Alembic", kind) for kind in ("python", "sh", "ini"))
    (project / "alembic" / "env.py").write_text(lines)
    plain = ini.read_text()
    nowhere = typed(project, empty, "mcp-planner-schema migrate-fingerprint VERSION=all || true", scratch="")
    ini.write_text(plain + server)
    said = typed(project, empty, script)
    ini.write_text(plain + server + headers)
    typed(project, empty, "alembic revision -m 'add age' --rev-id 999999999999")
    refused = typed(project, empty, "alembic upgrade head || true")

    assert alone is None and "embedded = %(here)s below [guard]" in nowhere
    assert "7f3e21c9a0d4 (head)" in said and "No new upgrade operations detected" in said
    assert "as the revisions have made it" in said and "nothing found" in said
    assert "kept column users.mail: 1 rows" in said and "restored column users.mail: 1 rows" in said
    assert empty.rows("SELECT * FROM users") == [(1, "jane", "j@example.org")]
    assert "header-missing" in refused and "999999999999" in refused


def test_from_golang_migrate(
    tmp_path: Path, empty: Database, new_database: Callable[[], Database], typed: Callable[..., str]
) -> None:
    """A folder and the database that golang-migrate's rules have made of it."""
    folder = tmp_path / "project"
    write(folder / "migrations", {
        "1_create_users.up.sql": USERS.encode(), "1_create_users.down.sql": b"DROP TABLE users;\n",
        "2_add_mail.up.sql": MAIL.encode(), "2_add_mail.down.sql": b"ALTER TABLE users DROP mail;\n",
    })  # fmt: skip
    Migrate(folder / "migrations", empty).up()

    said = typed(folder, empty, blocks("golang-migrate", "sh")[0])

    assert "said version 2; the database is at 002" in said
    assert "as the revisions have made it" in said and "nothing to do: the database is at 002" in said


def test_from_prisma(tmp_path: Path, empty: Database, typed: Callable[..., str]) -> None:
    """A folder of Prisma's, and the database that Prisma's rules have made of it."""
    folder = tmp_path / "project"
    for name, sql in (("20240101000000_create_users", USERS), ("20240201000000_add_mail", MAIL)):
        (folder / "prisma" / "migrations" / name).mkdir(parents=True)
        (folder / "prisma" / "migrations" / name / "migration.sql").write_text(sql)
    (folder / "prisma" / "migrations" / "migration_lock.toml").write_text('provider = "postgresql"\n')
    Prisma(folder / "prisma" / "migrations", empty).deploy()

    said = typed(folder, empty, blocks("Prisma", "sh")[0])

    assert "the database is at 002" in said
    assert "as the revisions have made it" in said and "nothing to do: the database is at 002" in said


MODELS = """
from django.db import models


class Author(models.Model):
    name = models.CharField(max_length=100, unique=True)


class Book(models.Model):
    author = models.ForeignKey(Author, on_delete=models.CASCADE)
    title = models.TextField(db_index=True)
    price = models.DecimalField(max_digits=8, decimal_places=2, default=0)
"""
SETTINGS = """
import os
SECRET_KEY = "x"
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth", "django.contrib.sessions", "shop"]
DATABASES = {"default": {"ENGINE": "django.db.backends.postgresql", "HOST": os.environ["PGHOST"],
                         "PORT": os.environ["PGPORT"], "USER": "postgres", "NAME": os.environ["PGDATABASE"]}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
"""
MANAGE = """
import os, sys
from django.core.management import execute_from_command_line
os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
execute_from_command_line(sys.argv)
"""


def django() -> str:
    """An interpreter that has Django; the test is skipped where there is none."""
    if importlib.util.find_spec("django"):
        return sys.executable
    named = os.environ.get("PLANNER_TEST_TOOLS")
    if not named or not list(Path(named).glob("lib/python*/site-packages/django")):
        pytest.skip("Django is not installed here, and PLANNER_TEST_TOOLS names no environment that has it")
    return str(Path(named) / "bin" / "python")


def test_from_django(
    tmp_path: Path, empty: Database, typed: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Django's own apps and one of somebody's, migrated by Django; then what a new revision adds is the guard's."""
    python = django()
    folder = tmp_path / "project"
    (folder / "shop" / "migrations").mkdir(parents=True)
    for name, text in {
        "shop/__init__.py": "", "shop/migrations/__init__.py": "", "shop/models.py": MODELS, "settings.py": SETTINGS,
        "manage.py": MANAGE,
    }.items():  # fmt: skip
        (folder / name).write_text(text)
    monkeypatch.setenv("PGDATABASE", empty.name)
    where = f"export PGHOST={empty.host} PGPORT={empty.port} PGDATABASE={empty.name}\n"
    typed(folder, empty, where + "python manage.py makemigrations shop && python manage.py migrate", python=python)
    models = folder / "shop" / "models.py"
    models.write_text(models.read_text() + "    pages = models.IntegerField(null=True)\n")
    typed(folder, empty, where + "python manage.py makemigrations shop && python manage.py migrate", python=python)
    applied = empty.value("SELECT count(*) FROM django_migrations")

    said = typed(folder, empty, where + blocks("Django", "sh")[0], python=python)

    assert "as the revisions have made it" in said
    assert empty.value("SELECT version_num FROM alembic_version") == f"{applied:03}"
    assert f"nothing to do: the database is at {applied:03}" in said
