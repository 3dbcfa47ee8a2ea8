"""Revisions whose bodies are SQL files: ordinary revisions to Alembic, and to the guard what those in Python are."""

from __future__ import annotations

import contextlib
import io
import re
import threading
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, event

from mcp_planner_schema import cli
from mcp_planner_schema.guard import judge, rebase, recover, settings
from mcp_planner_schema.guard.findings import Broken, Refused, WrongUse
from mcp_planner_schema.inspect import lint, table_stats, trace
from mcp_planner_schema.inspect.table_stats import TableStats
from tests.catalog import catalog
from tests.conftest import Database, Project
from tests.test_trace import scratch

__all__ = ["scratch"]  # a fixture

UP = """\
-- Steps; with a comment; that has semicolons.
CREATE TABLE steps (id int PRIMARY KEY, note text NOT NULL DEFAULT 'a;''b');
CREATE FUNCTION twice(n int) RETURNS int LANGUAGE sql IMMUTABLE
BEGIN ATOMIC
    SELECT CASE WHEN n IS NULL THEN 0 ELSE 2 * n END;
END;
CREATE RULE none AS ON DELETE TO steps DO ALSO (SELECT 1; SELECT 2);
INSERT INTO steps SELECT i, $n$50 %; :name $n$ || 1::text FROM generate_series(1, 3) AS i
"""
DOWN = "DROP FUNCTION twice(int);\nDROP TABLE steps;\n"


def plain(
    project: Project, version: str, name: str, up: str, down: str = "SELECT 1;\n", **header: Any
) -> tuple[Path, Path, Path]:
    """A revision in SQL: its file in Python, its .up.sql and its .down.sql."""
    stem = f"{version}_{name}"
    path = project.revision(version, name, f'op.run_sql("{stem}.up.sql")', f'op.run_sql("{stem}.down.sql")', **header)
    for ending, text in (("up", up), ("down", down)):
        path.with_suffix(f".{ending}.sql").write_text(text, encoding="utf-8")
    return path, path.with_suffix(".up.sql"), path.with_suffix(".down.sql")


def found(project: Project) -> list[tuple[str, str, str]]:
    """The findings against the files: code, place and what is the matter."""
    config = project.config()
    judged = judge.judge_all(ScriptDirectory.from_config(config), settings.load(config, {}))
    return [
        (one.code, Path(one.where).name, one.values.get("problem") or one.values.get("what") or "")
        for file in judged
        for one in file.findings
    ]


# --- up, down, and what the history knows --------------------------------------------------------------------------------


@pytest.mark.parametrize("around", ["BEGIN;\n{};\nCOMMIT;\n", pytest.param("{}", marks=pytest.mark.long)])
def test_it_goes_up_and_down_and_up_as_any_other(empty: Database, project: Project, around: str) -> None:
    """Each statement is sent as it stands, within the step; what its way down destroys is kept, and comes back."""
    plain(project, "001", "create_steps", around.format(UP), DOWN, expectations='expect.table("steps")')

    project.upgrade()
    rows = empty.rows("SELECT id, note, twice(id) FROM steps ORDER BY id")
    empty.rows("UPDATE steps SET note = 'by hand' WHERE id = 2")
    project.downgrade("base")
    gone = empty.value("SELECT to_regclass('steps') IS NULL")
    project.upgrade()

    assert rows == [(one, "50 %; :name 1", 2 * one) for one in (1, 2, 3)]
    assert gone
    assert empty.rows("SELECT note FROM steps WHERE id = 2") == [("by hand",)]
    assert empty.value("SELECT count(*) FROM pg_rules WHERE tablename = 'steps'") == 1
    kept = empty.value("SELECT source FROM migration.history WHERE direction = 'upgrade' ORDER BY id DESC LIMIT 1")
    assert "\n# versions/001_create_steps.up.sql:\n#|" in kept


