"""Each step is held to what it changed in the catalog where it was written, down to the last constraint: before it commits.

What that was stands in ``alembic/catalog`` (see :mod:`.fingerprint.stored`). A project without these files is left alone. What
somebody else has changed in a database beside its revisions is no step's fault, unless the step changes the same object.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard import bystanders, connect, fingerprint, judge, source, touched
from mcp_planner_schema.guard.findings import Broken, Busy, Finding, Refused, WrongUse
from mcp_planner_schema.guard.fingerprint import Lines, Picture, stored
from mcp_planner_schema.guard.fingerprint.stored import Delta

if TYPE_CHECKING:
    from alembic.script import ScriptDirectory
    from sqlalchemy import Connection, Engine

    from mcp_planner_schema.guard.progress import Progress

# PostgreSQL opens a table, as a reader does, to write out an expression or an index of it.
_ALONE = """
SELECT DISTINCT pg_catalog.concat(l.relation::pg_catalog.regclass, ' by process ', l.pid, ' ' || nullif(a.application_name, ''))
FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'relation' AND l.mode = 'AccessExclusiveLock' AND l.granted AND l.relation >= 16384
  AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
"""


@dataclass
class Catalog:
    """What a run knows of the catalog: ``picture`` as it was after its last step, ``foreign`` what differed before its first.

    ``without`` are tables that do not count: Alembic's version table, other tools'. ``passed``: the running step was let pass
    with something that is not its doing.
    """

    script: ScriptDirectory
    schema: str
    without: tuple[str, ...]
    picture: Picture
    foreign: frozenset[str] = field(default_factory=frozenset)
    passed: bool = False

    @property
    def folder(self) -> Path:
        """Where the files of the history lie."""
        return Path(self.script.dir)


def kept(script: ScriptDirectory) -> bool:
    """Whether the history has fingerprints at all."""
    return stored.place(script.dir).exists()


def begin(
    engine: Engine, script: ScriptDirectory, schema: str, heads: Sequence[str], version_table: str, repeat: str
) -> Catalog | None:
    """Read the catalog, before anything is locked; None for a history without fingerprints.

    Raises :class:`WrongUse` where the stored ones cannot be used, :class:`Busy` where somebody has locked a table for long.
    """
    if not kept(script):
        return None
    with connect.opened(engine, autocommit=True) as connection:
        without = fingerprint.without(connection, schema, version_table)
    picture = _read(engine, schema, without)
    if picture is None:
        with connect.opened(engine) as connection:
            who = connection.exec_driver_sql(_ALONE).scalars().all()
        raise Busy(
            "The catalog cannot be read: to see what a table is like waits for whoever has it for himself "
            f"({', '.join(who) or 'he has just gone'}). Nothing was changed.",
            repeat,
        )
    catalog = Catalog(script, schema, without, picture)
    catalog.foreign = frozenset(differing(script, heads, fingerprint.together(picture)))
    return catalog


def _read(engine: Engine, schema: str, without: tuple[str, ...]) -> Picture | None:
    """The whole catalog, on a fresh connection; None where a lock was not granted in time."""
    from sqlalchemy.exc import DBAPIError

    with connect.opened(engine, autocommit=True) as connection:
        try:
            return fingerprint.at_once(connection, schema, without=without)
        except DBAPIError as error:
            if getattr(error.orig, "pgcode", None) != "55P03":
                raise
            return None


def differing(script: ScriptDirectory, heads: Sequence[str], found: Lines) -> list[str]:
    """What no revision up to these heads explains, object by object; nothing where not all of them have a stored change."""
    applied = chain(script, heads)
    there = stored.fingerprints(script.dir)
    if any(one not in there for one in applied):
        return []
    wanted = stored.expected(script.dir, applied)
    return fingerprint.difference(fingerprint.structure(wanted), fingerprint.structure(found))


def matching(script: ScriptDirectory, found: Lines) -> list[str]:
    """The versions at which the revisions, as far as it is stored what they change, make exactly this of the catalog."""
    there, real = stored.fingerprints(script.dir), fingerprint.structure(found)
    told = [] if real else ["base"]
    lines: Lines = frozenset()
    for revision in [one.revision for one in reversed(list(script.walk_revisions()))]:
        change = stored.delta(script.dir, revision) if revision in there else None
        if change is None:
            break
        lines = stored.applied(lines, change)
        if fingerprint.same(fingerprint.structure(lines), real):
            told.append(revision)
    return told


def chain(script: ScriptDirectory, heads: Sequence[str]) -> list[str]:
    """The revisions that have been applied at these heads, the oldest first."""
    return [one.revision for one in reversed(list(script.iterate_revisions(tuple(heads), "base")))] if heads else []


def before(catalog: Catalog, connection: Connection) -> touched.Known:
    """The moment before a step, for :func:`require`. Nothing strong is locked yet, so what takes long is done here."""
    fingerprint.prepare(connection, catalog.schema)
    return touched.known(connection)


def require(catalog: Catalog, at: Progress, connection: Connection, then: touched.Known) -> Picture:
    """Raise :class:`Refused` where the step has changed something else than it did where it was written; gives the picture now.

    ``then`` is the moment before the step. Reads what was touched since, and no more.
    """
    since = touched.since(connection, then)
    now = fingerprint.again(connection, catalog.schema, catalog.picture, since, without=catalog.without)
    change = stored.delta(catalog.folder, at.name)
    if change is None:
        return now
    wanted = change if at.direction == "upgrade" else Delta(come=change.gone, gone=change.come)
    expected, found = _apart(_Step(catalog.picture, now), wanted, strict=not at.committed)
    told = fingerprint.difference(expected, found)
    if told:
        expected, found = _its_own(catalog, at, connection, then, now, wanted, (expected, found))
        told, before = fingerprint.difference(expected, found), told
        catalog.passed = told != before
    header = at.judged.header if at.judged else None
    if told and header and header.waives("catalog-differs", judge.today()):
        at.notes += [f"waived: catalog-differs: {line}" for line in told]
        catalog.foreign |= frozenset(told)  # at the end of the run it is no news
    elif told:
        values = {"differences": "\n".join(told), "revision": at.name, "direction": at.direction}
        left = "what it has committed stays, the version has not moved" if at.committed else "this step was undone"
        raise Refused(
            [Finding("catalog-differs", at.where, at.name, values)], "make migrate-drift   (what else differs)", left
        )
    return now


def _its_own(
    catalog: Catalog, at: Progress, connection: Connection, then: touched.Known, now: Picture, wanted: Delta,
    differing: tuple[Lines, Lines],
) -> tuple[Lines, Lines]:  # fmt: skip
    """What is missing and what is unexpected, without what is not the step's doing."""
    missing, unexpected = differing
    if not at.committed:
        others = touched.others(connection, then)
        missing, unexpected = (
            bystanders.of_others(lines, (catalog.picture, now), others) for lines in (missing, unexpected)
        )
    every = [one.revision for one in catalog.script.walk_revisions()]
    made = bystanders.made(catalog.folder, every, chain(catalog.script, (at.name,)))
    if made is None:
        return missing, unexpected
    before, there = fingerprint.together(catalog.picture), fingerprint.together(now)
    return bystanders.unmade(missing, unexpected, before, there, wanted, made)


