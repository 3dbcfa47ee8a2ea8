"""The spine: steps one by one, each proven before it commits, each with its row in the history."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine

from mcp_planner_schema.guard import deploy_lock
from mcp_planner_schema.guard.findings import Broken, Busy, GuardError, Refused, WrongUse
from tests.conftest import Database, Project
from tests.until import until

COMMANDS = ("upgrade", "downgrade", "stamp", "current", "check", "revision", "ensure_version")


def tables(project: Project, count: int, **upgrades: str) -> None:
    """Revisions 001 to ``count``, each creating a table t<n>; ``r003="…"`` gives the body of one."""
    for number in range(1, count + 1):
        create = f'op.execute("CREATE TABLE t{number} (id int)")'
        project.revision(
            f"{number:03}", f"create_t{number}", upgrades.get(f"r{number:03}", create),
            f'op.execute("DROP TABLE IF EXISTS t{number}")', expectations=f'expect.absent(expect.table("none{number}"))',
        )  # fmt: skip


def started(project: Project, *arguments: str) -> subprocess.Popen[str]:
    """The alembic command, running beside the test."""
    return subprocess.Popen(
        [sys.executable, "-m", "alembic", *arguments], cwd=project.folder, text=True, stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )  # fmt: skip


def test_upgrade_applies_each_revision_and_writes_its_history(empty: Database, project: Project) -> None:
    """A run with two revisions leaves both applied, two history rows that say done and one finished run."""
    tables(project, 2)

    project.upgrade()

    assert empty.rows("SELECT version_num FROM alembic_version") == [("002",)]
    assert empty.rows("SELECT revision, direction, outcome, attempts FROM migration.history ORDER BY id") == [
        ("001", "upgrade", "done", 1),
        ("002", "upgrade", "done", 1),
    ]
    assert empty.rows("SELECT state, from_heads, to_heads, planned FROM migration.run") == [("done", [], ["002"], 2)]


def test_alembic_gives_its_steps_and_runs_exactly_the_one_it_is_given(empty: Database, project: Project) -> None:
    """Undocumented behaviour the guard rests on: opts["fn"] gives the steps, a second configure(fn=…) runs just one."""
    tables(project, 3)
    script = ScriptDirectory.from_config(project.config())
    environment = EnvironmentContext(project.config(), script, fn=lambda rev, ctx: script._upgrade_revs("head", rev))

    with environment, create_engine(empty.url.replace("postgresql:", "postgresql+psycopg2:")).connect() as connection:
        environment.configure(connection=connection, transaction_per_migration=True)
        steps = list(environment.get_context().opts["fn"]((), environment.get_context()))
        environment.configure(connection=connection, transaction_per_migration=True, fn=lambda heads, ctx: [steps[0]])
        with environment.begin_transaction():
            environment.run_migrations()
        connection.get_transaction().close() if connection.in_transaction() else None

    assert [step.revision.revision for step in steps] == ["001", "002", "003"]
    assert empty.value("SELECT version_num FROM alembic_version") == "001"
    assert empty.value("SELECT to_regclass('t2')") is None


@pytest.mark.parametrize("name", COMMANDS)
def test_only_commands_that_move_the_version_have_a_destination(
    empty: Database, project: Project, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """upgrade, downgrade and stamp carry destination_rev, the others do not; stamp's steps are stamps."""
    tables(project, 1)
    (project.folder / "alembic" / "env.py").write_text(
        "from alembic import context\nfrom sqlalchemy import create_engine\nimport os\n"
        "with create_engine(os.environ['DATABASE_URL'].replace('sql:', 'sql+psycopg2:')).connect() as c:\n"
        "    context.configure(connection=c)\n"
        "    made = context.get_context()\n"
        "    context.config.attributes['seen'] = 'destination_rev' in made.opts\n"
        "    if 'destination_rev' in made.opts:\n"
        "        context.config.attributes['steps'] = list(made.opts['fn']((), made))\n"
    )
    config = project.config()
    arguments = {"upgrade": ["head"], "downgrade": ["base"], "stamp": ["head"]}.get(name, [])

    getattr(command, name)(config, *arguments)

    assert config.attributes["seen"] is (name in ("upgrade", "downgrade", "stamp"))
    assert [step.info.is_stamp for step in config.attributes.get("steps", [])] == (
        [True] if name == "stamp" else [False] if name == "upgrade" else []
    )


