"""Which database this is: its marker, the line that shows it, and the name that whoever destroys has to know."""

from __future__ import annotations

import re
import select
import socket
import socketserver
import sys
import threading
from collections.abc import Callable, Iterator

import pytest
from alembic import command

from mcp_planner_schema import cli
from mcp_planner_schema.guard import environments
from mcp_planner_schema.guard.environments import ENVIRONMENTS
from mcp_planner_schema.guard.findings import Refused
from tests.conftest import HEAD, ROOT, Database, Project

MARKERS = "SELECT name, reason FROM migration.environment ORDER BY number"


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Says PLANNER_ENV; empty for a guess."""
    return lambda name: monkeypatch.setenv("PLANNER_ENV", name)


@pytest.fixture
def two(project: Project) -> Project:
    """A project with two revisions."""
    for version, name in (("001", "a"), ("002", "b")):
        project.revision(version, f"create_{name}", f'op.execute("CREATE TABLE {name} (id int)")', f'op.drop_table("{name}")',
                         expectations=f'expect.table("{name}")')  # fmt: skip
    project.configure(backup_age="never")
    return project


@pytest.fixture
def copy(empty: Database, two: Project, say: Callable[[str], None], new_database: Callable[[], Database],
         monkeypatch: pytest.MonkeyPatch) -> Database:  # fmt: skip
    """A copy of a production database, named by DATABASE_URL, as pg_dump and psql make it."""
    say("production")
    two.upgrade("001")
    made = new_database()
    server = Database(made.host, made.port, "postgres")
    server.rows(f"DROP DATABASE {made.name}")
    server.rows(f"CREATE DATABASE {made.name} TEMPLATE {empty.name}")
    monkeypatch.setenv("DATABASE_URL", made.url)
    return made


# --- the marker -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "marked", "told"),
    [
        ("development", [("development", None)], ""),
        ("staging", [("staging", None)], "marked: this database is staging from now on"),
        ("production", [("production", None)], "marked: this database is production from now on"),
        ("", [], ""),
    ],
)
def test_the_first_run_marks_the_database(
    empty: Database, two: Project, say: Callable[[str], None], capsys: pytest.CaptureFixture[str], said: str,
    marked: list[tuple[str, None]], told: str,
) -> None:  # fmt: skip
    """What somebody has said is written once, and told but in development; a guess for a server of this machine is not."""
    say(said)

    two.upgrade("001")
    first = capsys.readouterr().err
    two.upgrade("002")

    assert empty.rows(MARKERS) == marked
    assert told in first
    assert "marked:" not in capsys.readouterr().err
    assert ("marked:" in first) == bool(told)


def test_a_database_of_an_earlier_version_is_marked_by_its_next_run(
    empty: Database, two: Project, say: Callable[[str], None]
) -> None:
    """Without the table nothing is refused, asking works, and the next run writes it."""
    two.upgrade("001")
    empty.rows("DROP TABLE migration.environment")
    say("production")

    command.current(two.config())
    before = empty.value("SELECT to_regclass('migration.environment')::text")
    two.upgrade("002")

    assert before is None
    assert empty.rows(MARKERS) == [("production", None)]


@pytest.mark.parametrize("name", [name for name in ENVIRONMENTS if name != "production"])
def test_a_copy_of_production_is_found_out(copy: Database, two: Project, say: Callable[[str], None], name: str) -> None:
    """A dump that is restored elsewhere says production still: nothing is changed there under another name."""
    say(name)

    for change in (
        lambda: two.upgrade("002"),
        lambda: two.downgrade("base"),
        lambda: command.stamp(two.config(), "002"),
    ):
        with pytest.raises(Refused) as caught:
            change()
        assert [one.code for one in caught.value.findings] == ["environment-differs"]
        assert f"PLANNER_ENV says {name}" in caught.value.text()
        assert f"make environment-set ENV={name} CONFIRM=" in caught.value.text()
    assert copy.value("SELECT version_num FROM alembic_version") == "001"
    assert copy.value("SELECT count(*) FROM migration.run") == 1


def test_a_tunnel_to_production_is_found_out(copy: Database, two: Project, say: Callable[[str], None]) -> None:
    """Where nobody says PLANNER_ENV, a server that looks like this machine's is not believed against the marker."""
    say("")

    with pytest.raises(Refused, match=r"nobody has said PLANNER_ENV, and the server is on this machine"):
        two.upgrade("002")

    assert copy.value("SELECT version_num FROM alembic_version") == "001"


