"""Each step is held to what it changed in the catalog where it was written: told by the database and the stored files."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mcp_planner_schema import cli
from mcp_planner_schema.guard.findings import Broken, Refused, WrongUse
from tests.conftest import Database, Project

AT = "SELECT version_num FROM alembic_version"
TABLE = "op.execute('CREATE TABLE t (id int PRIMARY KEY, n int)')"
TWO = "op.execute('ALTER TABLE t ADD COLUMN m text NOT NULL DEFAULT chr(97), ADD CONSTRAINT n_small CHECK (n < 10)')"
BACK = "op.execute('ALTER TABLE t DROP COLUMN m, DROP CONSTRAINT n_small')"


# An environment in which somebody makes a table when a step is about to be final.
ENV = """
import os

import psycopg2
from alembic import context

from mcp_planner_schema.guard import run


def meanwhile(**_):
    other = psycopg2.connect(os.environ["DATABASE_URL"])
    other.autocommit = True
    other.cursor().execute("CREATE TABLE IF NOT EXISTS meanwhile ()")
    other.close()


run(context, on_version_apply=(meanwhile,))
"""


@pytest.fixture
def written(project: Project, empty: Database, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Two revisions whose changes development has stored; the database is at base again."""
    (project.folder / "alembic" / "fingerprints").touch()
    project.revision("001", "create_t", TABLE, "op.drop_table('t')")
    project.revision("002", "add_m", TWO, BACK)
    project.upgrade()
    project.downgrade("base")
    return project


