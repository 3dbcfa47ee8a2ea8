"""Operations on columns: added with any default, filled by batches, and the same after an interruption."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psycopg2
import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from mcp_planner_schema.backfill import engine, pace
from mcp_planner_schema.guard.findings import Busy, Refused
from mcp_planner_schema.operations import backfill, columns
from mcp_planner_schema.operations.written import call
from tests.conftest import ROOT, Database, Project
from tests.until import until

TABLE = "CREATE TABLE t (id int PRIMARY KEY, note text); INSERT INTO t SELECT n FROM generate_series(1, 12000) AS n"


def begin(project: Project, body: str, *, down: str = 'op.drop_column("t", "c")', expectations: str = "") -> None:
    """A table with rows, and a second revision with ``body`` that is not run yet."""
    project.revision("001", "create_t", f'op.execute("{TABLE}")', 'op.execute("DROP TABLE t")')
    project.upgrade()
    project.revision(
        "002", "alter_t", body, down, transaction="none", expectations=expectations or 'expect.column("t", "c")'
    )


def file(database: Database) -> int:
    """The file that the table's rows are in: another one after a rewrite."""
    return int(database.value("SELECT pg_relation_filenode('t')"))


@pytest.mark.parametrize(
    ("type_sql", "default", "nullable"),
    [("integer", "7", False), ("timestamp with time zone", "now()", True), ("text", "'a%b: ''c'''", False),
     ("integer[]", "'{}'", False), ("integer", "NULL", True)],
)  # fmt: skip
def test_a_default_of_one_value_is_added_natively(
    empty: Database, project: Project, type_sql: str, default: str, nullable: bool
) -> None:
    """Every row has it and none was written: the same file, and the row versions that were there before."""
    begin(project, f'op.add_column_with_default("t", "c", {type_sql!r}, {default!r}, nullable={nullable})')
    before = file(empty), empty.rows("SELECT xmin, ctid FROM t ORDER BY id")

    project.upgrade()

    assert (file(empty), empty.rows("SELECT xmin, ctid FROM t ORDER BY id")) == before
    assert empty.value("SELECT count(DISTINCT coalesce(c::text, '')) FROM t") == 1
    assert empty.value("SELECT c IS NOT DISTINCT FROM (SELECT c FROM t LIMIT 1) FROM t LIMIT 1")
    assert (
        empty.value("SELECT attnotnull FROM pg_attribute WHERE attrelid = 't'::regclass AND attname = 'c'")
        is not nullable
    )


@pytest.mark.parametrize(("type_sql", "default"), [("uuid", "gen_random_uuid()"), ("float8", "random()")])
def test_a_default_that_differs_from_row_to_row_is_filled_by_batches(
    empty: Database, project: Project, type_sql: str, default: str
) -> None:
    """No rewrite: each row gets its own value, in transactions of at most a batch, and new rows have theirs at once."""
    begin(project, f'op.add_column_with_default("t", "c", {type_sql!r}, {default!r}, nullable=False)')
    before = file(empty)

    project.upgrade()

    assert file(empty) == before
    assert empty.rows("SELECT count(*), count(DISTINCT c) FROM t") == [(12000, 12000)]
    assert empty.value("SELECT max(n) FROM (SELECT count(*) AS n FROM t GROUP BY xmin::text) AS batch") <= 3459
    assert empty.value("INSERT INTO t (id) VALUES (0) RETURNING c IS NOT NULL")
    with pytest.raises(psycopg2.errors.NotNullViolation):
        empty.rows("UPDATE t SET c = NULL")


def test_readers_and_writers_go_on_while_rows_are_filled(empty: Database, project: Project) -> None:
    """A writer that comes while the batches run waits for one of them at most; what it writes stays."""
    begin(project, 'op.add_column_with_default("t", "c", "uuid", "gen_random_uuid()")')
    run = threading.Thread(target=project.upgrade)
    given = "00000000-0000-0000-0000-000000000001"

    run.start()
    until(
        lambda: empty.value("SELECT count(*) FROM pg_attribute WHERE attrelid = 't'::regclass AND attname = 'c'") == 1
    )
    empty.rows(f"UPDATE t SET c = '{given}' WHERE id = 12000")
    run.join()

    assert empty.value("SELECT c::text FROM t WHERE id = 12000") == given
    assert empty.value("SELECT count(c) FROM t") == 12000