def test_a_failing_downgrade_says_that_its_file_is_applied(empty: Database, project: Project) -> None:
    """What is to be corrected is the file of an applied revision: the next line names the waiver without which it is refused."""
    project.configure(headers="required")
    project.revision("001", "create_a", 'op.execute("CREATE TABLE a (id int)")', 'op.execute("DROP TABLE b")')
    project.upgrade()

    done = project.alembic("downgrade", "-1")

    told = re.search(
        r"next: correct (\S+?):\d+ \(with \"(Waive: applied-edited \| why \| \S+)\" in its header\)", done.stderr
    )
    assert done.returncode == 1
    assert told, done.stderr
    assert told[1] == "alembic/versions/001_create_a.py"
    file = project.folder / told[1]
    file.write_text(
        file.read_text().replace("DROP TABLE b", "DROP TABLE a").replace('\n"""\n', f'\n{told[2]}\n"""\n', 1)
    )
    assert project.alembic("downgrade", "-1").returncode == 0
    assert empty.value("SELECT to_regclass('a') IS NULL")


def test_a_failing_revision_leaves_the_earlier_ones_and_nothing_of_itself(empty: Database, project: Project) -> None:
    """Revision 3 of 5 fails: 1 and 2 stay, 3 is gone whole, exit 1, failed history row and run, one clear message."""
    tables(project, 5, r003='op.execute("CREATE TABLE t3 (id int)")\nop.execute("SELECT 1/0")')

    done = project.alembic("upgrade", "head")

    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "Revision 003 (alembic/versions/003_create_t3.py:" in done.stderr
    assert "division by zero" in done.stderr
    assert re.search(
        r"next: correct alembic/versions/003_create_t3.py:\d+, then alembic upgrade head$", done.stderr.strip()
    )
    assert empty.value("SELECT version_num FROM alembic_version") == "002"
    assert empty.rows("SELECT to_regclass('t2')::text, to_regclass('t3'), to_regclass('t4')") == [("t2", None, None)]
    assert empty.rows("SELECT revision, outcome FROM migration.history ORDER BY id") == [
        ("001", "done"),
        ("002", "done"),
        ("003", "failed"),
    ]
    assert "division by zero" in empty.value("SELECT error FROM migration.history WHERE outcome = 'failed'")
    assert empty.rows("SELECT state, to_heads FROM migration.run") == [("failed", ["002"])]


def test_from_code_the_error_is_raised(empty: Database, project: Project) -> None:
    """A caller of alembic.command gets Broken, not SystemExit."""
    tables(project, 1, r001='op.execute("SELECT 1/0")')

    with pytest.raises(Broken, match="division by zero"):
        project.upgrade()

    assert empty.value("SELECT state FROM migration.run") == "failed"


def test_a_python_error_is_one_message_with_its_line(empty: Database, project: Project) -> None:
    """A NameError in upgrade() names type, file and line; no traceback, nothing applied."""
    path = project.revision("001", "create_a", "undefined_name()", 'op.execute("SELECT 1")')
    line = path.read_text().split("\n").index("    undefined_name()") + 1

    done = project.alembic("upgrade", "head")

    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert f"001_create_a.py:{line}): NameError: name 'undefined_name' is not defined" in done.stderr


def test_an_error_at_import_names_the_file(empty: Database, project: Project) -> None:
    """A revision that cannot be imported is one message with file and line, for upgrade and for current."""
    tables(project, 1)
    path = project.versions / "001_create_t1.py"
    path.write_text(path.read_text().replace("branch_labels = None", "branch_labels = missing_name"))

    done = [project.alembic("upgrade", "head"), project.alembic("current")]

    assert [one.returncode for one in done] == [1, 1]
    for one in done:
        assert "Traceback" not in one.stderr
        assert "001_create_t1.py:" in one.stderr
        assert "missing_name" in one.stderr


def test_the_first_error_is_told_not_its_echo(empty: Database, project: Project) -> None:
    """A revision that swallows an error fails with that error, not with 'current transaction is aborted'."""
    body = 'try:\n    op.execute("SELECT 1/0")\nexcept Exception:\n    pass\nop.execute("CREATE TABLE a (id int)")'
    tables(project, 1, r001=body)

    with pytest.raises(Broken) as caught:
        project.upgrade()

    assert "division by zero" in caught.value.message
    assert "current transaction is aborted" not in caught.value.message


