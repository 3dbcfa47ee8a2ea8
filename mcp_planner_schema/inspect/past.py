"""What the statements judged so far have done, as far as it decides about the next one."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from mcp_planner_schema.inspect import column_rules
from mcp_planner_schema.inspect.sql_reader import Action
from mcp_planner_schema.inspect.statements import Sent

_READS = {"unique", "primary key", "exclude", "foreign key", "check", "not null", "type"}
# What takes a lock on a table in use that stops its writers or readers.
_STRONG = frozenset(
    {
        "column added", "column dropped", "constraint dropped", "type", "not null", "null", "default", "expression",
        "column renamed", "table renamed", "attach", "detach", "rewrite", "trigger switched", "unique", "primary key",
        "exclude", "foreign key", "check", "index", "truncate", "table dropped", "lock", "inherit",
    }
)  # fmt: skip


@dataclass
class Past:
    """What the revisions judged so far, and this one, have done. ``fresh`` is what they made: tables, functions, types.

    ``proven`` are columns that a validated check has shown to hold no null, by table; ``pending`` the checks that would;
    ``validated`` the tables of which some check was validated apart.
    ``strong``, ``reading`` and ``gone`` (views) belong to the running transaction, and so does ``later``: what it makes after
    this statement too.
    """

    contract: bool = False
    fresh: set[str] = field(default_factory=set)
    indexed: set[tuple[str, str]] = field(default_factory=set)
    added: set[tuple[str, str]] = field(default_factory=set)
    proven: set[tuple[str, str]] = field(default_factory=set)
    pending: dict[tuple[str, str], tuple[str, str]] = field(default_factory=dict)
    validated: set[str] = field(default_factory=set)
    transaction: int = 0
    strong: list[str] = field(default_factory=list)
    reading: list[str] = field(default_factory=list)
    gone: set[str] = field(default_factory=set)
    later: set[str] = field(default_factory=set)

    def begin(self, sent: Sent) -> None:
        """Another transaction begins, or a statement that is one by itself."""
        if sent.transaction != self.transaction or not sent.transaction:
            self.transaction, self.strong, self.reading, self.gone = sent.transaction, [], [], set()

    def used(self, table: str) -> bool:
        """Whether somebody may be using the table: it was there before these revisions."""
        return bool(table) and table not in self.fresh

    def note(self, action: Action) -> None:
        """Remember what it did, after it was judged."""
        table = action.table
        if action.kind in ("table", "created") or (
            action.kind == "table renamed" and table in self.fresh and action.name
        ):
            self.fresh.add(action.name)
        elif action.kind in ("index", "unique", "primary key") and action.columns:
            self.indexed.add((table, action.columns[0]))
        elif action.kind == "object dropped":
            self.gone.add(action.name)
        elif action.kind == "column added":
            self.added.add((table, action.columns[0]))
        elif action.kind == "check" and (column := _not_null_check(action)):
            self.pending[table, action.name] = (table, column)
            if not action.says("NOT", "VALID"):
                self.proven.add((table, column))
        elif action.kind == "validate":
            self.validated.add(table)
            self.proven |= {self.pending[table, action.name]} if (table, action.name) in self.pending else set()
        elif action.kind == "not null" and action.says("NOT", "VALID"):
            self.pending[table, action.name] = (table, action.columns[0])
        elif action.kind == "not null":
            self.proven.add((table, action.columns[0]))
        if action.kind in _STRONG and self.used(table) and not _gentle(action):
            self.strong.append(table)
        if _reads(action) and self.used(table):
            self.reading.append(table)


def _reads(action: Action) -> bool:
    """Whether it is an action of ALTER TABLE that goes through the whole table, as far as its words tell."""
    if action.kind == "column added":
        return column_rules.rewrites(action)
    return action.kind in _READS and not action.says("NOT", "VALID") and not action.says("USING", "INDEX")


def _gentle(action: Action) -> bool:
    return "CONCURRENTLY" in action.words or action.says("CONCURRENTLY")


def _not_null_check(action: Action) -> str:
    text = " ".join(token.text.strip('"').lower() for token in action.rest)
    found = re.match(r"check \(+ ?\(*(\w+) is not null ?\)+", text)
    return found[1] if found else ""
