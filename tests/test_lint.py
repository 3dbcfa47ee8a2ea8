"""The SQL of what is to be deployed next: which tables count, when a finding only warns, and what is not judged."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory

from mcp_planner_schema.guard import judge, settings, stored_locks
from mcp_planner_schema.guard.findings import RULES, Broken, WrongUse
from mcp_planner_schema.guard.findings_lint import CONTRACTS, LINT_RULES, SIZED
from mcp_planner_schema.inspect import lint, squawk, statements, table_stats, trace
from mcp_planner_schema.inspect.lint import Lint
from mcp_planner_schema.inspect.table_stats import TableStats
from mcp_planner_schema.inspect.trace import Traced
from tests.conftest import ROOT, Database, Project
from tests.test_judge import BAD, GOOD, REVISIONS, SECOND, TODAY, code_of, copy, install, installed_as, validate
from tests.test_trace import scratch

__all__ = ["copy", "scratch"]  # fixtures
INDEX = REVISIONS / "bad_index_blocking.py"
asked = pytest.mark.skipif(squawk.program() is None, reason="squawk is not installed: make setup")


def linted(project: Project) -> Lint:
    """What migrate-validate would find in the SQL, of revisions without other findings."""
    config = project.config()
    script = ScriptDirectory.from_config(config)
    judged = judge.judge_all(script, settings.load(config, {}), TODAY)
    assert [finding.text() for one in judged for finding in one.findings] == []
    return lint.lint(config, script, judged, TODAY)


def second(project: Project, upgrade: str, **kind: str) -> Lint:
    """Judge one revision 002 on the fixtures' tables."""
    install(project, INDEX)
    (project.versions / "002_alter_thing.py").unlink()
    project.revision("002", "alter_thing", upgrade, 'op.execute("SELECT 1")', **kind)  # type: ignore[arg-type]
    return linted(project)


def stats(project: Project, heads: tuple[str, ...], **sizes: int) -> None:
    """Write the project's table stats."""
    by_name = {f"public.{name}": size for name, size in sizes.items()}
    text = table_stats.text(TableStats(heads, "18.0", by_name, dict.fromkeys(by_name, 1)))
    table_stats.place(project.folder / "alembic").write_text(text)


def codes(found: Lint) -> tuple[list[str], list[str]]:
    """The codes of findings and of warnings."""
    return [one.code for one in found.findings], [one.code for one in found.warnings]


# --- which revisions and tables count ---------------------------------------------------------------------------------


def test_a_table_of_the_same_deploy_is_exempt(project: Project) -> None:
    """Where nothing was deployed yet, the tables are nobody's: the same revision that is refused later is let through."""
    install(project, INDEX)
    deployed = linted(project)

    table_stats.place(project.folder / "alembic").unlink()
    together = linted(project)

    assert codes(deployed) == (["index-blocking"], [])
    assert codes(together) == ([], [])
    assert (deployed.judged, together.judged) == (1, 2)


def test_what_is_applied_is_not_judged_again(project: Project) -> None:
    """Revisions up to the table stats' are history: nothing is said of them."""
    install(project, INDEX)

    stats(project, ("002",))

    assert linted(project) == Lint(0, since="002")


def test_stats_of_another_history_are_told(project: Project) -> None:
    """Stats that name an unknown revision divide nothing: all is judged, and the command to type is said."""
    install(project, INDEX)

    stats(project, ("777",))

    found = linted(project)
    assert found.judged == 2
    assert any("make table-stats" in note for note in found.notes)


@pytest.mark.parametrize(("size", "refused"), [(table_stats.SMALL, False), (table_stats.SMALL + 1, True)])
def test_a_small_table_makes_it_a_warning(project: Project, size: int, refused: bool) -> None:
    """What hurts by its length does not on a table that is read within the wink of an eye."""
    install(project, INDEX)

    stats(project, ("001",), thing=size)

    assert codes(linted(project)) == ((["index-blocking"], []) if refused else ([], ["index-blocking"]))


def test_a_small_table_makes_nothing_else_a_warning(project: Project) -> None:
    """What breaks the release that runs breaks it on a table of one row."""
    install(project, REVISIONS / "bad_column_renamed.py")

    stats(project, ("001",), thing=8192)

    assert codes(linted(project)) == (["column-renamed"], [])


def test_a_waiver_lifts_a_finding_until_its_day(project: Project) -> None:
    """Each code of the SQL can be waived in the header, as others can."""
    waiver = "Waive: index-blocking | the table is read by nobody at night | {}"
    on = second(project, 'op.create_index("ix", "thing", ["size"])', extra=waiver.format("2026-12-31"))

    assert codes(on) == ([], [])
    assert all(rule.waivable for rule in LINT_RULES if rule.code != "contract-held")


