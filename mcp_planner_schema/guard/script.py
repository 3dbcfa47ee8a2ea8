"""A script that a data revision runs: a Python or SQL file, read as text, with the arguments that it declares."""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mcp_planner_schema.guard import sql_file
from mcp_planner_schema.guard.sql_file import Token, Unusable

NAME = re.compile(r"[0-9A-Za-z_]+/[0-9a-z_]+\.(py|sql)")
"""``025/merge_users.py``: the revision's folder below ``scripts/``, and the file in it."""

FUNCTION = "run"
"""What a Python script is called by: ``def run(connection, *, limit: int = 100) -> None``."""

_SECRET = re.compile(r"passw|passphrase|secret|token|key|credential", re.IGNORECASE)
MASK = "***"

# By how it is annotated. True is an int in Python, and no number here.
_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,), "int": (int,), "float": (int, float), "bool": (bool,), "None": (type(None),), "list": (list,),
    "Sequence": (list,), "dict": (dict,), "Mapping": (dict,), "Any": (object,), "object": (object,),
}  # fmt: skip
_ENDS = ("BEGIN", "START", "COMMIT", "END", "ROLLBACK", "ABORT", "SAVEPOINT", "RELEASE")
# What commits by itself, or may: nothing can be sent in one transaction with it.
_ALONE = ("VACUUM", "CALL", "DO", "REINDEX", "CLUSTER", "ALTER SYSTEM", "CREATE DATABASE", "DROP DATABASE")
# Before a parameter's colon; behind any other sign it is a slice of an array.
_BEFORE = re.compile(r"[\w\])\"$]")


@dataclass(frozen=True)
class Parameter:
    """One argument that a script declares. ``types`` is empty where any is right."""

    name: str
    required: bool
    says: str = ""
    types: tuple[type, ...] = ()

    def takes(self, value: object) -> bool:
        """Whether the value is of a type that it declares."""
        if not self.types or object in self.types:
            return True
        return isinstance(value, self.types) and (not isinstance(value, bool) or bool in self.types)


@dataclass(frozen=True)
class Statement:
    """One statement of a SQL script. ``places`` are its parameters: where in ``text`` the colon stands, and the name.

    ``alone``: it may commit by itself, so it cannot share a transaction.
    """

    text: str
    line: int
    places: tuple[tuple[int, str], ...]
    alone: bool


@dataclass(frozen=True)
class Script:
    """A file that a revision runs. ``tree`` is that of a Python script, ``statements`` are those of a SQL script."""

    name: str
    path: Path
    text: str
    parameters: tuple[Parameter, ...]
    tree: ast.Module | None = None
    statements: tuple[Statement, ...] = field(default=())


def read(folder: Path, name: str) -> Script:
    """The script ``name`` below ``folder`` (the history's ``scripts/``). Runs nothing. Raises :class:`Unusable`."""
    text = content(folder, name)
    if name.endswith(".py"):
        tree = _tree(text)
        return Script(name, folder / name, text, _declared(tree), tree)
    statements = tuple(_statements(text))
    named = dict.fromkeys(parameter for one in statements for _, parameter in one.places)
    return Script(name, folder / name, text, tuple(Parameter(one, True) for one in named), None, statements)


def content(folder: Path, name: str) -> str:
    """The text of a script, with LF. Raises :class:`Unusable`."""
    if not NAME.fullmatch(name):
        raise Unusable(f"{name!r} is no name of the form 025/merge_users.py or .sql (lower case, no other folders)")
    return sql_file.text_of(folder / name)


def problem(script: Script, arguments: object) -> str:
    """What is wrong with the arguments; empty where they are what the script declares, and values that JSON has."""
    if not isinstance(arguments, Mapping) or not all(isinstance(name, str) for name in arguments):
        return "arguments are a dict, with the names of the parameters"
    declared = {one.name: one for one in script.parameters}
    listed = ", ".join(declared) or "none"
    for name, value in arguments.items():
        if name not in declared:
            return f"it has no parameter {name} (it has {listed})"
        if not _plain(value):
            return f"{name} is {type(value).__name__}; an argument is what JSON has: text, number, true, null, list, object"
        if not declared[name].takes(value):
            return f"{name} is to be {declared[name].says}, and is {type(value).__name__}"
    missing = [one.name for one in script.parameters if one.required and one.name not in arguments]
    return f"{missing[0]} is missing (it has {listed})" if missing else ""


def masked(arguments: Any, name: str = "") -> Any:
    """The arguments as people may read them: nothing of what is called like a secret."""
    if _SECRET.search(name) and arguments is not None:
        return MASK
    if isinstance(arguments, Mapping):
        return {one: masked(value, one) for one, value in arguments.items()}
    return [masked(one) for one in arguments] if isinstance(arguments, list) else arguments