def test_exit_codes(empty: Database, project: Project) -> None:
    """0 done, 2 unknown revision, 3 refused by a finding: each without a traceback and with the next command."""
    tables(project, 1)

    done, unknown = project.alembic("upgrade", "head"), project.alembic("upgrade", "nowhere")
    path = project.versions / "001_create_t1.py"
    project.write("002_create_t2.py", path.read_text().replace("Author", "Writer"))
    refused = project.alembic("upgrade", "head")

    assert (done.returncode, unknown.returncode, refused.returncode) == (0, 2, 3)
    for one in (unknown, refused):
        assert "Traceback" not in one.stderr
        assert "\nnext: " in one.stderr


def test_every_other_command_works_under_the_guard(empty: Database, project: Project) -> None:
    """current, history, heads, show, ensure_version, check, stamp, stamp --purge and revision end with 0."""
    tables(project, 2)
    (project.folder / "alembic" / "env.py").write_text(
        "from alembic import context\nfrom sqlalchemy import MetaData\nfrom mcp_planner_schema.guard import run\n"
        "run(context, target_metadata=MetaData())\n"
    )

    results = [
        project.alembic(*words.split())
        for words in (
            "ensure_version",
            "current",
            "history",
            "heads",
            "show 001",
            "stamp head",
            "current",
            "check",
            "stamp --purge 001",
            "history -i",
            "revision -m create_more",
        )
    ]

    assert [(one.returncode, one.stderr) for one in results if one.returncode] == []
    assert "002 (head)" in results[6].stdout
    assert empty.value("SELECT version_num FROM alembic_version") == "001"
    assert (project.versions / "003_create_more.py").exists()
    assert empty.rows("SELECT revision, direction FROM migration.history ORDER BY id") == [
        ("002", "stamp"),
        ("001", "stamp"),
    ]


def test_a_reason_for_a_stamp_is_kept(empty: Database, project: Project) -> None:
    """config.attributes["reason"] becomes the description of the stamp's history row."""
    tables(project, 1)

    command.stamp(project.config(reason="restored from the backup of Monday"), "001")

    assert empty.rows("SELECT direction, outcome, description FROM migration.history") == [
        ("stamp", "done", "restored from the backup of Monday")
    ]


def given(database: Database, **options: Any) -> Any:
    """A caller's engine with room for one connection only."""
    return create_engine(
        database.url.replace("postgresql:", "postgresql+psycopg2:"), pool_size=1, max_overflow=0, **options
    )


def test_a_callers_connection_is_used_and_given_back_as_it_was(empty: Database, project: Project) -> None:
    """The caller's search_path decides where the tables go, survives the run, and its one-place pool is enough."""
    tables(project, 2, r001='op.execute("CREATE TABLE t1 (id int)")\nop.execute("SET statement_timeout = 77")')
    empty.rows("CREATE SCHEMA tenant")
    engine = given(empty)

    with engine.connect() as connection:
        connection.exec_driver_sql("SET search_path = tenant")
        connection.commit()
        command.upgrade(project.config(connection=connection), "head")
        path = connection.exec_driver_sql("SHOW search_path").scalar_one()
        timeout = connection.exec_driver_sql("SHOW statement_timeout").scalar_one()
    engine.dispose()

    assert (path, timeout) == ("tenant", "0")
    assert empty.value("SELECT version_num FROM tenant.alembic_version") == "002"
    assert empty.value("SELECT to_regclass('tenant.t2')::text") == "tenant.t2"


def test_a_connection_already_in_a_transaction_is_refused(empty: Database, project: Project) -> None:
    """Alembic would run everything, report success and lose it: the guard refuses before the first statement."""
    tables(project, 1)
    engine = given(empty)

    with engine.connect() as connection, pytest.raises(Refused) as caught:
        connection.exec_driver_sql("SELECT 1")
        command.upgrade(project.config(connection=connection), "head")
    engine.dispose()

    assert [finding.code for finding in caught.value.findings] == ["external-transaction"]
    assert empty.value("SELECT to_regclass('alembic_version')") is None


