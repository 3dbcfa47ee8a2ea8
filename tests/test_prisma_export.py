"""``make migrate-export FORMAT=prisma``: what the database is like, in words that Prisma's own programs accept.

Prisma's validator, its formatter and its ``db pull`` come from ``PLANNER_TEST_PRISMA``; what is committed below
``prisma_schemas`` was accepted by them, and is compared where they cannot be had.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mcp_planner_schema.guard import connect
from mcp_planner_schema.guard.address import parse
from mcp_planner_schema.interop.prisma import export
from tests import prisma
from tests.conftest import Database
from tests.prisma import Prisma

SCHEMAS = Path(__file__).parent / "prisma_schemas"
real = pytest.mark.skipif(bool(prisma.MISSING), reason=prisma.MISSING)
pulls = pytest.mark.skipif(bool(prisma.CANNOT_PULL), reason=prisma.CANNOT_PULL)


def exported(database: Database) -> str:
    """The text of schema.prisma."""
    engine = connect.engine(parse(database.url).set(drivername="postgresql+psycopg2"), "the test")
    with connect.opened(engine) as connection:
        return export.schema(connection, "migration", ("public", "alembic_version"))


@pytest.fixture(scope="module")
def program() -> Iterator[Prisma]:
    """Prisma, as long as this file's tests."""
    with Prisma() as running:
        yield running


@pytest.fixture
def filled(new_database: Callable[[], Database]) -> Callable[[str], Database]:
    """Makes a database from one of the committed schemas."""

    def fill(name: str) -> Database:
        made = new_database()
        made.rows((SCHEMAS / f"{name}.sql").read_text(encoding="utf-8"))
        return made

    return fill


def block(text: str, word: str) -> str:
    """One model or enum with what is said above it."""
    found = re.search(rf"((?:^//.*\n)*^{re.escape(word)} {{\n(?:.*\n)*?}}\n)", text, re.MULTILINE)
    assert found, word
    return found[1]


def spoken(text: str) -> list[str]:
    """The lines that say something, without what is a comment, and with single spaces."""
    lines = (re.sub(r"\s+", " ", line.strip()) for line in text.split("\n"))
    return [line for line in lines if line and not line.startswith("//")]


# --- what is written --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["every_kind", "several"])
def test_the_file_is_the_committed_one(name: str, filled: Callable[[str], Database]) -> None:
    """Types, keys, relations, defaults, indexes, names and all that is left out: byte for byte, and twice the same."""
    database = filled(name)
    committed = (SCHEMAS / f"{name}.prisma").read_text(encoding="utf-8")

    first, again = exported(database), exported(database)

    assert first == committed and again == first


@real
@pytest.mark.parametrize("name", ["every_kind", "several"])
def test_the_committed_file_is_valid_and_well_formed(name: str, program: Prisma) -> None:
    """Prisma's validator accepts it, and its formatter leaves each byte where it is."""
    committed = (SCHEMAS / f"{name}.prisma").read_text(encoding="utf-8")

    checked = program.check(committed)

    assert checked.error is None and checked.formatted == committed


@real
def test_the_planners_own_schema(database: Database, program: Prisma) -> None:
    """At head: every table but Alembic's and the guard's, relations both ways, and what it has besides stands in comments."""
    tables = {name for (name,) in database.rows(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')"
        " AND NOT relispartition AND relname <> 'alembic_version'"
    )}  # fmt: skip

    text = exported(database)
    checked = program.check(text)

    assert checked.error is None and checked.formatted == text
    assert {one["table"] for one in checked.models["models"]} == tables
    tasks = block(text, "model tasks")
    assert re.search(r"^  other_tasks +tasks\[\] +@relation\(\"tasksTotasks\"\)$", tasks, re.MULTILINE)
    assert 'onDelete: Cascade, onUpdate: NoAction, map: "fk_tasks_project_id_projects"' in tasks
    assert "//   partial index: CREATE UNIQUE INDEX uq_tasks_project_id_title_root" in tasks
    assert "disputes[]" in block(text, "model steps")  # one is pending at a time, but there may be many
    assert "PARTITION BY RANGE (occurred_at)" in block(text, "model audit_logs")
    assert "migration" not in text.replace("make migrate-export", "").replace("by migrations", "")


# --- like Prisma's own ------------------------------------------------------------------------------------------------


@pulls
def test_it_reads_as_db_pull_does(database: Database, program: Prisma) -> None:
    """The planner's schema as ``prisma db pull`` writes it, but for partial indexes, which need a preview feature there."""
    pulled = spoken(program.pull(database.url.replace("@/", "@localhost/")))

    ours = spoken(exported(database))

    start = pulled.index("model alembic_version {")
    del pulled[start : pulled.index("}", start) + 1]
    same = [line.replace("disputes disputes?", "disputes disputes[]") for line in pulled if " where: raw(" not in line]
    assert ours == same


@pulls
def test_several_schemas_read_as_db_pull_does(filled: Callable[[str], Database], program: Prisma) -> None:
    """Models, enums and keys across schemas, and the names that are there twice."""
    database = filled("several")

    pulled = spoken(program.pull(database.url.replace("@/", "@localhost/"), ["app", 'odd "schema', "public"]))

    assert spoken(exported(database)) == pulled


@pulls
def test_what_differs_from_db_pull_is_known(filled: Callable[[str], Database], program: Prisma) -> None:
    """Everything else of a schema with every kind is word for word what ``prisma db pull`` writes."""
    database = filled("every_kind")
    pulled = spoken(program.pull(database.url.replace("@/", "@localhost/")))

    ours = spoken(exported(database))

    differing = (SCHEMAS / "every_kind.differs").read_text(encoding="utf-8").split("\n")
    assert changed(pulled, ours) == [line for line in differing if line and not line.startswith("#")]


def changed(before: list[str], after: list[str]) -> list[str]:
    """What a comparison line by line shows."""
    from difflib import ndiff

    return [line for line in ndiff(before, after) if line[0] in "-+"]
