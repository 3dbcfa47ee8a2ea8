"""The body of a revision: what its code says without being run."""

from __future__ import annotations

import ast
import itertools
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

from mcp_planner_schema.guard import committing, sql_file
from mcp_planner_schema.guard.findings import Finding
from mcp_planner_schema.guard.header import Header
from mcp_planner_schema.guard.settings import Budgets, Settings, duration
from mcp_planner_schema.guard.source import Source, finding

ALLOWED_IMPORTS = ("alembic", "sqlalchemy", "mcp_planner_schema.operations")
BUDGET_NAMES = tuple(field.name for field in fields(Budgets))
_SETTINGS = ("environ", "environb", "getenv", "getenvb", "get_x_argument")
_NOT_WRITTEN = object()


@dataclass(frozen=True)
class Identity:
    """Where a file stands in the history: Alembic's own names, read as literals."""

    revision: str | None
    down_revision: tuple[str, ...]
    depends_on: tuple[str, ...]
    labels: tuple[str, ...] = ()

    @property
    def parents(self) -> tuple[str, ...]:
        """Every revision that must come before this one."""
        return self.down_revision + self.depends_on


def identity(source: Source) -> Identity:
    """Read what places the file, ``revision`` to ``branch_labels``. What is no literal is taken as missing."""
    revision = _literal(source.tree, "revision")
    return Identity(
        revision if isinstance(revision, str) else None,
        _names(_literal(source.tree, "down_revision")),
        _names(_literal(source.tree, "depends_on")),
        _names(_literal(source.tree, "branch_labels")),
    )


def budgets(source: Source) -> dict[str, int]:
    """The revision's own ``budgets = {"lock_timeout": "500ms", …}`` in milliseconds; empty where there are none."""
    written = _literal(source.tree, "budgets")
    return {name: duration(value) for name, value in written.items()} if isinstance(written, dict) else {}


def sql_files(source: Source, folder: Path) -> dict[str, str | None]:
    """The texts of the files in ``sql_files = […]``, below ``folder``; None for one that is missing or cannot be read."""
    written = _literal(source.tree, "sql_files")
    names = [name for name in written if isinstance(name, str)] if isinstance(written, list) else []
    return {name: _content(folder, name) for name in names if sql_file.NAME.fullmatch(name)}


def _content(folder: Path, name: str) -> str | None:
    try:
        return sql_file.content(folder, name)
    except sql_file.Unusable:
        return None


def judge(source: Source, header: Header, settings: Settings, sql: Path) -> list[Finding]:
    """Every finding against the code of one revision, as far as its header says what it should be. Runs nothing.

    ``sql`` is the folder below which the SQL files lie.
    """
    return [
        *_identity(source, header, settings),
        *_parts(source, header),
        *_order(source),
        *_imports(source, settings),
        *_settings_reads(source),
        *_budgets(source),
        *_transaction(source, header),
        *_sql_names(source),
        *_sql_files(source, sql),
    ]


def _identity(source: Source, header: Header, settings: Settings) -> Iterator[Finding]:
    found = identity(source)
    number = source.path.name.removesuffix(".py").split("_")[0]
    if found.revision is None:
        yield finding(source.path, place(source, "revision"), "revision-missing", name="revision",
                      example=repr(header.version or number))  # fmt: skip
        return
    if _literal(source.tree, "down_revision") is _NOT_WRITTEN:
        yield finding(source.path, place(source, "down_revision"), "revision-missing", name="down_revision",
                      example=repr(header.dependencies[0]) if header.dependencies else "None")  # fmt: skip
        return
    if settings.headers == "optional" and found.revision in re.split(r"[_.-]", source.path.name):
        number = str(found.revision)  # a history that began without headers has file names of its own
    if "Version" in header.places and not header.version == found.revision == number:
        yield finding(source.path, header.places["Version"], "header-version", version=header.version,
                      revision=found.revision, number=number)  # fmt: skip
    if "Dependencies" in header.places and sorted(header.dependencies) != sorted(found.parents):
        yield finding(source.path, header.places["Dependencies"], "header-dependencies",
                      value=", ".join(header.dependencies) or "None", real=", ".join(found.parents) or "None")  # fmt: skip


def _parts(source: Source, header: Header) -> Iterator[Finding]:
    upgrade, downgrade = _function(source.tree, "upgrade"), _function(source.tree, "downgrade")
    # A merge joins two histories and may do nothing else; then there is nothing to expect either.
    merges = len(identity(source).down_revision) > 1 and upgrade is not None and _is_empty(upgrade)
    if upgrade is None or (_is_empty(upgrade) and not merges):
        yield finding(source.path, upgrade.lineno if upgrade else source.last_line, "upgrade-missing")
    if header.reversible != "forward-only" and (downgrade is None or (_is_empty(downgrade) and not merges)):
        yield finding(source.path, downgrade.lineno if downgrade else source.last_line, "downgrade-missing")
    for name in ("expectations", "expectations_down"):
        statement = _assignment(source.tree, name)
        value = statement.value if statement else None
        if value is None and (merges or name == "expectations_down"):
            continue
        if not isinstance(value, ast.List) or not (value.elts or merges) or any(map(_is_constant, value.elts)):
            yield finding(source.path, place(source, name), "expectation-missing", name=name)


