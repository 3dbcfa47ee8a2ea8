"""``--sql``: text that psql runs as it is, with the result that the online run would have had."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config

from mcp_planner_schema import embedded
from tests.catalog import catalog, difference
from tests.conftest import ROOT, Database, Project

NOWHERE = {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"}


def written(project: Project, *arguments: str, **environment: str) -> str:
    """What the command writes to stdout; it must succeed and need no database."""
    ran = project.alembic(*arguments, "--sql", **NOWHERE, **environment)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def run(database: Database, folder: Path, text: str) -> None:
    """Run a file through psql, which must succeed without a word."""
    file = folder / "written.sql"
    file.write_text(text, encoding="utf-8")
    ran = database.psql(file)
    assert (ran.returncode, ran.stdout) == (0, ""), ran.stderr
    assert [line for line in ran.stderr.splitlines() if "NOTICE" not in line] == []


def test_the_planners_history_is_the_same_by_file(
    new_database: Callable[[], Database],
    database: Database,
    tmp_path: Path,
    planner: Config,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Up, down and up again by psql leave the catalogs that the online runs leave, and nothing in the guard's schema."""
    by_file, planned = new_database(), Project(ROOT)
    head = catalog(database)
    start = catalog(by_file)
    up = written(planned, "upgrade", "head")
    down = written(planned, "downgrade", "head:base")

    run(by_file, tmp_path, up)
    assert difference(catalog(by_file), head) == []
    assert by_file.value("SELECT version_num FROM alembic_version") == database.value(
        "SELECT version_num FROM alembic_version"
    )

    run(by_file, tmp_path, down)
    assert difference(catalog(by_file), start) == []
    assert by_file.rows("SELECT * FROM alembic_version") == []

    run(by_file, tmp_path, up)
    assert difference(catalog(by_file), head) == []
    assert by_file.rows("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'migration%'") == []

    # What a file has built, the guard goes on with.
    monkeypatch.setenv("DATABASE_URL", by_file.url)
    command.downgrade(planner, "-1")
    command.upgrade(planner, "head")
    assert difference(catalog(by_file), head) == []


def test_each_revision_is_written_in_one_order(project: Project) -> None:
    """Header, BEGIN, budgets, body, post-check, version row, COMMIT; a rollback says what it is for."""
    project.revision("001", "create_a", "op.execute('CREATE TABLE a (id int)')", "op.execute('DROP TABLE a')",
                     expectations='expect.table("a")')  # fmt: skip
    project.revision("002", "add_v", "op.execute('ALTER TABLE a ADD v int')", "op.execute('ALTER TABLE a DROP v')",
                     expectations='expect.column("a", "v")', more='budgets = {"lock_timeout": "5s"}')  # fmt: skip

    up, down = written(project, "upgrade", "head"), written(project, "downgrade", "002:base")

    for text, parts in (
        (up, [
            "\\set ON_ERROR_STOP on\n-- Written by the migration guard", "writes nothing into the schema migration",
            "-- Version: 001",
            "-- Description: Create a for a test", "-- Author: A Tester <tester@example.org>", "-- Date: 2026-01-31",
            "-- Dependencies: None", "-- Type: schema", "-- Phase: expand", "-- Transaction: single", "-- Reversible: stash",
            "BEGIN;", "CREATE TABLE IF NOT EXISTS alembic_version", "SET LOCAL lock_timeout = '200ms';",
            "SET LOCAL statement_timeout = '30000ms';", "SET LOCAL idle_in_transaction_session_timeout = '60000ms';",
            "001 begins at base", "CREATE TABLE a (id int);", "DO $check$", "Migration failed: revision 001: ", "$check$;",
            "INSERT INTO alembic_version (version_num) VALUES ('001');", "COMMIT;",
            "-- Version: 002", "BEGIN;", "SET LOCAL lock_timeout = '5000ms';", "ALTER TABLE a ADD v int;", "DO $check$",
            "UPDATE alembic_version SET version_num='002'", "COMMIT;",
        ]),
        (down, [
            "keeps nothing of what it destroys", "-- Rollback for: 002 Add v", "-- Version: 002", "BEGIN;", "SET LOCAL",
            "002 begins at 002", "ALTER TABLE a DROP v;", "DO $check$", "Rollback failed: revision 002: ", "$check$;",
            "UPDATE alembic_version SET version_num='001'", "COMMIT;", "-- Rollback for: 001 Create a", "-- Version: 001",
            "BEGIN;", "SET LOCAL", "DROP TABLE a;", "DO $check$", "DELETE FROM alembic_version", "COMMIT;",
        ]),
    ):  # fmt: skip
        place = 0
        for part in parts:
            assert part in text[place:], (part, text[place:])
            place = text.index(part, place) + len(part)
        assert text[place:].strip() == ""
    assert (up.count("BEGIN;"), up.count("COMMIT;")) == (2, 2)


