"""docs/prisma.md, the table: each thing that Prisma does stands in it, and each counterpart is run."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from mcp_planner_schema import cli
from mcp_planner_schema.guard.findings import Refused, WrongUse
from tests.conftest import ROOT, Database, Project
from tests.prisma_migrate import LOCK, TABLE
from tests.test_golang_table import Story, _lock_timeout, _use
from tests.test_prisma_import import GOOD, write

PAGE = (ROOT / "docs" / "prisma.md").read_text(encoding="utf-8")
# As `prisma --help`, and --help of each command, list them (6.19 and 7.10).
COMMANDS = [
    "init", "generate", "studio", "validate", "format", "migrate dev", "migrate reset", "migrate deploy", "migrate status",
    "migrate resolve", "migrate diff", "db pull", "db push", "db execute", "db seed",
]  # fmt: skip
FLAGS = [
    "--create-only", "--name", "--skip-generate", "--skip-seed", "--applied", "--rolled-back", "--force", "--from-empty",
    "--to-empty", "--script", "--output", "--exit-code", "--shadow-database-url", "--schemas", "--print", "--accept-data-loss",
    "--force-reset", "--file", "--stdin", "--url", "--config", "--schema", "--local-d1", "--from-local-d1",
    "--composite-type-depth",
]  # fmt: skip
OTHERS = [
    "shadow database",
    "drift",
    "checksums",
    "baseline",
    "squash",
    "seed",
    "_prisma_migrations",
    "migration_lock.toml",
]


def rows() -> list[tuple[str, str, str]]:
    """The table: Prisma's, ours, and why otherwise."""
    table = PAGE.partition("## Thing by thing")[2]
    found = re.findall(r"^\| (.*?) \| (.*?) \| ?(.*?) ?\|$", table, re.MULTILINE)
    return [one for one in found if one[0] not in ("Prisma", "---")]


def test_the_table_has_every_command_and_flag() -> None:
    """None is left out, and where there is no counterpart the reason stands beside it."""
    theirs = " ".join(first for first, _, _ in rows()).replace("`", " ").replace(",", " ") + " "

    assert [one for one in COMMANDS + FLAGS + OTHERS if f" {one} " not in f" {theirs}"] == []
    assert [first for first, ours, why in rows() if ours == "—" and len(why) < 20] == []


def env(project: Project, tables: str, options: str = "") -> None:
    """The project's env.py, with these models."""
    (project.folder / "alembic" / "env.py").write_text(
        "import sqlalchemy as sa\nfrom alembic import context\n\nfrom mcp_planner_schema.guard import run\n\n"
        f"metadata = sa.MetaData()\n{tables}\nrun(context, target_metadata=metadata{options})\n"
    )


MODELS = 'for name in ("t1", "t2", "t3"):\n    sa.Table(name, metadata, sa.Column("id", sa.Integer))\n'
CHANGED = MODELS + 'metadata.tables["t1"].append_column(sa.Column("note", sa.Text))\n'


def _auto(story: Story) -> Path:
    """The revision that AUTO=1 writes of a changed model, with what its author has to say filled in."""
    env(story.project, CHANGED)
    story.make("migrate-up")
    story.make("migrate-create", "NAME=add_note", "AUTO=1")
    (path,) = story.project.versions.glob("004_add_note.py")
    return path


def _dev(story: Story) -> None:
    path = _auto(story)
    text = re.sub(r"(?m)^Reversible: .*$", "Reversible: stash", path.read_text())
    text = re.sub(r"(?ms)^expectations = \[.*?^\]", 'expectations = [expect.column("t1", "note")]', text)
    path.write_text(re.sub(r"(?m)^    # .*\n", "", text))
    story.make("migrate-up")
    assert story.at == "004" and story.database.value("SELECT count(note) FROM t1") == 0


def _create_only(story: Story) -> None:
    assert "op.add_column('t1', sa.Column('note', sa.Text()" in _auto(story).read_text() and story.at == "003"


def _stored(story: Story) -> None:
    """The project with fingerprints, as development stores them, and its database at the end."""
    (story.project.folder / "alembic" / "fingerprints").touch()
    story.make("migrate-up")


def _drift(story: Story) -> None:
    _stored(story)
    assert "as the revisions have made it" in story.make("migrate-drift")
    story.database.rows(
        "INSERT INTO t1 VALUES (1); ALTER TABLE t1 ADD more int; CREATE FUNCTION f() RETURNS int RETURN 1"
    )
    told = story.make("migrate-drift", code=Refused.code)
    assert "more" in told and "f()" in told and story.database.value("SELECT count(*) FROM t1") == 1


