"""docs/golang-migrate.md, the table: every command and flag of golang-migrate stands in it, and each counterpart is run."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from mcp_planner_schema import cli
from mcp_planner_schema.guard.findings import Busy, WrongUse
from tests.conftest import ROOT, Database, Project
from tests.until import until

PAGE = (ROOT / "docs" / "golang-migrate.md").read_text(encoding="utf-8")
# As `migrate -help`, `migrate create -help` and the driver's page list them (v4.19).
COMMANDS = ["create", "up", "down", "goto", "drop", "force", "version"]
FLAGS = [
    "-ext", "-dir", "-seq", "-digits", "-format", "-tz", "-all", "-f", "-source", "-path", "-database", "-prefetch",
    "-lock-timeout", "-verbose", "-version", "-help", "x-migrations-table", "x-migrations-table-quoted", "x-statement-timeout",
    "x-multi-statement", "x-multi-statement-max-size", "x-use-transaction", "x-no-lock", "x-lock-strategy", "x-lock-table",
]  # fmt: skip


def rows() -> list[tuple[str, str, str]]:
    """The table: golang-migrate's, ours, and why otherwise."""
    table = PAGE.partition("## Command by command")[2]
    found = re.findall(r"^\| (.*?) \| (.*?) \| ?(.*?) ?\|$", table, re.MULTILINE)
    return [one for one in found if one[0] not in ("golang-migrate", "---")]


def test_the_table_has_every_command_and_flag() -> None:
    """None is left out, and where there is no counterpart the reason stands beside it."""
    theirs = " ".join(first for first, _, _ in rows())
    words = set(re.findall(r"[\w-]+", theirs.replace("`", " ")))

    assert [one for one in COMMANDS + FLAGS if one not in words] == []
    assert [first for first, ours, why in rows() if ours == "—" and len(why) < 20] == []


class Story:
    """A project with three revisions and a database of its own; commands as they are typed behind ``make``."""

    def __init__(self, project: Project, database: Database, capsys: pytest.CaptureFixture[str]) -> None:
        self.project, self.database, self._capsys = project, database, capsys

    def make(self, *arguments: str, code: int = 0) -> str:
        """What a command prints; it ends with this code."""
        self._capsys.readouterr()
        ended = cli.main(arguments)
        told = "".join(self._capsys.readouterr())
        assert ended == code, told
        return told

    @property
    def at(self) -> str:
        """The version, or base."""
        found = self.database.value("SELECT to_regclass('alembic_version') IS NOT NULL")
        rows = self.database.rows("SELECT version_num FROM alembic_version") if found else []
        return rows[0][0] if rows else "base"


def _create(story: Story) -> None:
    story.make("migrate-create", "NAME=add_x", "TYPE=schema")
    (path,) = story.project.versions.glob("004_add_x.py")
    assert "def upgrade" in path.read_text() and "def downgrade" in path.read_text()
    path.unlink()


def _digits(story: Story) -> None:
    from mcp_planner_schema.guard.scope import next_number

    class Folder:
        version_locations = (str(story.project.versions),)
        dir = str(story.project.folder / "alembic")
        recursive_version_locations = False

    made = story.project.write("999_add_y.py", "")
    assert next_number(Folder()) == "1000"
    made.unlink()


def _seq(story: Story) -> None:
    made = story.project.revision("003", "add_other", "op.execute('SELECT 1')", "op.execute('SELECT 1')")
    told = story.make("migrate-up", code=3)
    assert "003_add_other" in told and "make migrate-rebase" in told
    made.unlink()


def _up(story: Story) -> None:
    story.make("migrate-up")
    assert story.at == "003"


def _up_to(story: Story) -> None:
    for _ in range(2):
        story.make("migrate-up", "TO=002")
    assert story.at == "002"


def _down(story: Story) -> None:
    _up(story)
    story.database.rows("INSERT INTO t2 VALUES (7)")
    story.make("migrate-down", "STEPS=2")
    assert story.at == "001"
    story.make("migrate-up")
    assert story.database.rows("SELECT id FROM t2") == [(7,)]


def _down_all(story: Story) -> None:
    _up(story)
    story.make("migrate-down", "TO=base")
    assert story.at == "base"


def _down_asks(story: Story) -> None:
    _up(story)
    assert "t3" in story.make("migrate-down", "DRY_RUN=1") and story.at == "003"


