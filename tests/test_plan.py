"""What migrate-plan tells is what is there: SQL, locks, sizes, what goes on, how long, who would wait; it changes nothing."""

from __future__ import annotations

import dataclasses
import io
import json
import re
from typing import Any

import psycopg2
import pytest
from alembic import command
from alembic.config import Config

from mcp_planner_schema import cli
from mcp_planner_schema.guard import blockers, stored_locks
from mcp_planner_schema.guard.findings import Broken, WrongUse
from mcp_planner_schema.guard.stored_locks import Found
from mcp_planner_schema.inspect import (
    lint,
    plan,
    plan_database,
    plan_json,
    plan_markdown,
    plan_text,
    plan_time,
    plan_told,
    table_sizes,
    table_stats,
    trace,
)  # fmt: skip
from mcp_planner_schema.inspect.planned import Estimate, Locks, Plan, Revision, Table
from mcp_planner_schema.inspect.table_stats import TableStats
from tests.conftest import HEAD, ROOT, Database, Project
from tests.test_trace import scratch

__all__ = ["scratch"]  # a fixture
EXCLUSIVE = {"public.thing": "ACCESS EXCLUSIVE"}
LOCKS = Found(EXCLUSIVE)
REWRITES = Found(EXCLUSIVE, ("public.thing",))
WIDER = "op.execute('ALTER TABLE thing ALTER id TYPE bigint')"
FLAG = "op.execute('ALTER TABLE thing ADD flag boolean')"
UNFLAG = "op.execute('ALTER TABLE thing DROP flag')"


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two readings are taken right after each other; squawk, a process for each transaction, is another test's."""
    monkeypatch.setattr(table_sizes, "APART", 0.0)
    monkeypatch.setattr(lint.squawk, "program", lambda: None)


def begun(project: Project, rows: int) -> None:
    """A project whose revision 001 makes the table thing, with so many rows, and a database that has it."""
    made = f"op.execute(\"CREATE TABLE thing AS SELECT i AS id, repeat('x', 20) AS name FROM generate_series(1, {rows}) i\")"
    project.revision(
        "001", "create_thing", made, 'op.execute("DROP TABLE thing")', expectations='expect.table("thing")'
    )
    project.upgrade()


def pending(project: Project, upgrade: str, found: Found | None, *, version: str = "002", **header: Any) -> None:
    """One more revision, with the locks that a trace would have stored for it, if any."""
    project.revision(
        version, f"alter_thing{version}", upgrade, header.pop("downgrade", 'op.execute("SELECT 1")'), **header
    )
    if found is not None:
        script = project_script(project)
        place = stored_locks.place(script.dir, version)
        place.parent.mkdir(exist_ok=True)
        place.write_text(stored_locks.text({"upgrade": found}, trace.checksum(script, version)))


def project_script(project: Project) -> Any:
    """The project's history."""
    from alembic.script import ScriptDirectory

    return ScriptDirectory.from_config(project.config())


def read(project: Project, **asked: Any) -> Plan:
    """The plan of the project's pending revisions."""
    return plan.read(project.config(), **asked)


# --- what is told of a revision ---------------------------------------------------------------------------------------


def test_a_table_under_lock_has_its_size_and_its_rows(empty: Database, project: Project) -> None:
    """Locks come from the stored file, bytes with indexes and live rows from the database as it is now."""
    begun(project, 5000)
    empty.rows("CREATE INDEX ON thing (id); ANALYZE thing; DELETE FROM thing WHERE id > 4000; ANALYZE thing")
    pending(project, FLAG, LOCKS)

    found = read(project)

    (one,) = found.revisions
    (table,) = one.locks.tables
    assert one.locks.origin == "alembic/locks/002.json"
    assert (table.name, table.mode, table.stops) == ("public.thing", "ACCESS EXCLUSIVE", "readers and writers")
    assert table.rows == 4000
    assert table.bytes == empty.value("SELECT pg_total_relation_size('thing')")
    assert (found.risk, found.code, one.reasons) == ("harmless", 0, ())
    assert found.sizes == "of this database"


