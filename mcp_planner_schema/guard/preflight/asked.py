"""The questions to the catalogs, in one round trip: is there anything to ask about, and what is it. Failures are findings.

For each question the server first looks whether there is such a thing at all (an invalid index, a slot): that costs a look into
one catalog, while the question itself takes longer to be planned than all of them together. Each that is left gives one JSON
value, or the error that it met (a missing right).
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard.findings import Finding
from mcp_planner_schema.guard.findings_preflight import LEAVES, level
from mcp_planner_schema.guard.preflight.pending import Name, Pending
from mcp_planner_schema.guard.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy import Connection

_KEPT = "mcp_planner_guard"
"""Settings of that name carry what was told from one statement to the next; they end with the transaction."""

# A column of a question may be called like a variable of no such name only.
_BLOCK = """
DECLARE
  mcp_answer pg_catalog.text;
  mcp_told pg_catalog.jsonb := '{}';
BEGIN
QUESTIONS
  PERFORM pg_catalog.set_config('KEPT.told', mcp_told::pg_catalog.text, true);
END
"""
_QUESTION = """
  BEGIN
    IF ({when}) THEN
      mcp_answer := ({sql})::pg_catalog.text;
      mcp_told := mcp_told || pg_catalog.jsonb_build_object('{place}', pg_catalog.jsonb_build_array(mcp_answer, NULL));
    END IF;
  EXCEPTION WHEN OTHERS THEN
    mcp_told := mcp_told || pg_catalog.jsonb_build_object('{place}', pg_catalog.jsonb_build_array(NULL, SQLERRM));
  END;
"""


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


@dataclass(frozen=True)
class Told:
    """What the server has told: its own columns of ``first``, and of each question that there was reason to ask the answer, or
    why there is none."""

    first: tuple[Any, ...]
    answers: Mapping[str, Any]
    problems: Mapping[str, str]

    def findings(self, here: Here, questions: Iterable[Question]) -> Iterator[Found]:
        """What the answers mean, in the order of the questions."""
        for one in questions:
            if one.name in self.problems:
                yield unanswered(one.name, self.problems[one.name])
            elif self.answers.get(one.name) is not None:
                yield from one.judge(self.answers[one.name], here)


def wanted(here: Here, questions: Iterable[Question]) -> list[Question]:
    """Those of the questions that this server can be asked, and whose findings somebody wants to know here."""
    environment = here.settings.environment
    return [
        one
        for one in questions
        if here.major >= one.since
        and any(level(code, environment) != LEAVES for code in one.codes)
        and one.sql(here) is not None
    ]


def ask(connection: Connection, here: Here, questions: Iterable[Question], first: Mapping[str, str]) -> Told:
    """Ask all these questions in one round trip, on a connection in autocommit. ``first`` are expressions by name, in order.

    What is sent together is one transaction; a block for each question is one that may fail alone, and plans a question only
    when there is something to ask about. Where that cannot be done (a time that is over, no PL/pgSQL), they are asked one by one.
    """
    from sqlalchemy.exc import DBAPIError

    listed = list(questions)
    kept = ", ".join(
        f"pg_catalog.set_config('{_KEPT}.{name}', ({sql})::pg_catalog.text, true)" for name, sql in first.items()
    )
    asked = "".join(
        _QUESTION.format(place=place, when=one.when or "true", sql=one.sql(here)) for place, one in enumerate(listed)
    )
    given = ", ".join(f"pg_catalog.current_setting('{_KEPT}.{name}', true)" for name in (*first, "told"))
    # The driver writes the values into the text: no value can know a quote that depends on it.
    quote = f"$q{hashlib.sha256(f'{asked}{here.values}'.encode()).hexdigest()[:16]}$"
    block = f"DO {quote}{_BLOCK.replace('KEPT', _KEPT).replace('QUESTIONS', asked)}{quote}"
    try:
        *row, told = connection.exec_driver_sql(f"SELECT {kept};\n{block};\nSELECT {given}", here.values).one()
    except DBAPIError as error:
        if error.connection_invalidated:
            raise
        return _one_by_one(connection, here, listed, first)
    answers, problems = dict[str, Any](), dict[str, str]()
    for place, (value, problem) in json.loads(told).items():
        name = listed[int(place)].name
        if problem is None:
            answers[name] = None if value is None else json.loads(value)
        else:
            problems[name] = problem.strip().splitlines()[0]
    return Told(tuple(row), answers, problems)


def _one_by_one(connection: Connection, here: Here, questions: Iterable[Question], first: Mapping[str, str]) -> Told:
    from sqlalchemy.exc import DBAPIError

    row = connection.exec_driver_sql(f"SELECT {', '.join(first.values())}", here.values).one()
    answers, problems = dict[str, Any](), dict[str, str]()
    for one in questions:
        try:
            text = f"SELECT ({one.sql(here)})::pg_catalog.text WHERE ({one.when or 'true'})"
            for (told,) in connection.exec_driver_sql(text, here.values):
                answers[one.name] = None if told is None else json.loads(told)
        except DBAPIError as error:
            if error.connection_invalidated:
                raise
            problems[one.name] = first_line(error)
    return Told(tuple(map(str, row)), answers, problems)


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