def secrets(arguments: Any, name: str = "") -> Iterator[str]:
    """The texts in the arguments that nobody is to read."""
    if isinstance(arguments, Mapping):
        for one, value in arguments.items():
            yield from secrets(value, f"{name} {one}")
    elif isinstance(arguments, list):
        for one in arguments:
            yield from secrets(one, name)
    elif _SECRET.search(name) and isinstance(arguments, str) and len(arguments) > 2:
        yield arguments


def told(arguments: Mapping[str, Any]) -> str:
    """The arguments in one line, for people."""
    return json.dumps(masked(arguments))


def _plain(value: object) -> bool:
    if isinstance(value, list):
        return all(map(_plain, value))
    if isinstance(value, dict):
        return all(isinstance(name, str) and _plain(one) for name, one in value.items())
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, str):
        return "\0" not in value
    return value is None or isinstance(value, (bool, int))


def _tree(text: str) -> ast.Module:
    try:
        return ast.parse(text)
    except (SyntaxError, RecursionError, MemoryError, ValueError) as error:
        raise Unusable(f"line {getattr(error, 'lineno', None) or 1} is no Python: {error}") from None


def _declared(tree: ast.Module) -> tuple[Parameter, ...]:
    """The parameters of ``run`` behind the connection, read and not run."""
    found = [one for one in tree.body if isinstance(one, ast.FunctionDef) and one.name == FUNCTION]
    if not found:
        raise Unusable(f"it has no def {FUNCTION}(connection, *, …)")
    given = found[-1].args
    by_place = [*given.posonlyargs, *given.args]
    if not by_place or given.vararg or given.kwarg or len(given.posonlyargs) > 1:
        raise Unusable(f"its {FUNCTION} takes the connection, and then each argument by its name; no *args or **more")
    defaults: list[ast.expr | None] = [None] * (len(by_place) - len(given.defaults))
    pairs = [*zip(by_place, [*defaults, *given.defaults], strict=True)][1:]
    pairs += zip(given.kwonlyargs, given.kw_defaults, strict=True)
    return tuple(_parameter(one, default is None) for one, default in pairs)


def _parameter(one: ast.arg, required: bool) -> Parameter:
    if one.annotation is None:
        return Parameter(one.arg, required)
    says = one.annotation.value if isinstance(one.annotation, ast.Constant) else None
    written = says if isinstance(says, str) else ast.unparse(one.annotation)
    named = [part.strip() for part in re.sub(r"\[.*\]", "", written).split("|")]
    wrong = [name for name in named if name not in _TYPES]
    if wrong:
        raise Unusable(f"its parameter {one.arg} is declared as {wrong[0]}; it gets what JSON has: {', '.join(_TYPES)}")
    return Parameter(one.arg, required, written, tuple(kind for name in named for kind in _TYPES[name]))


def _statements(text: str) -> Iterator[Statement]:
    found = sql_file.statements(text)
    if not found:
        raise Unusable("it has no statement")
    for tokens in found:
        begin, line = tokens[0].at, text.count("\n", 0, tokens[0].at) + 1
        _refuse(tokens, line)
        whole = text[begin : tokens[-1].at + len(tokens[-1].text)]  # behind it come comments only
        yield Statement(whole, line, tuple(_places(text, tokens, begin)), _alone(tokens))


def _refuse(tokens: Sequence[Token], line: int) -> None:
    words = [token.word for token in tokens]
    if words[0] in _ENDS or words[:2] == ["PREPARE", "TRANSACTION"]:
        raise Unusable(f"line {line} says {words[0]}: the guard begins transactions, and ends them")
    if words[0] == "COPY" and {"STDIN", "STDOUT"} & set(words):
        raise Unusable(
            f"line {line} says COPY … {'FROM STDIN' if 'STDIN' in words else 'TO STDOUT'}, which only psql can"
        )


def _places(text: str, tokens: Sequence[Token], begin: int) -> Iterator[tuple[int, str]]:
    for at, token in enumerate(tokens[:-1]):
        following = tokens[at + 1]
        if token.word != ":" or following.at != token.at + 1:
            continue
        if following.text[0] in "'\"":
            line = text.count("\n", 0, token.at) + 1
            raise Unusable(f"line {line} has :{following.text}, as psql writes a variable; here it is :name")
        if following.text.isidentifier() and not _BEFORE.match(text[token.at - 1 : token.at]):
            yield token.at - begin, following.text


def _alone(tokens: Sequence[Token]) -> bool:
    words = [token.word for token in tokens]
    return "CONCURRENTLY" in words or words[0] in _ALONE or " ".join(words[:2]) in _ALONE
