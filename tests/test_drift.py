"""What a live database differs in from what its revisions have made of it: told by the command's answer and exit code."""

from __future__ import annotations

import json

import pytest

from mcp_planner_schema import cli
from tests.conftest import HEAD, Database, Project


def drift(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """``migrate-drift``: its exit code and what it printed."""
    capsys.readouterr()
    code = cli.main(["migrate-drift", *arguments])
    return code, capsys.readouterr().out


def test_a_database_as_it_should_be(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """0, and one line; monthly partitions are no drift, nor are rows."""
    database.rows("SELECT maintain_audit_partitions(2); INSERT INTO projects (name, description) VALUES ('a', 'b')")

    code, said = drift(capsys)

    assert code == 0, said
    assert said.strip().endswith(f"at {HEAD}: as the revisions have made it")


def test_what_somebody_did_by_hand_is_named(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """3, each object by its name; grants and comments are told and refuse nothing."""
    database.rows("COMMENT ON TABLE tasks IS 'mine'; GRANT SELECT ON tasks TO PUBLIC")
    beside, notes = drift(capsys)
    database.rows(
        "CREATE INDEX by_hand ON tasks (title); ALTER TABLE steps ALTER title DROP NOT NULL; CREATE VIEW v AS SELECT 1"
    )

    code, said = drift(capsys)
    machine, document = drift(capsys, "JSON=1")

    assert (beside, code, machine) == (0, 3, 3)
    assert "note: table public.tasks: comment differs" in notes and "note: table public.tasks: grants" in notes
    assert "table public.tasks: index public.by_hand is unexpected" in said
    assert "table public.steps: column title differs" in said
    assert "view public.v is unexpected" in said
    assert said.strip().endswith(f"at {HEAD}: 3 objects differ")
    read = json.loads(document)
    assert len([one for one in read["structure"] if not one.startswith(" ")]) == 3
    assert read["expected"] != read["found"]


def test_a_database_on_its_way_is_compared_with_its_own_version(
    database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two revisions back it is what those before have made, and not drifted."""
    assert cli.main(["migrate-down", "TO=022"]) == 0

    code, said = drift(capsys)

    assert code == 0, said
    assert "at 022: as the revisions have made it" in said


ELSEWHERE = """from alembic import context

from mcp_planner_schema.guard import run

run(context, version_table="ver", version_table_schema="public")
"""


@pytest.fixture
def two(empty: Database, project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project with fingerprints that make asks about, two revisions, both applied."""
    monkeypatch.setattr(cli, "ROOT", project.folder)
    (project.folder / "alembic" / "fingerprints").touch()
    for number in (1, 2):
        project.revision(f"{number:03}", f"create_t{number}", f'op.execute("CREATE TABLE t{number} ()")',
                         f'op.drop_table("t{number}")')  # fmt: skip
    return project


def test_the_environments_version_table_counts(
    two: Project, empty: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    """drift, doctor, status, plan, preflight and force go by the table that env.py names, as the run does."""
    (two.folder / "alembic" / "env.py").write_text(ELSEWHERE)
    two.upgrade()

    code, said = drift(capsys)
    doctor = cli.main(["migrate-doctor"]), capsys.readouterr().out
    told = {}
    for name in ("status", "plan", "preflight"):
        assert cli.main([f"migrate-{name}", "JSON=1"]) == 0
        told[name] = json.loads(capsys.readouterr().out)
    empty.rows("UPDATE public.ver SET version_num = '001'")
    forced = cli.main(["migrate-force", "VERSION=002"])
    back = cli.main(["migrate-down"])

    assert (code, doctor) == (0, (0, "nothing found\n")), said
    assert said.strip().endswith("at 002: as the revisions have made it")
    assert (told["status"]["current"], told["status"]["pending"]) == (["002"], [])
    assert told["plan"]["from"] == "002"
    assert told["preflight"]["pending"] is False
    assert (forced, back) == (0, 0)
    assert empty.value("SELECT version_num FROM public.ver") == "001"
    assert empty.value("SELECT to_regclass('alembic_version')") is None


def test_what_goes_without_a_run_goes_by_it_too(
    two: Project, empty: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    """verify, trace, table-stats and accept too, and what changes something waits for who deploys by that table."""
    from mcp_planner_schema.guard import deploy_lock

    (two.folder / "alembic" / "env.py").write_text(ELSEWHERE)
    two.configure(deploy_lock_timeout="300ms")
    two.upgrade()
    capsys.readouterr()

    told = {name: (cli.main([name]), capsys.readouterr().out) for name in ("migrate-verify", "migrate-trace")}
    sizes = cli.main(["table-stats"])
    first = next(two.versions.glob("001_*.py"))
    first.write_text(first.read_text().replace("t1 ()", "t1 ( )"))
    with empty.connect() as deployer, deployer.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s)", (deploy_lock.key("ver", "public"),))
        waits = cli.main(["migrate-accept", "VERSION=001", "REASON=a blank"])
    accepted = cli.main(["migrate-accept", "VERSION=001", "REASON=a blank"])

    assert told["migrate-verify"][0] == 0 and "of 2 applied revisions" in told["migrate-verify"][1]
    assert told["migrate-trace"][0] == 0 and "create" not in told["migrate-trace"][1].lower()
    assert sizes == 0
    assert json.loads((two.folder / "alembic" / "table-stats.json").read_text())["version"] == ["002"]
    assert (waits, accepted) == (75, 0)
    assert empty.rows("SELECT DISTINCT version_table FROM migration.run") == [("public.ver",)]


def test_what_no_file_has_is_told_as_that(two: Project, capsys: pytest.CaptureFixture[str]) -> None:
    """drift, doctor and plan of a database that is ahead say by what, what that means, and what to deploy."""
    two.upgrade()
    next(two.versions.glob("002_*.py")).unlink()
    capsys.readouterr()

    codes = {name: cli.main([f"migrate-{name}"]) for name in ("drift", "doctor", "plan")}

    said = capsys.readouterr().err
    assert codes == {"drift": 3, "doctor": 3, "plan": 3}
    assert said.count("database-ahead") == 3 and "graph-broken" not in said
    assert said.count("002  Create t2  [expand]") == 3
    assert said.count("next: deploy the build that has them; or make migrate-recover VERSION=002") == 3
