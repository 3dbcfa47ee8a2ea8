"""What is to be done: the steps Alembic gives, and the judgement on every one of them before the first statement."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard.findings import Broken, Finding, GuardError, Refused, WrongUse, refuse
from mcp_planner_schema.guard.settings import Settings

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext
    from sqlalchemy import Connection, Engine

    from mcp_planner_schema.guard.judge import Judged
    from mcp_planner_schema.guard.progress import Step
    from mcp_planner_schema.guard.session import Session

_RELATIVE = re.compile(r"[+-]\d+$")


def read(
    context: Any, settings: Settings, migration: MigrationContext, work: Any
) -> tuple[tuple[str, ...], list[Step]]:
    """The database's heads, and the steps to the destination. Reads the version table and, through Alembic, the folder.

    Ends the transaction it has read in. There is nothing to do for an upgrade to head where the database is ahead of this
    folder by revisions that take nothing away: a release that was rolled back starts on it, and its deployment ends well.
    """
    heads = () if migration.purge else migration.get_current_heads()
    assert migration.connection is not None
    migration.connection.rollback()
    try:
        return heads, steps(context, settings, migration, work, heads)
    except Refused as refused:
        found = getattr(refused, "ahead", None)
        to_head = getattr(work, "__name__", "") == "upgrade" and migration.opts["destination_rev"] in ("head", "heads")
        if found is None or found.state != "newer_additive" or not to_head:
            raise
        from mcp_planner_schema.guard.saying import say

        say(found.text)
        return heads, []


def steps(
    context: Any, settings: Settings, migration: MigrationContext, work: Any, heads: tuple[str, ...]
) -> list[Step]:
    """Alembic's steps from ``heads``, as far as their phases let them run now.

    Raises :class:`Refused` or :class:`WrongUse` where there are none to be had.
    """
    with explained(context.script, settings, heads, repeat_of(context), migration):
        found = list(work(heads, migration))
    if not found:
        return found
    from mcp_planner_schema.guard import phases

    return phases.allowed(context, settings, migration.opts.get("destination_rev"), found)


def pin(context: Any, migration: MigrationContext, heads: tuple[str, ...], steps: list[Step]) -> Any:
    """Make a relative destination ("-2", "+1", "003-1") absolute: it is counted from ``heads``, whatever comes after.

    Gives the function to plan with from now on, or None where the destination is absolute already. What
    :func:`repeat_of` gives names the absolute one from now on too.
    """
    target = migration.opts["destination_rev"]
    if not isinstance(target, str) or not _RELATIVE.search(target) or steps[0].info.is_stamp:
        return None
    script = context.script
    if steps[0].is_upgrade:
        # A relative target is one revision; everything else on the way to it comes before it.
        absolute, again = str(steps[-1].info.up_revision_id), script._upgrade_revs
    else:
        # Alembic's own reading: a step back from a merge, or on a branch, has more than one revision below it.
        label, found = script.revision_map._parse_downgrade_target(heads, target, True)
        if "@" not in target and len(heads) == 1:
            label = None  # Alembic's note of where it began, which with one head decides nothing
        absolute = "@".join(filter(None, (label, getattr(found, "revision", None) or "base")))
        again = script._downgrade_revs
    options_of(context)["guard_repeat"] = _with_target(
        repeat_of(context), target, absolute, upgrade=steps[0].is_upgrade
    )
    return lambda heads, _: again(absolute, heads)


def _with_target(typed: str, target: str, absolute: str, *, upgrade: bool) -> str:
    """The command as it was typed, with the absolute destination instead of the relative one."""
    words = typed.split()
    if words[0] == "make":
        kept = [word for word in words if not word.startswith(("STEPS=", "TO="))]
        named = [f"VERSION={absolute}" if word.startswith("VERSION=") else word for word in kept]
        return " ".join(named if named != kept else [*kept, f"TO={absolute}"])
    if target in words:
        return " ".join(absolute if word == target else word for word in words)
    return f"alembic {'upgrade' if upgrade else 'downgrade'} {absolute}"


def options_of(context: Any) -> Any:
    """What this one command shares with Alembic's environment; gone at its end, unlike ``config.attributes``."""
    return context._proxy.context_opts if hasattr(context, "_proxy") else context.context_opts


