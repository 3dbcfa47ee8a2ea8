"""A history that knows nothing of us: stock template, random ids, branches, a data revision, an autocommit block."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, Database

SHAPE = (
    "SELECT relname, relkind::text FROM pg_class WHERE relnamespace = 'public'::regnamespace "
    "AND relname NOT LIKE 'alembic_version%%' ORDER BY 1"
)
BODIES = {
    "3f2a9c81d7e4": (None, 'op.create_table("users", sa.Column("id", sa.Integer(), primary_key=True), '
                     'sa.Column("name", sa.Text()))',
                     'op.drop_table("users")'),
    "b81c04aa92f3": ("3f2a9c81d7e4", 'op.add_column("users", sa.Column("mail", sa.Text()))', 'op.drop_column("users", "mail")'),
    "07d5e61f4b2c": ("3f2a9c81d7e4", 'op.create_table("orders", sa.Column("id", sa.Integer(), primary_key=True), '
                     'sa.Column("user_id", sa.Integer(), sa.ForeignKey("users.id")))', 'op.drop_table("orders")'),
    "c9a8b7d6e5f4": (("b81c04aa92f3", "07d5e61f4b2c"), "pass", "pass"),
    "e4d3c2b1a098": ("c9a8b7d6e5f4", 'bind = op.get_bind()\n'
                     'users = sa.table("users", sa.column("id"), sa.column("name"), sa.column("mail"))\n'
                     'bind.execute(users.insert(), [{"id": n, "name": f"n{n}"} for n in range(3)])\n'
                     'for row in bind.execute(sa.select(users)).all():\n'
                     '    bind.execute(users.update().where(users.c.id == row.id).values(mail=row.name + "@example.org"))',
                     'op.execute("DELETE FROM users WHERE name LIKE \'n%\'")'),
    "5a6b7c8d9e0f": ("e4d3c2b1a098", 'with op.get_context().autocommit_block():\n'
                     '    op.create_index("ix_users_mail", "users", ["mail"], postgresql_concurrently=True)',
                     'with op.get_context().autocommit_block():\n'
                     '    op.drop_index("ix_users_mail", "users", postgresql_concurrently=True)'),
}  # fmt: skip


HEADER = '''"""change 4

Version: e4d3c2b1a098
Description: Three users with their mail
Author: Somebody Else <else@example.org>
Date: 2026-01-31
Dependencies: c9a8b7d6e5f4
Type: data
Phase: migrate
Transaction: single
Reversible: stash
Waive: applied-edited | it got its header and an expectation | 2999-12-31
"""'''
EXPECTED = """\
from mcp_planner_schema.operations import expect

expectations = [expect.rows("SELECT FROM users", count=3)]


def upgrade"""


def alembic(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The alembic command as a person types it."""
    return subprocess.run([sys.executable, "-m", "alembic", *arguments], cwd=folder, capture_output=True, text=True,
                          check=False)  # fmt: skip


def indented(text: str) -> str:
    """A body for a function."""
    return "".join(f"    {line}\n" for line in text.split("\n"))


@pytest.fixture(params=["one line", "stock env.py"])
def foreign(request: pytest.FixtureRequest, tmp_path: Path, empty: Database) -> Path:
    """What ``alembic init`` writes, six revisions by its stock template, and one line of ours in env.py."""
    assert alembic(tmp_path, "init", "migrations").returncode == 0
    settings = (tmp_path / "alembic.ini").read_text()
    (tmp_path / "alembic.ini").write_text(settings.replace("prepend_sys_path = .", f"prepend_sys_path = {ROOT}"))
    env = tmp_path / "migrations" / "env.py"
    if request.param == "one line":
        env.write_text("from alembic import context\nfrom mcp_planner_schema.guard import run\nrun(context)\n")
    else:
        head, _, _ = env.read_text().partition("def run_migrations_offline")
        env.write_text(
            head + "from mcp_planner_schema.guard import run  # noqa: E402\n\nrun(context, target_metadata)\n"
        )
    for number, (revision, (parents, up, down)) in enumerate(BODIES.items()):
        (tmp_path / "migrations" / "versions" / f"{revision}_change_{number}.py").write_text(
            f'"""change {number}\n\nRevision ID: {revision}\nRevises: {parents}\nCreate Date: 2024-05-01 10:00:00\n\n"""\n'
            "from alembic import op\nimport sqlalchemy as sa\n\n"
            f"revision = {revision!r}\ndown_revision = {parents!r}\nbranch_labels = None\ndepends_on = None\n\n\n"
            f"def upgrade() -> None:\n{indented(up)}\n\ndef downgrade() -> None:\n{indented(down)}"
        )
    return tmp_path


