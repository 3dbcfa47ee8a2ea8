"""What each revision makes of the catalog, found by running the history on a scratch database: ``make migrate-fingerprint``.

The scratch database lies where migrate-trace makes its own. What a revision does there is what it does anywhere: the lines do
not depend on the server's version, and nothing of rows or roles is among those of the structure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mcp_planner_schema.guard import connect, judge, source, version_table
from mcp_planner_schema.guard import settings as settings_module
from mcp_planner_schema.guard.findings import WrongUse
from mcp_planner_schema.guard.fingerprint import Fingerprint, Lines, of, read, stored, together
from mcp_planner_schema.guard.fingerprint.stored import Delta
from mcp_planner_schema.guard.settings import Settings
from mcp_planner_schema.inspect import route, trace

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.script import Script, ScriptDirectory
    from sqlalchemy import URL, Connection

Found = dict[str, tuple[Fingerprint, Delta]]
"""For each revision, in the order of the history, its fingerprint and what it changes."""


def store(config: Config, wanted: str | None = None) -> tuple[Found, list[Path]]:
    """:func:`run`, and write what was found. Gives that, and the files whose text has changed."""
    from alembic.script import ScriptDirectory

    made = run(config, wanted)
    script = ScriptDirectory.from_config(config)
    chain = list(script.walk_revisions())[::-1]
    if not made:
        return made, []
    sources = _sources(script, chain, settings_module.load(config))
    return made, stored.write(script.dir, [one.revision for one in chain], made, sources)


def run(config: Config, wanted: str | None = None) -> Found:
    """Run the history: what is found from the revision ``wanted`` on, of ``all``, or from the first that has nothing stored,
    or has it of another text than its own.

    Raises :class:`WrongUse` for an unknown revision, :class:`Broken` where one does not run on the scratch database.
    """
    given = settings_module.load(config)
    with route.history(config, given, ()) as script:
        every = list(reversed(list(script.walk_revisions())))
    first = _first(Path(script.dir), [one.revision for one in every], wanted, _sources(script, every, given))
    if first is None:
        return {}
    version_table.set_up(config)
    with trace.scratch(given) as target:
        return _through(config, script, target, every, first, given)


def _sources(script: ScriptDirectory, every: Sequence[Script], given: Settings) -> dict[str, str]:
    """The checksums of the revisions' texts, as the history and the stored locks keep them."""
    judged = judge.judge_pending(script, [one.path for one in every], given)
    return {
        one.revision: source.checksum(found.source, found.sql)
        for one, found in zip(every, judged, strict=True)
        if found.source
    }


def _first(folder: Path, chain: Sequence[str], wanted: str | None, sources: Mapping[str, str]) -> int | None:
    """The place of the first revision to be written; the lines of those after it depend on it."""
    if wanted == "all":
        return 0 if chain else None
    if wanted is not None:
        if wanted not in chain:
            raise WrongUse(f"There is no revision {wanted}.", "make migrate-fingerprint VERSION=003   (or VERSION=all)")
        return chain.index(wanted)
    there = stored.fingerprints(folder)
    return next(
        (
            place
            for place, revision in enumerate(chain)
            if revision not in there
            or not stored.catalog_place(folder, revision).exists()
            or stored.source(folder, revision) not in (None, sources.get(revision))
        ),
        None,
    )


def _through(
    config: Config, script: ScriptDirectory, target: URL, line: Sequence[Script], first: int, given: Settings
) -> Found:
    engine = connect.engine(target, "mcp-planner-guard fingerprint")
    made: Found = {}
    try:
        with connect.opened(engine) as connection:
            before: Lines = frozenset()
            for place, one in enumerate(line):
                if place == first:
                    before = _lines(connection, given)
                trace.step(config, script, connection, one, None, upgrade=True)
                if place >= first:
                    after = _lines(connection, given)
                    made[one.revision] = of(after), Delta(after - before, before - after)
                    before = after
    finally:
        engine.dispose()
    return made


def _lines(connection: Connection, given: Settings) -> Lines:
    found = together(read(connection, given.schema))
    connection.rollback()
    return found
