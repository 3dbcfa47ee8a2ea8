"""What migrate-trace reads is what the server did: locks, rewrites and scans, of statements inside a transaction and outside."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory

from mcp_planner_schema import cli
from mcp_planner_schema.guard import stored_locks
from mcp_planner_schema.guard.findings import Broken, WrongUse
from mcp_planner_schema.inspect import trace
from mcp_planner_schema.inspect.trace import Traced
from tests.conftest import HEAD, ROOT, Database, Project, ServerAddress

REVISIONS = sorted(path.name[:3] for path in (ROOT / "alembic" / "versions").glob("*.py"))


@pytest.fixture
def scratch(embedded_server: ServerAddress, monkeypatch: pytest.MonkeyPatch) -> str:
    """Scratch databases are made on the tests' own server."""
    url = f"postgresql://postgres@/postgres?host={embedded_server.host}&port={embedded_server.port}"
    monkeypatch.setenv("PLANNER_ARCHIVE_CHECK_URL", url)
    return url


@pytest.fixture(scope="module")
def history() -> ScriptDirectory:
    """MCP-Planner's own, loaded once."""
    return ScriptDirectory.from_config(Config(str(ROOT / "alembic.ini")))


def traced(project: Project, upgrade: str, downgrade: str, transaction: str = "single") -> tuple[Traced, Traced]:
    """Revision 002 on top of one that creates parent, thing (with an index and a row of a view) and part of parts."""
    made = """
        CREATE TABLE parent (id int PRIMARY KEY);
        CREATE TABLE thing (id int PRIMARY KEY, parent_id int, name text);
        CREATE INDEX ix_thing_name ON thing (name);
        CREATE TABLE parts (id int) PARTITION BY RANGE (id);
        CREATE TABLE part PARTITION OF parts FOR VALUES FROM (0) TO (10);
    """
    project.revision(
        "001", "create_things", f'op.execute("""{made}""")', 'op.execute("DROP TABLE thing, parent, parts")'
    )
    project.revision("002", "alter_thing", upgrade, downgrade, transaction=transaction)
    up, down = trace.trace(project.config(), "002")
    return up, down


def autocommit(*statements: str) -> str:
    """A body that sends each statement by itself."""
    return "with op.get_context().autocommit_block():\n" + "\n".join(f"    op.execute({one!r})" for one in statements)


@pytest.mark.parametrize("revision", REVISIONS)
def test_every_revision_has_its_locks_stored(revision: str, history: ScriptDirectory) -> None:
    """A revision comes with its file: both directions, modes as LOCK TABLE says them, no number of a database in it, and the
    checksum of the revision as it is now."""
    stored = json.loads(stored_locks.place(ROOT / "alembic", revision).read_text())

    assert list(stored) == ["upgrade", "downgrade", "source"]
    assert stored.pop("source") == trace.checksum(history, revision)
    assert {mode for found in stored.values() for mode in found["locks"].values()} <= set(stored_locks.MODES)
    assert not any(char.isdigit() for char in json.dumps(stored))


def test_the_stored_locks_are_those_that_are_taken(scratch: str, planner: Config) -> None:
    """A revision whose locks differ from its file fails here: make migrate-trace VERSION=… stores the new ones."""
    found: dict[str, dict[str, stored_locks.Found]] = {}
    for one in trace.trace(planner, "all"):
        found.setdefault(one.revision, {})[one.direction] = one.found()

    assert sorted(found) == REVISIONS
    for revision, both in found.items():
        file = stored_locks.place(ROOT / "alembic", revision)
        assert stored_locks.text(both, stored_locks.source(ROOT / "alembic", revision)) == file.read_text(), revision


def test_a_transaction_is_read_statement_by_statement(scratch: str, project: Project) -> None:
    """Each statement shows what it added; what is stored is the strongest."""
    up, down = traced(
        project,
        'op.execute("COMMENT ON TABLE thing IS \'a\'")\nop.execute("ALTER TABLE thing ADD c int")',
        'op.drop_column("thing", "c")',
    )

    assert [dict(taken.locks) for taken in up.statements] == [
        {"public.thing": "SHARE UPDATE EXCLUSIVE"}, {"public.thing": "ACCESS EXCLUSIVE"},
    ]  # fmt: skip
    assert up.found().locks == {"public.thing": "ACCESS EXCLUSIVE"}
    assert down.found().locks == {"public.thing": "ACCESS EXCLUSIVE"}
    assert up.found().rewritten == ()


