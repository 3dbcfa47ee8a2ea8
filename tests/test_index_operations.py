"""Indexes built, dropped and replaced while the table is in use: repeatable, proven, nothing left behind."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from mcp_planner_schema.guard import underway
from mcp_planner_schema.guard.findings import Broken, GuardError, Refused
from tests.catalog import catalog, difference
from tests.conftest import Database, Project
from tests.until import until

CREATE = "op.create_index_concurrently('ix', 't', ['k'])"
DROP = "op.drop_index_concurrently('ix', 't')"
INDEXES = """SELECT indexrelid::regclass::text, indisvalid, pg_get_indexdef(indexrelid) FROM pg_index
             WHERE indrelid = %s::regclass ORDER BY 1"""
JOURNAL = "SELECT revision, direction, place, operation, target, state FROM migration.journal ORDER BY 1, 2, 3"


@pytest.fixture
def busy(empty: Database) -> Database:
    """A database with a table t of 1,000 rows."""
    empty.rows("CREATE TABLE t (id int PRIMARY KEY, k int, v text)")
    empty.rows("INSERT INTO t SELECT n, n, 'v' || n FROM generate_series(1, 1000) n")
    return empty


def revision(project: Project, upgrade: str, downgrade: str, version: str = "001", **more: Any) -> None:
    """A revision that commits by itself."""
    project.revision(version, f"alter_t{version}", upgrade, downgrade, transaction="none", **more)


def only_index(database: Database, table: str = "t") -> list[tuple[Any, ...]]:
    """The table's indexes but its primary key."""
    return [row for row in database.rows(INDEXES, table) if "pkey" not in row[0]]


# --- create and drop --------------------------------------------------------------------------------------------------


def test_an_index_comes_and_goes_and_comes_again(busy: Database, project: Project) -> None:
    """Up, down and up again: the catalog is what it was each time, the journal has only the direction that holds."""
    revision(project, CREATE, DROP)
    before = catalog(busy)

    project.upgrade()
    built = catalog(busy)
    up = busy.rows(JOURNAL)
    project.downgrade("base")
    down = busy.rows(JOURNAL)
    gone = catalog(busy)
    project.upgrade()

    assert only_index(busy) == [("ix", True, "CREATE INDEX ix ON public.t USING btree (k)")]
    assert up == [("001", "upgrade", 1, "create_index_concurrently", "ix", "done")]
    assert down == [("001", "downgrade", 1, "drop_index_concurrently", "ix", "done")]
    assert busy.rows(JOURNAL) == up
    assert difference(before, gone) == []
    assert difference(built, catalog(busy)) == []


DEFINITIONS = {
    "expression": ("[sa.text('lower(v)')]", "", "USING btree (lower(v))"),
    "percent": ("['k']", "postgresql_where=sa.text(\"v LIKE '10%' AND k % 2 = 0\")",
                "USING btree (k) WHERE ((v ~~ '10%'::text) AND ((k % 2) = 0))"),
    "include": ("['k']", "postgresql_include=['v']", "USING btree (k) INCLUDE (v)"),
    "opclass": ("['v']", "postgresql_ops={'v': 'text_pattern_ops'}", "USING btree (v text_pattern_ops)"),
    "order": ("[sa.text('k DESC NULLS LAST'), 'v']", "", "USING btree (k DESC NULLS LAST, v)"),
    "collation": ("[sa.text('v COLLATE \"C\"')]", "", 'USING btree (v COLLATE "C")'),
    "nulls not distinct": ("['k']", "unique=True, postgresql_nulls_not_distinct=True", "USING btree (k) NULLS NOT DISTINCT"),
    "method": ("['k']", "postgresql_using='brin'", "USING brin (k)"),
    "storage": ("['k']", "postgresql_with={'fillfactor': 70}", "USING btree (k) WITH (fillfactor='70')"),
}  # fmt: skip