@pytest.mark.parametrize("code", sorted(CONTRACTS))
def test_a_contract_may_take_away(project: Project, code: str) -> None:
    """What a contract revision is for is no finding in one."""
    name = f"{code.replace('-', '_')}.py"
    install(project, REVISIONS / f"bad_{name}")
    before = linted(project)

    file = project.versions / "002_alter_thing.py"
    file.write_text(file.read_text().replace("Phase: expand", "Phase: contract"))

    assert code in [one.code for one in (*before.findings, *before.warnings)]
    assert codes(linted(project)) == ([], [])


def test_a_revision_that_asks_is_judged_as_far_as_it_goes(project: Project) -> None:
    """What comes before the question counts, and that something came after it is said."""
    found = second(
        project,
        'op.create_index("ix", "thing", ["size"])\n'
        'if op.get_bind().execute(sa.text("SELECT 1")).scalar():\n    op.drop_table("thing")',
    )

    assert codes(found) == (["index-blocking"], [])
    assert any("the SQL of 002 was judged as far as it goes offline" in note for note in found.notes)


def test_a_finding_names_the_line_of_its_statement(project: Project) -> None:
    """In a helper and in a loop too, the line is that of upgrade()."""
    found = second(
        project,
        'for column in ("size", "note"):\n    op.create_index(f"ix_{column}", "thing", [column])',
    )

    text = (project.versions / "002_alter_thing.py").read_text().split("\n")
    lines = [text[int(one.where.rpartition(":")[2]) - 1].strip() for one in found.findings]
    assert lines == ['op.create_index(f"ix_{column}", "thing", [column])'] * 2
    assert [one.revision for one in found.findings] == ["002", "002"]


def test_a_finding_says_what_to_write_with_the_names_of_the_revision(project: Project) -> None:
    """The operation stands there with table, name and columns, to be pasted."""
    found = second(project, 'op.create_index("ix_thing_size", "thing", ["size", "note"])')

    assert 'op.create_index_concurrently("ix_thing_size", "thing", ["size", "note"])' in found.findings[0].text()


def test_an_operations_own_transaction_is_no_finding(project: Project) -> None:
    """BEGIN … COMMIT that is written in an autocommit block is a transaction like the guard's, and is judged as one."""
    added = "ALTER TABLE thing ADD CONSTRAINT c CHECK (size > 0) NOT VALID"
    inside = f"BEGIN; {added}; ALTER TABLE thing VALIDATE CONSTRAINT c; COMMIT"
    found = second(
        project, f"with op.get_context().autocommit_block():\n    op.execute({inside!r})", transaction="none"
    )

    assert codes(found) == (["validate-in-transaction"], [])


def test_literals_and_comments_are_no_code(project: Project) -> None:
    """What only stands in a string, a comment or a function's body is not what the statement does."""
    found = second(
        project,
        "op.execute(\"COMMENT ON TABLE thing IS 'DROP TABLE thing; ALTER TABLE thing RENAME TO a' /* DROP TABLE thing */\")\n"
        "op.execute(\"CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'DROP TABLE thing'; END $$\")\n"
        "op.execute(\"DO $$ BEGIN RAISE NOTICE 'DROP TABLE thing'; /* DROP TABLE thing; */ END $$\")",
    )

    assert codes(found) == ([], [])


@pytest.mark.parametrize(
    "name", ["public.thing", '"thing"', 'public."thing"', "ONLY thing", "IF EXISTS thing", "THING"]
)
def test_a_table_is_known_however_it_is_written(project: Project, name: str) -> None:
    """Schema, quotes, capitals and ONLY make no other table."""
    stats_of = second(project, f"op.execute('ALTER TABLE {name} ALTER COLUMN note TYPE text')")
    stats(project, ("001",), thing=8192)

    assert codes(stats_of) == (["column-type-changed"], [])
    assert codes(linted(project)) == ([], ["column-type-changed"])


# --- squawk -----------------------------------------------------------------------------------------------------------


@asked
def test_squawk_is_asked_about_what_no_rule_of_ours_knows(project: Project) -> None:
    """A statement that PostgreSQL will not understand is found before it is deployed."""
    found = second(project, 'op.execute("ALTER TABLE thing ALTER COLUM note SET NOT NUL")')

    assert set(codes(found)[0]) == {"squawk-objects"}
    assert "squawk objects to ALTER TABLE thing" in found.findings[0].text()


@asked
def test_squawk_leaves_alone_what_is_in_order(project: Project) -> None:
    """Nothing is said of a plain change."""
    found = second(project, 'op.execute("ALTER TABLE thing ADD COLUMN kind text")')

    assert found == Lint(1, since="001")