def final(catalog: Catalog, heads: Sequence[str], now: Picture) -> None:
    """The step is final: the catalog is as it has left it. What differs and is not its doing is no news at the end of the run."""
    catalog.picture = now
    if catalog.passed:
        catalog.foreign |= frozenset(differing(catalog.script, heads, fingerprint.together(now)))
    catalog.passed = False


def after(catalog: Catalog, engine: Engine, heads: Sequence[str], repeat: str) -> str | None:
    """Compare the whole catalog, on a fresh connection, once a run. Gives a line about what differed before the run too.

    Raises :class:`Broken` for what differs only since.
    """
    picture = _read(engine, catalog.schema, catalog.without)
    if picture is None:
        return "note: the whole catalog was not compared, for somebody has a table for himself: make migrate-drift"
    found = fingerprint.together(picture)
    told = differing(catalog.script, heads, found)
    new = [line for line in told if line not in catalog.foreign and not line.startswith(" ")]
    if new:
        raise Broken(
            f"The steps are final, the database is at {', '.join(heads) or 'base'}, and the catalog is not what they make of "
            "it. Somebody else has changed it meanwhile, or a step that commits by itself did not do all:\n"
            + "\n".join(f"  {line}" for line in new),
            "make migrate-drift",
        )
    count = sum(not line.startswith(" ") for line in told)
    differ = f"{count} object{'s differ' if count != 1 else ' differs'}"
    return f"note: {differ} from what the revisions have made, as before: make migrate-drift" if told else None


