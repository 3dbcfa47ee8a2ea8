"""The rehearsal: a downgrade of several steps is run whole and rolled back before its first step, and DRY_RUN tells it."""

from __future__ import annotations

import io
import logging
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command

from mcp_planner_schema import cli
from mcp_planner_schema.guard.findings import Broken, Busy, GuardError, Refused, WrongUse
from tests.catalog import catalog, difference
from tests.conftest import HEAD, Database, Project
from tests.until import until

A = "CREATE TABLE a (id int PRIMARY KEY, v text, w int); " \
    "INSERT INTO a SELECT n, nullif('v' || n, 'v3'), n FROM generate_series(1, 5) n"  # fmt: skip
NUMBERED = "op.execute('CREATE TABLE t{0} (id int PRIMARY KEY); INSERT INTO t{0} VALUES (1), (2)')"


def applied(project: Project, *steps: tuple[str, str], **more: Any) -> None:
    """A history of these revisions, each an upgrade and a downgrade in Python; 001 is the lowest. All are applied."""
    for number, (upgrade, downgrade) in enumerate(steps, 1):
        project.revision(f"{number:03}", f"create_t{number}", upgrade, downgrade, **more)
    project.upgrade()


def numbered(number: int, downgrade: str | None = None) -> tuple[str, str]:
    """A step that makes table ``t<number>`` with two rows, and drops it."""
    return NUMBERED.format(number), downgrade or f"op.drop_table('t{number}')"


def state(database: Database) -> dict[str, list[tuple[Any, ...]]]:
    """All that a dry run must leave alone, beside the catalog: version, what the guard has written, its copies, the rows."""
    tables = database.rows(
        "SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = "
        "c.relnamespace WHERE c.relkind = 'r' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' ORDER BY 1"
    )
    return {name: database.rows(f"SELECT t::text FROM {name} t ORDER BY 1") for (name,) in tables}


def forecast(project: Project, target: str) -> list[str]:
    """The lines that a dry run tells."""
    told = io.StringIO()
    config = project.config(dry_run=True)
    config.stdout = told
    command.downgrade(config, target)
    return [line.strip() for line in told.getvalue().splitlines()]


def times_left_out(lines: list[str]) -> list[str]:
    """The lines with N for each number of milliseconds."""
    return [re.sub(r" +\d+ ms", " N ms", line) for line in lines]


def test_a_forecast_names_what_goes_with_its_rows_sizes_and_locks(empty: Database, project: Project) -> None:
    """Tables and columns with their live rows, values and bytes, what goes along, the locks and the time, step by step."""
    applied(
        project,
        (f"op.execute({A!r})", "op.execute('DROP TABLE a CASCADE')"),
        (
            "op.execute('ALTER TABLE a ADD x int; UPDATE a SET x = 7 WHERE id < 3; CREATE VIEW report AS SELECT x FROM a')",
            "op.execute('ALTER TABLE a DROP v, DROP x CASCADE')",
        ),
    )
    size = empty.value("SELECT pg_total_relation_size('a') / 1024")
    values = empty.value("SELECT sum(pg_column_size(v)) FROM a")

    lines = times_left_out(forecast(project, "base"))

    assert lines == [
        "back from 002 to base: 2 steps, rehearsed and rolled back; nothing was changed",
        "downgrade 002_create_t2                                body N ms",
        f"goes: column a.v: 4 values in 5 rows, about {values} bytes",
        "goes: column a.x: 2 values in 5 rows, about 8 bytes",
        "also goes: view report",
        "kept by copying a: about N ms while writers wait",
        "locks for N ms at least: a",
        "downgrade 001_create_t1                                body N ms",
        f"goes: table a: 5 rows, {size} kB",
        "kept by copying a: about N ms while writers wait",
        "locks for N ms at least: a",
        "while this ran, nobody could read or write for N ms at most: a",
        "a table that several steps lock is named with the first of them; each real step locks it anew",
        "as SQL: alembic downgrade 002:base --sql",
    ]


def test_a_lock_is_named_with_the_first_step_that_takes_it(empty: Database, project: Project) -> None:
    """What an earlier step of the rehearsal has locked is not told of a later one, and a lock that readers pass not at all."""
    constraint = "op.execute('ALTER TABLE t1 {} CONSTRAINT c CHECK (id > 0)')"
    applied(
        project,
        numbered(1),
        numbered(2, "op.execute('CREATE INDEX ON t1 (id)')\nop.drop_table('t2')"),
        ("op.execute('SELECT 1')", constraint.format("ADD")),
        expectations='expect.query("SELECT 1", equals=1)',
    )

    lines = times_left_out(forecast(project, "001"))

    assert [line for line in lines if line.startswith("locks")] == [
        "locks for N ms at least: t1",
        "locks for N ms at least: t2",
    ]
    assert "while this ran, nobody could read or write for N ms at most: t1, t2" in lines


