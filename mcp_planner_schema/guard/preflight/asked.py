"""The questions to the catalogs, in two statements: is there anything to ask about, and what is it. Failures are findings.

The first asks for each question whether there is such a thing at all (an invalid index, a slot): that costs a look into one
catalog, while the question itself takes longer to be planned than all of them together. The second has one JSON value for each
that is left; one that fails (a missing right) is found by asking one by one.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard.findings import Finding
from mcp_planner_schema.guard.findings_preflight import LEAVES, level
from mcp_planner_schema.guard.preflight.pending import Name, Pending
from mcp_planner_schema.guard.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy import Connection


@dataclass(frozen=True)
class Here:
    """What the questions are about: the settings, the steps to run, the server's major version, and today.

    ``ours`` are the run's own processes, ``more`` the connections that it opens besides those. ``read_only`` is what the role
    and the database have set, ``skew`` how many seconds the server's clock is ahead.
    """

    settings: Settings
    steps: tuple[Pending, ...]
    server: int
    day: dt.date
    version_table: str = "alembic_version"
    ours: tuple[int, ...] = ()
    more: int = 0
    folder: str = ""
    read_only: str = "off"
    skew: float = 0.0
    values: dict[str, Any] = field(default_factory=dict)

    @property
    def major(self) -> int:
        """The server's major version."""
        return self.server // 10000


@dataclass(frozen=True)
class Found:
    """A finding, and where it weighs less than the table of levels says, what it weighs."""

    finding: Finding
    only: str = ""

    def weight(self, environment: str) -> str:
        """What it does to the run."""
        return self.only or level(self.finding.code, environment)


@dataclass(frozen=True)
class Question:
    """One question. ``sql`` gives one JSON value, or is not asked (None); ``judge`` says what the value means.

    ``codes`` are the findings it may have: where all of them are left alone, nobody asks. ``when`` is a condition, cheap to ask,
    without which the answer is known to be nothing; ``since`` the first major version that has what is asked for.
    """

    name: str
    codes: tuple[str, ...]
    sql: Callable[[Here], str | None]
    judge: Callable[[Any, Here], Iterable[Found]]
    when: str = ""
    since: int = 0


def found(code: str, where: str, *, only: str = "", revision: str = "", **values: object) -> Found:
    """A finding with its values as people read them."""
    return Found(Finding(code, where, revision, {name: str(value) for name, value in values.items()}), only)


def unanswered(question: str, problem: str, instead: str = "") -> Found:
    """Something could not be asked: which, why, and what would help."""
    instead = instead or "GRANT pg_read_all_stats, pg_read_all_settings TO the role that migrates"
    return found("preflight-unanswered", "preflight", question=question, problem=problem, instead=instead)


def begin(connection: Connection, here: Here, questions: Iterable[Question], first: str) -> tuple[Any, list[Question]]:
    """Run ``first``, a SELECT of one row, together with the conditions of the questions. Gives the row, and what is left."""
    from sqlalchemy.exc import DBAPIError

    environment = here.settings.environment
    asked = [one for one in questions if any(level(code, environment) != LEAVES for code in one.codes)]
    conditions = "".join(f",\n({one.when})" for one in asked if one.when)
    try:
        row = connection.exec_driver_sql(first + conditions, here.values).one()
    except DBAPIError as error:
        if error.connection_invalidated:
            raise
        return connection.exec_driver_sql(first, here.values).one(), asked  # each failure is found by its own question
    there = iter(row[len(row) - sum(1 for one in asked if one.when) :])
    return row, [one for one in asked if not one.when or next(there)]


def ask(connection: Connection, here: Here, questions: Iterable[Question]) -> list[Found]:
    """What all these questions find, in one round trip. To be called in autocommit: one failure is not another's."""
    from sqlalchemy.exc import DBAPIError

    wanted = [(one, sql) for one in questions if (sql := one.sql(here)) is not None]
    try:
        told = _answers(connection, here.values, [sql for _, sql in wanted])
        return [each for (one, _), value in zip(wanted, told, strict=True) for each in _judged(one, value, here)]
    except DBAPIError as error:
        if error.connection_invalidated:
            raise
    results: list[Found] = []
    for one, sql in wanted:
        try:
            results += _judged(one, _answers(connection, here.values, [sql])[0], here)
        except DBAPIError as error:
            if error.connection_invalidated:
                raise
            results.append(unanswered(one.name, first_line(error)))
    return results


def _answers(connection: Connection, values: Mapping[str, Any], texts: list[str]) -> list[Any]:
    if not texts:
        return []
    listed = ",\n".join(f"(({text})::text)" for text in texts)
    row = connection.exec_driver_sql(f"SELECT {listed}", dict(values)).one()
    return [None if told is None else json.loads(told) for told in row]


def _judged(one: Question, value: Any, here: Here) -> list[Found]:
    return [] if value is None else list(one.judge(value, here))


def first_line(error: BaseException) -> str:
    """The server's own word, without its context."""
    return str(getattr(error, "orig", None) or error).strip().splitlines()[0]


def columns(names: Iterable[Name]) -> tuple[list[str], list[str]]:
    """Schemas and names side by side, as ``unnest()`` takes them."""
    listed = sorted(set(names))
    return [one.schema for one in listed], [one.name for one in listed]


def size(count: float) -> str:
    """Bytes as people read them."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 10240:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.0f} TB"


def span(seconds: float) -> str:
    """A time as people read it."""
    for limit, divisor, unit in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if abs(seconds) < limit:
            return f"{seconds / divisor:.1f}".removesuffix(".0") + f" {unit}"
    return f"{seconds / 86400:.0f} days"
