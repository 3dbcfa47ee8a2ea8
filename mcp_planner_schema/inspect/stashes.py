"""What downgrades have kept: a list of the stashes, and everything about one of them. Reads only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard import manifest
from mcp_planner_schema.inspect import status

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy import Connection

    from mcp_planner_schema.guard.manifest import Object, Stash
    from mcp_planner_schema.guard.settings import Settings

# Nobody has counted the rows of a moved table; ANALYZE has looked at some of them.
_TOTALS = """
SELECT o.stash_id, pg_catalog.count(*), coalesce(pg_catalog.sum(o.row_count), 0)::bigint,
       coalesce(pg_catalog.sum(o.bytes), 0)::bigint, coalesce(pg_catalog.sum(c.reltuples), 0)::bigint
FROM {schema}.stash_object o JOIN {schema}.stash s ON s.id = o.stash_id
LEFT JOIN pg_catalog.pg_class c ON o.moved AND o.row_count IS NULL AND c.reltuples >= 0 AND c.oid = pg_catalog.to_regclass(
  pg_catalog.quote_ident(s.kept_in) || '.' || pg_catalog.quote_ident(o.relation))
GROUP BY o.stash_id
"""
_COUNTS = "SELECT number, row_count FROM {schema}.stash_object WHERE stash_id = %s"
_HEAD = ("id", "revision", "when", "by", "objects", "rows", "size", "state", "kept until", "why")
_RIGHT = {"id", "objects", "rows", "size"}


def listed(config: Config) -> list[dict[str, Any]]:
    """A row for each stash, newest first, purged ones too."""
    with status.connected(config) as (connection, given):
        if not manifest.exists(connection, given.schema):
            return []
        found = manifest.read(connection, given.schema)
        totals = {row[0]: row[1:] for row in connection.exec_driver_sql(_TOTALS.format(schema=given.schema))}
        return [_as_row(stash, given, totals.get(stash.id, (0, 0, 0, 0))) for stash in found]


def listed_text(rows: list[dict[str, Any]]) -> str:
    """One aligned line a stash, for people."""
    if not rows:
        return "no stash: no downgrade has destroyed anything yet"
    lines = [_HEAD, *(_cells(row) for row in rows)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(_HEAD))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if head in _RIGHT else cell.ljust(width)
            for cell, width, head in zip(line, widths, _HEAD, strict=True)
        ).rstrip()
        for line in lines
    )


def shown(config: Config, number: int) -> dict[str, Any]:
    """Everything the manifest knows of one stash. Raises :class:`WrongUse` where there is none."""
    with status.connected(config) as (connection, given):
        stash = manifest.find(connection, given.schema, number)
        counts: dict[int, int | None] = {
            row[0]: row[1] for row in connection.exec_driver_sql(_COUNTS.format(schema=given.schema), (number,))
        }
        guessed = {
            one.number: manifest.about(connection, stash.kept_in, one)
            for one in stash.objects
            if one.moved and counts.get(one.number) is None
        }
        sums = [sum(count or 0 for count in found.values()) for found in (counts, guessed)]
        size = sum(one.bytes or 0 for one in stash.objects)
        row = _as_row(stash, given, (len(stash.objects), sums[0], size, sums[1]))
        algorithms = _algorithms(connection, given.schema, number)
        return {
            **row, "archive": stash.archive, "archive_sha256": stash.archive_sha256,
            "went": [list(line) for line in stash.went],
            "rights": {one.shown: [_granted(*grant) for grant in one.grants] for one in stash.rights},
            "contents": [
                {
                    **_as_object(stash, one, counts.get(one.number), algorithms.get(one.number)),
                    "about_rows": guessed.get(one.number),
                    "set_aside": manifest.set_aside(connection, stash.kept_in, one),
                }
                for one in stash.objects
            ],
        }  # fmt: skip


def shown_text(found: dict[str, Any]) -> str:
    """The same for people."""
    lines = [
        f"stash {found['id']}: revision {found['revision']}, {found['state']}, in schema {found['kept_in']}",
        f"kept       {found['kept_at']} by {found['who']}" + (f": {_line(found['why'])}" if found["why"] else ""),
        f"until      {found['keep_until']}",
        f"holds      {found['objects']} objects, {_rows(found)} rows, {_size(found['bytes'])}",
        f"archive    {found['archive'] or 'none'}"
        + (f"  sha256 {found['archive_sha256']}" if found["archive"] else ""),
    ]
    for name, grants in found["rights"].items():
        lines.append(f"rights     on {name}: {', '.join(grants) or 'of its owner only'}")
    for one in found["contents"]:
        lines += ["", f"{one['number']}. {one['object']}  ({one['kind']}{', moved' if one['moved'] else ''})"]
        told = {
            "lies in": one["lies_in"],
            "rows": one["rows"] if one["about_rows"] is None else f"about {one['about_rows']}",
            "size": None if one["bytes"] is None else _size(one["bytes"]),
            "columns": ", ".join(f"{name} {kind}" for name, kind in one["columns"].items()) or None,
            "key": ", ".join(one["key"]) or None,
            "checksum": one["checksum"] and f"{one['checksum'][0]} {one['checksum'][1]}  ({one['algorithm']})",
            "stood at": one["last_value"],
            "set aside": ", ".join(one["set_aside"]) or None,
            "went back": one["restored_rows"],
            "left here": one["left_rows"],
            "rights": ", ".join(one["rights"]) or None,
        }
        lines += [f"   {name:<9} {value}" for name, value in told.items() if value is not None]
        if one["definition"]:
            lines += ["   as it was:", *(f"      {line}" for line in one["definition"].splitlines())]
    if found["went"]:
        lines += ["", "what the catalog said of all else that went:"]
    for kind, name, text in found["went"]:
        lines += [f"   {kind} {name}", *(f"      {line}" for line in text.splitlines())]
    return "\n".join(lines)


def waiting(connection: Connection, schema: str) -> dict[str, Any] | None:
    """How many stashes wait to be given back, their rows, and since when the oldest of them does; None where none does."""
    if not manifest.exists(connection, schema):
        return None
    row = connection.exec_driver_sql(
        "SELECT pg_catalog.count(DISTINCT s.id), coalesce(pg_catalog.sum(coalesce(o.left_rows, o.row_count)), 0)::bigint, "
        f"pg_catalog.min(s.kept_at)::date::text FROM {schema}.stash s LEFT JOIN {schema}.stash_object o ON o.stash_id = s.id "
        "WHERE s.state IN ('kept', 'partly restored')"
    ).one()
    return {"count": row[0], "rows": row[1], "oldest": row[2]} if row[0] else None


def _as_row(stash: Stash, given: Settings, totals: Any) -> dict[str, Any]:
    until = stash.kept_until(given.stash_retention)
    return {
        "id": stash.id, "revision": stash.revision, "kept_at": f"{stash.kept_at:%Y-%m-%d %H:%M:%S%z}", "who": stash.who,
        "why": stash.why, "objects": totals[0], "rows": totals[1], "about_rows": totals[3], "bytes": totals[2],
        "state": stash.state,
        "keep_until": f"{until:%Y-%m-%d %H:%M:%S%z}", "kept_in": stash.kept_in,
    }  # fmt: skip


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    return (
        str(row["id"]), row["revision"], row["kept_at"][:16], row["who"], str(row["objects"]), _rows(row),
        _size(row["bytes"]), row["state"], row["keep_until"][:10], _line(row["why"]),
    )  # fmt: skip


def _granted(to: str, privilege: str, grantable: bool) -> str:
    return f"{privilege} to {to or 'PUBLIC'}{' with grant option' if grantable else ''}"


def _as_object(stash: Stash, one: Object, rows: int | None, algorithm: str | None) -> dict[str, Any]:
    sums = one.checksum
    return {
        "number": one.number, "kind": one.kind, "object": one.shown, "schema": one.schema, "name": one.name,
        "lies_in": f"{stash.kept_in}.{one.relation}" if one.relation and stash.state != "purged" else None,
        "moved": one.moved, "columns": dict(zip(one.columns, one.types, strict=False)), "lost_columns": list(one.lost),
        "key": list(one.key), "rows": rows, "bytes": one.bytes,
        # As text: the sums are greater than what JSON's readers hold exactly.
        "checksum": [str(sums.sum_0), str(sums.sum_1)] if sums else None, "algorithm": algorithm,
        "last_value": one.last_value, "restored_rows": one.restored, "left_rows": one.left, "definition": one.definition,
        "rights": [_granted(*grant) for grant in one.grants],
    }  # fmt: skip


def _algorithms(connection: Connection, schema: str, number: int) -> dict[int, str | None]:
    rows = connection.exec_driver_sql(
        f"SELECT number, algorithm FROM {schema}.stash_object WHERE stash_id = %s", (number,)
    )
    return {row[0]: row[1] for row in rows}


def _rows(row: dict[str, Any]) -> str:
    """The rows that were counted, and those of moved tables as far as they are known."""
    return f"about {row['rows'] + row['about_rows']}" if row["about_rows"] else str(row["rows"])


def _line(text: str | None) -> str:
    return " ".join((text or "").split())


def _size(count: int) -> str:
    size, units = float(count), iter(("kB", "MB", "GB", "TB"))
    unit = "bytes"
    while size >= 1024 and (larger := next(units, None)):
        size, unit = size / 1024, larger
    return f"{size:.0f} {unit}" if unit == "bytes" or size >= 10 else f"{size:.1f} {unit}"
