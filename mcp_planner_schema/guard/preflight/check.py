"""All questions, asked on a connection of their own that can write nothing, and the answers put together."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard import connect, evidence, lock_order
from mcp_planner_schema.guard.findings import Finding
from mcp_planner_schema.guard.findings_preflight import LEAVES, REFUSES
from mcp_planner_schema.guard.preflight import (
    ages,
    asked,
    backup,
    disk,
    keys,
    leftovers,
    replicas,
    rights,
    server,
    sessions,
    versions,
    violations,
)
from mcp_planner_schema.guard.preflight.asked import Found, Here, Told
from mcp_planner_schema.guard.preflight.pending import Pending
from mcp_planner_schema.guard.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

QUESTIONS = (
    *server.QUESTIONS, *rights.QUESTIONS, *sessions.QUESTIONS, *leftovers.QUESTIONS, *keys.QUESTIONS, *disk.QUESTIONS,
    *replicas.QUESTIONS, *ages.QUESTIONS, *versions.QUESTIONS, backup.ROWS,
)  # fmt: skip
OPEN = 4
"""Connections of a run that are open all the time: it migrates, holds the deployers' lock, writes beside and watches."""

_MORE = 2
"""Connections that it opens now and then besides, and one for each worker of a backfill: to verify, to archive."""

# What role and database have set is read before it is overridden, in the order of the list.
_BEGIN = {
    "read_only": "pg_catalog.current_setting('default_transaction_read_only')",
    "clock": "extract(epoch FROM pg_catalog.clock_timestamp())::float8",
    "now": "pg_catalog.set_config('transaction_read_only', 'on', true)",
    "later": "pg_catalog.set_config('default_transaction_read_only', 'on', false)",
    "timeout": "pg_catalog.set_config('statement_timeout', %(timeout)s::text, false)",
    "jit": "pg_catalog.set_config('jit', 'off', false)",
}


@dataclass(frozen=True)
class Report:
    """What was found, by what it does to the run: refused, refused but accepted by whoever runs it, only told."""

    environment: str
    refused: tuple[Finding, ...] = ()
    accepted: tuple[Finding, ...] = ()
    told: tuple[Finding, ...] = ()
    ms: float = 0.0
    pending: bool = True

    def idle(self) -> Report:
        """The same where there is nothing to run: nothing is refused."""
        return replace(self, refused=(), accepted=(), told=(*self.refused, *self.accepted, *self.told), pending=False)

    def as_json(self) -> dict[str, Any]:
        """The same as plain lists and strings."""
        groups = {"refused": self.refused, "accepted": self.accepted, "told": self.told}
        listed = {name: [_as_json(one) for one in found] for name, found in groups.items()}
        return {"environment": self.environment, "pending": self.pending, **listed, "ms": round(self.ms)}

    def text(self) -> str:
        """The same for people."""
        blocks = [one.text() for one in self.refused]
        blocks += [f"accepted: {line(one)}" for one in self.accepted]
        blocks += [f"told: {line(one)}" for one in self.told]
        count = f"{len(self.refused) or 'nothing'} refused, {len(self.told) or 'nothing'} told"
        idle = "" if self.pending else "; there is nothing to run"
        return "\n\n".join([*blocks, f"preflight ({self.environment}): {count}, in {self.ms:.0f} ms{idle}"])


def ask(
    engine: Engine, settings: Settings, steps: Sequence[Pending], *, accepted: Collection[str] = (), ours: Sequence[int] = (),
    opened: int = 0, workers: int = 1, version_table: str = "alembic_version", day: dt.date | None = None,
    now: Callable[[], float] = time.time,
) -> Report:  # fmt: skip
    """Ask everything that is asked in this environment. Reads only: catalogs, and the tables of pending constraints.

    ``engine`` is one of :func:`.connect.own`. ``ours`` are the run's own processes, ``opened`` how many connections it has open
    already, ``now`` the clock here. Raises what connecting raises; what cannot be answered is a finding.
    """
    began = time.monotonic()
    more = max(OPEN - opened, 0) + _MORE + workers
    here = Here(settings, tuple(steps), 0, day or dt.datetime.now(dt.UTC).date(), version_table, tuple(ours), more)
    with connect.opened(engine, autocommit=True) as connection:
        found = list(_found(connection, *_asked(connection, here, now)))
    weighed = [(one.finding, one.weight(settings.environment)) for one in found]
    refused = [finding for finding, weight in weighed if weight == REFUSES]
    return Report(
        settings.environment,
        tuple(one for one in refused if one.code not in accepted),
        tuple(one for one in refused if one.code in accepted),
        tuple(finding for finding, weight in weighed if weight not in (REFUSES, LEAVES)),
        (time.monotonic() - began) * 1000,
    )


def line(finding: Finding) -> str:
    """A finding in one line."""
    return f"{finding.where}: {finding.code}: {finding.rule.happens.format_map(finding.values)}"


def _asked(connection: Connection, here: Here, now: Callable[[], float]) -> tuple[Here, Told]:
    """With what only the server knows, and what it has answered. From here on nothing is written."""
    schemas, names = asked.columns(
        name for step in here.steps for name, mode in step.locks.items() if mode in lock_order.STRONG.values()
    )
    here.values.update(
        own=evidence.own(here.settings.schema), ours=list(here.ours), long=here.settings.preflight.transaction / 1000,
        timeout=here.settings.preflight.timeout, locked_schemas=schemas, locked_names=names,
        **rights.values(here.steps, here.settings.schema), **disk.values(here), **backup.values(here),
    )  # fmt: skip
    here = replace(here, server=connection.connection.dbapi_connection.server_version)  # type: ignore[union-attr]
    before = now()
    told = asked.ask(connection, here, asked.wanted(here, QUESTIONS), _BEGIN)
    read_only, clock, *_ = told.first
    return replace(here, read_only=read_only, skew=float(clock) - (before + now()) / 2), told


def _found(connection: Connection, here: Here, told: Told) -> Iterator[Found]:
    """All findings. What is asked with a statement of its own comes after what all have in common, tables last."""
    yield from told.findings(here, QUESTIONS)
    if sessions.LONG.name in told.answers:
        yield from _told("sessions", sessions.ask(connection, here))
    yield from _told("the backup", backup.ask(connection, here, told.answers.get(backup.ROWS.name)))
    yield from _told("rows", violations.ask(connection, here))


def _told(name: str, found: Iterator[Found]) -> Iterator[Found]:
    from sqlalchemy.exc import DBAPIError

    try:
        yield from found
    except DBAPIError as error:
        if error.connection_invalidated:
            raise
        yield asked.unanswered(name, asked.first_line(error))


def _as_json(finding: Finding) -> dict[str, Any]:
    rule = finding.rule
    texts = {"what": rule.happens, "why": rule.hurts, "write": rule.instead}
    filled = {name: text.format_map(finding.values) for name, text in texts.items()}
    return {"code": finding.code, "where": finding.where, "revision": finding.revision or None, **filled}