def _deploy(story: Story) -> None:
    story.make("migrate-up")
    assert story.at == "003"


def _status(story: Story) -> None:
    story.make("migrate-up", "TO=001")
    assert "version    001" in (told := story.make("migrate-status")) and "pending    2" in told


def _status_code(story: Story) -> None:
    story.make("migrate-up", "TO=001")
    assert len(json.loads(story.make("migrate-status", "JSON=1"))["pending"]) == 2


def _applied(story: Story) -> None:
    _stored(story)
    story.make("migrate-down", "TO=001")
    assert "stamp-differs" in story.make("migrate-force", "VERSION=002", code=Refused.code)
    story.make("migrate-force", "VERSION=002", "REASON=it is there by hand")
    assert story.at == "002"


def _undone(story: Story) -> None:
    path = story.project.revision("004", "add_wrong", "op.execute('CREATE TABLE t4 ()')\nop.execute('SELECT 1/0')",
                                  "op.execute('DROP TABLE t4')")  # fmt: skip
    story.make("migrate-up", code=1)
    assert story.at == "003" and story.database.value("SELECT to_regclass('t4')") is None
    path.write_text(path.read_text().replace("1/0", "1"))
    story.make("migrate-up")
    assert story.at == "004"


def _reset(story: Story) -> None:
    _deploy(story)
    story.database.rows("INSERT INTO t1 VALUES (1)")
    story.make("migrate-reset")
    assert story.at == "003" and story.database.value("SELECT count(*) FROM t1") == 0


def _reset_refused(story: Story) -> None:
    _deploy(story)
    assert "FORCE" in story.make("migrate-reset", "FORCE=1", code=WrongUse.code)
    for environment in ("staging", "production"):
        assert f"no reset in {environment}" in story.make(
            "migrate-reset", f"PLANNER_ENV={environment}", code=WrongUse.code
        )
    assert story.at == "003"


def _check(story: Story) -> None:
    env(story.project, MODELS)
    _deploy(story)
    assert story.project.alembic("check").returncode == 0
    env(story.project, CHANGED)
    found = story.project.alembic("check")
    assert found.returncode == 255 and "note" in found.stdout + found.stderr


def _script(story: Story) -> None:
    told = story.make("migrate-up", "DRY_RUN=1")
    assert "CREATE TABLE t3" in told and story.at == "base"


def _from_empty(story: Story) -> None:
    told = story.project.alembic("upgrade", "head", "--sql")
    assert told.returncode == 0 and all(f"CREATE TABLE t{number}" in told.stdout for number in (1, 2, 3))


def _exit_code(story: Story) -> None:
    _stored(story)
    story.make("migrate-drift", "EXIT_CODE=1")
    story.database.rows("ALTER TABLE t1 ADD more int")
    assert "more" in story.make("migrate-drift", "EXIT_CODE=1", code=2)
    (story.project.folder / "alembic" / "fingerprints").unlink()
    assert "next: " in story.make("migrate-drift", "EXIT_CODE=1", code=1)


def _pull(story: Story, *more: str) -> str:
    _deploy(story)
    story.database.rows("CREATE SCHEMA app; CREATE TABLE app.a (id int PRIMARY KEY)")
    into = story.project.folder / "models.py"
    story.make("models-pull", f"OUT={into}", *more)
    return into.read_text()


def _pull_all(story: Story) -> None:
    assert "'t1'" in (text := _pull(story)) and "'a'" in text


def _pull_schemas(story: Story) -> None:
    assert "'t1'" not in (text := _pull(story, "SCHEMA=app")) and "'a'" in text


def _print(story: Story) -> None:
    _deploy(story)
    assert "'t1'" in story.make("models-pull", "OUT=-")


def _pull_force(story: Story) -> None:
    own = story.project.folder / "models.py"
    own.write_text("# mine\n")
    assert "was not written by this command" in story.make("models-pull", f"OUT={own}", code=WrongUse.code)
    assert own.read_text() == "# mine\n"


def _none(command: str) -> Callable[[Story], None]:
    """There is no such command: whoever tries it is told which there are."""

    def tried(story: Story) -> None:
        assert f"no command '{command}'" in story.make(command, code=WrongUse.code)

    return tried


