"""Partitions attached and detached, indexes built anew, while the tables are in use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mcp_planner_schema.guard.findings import Refused
from mcp_planner_schema.operations import indexes
from tests.catalog import catalog, difference
from tests.conftest import Database, Project
from tests.test_index_operations import WAITS, broken_index, only_index, revision, running
from tests.until import until

TABLES = """
CREATE TABLE r (a int PRIMARY KEY);
INSERT INTO r SELECT generate_series(0, 999);
CREATE TABLE p (id int NOT NULL, k int CHECK (k >= 0) REFERENCES r, v text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
CREATE INDEX ix ON p (lower(v));
CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (100);
CREATE TABLE n (id int, k int, v text);
INSERT INTO n SELECT n, n, 'x' FROM generate_series(100, 199) n
"""
ATTACH = "op.attach_partition('p', 'n', 'FOR VALUES FROM (100) TO (200)')"
DETACH = "op.detach_partition('p', 'n')"
PARTITIONS = """SELECT c.relname::text, pg_get_expr(relpartbound, c.oid), inhdetachpending FROM pg_inherits JOIN pg_class c
                ON c.oid = inhrelid WHERE inhparent = 'p'::regclass ORDER BY 1"""
ATTACHED = ("n", "FOR VALUES FROM (100) TO (200)", False)


@pytest.fixture
def busy(empty: Database) -> Database:
    """A partitioned table p, and a table n that is to become a partition."""
    empty.rows(TABLES)
    return empty


def test_a_partition_is_attached_without_a_scan_under_the_lock(
    busy: Database, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bound, keys, checks and indexes are there and valid; the statement that attaches reads no row, where it would be felt."""
    monkeypatch.setattr(indexes, "BRIEFLY_READ", 0)
    busy.rows("CREATE TABLE d PARTITION OF p DEFAULT; INSERT INTO d SELECT n, 1, 'x' FROM generate_series(500, 599) n")
    revision(project, ATTACH, DETACH)
    busy.rows(f"ALTER DATABASE {busy.name} SET client_min_messages = debug1")

    notices = busy_notices(project)

    assert ATTACHED in busy.rows(PARTITIONS)
    assert 'partition constraint for table "n" is implied by existing constraints' in notices
    assert 'updated partition constraint for default partition "d" is implied by existing constraints' in notices
    assert busy.rows("SELECT conname FROM pg_constraint WHERE conname ~ 'attach_check'") == []
    assert busy.rows("SELECT count(*), bool_and(indisvalid) FROM pg_index WHERE indrelid = 'n'::regclass") == [
        (2, True)
    ]
    kinds = """SELECT string_agg(contype::text, '' ORDER BY contype) FROM pg_constraint
               WHERE conrelid = 'n'::regclass AND convalidated"""
    assert busy.value(kinds) == "cfnp"


def busy_notices(project: Project) -> str:
    """What the server has said to the run, at debug1: whether it verified rows."""
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    said: list[str] = []

    def after(conn: Any, cursor: Any, statement: str, *_: Any) -> None:
        if "ATTACH PARTITION" in statement:
            said.extend(cursor.connection.notices)

    event.listen(Engine, "after_cursor_execute", after)
    try:
        project.upgrade()
    finally:
        event.remove(Engine, "after_cursor_execute", after)
    text = "".join(said)
    assert 'verifying table "n"' not in text.rpartition("ATTACH")[2]
    return text


@pytest.mark.parametrize(
    ("key", "bound"),
    [("LIST (k)", "FOR VALUES IN (1, NULL)"), ("RANGE (id, k)", "FOR VALUES FROM (100, MINVALUE) TO (200, 5)"),
     ("RANGE (id)", "DEFAULT"), ("HASH (id)", "FOR VALUES WITH (modulus 1, remainder 0)"),
     ("RANGE ((id % 500))", "FOR VALUES FROM (MINVALUE) TO (400)")],
)  # fmt: skip
def test_every_kind_of_bound(empty: Database, project: Project, key: str, bound: str) -> None:
    """Up, down and up again; the table is what it was each time."""
    empty.rows(f"CREATE TABLE p (id int, k int, v text) PARTITION BY {key}; CREATE TABLE n (id int, k int, v text)")
    empty.rows("INSERT INTO n SELECT n, 1, 'x' FROM generate_series(100, 199) n")
    revision(project, f"op.attach_partition('p', 'n', '{bound}')", DETACH)
    before = catalog(empty)

    project.upgrade()
    attached = empty.rows(PARTITIONS)
    project.downgrade("base")

    assert difference(before, catalog(empty)) == []
    assert empty.rows(PARTITIONS) == []

    project.upgrade()

    assert empty.rows(PARTITIONS) == attached != []
    assert empty.value("SELECT count(*) FROM p") == 100


def test_rows_go_on_into_the_default_partition_while_the_new_one_is_made_to_fit(
    busy: Database, project: Project
) -> None:
    """Only from a check on the default partition on its rows would be an error: none is there while indexes are built."""
    busy.rows("CREATE TABLE d PARTITION OF p DEFAULT")
    revision(project, ATTACH, DETACH)

    with busy.connect(autocommit=False) as old, old.cursor() as cursor:
        cursor.execute(
            "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT 1"
        )  # the build of an index waits for it
        with running(project, "upgrade", "head") as shell:
            until(lambda: busy.value(WAITS))
            busy.rows("INSERT INTO p VALUES (150, 1, 'x')")
            busy.rows("DELETE FROM p WHERE id = 150 AND tableoid = 'd'::regclass")
            old.rollback()
            _, stderr = shell.communicate(timeout=30)

    assert shell.returncode == 0, stderr
    assert ATTACHED in busy.rows(PARTITIONS)


def test_a_row_that_comes_into_the_default_partition_meanwhile_is_named(busy: Database, project: Project) -> None:
    """A row for the new partition that is in the default one at the end: refused, and named."""
    busy.rows("CREATE TABLE d PARTITION OF p DEFAULT")
    revision(project, ATTACH, DETACH)

    with busy.connect(autocommit=False) as old, old.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT 1")
        with running(project, "upgrade", "head") as shell:
            until(lambda: busy.value(WAITS))
            busy.rows("INSERT INTO p VALUES (150, 1, 'x')")
            old.rollback()
            _, stderr = shell.communicate(timeout=30)

    assert shell.returncode == 3, stderr
    assert "1 row of d stand against the new partition n; id: 150" in stderr


@pytest.mark.parametrize("where", ["n", "d"])
def test_rows_that_do_not_fit_are_named_before(busy: Database, project: Project, where: str) -> None:
    """A row outside the bound, or one in the default partition that belongs to the new one: refused."""
    busy.rows("CREATE TABLE d PARTITION OF p DEFAULT")
    busy.rows("INSERT INTO n VALUES (999, 1, 'x')" if where == "n" else "INSERT INTO p VALUES (150, 1, 'x')")
    revision(project, ATTACH, DETACH)

    with pytest.raises(Refused) as caught:
        project.upgrade()

    (found,) = caught.value.findings
    assert (found.code, found.values["table"], found.values["count"]) == ("operation-rows", where, "1 row")
    assert ATTACHED not in busy.rows(PARTITIONS)


def test_another_bound_is_refused(busy: Database, project: Project) -> None:
    """A partition that is there with another bound is no success."""
    busy.rows(
        "ALTER TABLE n ALTER id SET NOT NULL, ADD CHECK (k >= 0); ALTER TABLE n RENAME CONSTRAINT n_k_check TO p_k_check"
    )
    busy.rows("ALTER TABLE p ATTACH PARTITION n FOR VALUES FROM (100) TO (300)")
    revision(project, ATTACH, DETACH)

    with pytest.raises(Refused, match="nothing was changed") as caught:
        project.upgrade()

    assert [one.code for one in caught.value.findings] == ["operation-differs"]


@pytest.mark.parametrize("killed", [False, True], ids=["waiting", "killed"])
def test_detached_while_somebody_reads(busy: Database, project: Project, killed: bool) -> None:
    """A transaction that has read the parent is waited for, others go on; a killed run is finished by the next."""
    project.configure(lock_attempts="41")
    busy.rows("CREATE TABLE other PARTITION OF p FOR VALUES FROM (300) TO (400)")
    revision(
        project,
        "op.detach_partition('p', 'other')",
        "op.attach_partition('p', 'other', 'FOR VALUES FROM (300) TO (400)')",
    )
    before = catalog(busy)
    with busy.connect(autocommit=False) as reader, reader.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM p")
        with running(project, "upgrade", "head") as process:
            until(
                lambda: busy.value("SELECT bool_or(inhdetachpending) FROM pg_inherits WHERE inhparent = 'p'::regclass")
            )
            busy.rows("SET lock_timeout = '1s'; INSERT INTO p VALUES (50, 1, 'new')")
            if killed:
                process.kill()
            reader.commit()
            _, said = process.communicate(timeout=60)
    if killed:
        project.upgrade()
    else:
        assert process.returncode == 0, said

    assert [row[0] for row in busy.rows(PARTITIONS)] == ["p1"]
    assert busy.value("SELECT count(*) FROM pg_constraint WHERE conrelid = 'other'::regclass AND contype = 'c'") == 1

    project.downgrade("base")

    assert len(busy.rows(PARTITIONS)) == 2
    assert difference(before, catalog(busy)) == []


@pytest.mark.parametrize("statement", ["ADD CONSTRAINT", "CREATE UNIQUE INDEX", "VALIDATE"])
@pytest.mark.long
def test_killed_while_attaching_it_ends_as_if_undisturbed(
    new_database: Callable[[], Database], project: Project, monkeypatch: pytest.MonkeyPatch, statement: str
) -> None:
    """SIGKILL as soon as such a statement has been sent, then the same command again: the same catalog."""
    revision(project, ATTACH, DETACH)
    ends: list[Any] = []
    for kill in (False, True):
        database = new_database()
        monkeypatch.setenv("DATABASE_URL", database.url)
        database.rows(TABLES)
        if kill:
            with running(project, "upgrade", "head") as process:
                seen = """SELECT count(*) FROM pg_stat_activity
                          WHERE datname = current_database() AND query ~ %s AND pid <> pg_backend_pid()"""
                until(
                    lambda database=database, seen=seen: process.poll() is not None or database.value(seen, statement)
                )
                process.kill()
        project.upgrade()
        ends.append((catalog(database), database.rows(PARTITIONS)))

    assert difference(ends[0][0], ends[1][0]) == []
    assert ends[0][1] == ends[1][1]


# --- maintenance ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["'ix'", "None"])
def test_built_anew_and_nothing_is_left(empty: Database, project: Project, name: str) -> None:
    """The index has a new file; what an interrupted REINDEX had left is gone."""
    empty.rows(
        "CREATE TABLE t (id int PRIMARY KEY, k int, v text); INSERT INTO t SELECT n, n, 'x' FROM generate_series(1, 1000) n"
    )
    empty.rows("CREATE INDEX ix ON t (k)")
    broken_index(empty, "REINDEX INDEX CONCURRENTLY ix")
    file = empty.value("SELECT pg_relation_filenode('ix')")
    revision(project, f"op.reindex_concurrently('t', {name})\nop.analyze('t', ['k'])", "op.execute('SELECT 1')")

    project.upgrade()

    assert [row[:2] for row in only_index(empty)] == [("ix", True)]
    assert empty.value("SELECT pg_relation_filenode('ix')") != file
    assert empty.rows("SELECT attname FROM pg_stats WHERE tablename = 't'") == [("k",)]
