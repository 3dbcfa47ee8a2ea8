"""The spine: steps one by one, each proven before it commits, each with its row in the history."""

from __future__ import annotations

from tests.conftest import Database, Project


def test_upgrade_applies_each_revision_and_writes_its_history(empty: Database, project: Project) -> None:
    """A run with two revisions leaves both applied, two history rows that say done and one finished run."""
    project.revision("001", "create_a", 'op.execute("CREATE TABLE a (id int)")', 'op.drop_table("a")',
                     expectations='expect.table("a")')  # fmt: skip
    project.revision("002", "create_b", 'op.execute("CREATE TABLE b (id int)")', 'op.drop_table("b")',
                     expectations='expect.table("b")')  # fmt: skip

    project.upgrade()

    assert empty.rows("SELECT version_num FROM alembic_version") == [("002",)]
    assert empty.rows("SELECT revision, direction, outcome, attempts FROM migration.history ORDER BY id") == [
        ("001", "upgrade", "done", 1),
        ("002", "upgrade", "done", 1),
    ]
    assert empty.rows("SELECT state, from_heads, to_heads, planned FROM migration.run") == [("done", [], ["002"], 2)]
