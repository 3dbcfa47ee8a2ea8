"""The trial: what a downgrade would do is found by doing it, and a body that would make that final is stopped."""

from __future__ import annotations

import logging

import pytest

from mcp_planner_schema.guard import tripwire
from mcp_planner_schema.guard.findings import Broken, Busy, GuardError, Refused
from tests.catalog import catalog, difference, kept
from tests.conftest import Database, Project
from tests.until import until

SETUP = "CREATE TABLE a (id int PRIMARY KEY, v text); INSERT INTO a SELECT n, 'v' FROM generate_series(1, 5) n"


def applied(project: Project, downgrade: str, *, setup: str = SETUP, reversible: str = "stash", **more: str) -> None:
    """A history of one revision: applied, with this Python as its downgrade."""
    project.revision("001", "create_a", f"op.execute({setup!r})", downgrade, reversible=reversible, **more)
    project.upgrade()


def unchanged(database: Database) -> bool:
    """Whether table, rows and version are as the upgrade left them, and nothing was kept."""
    return (
        database.value("SELECT count(v) FROM a") == 5
        and database.value("SELECT version_num FROM alembic_version") == "001"
        and database.value("SELECT count(*) FROM migration.stash") == 0
        and database.value("SELECT count(*) FROM migration.commit_guard") == 0
    )


RAW = "driver = op.get_bind().connection.dbapi_connection\ncursor = op.get_bind().connection.cursor()\n"
ENDINGS = {
    "COMMIT": ("op.drop_table('a')\nop.execute('COMMIT')", "commits"),
    "END": ("op.drop_table('a')\nop.execute('END')", "commits"),
    "COMMIT AND CHAIN": ("op.drop_table('a')\nop.execute('COMMIT AND CHAIN')", "commits"),
    "SQLAlchemy's commit": ("op.drop_table('a')\nop.get_bind().commit()", "commits"),
    "the driver's commit": (RAW + "cursor.execute('DROP TABLE a')\ndriver.commit()", "commits"),
    "in one string": ("op.execute('DROP TABLE a; COMMIT; SELECT 1')", "commits"),
    "PREPARE TRANSACTION": ("op.drop_table('a')\nop.execute(\"PREPARE TRANSACTION 'p'\")", "commits"),
    "a commit whose error is swallowed": (
        "try:\n    op.get_bind().commit()\nexcept Exception:\n    pass\nop.drop_table('a')", "",
    ),
    "the driver's commit, its error swallowed": (
        RAW + "try:\n    driver.commit()\nexcept Exception:\n    pass\ncursor.execute('DROP TABLE a')", "rolls its transaction",
    ),
    "SET CONSTRAINTS": ("op.execute('SET CONSTRAINTS ALL IMMEDIATE')\nop.drop_table('a')", "SET CONSTRAINTS ALL IMMEDIATE"),
    "autocommit_block": (
        "with op.get_context().autocommit_block():\n    op.drop_table('a')", "commits in the middle and destroys table a",
    ),
    "ROLLBACK": ("op.execute('ROLLBACK')\nop.drop_table('a')", "rolls its transaction back"),
    "ROLLBACK at the end": ("op.drop_table('a')\nop.execute('ROLLBACK')", "rolls its transaction back"),
    "ABORT WORK AND CHAIN": ("op.execute('ABORT WORK AND CHAIN')\nop.drop_table('a')", "rolls its transaction back"),
    "ROLLBACK first in a string": ("op.execute('rollback; DROP TABLE a')", "rolls its transaction back"),
    "ROLLBACK behind comments": (
        "op.execute('''SELECT '/*'; /* it's /* nested */ */ -- x\\n rollback; DROP TABLE a''')", "rolls its transaction back",
    ),
    "SQLAlchemy's rollback": ("op.get_bind().rollback()\nop.drop_table('a')", "rolls its transaction back"),
    "SQLAlchemy's rollback at the end": ("op.drop_table('a')\nop.get_bind().rollback()", "rolls its transaction back"),
    "the driver's rollback": (RAW + "driver.rollback()\ncursor.execute('DROP TABLE a')\ndriver.commit()", "rolls its trans"),
    "ROLLBACK beneath SQLAlchemy": (RAW + "cursor.execute(b'rollback; DROP TABLE a')", "rolls its transaction back"),
    "a procedure that commits": ("op.execute('CALL p()')", "invalid transaction termination"),
    "a DO block that commits": ("op.execute('DO $$ BEGIN DROP TABLE a; COMMIT; END $$')", "invalid transaction termination"),
    "VACUUM": ("op.drop_table('a')\nop.execute('VACUUM')", "VACUUM cannot run inside a transaction block"),
    "CONCURRENTLY": (
        "op.execute('DROP INDEX CONCURRENTLY a_v')\nop.drop_table('a')",
        "DROP INDEX CONCURRENTLY cannot run inside a transaction block",
    ),
}  # fmt: skip


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_body_that_ends_its_transaction_does_nothing(empty: Database, project: Project, ending: str) -> None:
    """However a body ends its transaction, nothing has happened, and the refusal gives the reason and exit code 3."""
    body, reason = ENDINGS[ending]
    procedure = "CREATE PROCEDURE p() LANGUAGE plpgsql AS $$ BEGIN DROP TABLE a; COMMIT; END $$"
    many = "autocommit" in ending
    applied(
        project,
        body,
        setup=f"{SETUP}; CREATE INDEX a_v ON a (v); {procedure}",
        transaction="none" if many else "single",
    )
    before = catalog(empty)

    with pytest.raises(GuardError) as refused:
        project.downgrade("base")

    assert difference(before, catalog(empty)) == []
    assert unchanged(empty)
    assert [one.code for one in refused.value.findings] == ["downgrade-untried"]  # type: ignore[attr-defined]
    assert refused.value.code == 3
    assert reason in refused.value.message
    assert empty.rows("SELECT gid FROM pg_prepared_xacts") == []