@pytest.mark.long
def test_who_writes_a_row_of_a_batch_waits_for_a_short_one(empty: Database, project: Project) -> None:
    """Where a trigger makes each row slow the batches become smaller: no writer waits for the second that one would take."""
    begin(project, 'op.fill_column("t", "c", "1")')
    empty.rows("ALTER TABLE t ADD COLUMN c int; ALTER TABLE t ADD COLUMN seen int")
    empty.rows("CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS "
               "'BEGIN PERFORM count(*) FROM generate_series(1, 4000); RETURN NEW; END'")  # fmt: skip
    empty.rows("CREATE TRIGGER slow BEFORE UPDATE OF c ON t FOR EACH ROW EXECUTE FUNCTION slow()")
    took: list[float] = []
    done = threading.Event()

    def write() -> None:
        with empty.connect() as connection, connection.cursor() as cursor:
            while not done.is_set():
                began = time.monotonic()
                cursor.execute("UPDATE t SET seen = 1 WHERE id = %s", (random.randint(1, 12000),))
                took.append(time.monotonic() - began)

    writers = [threading.Thread(target=write) for _ in range(2)]
    for writer in writers:
        writer.start()
    project.upgrade()
    done.set()
    for writer in writers:
        writer.join(10)

    assert empty.value("SELECT count(c) FROM t") == 12000
    assert max(took) < 0.45  # two cores, and all of them at work