def test_what_fails_undoes_all_of_it_and_is_shown(empty: Database, project: Project) -> None:
    """The error names the file, its line and that line; where the server names no character, the statement's first line."""
    plain(project, "001", "create_steps", UP, DOWN)
    _, up, down = plain(
        project,
        "002",
        "alter_steps",
        "ALTER TABLE steps ADD a int;\n\nALTER TABLE steps\n  ADD  b integr,\n  ADD c int;\n",
    )

    with pytest.raises(Broken) as unknown:
        project.upgrade()
    up.write_text("ALTER TABLE steps ADD a int;\n-- now\nINSERT INTO steps\nVALUES (1, 'x');\n")
    with pytest.raises(Broken) as twice:
        project.upgrade()
    up.write_text("ALTER TABLE steps ADD a int;\n")
    down.write_text("ALTER TABLE steps DROP a;\nALTER TABLE steps DROP b;\n")
    project.upgrade()
    with pytest.raises(Broken) as back:
        project.downgrade("001")

    place = re.escape(str(up.relative_to(Path.cwd()) if up.is_relative_to(Path.cwd()) else up))
    assert re.match(
        rf'Revision 002 \({place}:4\): type "integr" does not exist\n +4 \| ADD b integr,\n', str(unknown.value)
    )
    assert unknown.value.next_command == f"correct {up}:4, then the same call again"
    assert f"({up}:3): duplicate key value violates" in str(twice.value)
    assert "\n    3 | INSERT INTO steps\n" in str(twice.value)
    assert f'({down}:2): column "b" of relation "steps" does not exist\n    2 | ALTER TABLE steps DROP b\n' in str(
        back.value
    )
    assert empty.rows("SELECT a FROM steps") == [(None,)] * 3


def test_an_edit_of_what_was_applied_is_shown_line_by_line(empty: Database, project: Project, tmp_path: Path) -> None:
    """The files belong to the checksum, the finding shows what differs, and the database gives all three files back."""
    files = plain(project, "001", "create_steps", UP, DOWN)
    project.upgrade()
    files[1].write_text(UP.replace("(1, 3)", "(1, 4)"))
    plain(project, "002", "add_a", "ALTER TABLE steps ADD a int;\n", "ALTER TABLE steps DROP a;\n")

    with pytest.raises(Refused) as edited:
        project.upgrade()
    recover.recover(project.config(repeat="make migrate-recover"), "001", tmp_path / "again")

    [finding] = edited.value.findings
    assert (finding.code, finding.values["what"]) == (
        "applied-edited",
        "versions/001_create_steps.up.sql of revision 001",
    )
    line = "INSERT INTO steps SELECT i, $n$50 %; :name $n$ || 1::text FROM generate_series(1, {}) AS i"
    assert f"\n-{line.format(3)}\n+{line.format(4)}" in finding.values["changed"]
    again = [tmp_path / "again" / "versions" / path.name for path in files]
    assert [path.read_text() for path in again] == [files[0].read_text(), UP, DOWN]


@pytest.mark.parametrize("transaction", ["single", "none"])
def test_what_sql_writes_down_does_the_same(
    empty: Database, project: Project, tmp_path: Path, transaction: str
) -> None:
    """--sql has the statements with the comments above them, and psql comes to the same catalog."""
    up = UP if transaction == "single" else UP.rstrip() + ";\nCREATE INDEX CONCURRENTLY ix_note ON steps (note);\n"
    plain(project, "001", "create_steps", up, DOWN, transaction=transaction)
    written = io.StringIO()
    config = project.config()
    config.output_buffer = written

    command.upgrade(config, "head", sql=True)
    (tmp_path / "up.sql").write_text(written.getvalue())
    ran = empty.psql(tmp_path / "up.sql")

    assert ran.returncode == 0, ran.stderr
    assert "-- Steps; with a comment; that has semicolons.\nCREATE TABLE steps" in written.getvalue()
    assert empty.rows("SELECT count(*), min(note) FROM steps") == [(3, "50 %; :name 1")]
    assert empty.value("SELECT count(*) FROM pg_indexes WHERE indexname = 'ix_note'") == (transaction == "none")