def _order(source: Source) -> Iterator[Finding]:
    places: dict[str, int] = {}
    expectations = _assignment(source.tree, "expectations")
    if expectations is not None:
        places["expectations"] = expectations.lineno
    for name in ("upgrade", "downgrade"):
        function = _function(source.tree, name)
        if function is not None:
            places[name + "()"] = function.lineno
    for first, second in itertools.pairwise(places):
        if places[first] > places[second]:
            yield finding(source.path, places[second], "order-of-parts", first=first, second=second)


def _imports(source: Source, settings: Settings) -> Iterator[Finding]:
    for line, module, allowed in foreign_imports(source.tree, settings):
        yield finding(source.path, line, "import-application", module=module, allowed=allowed)


def foreign_imports(tree: ast.Module, settings: Settings) -> Iterator[tuple[int, str, str]]:
    """What is imported that may change after the code was run: line, module, and what is allowed."""
    allowed = ALLOWED_IMPORTS + settings.allowed_imports
    for node in ast.walk(tree):
        for module in _imported(node):
            if module.split(".")[0] not in sys.stdlib_module_names and not any(
                module == name or module.startswith(name + ".") for name in allowed
            ):
                yield getattr(node, "lineno", 1), module, ", ".join(allowed)


def _imported(node: ast.AST) -> list[str]:
    """The modules a node imports, by statement or by ``importlib.import_module()`` and ``__import__()``."""
    if isinstance(node, ast.Import):
        return [name.name for name in node.names]
    if isinstance(node, ast.ImportFrom):
        module = "." * node.level + (node.module or "")
        # Of a package, each name may be a module of its own.
        return [f"{module}.{name.name}" for name in node.names] if module == "mcp_planner_schema" else [module]
    if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
        literal = node.args[0].value if node.args and isinstance(node.args[0], ast.Constant) else None
        return [literal if isinstance(literal, str) else "a module whose name is made at run time"]
    return []


def _settings_reads(source: Source) -> Iterator[Finding]:
    for line, name in settings_reads(source.tree):
        yield finding(source.path, line, "settings-read", name=name)


def settings_reads(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Where code asks its surroundings: line, and what it says there."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in _SETTINGS:
            yield node.lineno, ast.unparse(node)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, f"{node.module}.{name.name}") for name in node.names if name.name in _SETTINGS)


def _budgets(source: Source) -> Iterator[Finding]:
    statement = _assignment(source.tree, "budgets")
    if statement is None:
        return
    written = _literal(source.tree, "budgets")
    if not isinstance(written, dict):
        yield finding(source.path, statement.lineno, "budget-invalid", name="budgets", value="…",
                      problem="it is no dict of literals")  # fmt: skip
        return
    for name, value in written.items():
        problem = "" if name in BUDGET_NAMES else f"known are {', '.join(BUDGET_NAMES)}"
        try:
            duration(value if isinstance(value, str) else "")
        except ValueError as error:
            problem = problem or str(error)
        if problem:
            yield finding(source.path, statement.lineno, "budget-invalid", name=name, value=value, problem=problem)


def _transaction(source: Source, header: Header) -> Iterator[Finding]:
    if header.transaction == "single":
        for line, what in itertools.islice(sorted(_commits(source.tree)), 1):
            yield finding(source.path, line, "transaction-mismatch", what=what)


