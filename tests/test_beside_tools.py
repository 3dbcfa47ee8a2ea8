"""What people test and write their migrations with keeps working under guard: pytest-alembic, alembic-utils.

Neither is a dependency of ours. PLANNER_TEST_TOOLS names a virtual environment that has both, and what the guard needs.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import alembic
import pytest

from tests.conftest import ROOT, Database, Project

pytestmark = pytest.mark.long

STOCK = Path(alembic.__file__).parent / "templates" / "generic" / "script.py.mako"
CONFTEST = '''
import uuid

import pytest
import sqlalchemy as sa

ADMIN = sa.make_url("postgresql+psycopg2:///postgres")  # PGHOST says where


@pytest.fixture
def alembic_engine():
    """As the package's documentation shows: an engine of a database that nobody else uses."""
    name = f"t_{{uuid.uuid4().hex[:12]}}"
    admin = sa.create_engine(ADMIN, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {{name}}")
    engine = {made}
    yield engine
    {ended}
    with admin.connect() as connection:
        connection.exec_driver_sql(f"DROP DATABASE {{name}}")
    admin.dispose()
'''
ENGINES = {
    "psycopg2": ("sa.create_engine(ADMIN.set(database=name))", "engine.dispose()"),
    "psycopg": ('sa.create_engine(ADMIN.set(database=name, drivername="postgresql+psycopg"))', "engine.dispose()"),
    "asyncpg": (
        '__import__("sqlalchemy.ext.asyncio").ext.asyncio.create_async_engine('
        'ADMIN.set(database=name, drivername="postgresql+asyncpg"))',
        "pass",
    ),
}
MODELS = """
import sqlalchemy as sa

metadata = sa.MetaData()
sa.Table("users", metadata, sa.Column("id", sa.Integer, primary_key=True), sa.Column("name", sa.Text),
         sa.Column("kind", sa.Enum("a", "b", name="kind")), sa.Column("mail", sa.Text))
"""
ENV = """\
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import models
from alembic import context

from mcp_planner_schema.guard import run

target_metadata = models.metadata
run(context, target_metadata)
"""


def python(module: str) -> str:
    """An interpreter that has the package; the test is skipped where there is none."""
    if importlib.util.find_spec(module):
        return sys.executable
    named = os.environ.get("PLANNER_TEST_TOOLS")
    if not named:
        pytest.skip(f"{module} is not installed here, and PLANNER_TEST_TOOLS names no environment that has it")
    return str(Path(named) / "bin" / "python")


def call(interpreter: str, project: Project, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A module of that environment, in the project's folder."""
    return subprocess.run(
        [interpreter, "-m", *arguments], cwd=project.folder, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **environment},
    )  # fmt: skip


@pytest.fixture
def tested(empty: Database, project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project under guard that pytest-alembic is to test, with an enum, a merge of headers and rows, and its models."""
    (project.folder / "alembic" / "env.py").write_text(ENV)
    (project.folder / "alembic" / "models.py").write_text(MODELS)
    project.revision(
        "001", "create_users",
        'op.create_table("users", sa.Column("id", sa.Integer, primary_key=True), sa.Column("name", sa.Text), '
        'sa.Column("kind", sa.Enum("a", "b", name="kind")))',
        'op.drop_table("users")\nop.execute("DROP TYPE kind")',
    )  # fmt: skip
    project.revision(
        "002", "add_mail", 'op.add_column("users", sa.Column("mail", sa.Text))', 'op.drop_column("users", "mail")'
    )
    project.revision("003", "fill_users", "op.execute(\"INSERT INTO users (id, name) VALUES (1, 'a')\")",
                     'op.execute("DELETE FROM users WHERE id = 1")', type="data", phase="migrate")  # fmt: skip
    engine(project, "psycopg2")
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/the_engine_counts")
    for name, value in (("PGHOST", empty.host), ("PGPORT", str(empty.port)), ("PGUSER", empty.user)):
        monkeypatch.setenv(name, value)
    return project


def engine(project: Project, driver: str) -> None:
    """Write the fixture that gives the engine, and which tests are to be there."""
    made, ended = ENGINES[driver]
    (project.folder / "tests").mkdir(exist_ok=True)
    (project.folder / "tests" / "conftest.py").write_text(CONFTEST.format(made=made, ended=ended))
    (project.folder / "pytest.ini").write_text(
        "[pytest]\npythonpath = alembic\npytest_alembic_include_experimental =\n    all_models_register_on_metadata\n"
    )


@pytest.mark.parametrize("driver", ENGINES)
def test_pytest_alembics_own_tests(tested: Project, driver: str) -> None:
    """All that it has by default pass with the engine of its documentation, of another driver, and an asynchronous one."""
    interpreter = python("pytest_alembic")
    engine(tested, driver)

    done = call(interpreter, tested, "pytest", "--test-alembic", "-q", "-rA", "-p", "no:cacheprovider")

    assert done.returncode == 0, done.stdout
    assert set(re.findall(r"PASSED \S+::test_(\w+)", done.stdout)) == {
        "single_head_revision", "upgrade", "model_definitions_match_ddl", "up_down_consistency",
        "all_models_register_on_metadata",
    }  # fmt: skip


def test_pytest_alembic_says_what_differs(tested: Project) -> None:
    """Models with one more column: its own failure, with the revision that is missing; nothing of the guard's around it."""
    interpreter = python("pytest_alembic")
    models = tested.folder / "alembic" / "models.py"
    models.write_text(
        models.read_text().replace(
            'sa.Column("mail", sa.Text)', 'sa.Column("mail", sa.Text), sa.Column("age", sa.Integer)'
        )
    )

    done = call(interpreter, tested, "pytest", "--test-alembic", "-q", "-p", "no:cacheprovider")

    assert done.returncode == 1
    assert "1 failed, 4 passed" in done.stdout
    assert (
        "out of sync with the set of steps" in done.stdout and "op.add_column('users', sa.Column('age'" in done.stdout
    )
    assert "cannot be loaded" not in done.stdout


def test_a_caller_who_holds_a_transaction_is_told(tested: Project) -> None:
    """The experimental test that runs all in one transaction of its own is refused in a sentence that says why."""
    interpreter = python("pytest_alembic")
    (tested.folder / "pytest.ini").write_text(
        "[pytest]\npytest_alembic_include_experimental =\n    downgrade_leaves_no_trace\n"
    )

    done = call(interpreter, tested, "pytest", "--test-alembic", "-q", "-p", "no:cacheprovider", "-k", "no_trace")

    assert done.returncode == 1
    assert "Refused" in done.stdout and "external-transaction" in done.stdout, done.stdout


# --- alembic-utils ------------------------------------------------------------------------------------------------------

ENTITIES = """
from alembic_utils.pg_function import PGFunction
from alembic_utils.pg_trigger import PGTrigger
from alembic_utils.pg_view import PGView
from alembic_utils.replaceable_entity import register_entities

register_entities([
    PGFunction(schema="public", signature="shout()",
               definition="returns trigger language plpgsql as $$ begin new.name := upper(new.name); return new; end $$"),
    PGTrigger(schema="public", signature="shouting", on_entity="public.users",
              definition="BEFORE INSERT ON public.users FOR EACH ROW EXECUTE FUNCTION public.shout()"),
    PGView(schema="public", signature="names", definition="SELECT id, name FROM users WHERE id > 0"),
])
"""


def test_entities_of_alembic_utils(empty: Database, project: Project) -> None:
    """Autogenerate writes them, up makes them, an edited one is replaced and put back, drift and fingerprints know them."""
    interpreter = python("alembic_utils")
    project.configure(headers="optional")
    env = project.folder / "alembic" / "env.py"
    (project.folder / "alembic" / "models.py").write_text(MODELS)
    env.write_text(ENV)
    (project.folder / "alembic" / "script.py.mako").write_text(STOCK.read_text())
    (project.folder / "alembic" / "fingerprints").touch()

    def alembic(*arguments: str) -> str:
        done = call(interpreter, project, "alembic", *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    alembic("revision", "--autogenerate", "-m", "tables", "--rev-id", "a1")
    alembic("upgrade", "head")
    env.write_text(ENV.replace("target_metadata =", ENTITIES + "\ntarget_metadata ="))
    alembic("revision", "--autogenerate", "-m", "entities", "--rev-id", "b2")
    entities = next(project.versions.glob("b2_*")).read_text()
    alembic("upgrade", "head")
    empty.rows("INSERT INTO users (id, name) VALUES (1, 'jane')")
    env.write_text(env.read_text().replace("id > 0", "id >= 0").replace("upper(", "lower("))
    alembic("revision", "--autogenerate", "-m", "changed", "--rev-id", "c3")
    alembic("upgrade", "head")
    view = "SELECT pg_get_viewdef('names'::regclass)"
    changed = empty.value(view)
    nothing = alembic("check")
    alembic("downgrade", "-1")
    before = empty.value(view)
    drift = call(interpreter, project, "mcp_planner_schema", "migrate-drift").stdout
    alembic("downgrade", "a1")
    gone = empty.rows("SELECT to_regclass('names'), to_regproc('shout'), count(*) FROM pg_trigger WHERE NOT tgisinternal "
                      "AND tgrelid = 'users'::regclass")  # fmt: skip
    alembic("upgrade", "head")

    assert "create_entity" in entities and "PGTrigger" in entities and "PGView" in entities
    assert "id >= 0" in changed and "id > 0" in before and "No new upgrade operations" in nothing
    assert empty.rows("SELECT id, name FROM names") == [(1, "JANE")]
    assert gone == [(None, None, 0)]
    assert "as the revisions have made it" in drift, drift
    assert "c3" in (project.folder / "alembic" / "fingerprints").read_text()