@pytest.mark.long
def test_trace_and_plan_see_the_statements(empty: Database, project: Project, scratch: str) -> None:
    """Which locks it takes is found out by running it, statement by statement."""
    plain(project, "001", "create_steps", UP, DOWN)
    plain(
        project,
        "002",
        "alter_steps",
        "ALTER TABLE steps ADD a int;\nLOCK TABLE steps IN SHARE MODE;\n",
        "ALTER TABLE steps DROP a;\n",
    )

    up, down = trace.trace(project.config(), "002")

    assert up.found().locks == {"public.steps": "ACCESS EXCLUSIVE"} == down.found().locks
    assert [one.statement for one in up.statements] == ["ALTER TABLE steps ADD a int", "LOCK TABLE steps IN SHARE MODE"]


def test_alembic_sees_an_ordinary_revision(empty: Database, project: Project) -> None:
    """Nothing but files in Python counts as one, a branch has its two heads, and history shows both."""
    plain(project, "001", "create_steps", UP, DOWN)
    plain(project, "002", "add_a", "SELECT 1;")
    plain(project, "003", "add_b", "SELECT 1;", parent="001")

    script = ScriptDirectory.from_config(project.config())
    history = project.alembic("history")

    assert sorted(script.get_heads()) == ["002", "003"]
    assert history.returncode == 0, history.stderr
    assert "001 -> 002 (head)" in history.stdout and "001 -> 003 (head)" in history.stdout


def test_a_revision_that_moves_takes_its_files_along(empty: Database, project: Project) -> None:
    """migrate-rebase gives the bodies the new number too, in their names and where they are named."""
    plain(project, "001", "create_steps", UP, DOWN)
    plain(project, "002", "add_a", "ALTER TABLE steps ADD a int;\n", "ALTER TABLE steps DROP a;\n")
    path = plain(
        project, "003", "add_b", "ALTER TABLE steps ADD b int;\n", "ALTER TABLE steps DROP b;\n", parent="001"
    )[0]
    path.rename(path.with_name("002_add_b.py"))
    for ending in ("up", "down"):
        path.with_suffix(f".{ending}.sql").rename(path.with_name(f"002_add_b.{ending}.sql"))
    moved = path.with_name("002_add_b.py")
    moved.write_text(moved.read_text().replace("003", "002"))

    lines = rebase.rebase(project.config(repeat="make migrate-rebase VERSION=002_add_b"), "002_add_b", None, "")
    project.upgrade()

    assert "  002_add_b.up.sql -> 003_add_b.up.sql" in lines
    assert sorted(one.name for one in project.versions.glob("*b.*")) == [
        "003_add_b.down.sql",
        "003_add_b.py",
        "003_add_b.up.sql",
    ]
    assert empty.rows("SELECT a, b FROM steps LIMIT 1") == [(None, None)]


# --- what is refused ---------------------------------------------------------------------------------------------------

