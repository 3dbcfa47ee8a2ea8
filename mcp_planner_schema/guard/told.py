"""What became of a stash's objects, written down for the manifest and told to people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mcp_planner_schema.guard import checksum, evidence, flow, manifest, sequences, silence, write_back
from mcp_planner_schema.guard.back import Back
from mcp_planner_schema.guard.evidence import Table
from mcp_planner_schema.guard.manifest import Object
from mcp_planner_schema.guard.refill import Filled

if TYPE_CHECKING:
    from sqlalchemy import Connection


def of_object(connection: Connection, back: Back, one: Object, table: Table | None) -> list[str]:
    """Write what became of one object; ``table`` is the one its rows belong to, None where it is not there."""
    filled = back.filled.get(one.number)
    if filled and filled.swapped:
        manifest.emptied(connection, back.schema, back.stash.id, one.number)
        return [f"restored {one.shown}: moved back", *_displaced(one, filled)]
    kept = one.checksum.rows if one.checksum else write_back.count(connection, back.stash.place(one))
    if table is None:
        stay = kept if one.left is None else one.left
        manifest.mark_object(connection, back.schema, back.stash.id, one.number, one.restored or 0, stay)
        return (
            [f"not restored {one.shown}: it is not there; {stay} rows stay in {back.stash.place(one)}"] if stay else []
        )
    assert filled is not None
    manifest.mark_object(connection, back.schema, back.stash.id, one.number, kept - filled.left, filled.left)
    back_now = min(filled.written, kept - filled.left) if back.anyway or back.newer(one) else kept - filled.left
    nothing = ", nothing more to give back" if back.anyway and not filled.written else ""
    lines = [f"restored {one.shown}: {back_now} rows{nothing}"] if kept or one.kind != "rows" or one.lost else []
    looked = min(filled.written - filled.removed, back_now)
    unwritten = flow.into(connection, back.flow, table.oid) is None  # not even a seed
    if one.kind == "table" and looked > 0 and back.sources and one.read and (back.newer(one) or unwritten):
        lines.append(
            f"look at {looked} of these rows: the upgrade itself has not written them. The downgrade has read "
            f"{one.name}, and others have written since to what it wrote: they may have changed or deleted there what it had "
            "made of them"
        )
    lines += _displaced(one, filled)
    if filled.removed:
        place = filled.inserted or filled.aside
        where = f"; they are in {place}, to be looked at before it is dropped" if place else ""
        lines.append(
            f"removed {filled.removed} rows of {one.name} that the upgrade made and that were not there before{where}"
        )
    if filled.stay:
        lines.append(
            f"new: {filled.stay} rows of {one.name} that were not there before stay: others refer to them, they may be made of "
            "what was written since, or the kept ones could not come back"
        )
    if fresh := _fresh(connection, back, one, table):
        lines.append(
            f"new: {fresh} rows of {one.name} that were not there before stay: the upgrade made them of what was written since, "
            "or the revision was changed"
        )
    if filled.missing:
        lines.append(
            f"not restored column {', '.join(filled.missing)} of {one.name}: it is not there, or of another type"
        )
    return lines + _left(back.stash.place(one), filled)


def _fresh(connection: Connection, back: Back, one: Object, table: Table) -> int:
    if one.number not in back.fresh:
        return 0
    with checksum.reading(connection), silence.unveiled(connection, table.oid, evidence.name_of(table)):
        return write_back.count(connection, f"{evidence.rows_of(table)} AS l WHERE {back.fresh[one.number]}")


def computed_without(connection: Connection, back: Back, written: Mapping[int, int]) -> list[str]:
    """What a body has written to tables that stay while kept rows were out: what it computed of those, nobody has looked at.

    ``written`` are rows by table, by OID, those among them that were given back.
    """
    tables = evidence.snapshot(connection, back.schema)
    given: dict[tuple[str, str], int] = {}
    for one in back.rows():
        given[one.schema, one.name] = back.filled[one.number].written if one.number in back.filled else 0
    found = [tables[oid] for oid in sorted(written.keys() & tables.keys() & back.already)]
    names = [table.shown for table in found if written[table.oid] > given.get((table.schema, table.name), 0)]
    out = [one.name for one in back.rows() if one.kind == "table"]
    if back.afterwards > 1:
        out += [f"{one.name}.{name}" for one in back.rows() for name in one.lost]
    return [
        f"warning: {name} was written while the rows of {', '.join(out)} were out: what the upgrade has computed of those it has "
        f"computed of its own rows alone, as the first time. Look at what it has filled in {name} for rows that are new"
        for name in names
    ]


def unkeyed(back: Back) -> list[str]:
    """Tables whose new rows have other keys than the kept ones, though kept values may refer to them."""
    return [
        f"warning: the rows of {one.name} could not get the keys that they had; look at what refers to them, for a number that "
        f"came back may mean another row now (what it meant: make migrate-stash-show ID={back.stash.id})"
        for one in back.unkeyed.values()
    ]


def _left(place: str, filled: Filled) -> list[str]:
    """One line for each reason why rows stay in the stash."""
    other = filled.left - filled.gone - filled.barred - filled.older
    reasons = [
        (other, "newer ones are in their place, or the upgrade's own, or a constraint lets them in no more"),
        (filled.gone, "deleted since, and not brought back"),
        (filled.barred, "what they refer to is gone, or another row has what only one may have"),
        (filled.older, "whom they belong to has newer ones (make migrate-restore puts them in beside those)"),
    ]
    if filled.why:
        reasons = [(filled.left - filled.gone, filled.why), reasons[1]]
    return [f"left: {rows} rows stay in {place}: {why}" for rows, why in reasons if rows]


def _displaced(one: Object, filled: Filled) -> list[str]:
    written = f"{filled.displaced} rows of {one.name} that the upgrade had written"
    return [f"replaced: {written}; they are in {filled.aside}"] if filled.displaced else []


def of_sequences(connection: Connection, back: Back, *, dry: bool) -> list[str]:
    """Set each kept sequence to the greater of what it was and what it is; ``dry`` only says which would be missing."""
    wanted = [one for one in back.stash.objects if one.kind == "sequence"]
    now = {(one.schema, one.name): one for one in sequences.states(connection, back.schema).values()} if wanted else {}
    lines = []
    for one in wanted:
        found = now.get((one.schema, one.name))
        if found is None:
            lines.append(f"not restored {one.shown}: it is not there; it stood at {one.last_value}")
            continue
        assert one.last_value is not None
        assert one.is_called is not None
        was = sequences.Sequence(0, one.schema, one.name, 0, "", found.rising, one.last_value, one.is_called)
        if found.behind(was) and not dry:
            sequences.advance(connection, one.schema, one.name, one.last_value, one.is_called)
    return lines


def not_again(connection: Connection, back: Back) -> list[str]:
    """What went along with the downgrade and has not come back with the upgrade: for people, nothing here is run."""
    wanted = [one.name for one in back.stash.objects if one.kind == "definition"]
    if not wanted:
        return []
    tables = evidence.snapshot(connection, back.schema)
    there = {
        f"{shown} of {tables[table].shown}" if table in tables else shown
        for shown, table in evidence.beside(connection).values()
    }
    return [
        f"not there again: {shown} (its definition: make migrate-stash-show ID={back.stash.id})"
        for shown in wanted
        if shown not in there
    ]
