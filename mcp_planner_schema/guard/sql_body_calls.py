"""Which SQL files are a revision's bodies, by its calls of ``op.run_sql``, and what stands against them. Read, and not run."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mcp_planner_schema.guard import sql_body
from mcp_planner_schema.guard.findings import Finding
from mcp_planner_schema.guard.header import Header
from mcp_planner_schema.guard.source import Source, finding

OPERATION = "run_sql"
BODIES = {"upgrade": "up", "downgrade": "down"}


@dataclass(frozen=True)
class Call:
    """One call. ``name`` is None where it is not written out; ``function`` is the body that it stands in."""

    line: int
    name: str | None
    function: str


def calls(source: Source) -> list[Call]:
    """Every call of ``op.run_sql``, whatever ``op`` is called, in the order of their lines."""
    found = [
        _read(node, getattr(statement, "name", ""))
        for statement in source.tree.body
        for node in ast.walk(statement)
        if isinstance(node, ast.Call) and OPERATION in (getattr(node.func, "attr", ""), getattr(node.func, "id", ""))
    ]
    return sorted(found, key=lambda one: one.line)


def names(source: Source) -> list[str]:
    """The files that it runs, each once."""
    found = dict.fromkeys(one.name for one in calls(source) if one.name is not None)
    return [name for name in found if sql_body.NAME.fullmatch(name)]


def texts(source: Source) -> dict[str, str | None]:
    """The texts of these files, under names that no other file of a revision has; None for one that cannot be read."""
    return {f"versions/{name}": _content(source.path.with_name(name)) for name in names(source)}


def judge(source: Source, header: Header) -> Iterator[Finding]:
    """Every finding against the bodies in SQL of one revision."""
    named: dict[str, int] = {}
    stem = source.path.name.removesuffix(".py")
    for call in calls(source):
        wanted = f"{stem}.{BODIES.get(call.function, 'up')}.sql"
        if call.name is None:
            problem = "its name is to be written out, as the only argument"
        elif call.function not in BODIES:
            problem = "it is called neither in upgrade() nor in downgrade()"
        elif call.name != wanted:
            problem = f"in {call.function}() of {source.path.name} it is {wanted}, and not {call.name}"
        else:
            named.setdefault(call.name, call.line)
            continue
        yield finding(source.path, call.line, "sql-body-literal", problem=problem, stem=stem)
    for name, line in named.items():
        yield from _against(source.path.with_name(name), header, source.path, line)
    for ending in BODIES.values():
        beside = source.path.with_name(f"{stem}.{ending}.sql")
        if beside.name not in named and beside.exists():
            yield finding(source.path, source.below_docstring, "sql-body-literal", stem=stem,
                          problem=f"{beside.name} lies beside it, and nothing runs that")  # fmt: skip


def orphans(paths: Iterable[Path]) -> Iterator[Path]:
    """Bodies beside these revisions that belong to none: Alembic sees only files in Python."""
    known = {path.resolve() for path in paths}
    for folder in sorted({path.parent for path in known}):
        for beside in sorted(folder.glob("*.sql")):
            if sql_body.NAME.fullmatch(beside.name) and folder / (beside.name.rsplit(".", 2)[0] + ".py") not in known:
                yield beside


def orphan(path: Path) -> Finding:
    """That a body belongs to no revision."""
    stem = path.name.rsplit(".", 2)[0]
    return finding(path, 1, "sql-body-literal", problem=f"there is no {stem}.py that would run this", stem=stem)


def _against(path: Path, header: Header, revision: Path, line: int) -> Iterator[Finding]:
    down = path.name.endswith(".down.sql")
    try:
        text = sql_body.content(path)
    except sql_body.Objection as error:
        at = (path, error.line) if path.is_file() else (revision, line)
        yield finding(*at, "sql-body-unusable", problem=f"{path.name}: {error}", instead=error.instead)
        return
    found = list(sql_body.objections(text, header.transaction))
    for one in found:
        values = {"what": one} if one.code == "transaction-mismatch" else {"problem": one, "instead": one.instead}
        yield finding(path, one.line, one.code, **values)
    if (
        not found
        and not sql_body.statements(text, header.transaction)
        and not (down and header.reversible == "forward-only")
    ):
        instead = (
            "what undoes the upgrade; or in the header Reversible: forward-only: why it cannot be undone"
            if down
            else "what is to be done, each statement with its semicolon"
        )
        yield finding(path, 1, "sql-body-unusable", problem="it has no statement", instead=instead)


def _read(call: ast.Call, function: str) -> Call:
    first = call.args[0] if len(call.args) == 1 and not call.keywords else None
    name = first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else None
    return Call(call.lineno, name, function)


def _content(path: Path) -> str | None:
    try:
        return sql_body.content(path)
    except sql_body.Objection:
        return None