def staging(project: Project, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The alembic command there."""
    return project.alembic(*arguments, PLANNER_ENV="staging")


def test_development_stores_what_a_new_revision_changes(project: Project, empty: Database) -> None:
    """One line a revision, and what came and went; said once, and only where the history has fingerprints."""
    project.revision("001", "create_t", TABLE, "op.drop_table('t')")
    project.revision("002", "add_m", TWO, BACK)
    without = project.alembic("upgrade", "001")
    none = list((project.folder / "alembic").glob("catalog*"))
    project.downgrade("base")
    (project.folder / "alembic" / "fingerprints").touch()

    first = project.alembic("upgrade", "head")
    project.downgrade("base")
    again = project.alembic("upgrade", "head")

    lines = (project.folder / "alembic" / "fingerprints").read_text().splitlines()
    change = json.loads((project.folder / "alembic" / "catalog" / "002.json").read_text())
    assert without.returncode == first.returncode == again.returncode == 0, first.stderr
    assert none == [] and "commit it" not in without.stderr + again.stderr
    assert first.stderr.count("commit it with the revision") == 4
    assert [line.split(" fp1:")[0] for line in lines] == ["001", "002"]
    assert ["constraint", "public.t.n_small", "CHECK ((n < 10))"] in change["come"]
    assert [one[:2] for one in change["gone"]] == [["order", "public.t"]]


def test_what_is_not_stored_is_refused_where_it_matters(written: Project, empty: Database) -> None:
    """Staging refuses a revision without a line, before the first step."""
    written.revision("003", "create_u", "op.execute('CREATE TABLE u ()')", "op.drop_table('u')")

    refused = staging(written, "upgrade", "head")

    assert refused.returncode == 3
    assert "fingerprint-missing" in refused.stderr and "make migrate-fingerprint" in refused.stderr
    assert empty.value("SELECT to_regclass('t') IS NULL")


def test_preflight_and_plan_say_so_before(
    written: Project, empty: Database, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a run would be refused for stands in their answers and exit codes."""
    written.revision("003", "create_u", "op.execute('CREATE TABLE u ()')", "op.drop_table('u')")
    monkeypatch.setattr(cli, "ROOT", written.folder)
    monkeypatch.setenv("PLANNER_ENV", "staging")

    asked = cli.main(["migrate-preflight"]), capsys.readouterr().out
    planned = cli.main(["migrate-plan"]), capsys.readouterr().out

    assert asked[0] == planned[0] == 3
    assert "fingerprint-missing" in asked[1] and "fingerprint-missing" in planned[1]


def test_a_database_that_differs_teaches_nothing(written: Project, empty: Database) -> None:
    """What a new revision changes there may be something else than elsewhere: it is not written down, and it is said why."""
    written.upgrade()
    empty.rows("ALTER TABLE t DROP CONSTRAINT n_small")
    drop = "op.execute('ALTER TABLE t DROP CONSTRAINT IF EXISTS n_small')"
    written.revision("003", "drop_n_small", drop, "op.execute('SELECT 1')")

    done = written.alembic("upgrade", "head")

    assert done.returncode == 0, done.stderr
    assert "this database differs from its revisions" in done.stderr
    assert "next: make migrate-fingerprint VERSION=003" in done.stderr
    assert not (written.folder / "alembic" / "catalog" / "003.json").exists()


HERE = "if op.get_bind().exec_driver_sql('SHOW work_mem').scalar() == '5MB':\n    "
# What the body does besides in this database, and what is said of it.
ELSEWHERE = {
    "other": ("CREATE INDEX extra ON t (n)", "table public.t: index public.extra is unexpected"),
    "less": ("ALTER TABLE t DROP CONSTRAINT n_small", "table public.t: constraint n_small is missing (CHECK ((n < 10)))"),
    "another": ("ALTER TABLE t ALTER m DROP NOT NULL", "table public.t: column m differs: expected text not null"),
    "gone": ("ALTER TABLE t DROP COLUMN n", "table public.t: column n is missing"),
}  # fmt: skip


@pytest.mark.parametrize("how", ELSEWHERE)
def test_a_step_that_does_something_else_here_is_undone(project: Project, empty: Database, how: str) -> None:
    """Refused with the object's name before it commits; the step before it stays."""
    (project.folder / "alembic" / "fingerprints").touch()
    besides, said = ELSEWHERE[how]
    project.revision("001", "create_t", TABLE, "op.drop_table('t')")
    project.revision("002", "add_m", f"{TWO}\n{HERE}op.execute('{besides}')", BACK)
    project.upgrade()
    project.downgrade("base")
    empty.rows(f"ALTER DATABASE {empty.name} SET work_mem = '5MB'")

    with pytest.raises(Refused) as refused:
        project.upgrade()

    assert refused.value.findings[0].code == "catalog-differs"
    assert said in refused.value.text()
    assert empty.rows(AT) == [("001",)]
    assert empty.rows(
        "SELECT attname FROM pg_attribute WHERE attrelid = 't'::regclass AND attnum > 0 ORDER BY attnum"
    ) == [("id",), ("n",)]


def test_a_way_back_that_leaves_something_is_undone(project: Project, empty: Database) -> None:
    """The inverse of what came up is what a downgrade has to do."""
    (project.folder / "alembic" / "fingerprints").touch()
    project.revision("001", "create_t", TABLE, "op.drop_table('t')")
    project.revision(
        "002", "add_m", TWO, "op.execute('ALTER TABLE t DROP COLUMN m')", expectations='expect.column("t", "m")'
    )
    project.upgrade()

    with pytest.raises(Refused) as refused:
        project.downgrade("001")

    assert "table public.t: constraint n_small is unexpected (CHECK ((n < 10)))" in refused.value.text()
    assert empty.rows(AT) == [("002",)]
    assert empty.value("SELECT count(*) FROM pg_attribute WHERE attrelid = 't'::regclass AND attname = 'm'") == 1


def test_what_somebody_did_to_another_object_stops_nobody(written: Project, empty: Database) -> None:
    """An index by hand on the same table: the steps go on, and the end of the run says that something differs."""
    written.upgrade("001")
    empty.rows("CREATE INDEX by_hand ON t (n); CREATE TABLE mine (id int)")

    done = written.alembic("upgrade", "head")

    assert done.returncode == 0, done.stderr
    assert "note: 2 objects differ from what the revisions have made, as before: make migrate-drift" in done.stderr
    assert empty.rows(AT) == [("002",)]


def test_what_was_another_before_is_named(written: Project, empty: Database) -> None:
    """The step changes an object that somebody has changed: it is refused, unless the header waives it."""
    written.upgrade()
    empty.rows("ALTER TABLE t DROP CONSTRAINT n_small; ALTER TABLE t ADD CONSTRAINT n_small CHECK (n < 11)")

    written.downgrade("001")
    done = empty.rows(AT)

    assert done == [("001",)]
    assert empty.value("SELECT count(*) FROM pg_constraint WHERE conname = 'n_small'") == 0


def test_a_waiver_lets_it_through_and_is_told(written: Project, empty: Database) -> None:
    """The header names the code, the reason and the day; what differs is said."""
    file = written.versions / "002_add_m.py"
    text = file.read_text()
    file.write_text(
        text.replace("n < 10", "n < 11").replace(
            "Reversible: stash\n", "Reversible: stash\nWaive: catalog-differs | it may | 2026-12-31\n"
        )
    )

    done = written.alembic("upgrade", "head")

    assert done.returncode == 0, done.stderr
    assert "waived: catalog-differs: table public.t: constraint n_small differs" in done.stderr


def test_partitions_come_and_go_by_the_calendar(project: Project, empty: Database) -> None:
    """One that the revision does not make is no difference, on no way."""
    (project.folder / "alembic" / "fingerprints").touch()
    parted = "CREATE TABLE p (id int, at date) PARTITION BY RANGE (at); CREATE TABLE p_d PARTITION OF p DEFAULT"
    project.revision("001", "create_p", f"op.execute('{parted}')", "op.drop_table('p')")
    project.revision("002", "add_m", "op.execute('ALTER TABLE p ADD COLUMN m int')", "op.drop_column('p', 'm')")
    project.upgrade()
    project.downgrade("001")
    empty.rows("CREATE TABLE p_2026 PARTITION OF p FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')")

    project.upgrade()
    project.downgrade("base")

    assert empty.rows(AT) == []


def test_a_step_that_commits_by_itself_is_compared_too(project: Project, empty: Database) -> None:
    """What it was to do and did not stops it, what it did besides is told at the end of the run: others may have done it."""
    (project.folder / "alembic" / "fingerprints").touch()
    project.revision("001", "create_t", TABLE, "op.drop_table('t')")
    body = "op.create_index_concurrently('t_n', 't', ['n'])"
    file = project.revision("002", "add_index", body, "op.drop_index_concurrently('t_n', 't')", transaction="none",
                            reversible="lossless", expectations='expect.index("t_n", table="t")')  # fmt: skip
    project.upgrade()
    project.downgrade("001")
    text = file.read_text()
    file.write_text(text.replace("['n']", "['n', 'id']"))
    with pytest.raises(Refused) as refused:
        project.upgrade()
    at = empty.rows(AT)
    empty.rows("DROP INDEX t_n")
    file.write_text(
        text.replace(
            body, f"{body}\n    with op.get_context().autocommit_block():\n        op.execute('CREATE TABLE other ()')"
        )
    )

    with pytest.raises(Broken) as more:
        project.upgrade()

    assert "index public.t_n differs" in refused.value.text()
    assert "table public.other is unexpected" in more.value.text()
    assert "what it has committed stays" in refused.value.text()
    assert at == [("001",)]
    assert empty.rows(AT) == [("002",)]


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda folder: (folder / "fingerprints").write_text("<<<<<<< HEAD\n"), "merge conflict"),
        (lambda folder: (folder / "catalog" / "001.json").write_text("{"), "cannot be read"),
        (lambda folder: (folder / "catalog" / "001.json").unlink(), "is missing"),
    ],
)
def test_what_cannot_be_read_is_said_before_the_first_step(
    written: Project, empty: Database, break_it: Callable[[Path], object], said: str
) -> None:
    """Wrong use, with the command that writes it anew; nothing was changed."""
    written.upgrade("001")
    break_it(written.folder / "alembic")

    with pytest.raises(WrongUse, match=said) as refused:
        written.upgrade()

    assert "make migrate-fingerprint" in refused.value.text()
    assert empty.rows(AT) == [("001",)]