def _goto(story: Story) -> None:
    for version in ("003", "001"):
        story.make("migrate-goto", f"VERSION={version}")
        assert story.at == version


def _drop(story: Story) -> None:
    _up(story)
    story.database.rows("CREATE TYPE strange AS ENUM (); INSERT INTO t1 VALUES (1)")
    story.make("migrate-reset")
    assert story.at == "003" and story.database.value("SELECT count(*) FROM t1") == 0
    assert story.database.value("SELECT to_regtype('strange')") is None


def _force(story: Story) -> None:
    _up(story)
    story.make("migrate-force", "VERSION=002", "REASON=tried out")
    assert story.at == "002" and story.database.value("SELECT to_regclass('t3') IS NOT NULL")


def _force_base(story: Story) -> None:
    _up(story)
    story.make("migrate-force", "VERSION=base", "REASON=tried out")
    assert story.at == "base"


def _version(story: Story) -> None:
    story.make("migrate-up", "TO=001")
    told = story.make("migrate-status")
    assert "version    001" in told and "pending    2" in told


def _database(story: Story) -> None:
    assert story.database.name in story.make("migrate-status")


def _location(story: Story) -> None:
    moved = story.project.folder / "elsewhere"
    story.project.versions.rename(moved)
    ini = story.project.folder / "alembic.ini"
    ini.write_text(
        ini.read_text().replace("path_separator", "version_locations = %(here)s/elsewhere\npath_separator", 1)
    )
    _up(story)


def _lock_timeout(story: Story) -> None:
    story.project.configure(deploy_lock_timeout="50ms")
    held, over = threading.Event(), threading.Event()

    def hold() -> None:
        from mcp_planner_schema.guard import deploy_lock

        with story.database.connect() as other, other.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(%s)", (deploy_lock.key("alembic_version", None),))
            held.set()
            over.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    try:
        held.wait(30)
        told = story.make("migrate-up", code=Busy.code)
    finally:
        over.set()
        holder.join()
    assert "the test" in told


def _verbose(story: Story) -> None:
    assert re.search(r"001_create_t1 .*ms", story.make("migrate-up")) and "upgrade" in story.make("migrate-history")


def _help(story: Story) -> None:
    told = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    _up(story)
    assert "migrate-up" in told and story.database.value("SELECT tool_version FROM migration.history LIMIT 1")


def _env(story: Story, option: str) -> None:
    (story.project.folder / "alembic" / "env.py").write_text(
        f"from alembic import context\n\nfrom mcp_planner_schema.guard import run\n\nrun(context, {option})\n"
    )


def _table(story: Story) -> None:
    _env(story, 'version_table="schema_version"')
    story.make("migrate-up")
    assert story.database.value("SELECT version_num FROM schema_version") == "003"


def _quoted(story: Story) -> None:
    story.database.rows('CREATE SCHEMA "My schema"')
    _env(story, 'version_table_schema="My schema"')
    story.make("migrate-up")
    assert story.database.value('SELECT version_num FROM "My schema".alembic_version') == "003"


def _statement_timeout(story: Story) -> None:
    story.project.revision("004", "add_slow", "op.execute('SELECT pg_sleep(20)')", "op.execute('SELECT 1')",
                           more='budgets = {"statement_timeout": "50ms"}')  # fmt: skip
    assert "statement timeout" in story.make("migrate-up", code=1) and story.at == "003"


def _multi(story: Story) -> None:
    story.project.revision(
        "004", "add_two", "with op.get_context().autocommit_block():\n"
        "    op.execute('CREATE INDEX CONCURRENTLY i ON t1 (id)')\n    op.execute(\"COMMENT ON INDEX i IS 'a;b'\")",
        "op.execute('DROP INDEX i')", transaction="none",
    )  # fmt: skip
    story.make("migrate-up")
    assert story.database.value("SELECT obj_description('i'::regclass)") == "a;b"


def _one_transaction(story: Story) -> None:
    story.project.revision("004", "add_wrong", "op.execute('CREATE TABLE t4 ()')\nop.execute('SELECT 1/0')",
                           "op.execute('DROP TABLE t4')")  # fmt: skip
    story.make("migrate-up", code=1)
    assert story.at == "003" and story.database.value("SELECT to_regclass('t4')") is None


