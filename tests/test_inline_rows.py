"""Rows that a schema revision writes in its own transaction: counted before COMMIT, refused above the setting."""

from __future__ import annotations

import pytest

from mcp_planner_schema.guard.findings import Refused
from tests.conftest import Database, Project

TABLE = 'op.execute("CREATE TABLE t (id int PRIMARY KEY, n int, note text)")'
ROWS = "INSERT INTO t SELECT g, 0, '1' FROM generate_series(1, 300) AS g"
DOWN = 'op.execute("SELECT 1")'


def begin(project: Project, upgrade: str, limit: int = 200, **header: str) -> None:
    """A table with 300 rows, and a revision that is not run yet; so many rows are allowed."""
    project.configure(inline_rows=str(limit))
    project.revision("001", "create_t", f"{TABLE}\nop.execute({ROWS!r})", 'op.execute("DROP TABLE t")')
    project.upgrade()
    project.revision("002", "add_more", upgrade, DOWN, **header)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ('op.execute("UPDATE t SET n = 1")', "300 of t"),
        ('op.execute("DELETE FROM t")', "300 of t"),
        ("op.execute(\"INSERT INTO t SELECT g FROM generate_series(301, 501) AS g\")", "201 of t"),
        ('op.execute("WITH gone AS (DELETE FROM t WHERE id <= 101 RETURNING *) INSERT INTO t SELECT id + 900 FROM gone")',
         "202 of t"),
        ('for number in range(201):\n    op.execute(f"UPDATE t SET n = 1 WHERE id = {number + 1}")', "201 of t"),
        ('op.execute("CREATE TABLE new AS SELECT * FROM t")\nop.execute("ALTER TABLE t RENAME TO u; UPDATE u SET n = 1")',
         "300 of u"),
    ],
    ids=["update", "delete", "insert", "moved", "one by one", "renamed"],
)  # fmt: skip
def test_more_rows_than_allowed_are_undone_and_refused(empty: Database, project: Project, body: str, told: str) -> None:
    """Whatever wrote them: the server's counters say so, the step is rolled back, and the finding says what to write."""
    begin(project, body)
    before = empty.rows("SELECT xmin::text, * FROM t ORDER BY id")

    with pytest.raises(Refused, match="rows-inline") as refused:
        project.upgrade()

    [finding] = refused.value.findings
    assert finding.values["tables"] == told
    assert "more than 200 rows" in finding.text()
    assert "op.backfill(" in finding.text()
    assert empty.rows("SELECT xmin::text, * FROM t ORDER BY id") == before
    assert empty.rows("SELECT version_num FROM alembic_version") == [("001",)]
    assert empty.rows("SELECT outcome FROM migration.history ORDER BY id") == [("done",), ("failed",)]


def test_what_triggers_write_counts_too(empty: Database, project: Project) -> None:
    """150 rows of the one and as many of the other are 300 that somebody may wait for; each table is named."""
    begin(project, 'op.execute("UPDATE t SET n = 1 WHERE id <= 150")')
    empty.rows("CREATE TABLE log (id int); CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS "
               "'BEGIN INSERT INTO public.log VALUES (NEW.id); RETURN NULL; END';"
               "CREATE TRIGGER f AFTER UPDATE ON t FOR EACH ROW EXECUTE FUNCTION f()")  # fmt: skip

    with pytest.raises(Refused, match="rows-inline") as refused:
        project.upgrade()

    assert refused.value.findings[0].values["tables"] == "150 of t, 150 of log"
    assert empty.value("SELECT count(*) FROM log") == 0


@pytest.mark.parametrize(
    ("body", "header"),
    [
        ('op.execute("UPDATE t SET n = 1 WHERE id <= 200")', {}),
        ('op.execute("CREATE TABLE u AS SELECT * FROM t")\nop.execute("INSERT INTO u SELECT * FROM t; UPDATE u SET n = 1")', {}),
        ('op.execute("ALTER TABLE t ALTER note TYPE int USING note::int")', {}),
        ('op.execute("ALTER TABLE t ADD c uuid NOT NULL DEFAULT gen_random_uuid()")', {}),
        ('op.execute("TRUNCATE t")', {}),
        ('op.execute("UPDATE t SET n = 1")', {"type": "data"}),
        ('op.execute("UPDATE t SET n = 1")', {"extra": "Waive: rows-inline | the table is small | 2099-12-31"}),
    ],
    ids=["as many as allowed", "a new table", "rewritten", "with a column", "emptied", "data", "waived"],
)  # fmt: skip
def test_what_does_not_count(empty: Database, project: Project, body: str, header: dict[str, str]) -> None:
    """Rows up to the setting, of tables that the step makes, that PostgreSQL rewrites; a data revision; a waiver."""
    begin(project, body, **header)

    project.upgrade()

    assert empty.rows("SELECT version_num FROM alembic_version") == [("002",)]


def test_counters_of_an_earlier_step_are_not_this_ones(empty: Database, project: Project) -> None:
    """Two steps of one run, each with fewer than the setting: the session's counters go on, only differences count."""
    begin(project, 'op.execute("UPDATE t SET n = 1 WHERE id <= 150")')
    project.revision("003", "add_again", 'op.execute("UPDATE t SET n = 2 WHERE id <= 150")', DOWN)

    project.upgrade()

    assert empty.rows("SELECT version_num FROM alembic_version") == [("003",)]


def test_rows_that_come_back_do_not_count(empty: Database, project: Project) -> None:
    """What a downgrade kept is written into the column again, 300 rows of it, under a setting that allows 200."""
    project.configure(inline_rows="200")
    project.revision("001", "create_t", f"{TABLE}\nop.execute({ROWS!r})", 'op.execute("DROP TABLE t")')
    project.revision("002", "add_c", 'op.add_column("t", sa.Column("c", sa.Integer()))', 'op.drop_column("t", "c")')
    project.upgrade()
    empty.rows("UPDATE t SET c = id")
    project.downgrade("001")

    project.upgrade()

    assert empty.value("SELECT count(*) FROM t WHERE c = id") == 300


def test_a_way_back_is_not_refused(empty: Database, project: Project) -> None:
    """A downgrade may write what it must: it is rehearsed, and what it overwrites is kept."""
    project.configure(inline_rows="200")
    project.revision("001", "create_t", f"{TABLE}\nop.execute({ROWS!r})", 'op.execute("DROP TABLE t")')
    project.revision("002", "add_c", 'op.execute("ALTER TABLE t ADD c int DEFAULT 1")',
                     'op.execute("UPDATE t SET n = c")\nop.drop_column("t", "c")')  # fmt: skip
    project.upgrade()

    project.downgrade("001")

    assert empty.rows("SELECT n, count(*) FROM t GROUP BY 1") == [(1, 300)]


@pytest.mark.parametrize("environment", ["development", "staging", "production"])
def test_it_is_refused_wherever_it_runs(
    empty: Database, project: Project, environment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What production would refuse is refused before it gets there, as every other finding is."""
    monkeypatch.setenv("PLANNER_ENV", environment)
    project.configure(backup_age="never")
    begin(project, 'op.execute("UPDATE t SET n = 1")')

    with pytest.raises(Refused, match="rows-inline"):
        project.upgrade()


def test_who_has_waived_it_by_the_text_is_not_told_again(empty: Database, project: Project) -> None:
    """One waiver of rows-in-bulk, which migrate-validate finds in the text, covers what running it does."""
    begin(project, 'op.execute("UPDATE t SET n = 1")', extra="Waive: rows-in-bulk | nobody uses it yet | 2099-12-31")

    project.upgrade()

    assert empty.value("SELECT sum(n) FROM t") == 300
