"""Judges the SQL of the revisions that are to be deployed next: what it would do to people who use the tables meanwhile.

Which those are, and how large the tables, is said by ``alembic/table-stats.json``; no database is asked. A table that one of
these revisions makes is used by nobody yet, so nothing is said about it.
"""

from __future__ import annotations

import copy
import dataclasses
import datetime as dt
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mcp_planner_schema.guard import judge, plan, source
from mcp_planner_schema.guard import settings as settings_module
from mcp_planner_schema.guard.findings import Finding
from mcp_planner_schema.guard.findings_lint import CONTRACTS, SIZED
from mcp_planner_schema.inspect import ddl, do_blocks, lint_rules, squawk, statements, table_stats
from mcp_planner_schema.inspect.past import Past
from mcp_planner_schema.inspect.statements import Captured, Sent
from mcp_planner_schema.inspect.table_stats import TableStats

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.script import Script, ScriptDirectory

    from mcp_planner_schema.guard.judge import Judged


@dataclass(frozen=True)
class Lint:
    """``findings`` stand against a revision, ``warnings`` are told; ``notes`` say what could not be judged.

    ``back`` would stand against a downgrade, if it were an upgrade: they are told too, for who goes back is in a hurry.
    ``since`` is the version behind which the ``judged`` revisions come.
    """

    judged: int
    findings: tuple[Finding, ...] = ()
    warnings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()
    back: tuple[Finding, ...] = ()
    since: str = ""

    def told(self) -> str:
        """What was judged, for people: no database was asked, so which are pending there is not known."""
        if not self.judged:
            return ""
        if not self.since:
            return "their SQL was judged as of one deploy: alembic/table-stats.json (make table-stats) names none before it"
        newer = f"{self.judged} of them {'is' if self.judged == 1 else 'are'} newer than {self.since}"
        whose = "its" if self.judged == 1 else "their"
        return f"{newer}, which alembic/table-stats.json says is deployed: {whose} SQL was judged too"


def lint(config: Config, script: ScriptDirectory, judged: Sequence[Judged], day: dt.date | None = None) -> Lint:
    """Judge the SQL of every revision after the table stats'. Imports them, sends nothing. ``judged`` are without findings.

    Raises :class:`Broken`, naming the file, where one cannot be imported.
    """
    stats = table_stats.load(script.dir)
    repeat = str(config.attributes.get("repeat") or "make migrate-validate")
    with plan.explained(script, settings_module.load(config), (), repeat):
        applied = deployed(script, stats)
        every = list(reversed(list(script.walk_revisions())))
    notes = []
    if applied is None:
        notes.append("note: alembic/table-stats.json names a revision that is not here: make table-stats")
    pending = [one for one in every if one.revision not in (applied or ())]
    found = of(config, script, pending, judged, stats, day, back=True)
    return dataclasses.replace(found, notes=(*notes, *found.notes), since=", ".join(stats.heads))


def deployed(script: ScriptDirectory, stats: TableStats) -> set[str] | None:
    """The revisions that are history, for the database that matters most has them; None where it is at an unknown one."""
    known = {one.revision for one in script.walk_revisions()}
    if not known.issuperset(stats.heads):
        return None
    return {one.revision for one in script.iterate_revisions(stats.heads, "base")}