def test_a_connection_in_autocommit_is_refused(empty: Database, project: Project) -> None:
    """On a connection in autocommit no step could be rolled back, nor on such an engine's; a URL is neither."""
    tables(project, 1)
    engine = given(empty, isolation_level="AUTOCOMMIT")

    with engine.connect() as connection, pytest.raises(WrongUse, match="autocommit"):
        command.upgrade(project.config(connection=connection), "head")
    with pytest.raises(WrongUse, match="autocommit"):
        command.upgrade(project.config(connection=engine), "head")
    with pytest.raises(WrongUse, match="is URL, not a SQLAlchemy Connection or Engine"):
        command.upgrade(project.config(connection=engine.url), "head")
    engine.dispose()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_cancels_the_statement_and_rolls_the_step_back(
    empty: Database, project: Project, number: signal.Signals
) -> None:
    """Ctrl-C and SIGTERM in the middle of a long statement end it at once: exit 75, nothing left, everything written."""
    tables(project, 2, r002='op.execute("CREATE TABLE t2 (id int)")\nop.execute("SELECT pg_sleep(60)")')
    project.configure(statement_timeout="2min")
    shell = started(project, "upgrade", "head")
    sleeping = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%%pg_sleep(60)%%' AND pid <> pg_backend_pid()"

    until(lambda: empty.value(sleeping + " AND state = 'active'"))
    shell.send_signal(number)
    _, stderr = shell.communicate(timeout=15)

    assert shell.returncode == 75
    assert "Traceback" not in stderr
    assert "The step was rolled back whole" in stderr
    assert stderr.strip().endswith("next: alembic upgrade head")
    assert empty.value("SELECT to_regclass('t2')") is None
    assert empty.rows("SELECT revision, outcome FROM migration.history ORDER BY id") == [
        ("001", "done"),
        ("002", "failed"),
    ]
    assert empty.value("SELECT state FROM migration.run") == "failed"


def test_a_version_moved_from_outside_is_noticed(empty: Database, project: Project) -> None:
    """Something moves the version while the run ends: the fresh connection's reading fails the run."""
    tables(project, 1)
    project.upgrade()
    empty.rows("CREATE FUNCTION public.move() RETURNS trigger LANGUAGE plpgsql AS "
               "$$ BEGIN UPDATE public.alembic_version SET version_num = '001'; RETURN NEW; END $$")  # fmt: skip
    empty.rows("CREATE TRIGGER move AFTER UPDATE ON migration.run FOR EACH ROW WHEN (NEW.state = 'done') "
               "EXECUTE FUNCTION public.move()")  # fmt: skip
    tables(project, 2)

    with pytest.raises(Broken, match="the database says 001 instead of 002"):
        project.upgrade()


def test_a_long_revision_id_fits(empty: Database, project: Project) -> None:
    """Ids longer than Alembic's 32 characters work, in a new version table and in one that is there."""
    project.configure(headers="optional")
    first, second = "a" * 40, "b" * 60
    text = "from alembic import op\nrevision = {!r}\ndown_revision = {!r}\ndef upgrade(): op.execute('SELECT 1')\n"
    project.write("first.py", text.format(first, None))
    project.upgrade()
    empty.rows("ALTER TABLE alembic_version ALTER version_num TYPE varchar(40)")
    project.write("second.py", text.format(second, first))

    project.upgrade()

    assert empty.value("SELECT version_num FROM alembic_version") == second


def test_callbacks_of_the_environment_are_kept(empty: Database, project: Project) -> None:
    """An env.py's own on_version_apply is called for each step, beside the guard's."""
    tables(project, 2)
    (project.folder / "alembic" / "env.py").write_text(
        "from alembic import context\nfrom mcp_planner_schema.guard import run\n"
        "seen = context.config.attributes['seen']\n"
        "run(context, on_version_apply=lambda step, **_: seen.append(step.up_revision_id))\n"
    )
    seen: list[str] = []

    command.upgrade(project.config(seen=seen), "head")

    assert seen == ["001", "002"]


def test_nothing_to_do_imports_nothing_of_a_step(empty: Database, project: Project, tmp_path: Path) -> None:
    """At head, upgrade loads none of the modules that only a pending revision needs."""
    tables(project, 1)
    project.upgrade()
    code = (
        "import sys\nfrom alembic import command\nfrom alembic.config import Config\n"
        "command.upgrade(Config('alembic.ini'), 'head')\n"
        "print(*sorted(n for n in sys.modules if n.startswith('mcp_planner_schema.')), sep='\\n')\n"
    )

    done = subprocess.run([sys.executable, "-c", code], cwd=project.folder, capture_output=True, text=True, check=True,
                          env=dict(os.environ))  # fmt: skip

    loaded = {name.rpartition(".")[2] for name in done.stdout.split()}
    assert "nothing to do" in done.stderr
    assert not loaded & {"step", "history", "trial", "stash", "deploy_lock", "watch", "session", "judge",
                         "graph", "body", "header", "source", "offline", "embedded", "version_table"}  # fmt: skip