PSQL = "a command of psql's, which no server knows"
ENDS = "begins or ends a transaction, and the step's is the guard's"
REFUSED = [
    ("\n\\i more.sql\n", 2, f"\\i is {PSQL}", "that file's statements, here"),
    ("\\copy t FROM 'x'\n", 1, f"\\copy is {PSQL}", "INSERT … VALUES"),
    ("SELECT 1;\n  \\connect other\n", 2, f"\\connect is {PSQL}", "nothing: the guard connects"),
    ("\\set x 1\nSELECT :x;", 1, f"\\set is {PSQL}", "an argument of op.run_script"),
    ("SELECT 1 \\gexec", 1, f"\\gexec is {PSQL}", "EXECUTE"),
    ("\\restrict x", 1, f"\\restrict is {PSQL}", "pg_dump's"),
    ("\\! rm x", 1, f"\\! is {PSQL}", "in the database only"),
    ("\\timing", 1, f"\\timing is {PSQL}", "tells psql what to do"),
    ("SELECT 1;\nCOPY t (a) FROM stdin;\n1\t\\N\n'\n\\.\n", 2, "COPY … FROM STDIN is answered by psql, and here is none",
     "INSERT … VALUES"),
    ("COPY t TO STDOUT;", 1, "COPY … TO STDOUT is answered by psql, and here is none", "nobody to give rows to"),
    ("SELECT 1;\nCOMMIT;\nSELECT 2;", 2, f"COMMIT {ENDS}", "of its own"),
    ("BEGIN;\nSELECT 1;", 1, f"BEGIN {ENDS}", "may stay"),
    ("BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT 1;", 1, f"BEGIN {ENDS}",
     "may stay"),
    ("SELECT 1; ROLLBACK TO a;", 1, f"ROLLBACK {ENDS}", "of its own"),
    ("PREPARE TRANSACTION 'a';", 1, f"PREPARE {ENDS}", "of its own"),
    ("\nSET search_path = x;", 2, "SET SEARCH_PATH stays in force after the step, for whatever comes behind it", "SET LOCAL …"),
    ("SET ROLE x;", 1, "SET ROLE stays in force after the step, for whatever comes behind it", "SET LOCAL …"),
    ("SELECT pg_catalog.set_config('search_path', '', false);", 1,
     "set_config(…, false) stays in force after the step, for whatever comes behind it", "set_config(…, true)"),
    ("RESET ALL;", 1, "RESET works on the session, and not in the database", "the session's own settings"),
    ("SET TRANSACTION READ ONLY;", 1, "SET TRANSACTION comes too late: the guard has begun the transaction", "nothing"),
    ("PREPARE p AS SELECT 1;", 1, "PREPARE works on the session, and not in the database", "the statement itself"),
    ("SELECT 1;\n SELECT 'a;", 2, "line 2 has a ' that ends nowhere, or outside of a literal", "the other end"),
    ("SELECT 1;\nSELECT (2;\nSELECT 3;", 2, "the ( is never closed, and takes in all that follows", ")"),
    ("CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1;", 1,
     "the BEGIN ATOMIC is never closed, and takes in all that follows", "END behind its last semicolon"),
    (" -- nothing yet\n", 1, "it has no statement", "each statement with its semicolon"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "line", "problem", "instead"), REFUSED)
def test_what_is_no_body_is_refused_by_name(project: Project, text: str, line: int, problem: str, instead: str) -> None:
    """With the line of the SQL file, what is the matter, and the way out; without a database, before anything runs."""
    plain(project, "001", "add_a", text)
    config = project.config()

    [judged] = judge.judge_all(ScriptDirectory.from_config(config), settings.load(config, {}))

    [finding] = judged.findings
    assert (finding.code, Path(finding.where).name) == ("sql-body-unusable", f"001_add_a.up.sql:{line}")
    assert finding.values["problem"] == problem
    assert instead in finding.values["instead"]
    assert not re.search(r"\{\w*\}", finding.text())


@pytest.mark.parametrize(
    ("raw", "place", "problem"),
    [
        (b"\xef\xbb\xbfSELECT 1;", "001_add_a.up.sql:1", "001_add_a.up.sql: it begins with a byte order mark"),
        (b"SELECT 1;\nSELECT '\0';", "001_add_a.up.sql:2", "001_add_a.up.sql: it holds a NUL byte"),
        (b"SELECT 1;\n\nSELECT '\xe4';", "001_add_a.up.sql:3", "001_add_a.up.sql: it is not UTF-8 at byte 19"),
        (b"SELECT 1;\rSELECT 2;", "001_add_a.up.sql:1", "001_add_a.up.sql: it holds a CR without LF"),
        (None, "001_add_a.py:29", "001_add_a.up.sql: there is no such file"),
    ],
)
def test_what_is_no_text_is_refused(project: Project, raw: bytes | None, place: str, problem: str) -> None:
    """A file that is not there, or not UTF-8; line ends of Windows are no matter."""
    _, up, down = plain(project, "001", "add_a", "SELECT 1;")
    up.unlink() if raw is None else up.write_bytes(raw)
    down.write_bytes(b"SELECT 1;\r\nSELECT 2;\r\n")

    assert found(project) == [("sql-body-unusable", place, problem)]


