"""The body of a revision: what its code says without being run."""

from __future__ import annotations

import ast
import itertools
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from mcp_planner_schema.guard.findings import Finding
from mcp_planner_schema.guard.header import Header, line_of
from mcp_planner_schema.guard.settings import Settings, duration
from mcp_planner_schema.guard.source import Source

ALLOWED_IMPORTS = ("alembic", "sqlalchemy", "mcp_planner_schema.operations")
BUDGET_NAMES = ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout")
_NOT_WRITTEN = object()


@dataclass(frozen=True)
class Identity:
    """Where a file stands in the history: Alembic's own three names, read as literals."""

    revision: str | None
    down_revision: tuple[str, ...]
    depends_on: tuple[str, ...]

    @property
    def parents(self) -> tuple[str, ...]:
        """Every revision that must come before this one."""
        return self.down_revision + self.depends_on


def identity(source: Source) -> Identity:
    """Read ``revision``, ``down_revision`` and ``depends_on``. What is no literal is taken as missing."""
    revision = _literal(source.tree, "revision")
    return Identity(
        revision if isinstance(revision, str) else None,
        _names(_literal(source.tree, "down_revision")),
        _names(_literal(source.tree, "depends_on")),
    )


def budgets(source: Source) -> dict[str, int]:
    """The revision's own ``budgets = {"lock_timeout": "500ms", …}`` in milliseconds; empty where there are none."""
    written = _literal(source.tree, "budgets")
    return {name: duration(value) for name, value in written.items()} if isinstance(written, dict) else {}


def judge(source: Source, header: Header, settings: Settings) -> list[Finding]:
    """Every finding against the code of one revision whose header is in order. Runs nothing."""
    return [
        *_identity(source, header),
        *_functions(source, header),
        *_expectations(source),
        *_order(source),
        *_imports(source, header, settings),
        *_environment_reads(source, header),
        *_budgets(source, header),
        *_transaction(source, header),
    ]


def _finding(source: Source, line: int, code: str, /, **values: object) -> Finding:
    version = source.path.name.split("_")[0]
    return Finding(code, f"{source.shown}:{line}", version, {key: str(value) for key, value in values.items()})


def _identity(source: Source, header: Header) -> Iterator[Finding]:
    found = identity(source)
    number = source.path.name.removesuffix(".py").split("_")[0]
    if found.revision is None:
        yield _finding(source, 1, "revision-missing", name="revision", example=repr(header.version))
        return
    if _assignment(source.tree, "down_revision") is None:
        example = repr(header.dependencies[0]) if header.dependencies else "None"
        yield _finding(source, 1, "revision-missing", name="down_revision", example=example)
        return
    if not header.version == found.revision == number:
        yield _finding(source, line_of(source, "Version"), "header-version", version=header.version,
                       revision=found.revision, number=number)  # fmt: skip
    if sorted(header.dependencies) != sorted(found.parents):
        yield _finding(source, line_of(source, "Dependencies"), "header-dependencies",
                       value=", ".join(header.dependencies) or "None", real=", ".join(found.parents) or "None")  # fmt: skip


def _functions(source: Source, header: Header) -> Iterator[Finding]:
    end = source.text.count("\n") + 1
    upgrade, downgrade = _function(source.tree, "upgrade"), _function(source.tree, "downgrade")
    if upgrade is None or _is_empty(upgrade):
        yield _finding(source, upgrade.lineno if upgrade else end, "upgrade-missing")
    if header.reversible != "forward-only" and (downgrade is None or _is_empty(downgrade)):
        yield _finding(source, downgrade.lineno if downgrade else end, "downgrade-missing")


def _expectations(source: Source) -> Iterator[Finding]:
    for name in ("expectations", "expectations_down"):
        statement = _assignment(source.tree, name)
        if statement is None and name == "expectations_down":
            continue
        if statement is None or not isinstance(statement.value, ast.List) or not statement.value.elts:
            yield _finding(source, statement.lineno if statement else 1, "expectation-missing", name=name)


def _order(source: Source) -> Iterator[Finding]:
    places: dict[str, int] = {}
    expectations = _assignment(source.tree, "expectations")
    if expectations is not None:
        places["expectations"] = expectations.lineno
    for name in ("upgrade", "downgrade"):
        function = _function(source.tree, name)
        if function is not None:
            places[name + "()"] = function.lineno
    names = list(places)
    for first, second in itertools.pairwise(names):
        if places[first] > places[second]:
            yield _finding(source, places[second], "order-of-parts", first=first, second=second)


def _imports(source: Source, header: Header, settings: Settings) -> Iterator[Finding]:
    allowed = ALLOWED_IMPORTS + settings.allowed_imports
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            modules = [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            modules = [f"{module}.{name.name}" if module == "mcp_planner_schema" else module for name in node.names[:1]]
        else:
            continue
        for module in modules:
            if module.split(".")[0] in sys.stdlib_module_names:
                continue
            if not any(module == name or module.startswith(name + ".") for name in allowed):
                yield _finding(source, node.lineno, "import-application", module=module, allowed=", ".join(allowed))


def _environment_reads(source: Source, header: Header) -> Iterator[Finding]:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv") and isinstance(node.value, ast.Name):
            yield _finding(source, node.lineno, "settings-read", name=f"{node.value.id}.{node.attr}")


def _budgets(source: Source, header: Header) -> Iterator[Finding]:
    statement = _assignment(source.tree, "budgets")
    if statement is None:
        return
    written = _literal(source.tree, "budgets")
    if not isinstance(written, dict):
        yield _finding(
            source, statement.lineno, "budget-invalid", name="budgets", value="…", problem="it is no dict of literals"
        )
        return
    for name, value in written.items():
        problem = "" if name in BUDGET_NAMES else f"known are {', '.join(BUDGET_NAMES)}"
        try:
            duration(value if isinstance(value, str) else "")
        except ValueError as error:
            problem = problem or str(error)
        if problem:
            yield _finding(source, statement.lineno, "budget-invalid", name=name, value=value, problem=problem)


def _transaction(source: Source, header: Header) -> Iterator[Finding]:
    blocks = [
        node.lineno
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Attribute) and node.attr == "autocommit_block"
    ]
    if blocks and header.transaction == "single":
        yield _finding(source, blocks[0], "transaction-mismatch", value="single", problem="uses autocommit_block()",
                       instead="Transaction: none, with nothing in the body but what may run twice")  # fmt: skip


def _assignment(tree: ast.Module, name: str) -> ast.Assign | ast.AnnAssign | None:
    for statement in tree.body:
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


def _function(tree: ast.Module, name: str) -> ast.FunctionDef | None:
    return next((node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name), None)


def _is_empty(function: ast.FunctionDef) -> bool:
    """Whether a function does nothing: docstring, ``pass``, ``...``, ``return``, or only raises NotImplementedError."""
    for statement in function.body:
        if isinstance(statement, ast.Pass) or (
            isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
        ):
            continue
        if isinstance(statement, ast.Return) and (statement.value is None or isinstance(statement.value, ast.Constant)):
            continue
        if isinstance(statement, ast.Raise) and "NotImplementedError" in ast.dump(statement):
            continue
        return False
    return True