def test_a_relative_destination_is_counted_once(empty: Database, project: Project) -> None:
    """downgrade -2 at 004 that stops after its first step says 002, and what it says leads there; so does upgrade +2."""
    later = 'runs.append(1)\nif len(runs) == 2:\n    op.execute("LOCK TABLE t1")\n'  # its first run is a rehearsal or a trial
    for number in range(1, 5):
        project.revision(f"{number:03}", f"create_t{number}", f'op.execute("CREATE TABLE t{number} (id int)")',
                         (later if number == 3 else "") + f'op.drop_table("t{number}")',
                         expectations=f'expect.table("t{number}")', more="runs = []")  # fmt: skip
    project.configure(lock_attempts="1")
    project.upgrade()

    with empty.connect(autocommit=False) as holder, holder.cursor() as cursor:
        cursor.execute("LOCK TABLE t1")
        busy = project.alembic("downgrade", "-2")
        here = empty.value("SELECT version_num FROM alembic_version")
        made = project.config(repeat="make migrate-down STEPS=1")
        with pytest.raises(Busy) as caught:
            command.downgrade(made, "-1")
    again = project.alembic(*busy.stderr.strip().rpartition("next: alembic ")[2].split())

    assert (busy.returncode, here) == (75, "003"), busy.stderr
    assert busy.stderr.strip().endswith("next: alembic downgrade 002")
    assert caught.value.next_command == "make migrate-down TO=002"
    assert made.attributes["repeat"] == "make migrate-down STEPS=1"
    assert again.returncode == 0, again.stderr
    assert empty.value("SELECT version_num FROM alembic_version") == "002"
    assert (
        empty.value("SELECT command FROM migration.run WHERE state = 'failed' ORDER BY id LIMIT 1")
        == "alembic downgrade -2"
    )


@pytest.mark.parametrize(
    ("name", "target", "repeat", "following"),
    [
        ("upgrade", "+2", None, "alembic upgrade 003"),
        ("upgrade", "head-1", None, "alembic upgrade 003"),
        ("upgrade", "head", None, "the same call again"),
        ("upgrade", "+2", "make migrate-up TO=+2", "make migrate-up TO=003"),
        ("upgrade", "002+1", "make migrate-goto VERSION=002+1", "make migrate-goto VERSION=003"),
        ("downgrade", "-1", "make migrate-down", "make migrate-down TO=base"),
    ],
)
def test_what_is_to_be_typed_again_is_absolute(
    empty: Database, project: Project, name: str, target: str, repeat: str | None, following: str
) -> None:
    """Whatever form a relative destination has, next names the revision; an absolute one stays as it was typed."""
    tables(project, 4, r003='op.execute("SELECT 1/0")')
    project.upgrade("001")
    path = project.versions / "001_create_t1.py"
    path.write_text(path.read_text().replace("DROP TABLE IF EXISTS t1", "SELECT 1/0"))

    with pytest.raises(GuardError) as caught:
        getattr(command, name)(project.config(**({"repeat": repeat} if repeat else {})), target)

    assert caught.value.next_command.endswith(following)


def test_the_second_of_two_operators_goes_no_further(empty: Database, project: Project) -> None:
    """Both type downgrade -1 at 003; while the second waits for the lock the first has gone to 002, and there it stays."""
    tables(project, 3)
    project.upgrade()

    with empty.connect() as first, first.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s)", (deploy_lock.key("alembic_version", None),))
        second = started(project, "downgrade", "-1")
        asked = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'mcp-%%' AND query LIKE '%%pg_locks l JOIN%%'"
        until(lambda: empty.value(asked))
        cursor.execute("UPDATE alembic_version SET version_num = '002'")
    _, stderr = second.communicate(timeout=30)

    assert second.returncode == 0, stderr
    assert "nothing to do: another run has brought the database to 002" in stderr
    assert empty.value("SELECT version_num FROM alembic_version") == "002"


