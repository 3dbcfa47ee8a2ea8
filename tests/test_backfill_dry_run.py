"""What a dry run tells of the backfills that are pending: counted where that is quick, estimated else, never guessed."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcp_planner_schema.cli import change
from mcp_planner_schema.inspect import ahead
from tests.conftest import Database, Project
from tests.test_backfill import ROWS, TABLE, begin, locked, ordinary  # noqa: F401  # a fixture

HALF = """op.backfill("t", set={"note": "'x'"}, where="filled.id > 8000",
    verify="SELECT count(*) FROM t WHERE note IS NULL")"""


def told(project: Project) -> list[str]:
    """The lines for revision 002."""
    return ahead.lines(project.config(), ["002"])


def test_rows_batches_and_triggers_are_told(empty: Database, project: Project) -> None:
    """The count of the table, of what meets the condition, and of what is to be verified; and nothing is changed by asking."""
    begin(project, HALF)
    empty.rows("CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';"
               "CREATE TRIGGER always BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION f();"
               "CREATE TRIGGER of_note AFTER INSERT OR UPDATE OF note ON t FOR EACH ROW EXECUTE FUNCTION f();"
               "CREATE TRIGGER of_n AFTER UPDATE OF n ON t FOR EACH ROW EXECUTE FUNCTION f();"
               "CREATE TRIGGER new AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION f();"
               "CREATE TRIGGER off AFTER UPDATE ON t FOR EACH ROW EXECUTE FUNCTION f();"
               "ALTER TABLE t DISABLE TRIGGER off")  # fmt: skip
    before = empty.rows("SELECT xmin::text, * FROM t ORDER BY id")

    found = told(project)

    assert found == [
        "-- backfill t.note of 002: the rows of t, by their key (id)",
        "--   12,000 rows, 4,000 meet filled.id > 8000",
        "--   1 batch or more; how long is unknown: no backfill has run here before",
        "--   triggers that fire: always, of_note",
        "--   verify: 12,000 now",
    ]
    assert empty.rows("SELECT xmin::text, * FROM t ORDER BY id") == before
    assert empty.rows("SELECT version_num FROM alembic_version") == [("001",)]


def test_what_takes_too_long_is_estimated_and_said_so(
    empty: Database, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The count is given up, and the planner's numbers are told as what they are."""
    begin(project, 'op.backfill("t", set={"n": "1"}, where="filled.id > 8000 AND pg_sleep(0.001) IS NOT NULL",\n'
          '    verify="SELECT count(pg_sleep(0.001)) FROM t")')  # fmt: skip
    empty.rows("ANALYZE t")
    monkeypatch.setattr(ahead, "LIMIT", 100)

    found = told(project)

    assert found[1].startswith("--   about 12,000 rows, about ")
    assert found[1].endswith("; counted: not within 0.1 s, so these are the planner's estimates")
    assert found[-1] == "--   verify: not within 0.1 s"


def test_how_long_is_told_by_what_former_ones_took(empty: Database, project: Project) -> None:
    """By the numbers in the record, of the same table where there is one; and how long it takes beside others at work."""
    begin(project, 'op.backfill("t", set={"n": "1"}, batch=1000)')
    project.upgrade()
    empty.rows("CREATE TABLE other (id int PRIMARY KEY, n int); INSERT INTO other SELECT generate_series(1, 500)")
    empty.rows("UPDATE migration.backfill_range SET rows_seen = 30000, seconds = 3")
    calls = 'op.backfill("t", set={"n": "2"}, name="again")\nop.backfill("other", set={"n": "2"})'
    project.revision("003", "fill_more", calls, 'op.execute("SELECT 1")', transaction="none", type="data")

    found = ahead.lines(project.config(), ["003"])

    assert found[2] == (
        "--   about 6 batches, about 1 s with one worker, as a former backfill of t went: 10,000 rows/s"
    )
    assert found[6] == (
        "--   about 1 batch, about 0.1 s with one worker, as a former backfill of other tables went: 10,000 rows/s"
    )
    project.configure(backfill_share="0.1")
    beside = ahead.lines(project.config(), ["003"])
    assert [line for line in beside if line not in found] == [
        "--   while others are at work about 12 s, in small batches (backfill_share)",
        "--   while others are at work about 0.5 s, in small batches (backfill_share)",
    ]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ('op.backfill("missing", set={"n": "1"})', "the table missing is not there yet, so nothing can be counted"),
        ('op.backfill("t", set={"later": "1"}, where="filled.later IS NULL")', "not before the revisions before it have run"),
        ('op.backfill("t", set={"n": "1"}, where="filled.note::int > 1")', "not now (SQLSTATE 22P02)"),
        ('op.backfill("t", set={"n": "1"}) if op.get_bind().execute(sa.text("SELECT 1")).scalar() else 0',
         "told as far as it can be read without its answers"),
    ],
)  # fmt: skip
def test_what_cannot_be_counted_is_told_and_fails_nothing(
    empty: Database, project: Project, call: str, said: str
) -> None:
    """A table or column that an earlier pending revision makes, a value that does not fit (which is not shown), a question."""
    begin(project, call, rows="INSERT INTO t VALUES (1, 1, 'secret')")

    found = "\n".join(told(project))

    assert said in found
    assert "secret" not in found