PARTITIONED = """
CREATE TABLE p (id int PRIMARY KEY, v text) PARTITION BY LIST (id); CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1);
CREATE TABLE p2 PARTITION OF p DEFAULT; INSERT INTO p SELECT n FROM generate_series(1, 7) n
"""
INHERITED = """
CREATE TABLE i (id int, v text); CREATE TABLE i1 () INHERITS (i);
INSERT INTO i VALUES (1); INSERT INTO i1 VALUES (2), (3)
"""
ODD = """
CREATE SCHEMA "S 1"; CREATE TABLE "S 1"."T%" (id int PRIMARY KEY, "c ""%s:x" text); INSERT INTO "S 1"."T%" VALUES (1, 'x')
"""
COMPOSITE = """
CREATE TYPE c AS (x int, y int); CREATE TABLE a (id int PRIMARY KEY, v c); INSERT INTO a VALUES (1, (NULL, 1)), (2, NULL)
"""
SHAPES = {
    "partitioned table": (PARTITIONED, "DROP TABLE p", ["table p: 7 rows, 64 kB"]),
    "column of a partitioned table": (PARTITIONED, "ALTER TABLE p DROP v", ["column p.v: 0 values in 7 rows, about 0 bytes"]),
    "one partition": (PARTITIONED, "DROP TABLE p2", ["table p2: 6 rows, "]),
    "parent of an inheritance": (INHERITED, "DROP TABLE i CASCADE", ["table i: 1 rows, ", "table i1: 2 rows, "]),
    "a name to be quoted": (
        ODD, 'ALTER TABLE "S 1"."T%" DROP "c ""%s:x"', ['column S 1.T%.c "%s:x: 1 values in 1 rows, about 2 bytes'],
    ),
    "a composite value with nulls": (COMPOSITE, "ALTER TABLE a DROP v", ["column a.v: 1 values in 2 rows, about "]),
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_rows_are_counted_in_whatever_shape_a_table_has(empty: Database, project: Project, shape: str) -> None:
    """Partitions, inheritance children and odd names: each row is counted once, where it will be kept."""
    setup, downgrade, expected = SHAPES[shape]
    run = "op.get_bind().exec_driver_sql({!r}, execution_options={{'no_parameters': True}})"
    applied(project, (run.format(setup), run.format(downgrade)))
    before = catalog(empty)

    lines = forecast(project, "base")

    goes = [line.removeprefix("goes: ") for line in lines if line.startswith("goes: ")]
    assert len(goes) == len(expected)
    assert all(line.startswith(start) for line, start in zip(goes, expected, strict=True)), goes
    if shape == "partitioned table":  # its partitions are locked too, and go without saying
        assert any(line.endswith(" ms at least: p") for line in lines)
    assert difference(before, catalog(empty)) == []


@pytest.fixture
def owner(empty: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """The database as its owner sees it, a role that is no superuser and named by DATABASE_URL."""
    role = f"owner_{uuid.uuid4().hex[:8]}"
    empty.rows(
        f"CREATE ROLE {role} LOGIN; ALTER DATABASE {empty.name} OWNER TO {role}; ALTER SCHEMA public OWNER TO {role}"
    )
    owned = replace(empty, user=role)
    monkeypatch.setenv("DATABASE_URL", owned.url)
    yield owned
    empty.rows(f"REASSIGN OWNED BY {role} TO postgres; DROP OWNED BY {role}; DROP ROLE {role}")


def test_rows_that_are_hidden_from_their_owner_are_counted(owner: Database, project: Project) -> None:
    """Under FORCE ROW LEVEL SECURITY the owner sees one row of five; all are counted, and the table's rule stands."""
    rule = "ALTER TABLE a ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY; CREATE POLICY p ON a USING (id = 1)"
    applied(project, (f"op.execute({f'{A}; {rule}'!r})", "op.drop_table('a')"))
    seen = owner.value("SELECT count(*) FROM a")

    lines = forecast(project, "base")

    assert seen == 1
    assert any(line.startswith("goes: table a: 5 rows, ") for line in lines)
    assert owner.value("SELECT relforcerowsecurity FROM pg_class WHERE oid = 'a'::regclass") is True


def test_a_role_without_temporary_tables_rehearses(owner: Database, empty: Database, project: Project) -> None:
    """What goes is measured, and two steps that change the rows of the same tables are rehearsed, without that right."""
    change = "op.execute('UPDATE a SET w = w + 1; DELETE FROM b')"
    both = f"{A}; {A.replace('TABLE a', 'TABLE b').replace('INTO a', 'INTO b')}"
    applied(
        project, (f"op.execute({both!r})", "op.execute('DROP TABLE a, b')"), *[("op.execute('SELECT 1')", change)] * 2
    )
    empty.rows(f'REVOKE TEMPORARY ON DATABASE {empty.name} FROM PUBLIC, "{owner.user}"')

    lines = forecast(project, "base")
    project.downgrade("001")

    assert owner.value("SELECT has_database_privilege(current_database(), 'TEMPORARY')") is False
    assert any(line.startswith("kept by copying ") for line in lines)
    assert owner.rows("SELECT sum(w), (SELECT count(*) FROM b) FROM a") == [(25, 0)]
    assert empty.rows("SELECT c.relname FROM pg_class c WHERE c.relname LIKE 'guard:%'") == []


def test_a_schema_that_the_role_may_not_use_is_no_obstacle(owner: Database, empty: Database, project: Project) -> None:
    """Deferred constraints of somebody else's, in a schema of theirs, and names that are taken twice keep nobody from it."""
    empty.rows("CREATE SCHEMA theirs; CREATE TABLE theirs.t (id int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
    twice = "CREATE TABLE x (id int, CONSTRAINT c CHECK (id > 0)); CREATE TABLE y (id int PRIMARY KEY, r int, CONSTRAINT c " \
        "FOREIGN KEY (r) REFERENCES y DEFERRABLE INITIALLY DEFERRED)"  # fmt: skip
    applied(project, (f"op.execute({twice!r})", "op.drop_table('x')"), numbered(2))

    lines = forecast(project, "base")

    assert any(line.startswith("goes: table x: 0 rows") for line in lines)


REFUSED = {
    "rows-not-kept": (
        ("op.execute('CREATE TABLE k (a int); INSERT INTO k VALUES (1)')", "op.execute('UPDATE k SET a = 2')"), {},
    ),
    "reversible-false": (numbered(1), {"reversible": "lossless"}),
    "stash-keyless": (
        ("op.execute('CREATE TABLE k (a int, b int); INSERT INTO k VALUES (1, 2)')", "op.drop_column('k', 'b')"), {},
    ),
    "downgrade-untried": (numbered(1, "op.drop_table('t1')\nop.execute('COMMIT')"), {}),
}  # fmt: skip


@pytest.mark.parametrize("dry", [False, True], ids=["real", "dry"])
@pytest.mark.parametrize("code", REFUSED)
def test_a_refusal_of_the_lowest_step_comes_before_the_first(
    empty: Database, project: Project, code: str, dry: bool
) -> None:
    """What stands against the last of three steps refuses all of them, with exit code 3, and nothing has happened."""
    lowest, more = REFUSED[code]
    project.revision("001", "create_t1", *lowest, **more)  # type: ignore[arg-type]
    for number in (2, 3):
        project.revision(f"{number:03}", f"create_t{number}", *numbered(number))
    project.upgrade()
    before, rows = catalog(empty), state(empty)

    with pytest.raises(Refused) as refused:
        forecast(project, "base") if dry else project.downgrade("base")

    assert [(one.code, one.revision) for one in refused.value.findings] == [(code, "001")]
    assert refused.value.code == 3
    assert difference(before, catalog(empty)) == []
    assert empty.rows("SELECT version_num FROM alembic_version") == [("003",)]
    after = state(empty)
    for table in ("migration.run", "migration.event"):  # a real run leaves its row there, as failed, and what happened
        del after[table], rows[table]
    assert after == rows


def test_all_refusals_of_the_way_come_at_once(empty: Database, project: Project) -> None:
    """Two steps that cannot be kept are both named, and the forecast of all three is told all the same."""
    one_way = [
        (
            f"op.execute('CREATE TABLE k{n} (a int); INSERT INTO k{n} VALUES (1)')",
            f"op.execute('UPDATE k{n} SET a = 2')",
        )
        for n in (1, 3)
    ]
    applied(project, one_way[0], numbered(2), one_way[1])
    told = io.StringIO()
    config = project.config(dry_run=True)
    config.stdout = told

    with pytest.raises(Refused) as refused:
        command.downgrade(config, "base")

    assert [one.revision for one in refused.value.findings] == ["003", "001"]
    assert told.getvalue().count("refused: rows-not-kept") == 2
    assert "goes: table t2: 2 rows" in told.getvalue()


def test_forward_only_is_refused_without_a_rehearsal(empty: Database, project: Project) -> None:
    """A revision of which its author says that there is no way back is refused by a dry run as by a real one, exit 3."""
    empty.rows("CREATE SEQUENCE public.runs")
    project.revision("001", "create_t1", *numbered(1), reversible="forward-only: rows of two tables were merged")
    project.revision(
        "002", "create_t2", *numbered(2, "op.execute(\"SELECT nextval('public.runs')\")\nop.drop_table('t2')")
    )
    project.upgrade()

    ended = project.alembic("-x", "dry_run=1", "downgrade", "base")

    assert ended.returncode == 3
    assert "forward-only" in ended.stderr
    assert empty.value("SELECT is_called FROM public.runs") is False


def test_a_failure_of_the_lowest_step_comes_before_the_first(empty: Database, project: Project) -> None:
    """A post-check that fails further down ends the run before its first step, and says that nothing was changed."""
    project.revision("001", "create_t1", *numbered(1, "op.execute('SELECT 1')"), expectations='expect.table("t1")')
    project.revision("002", "create_t2", *numbered(2))
    project.upgrade()

    with pytest.raises(Broken, match="Rollback failed: revision 001: expected no table t1") as broken:
        project.downgrade("base")

    assert "That was the rehearsal: nothing was changed." in broken.value.message
    assert empty.rows("SELECT version_num FROM alembic_version") == [("002",)]


def test_what_depends_on_a_dropped_table_is_named(empty: Database, project: Project) -> None:
    """A view that somebody has made by hand bars the way back: which one it is stands in the message, nobody's rows do."""
    applied(project, numbered(1))
    empty.rows("CREATE VIEW mine AS SELECT * FROM t1")

    with pytest.raises(Broken, match="other objects depend on it") as broken:
        forecast(project, "base")

    assert "DETAIL:  view mine depends on table t1" in broken.value.message


def test_a_post_check_that_fails_hides_no_refusal_below_it(
    empty: Database, project: Project, capfd: pytest.CaptureFixture[str]
) -> None:
    """The step below is rehearsed all the same: its refusal comes, and what the post-check above it has found is told too."""
    keyless = (
        "op.execute('CREATE TABLE l (a int, b int); INSERT INTO l VALUES (1, 2)')",
        "op.execute('ALTER TABLE l DROP b')",
    )
    project.revision("001", "create_l", *keyless)
    project.revision("002", "create_t2", *numbered(2, "op.execute('SELECT 1')"), expectations='expect.table("t2")')
    project.revision("003", "create_t3", *numbered(3), expectations='expect.table("t3")')
    project.upgrade()

    with pytest.raises(Refused, match="stash-keyless"):
        project.downgrade("base")

    assert "002  Rollback failed: revision 002: expected no table t2" in capfd.readouterr().err
    assert empty.rows("SELECT version_num FROM alembic_version") == [("003",)]


@pytest.mark.parametrize("steps", [1, 2])
def test_one_step_is_not_rehearsed(
    empty: Database, project: Project, steps: int, caplog: pytest.LogCaptureFixture
) -> None:
    """A step alone is tried and run, two run their Python twice more: the rehearsal is before several steps only."""
    body = "op.execute(\"SELECT nextval('public.runs')\")\nop.drop_table('t{0}')"
    empty.rows("CREATE SEQUENCE public.runs")
    applied(project, *(numbered(n, body.format(n)) for n in (1, 2)))
    caplog.set_level(logging.INFO)

    project.downgrade("001" if steps == 1 else "base")

    assert empty.value("SELECT last_value FROM public.runs") == (2 if steps == 1 else 2 * 2 + 2 + 1)
    assert ("rehearsed: 2 steps" in caplog.text) is (steps == 2)


BODIES = {
    "drops": "op.drop_table('t2')",
    "commits in a block": "with op.get_context().autocommit_block():\n    op.execute('DROP INDEX CONCURRENTLY t2_i')",
    "leaves a temporary table": "op.execute('CREATE TEMP TABLE left_over ON COMMIT DROP AS SELECT 1')\nop.drop_table('t2')",
    "leaves settings": "op.execute(\"SET search_path = nowhere; SET lock_timeout = '1h'\")\nop.execute('DROP TABLE public.t2')",
    "prepares a statement": "op.execute(\"SELECT set_config('a.b', 'x', false)\")",
}


@pytest.mark.parametrize("body", BODIES)
def test_a_dry_run_changes_nothing(empty: Database, project: Project, body: str) -> None:
    """Catalog, rows, version and all that the guard writes are as they were, whatever the bodies do; so is the session."""
    commits = "autocommit" in BODIES[body]
    applied(
        project,
        numbered(1),
        (NUMBERED.format(2) + "\nop.execute('CREATE INDEX t2_i ON t2 (id)')", BODIES[body]),
        numbered(3, "op.execute('CREATE TEMP TABLE left_over ON COMMIT DROP AS SELECT 1')\nop.drop_table('t3')"),
        transaction="none" if commits else "single",
        reversible="stash",
    )
    before, rows = catalog(empty), state(empty)

    lines = forecast(project, "base")

    assert difference(before, catalog(empty)) == []
    assert state(empty) == rows
    assert lines[0].startswith("back from 003 to base: 3 steps")
    assert any("commits in the middle" in line for line in lines) is commits


def test_a_dry_run_makes_nothing_where_the_guard_has_never_been(empty: Database, project: Project) -> None:
    """In a database without the guard's schema a dry run tells the same, and the schema is not there afterwards."""
    applied(project, numbered(1))
    empty.rows("DROP SCHEMA migration CASCADE")

    lines = forecast(project, "base")

    assert any(line.startswith("goes: table t1: 2 rows") for line in lines)
    assert empty.value("SELECT to_regnamespace('migration') IS NULL")


def test_steps_see_the_schema_as_it_will_be(empty: Database, project: Project) -> None:
    """A step may need what the steps before it have done, and deferred constraints hold nothing up that a COMMIT would not."""
    applied(
        project,
        (
            "op.execute('CREATE TABLE a (id int PRIMARY KEY)')\n"
            "op.execute('CREATE TABLE b (a int REFERENCES a DEFERRABLE INITIALLY DEFERRED)')",
            "op.drop_table('b_old')\nop.drop_table('a')",
        ),
        ("op.execute('SELECT 1')", "op.execute('ALTER TABLE b RENAME TO b_old; ALTER TABLE b_old ADD c int')"),
        ("op.execute('SELECT 1')", "op.execute('INSERT INTO b VALUES (1); INSERT INTO a VALUES (1)')"),
    )

    lines = forecast(project, "base")
    project.downgrade("base")

    assert any(line.startswith("goes: table b_old: 1 rows") for line in lines)
    assert empty.value("SELECT row_count FROM migration.stash_object WHERE object_name = 'b_old'") == 1


def test_what_only_a_commit_makes_possible_is_said(empty: Database, project: Project) -> None:
    """A label that one step adds to an enum can be used by the next only after a COMMIT: refused, with the way to go."""
    applied(
        project,
        ("op.execute('SELECT 1')", "op.execute(\"INSERT INTO e VALUES ('old')\")"),
        (
            "op.execute(\"CREATE TYPE mood AS ENUM ('new'); CREATE TABLE e (m mood)\")",
            "op.execute(\"ALTER TYPE mood ADD VALUE 'old'\")",
        ),
    )

    with pytest.raises(Refused) as refused:
        project.downgrade("base")
    project.downgrade("001")
    project.downgrade("base")

    assert refused.value.next_command.startswith("alembic downgrade 001, then ")
    assert empty.rows("SELECT m::text FROM e") == [("old",)]


@pytest.mark.parametrize("dry", [False, True], ids=["real", "dry"])
def test_a_lock_that_stays_is_busy_before_the_first_step(
    empty: Database, project: Project, dry: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """A lock on the lowest step's table: the whole rehearsal is tried again, then 75, and no step has been done."""
    applied(project, numbered(1), numbered(2))
    caplog.set_level(logging.INFO)

    with empty.connect(autocommit=False) as other, other.cursor() as cursor:
        cursor.execute("SELECT * FROM t1")
        with pytest.raises(Busy) as busy:
            forecast(project, "base") if dry else project.downgrade("base")

    assert busy.value.code == 75
    assert "met a lock it did not get, try 2: pid " in busy.value.message
    assert "That was the rehearsal: nothing was changed." in busy.value.message
    assert next(line for line in caplog.messages if "waits" in line).startswith("001  waits (try 1 of 2): pid ")
    assert empty.rows("SELECT version_num FROM alembic_version") == [("002",)]
    assert empty.value("SELECT count(*) FROM migration.history WHERE direction = 'downgrade'") == 0


ENDINGS = {
    "commits": ("op.execute('COMMIT')", (3, 1), "the body commits"),
    "commits through SQLAlchemy": ("op.get_bind().commit()", (3, 1), "the body commits"),
    "rolls back": ("op.execute('ROLLBACK')", (3, 3), "rolls its transaction back"),
    "is cut off": ("op.execute('SELECT pg_terminate_backend(pg_backend_pid())')", (1, 1), "That was the rehearsal"),
}


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("at", [1, 2], ids=["in its trial", "in its second run"])
def test_a_body_that_ends_the_rehearsal_changes_nothing(
    empty: Database, project: Project, ending: str, at: int
) -> None:
    """COMMIT, ROLLBACK or the end of the connection in either run of a body: the run ends there, all is as it was."""
    body, codes, said = ENDINGS[ending]
    downgrade = f"runs.append(1)\nop.drop_table('t2')\nif len(runs) == {at}:\n    {body}"
    applied(project, numbered(1), numbered(2, downgrade), numbered(3), more="runs = []")
    before, rows = catalog(empty), state(empty)

    with pytest.raises(GuardError) as ended:
        project.downgrade("base")

    assert ended.value.code == codes[at - 1]
    assert said in ended.value.message
    assert difference(before, catalog(empty)) == []
    after = state(empty)
    for table in ("migration.run", "migration.event"):
        del after[table], rows[table]
    assert after == rows


def test_an_interrupted_rehearsal_changes_nothing(empty: Database, project: Project) -> None:
    """Ctrl-C while the lowest step is rehearsed: exit 1, it says so, and no step has been done."""
    applied(project, numbered(1, "op.drop_table('t1')\nop.execute('SELECT pg_sleep(60)')"), numbered(2))
    command_line = [sys.executable, "-m", "alembic", "downgrade", "base"]
    sleeping = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND query = 'SELECT pg_sleep(60)'"

    with subprocess.Popen(command_line, cwd=project.folder, stderr=subprocess.PIPE, text=True) as process:
        until(lambda: empty.rows(f"{sleeping} AND state = 'active'"))
        process.send_signal(signal.SIGINT)
        told = process.communicate(timeout=20)[1]

    assert process.returncode == 75
    assert "Stopped by SIGINT in the rehearsal of 001. Nothing was changed." in told
    assert empty.rows("SELECT version_num FROM alembic_version") == [("002",)]
    assert empty.rows(sleeping) == []


class Freeing(logging.Handler):
    """Calls back when the guard says that it waits."""

    def __init__(self, call: Callable[[], object]) -> None:
        super().__init__()
        self.call, self.seen = call, 0

    def emit(self, record: logging.LogRecord) -> None:
        """Look at one line."""
        if "waits (try" in record.getMessage():
            self.seen += 1
            self.call()


def test_a_lock_that_goes_is_waited_for(empty: Database, project: Project, caplog: pytest.LogCaptureFixture) -> None:
    """When the other session lets go between two tries, the rehearsal and the steps are done, each step at its first try."""
    applied(project, numbered(1), numbered(2))
    caplog.set_level(logging.INFO)
    log = logging.getLogger("mcp_planner_schema.guard")

    with empty.connect(autocommit=False) as other, other.cursor() as cursor:
        cursor.execute("SELECT * FROM t1")
        freeing = Freeing(other.rollback)
        log.addHandler(freeing)
        try:
            project.downgrade("base")
        finally:
            log.removeHandler(freeing)

    assert freeing.seen == 1
    done = empty.rows(
        "SELECT revision, outcome, attempts FROM migration.history WHERE direction = 'downgrade' ORDER BY id"
    )
    assert done == [("002", "done", 1), ("001", "done", 1)]


def test_what_is_not_for_here_is_not_rehearsed(
    empty: Database, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A revision that was skipped on the way up is skipped in the rehearsal, though its body would fail."""
    monkeypatch.setenv("PLANNER_ENV", "development")
    project.revision("001", "create_t1", *numbered(1))
    project.revision(
        "002", "fill_t2", *numbered(2, "op.drop_table('not_there')"), type="data", extra="Environments: production"
    )
    project.revision("003", "create_t3", *numbered(3))
    project.upgrade()

    lines = forecast(project, "base")
    project.downgrade("base")

    assert next(line for line in lines if line.startswith("downgrade 002")).endswith(
        "skipped (not for this environment)"
    )
    assert empty.rows("SELECT * FROM alembic_version") == []


def test_x_dry_run_is_the_same_from_alembic(empty: Database, project: Project) -> None:
    """``alembic -x dry_run=1 downgrade -1`` tells the forecast; any other value, and an upgrade, are exit 2."""
    applied(project, numbered(1), numbered(2))
    before = state(empty)

    shown = project.alembic("-x", "dry_run=1", "downgrade", "-1")
    wrong = project.alembic("-x", "dry_run=yes", "downgrade", "-1")
    project.revision("003", "create_t3", *numbered(3))
    up = project.alembic("-x", "dry_run=1", "upgrade", "head")

    assert shown.returncode == 0, shown.stderr
    assert "goes: table t2: 2 rows" in shown.stdout
    assert (wrong.returncode, up.returncode) == (2, 2)
    assert state(empty) == before


def test_a_connection_of_the_callers_is_as_it_was(empty: Database, project: Project) -> None:
    """A dry run on the caller's own connection leaves its settings and temporary tables alone, and begins no transaction."""
    applied(project, numbered(1, "op.execute('SET TimeZone = \\'Asia/Tokyo\\'; DROP TABLE public.t1')"), numbered(2))
    engine = sa.create_engine(empty.url.replace("postgresql:", "postgresql+psycopg2:"))

    with engine.connect() as connection:
        connection.exec_driver_sql(
            "SET search_path = public, pg_catalog; SET TimeZone = 'UTC'; CREATE TEMP TABLE mine ()"
        )
        connection.commit()
        command.downgrade(project.config(connection=connection, dry_run=True), "base")
        begun = connection.in_transaction()
        settings = connection.exec_driver_sql(
            "SELECT current_setting('search_path'), current_setting('TimeZone')"
        ).one()
        connection.exec_driver_sql("SELECT FROM mine")
    engine.dispose()

    assert begun is False
    assert tuple(settings) == ("public, pg_catalog", "UTC")


def test_a_dry_run_waits_for_another_deployer(empty: Database, project: Project) -> None:
    """While another run holds the deployers' lock, a dry run gets no answer: it is busy."""
    from mcp_planner_schema.guard import deploy_lock

    applied(project, numbered(1))
    project.configure(deploy_lock_timeout="100ms")

    with empty.connect() as other, other.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s)", (deploy_lock.key("alembic_version", None),))
        with pytest.raises(Busy, match="Another migration still runs"):
            forecast(project, "base")


def test_a_dry_run_of_an_upgrade_from_code_is_wrong_use(empty: Database, project: Project) -> None:
    """Who asks for a dry run of an upgrade is told so, and nothing is upgraded."""
    project.revision("001", "create_t1", *numbered(1))

    with pytest.raises(WrongUse):
        command.upgrade(project.config(dry_run=True), "head")

    assert empty.value("SELECT to_regclass('t1') IS NULL")


def test_the_whole_planner_is_rehearsed_with_data(
    database: Database, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From head to base with example data: each table is forecast with its rows, nothing changes, and it takes seconds."""
    monkeypatch.setenv("PLANNER_ENV", "development")
    assert cli.main(["example-data", "PROJECTS=5"]) == 0
    before, rows = catalog(database), state(database)
    capsys.readouterr()
    began = time.monotonic()

    code = cli.main(["migrate-down", "TO=base", "DRY_RUN=1"])

    took = time.monotonic() - began
    lines = capsys.readouterr().out.splitlines()
    assert code == 0
    assert lines[0] == f"back from {HEAD} to base: {int(HEAD)} steps, rehearsed and rolled back; nothing was changed"
    for table in ("projects", "tasks", "steps", "disputes", "navigation_links"):
        count = len(rows[f"public.{table}"])
        assert any(line.startswith(f"     goes: table {table}: {count} rows, ") for line in lines), table
    assert difference(before, catalog(database)) == []
    assert state(database) == rows
    assert took < 15


RENUMBERED = (
    "op.execute('CREATE TABLE a (id int PRIMARY KEY, v text); ALTER TABLE a ADD w int; "
    "INSERT INTO a SELECT n, n, n FROM generate_series(1, 66) n')",
    "op.execute('ALTER TABLE a DROP w; UPDATE a SET id = id + 1000')",
)


@pytest.mark.parametrize("above", [0, 1])
def test_rows_that_get_other_keys_are_refused_before_the_first_step(
    empty: Database, project: Project, above: int
) -> None:
    """Only the rows after the body show it: the rehearsal looks for them too, as the last step and below others."""
    applied(project, numbered(1), RENUMBERED, *map(numbered, range(3, 3 + above)))
    before, rows = catalog(empty), state(empty)

    with pytest.raises(Refused) as shown:
        forecast(project, "001")

    assert [one.code for one in shown.value.findings] == ["keys-renumbered"]
    assert shown.value.next_command.startswith("alembic show 002")
    assert difference(before, catalog(empty)) == []
    assert state(empty) == rows
    with pytest.raises(Refused, match="keys-renumbered"):
        project.downgrade("001")
    assert empty.value("SELECT version_num FROM alembic_version") == f"{2 + above:03}"


@pytest.mark.parametrize("last", [False, True])
def test_rows_that_keep_their_keys_pass_the_rehearsal(empty: Database, project: Project, last: bool) -> None:
    """Changed and deleted rows beside ones that come anew are no new keys."""
    changes = (
        "op.execute('CREATE TABLE a (id int PRIMARY KEY, v text); INSERT INTO a SELECT n, n FROM generate_series(1, 9) n')",
        "op.execute('UPDATE a SET v = 0; DELETE FROM a WHERE id < 3; INSERT INTO a VALUES (77), (78)')",
    )
    applied(project, *([] if last else [numbered(1)]), changes, (NUMBERED.format(9), "op.drop_table('t9')"))

    assert "changes rows: a (2 deleted, 9 changed)" in " ".join(forecast(project, "base"))


def test_a_refusal_in_the_middle_says_that_the_steps_before_it_stay(
    empty: Database, project: Project, tmp_path: Path
) -> None:
    """An archive that cannot be made is known when its step comes: the step before it is final, and that is said."""
    applied(project, numbered(1), ("op.execute('CREATE INDEX i ON t1 (id)')", "op.execute('DROP INDEX i')"))
    project.configure(archive="always", pg_bin=str(tmp_path / "nowhere"))

    with pytest.raises(Refused) as refused:
        project.downgrade("base")

    assert [one.code for one in refused.value.findings] == ["archive-impossible"]
    assert "refused: 1 finding, this step was undone; the database is at 001" in str(refused.value)
    assert empty.value("SELECT version_num FROM alembic_version") == "001"


def test_what_takes_the_guard_too_long_names_its_own_setting(empty: Database, project: Project) -> None:
    """Keeping rows is held to stash_timeout and not to the revision's statement_timeout, and says so; nothing is lost."""
    rows = "INSERT INTO a SELECT n, repeat('x', 100) FROM generate_series(1, 200000) n"
    applied(project, ("op.execute('CREATE TABLE a (id int PRIMARY KEY, v text)')", "op.drop_table('a')"))
    empty.rows(rows)
    project.configure(stash_timeout="10ms")

    with pytest.raises(Broken, match="while what goes was kept") as broken:
        project.downgrade("base")

    assert broken.value.next_command.startswith("set stash_timeout in alembic.ini higher")
    assert empty.value("SELECT count(*) FROM a") == 200_000
    project.configure(stash_timeout="1min")
    project.downgrade("base")
    project.configure(stash_timeout="10ms")
    with pytest.raises(Broken, match="while kept rows were given back"):
        project.upgrade()
    project.configure(stash_timeout="1min")
    project.upgrade()
    assert empty.value("SELECT count(*) FROM a") == 200_000


def test_a_forecast_tells_what_is_moved_and_how_long_copying_takes(empty: Database, project: Project) -> None:
    """A large table that nothing reads is moved; of the others a sample says about how long they take."""
    project.configure(stash_move_above="10MB")
    applied(
        project,
        ("op.execute('CREATE TABLE big (id int, v text); CREATE TABLE read (id int, v text)')",
         "op.execute('SELECT count(*) FROM read')\nop.drop_table('read')\nop.drop_table('big')"),
    )  # fmt: skip
    empty.rows(
        "INSERT INTO big SELECT n, repeat('x', 100) FROM generate_series(1, 200000) n; INSERT INTO read SELECT * FROM big"
    )

    told = [line for line in forecast(project, "base") if line.startswith("kept by")]

    copying, moving = told
    assert moving == "kept by moving big: nothing is copied"
    took = re.fullmatch(r"kept by copying read: about (\d+) ms while writers wait", copying)
    assert took
    assert int(took[1]) > 20
