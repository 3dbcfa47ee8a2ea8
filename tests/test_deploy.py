"""What scripts/production-migrate.sh goes by: stages, the record of a deploy, the watch, and what it refuses at once."""

from __future__ import annotations

import os
import shlex
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from mcp_planner_schema.deploy import __main__ as deploying
from mcp_planner_schema.deploy import back, backup, record, stages, watch
from mcp_planner_schema.deploy.stages import CONTRACT, EXPAND, Stages
from mcp_planner_schema.guard import connect, history, settings
from mcp_planner_schema.guard.address import parse
from mcp_planner_schema.guard.findings import Broken, GuardError, WrongUse
from tests.conftest import ROOT, Database

SCRIPT = ROOT / "scripts" / "production-migrate.sh"
E, M, C = "expand", "migrate", "contract"


def called(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The script, as somebody calls it without a terminal."""
    return subprocess.run(
        [str(SCRIPT), *arguments], env={**os.environ, **environment}, stdin=subprocess.DEVNULL, capture_output=True,
        text=True, check=False,
    )  # fmt: skip


# --- stages -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("phases", "kind", "found"),
    [
        ([], EXPAND, Stages()),
        ([E, E], EXPAND, Stages(expand="2")),
        ([E, M, C], EXPAND, Stages(expand="1", data="2", waits=("3",))),
        ([E, M, E, C, E], EXPAND, Stages(expand="1", data="3", waits=("4", "5"))),
        ([M, C], EXPAND, Stages(data="1", waits=("2",))),
        ([C, E], EXPAND, Stages(waits=("1", "2"))),
        ([], CONTRACT, Stages()),
        ([C], CONTRACT, Stages(contract="1")),
        ([C, C, E, C], CONTRACT, Stages(contract="2", waits=("3", "4"))),
    ],
    ids=lambda value: "-".join(value) or "nothing" if isinstance(value, list) else None,
)
def test_pending_revisions_have_their_stages(phases: list[str], kind: str, found: Stages) -> None:
    """Expand to the first data, data to the first contract; a contract run takes what is next, and nothing behind an expand."""
    pending = [(str(number), phase) for number, phase in enumerate(phases, 1)]

    assert stages.split(pending, kind) == found


def test_a_contract_does_not_overtake_its_expand() -> None:
    """Asked for a contract while its expand is pending, it says what has to be run before."""
    with pytest.raises(WrongUse, match="1, 2 would run before the contract"):
        stages.split([("1", E), ("2", M), ("3", C)], CONTRACT)


# --- the record -------------------------------------------------------------------------------------------------------


def test_a_deploy_that_did_not_end_is_found_again(empty: Database) -> None:
    """It is found while it is not done and the database is not behind its beginning; each kind has its own."""
    engine = connect.engine(connect.url(settings.load(_config())), "the test")
    who = history.Origin("somebody", "here", None)
    with connect.opened(engine, autocommit=True) as connection:
        record.prepare(connection, "migration")
        number = record.begin(connection, "migration", EXPAND, "021", {"022": "a"}, "no staging today", who)
        record.at(connection, "migration", number, "backup")

        found = record.unfinished(connection, "migration", EXPAND, ("020", "021", "022"))
        behind = record.unfinished(connection, "migration", EXPAND, ("020",))
        other = record.unfinished(connection, "migration", CONTRACT, ("020", "021"))
        record.resume(connection, "migration", number, {"022": "b", "023": "c"}, "still none")
        record.end(connection, "migration", number, "023", 0)
        done = record.unfinished(connection, "migration", EXPAND, ("020", "021"))

    assert found is not None
    assert (found.id, found.stage, found.start, found.revisions) == (number, "backup", "021", {"022": "a"})
    assert empty.value("SELECT revisions FROM migration.deploy") == {"022": "b", "023": "c"}
    assert (behind, other, done) == (None, None, None)
    assert empty.rows("SELECT state, to_head, exit_code, reason FROM migration.deploy") == [
        ("done", "023", 0, "no staging today; still none")
    ]


def test_a_deploy_that_goes_on_keeps_the_backup_from_before(
    empty: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file is gone or too old when it goes on, twice: another is written, and the first stays the one to go back with."""
    monkeypatch.setenv("PLANNER_ARCHIVE_DIR", str(tmp_path / "backups"))
    empty.rows("CREATE TABLE a (id int); INSERT INTO a VALUES (1)")  # and the deploy's row
    given = settings.load(_config())
    engine = connect.engine(connect.url(given), "the test")
    who = history.Origin("somebody", "here", None)
    with connect.opened(engine, autocommit=True) as connection:
        record.prepare(connection, "migration")
        number = record.begin(connection, "migration", EXPAND, "001", {}, None, who)

        paths = []
        for head in ("001", "002", "003"):
            for _ in backup.make(given, engine, record.read(connection, "migration", number), head, None, "again"):
                pass
            paths.append(empty.value("SELECT backup ->> 'path' FROM migration.deploy"))
            Path(paths[-1]).rename(tmp_path / f"moved{head}")  # as on another machine
            empty.rows("INSERT INTO a VALUES (2)")
        saved = record.newest(connection, "migration", saved=True)

    assert saved is not None
    assert saved.backup is not None
    told = list(back._restore(saved, engine.url, "planner"))
    assert len(set(paths)) == 3
    assert (saved.before["path"], saved.before["head"], saved.before["rows"]) == (paths[0], "001", 2)
    assert saved.backup["path"] == paths[2]
    assert told[-2].endswith(f"--dbname=planner_before {paths[0]}")
    assert f"at 003: {paths[2]}" in told[-1]


def _config() -> object:
    from alembic.config import Config

    return Config(str(ROOT / "alembic.ini"))


def test_what_a_deploy_was_begun_for_is_asked_for_again_when_that_is_long_ago(
    database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    """Within rehearsal_age it goes on without; a deploy that was begun before is rehearsed anew."""
    engine = connect.engine(connect.url(settings.load(_config())), "the test")
    with connect.opened(engine, autocommit=True) as connection:
        record.prepare(connection, "migration")
        record.begin(connection, "migration", EXPAND, "023", {}, None, history.Origin("somebody", "here", None))

    told = []
    for days in (6, 8):
        database.rows(f"UPDATE migration.deploy SET started_at = now() - interval '{days} days'")
        assert deploying.main(["stages"]) == 0
        told.append(capsys.readouterr().out.splitlines()[-2:])

    assert told == [["left 1", "begun yes"], ["left 1", "begun "]]


def test_nothing_of_somebody_elses_is_read_before_a_deploy(
    empty: Database, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A schema of that name that another role owns, with a view where the record would be: its code is not run."""
    ours, stranger = f"ours {empty.name}", f"it's {empty.name}"
    empty.rows(f"""CREATE ROLE "{ours}" LOGIN; CREATE ROLE "{stranger}"; CREATE SCHEMA migration; CREATE SEQUENCE run;
        CREATE VIEW migration.deploy AS SELECT nextval('run') AS id; GRANT ALL ON SEQUENCE run TO "{stranger}";
        ALTER VIEW migration.deploy OWNER TO "{stranger}"; ALTER SCHEMA migration OWNER TO "{stranger}";
        GRANT ALL ON SCHEMA migration TO "{ours}"; GRANT ALL ON migration.deploy TO "{ours}" """)
    monkeypatch.setenv("DATABASE_URL", parse(empty.url).set(username=ours).render_as_string())

    try:
        code = deploying.main(["stages"])
        asked = empty.value("SELECT is_called FROM run")
    finally:
        empty.rows(f'DROP OWNED BY "{ours}", "{stranger}" CASCADE; DROP ROLE "{ours}"; DROP ROLE "{stranger}"')

    said = capsys.readouterr().err
    typed = next(line for line in said.splitlines() if line.startswith("next: ")).partition("   (")[0]
    assert (code, asked) == (1, False)
    assert f'belongs to "{stranger}"' in said
    assert shlex.split(typed) == ["next:", "psql", "-c", f'ALTER SCHEMA migration OWNER TO "{ours}"']


# --- the watch --------------------------------------------------------------------------------------------------------


@pytest.fixture
def watching(empty: Database) -> Callable[..., list[str]]:
    """Watches the empty database; gives what was said."""

    def begin(**environment: str) -> list[str]:
        said: list[str] = []
        engine = connect.engine(connect.url(settings.load(_config())), "mcp-planner-guard deploy")
        short = {"WATCH_SECONDS": "0", "WATCH_EVERY": "0.1"}
        watch.watch(engine, watch.wanted({**short, **environment}), said.append, "again")
        return said

    return begin


def test_a_healthy_application_is_let_be(watching: Callable[..., list[str]]) -> None:
    """The command ends with 0, each time it is asked; without one that is said."""
    with_command = watching(WATCH_COMMAND="true", WATCH_SECONDS="0.3")
    without = watching()

    assert "times healthy" in with_command[-1]
    assert "WATCH_COMMAND is not set" in without[0]


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("sh -c 'echo no database; exit 7'", "sh ended with 7: no database"),
        ("/not/there", "/not/there cannot be run"),
        ("sleep 30", "sleep did not end within 0.2 s"),
        ("sh -c 'echo postgresql://me:s3cret@host/db; exit 1'", r"postgresql://me:\*\*\*@host/db"),
    ],
)
def test_an_application_that_is_not_healthy_stops_the_deploy(
    watching: Callable[..., list[str]], command: str, says: str
) -> None:
    """Another exit code, no program, no answer: told in one sentence, and no password of what it prints."""
    with pytest.raises(Broken, match=says):
        watching(WATCH_COMMAND=command, WATCH_TIMEOUT="0.2")


def test_some_failures_in_a_row_may_be(watching: Callable[..., list[str]], tmp_path: Path) -> None:
    """Fewer failures in a row than WATCH_FAILURES allows are told, and no more."""
    file = tmp_path / "asked"
    twice = f"sh -c 'echo >> {file}; test $(wc -l < {file}) -gt 2'"

    said = watching(WATCH_COMMAND=twice, WATCH_FAILURES="2", WATCH_SECONDS="0.5")

    assert sum("in a row" in line for line in said) == 2


def test_errors_of_the_application_stop_the_deploy(empty: Database, watching: Callable[..., list[str]]) -> None:
    """Transactions that are rolled back are counted by the server: too many since the change, and the watch ends."""

    def fail() -> None:
        with empty.connect(autocommit=False) as connection, connection.cursor() as cursor:
            for _ in range(30):
                cursor.execute("SELECT 1")
                connection.rollback()
            cursor.execute("SELECT pg_stat_force_next_flush()")

    failing = threading.Timer(0.1, fail)
    failing.start()

    with pytest.raises(Broken, match="has rolled back"):
        watching(WATCH_SECONDS="1.5")

    failing.join()


def test_who_waits_behind_the_migration_stops_the_deploy(empty: Database, watching: Callable[..., list[str]]) -> None:
    """A session that waits for more than a second for one of the guard's is named."""
    empty.rows("CREATE TABLE t ()")
    with empty.connect(autocommit=False) as ours, empty.connect() as theirs, ours.cursor() as cursor:
        cursor.execute("SET application_name = 'mcp-planner-guard x'; LOCK TABLE t")
        waiting = threading.Thread(target=lambda: theirs.cursor().execute("SELECT FROM t"))
        waiting.start()

        with pytest.raises(Broken, match=r"pid \d+ \(the test\) waits for a lock of the migration's"):
            watching(WATCH_SECONDS="10")
        ours.rollback()
        waiting.join()


@pytest.mark.parametrize("name", ["WATCH_SECONDS", "WATCH_EVERY", "WATCH_TIMEOUT", "WATCH_FAILURES", "WATCH_ROLLBACKS"])
def test_a_limit_of_the_watch_is_a_number(name: str) -> None:
    """What is no number is refused before anything is watched."""
    with pytest.raises(GuardError, match=f"{name} is 'soon'"):
        watch.wanted({name: "soon"})


# --- the script -------------------------------------------------------------------------------------------------------


def test_the_script_has_nothing_to_do_at_head(database: Database) -> None:
    """It ends with 0, writes nothing, and prints no way back; --help needs no database."""
    done, helped = called(), called("--help", DATABASE_URL="")

    assert (done.returncode, helped.returncode) == (0, 0)
    assert done.stderr.splitlines()[-1] == "nothing to do"
    assert "--contract" in helped.stdout
    assert database.value("SELECT to_regclass('migration.deploy') IS NULL")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--fast"], "There is no option --fast."),
        (["--contract"], "--reason says how it is known"),
        (["--without-rehearsal"], "--without-rehearsal needs --reason"),
        (["--reason"], "--reason needs a text"),
        ([], "a deploy never takes the embedded server"),
    ],
    ids=["unknown", "contract", "rehearsal", "reason", "no database"],
)
def test_the_script_refuses_what_it_cannot_mean(arguments: list[str], says: str) -> None:
    """Wrong use ends with 2 and the right form, before any database is asked."""
    ended = called(*arguments, DATABASE_URL="")

    assert ended.returncode == 2
    assert says in ended.stderr
    assert "next: " in ended.stderr
