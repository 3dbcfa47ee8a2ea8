"""What the pending revisions are known to touch: their locks, what they change in the catalog, and their text.

Two committed files say it, both found by running the revision on a scratch database: ``alembic/locks/NNN.json`` and
``alembic/catalog/NNN.json``. Nothing in them is believed to be true of this database: names are looked for in its catalogs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mcp_planner_schema.guard import stored_locks
from mcp_planner_schema.guard.fingerprint import stored as fingerprints
from mcp_planner_schema.guard.fingerprint.line import Line

if TYPE_CHECKING:
    from mcp_planner_schema.guard.judge import Judged

# What may write rows: statements, but not ON DELETE CASCADE, AFTER UPDATE or FOR UPDATE; SQLAlchemy's; operations of ours.
_WRITES = re.compile(
    r"(?<!ON )(?<!OR )(?<!AFTER )(?<!BEFORE )(?<!FOR )\b"
    r"(UPDATE\s+(?!OF\b|ON\b)\S+|DELETE\s+FROM|INSERT\s+INTO|MERGE\s+INTO|TRUNCATE)\b"
    r"|\.(update|delete|insert)\(|\b(bulk_insert|backfill|run_script|fill_\w+|set_not_null_concurrently)\b",
    re.IGNORECASE,
)
_NAME = r'(?:"(?:[^"]|"")+"|[a-z_][a-z0-9_$]*)'
_NAMES = re.compile(_NAME)
_OF_A_TABLE = re.compile(rf" ON (?:ONLY )?({_NAME}\.{_NAME})")
_NEW_EXTENSION = re.compile(r'\bCREATE\s+EXTENSION\s+(?:IF\s+NOT\s+EXISTS\s+)?("?)([\w-]+)\1', re.IGNORECASE)


class Name(NamedTuple):
    """A relation by its parts, unquoted."""

    schema: str
    name: str

    @property
    def shown(self) -> str:
        """As people write it."""
        return self.name if self.schema == "public" else f"{self.schema}.{self.name}"


@dataclass(frozen=True)
class Pending:
    """One step that is going to run. ``come`` and ``gone`` are as it will go, so a downgrade has them the other way round.

    ``traced``: which locks it takes is known. Without that, only what its text says.
    """

    revision: str
    direction: str
    where: str
    text: str
    data: bool
    locks: Mapping[Name, str]
    rewritten: frozenset[Name]
    come: tuple[Line, ...]
    gone: tuple[Line, ...]
    traced: bool

    def names(self, word: str) -> bool:
        """Whether the revision's source, or one of its SQL files, has this name in it."""
        return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", self.text) is not None

    def writes(self, table: str) -> bool:
        """Whether it may write rows of the table, as far as its text says: rows that break a rule now may be right by then."""
        return (self.data or _WRITES.search(self.text) is not None) and self.names(table)

    @cached_property
    def changed(self) -> frozenset[Name]:
        """The tables that it changes something about, as far as the catalog shows it. They may be its own."""
        return frozenset(found for line in (*self.come, *self.gone) if (found := table_of(line)))

    @property
    def extensions(self) -> frozenset[str]:
        """The extensions that it creates."""
        told = {parts(line.identity)[0] for line in self.come if line.kind == "extension"}
        named = {name for _, name in _NEW_EXTENSION.findall(self.text)} if self.direction == "upgrade" else set()
        return frozenset(told | named)


def of(folder: str | Path, revision: str, direction: str, judged: Judged | None) -> Pending:
    """What is known of one step. Raises :class:`WrongUse` for a catalog file that cannot be read."""
    found = stored_locks.found(folder, revision, direction)
    delta = fingerprints.delta(folder, revision)
    come, gone = (tuple(sorted(lines)) for lines in delta or ((), ()))
    text = "\n".join([judged.source.text, *filter(None, judged.sql.values())]) if judged and judged.source else ""
    return Pending(
        revision, direction, judged.source.shown if judged and judged.source else revision, text,
        bool(judged and judged.header and judged.header.type == "data"),
        {named(table): mode for table, mode in found.locks.items()} if found else {},
        frozenset(map(named, found.rewritten)) if found else frozenset(),
        *((come, gone) if direction == "upgrade" else (gone, come)), found is not None,
    )  # fmt: skip


def named(table: str) -> Name:
    """``schema.name`` as the lock file has it, unquoted."""
    schema, _, name = table.partition(".")
    return Name(schema, name) if name else Name("public", schema)


def parts(identity: str) -> list[str]:
    """The parts of a quoted name, unquoted: ``public."Odd.Name".x`` has three."""
    return [unquoted(one) for one in _NAMES.findall(identity)]


def unquoted(name: str) -> str:
    """What is meant by one quoted or plain identifier."""
    return name[1:-1].replace('""', '"') if name.startswith('"') else name


def table_of(line: Line) -> Name | None:
    """The table that a line of the catalog belongs to; None for what belongs to none."""
    if line.kind == "index":
        on = _OF_A_TABLE.search(line.definition)
        return Name(*parts(on[1])) if on else None
    if line.kind in ("table", "column", "constraint", "trigger", "policy", "rule"):
        found = parts(line.identity)
        return Name(*found[:2]) if len(found) >= 2 else None
    return None


def all_tables(steps: Iterable[Pending]) -> set[Name]:
    """Every table that the steps are known to lock or change; they need not exist."""
    return {name for step in steps for name in (*step.locks, *step.rewritten, *step.changed)}