def _commits(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Where the code commits by itself: the line, and what it says there."""
    ops = {"alembic.op"}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "alembic":
            ops |= {name.asname or name.name for name in node.names if name.name == "op"}
        elif isinstance(node, ast.Import):
            ops |= {name.asname for name in node.names if name.name == "alembic.op" and name.asname}
        elif isinstance(node, ast.ImportFrom) and node.module == "alembic.op":
            yield from ((node.lineno, f"op.{name.name}") for name in node.names if name.name in committing.NAMES)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            if node.attr == "autocommit_block":
                yield node.lineno, "autocommit_block()"
            elif node.attr in committing.NAMES and ast.unparse(node.value) in ops:
                yield node.lineno, f"op.{node.attr}()"


def _sql_names(source: Source) -> Iterator[Finding]:
    """What is wrong with ``sql_files`` as a list, and with calls of ``operations.sql`` for files that are not in it."""
    statement, written = _assignment(source.tree, "sql_files"), _literal(source.tree, "sql_files")
    line, problem = place(source, "sql_files"), ""
    names: list[object] = written if isinstance(written, list) else []
    calls = list(_sql_calls(source.tree))
    if statement is None:
        problem = "it is missing, and the body calls operations.sql" if calls else ""
    elif not isinstance(written, list) or not names or not all(isinstance(name, str) for name in names):
        problem = "it is no list of names written out"
    elif len(set(names)) < len(names):
        problem = "it has a name twice"
    else:
        wrong = [name for name in names if not sql_file.NAME.fullmatch(str(name))]
        problem = f"{wrong[0]!r} is no folder and file in lower case" if wrong else ""
    if not problem:
        for call in calls:
            texts = [node.value for part in call.args for node in ast.walk(part) if isinstance(node, ast.Constant)]
            apart = [text for text in texts if isinstance(text, str) and text not in names]
            if apart:
                line, problem = call.lineno, f"{apart[0]!r} is used, but is not in it"
                break
    if problem:
        number = identity(source).revision or source.path.name.split("_")[0]
        yield finding(source.path, line, "sql-files-literal", problem=problem, number=number)


def _sql_calls(tree: ast.Module) -> Iterator[ast.Call]:
    """The calls of ``sql.apply()``, ``sql.revert()`` and ``sql.remove()``, whatever the module is called here."""
    called = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "mcp_planner_schema.operations":
            called |= {name.asname or name.name for name in node.names if name.name == "sql"}
        elif isinstance(node, ast.ImportFrom) and node.module == "mcp_planner_schema.operations.sql":
            called |= {name.asname or name.name for name in node.names}
        elif isinstance(node, ast.Import):
            called |= {name.asname or name.name for name in node.names if name.name.endswith("operations.sql")}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            function = node.func.value if isinstance(node.func, ast.Attribute) else node.func
            if ast.unparse(function) in called:
                yield node


def _sql_files(source: Source, folder: Path) -> Iterator[Finding]:
    """What is wrong with the files themselves, and with those beside them that nobody names."""
    statement, written = _assignment(source.tree, "sql_files"), _literal(source.tree, "sql_files")
    names = [name for name in written if isinstance(name, str)] if isinstance(written, list) else []
    places = statement.value.elts if statement and isinstance(statement.value, ast.List) else []
    for name, node in zip(names, places, strict=False):
        if sql_file.NAME.fullmatch(name):
            try:
                sql_file.read(folder, name)
            except sql_file.Unusable as error:
                yield finding(source.path, node.lineno, "sql-file-unusable", file=name, problem=error)
    own = identity(source).revision
    if own and sql_file.NAME.fullmatch(f"{own}/x.sql"):
        for path in sorted((folder / own).glob("*")):
            if f"{own}/{path.name}" not in names:
                yield finding(source.path, place(source, "sql_files"), "sql-file-unusable", file=f"{own}/{path.name}",
                              problem="sql_files does not name it")  # fmt: skip


def _assignment(tree: ast.Module, name: str) -> ast.Assign | ast.AnnAssign | None:
    for statement in reversed(tree.body):  # the last one is in force
        targets = statement.targets if isinstance(statement, ast.Assign) else []
        if isinstance(statement, ast.AnnAssign) and statement.value is not None:
            targets = [statement.target]
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            return statement  # type: ignore[return-value]  # only assignments have targets
    return None


def _literal(tree: ast.Module, name: str) -> object:
    statement = _assignment(tree, name)
    if statement is None or statement.value is None:
        return _NOT_WRITTEN
    try:
        return ast.literal_eval(statement.value)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return _NOT_WRITTEN


def _names(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    return tuple(str(name) for name in value) if isinstance(value, (tuple, list)) else ()


def place(source: Source, name: str) -> int:
    """The line of an assignment, or where it would begin: below the docstring."""
    statement = _assignment(source.tree, name)
    return statement.lineno if statement else source.below_docstring


def _function(tree: ast.Module, name: str) -> ast.FunctionDef | None:
    return next((node for node in reversed(tree.body) if isinstance(node, ast.FunctionDef) and node.name == name), None)


def _is_empty(function: ast.FunctionDef) -> bool:
    """Whether a function does nothing: only constants and ``pass`` before its end, a ``return`` or, going back, a ``raise``."""
    for statement in function.body:
        value = getattr(statement, "value", None)
        if isinstance(statement, ast.Raise):
            return function.name == "downgrade" or "NotImplementedError" in ast.unparse(statement)
        if isinstance(statement, ast.Return) and (value is None or _is_constant(value)):
            return True
        if not (isinstance(statement, ast.Pass) or _is_constant(value)):
            return False
    return True


def _is_constant(value: object) -> bool:
    return isinstance(value, ast.Constant)