@pytest.mark.parametrize(
    "statement",
    [
        "rollback",
        " ROLLBACK ;",
        "select 1;rollback",
        "-- c\nabort",
        "/* /* x */ ' */ rollback work",
        "select 'a''b' ; rollback",
        "select e'\\'' ; rollback; select ''",
        "select '\\'; rollback; select '",  # standard_conforming_strings decides; both readings are looked at
        "select $x$ ; $x$; rollback",
        'select "a;b" ; rollback and chain',
        "select a$1$b; rollback; --$1$",
        "rollback transaction",
    ],
)
def test_a_rollback_is_seen(statement: str) -> None:
    """A rollback that is a statement of its own is found behind comments, texts and quoted names."""
    assert tripwire.rolls_back(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "rollback to savepoint x",
        "ROLLBACK WORK TO x",
        "comment on table a is 'kept; rollback; of it'",
        "comment on table a is E'it\\'s; rollback'",
        "create procedure p() language plpgsql as $$ begin rollback; end $$",
        'drop table "a; rollback"',
        "-- rollback\nselect 1",
        "/* ; rollback */ select 1",
        "alter table a drop column rollback",
        "select 'unended; rollback",
    ],
)
def test_other_rollbacks_are_let_through(statement: str) -> None:
    """A savepoint's rollback, and the word in texts, comments, bodies and names, stop nobody."""
    assert not tripwire.rolls_back(statement)


def test_dropping_an_index_concurrently_works(empty: Database, project: Project) -> None:
    """A lossless downgrade with autocommit_block() and CONCURRENTLY is tried without both, then runs with both."""
    applied(
        project,
        "with op.get_context().autocommit_block():\n    op.execute('DROP INDEX CONCURRENTLY a_v')\n"
        "    op.execute('REINDEX (CONCURRENTLY) TABLE a')\nop.drop_constraint('a_c', 'a')",
        setup=f"{SETUP}; CREATE INDEX a_v ON a (v); ALTER TABLE a ADD CONSTRAINT a_c CHECK (id > 0)",
        reversible="lossless",
        transaction="none",
    )

    project.downgrade("base")

    assert empty.rows("SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = 'a'::regclass") == [("a_pkey",)]
    assert empty.rows("SELECT * FROM alembic_version") == []
    assert empty.value("SELECT count(*) FROM migration.stash") == 0


@pytest.mark.parametrize("body", ["op.drop_table('a')", "op.drop_column('a', 'v')"])
def test_a_lossless_downgrade_that_destroys_is_refused(empty: Database, project: Project, body: str) -> None:
    """What the header calls lossless and the trial sees destroying is refused, naming what would go."""
    applied(project, body, reversible="lossless")

    with pytest.raises(Refused) as refused:
        project.downgrade("base")

    assert [one.code for one in refused.value.findings] == ["reversible-false"]
    assert refused.value.findings[0].values["objects"] in ("table a", "column a.v")
    assert unchanged(empty)


