"""Watches an application after a change: its own health command, and what the database sees of it."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from mcp_planner_schema.guard import connect
from mcp_planner_schema.guard.findings import Broken, WrongUse

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

_COUNTED = """
SELECT d.xact_commit, d.xact_rollback, d.deadlocks FROM pg_catalog.pg_stat_database d
WHERE d.datname = pg_catalog.current_database()
"""
# Who waits for a lock, for how many seconds, and whether a session of the guard's is in the way. What the role may not see of
# others has no wait_event_type and is left out.
_WAITING = """
SELECT a.pid, coalesce(a.application_name, ''),
       extract(epoch FROM pg_catalog.clock_timestamp() - coalesce((SELECT pg_catalog.min(l.waitstart)
         FROM pg_catalog.pg_locks l WHERE l.pid = a.pid AND NOT l.granted), a.query_start))::float8,
       EXISTS (SELECT FROM pg_catalog.pg_stat_activity b WHERE b.pid = ANY (pg_catalog.pg_blocking_pids(a.pid))
               AND pg_catalog.starts_with(b.application_name, 'mcp-planner-guard'))
FROM pg_catalog.pg_stat_activity a
WHERE a.datname = pg_catalog.current_database() AND a.wait_event_type = 'Lock'
  AND NOT pg_catalog.starts_with(a.application_name, 'mcp-planner-guard')
"""
_LONG = 1.0
"""Seconds from which on somebody who waits behind us has noticed it."""
_FEW = 10
"""Transactions that were rolled back, from which on their share says something."""


@dataclass(frozen=True)
class Wanted:
    """What is watched, and what is too much. Times are seconds, ``rollbacks`` is a share of all transactions."""

    command: tuple[str, ...]
    seconds: float
    every: float
    timeout: float
    failures: int
    rollbacks: float


class Counted(NamedTuple):
    """Transactions of the database so far."""

    commits: int
    rollbacks: int
    deadlocks: int

    @property
    def share(self) -> float:
        """How many of them were rolled back."""
        return self.rollbacks / (self.commits + self.rollbacks or 1)

    def since(self, before: Counted) -> Counted:
        """What has been added; nothing where the counters were reset meanwhile."""
        return Counted(*(max(0, now - then) for now, then in zip(self, before, strict=True)))


def wanted(environ: Mapping[str, str] = os.environ) -> Wanted:
    """Read ``WATCH_COMMAND`` and its limits. Raises :class:`WrongUse` for what is no number, or no command."""
    said = environ.get("WATCH_COMMAND", "").strip()
    try:
        command = tuple(shlex.split(said))
    except ValueError as error:
        raise WrongUse(
            f"WATCH_COMMAND is no command and its arguments: {error}.",
            "WATCH_COMMAND='curl -fsS --max-time 5 https://planner.example/healthz'",
        ) from None
    return Wanted(
        command,
        seconds=_number(environ, "WATCH_SECONDS", 60),
        every=max(_number(environ, "WATCH_EVERY", 5), 0.1),
        timeout=max(_number(environ, "WATCH_TIMEOUT", 10), 0.1),
        failures=int(_number(environ, "WATCH_FAILURES", 0)),
        rollbacks=_number(environ, "WATCH_ROLLBACKS", 5) / 100,
    )


def watch(engine: Engine, asked: Wanted, say: Callable[[str], None], repeat: str) -> None:
    """Look again and again until the time is over. Raises :class:`Broken` at the first thing that is too much.

    Writes nothing: it reads statistics in autocommit.
    """
    from sqlalchemy.exc import SQLAlchemyError

    with connect.opened(engine, autocommit=True) as connection:
        try:
            _watch(connection, asked, say, repeat)
        except SQLAlchemyError as error:
            raise connect.outside(error, engine.url, repeat) from error


def _watch(connection: Connection, asked: Wanted, say: Callable[[str], None], repeat: str) -> None:
    before, end = _counted(connection), time.monotonic() + asked.seconds
    if not asked.command:
        say("note: WATCH_COMMAND is not set: only what the database sees is watched")
    failed = looks = 0
    waited: dict[int, float] = {}
    while True:
        looks += 1
        problem = _unhealthy(asked) if asked.command else ""
        failed = failed + 1 if problem else 0
        if problem:
            say(f"{problem} ({failed} in a row, {asked.failures} may be)")
        if failed > asked.failures:
            raise Broken(f"The application is not healthy after the change: {problem}.", repeat)
        waited |= _behind_us(connection, waited, repeat)
        left = end - time.monotonic()
        if left <= 0:
            break
        time.sleep(min(asked.every, left))
    _judge(before, _counted(connection), asked, repeat)
    since = _counted(connection).since(before)
    checked = f"{looks} times healthy, " if asked.command else ""
    say(
        f"watched for {asked.seconds:g} s: {checked}{since.commits} transactions, {since.rollbacks} rolled back, "
        f"{since.deadlocks} deadlocks, {len(waited)} sessions seen waiting for a lock"
    )


def _judge(before: Counted, now: Counted, asked: Wanted, repeat: str) -> None:
    """More errors than there may be, and more than three times what has always been."""
    since = now.since(before)
    if since.rollbacks >= _FEW and since.share > max(asked.rollbacks, 3 * before.share):
        raise Broken(
            f"The database has rolled back {since.rollbacks} of {since.rollbacks + since.commits} transactions since the "
            f"change ({since.share:.0%}; before it {before.share:.1%}, WATCH_ROLLBACKS is {asked.rollbacks:.0%}).",
            repeat,
        )


def _behind_us(connection: Connection, waited: Mapping[int, float], repeat: str) -> dict[int, float]:
    seen = {}
    for pid, application, seconds, ours in connection.exec_driver_sql(_WAITING):
        seen[pid] = max(float(seconds), waited.get(pid, 0.0))
        if ours and seconds > _LONG:
            raise Broken(
                f"pid {pid} ({application or 'no name'}) waits for a lock of the migration's, for {seconds:.1f} s now.",
                repeat,
            )
    return seen


def _unhealthy(asked: Wanted) -> str:
    """What the command has against it; nothing where it ends with 0 in time."""
    name = asked.command[0]
    process: subprocess.Popen[Any]
    try:
        with subprocess.Popen(
            asked.command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            errors="replace", start_new_session=True,
        ) as process:  # fmt: skip
            try:
                printed, _ = process.communicate(timeout=asked.timeout)
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)  # with what it has started itself
                raise
    except subprocess.TimeoutExpired:
        return f"{name} did not end within {asked.timeout:g} s"
    except OSError as error:
        return f"{name} cannot be run ({error.strerror})"
    said = next((line.strip() for line in printed.splitlines() if line.strip()), "it says nothing")
    return f"{name} ended with {process.returncode}: {connect.masked(said, None)[:200]}" if process.returncode else ""


def _counted(connection: Connection) -> Counted:
    return Counted(*connection.exec_driver_sql(_COUNTED).one())


def _number(environ: Mapping[str, str], name: str, default: float) -> float:
    said = environ.get(name, "").strip()
    try:
        value = float(said) if said else default
    except ValueError:
        value = -1
    if not 0 <= value < 1e6:
        raise WrongUse(
            f"{name} is {said!r}; it is a number, 0 or more.", f"{name}={default:g} scripts/production-migrate.sh"
        )
    return value