def test_the_sql_is_what_alembic_writes(empty: Database, project: Project) -> None:
    """For each revision by itself, to the letter, without the words about the file that stand above it."""
    begun(project, 1)
    pending(project, FLAG, LOCKS)
    pending(project, "op.execute('ALTER TABLE thing ADD note text')", LOCKS, version="003")

    found = read(project)

    first, second = found.revisions
    written = io.StringIO()
    command.upgrade(Config(project.config().config_file_name, output_buffer=written), "001:003", sql=True)
    head, _, rest = written.getvalue().partition("\n\n")
    marker, _, statements = rest.partition("\n\n")
    assert head.startswith("\\set ON_ERROR_STOP on\n-- Written by")
    assert "this was written for" in marker
    assert (first.sql or "").split() + (second.sql or "").split() == statements.split()
    assert "ADD flag boolean" in (first.sql or "") and "ADD note text" in (second.sql or "")


def test_a_revision_that_asks_has_no_sql_and_says_why(empty: Database, project: Project) -> None:
    """What acts on an answer cannot be written down; locks and sizes are told all the same, and the time is not known."""
    begun(project, 10)
    pending(project, 'if op.get_bind().execute(sa.text("SELECT 1")).scalar():\n    ' + FLAG, LOCKS)

    (one,) = read(project).revisions

    assert one.sql is None and one.no_sql.startswith("offline-impossible: ")
    assert [table.rows for table in one.locks.tables] == [10]
    assert one.estimate.most is None and one.risk == "risky"


def test_a_rewrite_is_reckoned_and_makes_it_risky(empty: Database, project: Project) -> None:
    """A table of 5 MB is written anew under its lock for longer than the deadline: allowed, and to be looked at."""
    begun(project, 60_000)
    pending(project, WIDER, REWRITES)

    found = read(project)

    (one,) = found.revisions
    size = empty.value("SELECT pg_total_relation_size('thing')")
    assert one.estimate.least == pytest.approx(size / plan_time.SPEEDS["rewrite"] / 1e6)
    assert one.estimate.held == one.estimate.most == pytest.approx(one.estimate.least * plan_time.SLOWER)
    assert one.locks.tables[0].rewritten
    assert (found.risk, found.code) == ("risky", 4)
    assert one.reasons[0].startswith("it may need ACCESS EXCLUSIVE on thing for up to ")
    assert "after 200 ms it gives up, and is tried again" in one.reasons[0]


def test_what_nobody_waits_for_is_not_risky(empty: Database, project: Project) -> None:
    """An index that is built beside writers takes its time and holds nobody up."""
    begun(project, 60_000)
    body = 'with op.get_context().autocommit_block():\n    op.execute("CREATE INDEX CONCURRENTLY ix ON thing (id)")'
    pending(project, body, Found({"public.thing": "SHARE UPDATE EXCLUSIVE"}), transaction="none")

    (one,) = read(project).revisions

    assert one.estimate.parts[0].startswith("an index on thing: ")
    assert (one.estimate.held, one.risk) == (0.0, "harmless")


def test_a_table_of_the_same_deploy_stops_nobody(empty: Database, project: Project) -> None:
    """What an earlier pending revision makes is new: a lock on it is none that somebody waits for."""
    begun(project, 1)
    pending(project, "op.execute('CREATE TABLE fresh (id int)')", Found())
    pending(project, "op.execute('ALTER TABLE fresh ALTER id TYPE bigint')",
            Found({"public.fresh": "ACCESS EXCLUSIVE"}, ("public.fresh",)), version="003")  # fmt: skip

    found = read(project)

    (table,) = found.revisions[1].locks.tables
    assert (table.there, table.stops, found.risk) == ("new", "", "harmless")