@pytest.mark.parametrize(
    ("text", "transaction", "code", "what"),
    [
        ("VACUUM t;", "single", "transaction-mismatch", "VACUUM"),
        ("DROP INDEX CONCURRENTLY i;", "single", "transaction-mismatch", "DROP INDEX CONCURRENTLY"),
        ("ALTER TABLE t DETACH PARTITION p CONCURRENTLY;", "single", "transaction-mismatch", "DETACH PARTITION … CONCURRENTLY"),
        ("CREATE INDEX CONCURRENTLY ON t (a);", "none", "sql-body-unrepeatable", "CREATE INDEX CONCURRENTLY"),
        ("DROP INDEX CONCURRENTLY a, b;", "none", "sql-body-unrepeatable", "DROP INDEX CONCURRENTLY"),
        ("REINDEX (VERBOSE) DATABASE x;", "none", "sql-body-unrepeatable", "REINDEX of more than one table"),
        ("REINDEX (CONCURRENTLY) TABLE x;", "none", "sql-body-unrepeatable", "REINDEX … CONCURRENTLY"),
        ("CREATE DATABASE x;", "none", "sql-body-unrepeatable", "CREATE DATABASE"),
        ("CREATE SUBSCRIPTION s CONNECTION '' PUBLICATION p;", "none", "sql-body-unrepeatable", "CREATE SUBSCRIPTION"),
        ("ALTER SYSTEM SET a = 1;", "none", "sql-body-unrepeatable", "ALTER SYSTEM"),
        ("BEGIN; SELECT 1; COMMIT;", "none", "sql-body-unusable",
         "BEGIN and COMMIT make one transaction of what Transaction: none sends statement by statement"),
        ("SET LOCAL a = 1;", "none", "sql-body-unusable", "SET LOCAL is over with its statement, where each commits by itself"),
        ("SET LOCAL a.b = 1; SET CONSTRAINTS ALL DEFERRED; SELECT set_config('a.b', '', true);", "single", "", ""),
        ("CREATE INDEX CONCURRENTLY i ON t (a); DROP INDEX CONCURRENTLY s.i; REINDEX TABLE CONCURRENTLY t; VACUUM t; ANALYZE;"
         "ALTER TABLE t DETACH PARTITION p CONCURRENTLY; REFRESH MATERIALIZED VIEW CONCURRENTLY v; INSERT INTO t VALUES (1)",
         "none", "", ""),
        ("CREATE TABLE concurrently (vacuum int); COMMENT ON TABLE t IS 'VACUUM'", "single", "", ""),
    ],
)  # fmt: skip
def test_what_its_transaction_does_not_allow(
    project: Project, text: str, transaction: str, code: str, what: str
) -> None:
    """In a transaction nothing that cannot run in one; without, nothing that an interrupted run could not do again."""
    plain(project, "001", "add_a", text, transaction=transaction)

    assert found(project) == ([(code, "001_add_a.up.sql:1", what)] if code else [])


@pytest.mark.parametrize(
    ("change", "place", "problem"),
    [
        ('op.run_sql("001_add_a.up.sql")|op.run_sql(NAME)', "001_add_a.py:29",
         "its name is to be written out, as the only argument"),
        ("001_add_a.up.sql|001_add_b.up.sql", "001_add_a.py:29",
         "in upgrade() of 001_add_a.py it is 001_add_a.up.sql, and not 001_add_b.up.sql"),
        ("001_add_a.up.sql|001_add_a.down.sql", "001_add_a.py:29",
         "in upgrade() of 001_add_a.py it is 001_add_a.up.sql, and not 001_add_a.down.sql"),
        ('op.run_sql("001_add_a.down.sql")|op.execute("SELECT 1")', "001_add_a.py:12",
         "001_add_a.down.sql lies beside it, and nothing runs that"),
    ],
)  # fmt: skip
def test_which_file_is_the_body_is_beyond_doubt(project: Project, change: str, place: str, problem: str) -> None:
    """It is called after the revision and named where it is run; no file lies there that nobody runs."""
    path, *_ = plain(project, "001", "add_a", "SELECT 1;")
    path.write_text(path.read_text().replace(*change.split("|")))

    told = found(project)

    assert ("sql-body-literal", place, problem) in told
    assert {code for code, *_ in told} == {"sql-body-literal"}


def test_a_body_without_a_revision_is_found(project: Project) -> None:
    """Alembic would pass over it without a word."""
    plain(project, "001", "add_a", "SELECT 1;")
    (project.versions / "002_add_b.up.sql").write_text("SELECT 1;")

    assert found(project) == [
        ("sql-body-literal", "002_add_b.up.sql:1", "there is no 002_add_b.py that would run this")
    ]