def test_a_relative_step_back_on_a_branch(empty: Database, project: Project) -> None:
    """a2@-1 takes back a2 alone, although b1 hangs on the same revision; repeated twice, it goes no further."""
    project.configure(headers="optional", lock_attempts="1")
    empty.rows("CREATE TABLE busy (id int)")
    text = "from alembic import op\nrevision = {!r}\ndown_revision = {!r}\ndef upgrade(): pass\ndef downgrade(): {}\n"
    for name, parent in (("r", None), ("a1", "r"), ("b1", "a1")):
        project.write(f"{name}.py", text.format(name, parent, "pass"))
    project.write("a2.py", text.format("a2", "a1", "op.execute('LOCK TABLE busy')"))
    project.upgrade("heads")

    with empty.connect(autocommit=False) as holder, holder.cursor() as cursor, pytest.raises(Busy) as caught:
        cursor.execute("LOCK TABLE busy")
        command.downgrade(project.config(repeat="make migrate-down TO=a2@-1"), "a2@-1")
    again = caught.value.next_command.rpartition("TO=")[2]
    project.downgrade(again)
    with pytest.raises(WrongUse, match="not a valid downgrade target"):
        project.downgrade(again)

    assert caught.value.next_command == "make migrate-down TO=a2@a1"
    assert empty.rows("SELECT version_num FROM alembic_version ORDER BY 1") == [("b1",)]


def test_a_callers_database_that_ends_idle_sessions(empty: Database, project: Project) -> None:
    """With idle_session_timeout on the database, the deployers' lock beside a caller's connection is kept all the same."""
    empty.rows(f"ALTER DATABASE {empty.name} SET idle_session_timeout = '400ms'")
    tables(project, 2, r001='op.execute("SELECT pg_sleep(1)")')
    engine = given(empty)

    with engine.connect() as connection:
        command.upgrade(project.config(connection=connection), "head")
    engine.dispose()

    assert empty.value("SELECT version_num FROM alembic_version") == "002"


def test_a_second_signal_loses_nothing(empty: Database, project: Project) -> None:
    """Signals while the first one is being answered get a line: rolled back whole, told in history, exit 75."""
    tables(project, 2, r002='op.execute("CREATE TABLE t2 (id int)")\nop.execute("SELECT pg_sleep(60)")')
    project.configure(statement_timeout="2min")
    shell = started(project, "upgrade", "head")
    sleeping = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%%pg_sleep(60)%%' AND pid <> pg_backend_pid()"

    until(lambda: empty.value(sleeping + " AND state = 'active'"))
    for _ in range(30):
        for number in (signal.SIGINT, signal.SIGTERM):
            if shell.poll() is None:
                shell.send_signal(number)
        time.sleep(0.005)
    _, stderr = shell.communicate(timeout=15)

    assert shell.returncode == 75, stderr
    assert "Traceback" not in stderr
    assert "already stopping" in stderr
    assert empty.value("SELECT to_regclass('t2')") is None
    assert empty.rows("SELECT revision, outcome FROM migration.history ORDER BY id") == [
        ("001", "done"), ("002", "failed"),
    ]  # fmt: skip
    assert empty.value("SELECT state FROM migration.run") == "failed"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_who_waits_for_the_deployers_lock_can_be_stopped(
    empty: Database, project: Project, number: signal.Signals
) -> None:
    """A signal before the first step: exit 75 and the command to repeat, not the signal's own death; nothing was changed."""
    tables(project, 1)
    with empty.connect() as holder, holder.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s)", (deploy_lock.key("alembic_version", None),))
        shell = started(project, "upgrade", "head")
        assert shell.stderr is not None
        until(lambda: "waiting: another migration runs" in shell.stderr.readline())
        shell.send_signal(number)
        _, stderr = shell.communicate(timeout=15)

    assert shell.returncode == 75, stderr
    assert stderr.strip().endswith("next: alembic upgrade head")
    assert empty.value("SELECT to_regnamespace('migration')") is None


def test_a_stop_between_two_tries_is_in_the_history(empty: Database, project: Project) -> None:
    """SIGTERM while a step gives way to a lock: its row says how many tries there were, and who stopped it."""
    empty.rows("CREATE TABLE busy (id int)")
    project.configure(lock_attempts="41")
    project.revision(
        "001", "add_extra", 'op.execute("ALTER TABLE busy ADD COLUMN extra int")', 'op.drop_column("busy", "extra")'
    )
    with empty.connect(autocommit=False) as holder, holder.cursor() as cursor:
        cursor.execute("LOCK TABLE busy")
        shell = started(project, "upgrade", "head")
        assert shell.stderr is not None
        until(lambda: "try 5 of 41" in shell.stderr.readline())  # after which it gives way for a second at least
        shell.terminate()
        _, stderr = shell.communicate(timeout=15)

    assert shell.returncode == 75, stderr
    assert "Stopped by SIGTERM in revision 001. The step was rolled back whole" in stderr
    assert empty.rows("SELECT revision, outcome, attempts FROM migration.history") == [("001", "failed", 5)]