def test_of_a_statement_the_planner_says_what_it_writes(empty: Database, project: Project) -> None:
    """The triggers are those of the table that is written; a table without key is taken by its places."""
    table = TABLE.replace(" PRIMARY KEY", "") + "; CREATE TABLE other (id int, note text)"
    statement = "INSERT INTO other SELECT id, '50 %' FROM batch"
    begin(project, f'op.backfill("t", statement="{statement}", where="filled.id < 100", name="copy")', table=table)
    empty.rows("CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';"
               "CREATE TRIGGER of_t BEFORE INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION f();"
               "CREATE TRIGGER gone BEFORE DELETE ON other FOR EACH ROW EXECUTE FUNCTION f();"
               "CREATE TRIGGER new BEFORE INSERT ON other FOR EACH ROW EXECUTE FUNCTION f()")  # fmt: skip

    found = told(project)

    assert found[0] == "-- backfill copy of 002: the rows of t, by their places (no key)"
    assert found[1] == "--   12,000 rows, 99 meet filled.id < 100"
    assert found[3] == "--   triggers that fire: new"
    assert empty.value("SELECT count(*) FROM other") == 0


def test_a_locked_table_is_not_waited_for(empty: Database, project: Project) -> None:
    """Somebody has it for himself: told within seconds, and the others are told all the same."""
    begin(
        project, f'op.backfill("other", set={{"n": "1"}})\n{HALF}', table=TABLE + "; CREATE TABLE other (id int, n int)"
    )

    with locked(empty, "LOCK other"):
        found = told(project)

    assert found[0] == "-- backfill other.n of 002: other cannot be read: somebody has locked it"
    assert found[2] == "--   12,000 rows, 4,000 meet filled.id > 8000"


def test_where_rows_are_hidden_it_says_so(ordinary: Database, project: Project) -> None:  # noqa: F811
    """A count of what a policy leaves would be a wrong one."""
    begin(project, HALF)
    ordinary.rows("ALTER TABLE t ENABLE ROW LEVEL SECURITY; ALTER TABLE t FORCE ROW LEVEL SECURITY;"
                  "CREATE POLICY few ON t USING (id <= 100)")  # fmt: skip

    found = told(project)

    assert len(found) == 1
    assert "t cannot be read: not now (query would be affected by row-level security policy" in found[0]


def test_one_command_shows_the_counts_and_the_sql(
    empty: Database, project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Counts beside the SQL, on stderr; a backfill that is no SQL is told there too, and stops whoever runs the file."""
    calls = 'op.backfill("t", set={"n": "1"}, key=["id"])\nop.backfill("t", statement="DELETE FROM t USING batch '
    begin(project, calls + 'WHERE t.id = batch.id", where="filled.id < 9", name="gone")')
    capsys.readouterr()

    code = change._up(project.config(), {"DRY_RUN": "1"})

    shown = capsys.readouterr()
    file = tmp_path / "shown.sql"
    file.write_text(shown.out)
    run = empty.psql(file)
    assert code == 0
    assert "-- backfill t.n of 002: the rows of t, by their key (id)" in shown.err
    assert "--   12,000 rows, 8 meet filled.id < 9" in shown.err
    assert "-- backfill gone: by batches, and no SQL." in shown.out
    assert "gone is done by batches: it can only be run online" in run.stderr
    assert empty.rows("SELECT version_num FROM alembic_version") == [("001",)]
    assert empty.value("SELECT count(*) FROM t") == 12_000