def test_a_row_that_somebody_keeps_is_waited_for(
    empty: Database, project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It gives way and tries again; at the end it is busy, the batches before stay, and the next run fills the rest."""
    begin(project, 'op.add_column_with_default("t", "c", "uuid", "gen_random_uuid()")')
    monkeypatch.setattr(engine, "_LOCKED_TRIES", 2)
    empty.rows("ALTER TABLE t ADD COLUMN c uuid; ALTER TABLE t ALTER COLUMN c SET DEFAULT gen_random_uuid()")

    with empty.connect(autocommit=False) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT FROM t WHERE id = 7000 FOR UPDATE")
        with pytest.raises(Busy, match="rows that somebody keeps locked, try 2"):
            project.upgrade()
    filled = dict(empty.rows("SELECT id, c FROM t WHERE c IS NOT NULL"))
    project.upgrade()

    assert len(filled) == 6999  # all before it: the batches became smaller and smaller
    assert dict(empty.rows("SELECT id, c FROM t WHERE id < 7000")) == filled
    assert empty.value("SELECT count(c) FROM t") == 12000
    assert "waits for a locked row (try 1 of 2)" in capsys.readouterr().err


KILL = """
import sys
from mcp_planner_schema.backfill import feedback
asked = []
feedback.Feedback.reasons = lambda *_: ["the test"] if asked or asked.append(1) else []  # not before the first batch
from alembic.config import main
main(["upgrade", "head"])
"""


def test_a_run_that_was_killed_goes_on(empty: Database, project: Project) -> None:
    """SIGKILL between two batches: the same command again leaves what an undisturbed run leaves, and writes no row twice."""
    begin(project, 'op.add_column_with_default("t", "c", "uuid", "gen_random_uuid()", nullable=False)')
    environment = {**os.environ, "DATABASE_URL": empty.url, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", KILL], cwd=project.folder, env=environment)
    there = "SELECT count(*) FROM pg_attribute WHERE attrelid = 't'::regclass AND attname = 'c'"
    until(lambda: empty.value(there) == 1 and empty.value("SELECT count(c) FROM t") == pace.START)

    process.send_signal(signal.SIGKILL)
    process.wait()
    before = dict(empty.rows("SELECT id, xmin::text FROM t WHERE c IS NOT NULL"))
    project.upgrade()

    assert len(before) == pace.START
    assert dict(empty.rows("SELECT id, xmin::text FROM t WHERE id <= %s", pace.START)) == before
    assert empty.value("SELECT count(c) FROM t") == 12000
    assert empty.value("SELECT attnotnull FROM pg_attribute WHERE attrelid = 't'::regclass AND attname = 'c'")


def test_a_column_of_another_shape_is_refused(empty: Database, project: Project) -> None:
    """One of the same name and another type or default is told, and left as it is."""
    begin(project, 'op.add_column_with_default("t", "c", "integer", "7")')
    empty.rows("ALTER TABLE t ADD COLUMN c integer DEFAULT 8")

    with pytest.raises(
        Refused, match=r"column t.c of type integer default 7 is to be made, and there is one of type integer default 8"
    ):
        project.upgrade()

    assert empty.value("SELECT count(*) FROM t WHERE c = 8") == 12000


def test_a_table_without_a_key_is_filled_by_its_places(empty: Database, project: Project) -> None:
    """Where nothing tells rows apart they are taken block by block, again and again until none is left without a value."""
    begin(project, 'op.add_column_with_default("t", "c", "uuid", "gen_random_uuid()")')
    empty.rows("ALTER TABLE t DROP CONSTRAINT t_pkey; ALTER TABLE t ALTER id DROP NOT NULL")

    project.upgrade()

    assert empty.rows("SELECT count(*), count(DISTINCT c) FROM t") == [(12000, 12000)]


def test_a_key_of_several_columns(empty: Database, project: Project) -> None:
    """Batches follow a key of two columns, one of them text with what SQL would take for something else."""
    project.revision(
        "001", "create_t",
        """op.execute('''CREATE TABLE t ("a%s" text, b timestamptz, c text, PRIMARY KEY ("a%s", b));
        INSERT INTO t SELECT '100%', timestamptz '2026-01-01' + n * interval '1 s' FROM generate_series(1, 11000) AS n''')""",
        'op.execute("DROP TABLE t")',
    )  # fmt: skip
    project.revision(
        "002",
        "fill_c",
        "op.fill_column('t', 'c', '''\"a%s\" || ' % ' || ':x' ''')",
        'op.execute("SELECT 1")',
        transaction="none",
    )

    project.upgrade()

    assert empty.rows("SELECT c, count(*) FROM t GROUP BY 1") == [("100% % :x", 11000)]


def test_filling_destroys_nothing_on_the_way_back(empty: Database, project: Project) -> None:
    """A downgrade may fill: its trial leaves that out, and a rehearsal of several steps asks no expectation that rests on it."""
    begin(
        project, 'op.execute("ALTER TABLE t DROP COLUMN note")',
        down='op.ensure_column("t", "note", "text")\nop.fill_column("t", "note", "id::text")',
        expectations='expect.absent(expect.column("t", "note"))',
    )  # fmt: skip
    path = project.versions / "002_alter_t.py"
    path.write_text(
        path.read_text() + 'expectations_down = [expect.rows("SELECT FROM t WHERE note IS NULL", count=0)]\n'
    )
    project.revision("003", "create_u", 'op.execute("CREATE TABLE u ()")', 'op.execute("DROP TABLE u")')
    project.upgrade()

    project.downgrade("001")

    assert empty.value("SELECT count(*) FROM t WHERE note = id::text") == 12000


def test_offline_it_is_the_same(empty: Database, project: Project, tmp_path: Path) -> None:
    """Written by --sql and run by psql, rows are filled by batches that commit, and the column is as it is online."""
    begin(project, 'op.add_column_with_default("t", "c", "uuid", "gen_random_uuid()", nullable=False, key=["id"])')
    written = project.alembic("upgrade", "001:002", "--sql")
    (tmp_path / "up.sql").write_text(written.stdout)

    ran = empty.psql(tmp_path / "up.sql")

    assert (written.returncode, ran.returncode, ran.stderr) == (0, 0, ""), written.stderr + ran.stderr
    assert empty.rows("SELECT count(*), count(DISTINCT c) FROM t") == [(12000, 12000)]
    assert (
        empty.value("SELECT max(n) FROM (SELECT count(*) AS n FROM t GROUP BY xmin::text) AS batch")
        == backfill._BATCH_IN_SQL
    )


def test_operations_are_written_as_an_author_would() -> None:
    """Types of SQLAlchemy become SQL, defaults are left out."""
    added = columns.AddColumnWithDefault("t", "c", columns._type(sa.Numeric(10, 2)), "0", nullable=False)
    given = columns.EnsureColumn("t", "c", columns._type(postgresql.ARRAY(sa.Text())))

    assert (
        call("add_column_with_default", added)
        == 'op.add_column_with_default("t", "c", "NUMERIC(10, 2)", "0", nullable=False)'
    )
    assert call("ensure_column", given) == 'op.ensure_column("t", "c", "TEXT[]")'
    assert str(added.reverse().column_name) == "c"