def test_a_way_back_may_be_empty_only_where_there_is_none(project: Project) -> None:
    """An empty .down.sql is refused, unless the header says why the revision cannot be undone."""
    plain(project, "001", "add_a", "SELECT 1;", "-- nothing\n")
    plain(project, "002", "add_b", "SELECT 1;", "-- nothing\n", reversible="forward-only: what was merged is one")

    assert found(project) == [("sql-body-unusable", "001_add_a.down.sql:1", "it has no statement")]


def test_lint_speaks_of_the_lines_of_the_file(project: Project) -> None:
    """The guard's own rules and squawk see the SQL of the file, inside DO blocks too, and name its lines."""
    plain(project, "001", "create_steps", UP, DOWN)
    stats = TableStats(("001",), "18.0", {"public.steps": 10**9}, {"public.steps": 10**6})
    table_stats.place(project.folder / "alembic").write_text(table_stats.text(stats))
    _, up, _ = plain(
        project, "002", "add_index",
        "-- one;\nCREATE INDEX ix ON steps\n  (note);\n\nDO $$\nBEGIN\n  TRUNCATE steps;\nEND $$;\nSELECT 1;\n"
        "ALTER TABLE steps ADD CONSTRAINT c CHECK (id > 0);\n",
    )  # fmt: skip
    config = project.config()
    script = ScriptDirectory.from_config(config)

    told = lint.lint(config, script, judge.judge_all(script, settings.load(config, {})))

    places = {(one.code, Path(one.where).name) for one in (*told.findings, *told.warnings)}
    assert {
        ("index-blocking", f"{up.name}:2"),
        ("table-truncated", f"{up.name}:5"),
        ("check-blocking", f"{up.name}:10"),
    } <= places
    assert all(where.startswith(up.name) for _, where in places)
    assert told.notes == () or "squawk" in told.notes[0]


# --- Transaction: none -------------------------------------------------------------------------------------------------

MADE = "CREATE TABLE steps (id int, note text);\nINSERT INTO steps SELECT i, 'n' FROM generate_series(1, 100) AS i;\n"
ALONE = """\
ALTER TABLE steps ADD COLUMN done boolean;
INSERT INTO steps VALUES (101, 'once', true);
CREATE INDEX CONCURRENTLY ix_steps_id ON steps USING btree (id) WHERE (note <> ';');
ALTER TABLE steps ADD CONSTRAINT id_positive CHECK (id > 0) NOT VALID;
ALTER TABLE steps VALIDATE CONSTRAINT id_positive;
DO $$ BEGIN UPDATE steps SET note = note || '!' WHERE id = 1; END $$;
DROP INDEX CONCURRENTLY ix_steps_note;
REINDEX INDEX CONCURRENTLY ix_steps_id;
VACUUM (ANALYZE) steps;
INSERT INTO steps VALUES (102, 'twice', false);
"""
THERE = """\
CREATE UNIQUE INDEX CONCURRENTLY ix_steps_id ON steps (id) INCLUDE (note);
ALTER TABLE steps ADD CONSTRAINT id_positive CHECK (id > 0) NOT VALID;
ALTER TABLE steps VALIDATE CONSTRAINT id_positive;
DROP INDEX CONCURRENTLY IF EXISTS ix_steps_note;
"""
BACK = """\
CREATE INDEX CONCURRENTLY ix_steps_note ON steps (note);
ALTER TABLE steps DROP CONSTRAINT id_positive;
VACUUM steps;
DROP INDEX CONCURRENTLY public.ix_steps_id;
"""
SEEN = "SELECT count(*), count(*) FILTER (WHERE id > 100), (SELECT note FROM steps WHERE id = 1) FROM steps"


def alone(project: Project, up: str = ALONE) -> Path:
    """A table, and a revision that commits by itself."""
    plain(project, "001", "create_steps", MADE + "CREATE INDEX ix_steps_note ON steps (note);\n", "DROP TABLE steps;\n")
    again = "forward-only: rows that came once would come twice"
    return plain(project, "002", "alter_steps", up, "", transaction="none", type="data", reversible=again)[1]


