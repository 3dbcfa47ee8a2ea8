"""Enums that ``op.create_table()`` makes by itself: once, and where they are missing, whatever the guard does twice."""

from __future__ import annotations

from tests.conftest import Database, Project

TABLE = 'op.create_table("{}", sa.Column("id", sa.Integer, primary_key=True), sa.Column("kind", sa.Enum("a", "b", name="kind")))'
FIRST, SECOND = TABLE.format("first"), TABLE.format("second")
DROPPED = 'op.drop_table("first")\nop.execute("DROP TYPE kind")'


def test_a_downgrade_that_creates_a_table_makes_its_enum(empty: Database, project: Project) -> None:
    """Its body is tried before it is run: the type is made for real all the same, alone and in a downgrade of several steps."""
    project.revision("001", "create_first", FIRST, DROPPED)
    project.revision("002", "drop_first", DROPPED, FIRST, phase="contract")
    project.revision(
        "003", "create_third", 'op.execute("CREATE TABLE third (id int PRIMARY KEY)")', 'op.drop_table("third")'
    )
    there = "SELECT to_regtype('kind')::text"
    project.upgrade("003")
    gone = empty.value(there)
    project.downgrade("002")
    project.downgrade("001")
    alone = empty.value(there)
    project.upgrade("003")
    project.downgrade("001")

    assert (gone, alone, empty.value(there)) == (None, "kind", "kind")
    assert empty.value("SELECT to_regclass('first')::text") == "first"


def test_one_run_makes_an_enum_once(empty: Database, project: Project) -> None:
    """A later table with the enum of an earlier one is made as Alembic alone makes it; after a DROP TYPE it is made again."""
    project.revision("001", "create_first", FIRST, DROPPED)
    project.revision("002", "create_second", SECOND, 'op.drop_table("second")')
    project.revision("003", "drop_both", DROPPED.replace("kind", "kind CASCADE"), FIRST, phase="contract", extra="Waive: "
                     "dropped-cascade | a test | 2999-12-31")  # fmt: skip
    project.revision("004", "create_again", FIRST, DROPPED)

    project.upgrade("head")

    assert empty.value("SELECT to_regtype('kind')::text") == "kind"
    assert empty.value("SELECT count(*) FROM information_schema.columns WHERE udt_name = 'kind'") == 1