def _contract(story: Story) -> None:
    _deploy(story)
    story.database.rows("INSERT INTO t3 VALUES (7)")
    story.project.revision(
        "004", "drop_t3", "op.drop_table('t3')", "op.execute('CREATE TABLE t3 (id int)')", phase="contract"
    )
    story.make("migrate-up", "PHASE=expand")
    assert story.at == "003" and story.database.rows("SELECT id FROM t3") == [(7,)]
    story.make("migrate-up")
    assert story.database.value("SELECT to_regclass('t3')") is None


def _psql(story: Story) -> None:
    file = story.project.folder / "file.sql"
    file.write_text("CREATE TABLE beside ();")
    assert story.database.psql(file).returncode == 0
    assert story.database.value("SELECT to_regclass('beside') IS NOT NULL")


def _seed(story: Story) -> None:
    story.project.revision("004", "seed_t1", "op.execute('INSERT INTO t1 VALUES (42)')", "op.execute('DELETE FROM t1')",
                           type="data", phase="migrate", extra="Environments: development")  # fmt: skip
    for _ in range(2):
        story.make("migrate-up")
    assert story.database.rows("SELECT id FROM t1") == [(42,)]


def _scratch(story: Story) -> None:
    before = story.database.rows("SELECT oid, datname FROM pg_database ORDER BY oid")
    url = story.database.url.replace(f"/{story.database.name}?", "/postgres?")
    story.project.configure(archive_check_url=url)
    story.make("migrate-fingerprint")
    stored = (story.project.folder / "alembic" / "fingerprints").read_text()
    assert all(f"{number:03} " in stored for number in (1, 2, 3)) and story.at == "base"
    assert story.database.rows("SELECT oid, datname FROM pg_database ORDER BY oid") == before


def _checksums(story: Story) -> None:
    _deploy(story)
    (path,) = story.project.versions.glob("002_*.py")
    path.write_text(path.read_text().replace("t2 (id int)", "t2 (id int, other int)"))
    story.project.revision("004", "create_t4", "op.execute('CREATE TABLE t4 ()')", "op.drop_table('t4')")
    assert "other int" in story.make("migrate-up", code=Refused.code) and story.at == "003"
    story.make("migrate-accept", "VERSION=002", "REASON=the column is added by hand")
    story.make("migrate-up")
    assert story.at == "004"


def _baseline(story: Story) -> None:
    story.database.rows("CREATE TABLE t1 (id int)")
    story.make("migrate-force", "VERSION=001", "REASON=the table was there")
    story.make("migrate-up")
    assert story.at == "003"


def _squash(story: Story) -> None:
    _deploy(story)
    for path in story.project.versions.glob("*.py"):
        path.unlink()
    story.project.revision("001", "create_all", "op.execute('CREATE TABLE t1 ()')", "op.drop_table('t1')")
    assert "2 revisions ahead of this build" in story.make("migrate-up") and story.at == "003"


def _validate(story: Story) -> None:
    assert "3 revisions judged, no finding" in story.make("migrate-validate")
    story.project.revision("004", "add_wrong", "op.execute('CREATE TABLE t4 ()')", "pass", type="nothing")
    assert "Type" in story.make("migrate-validate", code=Refused.code)


def _make_says(target: str, words: str) -> Callable[[Story], None]:
    """What make would run for a target, without running it."""

    def tried(story: Story) -> None:
        told = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        assert words in told

    return tried


def _export(story: Story) -> None:
    _deploy(story)
    into = story.project.folder / "prisma"
    story.make("migrate-export", "FORMAT=prisma", f"DIR={into}")
    assert 'provider = "postgresql"' in (into / "schema.prisma").read_text()


def _init(story: Story) -> None:
    folder = story.project.folder / "new"
    story.make("init", f"DIR={folder}")
    assert (folder / "alembic" / "env.py").exists()


def _provider(story: Story) -> None:
    folder = write(story.project.folder / "migrations", {"1_a": GOOD}, b'provider = "sqlite"\n')
    assert "for sqlite" in story.make("migrate-import", "FROM=prisma", f"DIR={folder}", code=WrongUse.code)


def _history(story: Story) -> None:
    story.database.rows(TABLE)
    _deploy(story)
    told = json.loads(story.make("migrate-history", "JSON=1"))
    assert [one["revision"] for one in told][:3] in (["001", "002", "003"], ["003", "002", "001"])


def _no_lock(story: Story) -> None:
    with story.database.connect() as other, other.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s)", (LOCK,))  # Prisma's stops nobody here
        story.make("migrate-up", "TO=001")
    assert "DISABLE_LOCK" in story.make("migrate-up", "DISABLE_LOCK=1", code=WrongUse.code)
    _lock_timeout(story)