BIG = f"{SETUP}; ALTER TABLE a ADD w varchar(50) DEFAULT 'w' NOT NULL; CREATE TABLE c (a int REFERENCES a ON DELETE CASCADE); " \
    "INSERT INTO c VALUES (1), (2); CREATE TABLE empty (v text)"  # fmt: skip
A = {number: (number, "v", "w") for number in range(1, 6)}
C = [(1,), (2,)]
# The body, what it is said to harm, and the old rows that are kept: those that are others afterwards, and no more.
HARMS: dict[str, tuple[str, str, dict[str, list[tuple[object, ...]]]]] = {
    "DELETE": ("DELETE FROM a WHERE id > 2", "rows of a (3 deleted)", {"a": [A[3], A[4], A[5]]}),
    "UPDATE": ("UPDATE a SET v = NULL WHERE id = 1", "rows of a (1 changed)", {"a": [A[1]]}),
    "UPDATE to the same": ("UPDATE a SET v = 'v'", "rows of a (5 changed)", {"a": []}),
    "both": (
        "DELETE FROM a WHERE id = 5; UPDATE a SET v = 'x'", "rows of a (1 deleted, 4 changed)", {"a": [*A.values()]},
    ),
    "DELETE and INSERT": (
        "DELETE FROM a WHERE id > 3; INSERT INTO a VALUES (4, 'v', 'w'), (6, 'v', 'w')", "rows of a (2 deleted)", {"a": [A[5]]},
    ),
    "TRUNCATE": ("TRUNCATE a CASCADE", "rows of a (emptied), c (emptied)", {"a": [*A.values()], "c": C}),
    "DELETE, then TRUNCATE": ("DELETE FROM c; TRUNCATE c", "rows of c (2 deleted, emptied)", {"c": C}),
    "TRUNCATE and filled again": ("TRUNCATE c; INSERT INTO c VALUES (1), (3)", "rows of c (written anew)", {"c": [(2,)]}),
    "by a foreign key": (
        "DELETE FROM a WHERE id = 1", "rows of a (1 deleted), c (1 deleted)", {"a": [A[1]], "c": [(1,)]},
    ),
    "narrower": (
        "ALTER TABLE a ALTER v TYPE varchar(2) USING left(v || id, 2)",
        "rows of a (v turned from text into character varying(2))", {"a": [*A.values()]},
    ),
    "narrower, and nothing cut": (
        "ALTER TABLE a ALTER v TYPE varchar(2)", "rows of a (v turned from text into character varying(2))", {"a": []},
    ),
    "shorter": (
        "ALTER TABLE a ALTER w TYPE varchar(10)",
        "rows of a (w turned from character varying(50) into character varying(10))", {"a": []},
    ),
    "the same type, other values": (
        "ALTER TABLE a ALTER v TYPE text USING ''", "rows of a (values of v written anew)", {"a": [*A.values()]},
    ),
    "in a function": ("DO $$ BEGIN EXECUTE 'DEL' || 'ETE FROM c'; END $$", "rows of c (2 deleted)", {"c": C}),
    "under a stronger lock": ("LOCK TABLE c; DELETE FROM c WHERE a = 2", "rows of c (1 deleted)", {"c": [(2,)]}),
    "with a column dropped": (
        "DELETE FROM c; ALTER TABLE a DROP v", "rows of c (2 deleted)",
        {"a": [(number, "v") for number in A], "c": C},
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", HARMS)
def test_a_lossless_downgrade_that_harms_rows_is_refused(empty: Database, project: Project, what: str) -> None:
    """Rows that it deletes, changes or writes anew are named by table and number, and all are still there."""
    body, said, _ = HARMS[what]
    applied(project, f"op.execute({body!r})", setup=BIG, reversible="lossless")
    before = empty.rows("SELECT a.*, c.* FROM a LEFT JOIN c ON c.a = a.id ORDER BY id")

    with pytest.raises(Refused) as refused:
        project.downgrade("base")

    (found,) = refused.value.findings
    assert found.code == "reversible-false"
    assert found.values["objects"].endswith(said)
    assert ("column a.v" in found.values["objects"]) is (what == "with a column dropped")
    assert empty.rows("SELECT a.*, c.* FROM a LEFT JOIN c ON c.a = a.id ORDER BY id") == before
    assert unchanged(empty)


@pytest.mark.parametrize("what", HARMS)
def test_rows_of_a_table_that_stays_are_kept_where_they_change(empty: Database, project: Project, what: str) -> None:
    """The downgrade runs; in the stash are the rows that are others now, with their old values, and no others."""
    body, _, rows = HARMS[what]
    applied(project, f"op.execute({body!r})", setup=BIG)

    project.downgrade("base")

    found = {table: empty.rows(f"SELECT * FROM {place} ORDER BY 1") for table, place in kept(empty).items()}
    # Behind the columns stands what was left in the row's place.
    assert {table: [row[: len(next(iter(rows[table]), ()))] for row in some] for table, some in found.items()} == rows
    assert empty.rows("SELECT * FROM alembic_version") == []


KEYLESS = {
    "UPDATE": ("UPDATE c SET a = 3 WHERE a = 1", "rows of c (1 changed)"),
    "UPDATE and DELETE": ("DELETE FROM c WHERE a = 2; UPDATE c SET a = 3", "rows of c (1 deleted, 1 changed)"),
    "another type": ("ALTER TABLE c ALTER a TYPE bigint USING a", "rows of c (a turned from integer into bigint)"),
    "other values": ("ALTER TABLE c ALTER a TYPE int USING a + 1", "rows of c (values of a written anew)"),
}


@pytest.mark.parametrize("what", KEYLESS)
def test_changed_rows_without_a_key_are_refused(empty: Database, project: Project, what: str) -> None:
    """Where no key says which row a changed one was, the downgrade is refused by table and number, and all are still there."""
    body, said = KEYLESS[what]
    applied(project, f"op.execute({body!r})", setup=BIG)

    with pytest.raises(Refused) as refused:
        project.downgrade("base")

    assert [(one.code, one.values["objects"]) for one in refused.value.findings] == [("rows-not-kept", said)]
    assert empty.rows("SELECT * FROM c ORDER BY a") == C
    assert unchanged(empty)


def test_a_revision_without_header_is_refused_too(empty: Database, project: Project) -> None:
    """Where headers are optional, rows that cannot be kept are named all the same."""
    project.configure(headers="optional")
    setup = SETUP.replace(" PRIMARY KEY", "")
    file = project.revision("001", "create_a", f"op.execute({setup!r})", "op.execute('UPDATE a SET v = 1')")
    file.write_text(file.read_text().split('"""\n', 1)[1])
    project.upgrade()

    with pytest.raises(Refused, match="rows-not-kept"):
        project.downgrade("base")

    assert unchanged(empty)


@pytest.mark.parametrize(
    "body",
    [
        "INSERT INTO a VALUES (6)",
        "CREATE INDEX ON a (v); ALTER TABLE a ADD CHECK (id > 0), ALTER v SET DEFAULT 'x', ALTER w DROP NOT NULL",
        "ALTER TABLE a ALTER w TYPE varchar(60)",
        "ALTER TABLE a ALTER w TYPE text",
        "ALTER TABLE a ADD u uuid DEFAULT gen_random_uuid()",
        "ALTER TABLE other SET UNLOGGED; CLUSTER other USING other_pkey",
        "TRUNCATE empty",
        "ALTER TABLE empty ALTER v TYPE int USING 1",
        "SAVEPOINT s; DELETE FROM a; ROLLBACK TO SAVEPOINT s; RELEASE SAVEPOINT s",
        "DELETE FROM a WHERE id > 100",
        "SELECT * FROM a FOR UPDATE",
        "CREATE TABLE new (n int); INSERT INTO new VALUES (1); UPDATE new SET n = 2; TRUNCATE new",
        "UPDATE alembic_version SET version_num = version_num",
    ],
)
def test_a_downgrade_that_harms_no_row_passes(empty: Database, project: Project, body: str) -> None:
    """Rows added, indexes, constraints, defaults, wider types and what was rolled back again lose nothing."""
    setup = f"{SETUP}; ALTER TABLE a ADD w varchar(50) DEFAULT 'w' NOT NULL; CREATE TABLE empty (v text); " \
        "CREATE TABLE other AS SELECT * FROM a; ALTER TABLE other ADD PRIMARY KEY (id)"  # fmt: skip
    applied(project, f"op.execute({body!r})", setup=setup, reversible="lossless")

    project.downgrade("base")

    assert empty.rows("SELECT * FROM alembic_version") == []
    assert empty.value("SELECT count(*) FROM a WHERE v = 'v' AND w = 'w' OR id = 6") >= 5


@pytest.mark.parametrize("second", ["DELETE FROM a WHERE id = 1", "TRUNCATE a", "UPDATE a SET v = 'x'"])
def test_a_real_run_that_harms_more_than_its_trial_is_undone(empty: Database, project: Project, second: str) -> None:
    """Rows that only the real run touches are found before its COMMIT."""
    applied(project, f"runs.append(1)\nif len(runs) == 2:\n    op.execute({second!r})", more="runs = []")

    with pytest.raises(Refused, match="changes or deletes more rows than in its trial: a"):
        project.downgrade("base")

    assert unchanged(empty)


def test_without_counters_nothing_is_believed(empty: Database, project: Project) -> None:
    """A server that counts no rows cannot show what a body deletes: a body that writes rows is refused."""
    applied(project, "op.execute('DELETE FROM a')")
    empty.rows(f"ALTER DATABASE {empty.name} SET track_counts = off")

    with pytest.raises(Refused, match="track_counts = off"):
        project.downgrade("base")

    assert unchanged(empty)


@pytest.mark.parametrize("place", ["001", "002", "003"])
def test_forward_only_anywhere_refuses_the_whole_way(empty: Database, project: Project, place: str) -> None:
    """One forward-only revision in the range refuses the whole downgrade before its first step."""
    for version in ("001", "002", "003"):
        project.revision(
            version, f"create_t{version}", f"op.execute('CREATE TABLE t{version} (id int)')", f"op.drop_table('t{version}')",
            reversible="forward-only: rows of two tables were merged" if version == place else "stash",
        )  # fmt: skip
    project.upgrade()

    with pytest.raises(Refused) as refused:
        project.downgrade("base")

    assert [(one.code, one.revision) for one in refused.value.findings] == [("forward-only", place)]
    assert empty.rows("SELECT version_num FROM alembic_version") == [("003",)]
    assert empty.value("SELECT count(*) FROM migration.history WHERE direction = 'downgrade'") == 0


@pytest.mark.parametrize(
    "body",
    [
        "op.execute('DROP SCHEMA migration CASCADE')",
        "op.execute('DROP TABLE migration.history, migration.run CASCADE')",
        "op.execute('DROP TABLE migration.stash_object')",
        "op.execute('DROP TABLE migration.stash CASCADE')",
        "op.execute('DROP SCHEMA migration_stash_7 CASCADE')",
        "op.execute('ALTER TABLE migration_stash_7.a DROP v')",
        "op.execute('ALTER TABLE migration_stash_7.a RENAME TO b')",
        "op.execute('ALTER TABLE migration.history RENAME TO x')",
        "op.execute('DROP TABLE migration.commit_guard')",
    ],
)
def test_the_guards_own_tables_cannot_be_dropped(empty: Database, project: Project, body: str) -> None:
    """A downgrade that drops what the guard keeps, an earlier stash too, is refused, and all of it is still there."""
    applied(project, body, setup=f"{SETUP}; CREATE SCHEMA migration_stash_7; CREATE TABLE migration_stash_7.a (v text)")
    own = (
        "SELECT attrelid::regclass::text, attname FROM pg_attribute JOIN pg_class c ON c.oid = attrelid "
        "WHERE c.relnamespace::regnamespace::text LIKE 'migration%' AND attnum > 0 ORDER BY 1, 2"
    )
    before = empty.rows(own)

    with pytest.raises(Refused, match="drops what the guard keeps"):
        project.downgrade("base")

    assert ("migration_stash_7.a", "v") in before
    assert empty.rows(own) == before
    assert unchanged(empty)


def test_a_wrong_body_is_broken_not_untriable(empty: Database, project: Project) -> None:
    """A downgrade that simply fails says what the server said, with exit code 1, and nothing has happened."""
    applied(project, "op.drop_column('a', 'v')\nop.drop_table('b')")

    with pytest.raises(Broken, match='table "b" does not exist') as broken:
        project.downgrade("base")

    assert "rolled back whole" in broken.value.message
    assert unchanged(empty)


def test_a_body_may_use_savepoints_and_temporary_tables(empty: Database, project: Project) -> None:
    """Savepoints, their rollback, temporary tables and deferred constraints work in a downgrade as they do anywhere."""
    applied(
        project,
        "op.execute('SAVEPOINT s; DELETE FROM a; ROLLBACK TO SAVEPOINT s; RELEASE SAVEPOINT s')\n"
        "op.execute('CREATE TEMP TABLE t ON COMMIT DROP AS SELECT * FROM a')\n"
        "with op.get_bind().begin_nested():\n    op.execute('DELETE FROM b')\n"
        "op.execute('INSERT INTO b SELECT id FROM t')\nop.drop_column('a', 'v')",
        setup=f"{SETUP}; CREATE TABLE b (id int REFERENCES a DEFERRABLE INITIALLY DEFERRED)",
    )

    project.downgrade("base")

    assert empty.value("SELECT count(*) FROM b") == 5
    assert empty.value(f"SELECT count(v) FROM {kept(empty)['a']}") == 5


def test_a_deferred_violation_undoes_the_step(empty: Database, project: Project) -> None:
    """A deferred constraint that the body breaks shows at COMMIT: the step is undone, its copies with it."""
    applied(
        project,
        "op.execute('INSERT INTO b VALUES (99)')\nop.drop_column('a', 'v')",
        setup=f"{SETUP}; CREATE TABLE b (id int REFERENCES a DEFERRABLE INITIALLY DEFERRED)",
    )

    with pytest.raises(Broken, match="violates foreign key constraint"):
        project.downgrade("base")

    assert unchanged(empty)


class OnLine(logging.Handler):
    """Calls back when a line of the guard contains a text."""

    def __init__(self, text: str, call: object) -> None:
        super().__init__()
        self.text, self.call, self.seen = text, call, 0

    def emit(self, record: logging.LogRecord) -> None:
        """Look at one line."""
        if self.text in record.getMessage():
            self.seen += 1
            self.call()  # type: ignore[operator]


@pytest.mark.parametrize("body", ["op.drop_table('a')", "op.drop_column('a', 'v')"])
def test_a_lock_in_the_way_of_the_trial_is_waited_for(
    empty: Database, project: Project, caplog: pytest.LogCaptureFixture, body: str
) -> None:
    """A session that holds the table makes the trial wait and be tried again, not be refused."""
    applied(project, body)
    caplog.set_level(logging.INFO)

    with empty.connect(autocommit=False) as other, other.cursor() as cursor:
        cursor.execute("SELECT * FROM a")
        waited = OnLine("waits (try 1", other.rollback)
        logging.getLogger("mcp_planner_schema.guard").addHandler(waited)
        try:
            project.downgrade("base")
        finally:
            logging.getLogger("mcp_planner_schema.guard").removeHandler(waited)

    assert waited.seen == 1
    assert "(the test, user postgres" in caplog.text
    assert empty.rows("SELECT direction, outcome, attempts FROM migration.history ORDER BY id DESC LIMIT 1") == [
        ("downgrade", "done", 2)
    ]
    assert empty.value(f"SELECT count(*) FROM {kept(empty)['a']}") == 5


def test_a_lock_that_stays_is_busy(empty: Database, project: Project) -> None:
    """Where the lock is never given up, the run ends with exit code 75 and nothing has happened."""
    applied(project, "op.drop_table('a')")

    with empty.connect(autocommit=False) as other, other.cursor() as cursor:
        cursor.execute("SELECT * FROM a")
        with pytest.raises(Busy) as busy:
            project.downgrade("base")

    assert busy.value.code == 75
    assert unchanged(empty)


@pytest.mark.parametrize("steps", [1, 2])
def test_a_sequence_that_a_killed_run_has_set_back_stands_where_it_stood(
    empty: Database, project: Project, steps: int
) -> None:
    """setval() outlasts every rollback, and who is killed puts nothing back: the next run does."""
    die = (
        "import os, pathlib\nop.execute(\"SELECT setval('lonely', 1)\")\n"
        "killed = pathlib.Path('killed')\nif not killed.exists():\n    killed.touch()\n    os.kill(os.getpid(), 9)"
    )
    project.configure(allowed_imports="os, pathlib")
    applied(project, die, setup="CREATE SEQUENCE IF NOT EXISTS lonely")
    if steps == 2:
        project.revision("002", "create_b", "op.execute('CREATE TABLE b (id int)')", "op.drop_table('b')")
        project.upgrade()
    empty.rows("SELECT setval('lonely', 500)")
    assert project.alembic("downgrade", "base").returncode == -9
    until(
        lambda: (
            empty.value("SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'mcp-planner-guard%'") == 0
        )
    )
    assert empty.value("SELECT last_value FROM lonely") == 1

    up = project.alembic("downgrade", "base")

    assert up.returncode == 0, up.stderr
    assert "was interrupted" in up.stderr
    assert empty.value("SELECT last_value FROM lonely") == 1
    project.upgrade()
    assert empty.value("SELECT last_value FROM lonely") == 500
    assert empty.rows("SELECT id FROM migration.run WHERE sequences IS NOT NULL AND state <> 'interrupted'") == []