def test_each_statement_commits_by_itself(empty: Database, project: Project) -> None:
    """What cannot run in a transaction does, and every operation has its row in the journal, after the file's."""
    alone(project)

    project.upgrade()

    assert empty.rows(SEEN) == [(102, 2, "n!")]
    assert empty.value("SELECT indisvalid FROM pg_index WHERE indexrelid = 'ix_steps_id'::regclass")
    assert empty.rows("SELECT place, operation, target, state FROM migration.journal ORDER BY place") == [
        (1, "run_sql", "002_alter_steps.up.sql", "done"),
        (4, "create_index_concurrently", "ix_steps_id", "done"),
        (6, "validate_constraint", "steps.id_positive", "done"),
        (8, "drop_index_concurrently", "ix_steps_note", "done"),
        (9, "reindex_concurrently", "ix_steps_id", "done"),
    ]


def test_it_goes_back_by_itself_too(empty: Database, project: Project) -> None:
    """The way back is tried first, in one transaction, and then goes statement by statement; the catalog is as before."""
    alone(project)
    plain(project, "002", "alter_steps", THERE, BACK, transaction="none", reversible="lossless")
    project.upgrade("001")
    before = catalog(empty)

    project.upgrade()
    between = catalog(empty)
    project.downgrade("001")

    assert before != between
    assert catalog(empty) == before