def test_what_changed_under_a_run_is_told_at_its_end(written: Project, empty: Database) -> None:
    """Somebody makes a table while the run goes on: the steps are final, and the run says that the end is another."""
    (written.folder / "alembic" / "env.py").write_text(ENV)

    with pytest.raises(Broken) as told:
        written.upgrade()

    assert "The steps are final, the database is at 002" in told.value.text()
    assert "table public.meanwhile is unexpected" in told.value.text()
    assert empty.rows(AT) == [("002",)]


def test_objects_of_two_catalogs_with_one_oid_are_read_once(empty: Database, project: Project) -> None:
    """As pg_upgrade leaves them, and a counter that has gone round: a constraint with the OID of its table's array type."""
    (project.folder / "alembic" / "fingerprints").touch()
    project.revision(
        "001", "create_a", 'op.execute("CREATE TABLE a (id int PRIMARY KEY, n int CONSTRAINT positive CHECK (n > 0))")',
        'op.execute("DROP TABLE a")',
    )  # fmt: skip
    project.upgrade()
    empty.rows(
        """SET allow_system_table_mods = on;
        UPDATE pg_depend SET objid = (SELECT typarray FROM pg_type WHERE typname = 'a')
            WHERE classid = 'pg_constraint'::regclass AND objid = (SELECT oid FROM pg_constraint WHERE conname = 'positive');
        UPDATE pg_constraint SET oid = (SELECT typarray FROM pg_type WHERE typname = 'a') WHERE conname = 'positive'"""
    )
    project.revision(
        "002", "rename_n", 'op.execute("ALTER TABLE a RENAME n TO m")', 'op.execute("ALTER TABLE a RENAME m TO n")'
    )

    for words in (
        ("upgrade", "head"),
        ("downgrade", "001"),
    ):  # it has read the catalog without end: a process can be ended
        asked = [sys.executable, "-m", "alembic", *words]
        done = subprocess.run(asked, cwd=project.folder, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr

    assert empty.rows("SELECT attname FROM pg_attribute WHERE attrelid = 'a'::regclass AND attnum = 2") == [("n",)]
    assert empty.value("SELECT count(*) FROM migration.history WHERE outcome = 'done'") == 3
