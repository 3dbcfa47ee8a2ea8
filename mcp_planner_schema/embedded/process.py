"""What runs: whether the server lives and answers, and whose turn it is to start or stop it."""

import contextlib
import fcntl
import os
import socket
import stat
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mcp_planner_schema.embedded.place import Server, fault, own_folder


@dataclass(frozen=True)
class Answer:
    """What the server answered. `sqlstate` None is success; `value` is the query's one value."""

    sqlstate: str | None
    message: str
    version: str | None
    value: str | None


def ask(server: Server, database: str, query: str | None = None) -> Answer | None:
    """Log in as libpq would, minus its PG* variables and import time. None: nobody listens; sqlstate None: success."""
    with contextlib.suppress(FileNotFoundError, ConnectionError), socket.socket(socket.AF_UNIX) as line:
        found = server.socket.lstat()  # in /tmp anybody could have made it first
        if not stat.S_ISDIR(found.st_mode) or found.st_uid not in (server.owner[0], os.geteuid()):
            raise fault(f"{server.socket} is not ours, it belongs to uid {found.st_uid}", "ls", "-ld", server.socket)
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
                    return Answer(error.get(b"C"), error.get(b"M", ""), version, value)
        return Answer(error.get(b"C"), error.get(b"M", ""), version, value) if error else None
    return None


def ready(server: Server) -> bool:
    """Whether the server lets clients in, or refuses them for a reason of theirs."""
    answer = ask(server, "postgres")
    return answer is not None and answer.sqlstate != "57P03"  # "starting up", "shutting down"


def pid_file(server: Server) -> list[str]:
    """The lines of the server's pid file, none when there is no file."""
    with contextlib.suppress(FileNotFoundError):
        return [line.strip() for line in (server.data / "postmaster.pid").read_text().splitlines()]
    return []


def postmaster(server: Server) -> int | None:
    """The id of the server's first process as the pid file names it, when that still serves the data."""
    written = "".join(pid_file(server)[:1])
    pid = int(written) if written.isascii() and written.isdigit() else 0
    return pid if serves(pid, server.data) else None


def serves(pid: int, data: Path) -> bool:
    """Whether the process is a PostgreSQL on `data`: that is its working directory. A zombie is none."""
    with contextlib.suppress(OSError):
        if not Path("/proc/self").exists():
            command = ["ps", "-o", "comm=", "-p", str(pid)]
            return alive(pid) and b"postgres" in subprocess.run(command, check=False, stdout=subprocess.PIPE).stdout
        process = Path(f"/proc/{pid}")
        return alive(pid) and (process / "comm").read_text() == "postgres\n" and (process / "cwd").samefile(data)
    return False


def alive(pid: int) -> bool:
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


def until(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait until the condition is met; False when the seconds passed first."""
    end = time.monotonic() + seconds
    while not (met := condition()) and time.monotonic() < end:
        time.sleep(0.01)
    return met


@contextlib.contextmanager
def lock(server: Server) -> Iterator[None]:
    """One start or stop at a time. os.open makes the file close-on-exec, so that the server never holds the lock."""
    home, found = server.root / ".postgres", server.root.stat()
    owner = (found.st_uid, found.st_gid) if server.account else server.owner
    own_folder(home, 0o755, owner)
    handle = os.open(home / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        os.fchown(handle, *owner)
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
