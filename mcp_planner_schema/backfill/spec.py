"""What a backfill is asked to do: one frozen value."""

from __future__ import annotations

import hashlib
import inspect
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

TABLE = "filled"
"""The name that a row of the table has in ``assignments`` and ``where``."""

BATCH = "batch"
"""The name that the rows of one batch have in ``statement``."""

FENCED = "EXISTS (SELECT FROM fence)"
"""SQL, in the statement of a batch: the range is still the one that this session works on."""


@dataclass(frozen=True)
class Rows:
    """A Python function over the rows of a batch, what it reads of them beside their key, and the columns it gives values for."""

    function: Callable[[Iterator[dict[str, Any]]], Iterable[Mapping[str, Any]]]
    reads: tuple[str, ...]
    writes: tuple[str, ...]

    def told(self) -> str:
        """Tells this function from another one: its source, where it has one."""
        try:
            source = inspect.getsource(self.function)
        except (OSError, TypeError):
            source = getattr(self.function, "__qualname__", type(self.function).__qualname__)
        return "\0".join((source, *self.reads, "", *self.writes))


@dataclass(frozen=True)
class Bypass:
    """Triggers that do not fire for what a batch writes, and why; None are all that are not the system's."""

    triggers: tuple[str, ...] | None
    reason: str

    def means(self, trigger: str) -> bool:
        """Whether this trigger is one of them."""
        return self.triggers is None or trigger in self.triggers

    def __str__(self) -> str:
        return "all user triggers" if self.triggers is None else f"triggers {', '.join(self.triggers)}"


@dataclass(frozen=True)
class Backfill:
    """``UPDATE table SET assignments WHERE where``, or ``statement`` over the rows of each batch; all of it is SQL. Or ``rows``.

    ``name`` tells it from the revision's others. ``verify`` is a query whose only value must be 0 when all rows are done.
    ``most`` are the rows that a batch has at most. ``repeatable``: a row that has been written does not meet ``where``, so the
    table may be gone through again when it was done before. ``in_order``: one session takes them, from the least key on.
    ``keeps`` are the columns whose old values are kept where the revision's header says ``Reversible: stash``.
    """

    name: str
    assignments: str = ""
    where: str = "true"
    statement: str = ""
    verify: str = ""
    most: int = 50_000
    repeatable: bool = False
    in_order: bool = False
    rows: Rows | None = None
    keeps: tuple[str, ...] = ()
    bypass: Bypass | None = None

    def digest(self, target: str) -> str:
        """Tells this from another one of the same name: by what is written, not by which rows or how many at once."""
        told = "\0".join((target, self.assignments, self.statement, *([self.rows.told()] if self.rows else [])))
        return hashlib.sha256(told.encode()).hexdigest()


def typed(action: str, name: str) -> str:
    """What somebody types who wants something of the backfill of this name: ``pause``, ``resume`` or ``stop``."""
    return f"make backfill-{action} NAME={shlex.quote(name)}"