def write(catalog: Catalog, revision: str, now: Picture, judged: judge.Judged | None) -> list[Path]:
    """Store what a new revision has changed, with its fingerprint: the files that were written, none where there is one.

    Raises :class:`WrongUse` where the database is not what the revisions before have made: what the new one changes here is
    then not what it changes elsewhere.
    """
    if stored.delta(catalog.folder, revision) is not None and revision in stored.fingerprints(catalog.folder):
        return []
    if catalog.foreign:
        raise WrongUse(
            "this database differs from its revisions (make migrate-drift), so it may be something else than elsewhere",
            f"make migrate-fingerprint VERSION={revision}",
        )
    every = [one.revision for one in reversed(list(catalog.script.walk_revisions()))]
    before = stored.expected(catalog.folder, chain(catalog.script, (revision,))[:-1])
    step = _Step(catalog.picture, now)
    change = Delta(step.come, step.gone)
    lines = stored.applied(before, change)
    sources = {revision: source.checksum(judged.source, judged.sql)} if judged and judged.source else {}
    return stored.write(catalog.folder, every, {revision: (fingerprint.of(lines), change)}, sources)


class _Step:
    """What went and what came between two pictures. Only objects that were read anew can differ."""

    def __init__(self, before: Picture, after: Picture) -> None:
        self._both = before, after
        read = {oid for oid, lines in after.items() if before.get(oid) is not lines} | (before.keys() - after.keys())
        was, now = (frozenset().union(*(one.get(oid, ()) for oid in read)) for one in (before, after))
        self.gone: Lines = was - now
        self.come: Lines = now - was

    @functools.cached_property
    def now(self) -> Lines:
        """All lines there are."""
        return fingerprint.together(self._both[1])

    def tables(self) -> Lines:
        """The lines of all tables as such, of both pictures."""
        return frozenset(line for one in self._both for lines in one.values() for line in lines if line.kind == "table")


def _apart(step: _Step, wanted: Delta, *, strict: bool) -> tuple[Lines, Lines]:
    """What should be there and is not, and what is there and should not be.

    Where the step is no single transaction, others may have changed something meanwhile: then only what it was to do counts.
    """
    missing = fingerprint.structure(wanted.come - step.come)
    missing = missing - step.now if missing else missing
    left = fingerprint.structure(wanted.gone - step.gone)
    left = left & step.now if left else left
    extra = fingerprint.structure(step.come - wanted.come)
    if not strict:
        instead = {line[:2] for line in missing}
        return missing, left | {line for line in extra if line[:2] in instead}
    named = {line[:2] for line in wanted.gone | wanted.come}
    # What was another before, because somebody had changed it, may go under its name.
    lost = frozenset(line for line in fingerprint.structure(step.gone - wanted.gone) if line[:2] not in named)
    if extra or lost:
        extra, lost = (_of_the_calendar(lines, step.tables(), wanted) for lines in (extra, lost))
    return missing | lost, extra | left


def _of_the_calendar(lines: Lines, tables: Lines, wanted: Delta) -> Lines:
    """``lines`` but for those of partitions that the revision does not make: these come and go by the calendar."""
    parts = frozenset(line for line in tables if "partition of " in line.definition) - wanted.come - wanted.gone
    return fingerprint.without_partitions(lines | parts, tables - parts) & lines


def new(catalog: Catalog, steps: Sequence[Any]) -> list[str]:
    """Those of the revisions that have no stored change yet."""
    there = stored.fingerprints(catalog.folder)
    return [one for one in steps if one not in there or stored.delta(catalog.folder, one) is None]