@pytest.mark.parametrize("what", DEFINITIONS)
def test_whatever_op_create_index_can_say(busy: Database, project: Project, what: str) -> None:
    """The index is the one described, and one that is there already is recognized by its meaning."""
    columns, more, shown = DEFINITIONS[what]
    revision(project, f"op.create_index_concurrently('ix', 't', {columns}, {more})", DROP)
    project.upgrade()
    oid = busy.value("SELECT 'ix'::regclass::oid")
    busy.rows("DELETE FROM alembic_version; DELETE FROM migration.journal")

    project.upgrade()

    ((name, valid, definition),) = only_index(busy)
    assert (name, valid, definition.partition(" ON public.t ")[2]) == ("ix", True, shown)
    assert busy.value("SELECT 'ix'::regclass::oid") == oid


@pytest.mark.parametrize(
    "other",
    [
        "CREATE UNIQUE INDEX ix ON t (k)", "CREATE INDEX ix ON t (k DESC)", "CREATE INDEX ix ON t (k) WHERE k > 0",
        "CREATE INDEX ix ON t USING hash (k)", "CREATE INDEX ix ON t (k) INCLUDE (v)",
        "CREATE TABLE other (k int); CREATE INDEX ix ON other (k)", "CREATE VIEW ix AS SELECT 1 AS one",
    ],
)  # fmt: skip
def test_another_thing_of_that_name_is_refused(busy: Database, project: Project, other: str) -> None:
    """Nothing is changed, the finding shows what is there."""
    revision(project, CREATE, DROP)
    busy.rows(other)
    before = catalog(busy)

    with pytest.raises(Refused, match="nothing was changed") as caught:
        project.upgrade()

    assert [one.code for one in caught.value.findings] == ["operation-differs"]
    assert difference(before, catalog(busy)) == []


def broken_index(database: Database, sql: str) -> None:
    """An INVALID index, as a statement that was cancelled leaves it: it waits for a transaction, and is killed."""
    with database.connect(autocommit=False) as older, older.cursor() as cursor:
        cursor.execute("UPDATE t SET v = v WHERE id = 1")
        with database.connect() as builder, builder.cursor() as building:
            building.execute("SET statement_timeout = '100ms'")
            with pytest.raises(Exception, match="timeout"):
                building.execute(sql)


@pytest.mark.parametrize(
    "sql",
    ["CREATE INDEX CONCURRENTLY ix ON t (k)", "CREATE UNIQUE INDEX CONCURRENTLY ix ON t (v)"],
    ids=["the same", "another"],
)
def test_an_invalid_leftover_is_built_anew(busy: Database, project: Project, sql: str) -> None:
    """What an interrupted build has left is dropped, and the wanted index built."""
    revision(project, CREATE, DROP)
    broken_index(busy, sql)
    assert [row[1] for row in only_index(busy)] == [False]

    project.upgrade()

    assert only_index(busy) == [("ix", True, "CREATE INDEX ix ON public.t USING btree (k)")]


@pytest.mark.parametrize("name", ["ix", "ix_" + "n" * 60])
def test_what_a_reindex_has_left_goes_too(busy: Database, project: Project, name: str) -> None:
    """The INVALID <name>_ccnew of an interrupted REINDEX CONCURRENTLY is dropped, whatever the name was cut to."""
    busy.rows(f"CREATE INDEX {name} ON t (k)")
    broken_index(busy, f"REINDEX INDEX CONCURRENTLY {name[:63]}")
    assert len(only_index(busy)) == 2
    revision(project, f"op.create_index_concurrently('{name[:63]}', 't', ['k'])", DROP)

    project.upgrade()

    assert [row[:2] for row in only_index(busy)] == [(name[:63], True)]


def test_duplicates_are_shown_before_anything_begins(busy: Database, project: Project) -> None:
    """The refusal counts them and names some by their primary key; nulls and rows outside a partial index do not count."""
    busy.rows("UPDATE t SET k = 7 WHERE id IN (100, 101, 102); UPDATE t SET k = 9 WHERE id = 103")
    busy.rows("UPDATE t SET k = NULL WHERE id > 990")
    revision(
        project,
        "op.create_index_concurrently('ix', 't', ['k'], unique=True, postgresql_where=sa.text('id <> 9'))",
        DROP,
    )

    with pytest.raises(Refused, match="nothing was changed") as caught:
        project.upgrade()

    (found,) = caught.value.findings
    assert (found.code, found.values["count"]) == ("operation-rows", "4 rows")
    assert found.values["sample"] == "id: 7 and 100"
    assert only_index(busy) == []

    busy.rows("UPDATE t SET k = id WHERE k = 7")
    project.upgrade()

    assert [row[:2] for row in only_index(busy)] == [("ix", True)]


