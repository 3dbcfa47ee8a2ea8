"""Only the version is moved: in staging and production for a reason, and the reason is kept and shown."""

from __future__ import annotations

import pytest
from alembic import command

from mcp_planner_schema import cli
from mcp_planner_schema.guard.findings import Broken, Refused, WrongUse
from tests.conftest import Database, Project


@pytest.fixture
def two(empty: Database, project: Project) -> Project:
    """Two revisions, the first applied."""
    for number in (1, 2):
        project.revision(f"{number:03}", f"create_t{number}", f'op.execute("CREATE TABLE t{number} ()")',
                         f'op.drop_table("t{number}")')  # fmt: skip
    project.upgrade("001")
    return project


def stamps(database: Database) -> list[tuple[str, str | None]]:
    """The recorded stamps and their reasons."""
    return database.rows("SELECT revision, description FROM migration.history WHERE direction = 'stamp' ORDER BY id")


def test_without_a_reason_the_version_stays(two: Project, empty: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody moves a version that others rely on without saying why: a finding, and not a row was written."""
    for environment, target, reason in (
        ("staging", "002", None),
        ("production", "002", "  "),
        ("production", "base", None),
    ):
        monkeypatch.setenv("PLANNER_ENV", environment)
        with pytest.raises(Refused) as caught:
            command.stamp(two.config(reason=reason, confirm=empty.name), target)
        assert [one.code for one in caught.value.findings] == ["stamp-unexplained"]
        assert f'make migrate-force VERSION={target} REASON="…"' in caught.value.next_command

    assert (empty.value("SELECT version_num FROM alembic_version"), stamps(empty)) == ("001", [])
    assert empty.value("SELECT count(*) FROM migration.run") == 1


def test_with_a_reason_it_is_moved_and_the_reason_kept(
    two: Project, empty: Database, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By make and by alembic alike; the history shows who, why and from where."""
    monkeypatch.setenv("PLANNER_ENV", "production")
    monkeypatch.setattr(cli, "ROOT", two.folder)

    confirm = f"confirm={empty.name}"
    made = cli.main(["migrate-force", "VERSION=002", "REASON=restored from Monday", f"CONFIRM={empty.name}"])
    typed = two.alembic("-x", "reason=a typing error", "-x", confirm, "stamp", "001")
    without = two.alembic("-x", confirm, "stamp", "002")
    capsys.readouterr()
    cli.main(["migrate-history"])

    assert (made, typed.returncode, without.returncode) == (0, 0, 3), typed.stderr
    assert stamps(empty) == [("002", "restored from Monday"), ("001", "a typing error")]
    shown = capsys.readouterr().out.splitlines()
    assert shown[-2].endswith("restored from Monday  (from 001)")
    assert shown[-1].endswith("a typing error  (from 002)")


@pytest.mark.parametrize("environment", ["development", "production"])
def test_a_database_that_matches_takes_no_reason(
    two: Project, empty: Database, environment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the history has fingerprints, a database that is what they say is explained by itself."""
    (two.folder / "alembic" / "fingerprints").touch()
    two.downgrade("base")
    two.upgrade("002")
    empty.rows("UPDATE alembic_version SET version_num = '001'")
    monkeypatch.setenv("PLANNER_ENV", environment)

    command.stamp(two.config(confirm=empty.name), "002")

    assert stamps(empty) == [("002", None)]


@pytest.mark.parametrize("environment", ["development", "production"])
def test_a_database_that_is_another_takes_a_reason(
    two: Project, empty: Database, environment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What differs is shown object by object, and the version stays; to base too, and to what nobody has stored."""
    (two.folder / "alembic" / "fingerprints").touch()
    two.downgrade("base")
    two.upgrade("001")
    two.revision("003", "create_t3", 'op.execute("CREATE TABLE t3 ()")', 'op.drop_table("t3")')
    monkeypatch.setenv("PLANNER_ENV", environment)
    told = {}
    for target in ("002", "base", "003"):
        with pytest.raises(Refused) as caught:
            command.stamp(two.config(confirm=empty.name), target)
        assert [one.code for one in caught.value.findings] == ["stamp-differs"]
        told[target] = caught.value.text()
    command.stamp(two.config(reason="it will be", confirm=empty.name), "002")

    assert "nothing is stored of what revision 002 makes" in told["002"]
    assert "table public.t1 is unexpected" in told["base"]
    assert "nothing is stored of what revision 002 makes" in told["003"]
    assert stamps(empty) == [("002", "it will be")]


def test_the_version_that_does_match_is_named(two: Project, empty: Database) -> None:
    """Who has mistaken the version reads which one the database is at; where somebody has changed it by hand, that it is none."""
    (two.folder / "alembic" / "fingerprints").touch()
    two.downgrade("base")
    two.upgrade("002")
    empty.rows("UPDATE alembic_version SET version_num = '001'")
    said = {}
    for made in ("SELECT 1", "CREATE TABLE mine ()"):
        empty.rows(made)
        with pytest.raises(Refused) as caught:
            command.stamp(two.config(), "base")
        (said[made],) = caught.value.findings

    assert [one.values["match"] for one in said.values()] == ["002", "no revision here"]
    assert "it matches 002: " in next(iter(said.values())).text()


def test_who_has_mistaken_the_version_is_led_to_the_right_one(
    two: Project, empty: Database, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The refusal, the run that then fails, and doctor all name the version that the database is at; typed, it is cured."""
    monkeypatch.setattr(cli, "ROOT", two.folder)
    (two.folder / "alembic" / "fingerprints").touch()
    two.downgrade("base")
    two.revision("003", "create_t3", 'op.execute("CREATE TABLE t3 ()")', 'op.drop_table("t3")')
    two.upgrade("003")

    refused = cli.main(["migrate-force", "VERSION=001"]), capsys.readouterr().err
    dots = cli.main(["migrate-force", "VERSION=001", "REASON=…"]), capsys.readouterr().err
    with pytest.raises(WrongUse):
        command.stamp(two.config(reason="..."), "001")
    forced = cli.main(["migrate-force", "VERSION=001", "REASON=a mistake"])
    with pytest.raises(Broken) as failed:
        two.upgrade()
    capsys.readouterr()
    doctor = cli.main(["migrate-doctor"]), capsys.readouterr().out
    cured = cli.main(["migrate-force", "VERSION=003"])

    assert refused[0] == 3 and refused[1].endswith("next: make migrate-force VERSION=003\n")
    assert dots[0] == 2 and "REASON is '…', which stands for a value and is none" in dots[1]
    assert (forced, cured) == (0, 0)
    assert "it is the version that is wrong, and not the file" in failed.value.message
    assert failed.value.next_command == "make migrate-force VERSION=003"
    assert doctor[0] == 3
    assert "the version says 001, and the database is what the revisions up to 003 make of it" in doctor[1]
    assert "next: make migrate-force VERSION=003" in doctor[1] and "1 found" in doctor[1]
    assert cli.main(["migrate-doctor"]) == 0


def test_what_is_half_done_is_no_version(
    two: Project, empty: Database, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A step whose part of the catalog is committed and whose rows are not is told as that: its version would leave the rows."""
    monkeypatch.setattr(cli, "ROOT", two.folder)
    (two.folder / "alembic" / "fingerprints").touch()
    two.downgrade("base")
    two.revision(
        "003", "create_t3",
        "with op.get_context().autocommit_block():\n    op.execute('CREATE TABLE IF NOT EXISTS t3 (id int)')\n"
        "op.execute('INSERT INTO t3 SELECT 1 / count(*) FROM t1')",
        'op.drop_table("t3")', transaction="none",
    )  # fmt: skip
    two.upgrade("002")
    empty.rows("INSERT INTO t1 DEFAULT VALUES")
    two.upgrade("003")
    two.downgrade("002")
    empty.rows("DELETE FROM t1")

    with pytest.raises(Broken) as failed:
        two.upgrade("003")
    capsys.readouterr()
    cli.main(["migrate-doctor"])

    assert empty.value("SELECT to_regclass('t3')") is not None
    assert "division by zero" in failed.value.message
    assert "migrate-force" not in failed.value.text() + capsys.readouterr().out


def test_a_step_that_fails_after_it_blames_the_version_too(
    two: Project, empty: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    """A version that was moved back by mistake makes the next revision meet what is there: that is told before the file."""
    two.upgrade("002")
    command.stamp(two.config(reason="a mistake"), "001")

    with pytest.raises(Broken) as caught:
        two.upgrade()
    command.stamp(two.config(reason="right again"), "002")
    two.revision("003", "create_t3", 'op.execute("CREATE TABLE t1 ()")', 'op.drop_table("t3")')
    two.revision("004", "create_t4", 'op.execute("CREATE TABLE t4 ()")', 'op.drop_table("t4")')
    two.downgrade("001")
    two.upgrade("002")
    with pytest.raises(Broken) as own:
        two.upgrade()

    assert 'relation "t2" already exists' in caught.value.message
    assert "The version was moved by hand before this, to 001 on " in caught.value.message
    assert caught.value.next_command.startswith(
        "make migrate-drift   (whether the database is what 001 makes of it); if it is: "
    )
    assert "moved by hand" not in own.value.message
    assert own.value.next_command.startswith("correct ")


def test_development_needs_none(two: Project, empty: Database) -> None:
    """Where only its author works, a version may be moved without a word."""
    command.stamp(two.config(), "002")

    assert stamps(empty) == [("002", None)]


def test_a_purge_needs_a_reason_too(two: Project, empty: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """stamp --purge, which forgets a version that no file has, is a version moved by hand."""
    empty.rows("UPDATE alembic_version SET version_num = 'gone'")
    monkeypatch.setenv("PLANNER_ENV", "production")

    with pytest.raises(Refused, match="stamp-unexplained"):
        command.stamp(two.config(confirm=empty.name), "001", purge=True)
    command.stamp(two.config(reason="the branch was given up", confirm=empty.name), "001", purge=True)

    assert stamps(empty) == [("001", "the branch was given up")]
