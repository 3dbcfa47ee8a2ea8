"""docs/cookbook.md does what it says: its code is taken out of the page and run."""

from __future__ import annotations

import ast
import re
import shlex
from dataclasses import dataclass

import pytest
import sqlalchemy as sa
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from mcp_planner_schema.guard import judge, settings
from mcp_planner_schema.guard.findings import Refused
from mcp_planner_schema.inspect import lint, table_stats
from mcp_planner_schema.inspect.table_stats import TableStats
from tests.catalog import difference
from tests.conftest import ROOT, Project, some
from tests.test_generate import AtWork, Way, shape, way

__all__ = ["way"]  # a fixture
PAGE = (ROOT / "docs" / "cookbook.md").read_text(encoding="utf-8")
[TABLES] = re.findall(r"^```sql\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
COUNT = 6000
ROWS = f"""
INSERT INTO projects SELECT n, 'project ' || n FROM generate_series(1, 10) AS n;
INSERT INTO tasks (id, project, title, code, points, note)
SELECT n, 1 + n % 10, 'title ' || n, 'code ' || n, n % 8, 'note ' || n
FROM generate_series(1, {COUNT}) AS n
"""
# A row without points gets some by Make a column NOT NULL, and keeps them.
NONE = "UPDATE tasks SET points = NULL WHERE id % 10 = 0"
KEPT = f"""
SELECT id, project, title, code, coalesce(points, 0), state::text, note FROM tasks WHERE id <= {COUNT} ORDER BY id
"""
LOCKS = """
SELECT c.relname, l.mode FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
WHERE l.pid = pg_backend_pid() AND c.relname IN ('tasks', 'projects') AND l.mode NOT IN ('AccessShareLock', 'RowShareLock')
"""
FILE = "SELECT relfilenode FROM pg_class WHERE relname = 'tasks'"
READ = "SELECT seq_tup_read FROM pg_stat_xact_user_tables WHERE relname = 'tasks'"


@dataclass(frozen=True)
class Recipe:
    """A section of the page: what people write, what the page says of it, and what to write instead."""

    name: str
    before: str
    said: str
    instead: str
    after: str

    @property
    def codes(self) -> list[str]:
        """The findings that the page names."""
        return re.findall(r"\[`([a-z-]+)`\]\(findings\.md#\1\)", self.said)

    @property
    def locks(self) -> dict[str, str]:
        """The lock that the page names, for each table."""
        found = re.match(r"`([A-Z ]+)` on (\w+)(?: and (\w+))?", self.said)
        if not found:
            assert self.said.startswith("No lock on a table.")
            return {}
        mode = found[1].title().replace(" ", "") + "Lock"
        return {table: mode for table in found.groups()[1:] if table}

    @property
    def values(self) -> dict[str, str]:
        """What is given to ``make migrate-create``; nothing where the page shows a revision."""
        command, *given = shlex.split(self.after) if self.after.startswith("make ") else ["", ""]
        return dict(one.split("=", 1) for one in given[1:]) if command else {}


_SECTION = re.compile(
    r"^## (?P<name>[^\n]+)\n\n```python\n(?P<before>.*?)```\n\n(?P<said>.*?)\n\n(?P<instead>Instead.*?)\n\n"
    r"```(?:python|sh)\n(?P<after>.*?)```$",
    re.MULTILINE | re.DOTALL,
)
RECIPES = [
    Recipe(
        **{
            name: " ".join(text.split()) if name in ("said", "instead") else text
            for name, text in found.groupdict().items()
        }
    )
    for found in _SECTION.finditer(PAGE)
]
each = pytest.mark.parametrize("recipe", RECIPES, ids=lambda one: one.name)


def parts(code: str) -> tuple[str, str, str]:
    """Expectations, upgrade and downgrade of a revision's code, as :meth:`Project.revision` takes them."""
    tree = ast.parse(code)
    expectations, upgrade, downgrade = tree.body
    assert isinstance(expectations, ast.Assign) and isinstance(expectations.value, ast.List)
    assert isinstance(upgrade, ast.FunctionDef) and isinstance(downgrade, ast.FunctionDef)
    listed = ", ".join(map(ast.unparse, expectations.value.elts))
    return listed, *("\n".join(map(ast.unparse, body.body)) for body in (upgrade, downgrade))


def large(project: Project) -> None:
    """Say that the tables are large and in use since revision 001."""
    sizes = {f"public.{name}": table_stats.SMALL * 100 for name in ("tasks", "projects")}
    text = table_stats.text(TableStats(("001",), "18.0", sizes, dict.fromkeys(sizes, 1)))
    table_stats.place(project.folder / "alembic").write_text(text)


def findings(project: Project, *, warnings: bool) -> list[str]:
    """The codes of what ``make migrate-validate`` refuses in the revisions after 001, and of what it warns of."""
    config = project.config()
    script = ScriptDirectory.from_config(config)
    judged = judge.judge_all(script, settings.load(config, {}))
    found = [one.code for file in judged for one in file.findings]
    sql = lint.lint(config, script, judged, judge.today())
    return found + [one.code for one in (*sql.findings, *(sql.warnings if warnings else ()))]


def test_the_page_has_twelve_changes() -> None:
    """Each section of the page is one that is run, so none can be there untested."""
    headings = re.findall(r"^## (.+)$", PAGE, re.MULTILINE)

    assert len(RECIPES) == 12
    assert [recipe.name for recipe in RECIPES] == headings[:-1]
    assert headings[-1] == "And the others"


@each
def test_as_people_write_it(way: Way, recipe: Recipe) -> None:
    """It takes the lock that the page names, reads or writes rows where the page says so, and gets the finding."""
    way.begin(TABLES)
    way.database.rows(ROWS)
    large(way.project)
    way.project.revision("002", "alter_tasks", recipe.before, 'op.execute("SELECT 1")')
    engine = sa.create_engine(way.database.url)

    with engine.connect() as connection:

        def run() -> None:
            op = Operations(MigrationContext.configure(connection))
            exec(recipe.before, {"op": op, "sa": sa})

        file = connection.exec_driver_sql(FILE).scalar()
        try:
            run()
        except sa.exc.IntegrityError:
            assert "It fails" in recipe.said
            connection.rollback()
            connection.exec_driver_sql("DELETE FROM tasks")
            run()
        locked = list(connection.exec_driver_sql(LOCKS))
        rewritten = connection.exec_driver_sql(FILE).scalar() != file
        read = connection.exec_driver_sql(READ).scalar()
        connection.rollback()
    engine.dispose()

    strongest = {table: max((mode for name, mode in locked if name == table), key=ORDER.index) for table, _ in locked}
    assert {table: mode for table, mode in strongest.items() if mode != "RowExclusiveLock"} == recipe.locks
    assert rewritten == ("writes every row anew" in recipe.said)
    assert "fails" in recipe.said or (int(str(read)) >= COUNT) == ("every row" in recipe.said)
    assert findings(way.project, warnings=True) == recipe.codes != []


ORDER = [
    f"{name}Lock"
    for name in ("RowExclusive", "ShareUpdateExclusive", "Share", "ShareRowExclusive", "Exclusive", "AccessExclusive")
]


@pytest.mark.parametrize("recipe", some(RECIPES), ids=lambda one: one.name)
def test_instead(way: Way, recipe: Recipe) -> None:
    """On a table with rows, and with somebody at work, it goes up, down and up again; nothing fails, no value is lost."""
    way.begin(TABLES)
    way.database.rows(ROWS)
    way.database.rows(NONE)
    large(way.project)
    kept, first = way.database.rows(KEPT), shape(way)
    keys = iter(range(COUNT + 1, 10**6))

    def works() -> None:
        key = next(keys)
        way.ask("INSERT INTO tasks (id) VALUES (%s)", key)
        for row in (key, key % COUNT):
            way.ask("UPDATE tasks SET touched = touched + 1 WHERE id = %s", row)
        way.ask("DELETE FROM tasks WHERE id = %s", key)

    if recipe.values:
        paths = way.write(**recipe.values)
        forward_only = [path for path in paths if "Reversible: forward-only" in path.read_text()]
    else:
        listed, upgrade, downgrade = parts(recipe.after)
        none = "`Transaction: none`" in recipe.instead
        way.project.revision(
            "002", "alter_tasks", upgrade, downgrade, expectations=listed, transaction="none" if none else "single"
        )
        way.numbers, forward_only = ["001", "002"], []
    assert findings(way.project, warnings=False) == []
    top = len(way.numbers) - 1 - len(forward_only)
    person = AtWork(works)
    person.go_on()

    way.to(top)
    there = shape(way)
    way.to(0)
    assert way.database.rows(KEPT) == kept
    left = difference(first, shape(way))
    way.to(top)
    assert difference(there, shape(way)) == []
    for _ in forward_only:
        way.to(top + 1)
        with pytest.raises(Refused, match="are gone"):
            way.to(top)

    person.go_on()
    person.stop()
    assert (left != []) == ("leaves the value" in recipe.instead), left
    assert bool(forward_only) == ("cannot be undone" in recipe.instead)
    print(f"{recipe.name}: {person.rounds} rounds, the longest {person.longest * 1000:.0f} ms")
    assert person.longest < 2