def of(
    config: Config, script: ScriptDirectory, pending: Sequence[Script], judged: Sequence[Judged], stats: TableStats,
    day: dt.date | None = None, *, back: bool = False,
) -> Lint:  # fmt: skip
    """Judge these revisions as one deploy, after which comes nothing, onto tables of the sizes that ``stats`` has.

    ``back``: their downgrades too, each as what follows its upgrade; to take away is what it is for.
    """
    program = squawk.program()
    notes = [squawk.MISSING] if pending and program is None else []
    by_path = {str(one.path.resolve()): one for one in judged}
    past, found, warned, behind = Past(), list[Finding](), list[Finding](), list[Finding]()
    for one in pending:
        header = by_path[str(Path(one.path).resolve())].header
        waived = (
            {waiver.code for waiver in header.waivers if waiver.until >= (day or judge.today())} if header else set()
        )
        captured, untold = do_blocks.opened(statements.capture(config, script, one))
        notes += _untold(one, "the SQL", captured, untold)
        past.contract = header is not None and header.phase == "contract"
        for finding, stands in _judge(one, captured, past, stats, program):
            if finding.code not in waived:
                (found if stands else warned).append(finding)
        if back and not (header and header.reversible == "forward-only"):
            captured, untold = do_blocks.opened(statements.capture(config, script, one, back=True))
            notes += _untold(one, "the downgrade", captured, untold)
            after = dataclasses.replace(copy.deepcopy(past), contract=True)
            told = _judge(one, captured, after, stats, None)
            behind += [finding for finding, stands in told if stands and finding.code not in waived]
    return Lint(len(pending), tuple(found), tuple(warned), tuple(notes), tuple(behind))


def _untold(one: Script, what: str, captured: Captured, untold: Sequence[str]) -> list[str]:
    """What could not be judged, naming revision and line."""
    notes = [f"note: {source.shown(Path(one.path))}, {line}" for line in untold]
    if captured.problem:
        notes.append(f"note: {what} of {one.revision} was judged as far as it goes offline: {captured.problem}")
    return notes


def _judge(
    one: Script, captured: Captured, past: Past, stats: TableStats, program: str | None
) -> Iterator[tuple[Finding, bool]]:
    for sent, table, code, values in _hits(captured, past, stats, program):
        finding = source.finding(sent.path or Path(one.path), sent.line, code, **values)
        stands = finding.rule.refuses and not (code in SIZED and stats.small(table))
        yield Finding(finding.code, finding.where, one.revision, finding.values), stands


def _hits(
    captured: Captured, past: Past, stats: TableStats, program: str | None
) -> Iterator[tuple[Sent, str, str, dict[str, str]]]:
    past.transaction = -1  # numbered anew in each revision
    made = _made(captured)
    shown: list[Sent] = []
    spoken: set[int] = set()
    last: Sent | None = None
    for sent in captured.statements:
        if last and (sent.transaction != last.transaction or not sent.transaction):
            yield from _at_its_end(last, past)
        past.begin(sent)
        past.later = made.get(sent.transaction, set())
        last, found = sent, ddl.actions(sent.tokens)
        if not sent.inside and (not found or any(past.used(one.table or one.name or "?") for one in found)):
            shown.append(sent)  # squawk would take what is new here for something in use
        for action in found:
            for code, values in lint_rules.judge(action, sent, past):
                spoken.add(id(sent))
                yield sent, action.table, code, values
            past.note(action)
    if last:
        yield from _at_its_end(last, past)
    for one in squawk.objections(program, shown, stats.server) if program else ():
        known = squawk.COVERED.get(one.rule)
        if known and (id(one.sent) in spoken or (past.contract and known in CONTRACTS)):
            continue
        values = {"statement": one.sent.shown(), "rule": one.rule, "message": one.message, "help": one.help}
        yield one.sent, "", "squawk-objects", values


def _made(captured: Captured) -> dict[int, set[str]]:
    """What each transaction makes besides tables: a view may take over the name of a table that is renamed before."""
    made: dict[int, set[str]] = {}
    for sent in captured.statements:
        if sent.transaction:
            made.setdefault(sent.transaction, set()).update(
                one.name for one in ddl.actions(sent.tokens) if one.kind == "created"
            )
    return made


def _at_its_end(last: Sent, past: Past) -> Iterator[tuple[Sent, str, str, dict[str, str]]]:
    """What only a whole transaction shows."""
    for table, count in Counter(past.reading).items():
        if count > 1:
            yield last, table, "scans-repeated", {"table": table, "count": str(count)}
    several = sorted(set(past.strong))
    if len(several) > 1:
        yield last, "", "locks-several", {"count": str(len(several)), "tables": ", ".join(several)}
