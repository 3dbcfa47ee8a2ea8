"""Constraints that come while the table is in use: counted before, NOT VALID first, proven, repeatable."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from mcp_planner_schema.guard.findings import Refused
from tests.catalog import catalog, difference
from tests.conftest import Database, Project, some
from tests.test_index_operations import JOURNAL, PARTITIONED, revision, running
from tests.until import until

TABLES = """
CREATE TABLE r (a int, b int, PRIMARY KEY (a, b), UNIQUE (a));
INSERT INTO r SELECT n, n FROM generate_series(1, 1000) n;
CREATE TABLE t (id int, k int, v text);
INSERT INTO t SELECT n, n, 'v' || n FROM generate_series(1, 1000) n
"""
DEFINITIONS = """SELECT conname, pg_get_constraintdef(oid), convalidated FROM pg_constraint
                 WHERE conrelid = %s::regclass ORDER BY 1"""


@dataclass(frozen=True)
class Case:
    """An operation, its way back, how PostgreSQL shows the result, and a row that stands against it."""

    up: str
    down: str
    shown: str
    bad: str
    name: str = "c"


DROP = "op.drop_constraint_concurrently('c', 't')"
CASES = {
    "check": Case("op.add_check_concurrently('c', 't', 'k > 0')", DROP, "CHECK ((k > 0))", "(5000, -1, 'x')"),
    "check with percent": Case("op.add_check_concurrently('c', 't', \"v LIKE 'v%' AND k % 7 < 7\")", DROP,
                               "CHECK (((v ~~ 'v%'::text) AND ((k % 7) < 7)))", "(5000, 1, 'x')"),
    "foreign key": Case("op.add_foreign_key_concurrently('c', 't', 'r', ['k'], ['a'])", DROP,
                        "FOREIGN KEY (k) REFERENCES r(a)", "(5000, 5000, 'x')"),
    "foreign key, all words": Case(
        "op.add_foreign_key_concurrently('c', 't', 'r', ['k', 'id'], ['a', 'b'], match='FULL', onupdate='CASCADE',"
        " ondelete='SET NULL', deferrable=True, initially='DEFERRED', source_schema='public', referent_schema='public')",
        DROP, "FOREIGN KEY (k, id) REFERENCES r(a, b) MATCH FULL ON UPDATE CASCADE ON DELETE SET NULL"
        " DEFERRABLE INITIALLY DEFERRED",
        "(5000, NULL, 'x')"),
    "unique": Case("op.add_unique_concurrently('c', 't', ['k'])", DROP, "UNIQUE (k)", "(5000, 7, 'x')"),
    "unique, all words": Case(
        "op.add_unique_concurrently('c', 't', ['k'], deferrable=True, initially='DEFERRED', postgresql_include=['v'],"
        " postgresql_nulls_not_distinct=True)",
        DROP, "UNIQUE NULLS NOT DISTINCT (k) INCLUDE (v) DEFERRABLE INITIALLY DEFERRED",
        "(5000, NULL, 'x'), (5001, NULL, 'y')"),
    "primary key": Case("op.add_primary_key_concurrently('c', 't', ['id'])", f"{DROP}\nop.drop_not_null('t', 'id')",
                        "PRIMARY KEY (id)", "(NULL, 1, 'x')"),
    "not null": Case("op.set_not_null_concurrently('t', 'k')", "op.drop_not_null('t', 'k')", "NOT NULL k", "(5000, NULL, 'x')",
                     "t_k_not_null"),
}  # fmt: skip


@pytest.fixture
def busy(empty: Database) -> Database:
    """A database with tables t and r of 1,000 rows each."""
    empty.rows(TABLES)
    return empty


@pytest.mark.parametrize("what", CASES)
def test_it_comes_and_goes_and_comes_again(busy: Database, project: Project, what: str) -> None:
    """Up, down and up again: the catalog is what it was each time, and what is there already is left alone."""
    case = CASES[what]
    revision(project, case.up, case.down)
    before = catalog(busy)

    project.upgrade()
    there = catalog(busy)
    shown = busy.rows(DEFINITIONS, "t")
    project.downgrade("base")
    gone = catalog(busy)
    project.upgrade()

    assert (case.name, case.shown, True) in shown
    assert difference(before, gone) == []
    assert difference(there, catalog(busy)) == []

    oids = busy.rows("SELECT oid FROM pg_constraint WHERE conrelid = 't'::regclass ORDER BY 1")
    busy.rows("DELETE FROM alembic_version; DELETE FROM migration.journal")
    project.upgrade()

    assert busy.rows("SELECT oid FROM pg_constraint WHERE conrelid = 't'::regclass ORDER BY 1") == oids


@pytest.mark.parametrize("what", CASES)
def test_rows_that_offend_are_counted_and_named_before(busy: Database, project: Project, what: str) -> None:
    """Exit 3 with how many and which, nothing changed; with the rows repaired, the same command does it."""
    case = CASES[what]
    revision(project, case.up, case.down)
    busy.rows(f"INSERT INTO t VALUES {case.bad}")
    before = catalog(busy)

    with pytest.raises(Refused, match="nothing was changed") as caught:
        project.upgrade()

    (found,) = caught.value.findings
    assert (found.code, found.values["table"]) == ("operation-rows", "t")
    assert found.values["count"] == ("2 rows" if what.startswith("unique") else "1 row")
    assert found.values["sample"].startswith("ctid: t (")
    assert difference(before, catalog(busy)) == []

    busy.rows("DELETE FROM t WHERE id >= 5000 OR id IS NULL")
    project.upgrade()

    assert (case.name, case.shown, True) in busy.rows(DEFINITIONS, "t")


OTHERS = {
    "check": "ALTER TABLE t ADD CONSTRAINT c CHECK (k > -1)",
    "check with percent": "ALTER TABLE t ADD CONSTRAINT c UNIQUE (k)",
    "foreign key": "ALTER TABLE t ADD CONSTRAINT c FOREIGN KEY (k) REFERENCES r (a) ON DELETE CASCADE",
    "foreign key, all words": "ALTER TABLE t ADD CONSTRAINT c FOREIGN KEY (id) REFERENCES r (a)",
    "unique": "ALTER TABLE t ADD CONSTRAINT c UNIQUE (k) DEFERRABLE",
    "unique, all words": "CREATE UNIQUE INDEX c ON t (k)",
    "primary key": "ALTER TABLE t ADD CONSTRAINT other PRIMARY KEY (id)",
}


@pytest.mark.parametrize("what", OTHERS)
def test_another_of_that_name_is_refused(busy: Database, project: Project, what: str) -> None:
    """Nothing is changed, the finding shows what is there."""
    revision(project, CASES[what].up, CASES[what].down)
    busy.rows(OTHERS[what])
    before = catalog(busy)

    with pytest.raises(Refused, match="nothing was changed") as caught:
        project.upgrade()

    assert [one.code for one in caught.value.findings] == ["operation-differs"]
    assert difference(before, catalog(busy)) == []


HALF_DONE = {
    "check": "ALTER TABLE t ADD CONSTRAINT c CHECK (k > 0) NOT VALID",
    "foreign key": "ALTER TABLE t ADD CONSTRAINT c FOREIGN KEY (k) REFERENCES r (a) NOT VALID",
    "unique": "CREATE UNIQUE INDEX c ON t (k)",
    "primary key": "ALTER TABLE t ALTER id SET NOT NULL; CREATE UNIQUE INDEX c ON t (id)",
    "not null": "ALTER TABLE t ADD NOT NULL k NOT VALID",
}


@pytest.mark.parametrize("what", HALF_DONE)
def test_what_is_half_done_is_finished(busy: Database, project: Project, what: str) -> None:
    """From wherever an interrupted run has stopped, the end is the same."""
    case = CASES[what]
    revision(project, case.up, case.down)
    busy.rows(HALF_DONE[what])

    project.upgrade()

    assert (case.name, case.shown, True) in busy.rows(DEFINITIONS, "t")


def test_validated_and_not_valid_again(busy: Database, project: Project) -> None:
    """op.validate_constraint, and its way back; offending rows are named first."""
    busy.rows("INSERT INTO t VALUES (5000, -1, 'x')")
    busy.rows(
        "ALTER TABLE t ADD CONSTRAINT c CHECK (k > 0) NOT VALID, ADD CONSTRAINT f FOREIGN KEY (k) REFERENCES r (a) NOT VALID"
    )
    revision(project, "op.validate_constraint('c', 't')\nop.validate_constraint('f', 't')",
             "op.invalidate_constraint('f', 't')\nop.invalidate_constraint('c', 't')")  # fmt: skip
    before = catalog(busy)
    with pytest.raises(Refused, match="1 row of t stand"):
        project.upgrade()

    busy.rows("DELETE FROM t WHERE id = 5000")
    project.upgrade()

    assert [row[2] for row in busy.rows(DEFINITIONS, "t")] == [True, True]

    project.downgrade("base")

    assert difference(before, catalog(busy)) == []


@pytest.mark.parametrize("operation", [DROP, "op.validate_constraint('c', 't')", "op.set_not_null_concurrently('t', 'c')",
                                       "op.add_check_concurrently('c', 'nowhere', 'true')"])  # fmt: skip
def test_what_is_not_there_is_a_finding(busy: Database, project: Project, operation: str) -> None:
    """A wrong name is refused, and nothing was changed."""
    revision(project, operation, "op.execute('SELECT 1')")

    with pytest.raises(Refused, match="nothing was changed") as caught:
        project.upgrade()

    assert [one.code for one in caught.value.findings] == ["operation-missing"]


# --- beside others ----------------------------------------------------------------------------------------------------


def rows_read(database: Database) -> int:
    """Rows of t that sequential scans have read, once all other sessions have ended and told theirs."""
    others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    until(lambda: not database.value(others))
    return int(database.value("SELECT seq_tup_read FROM pg_stat_user_tables WHERE relname = 't'"))


def test_not_null_reads_the_rows_only_beside_others(busy: Database, project: Project) -> None:
    """One scan to count, one to validate, none under the strong lock: 2,000 rows of 1,000."""
    revision(project, CASES["not null"].up, CASES["not null"].down)
    before = rows_read(busy)

    project.upgrade()

    assert rows_read(busy) - before == 2000


@pytest.mark.parametrize("what", ["check", "foreign key", "not null"])
def test_a_reader_delays_it_and_a_writer_does_not_wait(busy: Database, project: Project, what: str) -> None:
    """While a reader's transaction is in the way of the brief lock, others read and write; at its end the work is done."""
    case = CASES[what]
    project.configure(lock_attempts="41")
    revision(project, case.up, case.down)
    with busy.connect(autocommit=False) as reader, reader.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM t; LOCK TABLE t IN ROW EXCLUSIVE MODE")
        with running(project, "upgrade", "head") as process:
            waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 't'::regclass"
            until(lambda: busy.value(waits))
            busy.rows("SET lock_timeout = '1s'; INSERT INTO t VALUES (900, 900, 'new')")
            reader.commit()
            _, said = process.communicate(timeout=60)

    assert process.returncode == 0, said
    assert (case.name, case.shown, True) in busy.rows(DEFINITIONS, "t")


