"""Which kept rows and values have not gone back yet: from the second time on, only these are given back.

A row that went back and was deleted since stays deleted, and a value that was emptied since stays empty. A list of hashes of
keys beside the copy, which itself stays whole and proven by its checksums: what is put back is read from there only. Without a
key nobody can tell.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mcp_planner_schema.guard import checksum, manifest
from mcp_planner_schema.guard.manifest import Object, Stash
from mcp_planner_schema.guard.postcheck import execute, identifier, literal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

    from mcp_planner_schema.guard.refill import Filled

ROW = ""
"""What is left of a kept row: itself, or what it was changed from. A lost column's value has the column's name."""

_OWNER = """
SELECT pg_catalog.quote_ident(r.rolname), r.rolname = current_user
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_roles r ON r.oid = c.relowner WHERE c.oid = pg_catalog.to_regclass(%s)::oid
"""


@dataclass(frozen=True)
class Left:
    """What of an object may still go back. ``listed`` is the list, quoted; None before some has gone back and some not."""

    key: tuple[str, ...]
    listed: str | None = None

    def of(self, part: str) -> str:
        """SQL: that this part of the kept row ``c`` may go back. To be sent with :data:`checksum.OUTPUT` pinned."""
        if self.listed is None:
            return "true"
        same = f"w.part = {literal(part)} AND w.hash = {_hash(self.key)}"
        return f"EXISTS (SELECT FROM {self.listed} AS w WHERE {same})"


def relation(one: Object) -> str:
    """What an object's list is called, in the stash's own schema."""
    return f"guard:left_{one.number}"


def read(connection: Connection, stash: Stash, one: Object) -> Left:
    """What of an object may go back: whatever is on its list, if there is one and the manifest says that some has been back."""
    listed = _place(stash, one)
    return Left(one.key, listed if one.left is not None and _is_there(connection, listed) else None)


def note(connection: Connection, stash: Stash, one: Object, filled: Filled, *, given: bool) -> None:
    """List what is left in place of what was, part by part.

    Nothing has to be told apart where nothing was ``given`` back yet, and where no key tells the rows the list stays as it is.
    Reads the copy once for each part. To be called with :data:`checksum.OUTPUT` pinned.
    """
    listed = _place(stash, one)
    before = _is_there(connection, listed)
    if filled.left and filled.which and (given or before):
        rows = f"FROM {stash.place(one)} AS c WHERE"
        parts = [
            f"SELECT {literal(part)}, {_hash(one.key)} {rows} {condition}" for part, condition in filled.which.items()
        ]
        _write(connection, stash, one, parts)
    elif before and not filled.left:
        execute(connection, f"DROP TABLE {listed}")


def hand_over(connection: Connection, schema: str, old: Stash, new: Stash) -> None:
    """What an archive has of a stash is not more than what was left of that, and what it gives is not the old one's any more."""
    for one in new.objects:
        before = next((was for was in old.objects if was.number == one.number), None)
        if not before or not before.relation or not one.relation or not one.key:
            continue
        listed, copy = read(connection, old, before).listed, old.place(before)
        if listed:
            _write(connection, new, one, [f"SELECT w.part, w.hash FROM {listed} AS w"])
            manifest.mark_object(connection, schema, new.id, one.number, before.restored or 0, before.left or 0)
        if before.kind == one.kind:
            if listed:
                execute(connection, f"DROP TABLE {listed}")
        elif listed or _is_there(connection, copy):
            # Changed rows stay in the old one, the values are the new one's to give.
            rows = f"SELECT w.part, w.hash FROM {listed} AS w WHERE w.part = {literal(ROW)}"
            every = f"SELECT {literal(ROW)}, {_hash(before.key)} FROM {copy} AS c"
            _write(connection, old, before, [rows if listed else every])
            if not listed:
                kept = before.checksum.rows if before.checksum else 0
                manifest.mark_object(connection, schema, old.id, before.number, 0, kept)


def _write(connection: Connection, stash: Stash, one: Object, parts: Sequence[str]) -> None:
    """Make the list anew of what these queries give, in place of the one that there is: they may ask that."""
    listed = _place(stash, one)
    anew = f"{identifier(stash.kept_in)}.{identifier(relation(one) + '_anew')}"
    execute(connection, f"CREATE TABLE {anew} (part text NOT NULL, hash bigint NOT NULL)")
    with checksum.reading(connection):
        for part in parts:
            execute(connection, f"INSERT INTO {anew} {part}")
    owner, own = connection.exec_driver_sql(_OWNER, (stash.place(one),)).one()
    if not own:
        execute(connection, f"ALTER TABLE {anew} OWNER TO {owner}")
    if _is_there(connection, listed):
        execute(connection, f"DROP TABLE {listed}")
    execute(connection, f"ALTER TABLE {anew} RENAME TO {identifier(relation(one))}")
    execute(connection, f"CREATE INDEX {identifier(relation(one) + '_key')} ON {listed} (part, hash)")


def _place(stash: Stash, one: Object) -> str:
    return f"{identifier(stash.kept_in)}.{identifier(relation(one))}"


def _hash(key: tuple[str, ...]) -> str:
    return checksum.row_hash(sorted(key), "c")


def _is_there(connection: Connection, name: str) -> bool:
    # A table: reading a view would run what somebody has written.
    asked = "SELECT relkind = 'r' FROM pg_catalog.pg_class WHERE oid = pg_catalog.to_regclass(%s)::oid"
    return bool(connection.exec_driver_sql(asked, (name,)).scalar())