@pytest.mark.parametrize(
    ("statement", "rewrites"),
    [
        ("ALTER TABLE thing ALTER name TYPE varchar(9)", True),
        ("ALTER TABLE thing ALTER id TYPE bigint", True),
        ("ALTER TABLE thing ADD c timestamptz DEFAULT clock_timestamp()", True),
        ("ALTER TABLE thing ADD c timestamptz DEFAULT now()", False),
        ("ALTER TABLE thing ADD c int GENERATED ALWAYS AS (id + 1) STORED", True),
        ("ALTER TABLE thing ALTER parent_id DROP NOT NULL", False),
        ("ALTER TABLE thing SET UNLOGGED", True),
    ],
)
def test_a_rewrite_is_found_by_experiment(scratch: str, project: Project, statement: str, rewrites: bool) -> None:
    """Whether a table is written anew is read from its file, not from the statement."""
    up, _ = traced(project, f"op.execute({statement!r})", 'op.execute("SELECT 1")')

    assert up.found().rewritten == (("public.thing",) if rewrites else ())


def test_a_scan_is_seen_on_an_empty_table(scratch: str, project: Project) -> None:
    """A constraint that reads the table says so; NOT VALID does not."""
    up, _ = traced(
        project,
        'op.execute("ALTER TABLE thing ADD CONSTRAINT a CHECK (id > 0) NOT VALID")\n'
        'op.execute("ALTER TABLE thing ADD CONSTRAINT b CHECK (id > 0)")',
        'op.execute("ALTER TABLE thing DROP CONSTRAINT a, DROP CONSTRAINT b")',
    )

    assert [sorted(taken.scanned) for taken in up.statements] == [[], ["public.thing"]]


def test_a_foreign_key_locks_both_tables(scratch: str, project: Project) -> None:
    """The table that is referred to is locked too, and the one that is new is in no list."""
    up, _ = traced(
        project,
        'op.execute("CREATE TABLE fresh (id int REFERENCES parent)")',
        'op.execute("DROP TABLE fresh")',
    )

    assert up.found().locks == {"public.parent": "SHARE ROW EXCLUSIVE"}


def test_a_dropped_table_is_named(scratch: str, project: Project) -> None:
    """What is gone at the end was there before."""
    up, _ = traced(project, 'op.execute("DROP TABLE parts")', 'op.execute("CREATE TABLE parts ()")')

    assert up.found().locks == {"public.parts": "ACCESS EXCLUSIVE", "public.part": "ACCESS EXCLUSIVE"}


@pytest.mark.parametrize(
    ("statement", "back", "locks"),
    [
        ("CREATE INDEX CONCURRENTLY ix ON thing (parent_id)", "DROP INDEX CONCURRENTLY ix",
         {"public.thing": "SHARE UPDATE EXCLUSIVE"}),
        ("REINDEX TABLE CONCURRENTLY thing", "SELECT 1", {"public.thing": "SHARE UPDATE EXCLUSIVE"}),
        ("VACUUM thing", "SELECT 1", {"public.thing": "SHARE UPDATE EXCLUSIVE"}),
        ("ALTER TABLE parts DETACH PARTITION part CONCURRENTLY",
         "ALTER TABLE parts ATTACH PARTITION part FOR VALUES FROM (0) TO (10)",
         {"public.parts": "SHARE UPDATE EXCLUSIVE", "public.part": "ACCESS EXCLUSIVE"}),
    ],
)  # fmt: skip
def test_what_cannot_run_in_a_transaction_is_held_up_and_read(
    scratch: str, project: Project, statement: str, back: str, locks: dict[str, str]
) -> None:
    """A statement that commits by itself shows what it waits for, and does its work all the same."""
    up, down = traced(project, autocommit(statement), autocommit(back), transaction="none")

    assert up.found().locks == locks
    if back.startswith("DROP INDEX"):
        assert down.found().locks == {"public.thing": "SHARE UPDATE EXCLUSIVE"}


