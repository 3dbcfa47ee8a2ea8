"""The rule file: what becomes of each column that can hold people's data. Read with suspicion, and compared with a copy.

TOML, a table of the database to a section (``[public.projects]``), ``column = "rule"`` in it. A column that can hold words or
is called like something personal, and has no rule, is refused: who adds a column decides what staging may see of it.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mcp_planner_schema.guard.findings import Finding, Refused
from mcp_planner_schema.guard.postcheck import execute, identifier
from mcp_planner_schema.guard.source import shown

if TYPE_CHECKING:
    from sqlalchemy import Connection

TEXT = "text: "
"""What the rule begins with that puts the same text everywhere."""
_TEXTS, _JSON = ("words", "unique-words", "email"), ("json",)
RULES = ("keep", "null", "hash", "shuffle", *_TEXTS, *_JSON)
_PERSONAL = re.compile(
    r"(^|_)(e?mail|names?|surname|phone|mobile|fax|address|street|city|zip|postcode|birth(day|date)?|dob|gender|iban|bic|card|"
    r"ssn|tax|passport|token|passwor[dt]|passwd|secret|session|cookie|ip|login|nick|avatar|photo|lat|lon|location|salary|user|"
    r"person|customer|contact)(_|$)",
    re.IGNORECASE,
)
# Types that hold no words, although PostgreSQL counts them with those that people have made.
_PLAIN = ("uuid", "pg_lsn", "pg_snapshot", "txid_snapshot", "macaddr", "macaddr8")

# A partition's columns are decided with its table's; generated columns follow what they are made of.
_COLUMNS = """
WITH RECURSIVE based (oid, base) AS (
  SELECT t.oid, t.oid FROM pg_catalog.pg_type t
  UNION ALL
  SELECT b.oid, t.typbasetype FROM based b JOIN pg_catalog.pg_type t ON t.oid = b.base WHERE t.typtype = 'd'
)
SELECT n.nspname::text, c.relname::text, a.attname::text, pg_catalog.format_type(a.atttypid, a.atttypmod), a.attnotnull,
       c.relkind::text, t.typname::text, t.typcategory::text,
       coalesce((SELECT e.typcategory::text FROM pg_catalog.pg_type e WHERE e.oid = t.typelem AND t.typcategory = 'A'), ''),
       CASE WHEN a.atttypmod > 4 AND t.typname IN ('varchar', 'bpchar') THEN a.atttypmod - 4 END
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
JOIN based b ON b.oid = a.atttypid JOIN pg_catalog.pg_type t ON t.oid = b.base AND t.typtype <> 'd'
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition
  AND n.nspname !~ '^(pg_|information_schema$)' AND n.nspname <> %(own)s AND n.nspname !~ ('^' || %(own)s || '_stash_')
  AND c.relname <> 'alembic_version'
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                  WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
ORDER BY 1, 2, a.attnum
"""


@dataclass(frozen=True)
class Column:
    """A column of the copy. ``type`` is as SQL writes it, ``base`` what a domain rests on, ``limit`` how many characters fit."""

    schema: str
    table: str
    name: str
    type: str
    required: bool
    kind: str
    base: str
    category: str
    element: str
    limit: int | None

    @property
    def shown(self) -> str:
        """As the rule file would name it."""
        return f"{self.schema}.{self.table}.{self.name}"

    @property
    def rows_of(self) -> str:
        """Its table as it stands in FROM and UPDATE: an inheritance child's rows are the child's."""
        quoted = f"{identifier(self.schema)}.{identifier(self.table)}"
        return quoted if self.kind == "p" else f"ONLY {quoted}"

    @property
    def is_text(self) -> bool:
        """Whether its values are texts."""
        return self.category == "S"

    @property
    def is_json(self) -> bool:
        """Whether its values are JSON."""
        return self.base in ("json", "jsonb")

    @property
    def can_hold_people(self) -> bool:
        """Whether somebody has to decide what becomes of it."""
        words = self.category in ("S", "C", "I") or (self.category == "U" and self.base not in _PLAIN)
        named = _PERSONAL.search(self.name) is not None and self.category not in ("E", "B")  # enums, booleans
        return words or self.element in ("S", "C", "I", "U") or named


@dataclass(frozen=True)
class Masks:
    """The rules, by schema, table and column. ``harmless`` are values that need no masking and say nothing about anybody."""

    path: Path
    rules: Mapping[tuple[str, str, str], str] = field(default_factory=dict)
    harmless: tuple[str, ...] = ()
    large_objects: str = ""

    def unknown(self, columns: Sequence[Column]) -> list[str]:
        """Columns that have a rule, and that this copy has not."""
        there = {(one.schema, one.table, one.name) for one in columns}
        return [".".join(one) for one in self.rules if one not in there]

    def decide(self, columns: Sequence[Column]) -> list[tuple[Column, str]]:
        """Every column that is to be changed, with its rule. Raises :class:`Refused` where nobody has decided."""
        decided, undecided, wrong = [], [], []
        for one in columns:
            rule = self.rules.get((one.schema, one.table, one.name))
            if rule is None:
                undecided += [one] if one.can_hold_people else []
            elif problem := _misfit(one, rule):
                wrong.append(
                    self._unusable(f"{one.shown} = {rule!r}: {problem}", "another rule for it (docs/staging.md)")
                )
            elif rule != "keep":
                decided.append((one, rule))
        if undecided:
            wrong.append(self._undecided(undecided))
        if wrong:
            raise Refused(wrong, "scripts/staging-deploy.sh   (with these columns decided; the copy was dropped)")
        return decided

    def _unusable(self, problem: str, instead: str) -> Finding:
        return Finding("mask-unusable", shown(self.path), "", {"problem": problem, "instead": instead})

    def _undecided(self, columns: Sequence[Column]) -> Finding:
        lines, last = [], ""
        for one in columns:
            section = f"[{_key(one.schema)}.{_key(one.table)}]"
            lines += [section] if section != last else []
            lines.append(f'{_key(one.name)} = "{proposed(one)}"')
            last = section
        values = {
            "count": str(len(columns)),
            "file": shown(self.path),
            "columns": ", ".join(one.shown for one in columns),
            "lines": "\n".join(lines),
        }
        return Finding("mask-undecided", shown(self.path), "", values)


def read(path: Path) -> Masks:
    """Read a rule file. Raises :class:`Refused` for what is no such file, and for a rule that nobody knows."""
    try:
        told = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise _refused(
            path, f"the rule file {shown(path)} cannot be read ({error.strerror})", "MASKS=file names another"
        ) from None
    except (ValueError, UnicodeDecodeError) as error:
        raise _refused(
            path, f"the rule file {shown(path)} is no TOML: {error}", "correct the line that it names"
        ) from None
    harmless, large = told.pop("harmless", []), told.pop("large_objects", "")
    if not isinstance(harmless, list) or not all(isinstance(one, str) for one in harmless):
        raise _refused(path, "harmless is a list of texts", 'harmless = ["system"]')
    if large not in ("", "drop", "keep"):
        raise _refused(path, f"large_objects is {large!r}", 'large_objects = "drop", or "keep"')
    rules: dict[tuple[str, str, str], str] = {}
    for schema, tables in told.items():
        for table, columns in tables.items() if isinstance(tables, dict) else [("", None)]:
            for name, rule in columns.items() if isinstance(columns, dict) else [("", None)]:
                named = ".".join(filter(None, (schema, table, name)))
                if not isinstance(rule, str) or not name:
                    raise _refused(
                        path, f"{named} is no rule of a column", 'a section [public.projects], and in it name = "words"'
                    )
                if rule not in RULES and not rule.startswith(TEXT):
                    known = f"{', '.join(RULES)}, {TEXT}…"
                    raise _refused(path, f"{named} = {rule!r}: there is no such rule", f"one of: {known}")
                rules[schema, table, name] = rule
    return Masks(path, rules, tuple(harmless), large)


def columns(connection: Connection, schema: str) -> list[Column]:
    """Every column of a copy that rows are written to, without the guard's own tables. ``schema`` is the guard's."""
    return [Column(*row) for row in connection.exec_driver_sql(_COLUMNS, {"own": schema})]


def proposed(one: Column) -> str:
    """The rule that hides most of a column's values and keeps what they are for."""
    if one.is_text:
        if re.search(r"(^|_)e?mail(_|$)", one.name, re.IGNORECASE):
            return "email"
        return "hash" if re.search(r"(^|_)(user|actor|who|by|token|login|session)(_|$)", one.name) else "words"
    if one.is_json:
        return "json"
    return "shuffle" if one.required else "null"


def _misfit(one: Column, rule: str) -> str:
    """Why a rule does nothing sensible for a column; empty where it does."""
    if rule == "null" and one.required:
        return "the column is NOT NULL"
    if rule in _TEXTS and not one.is_text:
        return f"it is for texts, and the column is {one.type}"
    if rule in _JSON and not one.is_json:
        return f"it is for JSON, and the column is {one.type}"
    if rule == "hash" and not (one.is_text or one.base == "uuid"):
        return f"it is for texts and uuids, and the column is {one.type}"
    shortest = {"hash": 16, "email": 35, "unique-words": 12}.get(rule, 0)
    if one.limit is not None and one.limit < shortest:
        return f"it takes {shortest} characters, and {one.type} has fewer"
    return ""


def _refused(path: Path, problem: str, instead: str) -> Refused:
    values = {"problem": problem, "instead": instead}
    return Refused(
        [Finding("mask-unusable", shown(path), "", values)], f"edit {shown(path)}, then scripts/staging-deploy.sh"
    )


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'


def large_objects(connection: Connection) -> int:
    """How many large objects a copy has: they may hold anything."""
    return int(execute(connection, "SELECT count(*) FROM pg_catalog.pg_largeobject_metadata").scalar_one())
