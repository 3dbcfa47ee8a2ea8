"""Imports go one way, as ARCHITECTURE draws it; told by reading the source, not by running it."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "mcp_planner_schema"
FILES = sorted(path for path in PACKAGE.rglob("*.py"))


def module(path: Path) -> str:
    """The dotted name of a file."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module(path): path for path in FILES}


def imported(path: Path, *, whole: bool) -> set[str]:
    """Our own modules that a file imports: anywhere in it (``whole``), or at the level of the module, types aside."""
    tree = ast.parse(path.read_text())
    nodes: list[ast.AST] = list(ast.walk(tree)) if whole else list(tree.body)
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join(
                    [
                        *module(path).split(".")[: -node.level + (path.name == "__init__.py") or None],
                        *filter(None, [base]),
                    ]
                )
            found |= {f"{base}.{name.name}" if f"{base}.{name.name}" in MODULES else base for name in node.names}
    return {name for name in found if name.split(".")[0] == "mcp_planner_schema"}


def part(name: str) -> str:
    """The part of the package that a module belongs to: guard, models, cli …"""
    return name.split(".")[1] if "." in name else ""


MAY_USE = {
    "": {"compatible"},  # check_compatible, loaded when it is asked for
    "compatible": {"compatible"},  # an application that starts loads nothing else of ours
    "models": {"models"},
    # The version number, the server for someone who has none, what revisions are to each other, and who listens to a run.
    "guard": {"guard", "", "embedded", "compatible", "telemetry"},
    "backfill": {"backfill", "guard"},
    "operations": {"operations", "backfill", "guard"},
    "inspect": {"inspect", "guard", "backfill", "operations", "models", "compatible", ""},
    "embedded": {"embedded"},
    "interop": {"interop", "inspect", "operations", "guard"},
}


@pytest.mark.parametrize("path", FILES, ids=module)
def test_each_part_uses_only_what_lies_below_it(path: Path) -> None:
    """Models import nothing of ours, the guard no models, operations, inspect, interop or cli, wherever the import stands."""
    own = part(module(path))
    allowed = MAY_USE.get(own)
    if path.name == "__main__.py" or allowed is None:
        allowed = {part(name) for name in MODULES}  # the ends of the chain: cli and what it alone calls

    assert {part(name) for name in imported(path, whole=True)} <= allowed


def test_the_guard_knows_of_telemetry_in_one_place_and_only_where_it_is_asked_for() -> None:
    """listening.py alone imports it, within its functions; and what it imports uses nothing but the guard."""
    of_the_guard = {name: path for name, path in MODULES.items() if part(name) == "guard"}
    knows = {name for name, path in of_the_guard.items() if "telemetry" in map(part, imported(path, whole=True))}

    assert knows == {"mcp_planner_schema.guard.listening"}
    assert "telemetry" not in map(part, imported(MODULES["mcp_planner_schema.guard.listening"], whole=False))
    for name in ("metrics", "textfile", "push", "serve", "state", "running"):
        used = {part(one) for one in imported(MODULES[f"mcp_planner_schema.telemetry.{name}"], whole=True)}
        assert used <= {"guard", "telemetry", ""}


@pytest.mark.parametrize("own", ["guard", "models", "backfill", "operations", "inspect", "interop"])
def test_modules_of_a_part_import_each_other_one_way(own: str) -> None:
    """Within a part there is an order in which the modules could have been written: no cycle when they are loaded."""
    uses = {
        name: {other for other in imported(path, whole=False) if part(other) == own and other != name}
        for name, path in MODULES.items()
        if part(name) == own and path.name != "__init__.py"
    }

    try:
        order = list(TopologicalSorter(uses).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))

    assert order


def test_the_guards_first_stations_come_in_their_order() -> None:
    """From rule and findings_lint to body, judge and graph: none of them knows a later one."""
    stations = [
        f"mcp_planner_schema.guard.{name}"
        for name in (
            "rule",
            "findings_lint",
            "findings_backfill",
            "findings_catalog",
            "findings_versions",
            "findings_preflight",
            "findings_staging",
            "findings_sql",
            "findings_environment",
            "findings",
            "address",
            "environments",
            "declared",
            "env_file",
            "given",
            "settings",
            "committing",
            "lexer",
            "sql_file",
            "source",
            "header",
            "body",
            "script",
            "script_calls",
            "sql_alone",
            "sql_body",
            "sql_body_calls",
            "judge",
        )
    ]

    for number, name in enumerate(stations):
        guards = {other for other in imported(MODULES[name], whole=True) if part(other) == "guard"}
        assert guards <= set(stations[:number])


def test_env_py_is_a_table_of_contents() -> None:
    """env.py imports run and the metadata, calls one with the other, and nothing else."""
    tree = ast.parse((ROOT / "alembic" / "env.py").read_text())

    kinds = [type(node).__name__ for node in tree.body]

    assert kinds == ["Expr", "ImportFrom", "ImportFrom", "ImportFrom", "Expr"]
    assert ast.unparse(tree.body[-1]) == "run(context, target_metadata=metadata)"


def test_the_folder_alembic_is_no_package() -> None:
    """An __init__.py below alembic/ would shadow the library."""
    assert list((ROOT / "alembic").rglob("__init__.py")) == []


@pytest.mark.parametrize("name", ["utils", "util", "helpers", "helper", "common", "base", "manager", "misc"])
def test_no_module_is_named_after_nothing(name: str) -> None:
    """A module is named after what it does."""
    assert [path for path in (*FILES, *(ROOT / "tests").rglob("*.py")) if path.stem == name] == []


@pytest.mark.parametrize("path", FILES, ids=module)
def test_every_module_says_what_it_is(path: Path) -> None:
    """The first line of each module is a sentence for its reader."""
    assert ast.get_docstring(ast.parse(path.read_text()))
