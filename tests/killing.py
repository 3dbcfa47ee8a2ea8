"""Runs of Alembic that are struck: the process, or a session of it, ends at a statement or a moment that the test has chosen.

``python -m tests.killing`` has everything imported and forks for each line that it reads: what a run costs is then the run. It
knows nothing of operations. It counts what psycopg2 sends on any connection, COMMIT and ROLLBACK too, and strikes at a number.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
_STRUCK = "struck\n"
_SENT = "statements sent: "
_ASKS = re.compile(r"\s*(SELECT|WITH|SHOW|SET|RESET)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Blow:
    """What is struck, ``process`` or ``session``: at the statement of this number or (0) at any, ``seconds`` after it is sent.

    Without seconds: before it is sent. Of the sessions it is the one that sends the statement, or the one of number ``drawn``.
    """

    what: str = ""
    at: int = 0
    seconds: float = 0.0
    drawn: int = 0


@dataclass(frozen=True)
class Ended:
    """How a run has ended. ``code`` is negative for a signal.

    Of a run that came to its end: how many statements it has ``sent``, and the numbers of those that were ``changing`` what
    another session finds. Between two of them a run may be struck anywhere, to the same effect.
    """

    code: int
    struck: bool
    sent: int
    changing: tuple[int, ...]
    seconds: float
    said: str


class Runner:
    """The process that forks a run for each that is asked for."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def upgrade(self, folder: Path, url: str, blow: Blow | None = None) -> Ended:
        """``alembic upgrade head`` in a process of its own, struck or not."""
        output = folder / "said"
        asked = {"folder": str(folder), "url": url, "output": str(output), "blow": asdict(blow or Blow())}
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        code, seconds = json.loads(self._process.stdout.readline())
        said, _, rest = output.read_text().partition(_SENT)
        sent, _, late = rest.partition("\n")  # a blow at the very end may have it say something after that
        total, changing = json.loads(sent) if sent else (0, [])
        return Ended(code, _STRUCK in said + late, total, tuple(changing), seconds, said + late)


@contextmanager
def running() -> Iterator[Runner]:
    """A runner, for as long as it is needed."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.killing"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield Runner(process)
    finally:
        process.communicate(timeout=60)


# --- the process ------------------------------------------------------------------------------------------------------


def _serve() -> None:
    import alembic.config
    import sqlalchemy.dialects.postgresql.psycopg2

    import mcp_planner_schema.guard.runner
    import mcp_planner_schema.operations.registered

    assert alembic.config and sqlalchemy.dialects and mcp_planner_schema.guard and mcp_planner_schema.operations
    for line in sys.stdin:
        began, child = time.monotonic(), os.fork()
        if child == 0:
            _run(json.loads(line))
        _, status = os.waitpid(child, 0)
        print(json.dumps([os.waitstatus_to_exitcode(status), time.monotonic() - began]), flush=True)


def _run(asked: dict[str, Any]) -> None:
    from alembic.config import main

    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number in (1, 2):
        os.dup2(
            os.open(asked["output"], os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if number == 1 else 0) | os.O_APPEND),
            number,
        )
    os.chdir(asked["folder"])
    os.environ["DATABASE_URL"] = asked["url"]
    (count, changing), code = _armed(Blow(**asked["blow"])), 0
    try:
        main(["upgrade", "head"])
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException as error:
        print(f"not told: {error!r}", file=sys.stderr)
        code = 70
    print(_SENT + json.dumps([next(count) - 1, changing]), file=sys.stderr, flush=True)
    os._exit(code)


def _armed(blow: Blow) -> tuple[Iterator[int], list[int]]:
    """From now on psycopg2's connections are counted, and struck; gives the count, and which statements change something."""
    import psycopg2
    from psycopg2 import extensions

    count, changing, open_ones, connect = itertools.count(1), list[int](), list[Any](), psycopg2.connect

    def strike(connection: Any = None) -> None:
        if blow.what == "session" and (not open_ones or (connection is not None and connection.closed)):
            return
        os.write(2, _STRUCK.encode())
        if blow.what == "process":
            os.kill(os.getpid(), signal.SIGKILL)
        struck = connection or open_ones[blow.drawn % len(open_ones)]
        address = {**struck.get_dsn_parameters(), "dbname": "postgres"}  # nobody else is to be in the test's database
        second = connect(**{name: address[name] for name in ("host", "port", "user", "dbname")})
        with second.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(%s, 5000)", (struck.info.backend_pid,))
        second.close()

    def counted(connection: Any, text: Any) -> None:
        number = next(count)
        if text != "COMMIT":
            connection.changing = text != "ROLLBACK" and (connection.changing or not _ASKS.match(str(text)))
        if connection.changing and (text == "COMMIT" or connection.autocommit):
            changing.append(number)
            connection.changing = False
        if number != blow.at:
            return
        if blow.seconds:
            threading.Timer(blow.seconds, strike, (connection,)).start()
        else:
            strike(connection)

    class Cursor(extensions.cursor):  # type: ignore[misc]  # psycopg2 ships no types
        def execute(self, query: Any, vars: Any = None) -> Any:
            counted(self.connection, query)
            return super().execute(query, vars)

        def executemany(self, query: Any, vars_list: Any) -> Any:
            counted(self.connection, query)
            return super().executemany(query, vars_list)

        def copy_expert(self, *arguments: Any, **named: Any) -> Any:
            counted(self.connection, arguments[0])
            return super().copy_expert(*arguments, **named)

    class Connection(extensions.connection):  # type: ignore[misc]  # as above
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            self.cursor_factory, self.changing = Cursor, False
            open_ones.append(self)

        def commit(self) -> None:
            counted(self, "COMMIT")
            super().commit()

        def rollback(self) -> None:
            counted(self, "ROLLBACK")
            super().rollback()

        def close(self) -> None:
            if self in open_ones:
                open_ones.remove(self)
            super().close()

    extensions.cursor = Cursor  # the guard makes cursors of its own of it
    psycopg2.connect = lambda *arguments, **named: connect(*arguments, **{"connection_factory": Connection, **named})
    if blow.what and not blow.at:
        threading.Timer(blow.seconds, strike).start()
    return count, changing


if __name__ == "__main__":
    _serve()
