"""What is to be done: the steps Alembic gives, and the judgement on every one of them before the first statement."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard.findings import Broken, Finding, GuardError, WrongUse, refuse
from mcp_planner_schema.guard.settings import Settings

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext
    from sqlalchemy import Connection

    from mcp_planner_schema.guard.judge import Judged
    from mcp_planner_schema.guard.progress import Step


def read(
    context: Any, settings: Settings, migration: MigrationContext, work: Any
) -> tuple[tuple[str, ...], list[Step]]:
    """The database's heads, and the steps to the destination. Reads the version table and, through Alembic, the folder.

    Ends the transaction it has read in.
    """
    heads = () if migration.purge else migration.get_current_heads()
    assert migration.connection is not None
    migration.connection.rollback()
    return heads, steps(context, settings, migration, work, heads)


def steps(
    context: Any, settings: Settings, migration: MigrationContext, work: Any, heads: tuple[str, ...]
) -> list[Step]:
    """Alembic's steps from ``heads``. Raises :class:`Refused` or :class:`WrongUse` where there are none to be had."""
    with explained(context, settings, heads):
        return list(work(heads, migration))


@contextmanager
def explained(context: Any, settings: Settings, heads: tuple[str, ...]) -> Iterator[None]:
    """What Alembic, or the import of a revision, raises while inside comes out as a :class:`GuardError` naming the file."""
    from alembic.util import CommandError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (GuardError, SQLAlchemyError):
        raise
    except Exception as error:
        from mcp_planner_schema.guard import graph, judge, source

        # Something in the folder may be the reason; it is told before Alembic's own words, which name no file.
        graph.explain(context.script, settings, heads, repeat_of(context))
        if isinstance(error, CommandError):
            # Autogenerate compares models with a database at head, and with no other.
            behind = "not up to date" in str(error)
            command = "alembic upgrade head" if behind else "alembic history   (lists the revisions there are)"
            raise WrongUse(str(error).rstrip(".") + ".", command) from error
        paths = {str(path.resolve()) for path in judge.files(context.script)}
        frames = [
            one for one in traceback.extract_tb(error.__traceback__) if str(Path(one.filename).resolve()) in paths
        ]
        place = f"{source.shown(Path(frames[-1].filename))}:{frames[-1].lineno}" if frames else ""
        raise Broken(
            f"The history cannot be loaded{place and ' at ' + place}: {type(error).__name__}: {error}",
            f"correct {place or 'the revision'}, then {repeat_of(context)}",
        ) from error


def judge_steps(
    context: Any, settings: Settings, steps: list[Step], beside: Connection | None = None
) -> dict[str, Judged]:
    """Read and judge every pending revision, by id. Raises :class:`Refused` with all findings. Imports none of them.

    With a connection ``beside``, applied revisions that were edited since count too.
    """
    from mcp_planner_schema.guard import graph, judge
    from mcp_planner_schema.guard.step import direction_of, name_of, script_of

    if not steps or steps[0].info.is_stamp:
        return {}
    graph.explain(context.script, settings, (), repeat_of(context))
    paths = [script_of(step).path for step in steps]
    judged = dict(zip(map(name_of, steps), judge.judge_pending(context.script, paths, settings), strict=True))
    findings = [finding for one in judged.values() for finding in one.findings]
    if direction_of(steps[0]) == "downgrade":
        findings += _one_way(judged)
    if beside is not None:
        findings += graph.edited(context.script, settings, beside, version_table(context.get_context()))
    refuse(findings, f"correct what they name, then {repeat_of(context)}")
    return judged


def version_table(migration: MigrationContext) -> str:
    """The version table as the guard's run rows name it."""
    return ".".join(filter(None, (migration.version_table_schema, migration.version_table)))


def repeat_of(context: Any) -> str:
    """The command the person typed, to be printed where it is to be typed again."""
    given = context.config.attributes.get("repeat")
    if given:
        return str(given)
    arguments = sys.argv[1:] if context.config.cmd_opts is not None else []
    if not arguments:
        return "the same call again"
    from mcp_planner_schema.guard import connect

    return connect.masked(" ".join(["alembic", *arguments]), None)


def _one_way(judged: dict[str, Judged]) -> list[Finding]:
    """Forward-only revisions among those to be taken back: the whole downgrade is refused before the first of them."""
    return [
        Finding("forward-only", f"{one.source.shown}:1", revision,
                {"revision": revision, "reason": one.header.reason, "above": revision})
        for revision, one in judged.items()
        if one.header and one.source and one.header.reversible == "forward-only"
    ]  # fmt: skip