SLOW = "CREATE FUNCTION slow(int) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.01); RETURN true; END'"
KILLED: dict[str, tuple[str, str]] = {
    "while it counts": ("op.add_check_concurrently('c', 't', 'slow(k)')", "count|LIMIT"),
    "while it validates": ("op.add_check_concurrently('c', 't', 'slow(k)')", "VALIDATE"),
    "while a key is built": ("op.add_unique_concurrently('c', 't', ['k'])", "CREATE UNIQUE INDEX"),
    "while a primary key is built": ("op.add_primary_key_concurrently('c', 't', ['k'])", "CREATE UNIQUE INDEX"),
}


@pytest.mark.parametrize("what", KILLED)
@pytest.mark.long
def test_killed_and_repeated_it_ends_as_if_undisturbed(
    new_database: Callable[[], Database], project: Project, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """SIGKILL in the middle of a long statement, then the same command again, at once: the same catalog."""
    operation, statement = KILLED[what]
    revision(project, operation, "op.execute('SELECT 1')")
    ends: list[Any] = []
    for kill in (False, True):
        database = new_database()
        monkeypatch.setenv("DATABASE_URL", database.url)
        database.rows(TABLES)
        database.rows(SLOW)
        database.rows("DELETE FROM t WHERE id > 100")
        if kill:
            with database.connect(autocommit=False) as older, older.cursor() as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT 1")  # a build waits for it
                with running(project, "upgrade", "head") as process:
                    active = (
                        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'active' "
                        "AND pid <> pg_backend_pid() AND query ~ %s"
                    )
                    until(lambda database=database, active=active: database.value(active, statement))
                    process.kill()
        project.upgrade()
        ends.append(catalog(database))
        assert database.value("SELECT count(*) FROM migration.journal WHERE state = 'done'") == 1

    assert difference(ends[0], ends[1]) == []


# --- partitioned tables -----------------------------------------------------------------------------------------------

LEAVES = """SELECT count(*), count(*) FILTER (WHERE k.convalidated) FROM pg_partition_tree('t') tree
            LEFT JOIN pg_constraint k ON k.conrelid = tree.relid AND k.contype = %s"""
PARTED = {
    "check": ("c", CASES["check"].up.replace("k > 0", "k >= 0"), DROP),
    "foreign key": ("f", "op.add_foreign_key_concurrently('c', 't', 'r', ['k'], ['a'])", DROP),
    "unique": ("u", "op.add_unique_concurrently('c', 't', ['id', 'k'])", DROP),
    "primary key": ("p", "op.add_primary_key_concurrently('c', 't', ['id', 'k'])",
                    f"{DROP}\nop.drop_not_null('t', 'id')\nop.drop_not_null('t', 'k')"),
}  # fmt: skip


@pytest.mark.parametrize("what", PARTED)
def test_all_partitions_have_it_valid(empty: Database, project: Project, what: str) -> None:
    """Every level has the constraint, validated; up, down and up again."""
    kind, up, down = PARTED[what]
    empty.rows(PARTITIONED)
    empty.rows("CREATE TABLE r (a int PRIMARY KEY); INSERT INTO r SELECT generate_series(0, 999)")
    revision(project, up, down)
    before = catalog(empty)

    project.upgrade()
    once = empty.rows(LEAVES, kind)
    project.downgrade("base")
    gone = catalog(empty)
    project.upgrade()

    assert once == empty.rows(LEAVES, kind) == [(6, 6)]
    assert difference(before, gone) == []


# --- offline ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", some(CASES))
def test_offline_it_is_the_plain_statements(busy: Database, project: Project, what: str) -> None:
    """--sql writes them without a question, and psql can run them, up and down."""
    case = CASES[what]
    revision(project, case.up, case.down)
    before = catalog(busy)

    for direction, versions in (("upgrade", "head"), ("downgrade", "001:base")):
        written = project.alembic(direction, versions, "--sql")
        assert written.returncode == 0, written.stderr
        (project.folder / "it.sql").write_text(written.stdout)
        ran = busy.psql(project.folder / "it.sql")
        assert ran.returncode == 0, ran.stderr
        if direction == "upgrade":
            assert (case.name, case.shown, True) in busy.rows(DEFINITIONS, "t")

    assert difference(before, catalog(busy)) == []


def test_each_operation_has_its_row(busy: Database, project: Project) -> None:
    """In the order of the revision, with what it is about."""
    revision(project, "\n".join([CASES["check"].up, CASES["not null"].up]), "\n".join([CASES["not null"].down, DROP]))

    project.upgrade()

    assert busy.rows(JOURNAL) == [
        ("001", "upgrade", 1, "add_check_concurrently", "t.c", "done"),
        ("001", "upgrade", 2, "set_not_null_concurrently", "t.k", "done"),
    ]