def test_an_index_that_was_never_there_is_not_gone_already(busy: Database, project: Project) -> None:
    """A wrong name is a finding, and not a success as with IF EXISTS."""
    revision(project, DROP, CREATE)

    with pytest.raises(Refused) as caught:
        project.upgrade()

    assert [one.code for one in caught.value.findings] == ["operation-missing"]


def test_an_ordinary_owner_may_do_it(busy: Database, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither superuser nor owner of the database: it is enough to own the tables and to have a place for the guard."""
    role = f"owner_{busy.name}"
    busy.rows(
        f"CREATE ROLE {role} LOGIN; ALTER TABLE t OWNER TO {role}; GRANT CREATE ON SCHEMA public TO {role}; "
        f"CREATE SCHEMA migration AUTHORIZATION {role}"
    )
    revision(project, "op.create_index_concurrently('ix', 't', ['k'], unique=True)", DROP)
    try:
        with monkeypatch.context() as patch:
            patch.setenv("DATABASE_URL", busy.url.replace("postgres@", f"{role}@"))
            project.upgrade()
            project.downgrade("base")
            project.upgrade()
        assert [row[:2] for row in only_index(busy)] == [("ix", True)]
    finally:
        busy.rows(f"DROP OWNED BY {role}; DROP ROLE {role}")


# --- beside others ----------------------------------------------------------------------------------------------------


@contextmanager
def running(project: Project, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The alembic command, running beside the test; killed at the end if it still runs."""
    process = subprocess.Popen(
        [sys.executable, "-m", "alembic", *arguments], cwd=project.folder, text=True, stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


WAITS = (
    "SELECT count(*) FROM pg_stat_progress_create_index WHERE phase LIKE 'waiting%%' AND datname = current_database()"
)


def test_a_long_transaction_is_waited_for_and_stops_nobody(busy: Database, project: Project) -> None:
    """While the build waits for an old transaction, others write without waiting; then it becomes valid."""
    revision(project, CREATE, DROP)
    with busy.connect(autocommit=False) as older, older.cursor() as cursor:
        cursor.execute("UPDATE t SET v = v WHERE id = 1")
        with running(project, "upgrade", "head") as process:
            until(lambda: busy.value(WAITS))
            busy.rows("SET lock_timeout = '100ms'; INSERT INTO t VALUES (2000, 2000, 'new')")
            older.commit()
            _, said = process.communicate(timeout=60)

    assert process.returncode == 0, said
    assert [row[:2] for row in only_index(busy)] == [("ix", True)]


KILLED: dict[str, tuple[str, str]] = {
    "create": ("SELECT 1", CREATE),
    "unique": ("SELECT 1", "op.create_index_concurrently('ix', 't', ['k'], unique=True)"),
    "replace": ("CREATE INDEX ix ON t (v)", "op.replace_index_concurrently('ix', 't', ['k', 'v'])"),
    "drop": ("CREATE INDEX ix ON t (v)", DROP),
}


@pytest.mark.parametrize("what", KILLED)
@pytest.mark.long
def test_killed_and_repeated_it_ends_as_if_undisturbed(
    new_database: Callable[[], Database], project: Project, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """SIGKILL while it waits for an old transaction, then the same command again, at once: the same catalog."""
    before, operation = KILLED[what]
    revision(project, operation, "op.execute('SELECT 1')")
    ends = []
    for kill in (False, True):
        database = new_database()
        monkeypatch.setenv("DATABASE_URL", database.url)
        database.rows("CREATE TABLE t (id int PRIMARY KEY, k int, v text)")
        database.rows("INSERT INTO t SELECT n, n, 'v' || n FROM generate_series(1, 1000) n")
        database.rows(before)
        if kill:
            with database.connect(autocommit=False) as older, older.cursor() as cursor:
                cursor.execute("UPDATE t SET v = v WHERE id = 1")
                with running(project, "upgrade", "head") as process:
                    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype IN ('virtualxid', 'transactionid')"
                    until(lambda database=database, waiting=waiting: database.value(waiting))
                    process.kill()
            # The server may still be at work for the dead client.
        project.upgrade()
        ends.append((catalog(database), only_index(database)))

    assert difference(ends[0][0], ends[1][0]) == []
    assert ends[0][1] == ends[1][1]
    assert all(row[1] for row in ends[1][1])


# --- replace ----------------------------------------------------------------------------------------------------------


def test_there_is_a_valid_index_all_the_time(busy: Database, project: Project) -> None:
    """A watcher sees a valid ix at every moment, first the old one, then the new one, and nothing is left of the old."""
    busy.rows("CREATE INDEX ix ON t (v)")
    revision(project, "op.replace_index_concurrently('ix', 't', ['k'], postgresql_include=['v'])",
             "op.replace_index_concurrently('ix', 't', ['v'])")  # fmt: skip
    before = catalog(busy)
    seen: list[Any] = []
    stop = threading.Event()

    def watch() -> None:
        with busy.connect() as connection, connection.cursor() as cursor:
            while not stop.is_set():
                cursor.execute("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('ix')")
                seen.extend(cursor.fetchall() or [(None,)])

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        project.upgrade()
    finally:
        stop.set()
        watcher.join()

    assert set(seen) == {(True,)}
    assert only_index(busy) == [("ix", True, "CREATE INDEX ix ON public.t USING btree (k) INCLUDE (v)")]

    project.downgrade("base")

    assert difference(before, catalog(busy)) == []


@pytest.mark.parametrize(
    ("sql", "code"),
    [
        ("SELECT 1", "operation-missing"),
        ("ALTER TABLE t ADD CONSTRAINT ix UNIQUE (v)", "operation-unsupported"),
        ("CREATE INDEX ix ON t (v); CREATE INDEX ix_old ON t (v)", "operation-differs"),
    ],
)
def test_what_cannot_be_replaced_is_refused(busy: Database, project: Project, sql: str, code: str) -> None:
    """No index of that name, one that serves a constraint, or the name of the old one taken: nothing is changed."""
    busy.rows(sql)
    revision(project, "op.replace_index_concurrently('ix', 't', ['k'])", "op.execute('SELECT 1')")
    before = catalog(busy)

    with pytest.raises(Refused, match="nothing was changed") as caught:
        project.upgrade()

    assert [one.code for one in caught.value.findings] == [code]
    assert difference(before, catalog(busy)) == []


# --- partitioned tables -----------------------------------------------------------------------------------------------

PARTITIONED = """
CREATE TABLE t (id int, k int, v text) PARTITION BY RANGE (id);
CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (100);
CREATE TABLE t2 PARTITION OF t FOR VALUES FROM (100) TO (200) PARTITION BY LIST (k);
CREATE TABLE t2a PARTITION OF t2 FOR VALUES IN (1);
CREATE TABLE t2b PARTITION OF t2 DEFAULT;
CREATE TABLE {long} PARTITION OF t FOR VALUES FROM (200) TO (300);
INSERT INTO t SELECT n, n, 'x' FROM generate_series(0, 299) n
""".format(long="t3_" + "x" * 58)
STATE = """SELECT count(*), count(*) FILTER (WHERE indisvalid), count(*) FILTER (WHERE c.relispartition)
           FROM pg_partition_tree('ix') tree JOIN pg_index ON indexrelid = relid JOIN pg_class c ON c.oid = indexrelid"""


@pytest.mark.parametrize("arguments", ["['k']", "['id', 'k'], unique=True", "['v'], postgresql_where=sa.text('k > 1')"])
def test_partitions_get_theirs_one_by_one(empty: Database, project: Project, arguments: str) -> None:
    """All levels are valid and attached at the end; up, down and up again."""
    empty.rows(PARTITIONED)
    revision(project, f"op.create_index_concurrently('ix', 't', {arguments})", DROP)
    before = empty.rows("SELECT count(*) FROM pg_index")

    project.upgrade()
    once = empty.rows(STATE)
    project.downgrade("base")
    between = empty.rows("SELECT count(*) FROM pg_index WHERE indrelid::regclass::text ~ '^t'")
    project.upgrade()

    assert before
    assert once == empty.rows(STATE) == [(6, 6, 5)]
    assert between == [(0,)]


def test_a_partition_that_appears_or_goes_meanwhile(empty: Database, project: Project) -> None:
    """While the first one is built: a new one has its index from the beginning, a dropped one is no more waited for."""
    empty.rows(PARTITIONED)
    revision(project, CREATE, DROP)
    with empty.connect(autocommit=False) as older, older.cursor() as cursor:
        # Its snapshot is waited for; a lock on a partition would stop what follows.
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT 1")
        with running(project, "upgrade", "head") as process:
            until(lambda: empty.value(WAITS))
            empty.rows("CREATE TABLE t4 PARTITION OF t FOR VALUES FROM (300) TO (400)")
            empty.rows("ALTER TABLE t DETACH PARTITION t2")
            empty.rows("DROP TABLE t3_" + "x" * 58)
            older.commit()
            _, said = process.communicate(timeout=60)

    assert process.returncode == 0, said
    assert empty.rows(STATE) == [(3, 3, 2)]


def test_killed_among_the_partitions_it_goes_on(empty: Database, project: Project) -> None:
    """SIGKILL while a partition in the middle is built: repeated, it builds what is missing and nothing twice."""
    empty.rows(PARTITIONED)
    revision(project, CREATE, DROP)
    with empty.connect(autocommit=False) as older, older.cursor() as cursor:
        cursor.execute("UPDATE t2b SET v = v WHERE id = 101")
        with running(project, "upgrade", "head") as process:
            until(lambda: empty.value(WAITS))
            process.kill()
    first = empty.value("SELECT 't1_ix'::regclass::oid")

    project.upgrade()

    assert empty.rows(STATE) == [(6, 6, 5)]
    assert empty.value("SELECT 't1_ix'::regclass::oid") == first


def test_a_partitioned_index_is_replaced_twice(empty: Database, project: Project) -> None:
    """The partitions' indexes are named after the parent's each time, so nothing is in the way of the next."""
    empty.rows(PARTITIONED)
    replace = "op.replace_index_concurrently('ix', 't', ['{}'])"
    revision(project, CREATE, DROP)
    revision(project, replace.format("v"), replace.format("k"), "002")
    names = "SELECT relid::regclass::text, pg_get_indexdef(relid) FROM pg_partition_tree('ix') ORDER BY 1"
    project.upgrade("001")
    before = empty.rows(names)

    project.upgrade()
    replaced = empty.rows(names)
    project.downgrade("001")

    assert [row[0] for row in replaced] == [row[0] for row in before]
    assert all(row[1].endswith("(v)") for row in replaced)
    assert empty.rows(names) == before
    assert empty.rows(STATE) == [(6, 6, 5)]
    assert not empty.rows("SELECT relname FROM pg_class WHERE relname ~ '_(old|new)$'")


# --- offline, and without the guard -----------------------------------------------------------------------------------


def test_offline_it_is_the_plain_statement(busy: Database, project: Project) -> None:
    """--sql writes it outside of the transaction, without a question, and psql can run it."""
    busy.rows("CREATE INDEX other ON t (v)")
    body = f"{CREATE}\nop.replace_index_concurrently('other', 't', ['v', 'k'])"
    revision(project, body, DROP)

    written = project.alembic("upgrade", "head", "--sql")

    (project.folder / "up.sql").write_text(written.stdout)
    assert written.returncode == 0, written.stderr
    ran = busy.psql(project.folder / "up.sql")
    assert ran.returncode == 0, ran.stderr
    assert [row[0] for row in only_index(busy)] == ["ix", "other"]
    assert only_index(busy)[1][2].endswith("(v, k)")


def test_an_error_of_the_author_is_told(busy: Database, project: Project) -> None:
    """A column that does not exist is PostgreSQL's error, and nothing is left in the journal that says done."""
    revision(project, "op.create_index_concurrently('ix', 't', ['nowhere'])", DROP)

    with pytest.raises(GuardError, match="nowhere"):
        project.upgrade()

    assert [row[-1] for row in busy.rows(JOURNAL)] == ["begun"]


def test_how_far_it_is_is_told(
    busy: Database, project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """While the index waits for an older transaction, a line says in which phase it is and for how many sessions."""
    monkeypatch.setattr(underway, "AFTER", 0.2)
    monkeypatch.setattr(underway, "EVERY", 0.2)
    revision(project, CREATE, DROP)
    thread = threading.Thread(target=project.upgrade)

    with busy.connect(autocommit=False) as older, older.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM t")
        cursor.execute("INSERT INTO t VALUES (1001)")
        thread.start()
        said = until(lambda: (text := capsys.readouterr().err) and "index ix on t: " in text and text)
        older.rollback()
    thread.join(30)

    assert "001  index ix on t: waiting for writers before build, 0 of 1 sessions waited for" in said
    assert only_index(busy)[0][1] is True


def test_an_index_build_has_a_wall_clock_limit(busy: Database, project: Project) -> None:
    """online_timeout ends what nobody waits behind; the same command later builds it."""
    project.configure(online_timeout="300ms")
    revision(project, CREATE, DROP)

    with busy.connect(autocommit=False) as older, older.cursor() as cursor:
        cursor.execute("INSERT INTO t VALUES (1001)")
        late = project.alembic("upgrade", "head")
    again = project.alembic("upgrade", "head")

    assert late.returncode == 1
    assert "statement timeout" in late.stderr
    assert again.returncode == 0, again.stderr
    assert only_index(busy) == [("ix", True, "CREATE INDEX ix ON public.t USING btree (k)")]


def test_what_a_later_operation_has_dropped_is_not_missed_by_an_earlier_one(empty: Database, project: Project) -> None:
    """Replaced and then dropped in one revision, which is stopped behind both: the next run goes on behind both."""
    empty.rows("CREATE TABLE t (id int, k int)")
    empty.rows("CREATE INDEX tk ON t (k)")
    body = ("op.replace_index_concurrently('tk', 't', ['k', 'id'])\nop.drop_index_concurrently('tk', 't')\n"
            "op.execute('SELECT 1 / (SELECT count(*) FROM allowed)')")  # fmt: skip
    empty.rows("CREATE TABLE allowed (id int)")
    project.revision("001", "alter_t", body, 'op.execute("SELECT 1")', transaction="none", reversible="lossless")
    with pytest.raises(Broken, match="division by zero"):
        project.upgrade()
    empty.rows("INSERT INTO allowed VALUES (1)")

    project.upgrade()

    assert empty.value("SELECT to_regclass('tk')") is None
    assert empty.value("SELECT version_num FROM alembic_version") == "001"


@pytest.mark.parametrize("edited", [False, True], ids=["replaced", "edited"])
def test_what_a_later_operation_has_replaced_is_no_other_thing(empty: Database, project: Project, edited: bool) -> None:
    """Built and then replaced in one revision, which is stopped behind both: the next run goes on; not where its text is new."""
    empty.rows("CREATE TABLE t (id int PRIMARY KEY, k int, v text); CREATE TABLE allowed (id int)")
    after = "\nop.execute('SELECT 1 / (SELECT count(*) FROM allowed)')"
    replace = "\nop.replace_index_concurrently('ix', 't', ['k', 'id'])"
    revision(project, CREATE + ("" if edited else replace) + after, DROP)
    with pytest.raises(Broken, match="division by zero"):
        project.upgrade()
    empty.rows("INSERT INTO allowed VALUES (1)")

    if edited:
        revision(project, CREATE.replace("'k'", "'v'") + after, DROP)
        with pytest.raises(Refused, match=r"operation-differs"):
            project.upgrade()
    else:
        project.upgrade()

    assert only_index(empty)[0][2].endswith("(k)" if edited else "(k, id)")