def test_an_interrupted_body_goes_on_with_its_next_statement(
    empty: Database, project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was done is not done again, not even what nobody could do twice; what has failed may be corrected."""
    up = alone(project, ALONE.replace("(102, 'twice', false)", "(102, 1 / 0, false)"))

    with pytest.raises(Broken, match=rf"{up.name}:10\): division by zero\n +10 \| INSERT INTO steps"):
        project.upgrade()
    up.write_text(ALONE)
    project.upgrade()

    assert empty.rows(SEEN) == [(102, 2, "n!")]
    assert "002  002_alter_steps.up.sql goes on with statement 10 of 10\n" in capsys.readouterr().err


def test_what_was_done_cannot_be_changed_under_way(empty: Database, project: Project) -> None:
    """A statement that is final already and now says something else is refused, at its line."""
    up = alone(project, ALONE.replace("(102, 'twice', false)", "(102, 1 / 0, false)"))
    with pytest.raises(Broken):
        project.upgrade()
    up.write_text(ALONE.replace("'once'", "'more'"))

    with pytest.raises(Refused) as refused:
        project.upgrade()

    [finding] = refused.value.findings
    assert (finding.code, Path(finding.where).name) == ("sql-body-differs", f"{up.name}:2")
    assert "its statement 2 was run before, with another text" in refused.value.text()
    assert empty.rows("SELECT note FROM steps WHERE id > 100") == [("once",)]


class Struck(BaseException):
    """The process is gone."""


def strike(at: int) -> tuple[Any, list[int]]:
    """A listener that ends the run right after the ``at``-th statement that a body has sent; and what it has counted."""
    counted = [0]

    def after(conn: Any, cursor: Any, statement: str, *_: Any) -> None:
        if "steps" in statement or "migration.journal" in statement:
            counted[0] += 1
            if counted[0] == at:
                raise Struck

    return after, counted


def struck_upgrade(project: Project, at: int) -> bool:
    """An upgrade in a thread of its own that ends behind a statement, before anybody hears of it; whether it was reached."""
    listener, counted = strike(at)

    def run() -> None:
        with contextlib.suppress(Struck, Exception):
            project.upgrade()

    event.listen(Engine, "after_cursor_execute", listener)
    try:
        one = threading.Thread(target=run)
        one.start()
        one.join()
    finally:
        event.remove(Engine, "after_cursor_execute", listener)
    return counted[0] >= at


@pytest.mark.long
def test_struck_behind_any_statement_nothing_is_done_twice(
    new_database: Any, project: Project, monkeypatch: Any
) -> None:
    """The server has done it and nobody has heard of it: whichever statement that is, the next run comes to the same end."""
    alone(project)
    reached, at = True, 0
    while reached:
        at += 1
        database = new_database()
        monkeypatch.setenv("DATABASE_URL", database.url)
        project.upgrade("001")
        reached = struck_upgrade(project, at)

        project.upgrade()

        assert database.rows(SEEN) == [(102, 2, "n!")], at
        assert database.value("SELECT version_num FROM alembic_version") == "002"
        assert database.rows(
            "SELECT indexrelid::regclass::text, indisvalid FROM pg_index WHERE indrelid = 'steps'::regclass"
        ) == [("ix_steps_id", True)]
    assert at > 20


# --- a new one ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def typed(project: Project, monkeypatch: pytest.MonkeyPatch) -> Any:
    """``make migrate-create`` in the project; gives the exit code."""
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@203.0.113.1/none")
    monkeypatch.setattr(cli, "_config", lambda repeat, *_: project.config(repeat=repeat))
    return lambda *values: cli.main(["migrate-create", *values])


def test_a_new_one_is_three_files_to_be_filled_in(
    project: Project, typed: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """The header in Python, two empty bodies; what is open are these, the expectations and Reversible."""
    plain(project, "001", "create_steps", UP, DOWN)

    code = typed("NAME=add_note", "FORMAT=sql", "AUTHOR=A <a@b.example>")
    before = found(project)
    path = project.versions / "002_add_note.py"
    text = path.read_text()
    path.write_text(
        text.replace("undecided", "stash").replace("expectations = [\n", 'expectations = [expect.table("steps")')
    )
    for ending in ("up", "down"):
        with path.with_suffix(f".{ending}.sql").open("a") as opened:
            opened.write("SELECT 1;\n")

    assert code == 0
    assert [code for code, *_ in before] == [
        "sql-body-unusable", "sql-body-unusable", "reversible-undecided", "expectation-missing",
    ]  # fmt: skip
    assert 'def upgrade() -> None:\n    op.run_sql("002_add_note.up.sql")\n\n\ndef downgrade()' in text
    assert "import sqlalchemy" not in text
    assert found(project) == []
    assert "002_add_note.up.sql" in capsys.readouterr().out


def test_a_long_name_is_cut_for_all_three_alike(project: Project, typed: Any) -> None:
    """The bodies are called after the file that Alembic makes, whatever its template and limit do to the name."""
    project.settings["headers"] = "required"
    ini = project.folder / "alembic.ini"
    ini.write_text(ini.read_text().replace("revision_environment", "truncate_slug_length = 20\nrevision_environment"))

    typed("NAME=add_what_has_a_very_long_name_indeed", "FORMAT=sql", "TYPE=data", "AUTHOR=A <a@b.example>")

    made = sorted(one.name for one in project.versions.iterdir() if one.is_file())
    assert [name.partition(".")[2] for name in made] == ["down.sql", "py", "up.sql"]
    assert {name.partition(".")[0] for name in made} == {made[0].partition(".")[0]}
    assert not [code for code, *_ in found(project) if code == "sql-body-literal"]
    assert "Phase: migrate\nTransaction: single\n" in (project.versions / made[1]).read_text()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (("NAME=add_a", "FORMAT=yaml"), "FORMAT is 'yaml'; it is sql, or left out."),
        (("NAME=add_a", "FORMAT=sql", "AUTO=1"), "what stands in a SQL file is written by hand"),
    ],
)
def test_what_does_not_go_together_is_refused(
    project: Project, typed: Any, values: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the right form, and nothing written."""
    code = typed(*values)

    assert code == WrongUse.code
    assert said in capsys.readouterr().err
    assert list(project.versions.glob("*.*")) == []


def test_where_a_file_is_there_already_nothing_is_left(project: Project, typed: Any) -> None:
    """A body that somebody has left there is not written over, and no revision stays without one."""
    (project.versions / "001_add_a.down.sql").write_text("SELECT 1;")

    code = typed("NAME=add_a", "FORMAT=sql", "AUTHOR=A <a@b.example>")

    assert code == Broken.code
    assert [one.name for one in project.versions.glob("*.*")] == ["001_add_a.down.sql"]