def squawking(tmp_path: Path, answer: str) -> str:
    """A program that answers as told, and notes what it was given."""
    program = tmp_path / "squawk"
    program.write_text(f"#!/bin/sh\necho \"$@\" >> {tmp_path}/given\ncat >> {tmp_path}/given\necho '{answer}'\n")
    program.chmod(0o755)
    return str(program)


def test_squawk_is_told_version_and_transaction(project: Project, tmp_path: Path) -> None:
    """Statements of one transaction are judged together, one that commits by itself alone, for the server there is."""
    second(project, 'op.execute("SELECT 1")\nop.execute("SELECT 2")\nwith op.get_context().autocommit_block():\n'
                    '    op.execute("SELECT 3")', transaction="none")  # fmt: skip
    config = project.config()
    script = ScriptDirectory.from_config(config)
    sent = statements.capture(config, script, script.get_revision("002")).statements

    squawk.objections(squawking(tmp_path, "[]"), sent, "16.4")

    assert (tmp_path / "given").read_text().splitlines() == [
        "--reporter=json --pg-version=16.4 --assume-in-transaction", "SELECT 1;", "SELECT 2;",
        "--reporter=json --pg-version=16.4", "SELECT 3;",
    ]  # fmt: skip


def test_an_answer_that_is_none_is_told(project: Project, tmp_path: Path) -> None:
    """A program that is no squawk, or another one, is no silence."""
    second(project, 'op.execute("SELECT 1")')
    config = project.config()
    script = ScriptDirectory.from_config(config)
    sent = statements.capture(config, script, script.get_revision("002")).statements

    with pytest.raises(Broken, match="squawk gave no answer: what is that"):
        squawk.objections(squawking(tmp_path, "what is that"), sent, "18.0")


