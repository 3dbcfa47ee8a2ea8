"""What an upgrade would do, revision by revision, before anybody runs it. Asks the database, and changes nothing in it.

Where locks have to be found by running a revision, that is done on a scratch database. Without a database, ``start`` says
where one stands: then sizes are those of ``alembic/table-stats.json``, and nothing is known of what goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mcp_planner_schema.backfill.progress import lasting
from mcp_planner_schema.guard import body, budget, graph, judge, phases, source
from mcp_planner_schema.guard import plan as guard_plan
from mcp_planner_schema.guard import settings as settings_module
from mcp_planner_schema.guard import version_table as version_table_module
from mcp_planner_schema.guard.findings import WrongUse
from mcp_planner_schema.guard.settings import Settings
from mcp_planner_schema.guard.version_table import VersionTable
from mcp_planner_schema.inspect import (
    ahead,
    lint,
    plan_database,
    plan_locks,
    plan_sql,
    plan_time,
    route,
    statements,
    table_stats,
)
from mcp_planner_schema.inspect.plan_database import Facts
from mcp_planner_schema.inspect.plan_locks import Known
from mcp_planner_schema.inspect.plan_time import Deploy
from mcp_planner_schema.inspect.planned import Estimate, Locks, Plan, Revision, Said, Table
from mcp_planner_schema.inspect.table_sizes import Rates

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.script import Script, ScriptDirectory
    from sqlalchemy import Connection

    from mcp_planner_schema.guard.judge import Judged

_REFUSED = "a finding refuses it, so it was not run, not even offline"


@dataclass(frozen=True)
class _Run:
    """What one plan is made of. ``steps`` and ``judged`` are in the order in which they would run."""

    config: Config
    given: Settings
    script: ScriptDirectory
    facts: Facts
    version_table: VersionTable
    steps: tuple[Script, ...]
    judged: tuple[Judged, ...]

    @property
    def checksums(self) -> dict[str, str]:
        """Of each revision as it is now, by its id, as the history and the stored locks keep it."""
        pairs = zip(self.steps, self.judged, strict=True)
        return {one.revision: source.checksum(judged.source, judged.sql) for one, judged in pairs if judged.source}

    @property
    def refused(self) -> bool:
        """Whether the guard would refuse the run for what stands in the files."""
        return any(finding.rule.refuses for one in self.judged for finding in one.findings)


def read(config: Config, *, to: str = "head", start: str | None = None, phase: str | None = None) -> Plan:
    """The plan from where the database stands, or from ``start``, to ``to``; ``phase`` as ``migrate-up`` takes it.

    Raises :class:`WrongUse` for what is no way up, and :class:`Broken` where the database cannot be reached.
    """
    from alembic.script import ScriptDirectory

    asked = phases.chosen(phase)
    given = settings_module.load(config)
    if start is not None:
        at = route.between(config, given, (), start).there
        heads = () if at == "base" else (at,)
        facts = plan_database.committed(ScriptDirectory.from_config(config).dir, heads)
        return _plan(config, given, facts, VersionTable(), None, to, asked)
    table = version_table_module.of(config)
    with plan_database.connected(config, str(config.attributes.get("repeat"))) as connection:
        with route.history(config, given, (), connection, table):
            facts = plan_database.ask(connection, table)
        return _plan(config, given, facts, table, connection, to, asked)


def _plan(
    config: Config, given: Settings, facts: Facts, table: VersionTable, connection: Connection | None, to: str, asked: str
) -> Plan:  # fmt: skip
    way = route.between(config, given, facts.heads, to)
    if way.back:
        raise WrongUse(
            f"{way.there} lies behind {way.here}. What a way back would do is shown by its rehearsal.",
            f"make migrate-down TO={way.there} DRY_RUN=1",
        )
    with route.history(config, given, facts.heads) as script:
        steps = tuple(one for name in way.steps if (one := script.get_revision(name)) is not None)
    judged = tuple(judge.judge_pending(script, [one.path for one in steps], given))
    run = _Run(config, given, script, facts, table, steps, judged)
    revisions, notes = _revisions(run, way.here, asked)
    plan = Plan(facts.database, given.environment, way.here, way.there, sizes=facts.origin, notes=notes)
    if connection is None:
        return replace(plan, revisions=tuple(map(_weighed, revisions)))
    edited = graph.edited(script, given, connection, table.shown, facts.heads)
    connection.rollback()
    plan = replace(plan, said=tuple(Said(one, one.rule.refuses) for one in edited))
    return _with_activity(plan, run, connection, revisions)


def _revisions(run: _Run, here: str, asked: str) -> tuple[tuple[Revision, ...], tuple[str, ...]]:
    """Each revision as far as no database has to be asked for it, and what could not be judged."""
    names = [one.revision for one in run.steps]
    linted = lint.Lint(0) if run.refused else lint.of(run.config, run.script, run.steps, run.judged, run.facts.stats())
    locks = plan_locks.known(run.config, run.given, run.script, run.checksums, may_run=not run.refused)
    # What the database that matters most has already was judged when it was new, as by migrate-validate.
    old = lint.deployed(run.script, table_stats.load(run.script.dir)) or set()
    none: plan_sql.Written = dict.fromkeys(names, (None, _REFUSED))
    written = none if run.refused else plan_sql.written(run.config, here, names)
    deploy = Deploy()
    by_name = dict(zip(names, run.judged, strict=True))
    missing = guard_plan.unknown(run.script, by_name) if run.given.rules.stored else []
    found: list[Revision] = []
    for one, judged in zip(run.steps, run.judged, strict=True):
        said = [Said(finding, finding.rule.refuses) for finding in judged.findings]
        said += [Said(finding, True) for finding in missing if finding.revision == one.revision]
        said += [
            Said(finding, one.revision not in old) for finding in linted.findings if finding.revision == one.revision
        ]
        said += [Said(finding, False) for finding in linted.warnings if finding.revision == one.revision]
        revision = _revision(run, one, judged, locks[one.revision], deploy)
        sql, why = written[one.revision]
        found.append(replace(revision, said=tuple(said), sql=sql, no_sql=why))
    first = phases.first_waiting((one.phase for one in found), run.given.environment, asked)
    for place in range(first if first is not None else len(found), len(found)):
        why = f"contract: {phases.why_waiting(run.given.environment, asked)}"
        waits = why if place == first else f"it comes after {names[first or 0]}, which waits"
        found[place] = replace(found[place], waits=waits)
    return tuple(found), linted.notes


def _revision(run: _Run, one: Script, judged: Judged, known: Known, deploy: Deploy) -> Revision:
    header = judged.header
    own = body.budgets(judged.source) if judged.source and not run.refused else {}
    tables = tuple(_table(name, known, run.facts, deploy) for name in _names(known))
    estimate = Estimate(0.0, None, None, unknown=(_REFUSED,))
    if not run.refused:
        captured = statements.capture(run.config, run.script, one)
        rewritten = known.found.rewritten if known.found else None
        single = header is None or header.transaction == "single"
        estimate = plan_time.reckon(captured, deploy, rewritten, run.facts.sizes, single=single)
    return Revision(
        revision=one.revision,
        title=(header.title if header else one.doc or "").strip().rstrip("."),
        file=source.shown(judged.path),
        phase=header.phase if header else "",
        type=header.type if header else "",
        transaction=header.transaction if header else "",
        reversible=header.reversible if header else "",
        locks=Locks(known.origin, tables, known.problem, known.fails),
        estimate=estimate,
        deadline_ms=budget.of_revision(run.given.budgets, own).deadline,
        skipped=header is not None and run.given.environment not in header.environments,
    )


def _names(known: Known) -> list[str]:
    return sorted({*known.found.locks, *known.found.rewritten}) if known.found else []


def _table(name: str, known: Known, facts: Facts, deploy: Deploy) -> Table:
    assert known.found is not None
    mode, rewritten = known.found.locks.get(name, ""), name in known.found.rewritten
    size = facts.sizes.get(deploy.now(name))
    if deploy.new(name):
        return Table(name, mode, rewritten, "new", rows=0)
    if size is None:
        return Table(name, mode, rewritten, "unknown")
    return Table(name, mode, rewritten, "yes", size.bytes, size.rows)


def _with_activity(plan: Plan, run: _Run, connection: Connection, revisions: Sequence[Revision]) -> Plan:
    """With what only a database that is asked can tell: what goes on, who is in the way, what it took before, backfills."""
    there = sorted({table.name for one in revisions for table in one.locks.tables if table.there == "yes"})
    rates = plan_database.activity(connection, run.facts) if there else None
    users = plan_database.users(connection, run.given.schema, there) if there else []
    before = plan_database.before(connection, run.given.schema, run.version_table, run.checksums)
    fills = {} if run.refused else ahead.by_revision(run.config, [one.revision for one in revisions])
    found = []
    for one in revisions:
        tables = tuple(_busy(table, rates, users) for table in one.locks.tables)
        took = before.get(one.revision)
        one = replace(
            one, locks=replace(one.locks, tables=tables), estimate=replace(one.estimate, before=took),
            backfills=tuple(fills.get(one.revision, ())),
        )  # fmt: skip
        found.append(_weighed(one))
    return replace(plan, revisions=tuple(found), rates=_told(rates))


def _weighed(one: Revision) -> Revision:
    """With why somebody should look at it before it runs: readers or writers may wait for longer than the deadline."""
    if one.skipped:
        return one
    if one.locks.fails:
        return replace(one, reasons=(f"it will fail: {one.locks.fails}",))
    if one.locks.problem:
        return replace(one, reasons=(f"its locks are not known: {one.locks.problem}",))
    held, before = one.estimate.held, one.estimate.before
    if held is None and before:
        held = before.hold_ms / 1000
    stopping = [table for table in one.locks.tables if table.in_the_way]
    named = ", ".join(f"{table.mode} on {plan_time.short(table.name)}" for table in stopping)
    if not stopping or (held is not None and held * 1000 <= one.deadline_ms):
        return one
    if held is None:
        why = f"how long it holds {named} is not known: {'; '.join(one.estimate.unknown)}"
    else:
        why = (
            f"it may need {named} for up to {lasting(held)}; after {one.deadline_ms} ms it gives up, and is tried again"
        )
    return replace(one, reasons=(why,))


def _busy(table: Table, rates: Rates | None, users: Sequence[str]) -> Table:
    if rates is None or table.name not in rates.by_table or table.there != "yes":
        return table
    writes, reads = rates.by_table[table.name]
    begin = f"{plan_time.short(table.name)} is in use: "
    here = [line.removeprefix(begin) for line in users if line.startswith(begin)]
    waits = tuple(user for user in here if plan_database.waits_for(table.mode, user))
    return replace(table, writes=writes, reads=reads, users=waits)


def _told(rates: Rates | None) -> str:
    if rates is None:
        return ""
    if rates.since is None:
        return f"between two readings, {rates.seconds:.1f} s apart"
    return f"on average since the statistics were reset, {rates.since} ({lasting(rates.seconds)} ago)"