@contextmanager
def explained(
    script: Any, settings: Settings, heads: tuple[str, ...], repeat: str, migration: MigrationContext | None = None,
    *, hooks: bool = False,
) -> Iterator[None]:  # fmt: skip
    """What Alembic, or the import of a revision, raises while inside comes out as a :class:`GuardError` naming the file.

    With a ``migration``, its database is asked what it is that this folder does not have. With ``hooks``, a caller may have
    handed over functions of its own (``process_revision_directives``): what no file is to blame for is raised as it is.
    """
    from alembic.util import CommandError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # Alembic's word on what is told better below
            yield
    except (GuardError, SQLAlchemyError):
        raise
    except Exception as error:
        import traceback
        from pathlib import Path

        from mcp_planner_schema.guard import ahead, graph, judge, source

        # Something in the folder may be the reason; it is told before Alembic's own words, which name no file.
        graph.explain(script, settings, () if migration else heads, repeat)
        if migration is not None:
            ahead.explain(migration, script, settings)
        if isinstance(error, CommandError):
            # Autogenerate compares models with a database at head, and with no other.
            behind, made = "not up to date" in str(error), repeat.startswith("make ")
            if "Multiple head" in str(error):  # where headers are optional, a history may have several
                files = ", ".join(graph.tips(script))
                raise WrongUse(
                    f"{str(error).rstrip('.')}. The heads are {files}.",
                    "alembic upgrade heads (all of them), or alembic merge heads (join them)",
                ) from error
            if "didn't produce" in str(error) and " -" in str(error):  # more steps back than there are
                command = "make migrate-down TO=base DRY_RUN=1" if made else "alembic -x dry_run=1 downgrade base"
            elif behind:
                command = "make migrate-up" if made else "alembic upgrade head"
            else:
                command = "make migrate-status" if made else "alembic history   (lists the revisions there are)"
            raise WrongUse(str(error).rstrip(".") + ".", command) from error
        paths = {str(path.resolve()) for path in judge.files(script)}
        if isinstance(error, AttributeError) and error.name == "downgrade":
            at = str(getattr(error.obj, "__file__", ""))
            if str(Path(at).resolve()) in paths:
                raise Refused(
                    [Finding("downgrade-missing", source.shown(Path(at)))], f"correct it, then {repeat}"
                ) from error
        frames = [
            one for one in traceback.extract_tb(error.__traceback__) if str(Path(one.filename).resolve()) in paths
        ]
        if hooks and not frames:
            raise
        place = f"{source.shown(Path(frames[-1].filename))}:{frames[-1].lineno}" if frames else ""
        raise Broken(
            f"The history cannot be loaded{place and ' at ' + place}: {type(error).__name__}: {error}",
            f"correct {place or 'the revision'}, then {repeat}",
        ) from error


def judge_steps(
    context: Any,
    settings: Settings,
    steps: list[Step],
    heads: tuple[str, ...] = (),
    beside: Connection | None = None,
) -> dict[str, Judged]:
    """Read and judge every pending revision, by id. Raises :class:`Refused` with all findings. Imports none of them.

    With a connection ``beside``, what is applied at ``heads`` and was edited since counts too.
    """
    from mcp_planner_schema.guard import graph, judge
    from mcp_planner_schema.guard.progress import direction_of, name_of, script_of

    if not steps or steps[0].info.is_stamp:
        return {}
    graph.explain(context.script, settings, (), repeat_of(context))
    paths = [script_of(step).path for step in steps]
    judged = dict(zip(map(name_of, steps), judge.judge_pending(context.script, paths, settings), strict=True))
    back = direction_of(steps[0]) == "downgrade"
    findings = against(context.script, settings, judged, back=back)
    if beside is not None:
        findings += graph.edited(context.script, settings, beside, version_table(context.get_context()), heads)
    refuse(findings, f"correct what they name, then {repeat_of(context)}")
    return judged


def against(script: Any, settings: Settings, judged: dict[str, Judged], *, back: bool) -> list[Finding]:
    """What stands in the files against these revisions, in the direction in which they are to go."""
    findings = [finding for one in judged.values() for finding in one.findings]
    if back:
        return findings + _one_way(judged)
    return findings + (unknown(script, judged) if settings.rules.stored else [])


def version_table(migration: MigrationContext) -> str:
    """The version table as the guard's run rows name it."""
    return ".".join(filter(None, (migration.version_table_schema, migration.version_table)))


def version(engine: Engine, before: Session, migration: MigrationContext) -> tuple[str, ...]:
    """The heads as a fresh connection finds them: what is final. A caller's search_path says which table is meant."""
    import sqlalchemy as sa

    from mcp_planner_schema.guard import connect, session

    table = sa.table(migration.version_table, sa.column("version_num"), schema=migration.version_table_schema)
    with connect.opened(engine) as fresh:
        session.restore(fresh, before)
        return tuple(sorted(fresh.scalars(sa.select(table.c.version_num))))


def repeat_of(context: Any) -> str:
    """The command the person typed, to be printed where it is to be typed again; a relative destination made absolute."""
    given = options_of(context).get("guard_repeat") or context.config.attributes.get("repeat")
    if given:
        return str(given)
    arguments = sys.argv[1:] if context.config.cmd_opts is not None else []
    if not arguments:
        return "the same call again"
    from mcp_planner_schema.guard import connect

    return connect.masked(" ".join(["alembic", *arguments]), None)


def unknown(script: Any, judged: dict[str, Judged]) -> list[Finding]:
    """Revisions of which nobody has stored what they change in the catalog, in a history that has that."""
    from mcp_planner_schema.guard.fingerprint import stored

    if not stored.place(script.dir).exists():
        return []
    there = stored.fingerprints(script.dir)
    return [
        Finding("fingerprint-missing", f"{source_of(one)}:1", revision, {"revision": revision})
        for revision, one in judged.items()
        if revision not in there or not stored.catalog_place(script.dir, revision).exists()
    ]


def source_of(one: Judged) -> str:
    """How the file of a revision is shown."""
    from mcp_planner_schema.guard import source

    return one.source.shown if one.source else source.shown(one.path)


def _one_way(judged: dict[str, Judged]) -> list[Finding]:
    """Forward-only revisions among those to be taken back: the whole downgrade is refused before the first of them."""
    return [
        Finding("forward-only", f"{one.source.shown}:1", revision,
                {"revision": revision, "reason": one.header.reason, "above": revision})
        for revision, one in judged.items()
        if one.header and one.source and one.header.reversible == "forward-only"
    ]  # fmt: skip
