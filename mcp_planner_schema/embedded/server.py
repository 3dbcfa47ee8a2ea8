"""Start, stop, status and shell of one project's server."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import NoReturn

from mcp_planner_schema.embedded.place import (
    DATABASE,
    EmbeddedError,
    Server,
    as_account,
    binary,
    fault,
    locate,
    own_folder,
    plain_errors,
    run,
    usable,
)
from mcp_planner_schema.embedded.process import alive, ask, lock, pid_file, postmaster, ready, serves, until

PATIENCE = 120.0  # seconds for a start (crash recovery included) or a stop
OURS = frozenset({"listen_addresses", "unix_socket_directories", "unix_socket_permissions", "port", "data_directory"})
MODES = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}


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


def _say(line: str) -> None:
    print(line, file=sys.stderr)


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
    with plain_errors(server.root):
        answer = ask(server, database or "postgres")
        if answer and answer.sqlstate is None:
            return server
        with lock(server):
            server, ran = locate(root), True
            if not _up(server):
                server, ran = _launch(server, settings, say), False
            answer = ask(server, database or "postgres")
            if answer and answer.sqlstate == "3D000" and database:
                if ran:
                    say(f"creating database {database}")
                name = database.replace('"', '""')
                answer = ask(server, "postgres", f'CREATE DATABASE "{name}"')
    if answer is None or answer.sqlstate is not None:
        why = answer.message if answer else "it went away"
        raise fault(f"The server in {server.data} refuses: {why}", "tail", "-50", server.log)
    return server


def stop(root: Path, *, mode: str = "fast") -> bool:
    """Stop the project's server and wait until it is gone; False when none was running. Keeps the data.

    `mode` is PostgreSQL's: smart waits for clients, fast disconnects them, immediate leaves recovery to the next
    start. Raises EmbeddedError, also when the server is still there after `PATIENCE` seconds.
    """
    if mode not in MODES:
        raise EmbeddedError(f"Unknown stop mode {mode!r}.\nUse one of: {', '.join(MODES)}")
    server = locate(root)
    with plain_errors(server.root):
        if not server.data.exists():
            return False
        with lock(server):
            pid = postmaster(server)
            if pid is None:
                if ready(server):
                    raise fault(f"The server in {server.data} runs in another container: stop it there", "hostname")
                return False
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, MODES[mode])
            if not until(lambda: not serves(pid, server.data), PATIENCE):
                raise fault(f"PostgreSQL still runs after {PATIENCE:.0f} s, clients are connected", "kill", "-INT", pid)
            return True


def status(root: Path) -> Status:
    """What the project's server is doing. Reads the data folder, asks the server, changes nothing.

    Raises EmbeddedError.
    """
    server = locate(root)
    with plain_errors(server.root):
        answer = ask(server, "postgres", "SELECT sum(pg_database_size(oid)) FROM pg_database")
        running = answer is not None and answer.sqlstate is None
        version = answer.version if answer and answer.version else _major(server.data)
        size = int(answer.value) if answer and answer.value else None
        pid = postmaster(server)
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
    pid = postmaster(server)
    if pid is None:
        return ready(server)  # a server of another pid namespace still answers
    if not server.file.exists() and pid_file(server)[-1:] == ["ready"]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGINT)  # somebody cleaned /tmp: no client can ever reach this server again
    if not until(lambda: ready(server) or not serves(pid, server.data), PATIENCE):
        raise fault(f"PostgreSQL (process {pid}) is not ready after {PATIENCE:.0f} s", "tail", "-50", server.log)
    return serves(pid, server.data)


def _launch(server: Server, settings: Mapping[str, str], say: Callable[[str], None]) -> Server:
    """No server runs: make data if there is none, clear away what a dead server left, start, wait until it answers."""
    server = usable(server)
    version = run(server, server.binaries / "postgres", "--version").split()[-1]
    home, made = server.data.parent, _major(server.data)
    if made and made != version.split(".")[0]:
        why = f"{server.data} was made by PostgreSQL {made}, the installed wheel is {version}; nothing was changed"
        raise fault(f"{why}. It can be set aside, to start empty", "mv", server.data, f"{server.data}-{made}")
    where = ".postgres" if home == server.root / ".postgres" else home
    as_whom = f" as account {server.account}" if server.account else ""
    say(f"starting PostgreSQL {version} in {where}{'' if made else ' (new)'}{as_whom}")
    if not made:
        _create(server)
    _heal(server)
    own_folder(server.socket, 0o700, server.owner)
    quoted = '"' + str(server.socket).replace('"', '""') + '"'  # the parameter is a list; its items may be quoted
    ours = {"listen_addresses": "", "unix_socket_directories": quoted, "unix_socket_permissions": "0700"}
    options = [f"--{name}={value}" for name, value in {**settings, **ours, "port": server.port}.items()]
    # A shell puts it in the background: nobody's child here, and its arguments stay arguments whatever the path
    background = ["/bin/sh", "-c", '"$@" >&2 & echo $!', "sh"]
    command = [*background, str(server.binaries / "postgres"), "-D", str(server.data), *options]
    log = os.open(server.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    with os.fdopen(log, "ab") as lines:
        before = os.fstat(log).st_size
        os.fchown(log, *server.owner)
        started = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=lines, check=True, **as_account(server.account)
        )
    pid = int(started.stdout)
    until(lambda: ready(server) or not alive(pid), PATIENCE)
    if not ready(server):
        tail = "\n".join(server.log.read_bytes()[before:].decode(errors="replace").splitlines()[-8:])
        what = f"is not ready after {PATIENCE:.0f} s" if alive(pid) else "did not start"
        raise fault(f"PostgreSQL {what}. The end of its log:\n{tail}", "tail", "-50", server.log)
    return server


def _create(server: Server) -> None:
    """Run initdb beside the data folder, then rename: a data folder is whole or absent."""
    home, fresh = server.data.parent, server.data.with_name(f"data.new-{os.getpid()}")
    for half in home.glob("data.new-*"):
        shutil.rmtree(half, ignore_errors=True)
    if server.data.exists() and any(server.data.iterdir()):
        server.data.rename(f"{server.data}.broken-{time.time_ns()}")  # no PG_VERSION, not from us: not ours to delete
    own_folder(fresh, 0o700, server.owner)
    locale = ("--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")
    access = ("--username=postgres", "--auth-local=trust", "--auth-host=reject")
    run(server, server.binaries / "initdb", f"--pgdata={fresh}", *locale, *access)
    fresh.rename(server.data)
    folder = os.open(home, os.O_RDONLY)
    os.fsync(folder)  # after a power cut a folder still named data.new-* would be taken for a half one
    os.close(folder)


def _heal(server: Server) -> None:
    """Remove what a killed server left: its backends, its socket, a pid file whose number somebody else has now."""
    everyone = (int(entry.name) for entry in Path("/proc").glob("[0-9]*"))
    left = [pid for pid in everyone if serves(pid, server.data)]
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGQUIT)
    until(lambda: not any(serves(pid, server.data) for pid in left), 10)
    # PostgreSQL takes a stranger (or a zombie) with the recorded number for itself and refuses. Not this file but the
    # shared memory, found by the folder's inode (PostgreSQL 12 and later), keeps a second server off the data
    for path in (server.file, server.file.with_name(f"{server.file.name}.lock"), server.data / "postmaster.pid"):
        path.unlink(missing_ok=True)


def _major(data: Path) -> str | None:
    with contextlib.suppress(FileNotFoundError):
        return (data / "PG_VERSION").read_text().strip()
    return None