def test_up_down_up(empty: Database, foreign: Path) -> None:
    """Merges, data and a concurrent index go up, down to base and up again; rows are counted, and back with their numbers.

    One revision gets a header and an expectation in between, as the first of a history that had none.
    """
    up = alembic(foreign, "upgrade", "head")
    first, mails = empty.rows(SHAPE), empty.rows("SELECT id, mail FROM users ORDER BY id")
    path = next((foreign / "migrations" / "versions").glob("e4d3c2b1a098*"))
    path.write_text(HEADER + path.read_text().split('"""', 2)[2].replace("def upgrade", EXPECTED, 1))
    down = alembic(foreign, "downgrade", "base")
    nothing = empty.rows(SHAPE)
    again = alembic(foreign, "upgrade", "head")

    assert [(one.returncode, one.stderr) for one in (up, down, again) if one.returncode] == []
    assert "kept changed rows of users: 3 rows" in down.stderr
    assert empty.rows("SELECT id, mail FROM users ORDER BY id") == mails
    assert "header" not in up.stderr + down.stderr + again.stderr
    assert nothing == []
    assert empty.rows(SHAPE) == first
    assert ("ix_users_mail", "i") in first
    assert mails == [(0, "n0@example.org"), (1, "n1@example.org"), (2, "n2@example.org")]
    assert empty.value("SELECT version_num FROM alembic_version") == "5a6b7c8d9e0f"
    assert empty.value("SELECT count(*) FROM migration.history WHERE outcome = 'done'") == 18
    assert empty.value("SELECT DISTINCT rows_touched FROM migration.history "
                       "WHERE revision = 'e4d3c2b1a098' AND direction = 'upgrade'") == 6  # fmt: skip
    assert empty.value("SELECT indisvalid FROM pg_index WHERE indexrelid = 'ix_users_mail'::regclass") is True


def test_a_failure_is_handled(empty: Database, foreign: Path) -> None:
    """A broken data revision stops there with file and line; corrected, the same command goes on."""
    path = next((foreign / "migrations" / "versions").glob("e4d3c2b1a098*"))
    text = path.read_text()
    path.write_text(
        text.replace("bind = op.get_bind()", "bind = op.get_bind()\n    bind.execute(sa.text('SELECT 1/0'))")
    )

    failed = alembic(foreign, "upgrade", "head")
    version = empty.value("SELECT version_num FROM alembic_version")
    path.write_text(text)
    done = alembic(foreign, "upgrade", "head")

    assert failed.returncode == 1
    assert "e4d3c2b1a098_change_4.py:" in failed.stderr
    assert "division by zero" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert version == "c9a8b7d6e5f4"
    assert done.returncode == 0, done.stderr


def test_a_failure_after_the_index_says_what_is_done(empty: Database, foreign: Path) -> None:
    """A revision that fails after its autocommit block is not tried again, and names the index that stays."""
    path = next((foreign / "migrations" / "versions").glob("5a6b7c8d9e0f*"))
    path.write_text(path.read_text().replace("\n\ndef downgrade", "    op.execute('SELECT 1/0')\n\ndef downgrade", 1))

    failed = alembic(foreign, "upgrade", "head")

    assert failed.returncode == 1
    assert "Part of the step had committed before it failed and stays" in failed.stderr
    assert "CREATE INDEX CONCURRENTLY ix_users_mail" in failed.stderr
    assert empty.value("SELECT attempts FROM migration.history WHERE outcome = 'failed'") == 1
