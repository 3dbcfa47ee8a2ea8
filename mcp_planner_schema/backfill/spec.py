"""What a backfill is asked to do: one frozen value."""

from __future__ import annotations

import hashlib
import shlex
from dataclasses import dataclass

TABLE = "filled"
"""The name that a row of the table has in ``assignments`` and ``where``."""

BATCH = "batch"
"""The name that the rows of one batch have in ``statement``."""


@dataclass(frozen=True)
class Backfill:
    """``UPDATE table SET assignments WHERE where``, or ``statement`` over the rows of each batch; all of it is SQL.

    ``name`` tells it from the revision's others. ``verify`` is a query whose only value must be 0 when all rows are done.
    ``most`` are the rows that a batch has at most. ``repeatable``: a row that has been written does not meet ``where``, so the
    table may be gone through again when it was done before. ``in_order``: one session takes them, from the least key on.
    """

    name: str
    assignments: str = ""
    where: str = "true"
    statement: str = ""
    verify: str = ""
    most: int = 50_000
    repeatable: bool = False
    in_order: bool = False

    def digest(self, target: str) -> str:
        """Tells this from another one of the same name; not by how large its batches are."""
        told = "\0".join((target, self.assignments, self.where, self.statement))
        return hashlib.sha256(told.encode()).hexdigest()


def typed(action: str, name: str) -> str:
    """What somebody types who wants something of the backfill of this name: ``pause``, ``resume`` or ``stop``."""
    return f"make backfill-{action} NAME={shlex.quote(name)}"
