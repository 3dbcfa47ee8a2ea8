"""The scripts that a revision calls by ``op.run_script``: which they are, and whether that may be. Read, and not run."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcp_planner_schema.guard import body, script
from mcp_planner_schema.guard.findings import Finding
from mcp_planner_schema.guard.header import Header
from mcp_planner_schema.guard.settings import ENVIRONMENTS, Settings
from mcp_planner_schema.guard.source import Source, finding
from mcp_planner_schema.guard.sql_file import Unusable

OPERATION = "run_script"


@dataclass(frozen=True)
class Call:
    """One call. ``name`` is None where it is not written out; ``arguments`` is None where only running it would tell."""

    line: int
    name: str | None
    arguments: Mapping[str, Any] | None
    per_environment: Mapping[str, Any] | None


def calls(source: Source) -> list[Call]:
    """Every call of ``op.run_script``, whatever ``op`` is called, in the order of their lines."""
    found = [node for node in ast.walk(source.tree) if isinstance(node, ast.Call) and _is_call(node.func)]
    return sorted(map(_read, found), key=lambda one: one.line)


def names(source: Source) -> list[str]:
    """The scripts that it calls, each once."""
    return list(dict.fromkeys(one.name for one in calls(source) if one.name is not None))


def texts(source: Source, folder: Path) -> dict[str, str | None]:
    """The texts of these scripts, by where they lie; None for one that is missing or cannot be read."""
    return {f"scripts/{name}": _content(folder, name) for name in names(source) if script.NAME.fullmatch(name)}


def judge(source: Source, header: Header, settings: Settings, folder: Path) -> list[Finding]:
    """Every finding against the scripts of one revision, and how it calls them. ``folder`` is that of all scripts."""
    number = body.identity(source).revision
    found = []
    for call in calls(source):
        if call.name is None:
            problem = "its name is to be written out, as the first argument"
            found.append(finding(source.path, call.line, "script-literal", problem=problem))
            continue
        if header.type and header.type != "data":
            found.append(finding(source.path, call.line, "script-in-schema", type=header.type, file=call.name))
        if number and call.name.partition("/")[0] != number:
            problem = f"{call.name!r} does not lie in the folder of this revision, {number}/"
            found.append(finding(source.path, call.line, "script-literal", problem=problem))
            continue
        found += _against(source, call, call.name, header, settings, folder)
    called = names(source)
    beside = sorted((folder / number).glob("*")) if number and script.NAME.fullmatch(f"{number}/x.py") else []
    for path in beside:
        if f"{number}/{path.name}" not in called and path.name != "__pycache__":
            values = {"file": f"{number}/{path.name}", "problem": "no op.run_script of the revision names it"}
            found.append(finding(source.path, source.below_docstring, "script-unusable", **values))
    return found


def _against(
    source: Source, call: Call, name: str, header: Header, settings: Settings, folder: Path
) -> Iterator[Finding]:
    try:
        one = script.read(folder, name)
        _refuse_code(one, settings)
    except Unusable as error:
        yield finding(source.path, call.line, "script-unusable", file=name, problem=error)
        return
    for problem in filter(None, _problems(one, call, header.environments)):
        yield finding(source.path, call.line, "script-arguments", file=name, problem=problem)
        return


def _refuse_code(one: script.Script, settings: Settings) -> None:
    """What a revision's own code may not do, a script's may not either."""
    if one.tree is None:
        return
    for line, module, allowed in body.foreign_imports(one.tree, settings):
        raise Unusable(f"line {line} imports {module}; besides the standard library it may import {allowed}")
    for line, what in body.settings_reads(one.tree):
        raise Unusable(f"line {line} reads {what}; what differs between environments is an argument")


def _problems(one: script.Script, call: Call, environments: tuple[str, ...]) -> Iterator[str]:
    if call.arguments is None or call.per_environment is None:
        return
    yield unknown(call.per_environment)
    for environment in environments:
        given = merged(call.arguments, call.per_environment, environment)
        found = script.problem(one, given)
        yield f"{found}, in {environment}" if found and call.per_environment else found


def unknown(per_environment: Mapping[str, Any]) -> str:
    """What is wrong with the names of environments."""
    wrong = [name for name in per_environment if name not in ENVIRONMENTS]
    return f"there is no environment {wrong[0]}; there are {', '.join(ENVIRONMENTS)}" if wrong else ""


def merged(arguments: Any, per_environment: Mapping[str, Any], environment: str) -> Any:
    """The arguments of a call in one environment."""
    own = per_environment.get(environment, {})
    if not isinstance(arguments, Mapping) or not isinstance(own, Mapping):
        return None
    return {**arguments, **own}


def _is_call(function: ast.expr) -> bool:
    return getattr(function, "attr", None) == OPERATION or getattr(function, "id", None) == OPERATION


def _read(call: ast.Call) -> Call:
    named = {one.arg: one.value for one in call.keywords}
    first = call.args[0] if call.args else named.get("script")
    name = first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else None
    given = [_literal(named.get(one)) for one in ("arguments", "per_environment")]
    computed = None in named  # **more
    arguments, per_environment = (None if computed or one is None else one for one in given)
    return Call(call.lineno, name, arguments, per_environment)


def _literal(node: ast.expr | None) -> Mapping[str, Any] | None:
    """A dict that is written out; empty where there is none, None where it is computed."""
    if node is None:
        return {}
    try:
        value = ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None
    return value if isinstance(value, dict) else {"": value}


def _content(folder: Path, name: str) -> str | None:
    try:
        return script.content(folder, name)
    except Unusable:
        return None
