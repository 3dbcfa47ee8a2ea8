"""The schema at head as one page of SQL, ``alembic/schema.sql``: for readers, and for the diff of a pull request.

Written from the stored catalog, so it needs no database and says what every database must be like. It is not a script: a
definition stands there as the fingerprint has it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mcp_planner_schema.guard.fingerprint import Line, Lines, stored
from mcp_planner_schema.guard.fingerprint.subject import Subject, last, subjects
from mcp_planner_schema.guard.postcheck import literal

if TYPE_CHECKING:
    from alembic.config import Config

_HEAD = """\
-- The schema at revision {head}, written by `make schema-sql` from alembic/catalog; a test fails when it is stale.
-- For readers and for diffs: sorted by kind and name, no script. Views, functions and expressions are as PostgreSQL shows them.
"""
_FIRST = ("schema", "extension", "type", "collation", "sequence", "table", "view", "function")
_BESIDE = ("sequence", "index", "statistics", "trigger", "rule", "policy", "acl")
_OBJECTS = {"table column": "COLUMN", "view column": "COLUMN", "composite type column": "COLUMN"}


def place(folder: str | Path) -> Path:
    """The file, beside the folder of the revisions."""
    return Path(folder) / "schema.sql"


def text(config: Config) -> str:
    """The whole page, for the folder's head. Raises :class:`WrongUse` where a revision's catalog is not stored."""
    from alembic.script import ScriptDirectory

    script = ScriptDirectory.from_config(config)
    chain = [one.revision for one in script.walk_revisions()][::-1]
    return page(stored.expected(script.dir, chain), ", ".join(script.get_heads()) or "base")


def page(lines: Lines, head: str) -> str:
    """These lines as a page."""
    of_subject: dict[Subject, list[Line]] = defaultdict(list)
    for line, subject in subjects(lines).items():
        of_subject[subject].append(line)
    blocks = (
        "\n".join(_block(subject, sorted(of_subject[subject]))) + "\n" for subject in sorted(of_subject, key=_order)
    )
    return "\n".join([_HEAD.format(head=head), *blocks])


def _order(subject: Subject) -> tuple[int, str, str]:
    place = _FIRST.index(subject.kind) if subject.kind in _FIRST else len(_FIRST)
    return place, subject.kind, subject.name


def _block(subject: Subject, lines: list[Line]) -> Iterator[str]:
    """Everything about one object."""
    own = next((line for line in lines if (line.kind, line.identity) == subject), None)
    comments = {line.identity: line.definition for line in lines if line.kind == "comment"}
    of_constraint = {last(line.identity) for line in lines if line.kind == "constraint"}
    if own is not None and subject.kind in ("table", "type") and any(line.kind == "column" for line in lines):
        yield from _with_columns(own, lines, comments)
    elif own is not None:
        yield _statement(own)
    for kind in _BESIDE:
        for line in lines:
            behind = kind == "index" and last(line.identity) in of_constraint
            if line.kind == kind and line is not own and not behind:
                yield _statement(line)
    for identity, comment in comments.items():
        word, _, name = identity.rpartition(" ") if " on " not in identity else identity.partition(" ")
        if word not in _OBJECTS:
            yield f"COMMENT ON {word.upper()} {name} IS {literal(comment)};"


def _with_columns(own: Line, lines: list[Line], comments: dict[str, str]) -> Iterator[str]:
    order = next(line.definition for line in lines if line.kind == "order")
    columns = {last(line.identity): line for line in lines if line.kind == "column"}
    names = sorted(columns, key=lambda name: f", {order}, ".index(f", {name}, "))
    rows = [(f"{name} {columns[name].definition}", _comment(columns[name], comments)) for name in names]
    rows += [(f"CONSTRAINT {last(line.identity)} {line.definition}", "") for line in lines if line.kind == "constraint"]
    yield f"CREATE {own.kind.upper()} {own.identity} (  -- {own.definition}"
    for number, (row, comment) in enumerate(rows, 1):
        yield f"    {row}{',' if number < len(rows) else ''}" + (f"  -- {comment}" if comment else "")
    yield ");"


def _comment(column: Line, comments: dict[str, str]) -> str:
    found = next((comments[key] for key in (f"{word} {column.identity}" for word in _OBJECTS) if key in comments), "")
    return " ".join(found.split())


def _statement(line: Line) -> str:
    kind, identity, definition = line
    if kind == "acl":
        return f"-- grants on {identity}: {definition}"
    if kind == "sequence" and identity.startswith("owned "):
        return f"-- sequence of {identity.removeprefix('owned ')}: {definition}"
    if kind in ("function", "index", "trigger", "rule", "statistics") and definition.startswith("CREATE"):
        return definition.rstrip().removesuffix(";") + ";"
    if kind == "policy":
        return f"CREATE POLICY {last(identity)} ON {identity.removesuffix('.' + last(identity))} {definition};"
    kind = "MATERIALIZED VIEW" if definition.startswith("materialized ") else kind.upper()
    definition = definition.removesuffix(";").removeprefix("materialized ").replace("enum (", "AS ENUM (", 1)
    return f"CREATE {kind} {identity} {definition}".rstrip() + ";"
