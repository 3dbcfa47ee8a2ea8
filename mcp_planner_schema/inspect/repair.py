"""The one SQL statement after which an object is again what the revisions have made of it: to be read and typed, never run here.

There is none where rows would be lost (a table, a column), where one statement does not do it, or where its text is too long to
be typed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from mcp_planner_schema.guard.fingerprint import Entry, Line
from mcp_planner_schema.guard.fingerprint.subject import Subject, last
from mcp_planner_schema.guard.postcheck import literal

_LONGEST = 600
# What a definition may end with that is no part of the statement that makes the object.
_STATE = re.compile(r" (invalid|clustered|replica identity|disabled|replica|always|target \d+)$")
_DEFAULT = " default "
_BEHIND_DEFAULT = re.compile(r" (storage|compression|statistics|with \(|options \(|inherited)")
# As COMMENT ON calls what pg_identify_object calls otherwise.
_COMMENTED = {"table column": "column", "view column": "column", "materialized view column": "column",
              "foreign table column": "column", "composite type column": "column", "table constraint": "constraint"}  # fmt: skip


def statements(entries: Iterable[Entry]) -> dict[Entry, str]:
    """For each of these differences the statement that repairs it, where there is one."""
    every = [(one, one.wanted or one.there or _NONE) for one in entries]
    owned = {_index_of(one) for one, line in every if line.kind == "constraint"}
    # A table that is another one itself (a partition no more) has other parts for that reason; a type, other defaults.
    others = {
        one.subject for one, line in every if (line.kind, line.identity) == one.subject and one.wanted and one.there
    }
    types = any(line.kind == "type" for _, line in every)
    found = {}
    for one, line in every:
        # The index of a constraint comes and goes with it.
        if line.kind == "index" and line.identity in owned:
            continue
        if (line.kind == "column" and types) or (one.subject in others and one.subject.kind == "table"):
            continue
        made = _missing(one.subject, line) if one.there is None else _other(one)
        if made and len(made) <= _LONGEST:
            found[one] = made
    return found


_NONE = Line("", "", "")


def _index_of(one: Entry) -> str:
    """What the index of a unique constraint is called: it lies in the schema of the table."""
    line = one.wanted or one.there or _NONE
    schema = one.subject.name.removesuffix(last(one.subject.name))
    return f"{schema}{last(line.identity)}"


def _other(one: Entry) -> str | None:
    assert one.there is not None
    return _unexpected(one.subject, one.there) if one.wanted is None else _differs(one.subject, one.wanted, one.there)


def _missing(subject: Subject, line: Line) -> str | None:
    definition = line.definition
    if line.kind == "comment":
        return _comment(line, literal(definition))
    if _STATE.search(definition):
        return None
    if line.kind == "index":
        return None if " ON ONLY " in definition else definition.replace(" INDEX ", " INDEX CONCURRENTLY ", 1)
    if line.kind == "constraint" and subject.kind == "table" and definition.startswith(("CHECK ", "FOREIGN KEY ")):
        # What is there already is looked at by VALIDATE CONSTRAINT, while others go on writing; the doctor says so next.
        rest = "" if definition.endswith((" NOT VALID", " NOT ENFORCED")) else " NOT VALID"
        return f"ALTER TABLE {subject.name} ADD CONSTRAINT {last(line.identity)} {definition}{rest}"
    # A function or view would come without its comment, and with the rights that PostgreSQL gives: more than one statement.
    return definition if line.kind in ("trigger", "rule", "statistics") and definition.startswith("CREATE ") else None


def _unexpected(subject: Subject, line: Line) -> str | None:
    name = last(line.identity)
    owner = {"type": "DOMAIN"}.get(subject.kind, "TABLE")
    return {
        "index": f"DROP INDEX CONCURRENTLY {line.identity}",
        "constraint": f"ALTER {owner} {subject.name} DROP CONSTRAINT {name}",
        "trigger": f"DROP TRIGGER {name} ON {subject.name}",
        "rule": f"DROP RULE {name} ON {subject.name}",
        "policy": f"DROP POLICY {name} ON {subject.name}",
        "view": f"DROP {'MATERIALIZED ' if line.definition.startswith('materialized') else ''}VIEW {line.identity}",
        "function": f"DROP ROUTINE {line.identity}",
        "statistics": f"DROP STATISTICS {line.identity}",
        "comment": _comment(line, "NULL"),
    }.get(line.kind)


def _differs(subject: Subject, wanted: Line, there: Line) -> str | None:
    name, before, after = last(wanted.identity), wanted.definition, there.definition
    if wanted.kind == "comment":
        return _comment(wanted, literal(before))
    if wanted.kind == "trigger":
        turned = {f"{before} disabled": (after, "ENABLE"), f"{after} disabled": (before, "DISABLE")}
        return next(
            (
                f"ALTER TABLE {subject.name} {word} TRIGGER {name}"
                for full, (text, word) in turned.items()
                if text == full
            ),
            None,
        )
    if wanted.kind == "function" and before.startswith("CREATE OR REPLACE ") and _heads(before) == _heads(after):
        return before
    if wanted.kind == "column" and subject.kind == "table":
        change = _column(before, after)
        return f"ALTER TABLE {subject.name} ALTER COLUMN {name} {change}" if change else None
    return None


def _heads(definition: str) -> str:
    """Name, arguments and result of a routine: CREATE OR REPLACE does not change them."""
    return definition.partition("\n LANGUAGE")[0]


def _column(before: str, after: str) -> str | None:
    """What one ALTER COLUMN has to say, where only NOT NULL or only the default is another."""
    for one, other, word in ((before, after, "SET"), (after, before, "DROP")):
        if " not null" in one and one.replace(" not null", "", 1) == other:
            return f"{word} NOT NULL"
    (type_before, has, default), (type_after, _, other_default) = before.partition(_DEFAULT), after.partition(_DEFAULT)
    if type_before != type_after or _BEHIND_DEFAULT.search(f"{default} {other_default}"):
        return None
    return f"SET DEFAULT {default}" if has else "DROP DEFAULT"


def _comment(line: Line, text: str) -> str:
    kind, _, name = line.identity.partition(" ")
    for long, short in _COMMENTED.items():
        if line.identity.startswith(f"{long} "):
            kind, name = short, line.identity.removeprefix(f"{long} ")
    if line.identity.startswith("domain constraint "):
        kind, name = "constraint", line.identity.removeprefix("domain constraint ").replace(" on ", " on domain ", 1)
    return f"COMMENT ON {kind} {name} IS {text}"
