"""Revisions as they follow each other: read from files or kept text, without running any of it, and from the database.

Imports nothing but SQLAlchemy, which whoever has a connection has loaded already: an application asks this when it starts.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlalchemy import Connection

PHASES = ("expand", "migrate", "contract")
# What is there, and may be read by this role. By the catalog, for to_regclass() of a schema that one may not use is an error,
# and an error would end the caller's transaction.
_THERE = """
SELECT c.relname::text, pg_catalog.has_schema_privilege(n.oid, 'USAGE') AND pg_catalog.has_table_privilege(c.oid, 'SELECT')
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = CAST(:schema AS pg_catalog.name) AND c.relkind IN ('r', 'p', 'v')
"""
_FOUND = """
SELECT pg_catalog.quote_ident(n.nspname::text) || '.' || pg_catalog.quote_ident(c.relname::text),
       pg_catalog.has_table_privilege(c.oid, 'SELECT')
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = pg_catalog.to_regclass(pg_catalog.quote_ident(CAST(:name AS text)))::pg_catalog.oid
"""
_STORED = """
SELECT revision, parents, phase, title, git_commit FROM {schema}.revision WHERE version_table = CAST(:version_table AS text)
"""
_KEPT = """
SELECT DISTINCT ON (h.revision) h.source, h.git_commit FROM {schema}.history h JOIN {schema}.run r ON r.id = h.run_id
WHERE h.source IS NOT NULL AND h.outcome IN ('done', 'skipped') AND r.version_table = CAST(:version_table AS text)
ORDER BY h.revision, h.id DESC
"""


@dataclass(frozen=True)
class Revision:
    """One revision. ``phase`` is None where nobody has said it; ``git_commit`` is that of the build that applied it."""

    revision: str
    parents: tuple[str, ...] = ()
    phase: str | None = None
    description: str = ""
    git_commit: str | None = None


@dataclass(frozen=True)
class Database:
    """What a database says: its heads (None: nobody may read them), and what it knows of its revisions.

    ``hidden``: the guard's table is there, and this role may not read it.
    """

    heads: tuple[str, ...] | None
    stored: Mapping[str, Revision]
    hidden: bool = False


def of_text(text: str) -> Revision | None:
    """The revision that a file's text is, or None: it cannot be read, or its id is not written out. Runs nothing."""
    tree = _tree(text)
    if tree is None:
        return None
    revision = _assigned(tree, "revision")
    if not isinstance(revision, str):
        return None
    parents = _names(_assigned(tree, "down_revision")) + _names(_assigned(tree, "depends_on"))
    return Revision(revision, parents, *_said(tree))


def said(text: str) -> tuple[str | None, str]:
    """Phase and title, as a file's docstring says them."""
    tree = _tree(text)
    return _said(tree) if tree else (None, "")


def of_folder(script_directory: str | Path) -> dict[str, Revision]:
    """The revisions of a history's folder, by id: those in ``versions/`` below it, or in the folder itself."""
    folder = Path(script_directory)
    if (folder / "versions").is_dir():
        folder = folder / "versions"
    read = (of_text(path.read_text(encoding="utf-8-sig", errors="replace")) for path in sorted(folder.glob("**/*.py")))
    found = {one.revision: one for one in read if one is not None}
    if not found:
        raise FileNotFoundError(f"there is no revision in {folder}")
    # A label, or the beginning of an id, stands for a revision that is in the line anyway.
    return {name: replace(one, parents=tuple(filter(found.get, one.parents))) for name, one in found.items()}


def read(
    connection: Connection,
    known: Mapping[str, Revision],
    version_table: str,
    version_table_schema: str | None,
    guard_schema: str,
) -> Database:
    """Ask the database; what it knows of its revisions only where its heads are none of ``known``. Reads only.

    Ends no transaction but one that it has begun itself.
    """
    begun = not connection.in_transaction()
    try:
        heads = _heads(connection, version_table, version_table_schema)
        if heads is None or set(heads) <= set(known):
            return Database(heads, {})
        named = ".".join(filter(None, (version_table_schema, version_table)))
        return _stored(connection, heads, known, named, guard_schema)
    finally:
        if begun and connection.in_transaction():
            connection.rollback()


def ancestors(heads: Iterable[str], revisions: Mapping[str, Revision]) -> tuple[list[str], set[str]]:
    """What is applied at these heads, parents first; and which of it nobody knows anything of."""
    order: dict[str, None] = {}
    unknown: set[str] = set()
    todo = [(head, False) for head in sorted(heads, reverse=True)]
    seen: set[str] = set()
    while todo:
        revision, left = todo.pop()
        if left:
            order[revision] = None
        elif revision not in seen:
            seen.add(revision)
            if revision not in revisions:
                unknown.add(revision)
            parents = revisions[revision].parents if revision in revisions else ()
            todo += [(revision, True), *((parent, False) for parent in reversed(parents))]
    return list(order), unknown


def _heads(connection: Connection, table: str, schema: str | None) -> tuple[str, ...] | None:
    from sqlalchemy import text

    if schema is None:
        found = connection.execute(text(_FOUND), {"name": table}).all()
    else:
        there = connection.execute(text(_THERE + " AND c.relname = :name"), {"schema": schema, "name": table}).all()
        found = [(f"{_quoted(schema)}.{_quoted(table)}", readable) for _, readable in there]  # type: ignore[misc]
    if not found:
        return ()
    name, readable = found[0]
    if not readable:
        return None
    return tuple(sorted(connection.execute(text(f"SELECT version_num FROM {name}")).scalars()))


def _stored(
    connection: Connection, heads: tuple[str, ...], known: Mapping[str, Revision], version_table: str, schema: str
) -> Database:
    from sqlalchemy import text

    there = {row[0]: row[1] for row in connection.execute(text(_THERE), {"schema": schema})}
    asked = {"version_table": version_table}
    stored: dict[str, Revision] = {}
    if there.get("revision"):
        for row in connection.execute(text(_STORED.format(schema=_quoted(schema))), asked):
            stored[row[0]] = Revision(row[0], tuple(row[1]), row[2], row[3], row[4])
    # What was applied before there was that table has kept its text; reading all of it takes its time.
    if ancestors(heads, {**stored, **known})[1] and there.get("history") and there.get("run"):
        for source, commit in connection.execute(text(_KEPT.format(schema=_quoted(schema))), asked):
            one = of_text(source)
            if one is not None:
                stored.setdefault(one.revision, replace(one, git_commit=commit))
    return Database(heads, stored, hidden=there.get("revision", there.get("history")) is False)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""').replace(":", "\\:") + '"'


def _tree(text: str) -> ast.Module | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an invalid escape is the business of whoever runs it
            return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _said(tree: ast.Module) -> tuple[str | None, str]:
    lines = [line.strip() for line in (ast.get_docstring(tree) or "").splitlines()]
    values = [line.partition(":")[2].strip() for line in lines if line.startswith("Phase:")]
    phase = values[0] if len(values) == 1 and values[0] in PHASES else None
    return phase, next(iter(lines), "").rstrip(".")


def _assigned(tree: ast.Module, name: str) -> Any:
    """The literal that a module gives a name, the last one; None where there is none."""
    for statement in reversed(tree.body):
        targets: list[Any] = statement.targets if isinstance(statement, ast.Assign) else []
        if isinstance(statement, ast.AnnAssign):
            targets = [statement.target]
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            try:
                return ast.literal_eval(statement.value)  # type: ignore[attr-defined]  # an assignment has a value
            except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
                return None
    return None


def _names(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    return tuple(map(str, value)) if isinstance(value, (tuple, list)) else ()