def _interrupt(story: Story) -> None:
    import os
    import signal

    story.project.revision("004", "add_slow", "op.execute('CREATE TABLE t4 ()')\nop.execute('SELECT pg_sleep(20)')",
                           "op.execute('DROP TABLE t4')")  # fmt: skip
    running = subprocess.Popen([sys.executable, "-m", "alembic", "upgrade", "head"], cwd=story.project.folder,
                               env=dict(os.environ), stderr=subprocess.PIPE, text=True)  # fmt: skip
    until(lambda: story.database.value("SELECT count(*) FROM pg_stat_activity WHERE query ~ 'pg_slee[p]' AND state = 'active'"
                                       " AND datname = current_database()"))  # fmt: skip
    running.send_signal(signal.SIGINT)
    _, told = running.communicate(timeout=30)
    assert running.returncode == Busy.code and "Stopped" in told
    assert story.at == "003" and story.database.value("SELECT to_regclass('t4')") is None


def _no_dirty(story: Story) -> None:
    story.project.revision(
        "004", "add_index", "op.create_index_concurrently('i', 't1', ['id'])\n"
        "op.create_index_concurrently('j', 't1', ['nothing'])",
        "op.drop_index('i', table_name='t1')", transaction="none", reversible="lossless",
    )  # fmt: skip
    story.make("migrate-up", code=1)
    path = next(story.project.versions.glob("004_*"))
    path.write_text(path.read_text().replace("nothing", "id"))
    story.make("migrate-up")
    assert story.at == "004"


def _use(problem: str) -> Callable[[Story], None]:
    """There is no counterpart: whoever tries it is told what there is."""

    def tried(story: Story) -> None:
        assert problem in story.make("migrate-up", f"{problem}=1", code=WrongUse.code)

    return tried


TRIED: dict[str, Callable[[Story], None]] = {
    "`create NAME`": _create,
    "`create -ext`": _use("EXT"),
    "`create -dir`": _location,
    "`create -seq`": _seq,
    "`create -digits`": _digits,
    "`create -format`, `-tz`": _use("FORMAT"),
    "`up`": _up,
    "`up N`": _up_to,
    "`down N`": _down,
    "`down -all`": _down_all,
    "`down` (asks)": _down_asks,
    "`goto V`": _goto,
    "`drop -f`": _drop,
    "`force V`": _force,
    "`force -1`": _force_base,
    "`version`": _version,
    "`-database`": _database,
    "`-source`, `-path`": _location,
    "`-lock-timeout N`": _lock_timeout,
    "`-prefetch N`": _use("PREFETCH"),
    "`-verbose`": _verbose,
    "`-version`, `-help`": _help,
    "`x-migrations-table`": _table,
    "`x-migrations-table-quoted`": _quoted,
    "`x-statement-timeout`": _statement_timeout,
    "`x-multi-statement`": _multi,
    "`x-multi-statement-max-size`": _use("MAX_SIZE"),
    "`x-use-transaction`": _one_transaction,
    "`x-no-lock`": _use("NO_LOCK"),
    "`x-lock-strategy`, `x-lock-table`": _use("LOCK_TABLE"),
    "Ctrl-C": _interrupt,
    "dirty": _no_dirty,
}


def test_each_row_is_tried() -> None:
    """The table and what is tried here are the same list."""
    assert [first for first, _, _ in rows()] == list(TRIED)


@pytest.mark.long
@pytest.mark.parametrize("row", TRIED)
def test_the_counterpart_does_it(
    row: str, project: Project, empty: Database, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What stands in the table is typed, and the database shows that it has done what golang-migrate's would."""
    for number in (1, 2, 3):
        project.revision(f"{number:03}", f"create_t{number}", f'op.execute("CREATE TABLE t{number} (id int)")',
                         f'op.drop_table("t{number}")')  # fmt: skip
    monkeypatch.setattr(cli, "ROOT", project.folder)
    monkeypatch.setattr("mcp_planner_schema.cli.command.ROOT", project.folder)
    monkeypatch.setenv("PLANNER_ENV", "development")

    TRIED[row](Story(project, empty, capsys))


def test_the_page_names_files_that_an_export_writes() -> None:
    """The names that the page explains are made by the rules of the code."""
    from mcp_planner_schema.interop.golang.versions import STEP

    assert f"Revision 009 is version {9 * STEP}" in PAGE and f"first ones are {8 * STEP + 1}, {8 * STEP + 2}" in PAGE
    assert Path(ROOT / "mcp_planner_schema" / "interop" / "golang" / "keep.py").exists()