@pytest.fixture
def elsewhere(empty: Database) -> Iterator[str]:
    """The URL of the database as one of another machine: by a name that is not this one's, through a door of our own."""

    class Through(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.socket(socket.AF_UNIX) as server:
                server.connect(f"{empty.host}/.s.PGSQL.{empty.port}")
                ends = {self.request: server, server: self.request}
                while True:
                    for one in select.select(list(ends), [], [])[0]:
                        if not (some := one.recv(65536)):
                            return
                        ends[one].sendall(some)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Through) as door:
        door.daemon_threads = True
        threading.Thread(target=door.serve_forever, args=(0.05,), daemon=True).start()
        yield f"postgresql://postgres@db.example.com:{door.server_address[1]}/{empty.name}?hostaddr=127.0.0.1"
        door.shutdown()


def test_production_that_nobody_has_marked_is_not_taken_for_another(
    empty: Database, two: Project, say: Callable[[str], None], elsewhere: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With rows, on another machine, and development said; or with a production run written down in it, wherever it is."""
    empty.rows("CREATE TABLE a (id int); INSERT INTO a VALUES (1)")
    say("development")
    monkeypatch.setenv("DATABASE_URL", elsewhere)
    with pytest.raises(
        Refused, match=r"environment-unsaid[\s\S]*it holds rows, and db\.example\.com is not this machine"
    ):
        two.upgrade()

    assert cli.main(["environment-set", "ENV=development", f"CONFIRM={empty.name}", "REASON=ours"]) == 0
    empty.rows("DROP TABLE a")
    two.upgrade("001")
    marked = empty.rows(MARKERS)

    empty.rows("DELETE FROM migration.environment")
    empty.rows(
        "UPDATE migration.event SET data = data || '{\"environment\": \"production\"}' WHERE kind = 'run-started'"
    )
    monkeypatch.setenv("DATABASE_URL", empty.url)
    for name in ("development", "staging", ""):
        say(name)
        with pytest.raises(Refused, match=r"environment-unsaid[\s\S]*runs in production are written down in it"):
            two.upgrade("002")
    say("production")
    two.upgrade("002")

    assert marked == [("development", "ours")]
    assert empty.rows(MARKERS) == [("production", None)]


def test_what_is_nobodys_production_needs_no_marker(
    empty: Database, two: Project, say: Callable[[str], None], elsewhere: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database with rows on this machine, and on another one a database without: each is taken for what is said."""
    say("development")
    monkeypatch.setenv("DATABASE_URL", elsewhere)
    two.upgrade("001")  # as a pipeline does
    two.upgrade("002")  # marked by now
    marked = empty.rows(MARKERS)
    empty.rows("INSERT INTO b VALUES (1); DROP TABLE migration.environment")
    monkeypatch.setenv("DATABASE_URL", empty.url)

    two.downgrade("001")

    assert (marked, empty.rows(MARKERS)) == ([("development", None)],) * 2


def test_asking_goes_on_and_is_told(
    copy: Database, two: Project, say: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """What only asks works on a database that says something else, with one note."""
    say("staging")
    capsys.readouterr()
    config = two.config()
    config.stdout = sys.stdout

    command.current(config)

    told = capsys.readouterr()
    assert "001" in told.out
    assert told.err.count("what changes this database is refused") == 1


def test_every_command_that_changes_is_refused(
    database: Database, say: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """Those beside up and down too: nothing is written by any of them."""
    database.rows("INSERT INTO migration.environment (name, who, host) VALUES ('production', 'them', 'there')")
    say("development")
    tried = [
        ["migrate-up"], ["migrate-down"], ["migrate-goto", "VERSION=003"], ["migrate-force", "VERSION=003", "REASON=x"],
        ["migrate-accept", "VERSION=003", "REASON=x"], ["migrate-restore", "VERSION=003"],
        ["migrate-stash-purge", "ID=1", "CONFIRM=migration_stash_1"], ["migrate-reset"], ["example-data", "PROJECTS=1"],
        ["backfill-stop"],
    ]  # fmt: skip
    before = database.rows("SELECT pg_current_wal_insert_lsn() IS NULL, count(*) FROM migration.run")

    refused = {}
    for arguments in tried:
        code = cli.main(arguments)
        refused[arguments[0]] = (code, "environment-differs" in capsys.readouterr().err)

    assert refused == {one[0]: (3, True) for one in tried if one != ["migrate-up"]} | {"migrate-up": (3, True)}
    assert database.rows("SELECT pg_current_wal_insert_lsn() IS NULL, count(*) FROM migration.run") == before
    assert database.value("SELECT version_num FROM alembic_version") == HEAD


def test_preflight_is_refused_as_a_run_would_be(
    database: Database, say: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """Who asks before a run is told what the run would be refused for."""
    database.rows("INSERT INTO migration.environment (name, who, host) VALUES ('production', 'them', 'there')")
    say("staging")

    assert cli.main(["migrate-preflight", "TO=023"]) == 3

    assert "environment-differs" in capsys.readouterr().out


def test_a_copy_becomes_staging(
    copy: Database,
    two: Project,
    say: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """environment-set, with its name, makes it staging: recorded with who and why, with an id of its own, and runs go on."""
    say("staging")
    former = copy.value("SELECT id FROM migration.environment")
    capsys.readouterr()

    code = cli.main(["environment-set", "ENV=staging", f"CONFIRM={copy.name}", "REASON=the copy of Friday"])
    told = capsys.readouterr().out
    again = cli.main(["environment-set", "ENV=staging", f"CONFIRM={copy.name}"])
    two.upgrade("002")

    assert (code, again) == (0, 0)
    assert re.search(rf"^{copy.name} at .* is staging from now on, said by .*; it was production since .*", told)
    assert copy.rows(MARKERS) == [("production", None), ("staging", "the copy of Friday")]
    assert copy.value("SELECT count(DISTINCT id) FROM migration.environment") == 2
    assert copy.value("SELECT id FROM migration.environment ORDER BY number LIMIT 1") == former
    assert copy.value("SELECT command FROM migration.run WHERE planned = 0") == (
        f"make environment-set ENV=staging CONFIRM={copy.name}"
    )
    assert copy.value("SELECT version_num FROM alembic_version") == "002"


@pytest.mark.parametrize(
    ("said", "arguments", "code", "problem"),
    [
        ("staging", ["ENV=staging", "CONFIRM=another"], 3, "CONFIRM is 'another', which names another"),
        ("staging", ["ENV=stagin", "CONFIRM={name}"], 2, "ENV is 'stagin'; known are"),
        ("", ["ENV=staging", "CONFIRM={name}"], 2, "nobody has said PLANNER_ENV"),
        ("production", ["ENV=staging", "CONFIRM={name}"], 2, "PLANNER_ENV says production"),
    ],
)
def test_environment_set_is_refused(
    copy: Database, say: Callable[[str], None], capsys: pytest.CaptureFixture[str], said: str, arguments: list[str], code: int,
    problem: str,
) -> None:  # fmt: skip
    """Another name, an unknown environment, or one that is not said for the next command too: nothing is written."""
    say(said)

    assert cli.main(["environment-set", *(one.format(name=copy.name) for one in arguments)]) == code

    assert problem in capsys.readouterr().err
    assert copy.rows(MARKERS) == [("production", None)]


def test_the_sql_of_an_upgrade_asks_the_marker(
    copy: Database, two: Project, say: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that was written for staging stops on a database that says production, before it changes anything."""
    say("staging")
    capsys.readouterr()
    command.upgrade(two.config(), "001:002", sql=True)
    file = two.folder / "up.sql"
    file.write_text(capsys.readouterr().out)

    refused = copy.psql(file)
    copy.rows("INSERT INTO migration.environment (name, who, host) VALUES ('staging', 'me', 'here')")
    ran = copy.psql(file)

    assert "this was written for staging, and the database says that it is production" in refused.stderr
    assert ran.returncode == 0, ran.stderr
    assert copy.value("SELECT version_num FROM alembic_version") == "002"


def test_a_role_that_may_not_read_the_marker_is_not_stopped_by_it(
    empty: Database,
    two: Project,
    say: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Asking the version as somebody who may not look into the guard's schema works as before."""
    say("production")
    two.upgrade("001")
    role = f"r_{empty.name}"
    empty.rows(f"CREATE ROLE {role} LOGIN; GRANT SELECT ON alembic_version TO {role}; "
               "REVOKE ALL ON SCHEMA migration FROM PUBLIC")  # fmt: skip
    monkeypatch.setenv("DATABASE_URL", empty.url.replace("postgres@", f"{role}@"))
    say("staging")
    capsys.readouterr()
    config = two.config()
    config.stdout = sys.stdout

    try:
        command.current(config)
    finally:
        empty.rows(f"DROP OWNED BY {role}; DROP ROLE {role}")

    assert "001" in capsys.readouterr().out


# --- the first line ---------------------------------------------------------------------------------------------------


def test_production_shows_first_which_database_it_is(empty: Database, two: Project, say: Callable[[str], None]) -> None:
    """Environment, database, host, port and size in the first line on stderr, once, and no password; staging has none."""
    url = empty.url.replace("postgres@", "postgres:geheim@")

    shown = two.alembic("upgrade", "head", PLANNER_ENV="production", DATABASE_URL=url)
    staging = two.alembic("current", PLANNER_ENV="staging")

    line = shown.stderr.splitlines()[0]
    assert shown.returncode == 0, shown.stderr
    assert re.fullmatch(rf"production: {empty.name} at {re.escape(empty.host)}:{empty.port}, \d+ [kM]B", line)
    assert shown.stderr.count("production: ") == 1
    assert "geheim" not in shown.stderr + shown.stdout
    assert not re.search("^staging: ", staging.stderr, re.MULTILINE)


@pytest.mark.parametrize("name", ["migrate-status", "migrate-history", "migrate-stash-list", "migrate-stash-verify",
                                  "migrate-verify", "migrate-drift", "migrate-plan", "migrate-down"])  # fmt: skip
def test_every_command_on_production_shows_it_once(
    database: Database, say: Callable[[str], None], capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """Also those that only ask, and those that connect more than once; what they print on stdout stays as it is."""
    say("production")

    cli.main([name, *(["DRY_RUN=1"] if name == "migrate-down" else [])])

    told = capsys.readouterr()
    assert re.match(rf"production: {database.name} at \S+, \d+ [kM]B\n", told.err)
    assert told.err.count("production: ") == 1
    assert "production: " not in told.out


# --- the name ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [None, "another", ""])
def test_production_is_not_left_or_stamped_without_its_name(
    empty: Database, two: Project, say: Callable[[str], None], wrong: str | None
) -> None:
    """Going back and moving the version need CONFIRM: without it, or with another name, nothing happens and no run is written."""
    say("production")
    two.upgrade()
    deeds = {
        "002 would be taken back": lambda **given: command.downgrade(two.config(**given), "-1"),
        "the version is moved from 002 to 001": lambda **given: command.stamp(
            two.config(reason="a test", **given), "001"
        ),
    }

    for deed, does in deeds.items():
        with pytest.raises(Refused) as caught:
            does(confirm=wrong)
        assert [one.code for one in caught.value.findings] == ["unconfirmed"]
        assert f"{deed}" in caught.value.text()
    assert empty.value("SELECT count(*) FROM migration.run") == 1
    assert empty.value("SELECT version_num FROM alembic_version") == "002"


def test_with_the_name_it_goes(empty: Database, two: Project, tmp_path_factory: pytest.TempPathFactory) -> None:
    """``alembic -x confirm=<database>`` goes back in production; the refusal says so, and does not give the name away."""
    outside = {"PLANNER_ENV": "production", "PLANNER_ARCHIVE_DIR": str(tmp_path_factory.mktemp("b") / "backups")}
    assert two.alembic("upgrade", "head", **outside).returncode == 0

    refused = two.alembic("-x", "confirm=another", "downgrade", "-1", **outside)
    shown = two.alembic("-x", "dry_run=1", "downgrade", "-1", **outside)
    done = two.alembic("-x", f"confirm={empty.name}", "downgrade", "-1", **outside)

    assert refused.returncode == 3
    assert refused.stderr.rstrip().endswith("next: alembic -x confirm=… downgrade -1")
    assert shown.returncode == 0, shown.stderr
    assert done.returncode == 0, done.stderr
    assert empty.value("SELECT version_num FROM alembic_version") == "001"


@pytest.mark.parametrize("before", [True, False])
def test_make_takes_the_name_before_the_command_or_behind_it(
    database: Database,
    say: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    before: bool,
) -> None:
    """``CONFIRM=x make migrate-force`` is the same as ``make migrate-force CONFIRM=x``; make says how, where it is missing."""
    say("production")
    arguments = ["migrate-force", "VERSION=005", "REASON=a test"]
    missing = cli.main(arguments)
    told = capsys.readouterr().err
    if before:
        monkeypatch.setenv("CONFIRM", database.name)

    code = cli.main(arguments + ([] if before else [f"CONFIRM={database.name}"]))

    assert (missing, code) == (3, 0)
    assert told.rstrip().endswith("next: make migrate-force VERSION=005 CONFIRM=…")
    assert database.value("SELECT version_num FROM alembic_version") == "005"


def test_a_stash_of_production_is_purged_by_both_names(
    empty: Database, two: Project, say: Callable[[str], None], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """The stash's name alone could be another database's: the database's own stands before it."""
    monkeypatch.setattr(cli, "ROOT", two.folder)
    two.upgrade()
    empty.rows("INSERT INTO b VALUES (1)")
    two.downgrade("001")
    say("production")
    capsys.readouterr()

    told = []
    for confirm in ("migration_stash_1", "other.migration_stash_1", f"{empty.name}.migration_stash_1"):
        assert cli.main(["migrate-stash-purge", "ID=1", f"CONFIRM={confirm}"]) == 3
        told.append(re.findall(r": (unconfirmed|stash-retained)$", capsys.readouterr().err, re.MULTILINE))

    assert told == [["unconfirmed"], ["unconfirmed"], ["stash-retained"]]


@pytest.mark.parametrize("name", ["staging", "production"])
def test_there_is_no_reset_outside_development(
    database: Database, say: Callable[[str], None], capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """It is not offered under another name either, also not with the database's name."""
    say(name)

    assert cli.main(["migrate-reset"]) == 2

    told = capsys.readouterr().err
    assert f"There is no reset in {name}" in told
    assert "PLANNER_ENV=development" not in told


def test_the_page_tells_what_needs_the_name() -> None:
    """docs/environments.md lists the commands that take CONFIRM, all of them."""
    page = (ROOT / "docs" / "environments.md").read_text()

    takes = [name for name, one in cli.COMMANDS.items() if "CONFIRM" in one.needs + one.takes]

    assert takes == [name for name in takes if f"`make {name}" in page]
    assert [name for name in ENVIRONMENTS if environments.of(name).confirms] == ["production"]