def test_a_partial_range_is_only_that(project: Project, empty: Database, tmp_path: Path) -> None:
    """from:to writes the steps between and no version table; the file continues where the database is."""
    for version in ("001", "002", "003"):
        table = f"t{version}"
        project.revision(version, f"create_{table}", f"op.execute('CREATE TABLE {table} ()')", f"op.drop_table('{table}')",
                         expectations=f'expect.table("t{version}")')  # fmt: skip
    project.upgrade("001")

    text = written(project, "upgrade", "001:003")
    run(empty, tmp_path, text)

    assert "alembic_version (" not in text and "Version: 001" not in text
    assert empty.rows("SELECT version_num FROM alembic_version") == [("003",)]

    run(empty, tmp_path, written(project, "downgrade", "003:002"))
    assert empty.rows("SELECT version_num, to_regclass('t003')::text FROM alembic_version") == [("002", None)]


def test_values_reach_the_server_unchanged(
    project: Project,
    empty: Database,
    new_database: Callable[[], Database],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Percent signs, tabs, colons, backslashes, quotes and other scripts are the same by file as online."""
    value = '50% %s %(x)s\tb\\c d\'e "f" :USER :g é Ж $$ $1 -- /*'
    project.revision(
        "001", "create_a",
        f"""
        value = {value!r}
        op.create_table("a", sa.Column("v", sa.Text(), server_default=value, comment=value), sa.CheckConstraint("v LIKE '%'"))
        op.bulk_insert(sa.table("a", sa.column("v", sa.Text())), [{{"v": value}}])
        op.execute("INSERT INTO a VALUES ('100%\\tx\\\\:y'), (DEFAULT)")
        op.execute("CREATE FUNCTION f() RETURNS text LANGUAGE plpgsql AS $f$\\nBEGIN\\n\\tRETURN '%';\\nEND $f$")
        op.get_bind().execute(sa.text("INSERT INTO a VALUES (:v)").bindparams(v=value))
        """,
        "op.execute('DROP FUNCTION f()')\nop.drop_table('a')", expectations='expect.table("a"), expect.function("f()")',
    )  # fmt: skip
    online = new_database()

    run(empty, tmp_path, written(project, "upgrade", "head"))
    monkeypatch.setenv("DATABASE_URL", online.url)
    project.upgrade()

    assert difference(catalog(empty), catalog(online)) == []
    rows = empty.rows("SELECT v FROM a ORDER BY 1")
    assert rows == online.rows("SELECT v FROM a ORDER BY 1")
    assert rows.count((value,)) == 3 and ("100%\tx:y",) in rows


def test_autocommit_blocks_work(project: Project, empty: Database, tmp_path: Path) -> None:
    """What runs outside a transaction online does so by file: blocking statements limited, CONCURRENTLY not, then the step's."""
    project.revision(
        "001", "create_a",
        """
        op.execute("CREATE TABLE a (id int)")
        with op.get_context().autocommit_block():
            op.create_index("a_id", "a", ["id"], postgresql_concurrently=True)
            op.execute("ALTER TABLE a ADD v int")
        op.execute("CREATE TABLE seen AS SELECT current_setting('lock_timeout') AS lock_timeout")
        """,
        """
        with op.get_context().autocommit_block():
            op.execute("DROP INDEX CONCURRENTLY a_id")
        op.execute("DROP TABLE a, seen")
        """,
        transaction="none", expectations='expect.index("a_id"), expect.column("a", "v")',
    )  # fmt: skip

    text = written(project, "upgrade", "head")
    run(empty, tmp_path, text)

    order = [
        "CREATE TABLE a",
        "COMMIT;",
        "SET lock_timeout = '0ms'",
        "CREATE INDEX CONCURRENTLY",
        "SET lock_timeout = '200ms'",
        "ALTER TABLE a",
        "RESET lock_timeout",
        "BEGIN;",
        "SET LOCAL lock_timeout = '200ms'",
        "CREATE TABLE seen",
        "DO $check$",
    ]
    assert re.search(".*?".join(map(re.escape, order)), text, re.DOTALL)
    assert empty.rows("SELECT indisvalid, lock_timeout FROM pg_index, seen WHERE indexrelid = 'a_id'::regclass") == [
        (True, "200ms")
    ]

    run(empty, tmp_path, written(project, "downgrade", "001:base"))
    assert empty.rows("SELECT to_regclass('a')") == [(None,)]


ASKS = {
    "a row": "if op.get_bind().execute(sa.text('SELECT 1')).scalar():\n    op.execute('SELECT 2')",
    "rows": "for row in op.get_bind().execute(sa.text('SELECT 1')):\n    op.execute('SELECT 2')",
    "whether there is a row": "if op.get_bind().execute(sa.text('SELECT 1')):\n    op.execute('SELECT 2')",
    "by scalar": "op.get_bind().scalar(sa.text('SELECT 1'))",
    "the catalog": "sa.inspect(op.get_bind()).get_table_names()",
    "the driver": "op.get_bind().exec_driver_sql('SELECT 1')",
    "with parameters": "op.get_bind().execute(sa.text('INSERT INTO t VALUES (:a)'), {'a': 1})",
    "with many parameters": "op.get_bind().execute(sa.table('t', sa.column('a')).insert(), [{'a': 1}, {'a': 2}])",
    "a table": "sa.Table('t', sa.MetaData(), autoload_with=op.get_bind())",
    "its own mistake": "raise KeyError('x')",
}


@pytest.mark.parametrize("how", ASKS)
def test_a_revision_that_asks_is_refused_by_name(project: Project, how: str) -> None:
    """Acting on an answer cannot be written down: exit code 3, file and revision named, and not a line of SQL."""
    project.revision("001", "create_a", "op.execute('CREATE TABLE a ()')", "op.drop_table('a')")
    path = project.revision("002", "fill_a", ASKS[how], "op.execute('SELECT 1')", type="data")

    ran = project.alembic("upgrade", "head", "--sql", **NOWHERE)

    assert (ran.returncode, ran.stdout) == (3, "")
    assert "revision 002 cannot be written as SQL" in ran.stderr
    assert f"{path.name}:1: offline-impossible" in ran.stderr
    assert "alembic upgrade head" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_the_rules_hold_offline_too(project: Project) -> None:
    """A bad header, and a forward-only revision on the way back, are refused with nothing written."""
    project.revision("001", "create_a", "op.execute('CREATE TABLE a ()')", "op.drop_table('a')", reversible="undecided")

    bad = project.alembic("upgrade", "head", "--sql", **NOWHERE)
    project.revision(
        "001", "create_a", "op.execute('CREATE TABLE a ()')", "op.drop_table('a')", reversible="forward-only: merged"
    )
    one_way = project.alembic("downgrade", "001:base", "--sql", **NOWHERE)

    assert (bad.returncode, bad.stdout) == (3, "") and "reversible-undecided" in bad.stderr
    assert (one_way.returncode, one_way.stdout) == (3, "") and "forward-only" in one_way.stderr


def test_no_database_is_needed(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without DATABASE_URL nothing is started and nothing is asked; what a revision prints does not get into the file."""
    monkeypatch.delenv("DATABASE_URL", raising=False)
    project.configure(embedded=str(project.folder))
    project.revision("001", "create_a", "print('working')\nop.execute('CREATE TABLE a ()')", "op.drop_table('a')")

    ran = project.alembic("upgrade", "head", "--sql")

    assert ran.returncode == 0, ran.stderr
    assert "working" in ran.stderr and "working" not in ran.stdout
    assert not (project.folder / ".postgres").exists()


def test_no_header_leaves_its_comment(project: Project, empty: Database, tmp_path: Path) -> None:
    """Whatever stands in a title or a field, it stays a comment: line ends of any kind, dashes, quotes, psql's backslash."""
    evil = "x\\rDROP TABLE keep; \\x0b \\x85 \\u2028 \\n" + "*/ -- ' $$ \\\\! touch é"
    path = project.revision("001", "create_a", "op.execute('CREATE TABLE a ()')", "op.drop_table('a')",
                            expectations='expect.table("a")')  # fmt: skip
    text = (
        path.read_text(encoding="utf-8")
        .replace("Create a.", f"{evil}.")
        .replace("Description: ", "Description: \\\\! ; -- ' ")
    )
    path.write_text(text, encoding="utf-8")
    empty.rows("CREATE TABLE keep ()")

    run(empty, tmp_path, written(project, "upgrade", "head"))
    run(empty, tmp_path, written(project, "downgrade", "001:base"))

    assert empty.rows("SELECT to_regclass('keep')::text, to_regclass('a')::text") == [("keep", None)]


@pytest.mark.parametrize(
    ("docstring", "revision", "status"),
    [
        ("First\\nDROP TABLE keep;", "abc", 0),
        ("First\\rDROP TABLE keep;", "abc", 0),
        ("First", "a\\nDROP TABLE keep;\\n", 3),
    ],
)
def test_a_foreign_revision_leaves_no_comment(
    project: Project, empty: Database, tmp_path: Path, docstring: str, revision: str, status: int
) -> None:
    """Without headers the first lines of a docstring are the comment, and no more than that; an id with a line end is refused."""
    project.configure(headers="optional")
    project.write("one.py", f'"""{docstring}"""\nfrom alembic import op\nrevision = "{revision}"\ndown_revision = None\n'
                  "def upgrade() -> None:\n    op.execute('CREATE TABLE a ()')\n")  # fmt: skip
    empty.rows("CREATE TABLE keep ()")

    ran = project.alembic("upgrade", "head", "--sql", **NOWHERE)

    assert ran.returncode == status, ran.stderr
    if status == 0:
        run(empty, tmp_path, ran.stdout)
    assert empty.rows("SELECT to_regclass('keep')::text") == [("keep",)]


@pytest.mark.parametrize(("environment", "made"), [("production", False), ("development", True)])
def test_environments_count(project: Project, empty: Database, tmp_path: Path, environment: str, made: bool) -> None:
    """A revision that is not for the file's environment only moves the version there, as it does online."""
    project.revision("001", "seed_a", "op.execute('CREATE TABLE a AS SELECT 1')", "op.execute('DROP TABLE a')", type="data",
                     extra="Environments: development, staging", expectations='expect.table("a")')  # fmt: skip

    text = written(project, "upgrade", "head", PLANNER_ENV=environment)
    run(empty, tmp_path, text)

    assert f"-- For the environment {environment}" in text
    assert empty.rows("SELECT to_regclass('a') IS NOT NULL, version_num FROM alembic_version") == [(made, "001")]


def test_a_stamp_is_written_too(project: Project, empty: Database, tmp_path: Path) -> None:
    """``alembic stamp --sql`` writes the version row and no body."""
    project.revision("001", "create_a", "op.execute('CREATE TABLE a ()')", "op.drop_table('a')")

    run(empty, tmp_path, written(project, "stamp", "001"))

    assert empty.rows("SELECT version_num, to_regclass('a')::text FROM alembic_version") == [("001", None)]


def test_a_failing_check_stops_the_file(project: Project, empty: Database, tmp_path: Path) -> None:
    """psql stops at a post-check that fails: that step is undone, those before it stay, those after it do not run."""
    for version, wanted in (("001", "t001"), ("002", "none"), ("003", "t003")):
        table = f"t{version}"
        project.revision(version, f"create_{table}", f"op.execute('CREATE TABLE {table} ()')", f"op.drop_table('{table}')",
                         expectations=f'expect.table("{wanted}")')  # fmt: skip
    file = tmp_path / "up.sql"
    file.write_text(written(project, "upgrade", "head"))

    ran = empty.psql(file)

    assert ran.returncode == 3
    assert "Migration failed: revision 002: expected table none, found nothing" in ran.stderr
    assert empty.rows("SELECT version_num, to_regclass('t002'), to_regclass('t003') FROM alembic_version") == [
        ("001", None, None)
    ]


def test_a_rolled_back_step_is_written_whole_or_not(project: Project) -> None:
    """An unknown target is wrong use, said in one sentence, with nothing written."""
    project.revision("001", "create_a", "op.execute('CREATE TABLE a ()')", "op.drop_table('a')")

    ran = project.alembic("upgrade", "007", "--sql", **NOWHERE)

    assert (ran.returncode, ran.stdout) == (2, "")
    assert "007" in ran.stderr and "Traceback" not in ran.stderr


@pytest.mark.parametrize(("stood_at", "named"), [(None, "base"), ("001", "001"), ("003", "003")])
def test_a_file_is_stopped_where_the_database_is_elsewhere(
    project: Project, empty: Database, tmp_path: Path, stood_at: str | None, named: str
) -> None:
    """A file that begins at 002 changes nothing on a database at base, at 001 or at 003, and says where that is."""
    for number in ("001", "002", "003"):
        project.revision(
            number, f"fill_t{number}", f'op.execute("CREATE TABLE t{number} ()")', "op.execute('SELECT 1')"
        )
    file = tmp_path / "up.sql"
    file.write_text(written(project, "upgrade", "002:003"), encoding="utf-8")
    if stood_at:
        project.upgrade(stood_at)
        empty.rows("DROP TABLE IF EXISTS t003")
    else:
        empty.rows("CREATE TABLE alembic_version (version_num text)")

    ran = empty.psql(file)

    assert ran.returncode == 3
    assert f"003 begins at 002, but the database is at {named}" in ran.stderr
    assert empty.rows("SELECT to_regclass('t003')::text") == [(None,)]


def test_a_file_from_base_is_stopped_where_it_ran_before(project: Project, empty: Database, tmp_path: Path) -> None:
    """A data revision's file does its work once, however often it is run."""
    project.revision("001", "fill_a", 'op.execute("CREATE TABLE IF NOT EXISTS a (n int); INSERT INTO a VALUES (1)")',
                     'op.execute("DROP TABLE a")')  # fmt: skip
    text = written(project, "upgrade", "head")
    run(empty, tmp_path, text)

    ran = empty.psql(tmp_path / "written.sql")

    assert ran.returncode == 3
    assert "001 begins at base, but the database is at 001" in ran.stderr
    assert empty.value("SELECT count(*) FROM a") == 1


def bare_psql(database: Database, file: Path) -> subprocess.CompletedProcess[str]:
    """psql as somebody in a hurry runs it, without a switch that stops it."""
    server = ["-h", database.host, "-p", str(database.port), "-U", database.user, "-d", database.name]
    return subprocess.run(
        [str(embedded.binary("psql")), "-X", "-q", *server, "-f", str(file)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_file_stops_at_its_first_error_by_itself(project: Project, empty: Database, tmp_path: Path) -> None:
    """psql goes on after an error unless told otherwise, and would commit the steps behind the failed one."""
    project.revision("001", "create_a", "op.execute('CREATE TABLE a (id int)')", "op.execute('DROP TABLE a')")
    project.revision("002", "create_b", "op.execute('SELECT 1 / 0')", "op.execute('SELECT 1')")
    project.revision("003", "create_c", "op.execute('CREATE TABLE c (id int)')", "op.execute('DROP TABLE c')")
    file = tmp_path / "up.sql"
    file.write_text(written(project, "upgrade", "head"), encoding="utf-8")

    ran = bare_psql(empty, file)

    assert ran.returncode == 3
    assert ran.stderr.count("ERROR") == 1
    assert empty.rows("SELECT version_num, to_regclass('c')::text FROM alembic_version") == [("001", None)]


@pytest.mark.parametrize("stood_at", ["001", "003", None])
def test_a_downgrade_file_is_stopped_where_the_database_is_elsewhere(
    project: Project, empty: Database, tmp_path: Path, stood_at: str | None
) -> None:
    """A rollback of 002 destroys nothing on a database that is at another revision, and says where that is."""
    for number in ("001", "002", "003"):
        project.revision(
            number,
            f"create_t{number}",
            f'op.execute("CREATE TABLE t{number} ()")',
            f'op.execute("DROP TABLE t{number}")',
        )
    file = tmp_path / "down.sql"
    file.write_text(written(project, "downgrade", "002:001"), encoding="utf-8")
    if stood_at:
        project.upgrade(stood_at)
    else:
        empty.rows("CREATE TABLE alembic_version (version_num text)")
    empty.rows("CREATE TABLE IF NOT EXISTS t002 ()")

    ran = bare_psql(empty, file)

    assert ran.returncode == 3
    assert f"002 begins at 002, but the database is at {stood_at or 'base'}" in ran.stderr
    assert empty.value("SELECT to_regclass('t002')::text") == "t002"


def test_a_file_from_base_is_stopped_on_a_database_further_on(
    project: Project, empty: Database, tmp_path: Path
) -> None:
    """Where the database is at 002, a file that begins at base would leave a second row in the version table."""
    for number in ("001", "002"):
        project.revision(number, f"fill_t{number}", "op.execute('SELECT 1')", "op.execute('SELECT 1')")
    file = tmp_path / "up.sql"
    file.write_text(written(project, "upgrade", "base:001"), encoding="utf-8")
    project.upgrade()

    ran = bare_psql(empty, file)

    assert ran.returncode == 3
    assert "001 begins at base, but the database is at 002" in ran.stderr
    assert empty.rows("SELECT version_num FROM alembic_version") == [("002",)]


def test_a_step_for_another_environment_is_stopped_too(project: Project, empty: Database, tmp_path: Path) -> None:
    """A data revision that does nothing here moves the version, and only from where it begins."""
    project.revision("001", "create_a", "op.execute('CREATE TABLE a ()')", "op.execute('DROP TABLE a')")
    project.revision("002", "fill_a", "op.execute('SELECT 1')", "op.execute('SELECT 1')", type="data",
                     extra="Environments: production")  # fmt: skip
    file = tmp_path / "up.sql"
    file.write_text(written(project, "upgrade", "001:002"), encoding="utf-8")
    empty.rows("CREATE TABLE alembic_version (version_num text)")

    ran = bare_psql(empty, file)

    assert "Nothing to do: not for development" in file.read_text(encoding="utf-8")
    assert ran.returncode == 3
    assert "002 begins at 001, but the database is at base" in ran.stderr