def test_without_squawk_it_is_said(project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Judged by our own rules alone, the person is told so, and how to get the other opinion."""
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    install(project, INDEX)

    found = linted(project)

    assert codes(found) == (["index-blocking"], [])
    assert any("pip install squawk-cli" in note for note in found.notes)


def test_every_rule_of_squawks_that_is_mapped_has_a_finding() -> None:
    """What is left to our own rules is in the catalogue, and nothing is both left out and covered."""
    assert set(squawk.COVERED.values()) <= set(RULES)
    assert not squawk.COVERED.keys() & squawk.LEFT_OUT.keys()
    assert {rule.code for rule in LINT_RULES} >= SIZED | CONTRACTS


# --- the command ------------------------------------------------------------------------------------------------------


def added(copy: Path, statement: str, back: str = 'op.drop_table("thing")') -> subprocess.CompletedProcess[str]:
    """``make migrate-validate`` with one more revision in a copy of this repository."""
    versions = copy / "alembic" / "versions"
    last = max(path.name[:3] for path in versions.glob("*.py"))
    text = (REVISIONS / "good_plain.py").read_text()
    text = text.replace("001", f"{int(last) + 1:03}").replace("Dependencies: None", f"Dependencies: {last}")
    text = text.replace("down_revision = None", f'down_revision = "{last}"').replace(
        "CREATE TABLE thing (id int PRIMARY KEY)", statement
    )
    text = text.replace('op.drop_table("thing")', back)
    (versions / f"{int(last) + 1:03}_alter_thing.py").write_text(text)
    stored = json.loads(table_stats.place(copy / "alembic").read_text())
    table_stats.place(copy / "alembic").write_text(json.dumps({**stored, "version": [last]}))
    return validate(copy)


def test_validate_refuses_sql_that_would_be_noticed(copy: Path) -> None:
    """A rename on a table that is in use is exit 3, told with file, line and what to write; no database is asked."""
    done = added(copy, "ALTER TABLE steps RENAME COLUMN title TO name")

    assert done.returncode == 3
    assert ": column-renamed\n" in done.stdout
    assert re.search(
        "1 of them is newer than [0-9]+, which alembic/table-stats.json says is deployed: its SQL", done.stdout
    )
    assert "next: correct the first one above, then make migrate-validate" in done.stderr


def test_validate_warns_and_ends_with_0(copy: Path) -> None:
    """A warning is told and stops nobody."""
    done = added(copy, "ALTER TABLE steps ALTER COLUMN title DROP NOT NULL")

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("warning: alembic/versions/")
    assert "no findings" in done.stdout


def test_a_revision_that_cannot_be_imported_is_told(copy: Path) -> None:
    """What nobody can see in the text comes out as one sentence with file and line, and no traceback."""
    (path,) = (copy / "alembic" / "versions").glob("024_*.py")
    path.write_text(path.read_text().replace("\nrevision", "\nfrom alembic import nothing_of_that_name\n\nrevision", 1))

    done = validate(copy)

    assert done.returncode == 1
    assert f"The history cannot be loaded at alembic/versions/{path.name}:" in done.stderr
    assert "ImportError: cannot import name 'nothing_of_that_name'" in done.stderr
    assert "Traceback" not in done.stderr
    assert "then make migrate-validate" in done.stderr


# --- table stats ------------------------------------------------------------------------------------------------------


def test_the_stats_are_of_a_revision_that_is_here(planner: Config) -> None:
    """The committed file divides this history, and knows its tables."""
    found = table_stats.load(ROOT / "alembic")

    assert ScriptDirectory.from_config(planner).get_revision(found.heads[0]) is not None
    assert "public.steps" in found.bytes


def test_stats_hold_sizes_and_nothing_else(empty: Database, project: Project) -> None:
    """Rows and bytes of each table, partitions counted with their parent, rounded; text that is the same the next time."""
    project.revision(
        "001", "create_a",
        'op.execute("CREATE TABLE a AS SELECT generate_series(1, 12345) AS i; ANALYZE a")\n'
        'op.execute("CREATE TABLE p (i int) PARTITION BY RANGE (i)")\n'
        'op.execute("CREATE TABLE p1 PARTITION OF p DEFAULT")\n'
        'op.execute("INSERT INTO p SELECT generate_series(1, 2000); ANALYZE p1")',
        'op.execute("DROP TABLE a, p")', expectations='expect.table("a")',
    )  # fmt: skip
    project.upgrade()

    found = table_stats.measure(project.config())
    again = table_stats.measure(project.config())

    assert found.heads == ("001",) and found.server.startswith("18.")
    assert found.rows == {"public.a": 12000, "public.p": 2000, "public.p1": 2000}
    assert found.bytes["public.p"] == found.bytes["public.p1"] > 0
    assert table_stats.text(found) == table_stats.text(again)
    assert found.small("a") and found.small("public.p") and not found.small("unknown")


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"version": ["001"], "server": "18", "tables": [1]}', '{"version": 1}']
)
def test_stats_that_cannot_be_read_are_wrong_use(project: Project, text: str) -> None:
    """A damaged file is told with the command that makes a new one; silence would exempt every table."""
    place = table_stats.place(project.folder / "alembic")
    place.write_text(text)

    with pytest.raises(WrongUse, match="cannot be read") as caught:
        table_stats.load(project.folder / "alembic")

    assert "make table-stats" in caught.value.next_command


# --- the examples, run ------------------------------------------------------------------------------------------------

EXAMPLES = [one for one in (*BAD, *GOOD) if installed_as(one) == SECOND]
REFUSED = {
    **{
        f"bad_concurrently_in_transaction{name}": "inside a transaction"
        for name in ("", "_drop", "_reindex", "_detach")
    },
    "bad_schema_dropped_database": "does not exist",
}
"""Bad examples that PostgreSQL itself refuses, and what it says."""
REWRITES = {"column-default-volatile", "column-generated", "column-numbered", "column-type-changed"}
READS = {
    "check-blocking", "not-null-blocking", "unique-blocking", "primary-key-blocking", "exclusion-blocking",
    "foreign-key-blocking", "index-blocking", "validate-in-transaction", "scans-repeated", "reindex-blocking",
}  # fmt: skip


def long_under_lock(one: Traced, *, alone: bool) -> list[str]:
    """The statements that read or write a whole table while a lock stops its writers."""
    held: dict[str, list[str]] = {}
    found = []
    for taken in one.statements:
        held = {} if alone else held
        for table, mode in taken.locks.items():
            held.setdefault(table, []).append(mode)
        stopped = {
            table
            for table, modes in held.items()
            if stored_locks.MODES.index(stored_locks.strongest(modes)) >= stored_locks.MODES.index("SHARE")
        }
        if stopped & (taken.scanned | taken.rewritten):
            found.append(taken.shown())
    return found


@pytest.mark.long
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_does_what_its_rule_says(scratch: str, project: Project, example: Path) -> None:
    """Run on a server, each bad example reads or rewrites under its lock where the rule says so; no good one does."""
    install(project, example)
    bad = example in BAD
    code = code_of(example) if bad else ""
    if example.stem in REFUSED:
        with pytest.raises(Broken, match=REFUSED[example.stem]):
            trace.trace(project.config(), "002")
        return

    up = trace.trace(project.config(), "002")[0]

    alone = "Transaction: none" in example.read_text()
    if code in REWRITES:
        assert up.found().rewritten == ("public.thing",)
    if code in REWRITES | READS:
        assert long_under_lock(up, alone=alone)
    if not bad and example.stem != "good_view_refresh_blocking":  # an EXCLUSIVE lock, which lets readers pass
        assert long_under_lock(up, alone=alone) == []
