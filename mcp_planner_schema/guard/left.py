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
    """What of an object may go back: whatever is on its list, if there is one."""
    return Left(one.key, listed if _is_there(connection, listed := _place(stash, one)) else None)


def note(connection: Connection, stash: Stash, one: Object, filled: Filled, *, given: bool) -> None:
    """List what is left in place of what was, part by part.

    Nothing has to be told apart where nothing was ``given`` back yet, and where no key tells the rows the list stays as it is.
    Reads the copy once for each part. To be called with :data:`checksum.OUTPUT` pinned.
    """
    listed = _place(stash, one)
    before = _is_there(connection, listed)
    if filled.left and filled.which and (given or before):
        # The conditions ask the list that there is.
        anew = f"{identifier(stash.kept_in)}.{identifier(relation(one) + '_anew')}"
        execute(connection, f"CREATE TABLE {anew} (part text NOT NULL, hash bigint NOT NULL)")
        for part, condition in filled.which.items():
            kept = f"SELECT {literal(part)}, {_hash(one.key)} FROM {stash.place(one)} AS c WHERE {condition}"
            execute(connection, f"INSERT INTO {anew} {kept}")
        owner, own = connection.exec_driver_sql(_OWNER, (stash.place(one),)).one()
        if not own:
            execute(connection, f"ALTER TABLE {anew} OWNER TO {owner}")
        if before:
            execute(connection, f"DROP TABLE {listed}")
        execute(connection, f"ALTER TABLE {anew} RENAME TO {identifier(relation(one))}")
        execute(connection, f"CREATE INDEX {identifier(relation(one) + '_key')} ON {listed} (part, hash)")
    elif before and not filled.left:
        execute(connection, f"DROP TABLE {listed}")


def hand_over(connection: Connection, schema: str, old: Stash, new: Stash) -> None:
    """What an archive has of a stash is not more than what was left of that."""
    for one in new.objects:
        before = next((was for was in old.objects if was.number == one.number), None)
        if before and before.relation and one.relation and _is_there(connection, listed := _place(old, before)):
            execute(connection, f"CREATE TABLE {_place(new, one)} AS TABLE {listed}")
            manifest.mark_object(connection, schema, new.id, one.number, before.restored or 0, before.left or 0)
            if before.kind != one.kind:  # changed rows stay in the old one, and the values are the new one's to give
                execute(connection, f"DELETE FROM {listed} WHERE part <> {literal(ROW)}")


def _place(stash: Stash, one: Object) -> str:
    return f"{identifier(stash.kept_in)}.{identifier(relation(one))}"


def _hash(key: tuple[str, ...]) -> str:
    return checksum.row_hash(sorted(key), "c")


def _is_there(connection: Connection, name: str) -> bool:
    # A table: reading a view would run what somebody has written.
    asked = "SELECT relkind = 'r' FROM pg_catalog.pg_class WHERE oid = pg_catalog.to_regclass(%s)::oid"
    return bool(connection.exec_driver_sql(asked, (name,)).scalar())
