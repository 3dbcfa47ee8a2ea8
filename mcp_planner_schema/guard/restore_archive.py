"""Gives back what a downgrade destroyed out of its archive: by ``migrate-restore ARCHIVE=``, in one transaction.

The rows become a stash of their own, and that is given back as any other: what cannot go back waits there.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from mcp_planner_schema.guard import alone, archive, connect, history, intact, left, manifest, restore, stash, unpack
from mcp_planner_schema.guard.findings import Finding, Refused, WrongUse
from mcp_planner_schema.guard.manifest import Stash
from mcp_planner_schema.guard.restore_later import WAITING, refused

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from mcp_planner_schema.guard.settings import Budgets

_UNKNOWN = (
    "no manifest here knows this file: nothing but the file itself says what went, so whole tables are given back, and "
    "only rows whose place is free"
)


def give_back(
    here: alone.Alone, revision: str, budgets: Budgets, number: int | None, path: Path, *, dry: bool
) -> list[str]:
    """Take the rows out of the archive and put back those that have a free place. Gives lines for people.

    The file's SHA-256 is held against the manifest of the stash it belongs to: of ``number``, else of whichever names it.
    Raises :class:`Refused` where the file is not the one that was written, or nothing of it can go back.
    """
    digest = archive.digest(path)
    with connect.opened(here.engine) as connection:
        of = _known(connection, here, revision, number, path, digest)
    with archive.restored(here.settings, here.engine, path, digest) as url:
        source = connect.engine(url, "mcp-planner-guard restore from an archive")

        def work(run: int | None) -> Callable[[Connection], list[str]]:
            def back(connection: Connection) -> list[str]:
                with connect.opened(source) as scratch:
                    return _back(here, revision, (path, digest), of, scratch, connection, run)

            return back

        if dry:
            return alone.attempt(here, budgets, work(None), final=False)
        with alone.told(here) as run:
            return alone.attempt(here, budgets, work(run))


def _known(
    connection: Connection, here: alone.Alone, revision: str, number: int | None, path: Path, digest: str
) -> Stash | None:
    """The stash whose archive this is, the newest of several; None where no manifest here knows the file."""
    schema = here.settings.schema
    if number is not None:
        found = [manifest.find(connection, schema, number)]
        if found[0].archive_sha256 != digest:
            raise _other_file(path, found[0], revision)
    elif not manifest.exists(connection, schema):
        return None
    else:
        mine = (here.table.shown, digest)
        found = manifest.read(connection, schema, "s.version_table = %s AND s.archive_sha256 = %s", mine)
        if not found:
            named = "s.version_table = %s AND pg_catalog.regexp_replace(s.archive, '^.*/', '') = %s"
            same_name = manifest.read(connection, schema, named, (here.table.shown, path.name))
            if same_name:
                raise _other_file(path, same_name[0], revision)
            return None
    if found[0].revision != revision:
        raise WrongUse(
            f"{path} is the archive of revision {found[0].revision}, not of {revision}.",
            f"make migrate-restore VERSION={found[0].revision} ARCHIVE={shlex.quote(str(path))}",
        )
    _refuse_given_back(found[0], path)
    return found[0]


def _other_file(path: Path, of: Stash, revision: str) -> Refused:
    had = "its SHA-256 differs" if of.archive_sha256 else "that stash has none"
    values = {
        "problem": f"{path} is not the archive that was written for stash {of.id}: {had}",
        "instead": "take the file that was written then, or a true copy of it; a stash that is whole needs no archive",
    }
    return Refused([Finding("archive-impossible", str(path), revision, values)], f"make migrate-stash-show ID={of.id}")


def _refuse_given_back(of: Stash, path: Path) -> None:
    """What is back already does not come a second time: whoever has deleted it since wanted it gone."""
    waits = [one for one in of.objects if one.relation and one.left != 0]
    if of.state == "restored" or not waits:
        raise refused(
            of.revision, f"all that an archive could give of stash {of.id} is back already, or is another stash by now",
            "see which stashes still wait", "make migrate-stash-list",
        )  # fmt: skip
    if all(one.kind == "rows" and not one.lost for one in waits):
        raise refused(
            of.revision, f"stash {of.id} holds changed rows only, and an archive does not tell which rows a downgrade changed",
            "restore the archive into a database of its own, and compare there",
            f"createdb compare && pg_restore --no-owner --dbname=compare {shlex.quote(str(path))}",
        )  # fmt: skip


def _back(
    here: alone.Alone, revision: str, file: tuple[Path, str], of: Stash | None, scratch: Connection,
    connection: Connection, run: int | None,
) -> list[str]:  # fmt: skip
    """All of it, in the transaction of ``connection``. Without a ``run`` it will be rolled back."""
    schema, who = here.settings.schema, here.origin.who
    number = _begin(here, connection, run)
    place = manifest.schema_of(schema, number[0])
    stash.make_schema(connection, place)
    if of:
        found = unpack.known(scratch, connection, place, of.objects)
        _refuse_older(connection, of, found)
    else:
        found = unpack.whole(scratch, connection, place, schema, here.table.shown)
    if not any(one.relation for one in found.objects):
        raise refused(
            revision, "; ".join(found.lines) or "no table in the archive has rows",
            "take another archive", "make migrate-stash-list",
        )  # fmt: skip
    manifest.write(
        connection, schema, number[0], run=number[1], version_table=here.table.shown, revision=revision, who=who,
        why=f"from the archive {file[0].name}", days=here.settings.stash_retention, objects=found.objects,
        archive=(str(file[0]), file[1]),
    )  # fmt: skip
    if of:
        left.hand_over(connection, schema, of, manifest.find(connection, schema, number[0]))
    made = manifest.find(connection, schema, number[0])
    lines = restore.later(connection, schema, made, who, dry=run is None)
    if of:
        _hand_over(connection, schema, of, manifest.find(connection, schema, made.id), who)
    proven = f"this is the archive of stash {of.id}: its SHA-256 is the manifest's" if of else _UNKNOWN
    return [proven, *found.lines, f"its rows are stash {made.id} now, in {place}", *lines]


def _begin(here: alone.Alone, connection: Connection, run: int | None) -> tuple[int, int]:
    """The numbers of the new stash and of its run; a dry run has a run only until its rollback."""
    schema = here.settings.schema
    if run is None:
        history.prepare(connection, schema)
        run, _ = history.begin(
            connection, schema, here.origin, version_table=here.table.shown, command="", heads=here.heads, planned=0
        )
    return manifest.next_id(connection, schema), run


def _refuse_older(connection: Connection, of: Stash, found: unpack.Unpacked) -> None:
    """An archive is made before the tables are locked: where the stash is whole, it is the one that is exact."""
    if found.differs and of.state != "purged" and not intact.damaged(connection, of):
        raise refused(
            of.revision, f"stash {of.id} is whole, and newer than the archive: others wrote between the two",
            "give the stash itself back", f"make migrate-restore VERSION={of.revision} ID={of.id}",
        )  # fmt: skip


def _hand_over(connection: Connection, schema: str, old: Stash, new: Stash, who: str) -> None:
    """What the new stash holds is no longer the old one's to give, or it would come back twice."""
    given = {one.number: one for one in new.objects if one.relation}
    kept = []
    for one in old.objects:
        there = given.get(one.number)
        # Changed rows stay where they are: the archive has given only the columns that went with them.
        if there and (there.kind == one.kind or old.state == "purged"):
            manifest.mark_object(connection, schema, old.id, one.number, there.restored or 0, 0)
        elif one.relation and one.left != 0:
            kept.append(one)
    if old.state in WAITING:
        manifest.mark(connection, schema, old.id, "partly restored" if kept else "restored", who)
