"""op.run_script: Python and SQL files of a data revision, under the same rules as its own text."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.script import ScriptDirectory

from mcp_planner_schema import cli
from mcp_planner_schema.guard import judge, script, settings, sql_file
from mcp_planner_schema.guard.findings import Broken, GuardError, Refused
from mcp_planner_schema.inspect import trace
from tests.conftest import ROOT, Database, Project
from tests.test_trace import scratch
from tests.until import until

__all__ = ["scratch"]  # a fixture

MERGE = '''\
"""Gives each row its double."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa


@dataclass
class Seen:
    rows: int = 0


def run(connection: sa.Connection, *, factor: int, note: str | None = None, password: str = "") -> None:
    seen = Seen()
    for key in connection.execute(sa.text("SELECT id FROM t ORDER BY id")).scalars().all():
        connection.execute(sa.text("UPDATE t SET n = id * :factor, note = :note WHERE id = :id"),
                           {"factor": factor, "note": note, "id": key})
        seen.rows += 1
    print(f"{seen.rows} rows, {password}\\nand", end=" 100 %")
'''
FILL = """\
-- What :nobody sees; 50 %
UPDATE t SET n = id % 10 + :more, note = 'a:b' || :note::text;  -- :none
INSERT INTO t (id, n, note) SELECT 100 + i, :more, '50 %' FROM unnest((:ids::int[])[1:2]) AS i;
SELECT ':note';
"""
ARGUMENTS = """arguments={"more": -3, "note": "it's 100 % \\\\ :more", "ids": [1, 2, 3]}"""


def begin(
    project: Project, name: str, text: str, call: str = "", *, down: str = 'op.execute("SELECT 1")', more: str = "",
    **header: str,
) -> Path:  # fmt: skip
    """A table of ten rows, and a data revision that is not run yet and calls the script with ``call`` behind its name."""
    project.revision(
        "001", "create_t",
        'op.execute("CREATE TABLE t (id int PRIMARY KEY, n int NOT NULL DEFAULT 0, note text)")\n'
        'op.execute("INSERT INTO t SELECT generate_series(1, 10)")', 'op.execute("DROP TABLE t")',
    )  # fmt: skip
    put(project, name, text)
    header = {"type": "data", **header}
    return project.revision("002", "fill_t", f'op.run_script("{name}", {call})\n{more}', down, **header)


def put(project: Project, name: str, text: str) -> Path:
    """Write a script."""
    path = project.folder / "alembic" / "scripts" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def found(project: Project) -> list[tuple[str, str]]:
    """The findings against the files, with what each says of the script."""
    config = project.config()
    judged = judge.judge_all(ScriptDirectory.from_config(config), settings.load(config, {}))
    return [(one.code, one.values.get("problem", "")) for file in judged for one in file.findings]


@pytest.mark.parametrize("transaction", ["single", "none"])
def test_a_python_script_runs_with_its_arguments(
    empty: Database, project: Project, transaction: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It has the step's connection, what it prints is said line by line, and the history names it without its secrets."""
    call = 'arguments={"factor": 2, "note": "50 % :x", "password": "hunter2"}'
    begin(project, "002/double.py", MERGE, call, transaction=transaction)

    project.upgrade()

    assert empty.rows("SELECT DISTINCT n = id * 2, note FROM t") == [(True, "50 % :x")]
    said = capsys.readouterr()
    assert said.out == ""
    assert "\n002  10 rows, ***\n002  and 100 %\n002  scripts/002/double.py: done in 0.0 s\n" in said.err
    [one] = empty.value("SELECT scripts FROM migration.history WHERE revision = '002'")
    assert one.pop("seconds") > 0
    assert one == {
        "script": "scripts/002/double.py",
        "arguments": {"factor": 2, "note": "50 % :x", "password": "***"},
    }
    journaled = empty.rows("SELECT operation, target, state FROM migration.journal")
    assert journaled == ([("run_script", "scripts/002/double.py", "done")] if transaction == "none" else [])
    everything = empty.value(
        "SELECT concat((SELECT string_agg(h::text, ' ') FROM migration.history h WHERE source IS NULL), "
        "(SELECT string_agg(j::text, ' ') FROM migration.journal j))"
    )
    assert "hunter2" not in everything + said.err
    assert not list(project.folder.glob("alembic/scripts/**/__pycache__"))


@pytest.mark.parametrize("transaction", ["single", "none"])
def test_a_sql_script_gets_its_arguments_from_the_driver(
    empty: Database, project: Project, transaction: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is in a literal, a comment, a cast or a slice is no parameter; a value is never a part of the statement."""
    begin(project, "002/fill.sql", FILL, ARGUMENTS, transaction=transaction)

    project.upgrade()

    note = "a:bit's 100 % \\ :more"
    assert empty.rows("SELECT n, note FROM t WHERE id = 5") == [(2, note)]
    assert empty.rows("SELECT id, n, note FROM t WHERE id > 10") == [(101, -3, "50 %"), (102, -3, "50 %")]
    counted = "done in 0.0 s, 12 rows\n" if transaction == "single" else "done in 0.0 s\n"
    assert f"002  scripts/002/fill.sql: {counted}" in capsys.readouterr().err


@pytest.mark.parametrize("transaction", ["single", "none"])
def test_what_sql_writes_down_does_the_same(
    empty: Database, project: Project, tmp_path: Path, transaction: str
) -> None:
    """--sql has the statements with their arguments as literals, in their place between the revision's own."""
    more = 'op.execute("UPDATE t SET n = n + 1000 WHERE id = 101")'
    begin(project, "002/fill.sql", FILL, ARGUMENTS, more=more, transaction=transaction)
    written = io.StringIO()
    config = project.config()
    config.output_buffer = written

    command.upgrade(config, "head", sql=True)
    (tmp_path / "up.sql").write_text(written.getvalue())
    ran = empty.psql(tmp_path / "up.sql")

    assert ran.returncode == 0, ran.stderr
    assert empty.rows("SELECT n, note FROM t WHERE id IN (5, 101) ORDER BY id") == [
        (2, "a:bit's 100 % \\ :more"),
        (997, "50 %"),
    ]


def test_python_is_named_in_a_dry_run_and_in_no_file(
    empty: Database,
    project: Project,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """--sql refuses it; a dry run shows what it would be called with, and run by psql that stops there."""
    begin(project, "002/double.py", MERGE, 'arguments={"factor": 2, "password": "hunter2"}')
    config = project.config()
    config.output_buffer = io.StringIO()

    with pytest.raises(Refused, match="offline-impossible") as refused:
        command.upgrade(config, "head", sql=True)
    project.upgrade("001")
    capsys.readouterr()
    monkeypatch.setattr(cli, "ROOT", project.folder)
    assert cli.main(["migrate-up", "DRY_RUN=1"]) == 0
    shown = capsys.readouterr().out
    (tmp_path / "up.sql").write_text(shown)
    ran = empty.psql(tmp_path / "up.sql")

    assert "which is Python" in refused.value.text()
    assert config.output_buffer.getvalue() == ""
    assert '-- Here it runs scripts/002/double.py with {"factor": 2, "password": "***"}' in shown
    assert ran.returncode != 0
    assert "revision 002 runs scripts/002/double.py: it can only be run online" in ran.stderr
    assert empty.rows("SELECT version_num, (SELECT sum(n) FROM t) FROM alembic_version") == [("001", 0)]


def test_make_migrate_history_shows_what_was_run(
    empty: Database, project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Below the step, each script with its arguments and how long it took; a history that knows none of them is shown too."""
    begin(project, "002/double.py", MERGE, 'arguments={"factor": 2, "password": "hunter2"}')
    project.upgrade()
    monkeypatch.setattr(cli, "ROOT", project.folder)
    capsys.readouterr()

    cli.main(["migrate-history"])
    shown = capsys.readouterr().out
    cli.main(["migrate-history", "JSON=1"])
    [_, row] = json.loads(capsys.readouterr().out)
    empty.rows("ALTER TABLE migration.history DROP COLUMN scripts, DROP COLUMN checksum_before")
    cli.main(["migrate-history"])
    before = capsys.readouterr().out

    [line] = [one for one in shown.splitlines() if "double.py" in one]
    assert line.split(None, 1)[1].startswith('{"factor": 2, "password": "***"}  0.')
    assert row["scripts"][0]["script"] == "scripts/002/double.py"
    assert before == "".join(one + "\n" for one in shown.splitlines() if one != line)


def test_a_history_of_an_earlier_version_learns_of_scripts(empty: Database, project: Project) -> None:
    """The column is added by the next run that changes something."""
    begin(project, "002/x.sql", "UPDATE t SET n = 1;\n")
    project.upgrade("001")
    empty.rows("ALTER TABLE migration.history DROP COLUMN scripts, DROP COLUMN checksum_before")

    project.upgrade()

    assert (
        empty.value("SELECT scripts -> 0 ->> 'script' FROM migration.history WHERE revision = '002'")
        == "scripts/002/x.sql"
    )


@pytest.mark.parametrize("transaction", ["single", "none"])
@pytest.mark.usefixtures("scratch")
def test_a_script_is_traced_as_the_revision_is(project: Project, transaction: str) -> None:
    """make migrate-trace runs it on the scratch database, and sees what it locks."""
    begin(project, "002/double.py", MERGE, 'arguments={"factor": 2}', transaction=transaction)

    [up, _] = trace.trace(project.config(), "002")

    assert {table: mode for taken in up.statements for table, mode in taken.locks.items()} == {
        "public.t": "ROW EXCLUSIVE"
    }


@pytest.mark.parametrize(
    ("environment", "expected"),
    [("development", [("dev", 7)]), ("staging", [("all", 1)]), ("production", [("live", 1)])],
)
def test_arguments_differ_by_environment(
    empty: Database, project: Project, monkeypatch: pytest.MonkeyPatch, environment: str, expected: list[Any]
) -> None:
    """What the environment says comes over what holds everywhere; the rest stays."""
    monkeypatch.setenv("PLANNER_ENV", environment)
    call = (
        'arguments={"note": "all", "n": 1}, '
        'per_environment={"development": {"note": "dev", "n": 7}, "production": {"note": "live"}}'
    )
    begin(project, "002/seed.sql", "UPDATE t SET note = :note, n = :n;\n", call)

    project.upgrade()

    assert empty.rows("SELECT DISTINCT note, n FROM t") == expected


RUN = "def run(connection, *, a: int, b: list[str] | None = None):\n    pass\n"


@pytest.mark.parametrize(
    ("name", "text", "call", "code", "problem"),
    [
        ("002/x.py", RUN, "", "script-arguments", "a is missing (it has a, b)"),
        ("002/x.py", RUN, 'arguments={"a": 1, "c": 2}', "script-arguments", "it has no parameter c (it has a, b)"),
        ("002/x.py", RUN, 'arguments={"a": "1"}', "script-arguments", "a is to be int, and is str"),
        ("002/x.py", RUN, 'arguments={"a": True}', "script-arguments", "a is to be int, and is bool"),
        ("002/x.py", RUN, 'arguments={"a": 1, "b": "x"}', "script-arguments", "b is to be list[str] | None, and is str"),
        ("002/x.py", "def run(c, a): ...", 'arguments={"a": {1, 2}}', "script-arguments",
         "a is set; an argument is what JSON has: text, number, true, null, list, object"),
        ("002/x.py", RUN, 'arguments={"a": 1}, per_environment={"prod": {}}', "script-arguments",
         "there is no environment prod; there are development, staging, production"),
        ("002/x.py", RUN, 'per_environment={"development": {"a": 1}}', "script-arguments",
         "a is missing (it has a, b), in staging"),
        ("002/x.sql", "SELECT :a;", "", "script-arguments", "a is missing (it has a)"),
        ("002/x.sql", "SELECT ':a';", 'arguments={"a": 1}', "script-arguments", "it has no parameter a (it has none)"),
        ("002/x.py", "import requests\n" + RUN, 'arguments={"a": 1}', "script-unusable",
         "line 1 imports requests; besides the standard library it may import alembic, sqlalchemy, "
         "mcp_planner_schema.operations"),
        ("002/x.py", "import os\nX = os.environ\n" + RUN, 'arguments={"a": 1}', "script-unusable",
         "line 2 reads os.environ; what differs between environments is an argument"),
        ("002/x.py", "def go(connection): ...", "", "script-unusable", "it has no def run(connection, *, …)"),
        ("002/x.py", "def run(connection, **more): ...", "", "script-unusable",
         "its run takes the connection, and then each argument by its name; no *args or **more"),
        ("002/x.py", "def run(connection, day: date): ...", "", "script-unusable",
         "its parameter day is declared as date; it gets what JSON has: str, int, float, bool, None, list, Sequence, dict, "
         "Mapping, Any, object"),
        ("002/x.py", "def run(:", "", "script-unusable", "line 1 is no Python: invalid syntax (<unknown>, line 1)"),
        ("002/x.sql", "SELECT 1;\n\\copy t FROM 'x'\n", "", "script-unusable",
         "line 2 has \\copy, which is a command of psql's"),
        ("002/x.sql", "SELECT 1;\nCOPY t FROM STDIN;\n", "", "script-unusable",
         "line 2 says COPY … FROM STDIN, which only psql can"),
        ("002/x.sql", "SELECT 1;\n\nCOMMIT;\n", "", "script-unusable",
         "line 3 says COMMIT: the guard begins transactions, and ends them"),
        ("002/x.sql", "SELECT :'a';", "", "script-unusable", "line 1 has :'a', as psql writes a variable; here it is :name"),
        ("002/x.sql", "SELECT 1", "", "script-unusable", "its last statement does not end in a semicolon"),
        ("002/x.sql", "-- nothing", "", "script-unusable", "it has no statement"),
        ("003/x.sql", "SELECT 1;", "", "script-literal", "'003/x.sql' does not lie in the folder of this revision, 002/"),
        ("002/../x.sql", "SELECT 1;", "", "script-unusable",
         "'002/../x.sql' is no name of the form 025/merge_users.py or .sql (lower case, no other folders)"),
    ],
)  # fmt: skip
def test_what_is_refused_before_anything_runs(
    empty: Database, project: Project, name: str, text: str, call: str, code: str, problem: str
) -> None:
    """Judged without being run: the file, its declared parameters and the arguments; not even the revision before is run."""
    begin(project, name, text, call)

    with pytest.raises(Refused) as refused:
        project.upgrade()

    assert [(one.code, one.values["problem"]) for one in refused.value.findings] == [(code, problem)]
    assert found(project) == [(code, problem)]
    assert empty.value("SELECT to_regclass('t') IS NULL")


@pytest.mark.parametrize(
    ("change", "code", "problem"),
    [
        ("link", "script-unusable", "it is a symbolic link"),
        ("folder", "script-unusable", "it is a symbolic link"),
        ("missing", "script-unusable", "there is no such file"),
        ("another", "script-unusable", "no op.run_script of the revision names it"),
        ("computed", "script-literal", "its name is to be written out, as the first argument"),
        ("schema", "script-in-schema", ""),
    ],
)
def test_which_file_is_meant_is_beyond_doubt(project: Project, change: str, code: str, problem: str) -> None:
    """No link, no missing or forgotten file, no name that is computed; and no schema revision that changes rows this way."""
    path = begin(project, "002/x.sql", "SELECT 1;\n", type="schema" if change == "schema" else "data")
    file = project.folder / "alembic" / "scripts" / "002" / "x.sql"
    if change == "link":
        file.rename(project.folder / "real.sql")
        file.symlink_to(project.folder / "real.sql")
    elif change == "folder":
        file.parent.rename(project.folder / "real")
        file.parent.symlink_to(project.folder / "real")
    elif change == "missing":
        file.unlink()
    elif change == "another":
        put(project, "002/y.csv", "1")
    elif change == "computed":
        path.write_text(path.read_text().replace('"002/x.sql"', '"002/" + "x.sql"'))
        file.unlink()

    assert found(project) == [(code, problem)]


def test_the_good_example_is_left_alone(project: Project) -> None:
    """A Python and a SQL script with arguments that are what they declare, and one whose arguments are computed."""
    begin(
        project,
        "002/double.py",
        MERGE,
        'arguments={"factor": 2}',
        more='op.run_script("002/x.sql", arguments=dict(a=1))',
    )
    put(project, "002/x.sql", "SELECT :a;\n")

    assert found(project) == []


def test_computed_arguments_are_refused_before_the_script_runs(empty: Database, project: Project) -> None:
    """What only running the revision can tell is held against the declaration then; nothing of the step stays."""
    begin(project, "002/double.py", MERGE, "arguments=dict(factor='2')")

    with pytest.raises(Refused, match="factor is to be int, and is str"):
        project.upgrade()

    assert empty.value("SELECT sum(n) FROM t") == 0


def test_an_edited_script_is_a_finding(empty: Database, project: Project) -> None:
    """It belongs to the revision's checksum, and the history keeps the text that was run."""
    begin(project, "002/fill.sql", FILL, ARGUMENTS)
    project.upgrade()
    put(project, "002/fill.sql", FILL.replace("+ :more", "- :more"))
    project.revision("003", "add_u", 'op.execute("CREATE TABLE u ()")', 'op.execute("DROP TABLE u")')

    with pytest.raises(Refused, match="applied-edited") as refused:
        project.upgrade()

    assert refused.value.findings[0].values["what"] == "scripts/002/fill.sql of revision 002"
    kept = empty.value("SELECT source FROM migration.history WHERE revision = '002'")
    assert "# scripts/002/fill.sql:\n#|-- What :nobody sees; 50 %\n" in kept


def test_a_finished_script_is_not_run_again(empty: Database, project: Project) -> None:
    """Of an interrupted revision the scripts that were done stay done, and a SQL script goes on with the next statement."""
    add = "def run(connection):\n    connection.exec_driver_sql('UPDATE t SET n = n + 1')\n"
    begin(project, "002/add.py", add, transaction="none", more='op.run_script("002/more.sql")')
    more = "UPDATE t SET n = n + 10;\nUPDATE t SET n = n + 100;\nUPDATE t SET n = 1 / 0;\n"
    path = put(project, "002/more.sql", more)

    with pytest.raises(Broken, match="division by zero"):
        project.upgrade()
    before = empty.rows("SELECT DISTINCT n FROM t")
    path.write_text(more.replace("1 / 0", "n + 1000"))
    project.upgrade()

    assert before == [(111,)]
    assert empty.rows("SELECT DISTINCT n FROM t") == [(1111,)]


def test_what_was_run_cannot_be_changed_under_way(empty: Database, project: Project) -> None:
    """A statement that is final already and now says something else would leave rows of two kinds."""
    more = "UPDATE t SET n = n + 10;\nUPDATE t SET n = 1 / 0;\n"
    begin(project, "002/more.sql", more, transaction="none")
    with pytest.raises(Broken):
        project.upgrade()
    put(project, "002/more.sql", more.replace("+ 10", "+ 20").replace("1 / 0", "n"))

    with pytest.raises(Refused, match="script-differs"):
        project.upgrade()

    assert empty.rows("SELECT DISTINCT n FROM t") == [(10,)]


def started(project: Project, empty: Database) -> subprocess.Popen[str]:
    """An upgrade in a process of its own, to which somebody may send a signal."""
    environment = {**os.environ, "DATABASE_URL": empty.url, "PYTHONPATH": str(ROOT)}
    arguments = [sys.executable, "-m", "alembic", "upgrade", "head"]
    return subprocess.Popen(arguments, cwd=project.folder, env=environment, stderr=subprocess.PIPE, text=True)


@pytest.mark.long
def test_a_statement_that_is_killed_is_there_with_its_mark_or_not_at_all(empty: Database, project: Project) -> None:
    """SIGKILL again and again among two hundred statements: each has added its 1 exactly once."""
    begin(
        project, "002/many.sql", "UPDATE t SET n = n + 1 + length(pg_sleep(0.001)::text);\n" * 200, transaction="none"
    )
    kills = 0

    project.upgrade("001")
    for done in (20, 60, 100, 140, 180):
        with started(project, empty) as run:
            until(lambda done=done: empty.value("SELECT max(n) FROM t") >= done)
            run.kill()
        kills += run.returncode == -signal.SIGKILL
    project.upgrade()

    assert kills == 5
    assert empty.rows("SELECT DISTINCT n FROM t") == [(200,)]


LOOP = """
import time

def run(connection):
    connection.exec_driver_sql("UPDATE t SET n = 1")
    print("ready")
    {body}
"""
FOREVER = [
    ("time.sleep(600)", "sleeps"),
    ("while True: pass", "computes"),
    ("connection.exec_driver_sql('SELECT pg_sleep(600)')", "asks"),
    ("while True:\n        try:\n            connection.exec_driver_sql('SELECT pg_sleep(600)')\n"
     "        except Exception:\n            time.sleep(0.01)", "catches"),
]  # fmt: skip


@pytest.mark.parametrize("body", [body for body, _ in FOREVER], ids=[name for _, name in FOREVER])
@pytest.mark.parametrize("transaction", ["none", pytest.param("single", marks=pytest.mark.long)])
def test_a_script_has_its_time_by_the_clock(empty: Database, project: Project, body: str, transaction: str) -> None:
    """Whether it sleeps, computes, asks the server or catches what is raised: after its timeout it ends, and the step."""
    begin(project, "002/x.py", LOOP.format(body=body), 'timeout="700ms"', transaction=transaction)
    began = time.monotonic()

    with pytest.raises(Broken, match=r"scripts/002/x.py was not done within its timeout of 700ms") as broken:
        project.upgrade()

    assert 0.7 < time.monotonic() - began < 5
    assert "timeout=" in broken.value.next_command
    stays = 0 if transaction == "single" else 10
    assert empty.rows("SELECT version_num, (SELECT sum(n) FROM t) FROM alembic_version") == [("001", stays)]
    assert signal.getsignal(signal.SIGALRM) == signal.SIG_DFL


def test_a_sql_script_has_its_time_too(empty: Database, project: Project) -> None:
    """All its statements together; in autocommit those before stay."""
    begin(project, "002/x.sql", "UPDATE t SET n = 1;\nSELECT pg_sleep(600);\n", 'timeout="500ms"', transaction="none")

    with pytest.raises(Broken, match="What it has committed stays"):
        project.upgrade()

    assert empty.rows("SELECT version_num, (SELECT sum(n) FROM t) FROM alembic_version") == [("001", 10)]


@pytest.mark.parametrize(
    ("how", "transaction"),
    [
        pytest.param("SIGINT", "single", marks=pytest.mark.long),
        pytest.param("SIGTERM", "single", marks=pytest.mark.long),
        ("SIGTERM", "none"),
    ],
)
@pytest.mark.parametrize("body", [body for body, _ in FOREVER], ids=[name for _, name in FOREVER])
def test_a_signal_stops_it(empty: Database, project: Project, body: str, how: str, transaction: str) -> None:
    """Ctrl-C and SIGTERM end Python's code and the running statement; the step is undone, the exit code says so."""
    begin(project, "002/x.py", LOOP.format(body=body), transaction=transaction)

    with started(project, empty) as run:
        assert run.stderr is not None
        until(lambda: "ready" in str(run.stderr.readline() if run.stderr else ""))
        time.sleep(0.1)  # into the loop
        run.send_signal(getattr(signal, how))
        said = run.stderr.read()

    assert run.returncode == 75, said
    left = (
        "The step was rolled back whole"
        if transaction == "single"
        else "Part of the step had committed before it failed"
    )
    assert f"Stopped by {how} in revision 002. {left}" in said
    stays = 0 if transaction == "single" else 10
    assert empty.rows("SELECT version_num, (SELECT sum(n) FROM t) FROM alembic_version") == [("001", stays)]


def test_a_row_that_is_locked_for_a_moment_is_waited_for(empty: Database, project: Project) -> None:
    """In autocommit the guard cannot try the step again, so the statement that met the lock is sent again."""
    project.configure(lock_attempts="41")
    begin(project, "002/x.sql", "UPDATE t SET n = n + 1;\n", transaction="none")
    project.upgrade("001")
    with empty.connect(autocommit=False) as somebody, somebody.cursor() as cursor:
        cursor.execute("SELECT FROM t WHERE id = 5 FOR UPDATE")
        runs = threading.Thread(target=project.upgrade)
        runs.start()
        waits = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"
        until(lambda: empty.value(waits))
        time.sleep(0.4)  # longer than lock_timeout
        somebody.commit()
        runs.join()

    assert empty.rows("SELECT n, count(*) FROM t GROUP BY 1") == [(1, 10)]


def test_rows_that_row_security_hides_are_an_error(empty: Database, project: Project) -> None:
    """A role that a policy binds is told by PostgreSQL, and no row is left out."""
    role = f"few_{os.getpid()}_{time.monotonic_ns()}"
    begin(project, "002/x.sql", "UPDATE t SET n = 1;\n", more="op.execute('RESET ROLE')")
    path = next(project.versions.glob("002*"))
    path.write_text(
        path.read_text().replace("    op.run_script", f"    op.execute('SET ROLE {role}')\n    op.run_script")
    )
    project.upgrade("001")
    empty.rows(f"CREATE ROLE {role}; GRANT ALL ON t TO {role}; ALTER TABLE t ENABLE ROW LEVEL SECURITY;"
               "CREATE POLICY few ON t USING (id < 5)")  # fmt: skip

    try:
        with pytest.raises(GuardError, match="row-level security"):
            project.upgrade()

        assert empty.value("SELECT sum(n) FROM t") == 0
    finally:
        empty.rows(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_going_back_runs_a_script_too(empty: Database, project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    """The trial runs it first and says nothing of that; what it deletes is kept, and comes back with the next upgrade."""
    begin(project, "002/add.sql", "INSERT INTO t (id, n) VALUES (:id, 7);\n", 'arguments={"id": 11}',
          down='op.run_script("002/less.py", arguments={"id": 11})')  # fmt: skip
    put(project, "002/less.py", "def run(connection, id: int):\n    print('less')\n"
        "    connection.exec_driver_sql('DELETE FROM t WHERE id = %s', (id,))\n")  # fmt: skip
    project.upgrade()
    empty.rows("UPDATE t SET note = 'mine' WHERE id = 11")
    capsys.readouterr()

    project.downgrade("001")
    gone, said = empty.value("SELECT count(*) FROM t"), capsys.readouterr().err
    told = empty.value("SELECT scripts FROM migration.history WHERE direction = 'downgrade'")
    project.upgrade()

    assert gone == 10
    assert said.count("002  less\n") == 1
    assert [one["script"] for one in told] == ["scripts/002/less.py"]
    assert empty.rows("SELECT n, note FROM t WHERE id = 11") == [(7, "mine")]


def test_an_error_names_the_line_of_the_script(
    empty: Database, project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of Python the line that raised, of SQL the one where the statement begins; no secret is in what is said."""
    begin(project, "002/x.sql", "SELECT 1;\n\nSELECT (:api_key)::int;\n", 'arguments={"api_key": "sesame"}')
    with pytest.raises(GuardError):
        project.upgrade()
    of_sql = capsys.readouterr().err
    path = next(project.versions.glob("002*"))
    path.write_text(path.read_text().replace('x.sql", arguments={"api_key": "sesame"}', 'x.py", '))
    (project.folder / "alembic/scripts/002/x.sql").unlink()
    put(project, "002/x.py", "def run(connection):\n    print(1)\n    {}['x']\n")

    with pytest.raises(GuardError):
        project.upgrade()

    assert '002  scripts/002/x.sql:3: invalid input syntax for type integer: "***"\n' in of_sql
    assert "002  scripts/002/x.py:3: 'x'\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (
            {"password": "x", "a": {"api_token": ["y"], "b": "z"}},
            {"password": "***", "a": {"api_token": "***", "b": "z"}},
        ),
        ({"Key": None, "list": [{"secret": 1}]}, {"Key": None, "list": [{"secret": "***"}]}),
    ],
)
def test_what_is_called_like_a_secret_is_masked(given: dict[str, Any], shown: dict[str, Any]) -> None:
    """At any depth, and whatever its type; everything else is shown."""
    assert json.loads(script.told(given)) == shown


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (
            "SELECT :a, :a_1::int, ':b', \":c\", $$ :d $$, -- :e\n a[1:n], a[f(x):m], x::int, /* :g */ :h;",
            ["a", "a_1", "h"],
        ),
        ("SELECT E'\\':a', (:b), -:c, (:d).x;", ["b", "c", "d"]),
    ],
)
def test_parameters_are_told_from_what_looks_like_them(tmp_path: Path, text: str, names: list[str]) -> None:
    """By PostgreSQL's own way to cut a text: not in literals, names, bodies, comments; no cast and no slice."""
    (tmp_path / "001").mkdir()
    (tmp_path / "001" / "x.sql").write_text(text)

    assert [one.name for one in script.read(tmp_path, "001/x.sql").parameters] == names


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    """Other bytes than UTF-8, as of a SQL file."""
    (tmp_path / "001").mkdir()
    (tmp_path / "001" / "x.py").write_bytes(b"\xff")

    with pytest.raises(sql_file.Unusable, match="not UTF-8"):
        script.read(tmp_path, "001/x.py")