def test_a_renamed_table_is_still_as_large(empty: Database, project: Project) -> None:
    """Under its new name the database has no such table yet; its size is that of the old one."""
    begun(project, 60_000)
    pending(project, "op.execute('ALTER TABLE thing RENAME TO item')", LOCKS,
            extra="Waive: table-renamed | a test | 2999-01-01")  # fmt: skip
    pending(project, "op.execute('ALTER TABLE item ADD flag boolean')", Found({"public.item": "ACCESS EXCLUSIVE"}),
            version="003")  # fmt: skip

    found = read(project)

    (table,) = found.revisions[1].locks.tables
    assert (table.there, table.bytes) == ("yes", empty.value("SELECT pg_total_relation_size('thing')"))


def test_an_unknown_time_under_a_lock_is_risky_until_it_was_measured_here(empty: Database, project: Project) -> None:
    """Nobody guesses what a DO block does; what the same text took on this database before is told, and goes for it."""
    begun(project, 10)
    empty.rows("ALTER TABLE thing ADD PRIMARY KEY (id)")
    pending(project, FLAG + "\nop.execute('DO $$ BEGIN PERFORM pg_sleep(0.01); END $$')", LOCKS, downgrade=UNFLAG)
    before = read(project)
    project.upgrade()
    project.downgrade("001")

    after = read(project)
    file = project.versions / "002_alter_thing002.py"
    file.write_text(file.read_text().replace("0.01", "0.02"))
    edited = read(project)

    assert before.code == 4 and "is not known: what DO $$ BEGIN" in before.revisions[0].reasons[0]
    took = after.revisions[0].estimate.before
    assert took is not None and took.duration_ms >= took.hold_ms >= 10
    assert (after.code, after.revisions[0].estimate.most) == (0, None)
    assert f"took {took.duration_ms:,.0f} ms here on {took.day}" in plan_text.text(after)
    assert edited.revisions[0].estimate.before is None


def test_a_backfill_is_told_with_its_rows(empty: Database, project: Project) -> None:
    """The counts are those that a dry run tells."""
    begun(project, 1200)
    empty.rows("ALTER TABLE thing ADD PRIMARY KEY (id)")
    pending(project, 'op.backfill("thing", set={"name": "\'y\'"})', Found(), transaction="none", type="data")

    (one,) = read(project).revisions

    assert one.backfills[0] == "backfill thing.name of 002: the rows of thing, by their key (id)"
    assert one.backfills[1].startswith("  1,200 rows, all are taken")
    assert one.risk == "harmless"


# --- what goes on -----------------------------------------------------------------------------------------------------


def test_writes_and_scans_are_counted_between_two_readings(empty: Database) -> None:
    """What a session has done between them, divided by the time; a table that nobody uses has none."""
    # Else it would be counted when its session ends, which may be later.
    flushed = "SELECT pg_stat_force_next_flush()"
    empty.rows("CREATE TABLE busy (id int); CREATE TABLE idle (id int)")
    empty.rows(f"INSERT INTO busy SELECT generate_series(1, 5); {flushed}")
    engine = _engine(empty)
    with engine.connect() as connection:
        first = table_sizes.read(connection)
        with empty.connect() as other, other.cursor() as cursor:
            cursor.execute("INSERT INTO busy SELECT generate_series(1, 100)")
            cursor.execute("UPDATE busy SET id = 0 WHERE id <= 5")
            cursor.execute("SELECT pg_stat_force_next_flush()")
        second = table_sizes.read(connection)
    engine.dispose()

    found = table_sizes.rates(first, second, 2.0, None)

    assert found.by_table["public.busy"] == (55.0, 0.5)
    assert found.by_table["public.idle"] == (0.0, 0.0)


def test_an_average_is_told_where_the_server_says_since_when(
    empty: Database, project: Project, monkeypatch: Any
) -> None:
    """Statistics that were reset just now say nothing; later their average does, and it is said since when."""
    begun(project, 100)
    empty.rows("SELECT pg_stat_reset()")
    pending(project, FLAG, LOCKS)
    young = read(project)
    monkeypatch.setattr(table_sizes, "OLD", 0.0)

    old = read(project)

    assert young.rates.startswith("between two readings, ")
    assert old.rates.startswith("on average since the statistics were reset, 20")
    assert old.revisions[0].locks.tables[0].writes is not None