def _down(story: Story) -> None:
    _deploy(story)
    story.database.rows("INSERT INTO t3 VALUES (7)")
    story.make("migrate-down")
    assert story.at == "002" and story.database.value("SELECT to_regclass('t3')") is None


def _location(story: Story) -> None:
    moved = story.project.folder / "moved"
    (story.project.folder / "alembic").rename(moved)
    ini = story.project.folder / "alembic.ini"
    ini.write_text(ini.read_text().replace("%(here)s/alembic", "%(here)s/moved"))
    _deploy(story)
    assert story.database.name in story.make("migrate-status")


def _external(story: Story) -> None:
    _deploy(story)
    story.database.rows("CREATE TABLE theirs (id int)")
    env(story.project, MODELS)
    assert story.project.alembic("check").returncode == 255
    env(story.project, MODELS, ", include_object=lambda found, name, kind, reflected, other: name != 'theirs'")
    assert story.project.alembic("check").returncode == 0


TRIED: dict[str, Callable[[Story], None]] = {
    "`migrate dev`": _dev,
    "`migrate dev --create-only`, `--name`": _create_only,
    "`migrate dev` (wants to reset)": _drift,
    "`migrate deploy`": _deploy,
    "`migrate status`": _status,
    "`migrate status` (ends with 1)": _status_code,
    "`migrate resolve --applied`": _applied,
    "`migrate resolve --rolled-back`": _undone,
    "`migrate reset`": _reset,
    "`migrate reset --force`": _reset_refused,
    "`migrate diff` (migrations, database)": _drift,
    "`migrate diff` (schema, database)": _check,
    "`migrate diff --script`, `--output`": _script,
    "`migrate diff --from-empty`, `--to-empty`": _from_empty,
    "`migrate diff --exit-code`": _exit_code,
    "`db pull`": _pull_all,
    "`db pull --schemas`": _pull_schemas,
    "`db pull --print`": _print,
    "`db pull --force`": _pull_force,
    "`db push`": _none("db-push"),
    "`db push --accept-data-loss`": _contract,
    "`db push --force-reset`": _reset,
    "`db execute --file`, `--stdin`": _psql,
    "`db seed`, `--skip-seed`": _seed,
    "shadow database, `--shadow-database-url`": _scratch,
    "drift": _drift,
    "checksums": _checksums,
    "baseline": _baseline,
    "squash": _squash,
    "`validate`": _validate,
    "`format`": _make_says("format", "ruff format"),
    "`studio`": _make_says("db-shell", "mcp_planner_schema db-shell"),
    "`generate`, `--skip-generate`": _export,
    "`init`": _init,
    "`migration_lock.toml`": _provider,
    "advisory lock": _lock_timeout,
    "`PRISMA_SCHEMA_DISABLE_ADVISORY_LOCK`": _no_lock,
    "`_prisma_migrations`": _history,
    "a failed migration (P3009, P3018)": _undone,
    "`down.sql` by hand": _down,
    "`--url`, `--config`, `--schema`": _location,
    "`tables.external`, `enums.external`": _external,
    "`--local-d1`, `--from-local-d1`, `--composite-type-depth`": _use("LOCAL_D1"),
}
PULLS = {"`db pull`", "`db pull --schemas`", "`db pull --print`"}


def test_each_row_is_tried() -> None:
    """The table and what is tried here are the same list."""
    assert [first for first, _, _ in rows()] == list(TRIED)


@pytest.mark.long
@pytest.mark.parametrize("row", TRIED)
def test_the_counterpart_does_it(
    row: str, project: Project, empty: Database, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What stands in the table is typed, and the database shows that it has done what Prisma's would."""
    if row in PULLS and importlib.util.find_spec("sqlacodegen") is None:
        pytest.skip("no sqlacodegen: pip install 'sqlacodegen>=4.0,<5'")
    for number in (1, 2, 3):
        project.revision(f"{number:03}", f"create_t{number}", f'op.execute("CREATE TABLE t{number} (id int)")',
                         f'op.drop_table("t{number}")')  # fmt: skip
    monkeypatch.setattr(cli, "ROOT", project.folder)
    monkeypatch.setattr("mcp_planner_schema.cli.command.ROOT", project.folder)
    monkeypatch.setenv("PLANNER_ENV", "development")
    monkeypatch.setenv("AUTHOR", "A Tester <tester@example.org>")

    TRIED[row](Story(project, empty, capsys))
