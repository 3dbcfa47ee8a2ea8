"""Environments: in a header. A revision that is not for here is skipped and recorded; what was skipped stays so on every way."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from alembic import command

from mcp_planner_schema import cli
from mcp_planner_schema.inspect import fingerprints
from tests.conftest import Database, Project

ROWS = "SELECT revision, direction, outcome FROM migration.history ORDER BY id"
FILL = 'op.execute("INSERT INTO t SELECT 1")'
BACK = 'op.execute("DELETE FROM t")'


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Says PLANNER_ENV; empty for a guess."""
    return lambda name: monkeypatch.setenv("PLANNER_ENV", name)


@pytest.fixture
def demo(project: Project, empty: Database, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A table, a row that belongs into production only, and another table after it."""
    project.revision("001", "create_t", 'op.execute("CREATE TABLE t (n int PRIMARY KEY)")', 'op.drop_table("t")',
                     expectations='expect.table("t")')  # fmt: skip
    project.revision("002", "fill_t", FILL, BACK, type="data", extra="Environments: production",
                     expectations='expect.rows("SELECT FROM t WHERE n = 1", count=1)')  # fmt: skip
    project.revision("003", "create_u", 'op.execute("CREATE TABLE u (n int PRIMARY KEY)")', 'op.drop_table("u")',
                     expectations='expect.table("u")')  # fmt: skip
    project.configure(backup_age="never")
    monkeypatch.setattr(cli, "ROOT", project.folder)
    return project


def test_up_and_down_again_it_is_skipped_and_recorded(empty: Database, demo: Project) -> None:
    """The version passes over it both ways, no row is written or deleted, and each time the history says skipped."""
    demo.upgrade()
    empty.rows("INSERT INTO t VALUES (7)")
    demo.downgrade("001")

    assert empty.rows("SELECT n FROM t") == [(7,)]
    assert empty.rows(ROWS) == [
        ("001", "upgrade", "done"), ("002", "upgrade", "skipped"), ("003", "upgrade", "done"),
        ("003", "downgrade", "done"), ("002", "downgrade", "skipped"),
    ]  # fmt: skip


def test_what_was_skipped_is_skipped_on_the_way_down_wherever_that_is(
    empty: Database, demo: Project, say: Callable[[str], None]
) -> None:
    """A database that has become production undoes nothing that was never done in it; going up again there does it."""
    demo.upgrade()
    empty.rows("INSERT INTO t VALUES (7)")
    say("production")

    command.downgrade(demo.config(confirm=empty.name), "001")
    kept = empty.rows("SELECT n FROM t")
    demo.upgrade("002")

    assert kept == [(7,)]
    assert empty.rows("SELECT n FROM t ORDER BY n") == [(1,), (7,)]
    assert [row[2] for row in empty.rows(ROWS)[-2:]] == ["skipped", "done"]


def test_what_was_done_is_undone_wherever_that_is(empty: Database, demo: Project, say: Callable[[str], None]) -> None:
    """A copy of production that has become staging gives back what production did, and expects it until then."""
    say("production")
    demo.upgrade()
    say("staging")
    assert cli.main(["environment-set", "ENV=staging", f"CONFIRM={empty.name}"]) == 0
    verified = cli.main(["migrate-verify"])
    empty.rows("DELETE FROM t")
    missing = cli.main(["migrate-verify"])
    empty.rows("INSERT INTO t VALUES (1)")

    demo.downgrade("001")

    assert (verified, missing) == (0, 1)
    assert empty.rows("SELECT n FROM t") == []
    assert empty.rows(ROWS)[-1] == ("002", "downgrade", "done")


def test_nothing_is_expected_of_what_was_skipped(
    empty: Database, demo: Project, say: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """Verify leaves it out, also where the database counts as production by now; status shows it, as text and as JSON."""
    demo.upgrade()
    say("production")
    capsys.readouterr()

    verified = cli.main(["migrate-verify"])
    cli.main(["migrate-status"])
    text = capsys.readouterr().out
    cli.main(["migrate-status", "JSON=1"])

    assert verified == 0
    assert "skipped    002  Fill t: it was not for this environment when it came" in text
    assert json.loads(capsys.readouterr().out)["skipped"] == ["002  Fill t"]


def test_one_that_commits_by_itself_is_skipped_too(empty: Database, project: Project) -> None:
    """Transaction: none, with a backfill: nothing of it runs, nothing waits to go on."""
    project.revision("001", "create_t", 'op.execute("CREATE TABLE t (n int PRIMARY KEY, m int)")', 'op.drop_table("t")',
                     expectations='expect.table("t")')  # fmt: skip
    project.revision(
        "002", "backfill_t", 'op.backfill("t", set={"m": "n"}, where="m IS NULL")', 'op.execute("SELECT 1")',
        type="data", transaction="none", reversible="lossless", extra="Environments: production",
    )  # fmt: skip

    project.upgrade()
    project.downgrade("base")

    assert [row[2] for row in empty.rows(ROWS)] == ["done", "skipped", "skipped", "done"]
    assert empty.value("SELECT count(*) FROM migration.backfill") == 0


def test_plan_and_preflight_say_what_is_skipped(
    empty: Database, demo: Project, say: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """The plan names it as skipped here, and preflight asks nothing on its behalf; in production both count it."""
    seen = {}
    empty.rows("CREATE TABLE unrelated ()")
    for name in ("staging", "production"):
        say(name)
        cli.main(["migrate-plan", "JSON=1"])
        planned = {one["revision"]: one["skipped"] for one in json.loads(capsys.readouterr().out)["revisions"]}
        seen[name] = planned

    assert seen == {
        "staging": {"001": False, "002": True, "003": False}, "production": {"001": False, "002": False, "003": False},
    }  # fmt: skip


def test_the_sql_of_a_downgrade_stops_where_it_came_otherwise(
    empty: Database, demo: Project, say: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """A file cannot know what was recorded: it asks, and changes nothing where it would undo what was skipped."""
    demo.upgrade()
    empty.rows("INSERT INTO t VALUES (7)")
    written = {}
    for name in ("production", "staging"):
        say(name)
        capsys.readouterr()
        command.downgrade(demo.config(), "003:001", sql=True)
        written[name] = demo.folder / f"{name}.sql"
        written[name].write_text(capsys.readouterr().out)

    stopped = empty.psql(written["production"])
    there = empty.rows("SELECT n, (SELECT version_num FROM alembic_version) FROM t")
    empty.rows("DELETE FROM alembic_version; INSERT INTO alembic_version VALUES ('002')")
    say("staging")
    command.downgrade(demo.config(), "002:001", sql=True)
    rest = demo.folder / "rest.sql"
    rest.write_text(capsys.readouterr().out)
    ran = empty.psql(rest)

    assert "002 was skipped here when it came, and this would undo it" in stopped.stderr
    assert there == [(7, "002")]
    assert ran.returncode == 0, ran.stderr
    assert empty.rows("SELECT n, (SELECT version_num FROM alembic_version) FROM t") == [(7, "001")]


def test_a_skipped_revision_is_no_drift(
    empty: Database, demo: Project, say: Callable[[str], None], capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """With stored fingerprints: the steps behind it are held to theirs, the whole agrees at the end, and so does drift."""
    (demo.folder / "alembic" / "fingerprints").touch()
    monkeypatch.setenv("PLANNER_ARCHIVE_CHECK_URL", empty.url)
    fingerprints.store(demo.config(repeat="x"), "all")
    say("staging")

    demo.upgrade()
    drift = cli.main(["migrate-drift"])
    demo.downgrade("base")

    assert drift == 0
    assert [row[2] for row in empty.rows(ROWS)].count("skipped") == 2
    assert "differ" not in capsys.readouterr().err