def test_a_table_that_somebody_has_for_himself_is_not_waited_for(empty: Database) -> None:
    """Its size is not known now, its rows are as last counted; the others are told."""
    empty.rows("CREATE TABLE held AS SELECT generate_series(1, 100) i; CREATE TABLE free (); ANALYZE held")
    engine = _engine(empty)
    with empty.connect(autocommit=False) as other, other.cursor() as cursor, engine.connect() as connection:
        cursor.execute("LOCK TABLE held")
        connection.exec_driver_sql("SET lock_timeout = '1ms'")
        connection.commit()

        found = table_sizes.read(connection)
    engine.dispose()

    assert (found["public.held"].bytes, found["public.held"].rows) == (None, 100)
    assert (found["public.free"].bytes, found["public.free"].rows) == (0, 0)


def test_who_is_in_the_way_is_named(empty: Database, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session that has the table in use for long is told where it would hold up the lock, and not where that goes with it."""
    begun(project, 10)
    pending(project, FLAG, LOCKS)
    pending(project, FLAG, Found({"public.thing": "SHARE UPDATE EXCLUSIVE"}), version="003")
    monkeypatch.setattr(blockers, "_LONG", 0.0)
    with empty.connect(autocommit=False) as other, other.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM thing")

        found = read(project)

    (table,) = found.revisions[0].locks.tables
    (beside,) = found.revisions[1].locks.tables
    assert (len(table.users), beside.users) == (1, ())
    assert re.fullmatch(
        r"pid \d+ \(the test, user postgres, idle in transaction, .*\) holds AccessShareLock", table.users[0]
    )
    assert f"it has to wait for {table.users[0]}" in plan_text.text(found)


@pytest.mark.parametrize("mode", stored_locks.MODES)
def test_whom_a_lock_waits_for_is_what_the_server_says(empty: Database, mode: str) -> None:
    """Each mode against each that another session holds, as LOCK TABLE NOWAIT finds it."""
    empty.rows("CREATE TABLE thing ()")
    found, expected = [], []
    for held in stored_locks.MODES:
        with empty.connect(autocommit=False) as other, other.cursor() as cursor:
            cursor.execute(f"LOCK TABLE thing IN {held} MODE")
            cursor.execute("SELECT mode FROM pg_locks WHERE relation = 'thing'::regclass")
            name = cursor.fetchone()[0]
            try:
                empty.rows(f"BEGIN; LOCK TABLE thing IN {mode} MODE NOWAIT; ROLLBACK")
                expected.append(False)
            except psycopg2.errors.LockNotAvailable:
                expected.append(True)
        found.append(plan_database.waits_for(mode, f"pid 1 (the test) holds {name}"))

    assert found == expected


def _engine(database: Database) -> Any:
    import sqlalchemy as sa

    return sa.create_engine(database.url.replace("postgresql:", "postgresql+psycopg2:"))


# --- risk, phases, findings -------------------------------------------------------------------------------------------


def test_a_finding_of_the_header_refuses_and_nothing_is_run(empty: Database, project: Project) -> None:
    """The guard would refuse the run, so neither its SQL nor its locks are asked of it; the finding is told."""
    begun(project, 10)
    pending(project, FLAG, None, reversible="undecided")

    found = read(project)

    (one,) = found.revisions
    assert (found.risk, found.code) == ("refused", 3)
    assert [said.finding.code for said in one.said] == ["reversible-undecided"]
    assert one.sql is None and "a finding refuses" in one.locks.problem


def test_the_lint_goes_by_the_sizes_of_this_database(empty: Database, project: Project) -> None:
    """On a small table it warns, on a large one it refuses, whatever the committed file says of another database."""
    begun(project, 100)
    index = "op.execute('CREATE INDEX ix ON thing (id)')"
    pending(project, index, Found({"public.thing": "SHARE"}))
    small = read(project)
    empty.rows("INSERT INTO thing SELECT i, repeat('x', 20) FROM generate_series(1, 150000) i")

    large = read(project)

    told = [[(said.finding.code, said.stands) for said in one.revisions[0].said] for one in (small, large)]
    assert told == [[("index-blocking", False)], [("index-blocking", True)]]
    assert (small.code, large.code) == (0, 3)


def test_what_was_deployed_elsewhere_is_not_refused_again(empty: Database, project: Project) -> None:
    """The database that matters most has the revision: its findings are told, and stop nobody."""
    begun(project, 10)
    pending(project, "op.execute('ALTER TABLE thing RENAME COLUMN name TO label')", LOCKS)
    refused = read(project)
    table_stats.place(project.folder / "alembic").write_text(table_stats.text(TableStats(("002",))))

    told = read(project)

    assert [(said.finding.code, said.stands) for said in told.revisions[0].said] == [("column-renamed", False)]
    assert (refused.code, told.code) == (3, 0)


def test_an_edit_of_what_is_applied_refuses(empty: Database, project: Project) -> None:
    """The run would end before its first step, so the plan says so too, although what is pending is in order."""
    begun(project, 10)
    pending(project, FLAG, LOCKS)
    file = project.versions / "001_create_thing.py"
    file.write_text(file.read_text().replace("'x'", "'z'"))

    found = read(project)

    assert ([said.finding.code for said in found.said], found.code) == (["applied-edited"], 3)


def test_what_waits_for_contract_is_told_and_not_counted(
    empty: Database, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In production a contract revision waits, and what comes behind it; its risk is nobody's now, until it is asked for."""
    begun(project, 60_000)
    pending(project, FLAG, LOCKS)
    pending(project, WIDER, REWRITES, version="003", phase="contract")
    pending(project, "op.execute('ALTER TABLE thing ADD note text')", LOCKS, version="004")
    everywhere = read(project)
    monkeypatch.setenv("PLANNER_ENV", "production")

    found = read(project)
    asked = read(project, phase="contract")

    assert [one.waits for one in found.revisions] == [
        "", "contract: in production it runs only when asked for", "it comes after 003, which waits",
    ]  # fmt: skip
    assert (found.code, asked.code, everywhere.code) == (0, 4, 4)
    assert not any(one.waits for one in (*asked.revisions, *everywhere.revisions))
    with pytest.raises(WrongUse, match="phase is 'soon'"):
        read(project, phase="soon")


# --- locks that are not stored ----------------------------------------------------------------------------------------


def test_locks_that_are_missing_or_stale_are_traced(scratch: str, empty: Database, project: Project) -> None:
    """A scratch database shows them; this one is only asked, and no file is written."""
    begun(project, 10)
    pending(project, FLAG, None)
    missing = read(project)
    pending(project, FLAG, Found({"public.thing": "SHARE"}))
    file = project.versions / "002_alter_thing002.py"
    file.write_text(file.read_text().replace("boolean", "text"))
    stored = stored_locks.place(project.folder / "alembic", "002").read_text()

    stale = read(project)

    assert missing.revisions[0].locks.origin == "traced now: there is no alembic/locks/002.json"
    assert stale.revisions[0].locks.origin == "traced now: alembic/locks/002.json is of another text of the revision"
    for found in (missing, stale):
        assert {one.name: one.mode for one in found.revisions[0].locks.tables} == EXCLUSIVE
    assert stored_locks.place(project.folder / "alembic", "002").read_text() == stored
    assert empty.rows("SELECT attname FROM pg_attribute WHERE attrelid = 'thing'::regclass AND attnum > 0") == [
        ("id",), ("name",),
    ]  # fmt: skip


def test_locks_that_cannot_be_known_are_risky(
    empty: Database, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a server to trace on it is said why, and that somebody should look."""
    begun(project, 10)
    pending(project, FLAG, None)
    monkeypatch.setenv("PLANNER_ARCHIVE_CHECK_URL", "postgresql://nobody:geheim@/postgres?host=/nowhere")

    found = read(project)

    assert found.code == 4
    assert (
        found.revisions[0]
        .reasons[0]
        .startswith("its locks are not known: there is no alembic/locks/002.json, and Nothing listens at /nowhere:5432")
    )
    assert "geheim" not in plan_text.text(found) + json.dumps(plan_json.as_json(found)) + plan_markdown.markdown(found)


def test_a_type_that_does_not_exist_is_said_to_fail(scratch: str, empty: Database, project: Project) -> None:
    """What the scratch database refuses for its text will be refused here: that is no lock that is not known."""
    begun(project, 10)
    pending(project, FLAG.replace("boolean", "integr"), None)

    found = read(project)

    assert found.code == 4
    assert found.revisions[0].reasons == ('it will fail: type "integr" does not exist',)


# --- the way ----------------------------------------------------------------------------------------------------------


def test_nothing_is_changed_by_asking(empty: Database, project: Project) -> None:
    """Neither a table of the guard's nor a row of the version is written where nothing was run before."""
    project.revision("001", "create_a", "op.execute('CREATE TABLE a ()')", "op.execute('DROP TABLE a')")
    stored_locks.place(project.folder / "alembic", "001").parent.mkdir()
    stored_locks.place(project.folder / "alembic", "001").write_text(
        stored_locks.text({"upgrade": Found()}, trace.checksum(project_script(project), "001"))
    )

    found = read(project)

    assert (found.here, found.there, found.code) == ("base", "001", 0)
    assert empty.rows("SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace") == []
    assert empty.value("SELECT to_regnamespace('migration') IS NULL")


def test_without_a_database_sizes_are_the_committed_ones(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """FROM says where one stands; what only a database can tell is not known, and the error of one that is gone says how."""
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody:geheim@/none?host=/nowhere")
    project.revision(
        "001", "create_thing", 'op.execute("CREATE TABLE thing (id int)")', 'op.execute("DROP TABLE thing")'
    )
    pending(project, FLAG, LOCKS)
    sizes = TableStats(("001",), "18.0", {"public.thing": 70_000_000}, {"public.thing": 900_000})
    table_stats.place(project.folder / "alembic").write_text(table_stats.text(sizes))

    found = read(project, start="001")

    (table,) = found.revisions[0].locks.tables
    assert (table.bytes, table.rows, table.writes) == (70_000_000, 900_000, None)
    assert (found.database, found.rates, found.code) == (None, "", 0)
    assert "ADD flag boolean" in (found.revisions[0].sql or "")
    with pytest.raises(
        Broken, match=r"Nothing listens at /nowhere:5432\. Without it .* make migrate-plan FROM=003"
    ) as error:
        read(project)
    assert "geheim" not in error.value.text()


def test_a_way_back_is_another_command(empty: Database, project: Project) -> None:
    """A target that lies behind is wrong use, with the command that rehearses the way there; one that is here is nothing."""
    begun(project, 10)
    pending(project, FLAG, LOCKS)
    project.upgrade()

    with pytest.raises(WrongUse) as error:
        read(project, to="001")
    nothing = read(project)

    assert error.value.next_command == "make migrate-down TO=001 DRY_RUN=1"
    assert (nothing.revisions, nothing.code) == ((), 0)
    assert "from 002 to 002, nothing to do" in plan_text.text(nothing)


# --- the forms --------------------------------------------------------------------------------------------------------

PLAN_KEYS = [
    "format", "database", "environment", "from", "to", "risk", "exit_code", "sizes_from", "rates_from", "findings", "notes",
    "revisions",
]  # fmt: skip
REVISION_KEYS = [
    "revision", "title", "file", "type", "phase", "transaction", "reversible", "risk", "reasons", "waits", "skipped",
    "locks_from", "locks_unknown", "tables", "seconds", "deadline_ms", "reckoned", "not_reckoned", "before", "backfills",
    "findings", "sql", "no_sql",
]  # fmt: skip
TABLE_KEYS = [
    "table", "lock", "stops", "rewritten", "there", "bytes", "rows", "writes_per_second", "scans_per_second", "in_use_by",
]  # fmt: skip
FINDING_KEYS = ["code", "where", "refuses", "what", "why", "write"]


def test_the_json_is_the_documented_one(empty: Database, project: Project) -> None:
    """Names stay within a format, each of them is documented, and everything is a plain value."""
    begun(project, 60_000)
    pending(project, WIDER, REWRITES)
    docs = (ROOT / "docs" / "lint-trace-phases.md").read_text()

    found = json.loads(json.dumps(plan_json.as_json(read(project))))

    (one,) = found["revisions"]
    assert (found["format"], found["exit_code"], found["risk"]) == (1, 4, "risky")
    assert list(found) == PLAN_KEYS
    assert list(one) == REVISION_KEYS
    assert [list(table) for table in one["tables"]] == [TABLE_KEYS]
    assert [list(finding) for finding in one["findings"]] == [FINDING_KEYS]
    assert list(one["seconds"]) == ["least", "most", "held"]
    assert [key for key in (*PLAN_KEYS, *REVISION_KEYS, *TABLE_KEYS, *FINDING_KEYS) if f"`{key}`" not in docs] == []


HOSTILE = "a | b `c` </summary></details> <script>x</script> [l](http://evil.example) **bold** @team _u_ &amp; \\| ```"


def hand_made(title: str, sql: str) -> Plan:
    """A plan of one revision that says this."""
    locks = Locks(
        "alembic/locks/002.json", (Table("public.thing", "ACCESS EXCLUSIVE", bytes=8192, rows=7, users=(title,)),)
    )
    one = Revision(
        revision="002", title=title, file="versions/002_x.py", phase="expand", type="schema", transaction="single",
        reversible="stash", locks=locks, estimate=Estimate(0.0, None, None, unknown=(title,)), deadline_ms=200, sql=sql,
        backfills=(title, f"  {title}"), reasons=(title,),
    )  # fmt: skip
    return Plan("d at h:1", "development", "001", "002", (one,), notes=(title, "1. one", "- two", "+ three"))


def test_of_many_revisions_only_what_matters_is_told() -> None:
    """From the sixth on: the table of all, what somebody should look at, and how to have the rest; JSON and Markdown keep all."""
    one = dataclasses.replace(hand_made("title", "ADD flag boolean").revisions[0], reasons=(), backfills=())
    many = tuple(dataclasses.replace(one, revision=f"{number:03}") for number in range(1, 31))
    risky = dataclasses.replace(one, revision="031", reasons=("its locks are not known",), waits="contract: not now")
    plan = Plan("d at h:1", "development", "base", "031", (*many, risky))
    full = plan_text.text(plan, full=True)

    said = plan_told.form(None, None)(plan)

    assert plan_told.form(None, None, "1")(plan) == full
    assert plan_text.text(dataclasses.replace(plan, revisions=many[:5])).count("ADD flag boolean") == 5
    assert full.count("ADD flag boolean") == 31 and "ADD flag boolean" not in said
    assert len(said.splitlines()) < 50 < len(full.splitlines())
    assert [line.split()[0] for line in said.splitlines() if line.startswith("0")] == [f"{n:03}" for n in range(1, 32)]
    assert "=== 031  title\nwaits     contract: not now\nrisk      risky\n          its locks are not known\n\n" in said
    assert said.count("===") == 1
    assert "The SQL, locks and times of all 31 revisions: make migrate-plan FULL=1" in said
    assert len(json.loads(plan_told.form("1", None)(plan))["revisions"]) == 31
    assert plan_told.form(None, "markdown")(plan).count("ADD flag boolean") == 31


def test_nothing_breaks_out_of_the_markdown() -> None:
    """What a revision says with pipes, backticks and tags stays in its cell, its item, its summary and its fence."""
    sql = "COMMENT ON TABLE thing IS 'x\n```\n</details>\n| a | b |\n````sql\n';"

    page = plan_markdown.markdown(hand_made(HOSTILE, sql))

    lines = page.split("\n")
    begin = next(place for place, line in enumerate(lines) if line.startswith("```"))
    fence = lines[begin].removesuffix("sql")
    end = lines.index(fence, begin + 1)
    outside = [*lines[:begin], *lines[end + 1 :]]
    assert fence == "`````"
    assert "\n".join(lines[begin + 1 : end]) == sql
    assert [line.count("|") for line in outside if "|" in line] == [len(plan_text.COLUMNS) + 1] * 3
    assert re.findall(r"<[^>]*>", "\n".join(outside)) == ["<details>", "<summary>", "</summary>", "</details>"]
    assert not re.search(r"`|\]\(|@team|://|_u_|\\|\*\*bold", "\n".join(outside))
    assert [line for line in outside if re.match(r"- (\d+[.)]|[-+]) ", line)] == []


@pytest.mark.parametrize(
    ("said", "written"),
    [
        ("mcp_task_dev at 127.0.0.1:5432, +1 · ✓ done", "mcp_task_dev at 127.0.0.1:5432, +1 · ✓ done"),
        ('alembic/versions/026_add_note.py: "a" = 1.5', 'alembic/versions/026_add_note.py: "a" = 1.5'),
        ("_u_ x__y @team a|b", "&#95;u&#95; x&#95;&#95;y &#64;team a&#124;b"),
        (
            "see http://evil.example/a.b or WWW.evil.example",
            "see http:&#47;/evil&#46;example/a&#46;b or WWW&#46;evil&#46;example",
        ),
        ("- one", "&#45; one"),
        ("1. one", "1&#46; one"),
        ("--- x", "&#45;-- x"),
        ("=== x", "&#61;== x"),
    ],
)
def test_only_what_means_something_is_written_as_a_number(said: str, written: str) -> None:
    """On a terminal names are to be read; what would begin a link, a list, a heading or emphasis is none all the same."""
    assert plan_markdown.text(said) == written


def test_markdown_that_is_too_long_goes_without_its_sql(monkeypatch: pytest.MonkeyPatch) -> None:
    """A comment has a limit: then it is said where the SQL is to be had, and the rest stays."""
    plan = hand_made("title", "ADD flag boolean")
    whole = plan_markdown.markdown(plan)
    monkeypatch.setattr(plan_markdown, "LIMIT", len(whole) - 1)

    cut = plan_markdown.markdown(plan)

    assert "ADD flag boolean" in whole and "ADD flag boolean" not in cut
    assert "The SQL is too long for a comment: make migrate-plan TO=002" in cut


def test_a_password_is_in_no_form(empty: Database, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """The database is named by its name and its place."""
    begun(project, 10)
    pending(project, FLAG, LOCKS)
    monkeypatch.setenv("DATABASE_URL", empty.url.replace("postgres@", "postgres:geheim@"))

    found = read(project)

    assert found.database == f"{empty.name} at {empty.host}:{empty.port}"
    assert "geheim" not in plan_text.text(found) + json.dumps(plan_json.as_json(found)) + plan_markdown.markdown(found)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["FROM=022", "TO=023", "JSON=1"], 0, '"from": "022"'),
        (["FROM=023", "TO=024", "FORMAT=markdown"], 0, "<summary>🟢 024 "),
        (["FORMAT=html"], 2, "FORMAT is 'html'; it is markdown or left out"),
        (["FORMAT=markdown", "JSON=1"], 2, "JSON and FORMAT both say how it is told"),
        (["FROM=023", "TO=022"], 2, "022 lies behind 023"),
        (["FROM=22"], 2, "There is no revision 22. 022 is meant?"),
    ],
)
def test_the_command(arguments: list[str], code: int, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each form of the command on MCP-Planner's own chain, without a database, and its wrong forms."""
    ended = cli.main(["migrate-plan", *arguments])

    said = capsys.readouterr()
    assert ended == code
    assert says in (said.err if code == 2 else said.out)


@pytest.mark.long
def test_the_whole_chain_can_be_planned(planner: Config, empty: Database) -> None:
    """Every revision from base on has its SQL, its stored locks and a time, and on an empty database none of them is risky."""
    found = plan.read(planner)

    assert found.there == HEAD and found.code == 0
    assert [one.revision for one in found.revisions if not one.sql or not one.locks.origin.startswith("alembic/")] == []