def test_a_blocking_statement_that_commits_by_itself_is_read(scratch: str, project: Project) -> None:
    """Its locks are gone when it ends; a run in a transaction beside it shows them, each statement by itself."""
    up, _ = traced(
        project,
        autocommit(
            "CREATE INDEX ix ON thing (parent_id)", "ALTER TABLE parent ADD c int; ALTER TABLE parent ADD d int"
        ),
        autocommit("DROP INDEX ix", "ALTER TABLE parent DROP c, DROP d"),
        transaction="none",
    )

    assert [dict(taken.locks) for taken in up.statements] == [
        {"public.thing": "SHARE"}, {"public.parent": "ACCESS EXCLUSIVE"},
    ]  # fmt: skip


def test_no_scratch_database_is_left(scratch: str, project: Project, empty: Database) -> None:
    """A trace that ends, well or badly, drops what it made, and names the revision that does not run."""
    project.revision("001", "create_a", 'op.execute("CREATE TABLE a (b nothing)")', 'op.drop_table("a")')

    with pytest.raises(Broken, match="Revision 001 cannot be traced: its upgrade does not run"):
        trace.trace(project.config(), "001")

    assert empty.rows("SELECT datname FROM pg_database WHERE datname LIKE 'planner_trace%'") == []


def test_pending_is_what_the_database_has_not(scratch: str, project: Project, empty: Database) -> None:
    """Without VERSION the database is asked where it stands, and not touched."""
    for version in ("001", "002"):
        project.revision(version, f"create_t{version}", f"op.execute('CREATE TABLE t{version} ()')",
                         f"op.drop_table('t{version}')", expectations=f'expect.table("t{version}")')  # fmt: skip
    project.upgrade("001")

    found = trace.trace(project.config())
    project.upgrade()

    assert [(one.revision, one.direction) for one in found] == [("002", "upgrade"), ("002", "downgrade")]
    assert found[1].found().locks == {"public.t002": "ACCESS EXCLUSIVE"}
    assert trace.trace(project.config()) == []
    with pytest.raises(WrongUse, match="There is no revision 009"):
        trace.trace(project.config(), "009")


def test_what_is_stored_names_the_text_that_was_traced(scratch: str, project: Project) -> None:
    """With another body it is stale; a corrected header is none."""
    traced(project, 'op.execute("ALTER TABLE thing ADD c int")', 'op.drop_column("thing", "c")')
    script = ScriptDirectory.from_config(project.config())
    file = project.versions / "002_alter_thing.py"

    stored = trace.store(script, trace.trace(project.config(), "002"))
    same = file.write_text(file.read_text().replace("A Tester", "Another")) and trace.checksum(script, "002")
    other = file.write_text(file.read_text().replace("ADD c int", "ADD c text")) and trace.checksum(script, "002")

    assert stored == ["002"]
    assert stored_locks.source(script.dir, "002") == same != other
    assert stored_locks.found(script.dir, "002") == stored_locks.Found({"public.thing": "ACCESS EXCLUSIVE"})


def test_stored_locks_are_read_by_direction(tmp_path: Path) -> None:
    """A reader gets the tables of one direction, or None where nothing is stored."""
    file = stored_locks.place(tmp_path, "007")
    file.parent.mkdir()
    file.write_text(stored_locks.text({"upgrade": stored_locks.Found({"public.b": "SHARE", "public.a": "EXCLUSIVE"})}))

    assert list(stored_locks.locks(tmp_path, "007") or {}) == ["public.a", "public.b"]
    assert stored_locks.locks(tmp_path, "007", "downgrade") is None
    assert stored_locks.locks(tmp_path, "008") is None


def test_the_command_prints_a_table(scratch: str, database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """make migrate-trace VERSION=… shows statements with their locks; with nothing pending it says so."""
    code = cli.main(["migrate-trace", f"VERSION={HEAD}"])
    said = capsys.readouterr().out
    nothing = cli.main(["migrate-trace"])

    assert code == nothing == 0
    assert "ACCESS EXCLUSIVE" in said and "1 revisions traced, stored in alembic/locks" in said
    assert capsys.readouterr().out == "nothing is pending\n"
