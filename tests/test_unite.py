"""Rows written meanwhile that name a kept row of a lookup: the upgrade's UPDATE finds it, though kept rows were in its way."""

from __future__ import annotations

import pytest

from tests.conftest import Database, Project
from tests.test_restore import down_and_up, two
from tests.test_stash import sql

ORDERS = (
    "CREATE TABLE orders (id serial PRIMARY KEY, who text, state text); "
    "INSERT INTO orders (who, state) VALUES ('ann', 'open'), ('bob', 'paid')"
)
KEYS = {"serial": ("serial PRIMARY KEY", "int"), "uuid": ("uuid DEFAULT gen_random_uuid() PRIMARY KEY", "uuid")}
BACK = "UPDATE orders SET state = (SELECT name FROM states WHERE id = s); ALTER TABLE orders DROP s; DROP TABLE states"
MEANS = "SELECT who, name FROM orders LEFT JOIN states ON states.id = s ORDER BY 1"
MINE = (
    "INSERT INTO states (name, colour) VALUES ('shipped', 'red'); UPDATE states SET colour = 'mine' WHERE name = 'paid'; "
    "UPDATE orders SET s = (SELECT id FROM states WHERE name = 'shipped') WHERE who = 'bob'"
)


def ups(key: str, unique: str, drops: bool, together: bool = False) -> str:
    """A lookup from seeds, and the column that refers to it, filled by an UPDATE."""
    made, type_ = KEYS[key]
    statements = [
        f"CREATE TABLE states (id {made}, name text{unique}, colour text)",
        "INSERT INTO states (name) VALUES ('open'), ('paid')", f"ALTER TABLE orders ADD s {type_} REFERENCES states",
        "UPDATE orders SET s = (SELECT id FROM states WHERE name = state)",
    ]  # fmt: skip
    statements += ["ALTER TABLE orders DROP state"] * drops
    return sql("; ".join(statements)) if together else "\n".join(map(sql, statements))


@pytest.mark.parametrize("together", [False, True], ids=["", "one string"])
@pytest.mark.parametrize("drops", [True, False], ids=["moved", "beside"])
@pytest.mark.parametrize("unique", [" UNIQUE", ""], ids=["unique", "plain"])
@pytest.mark.parametrize("key", KEYS)
def test_a_new_row_finds_a_kept_one(
    empty: Database, project: Project, key: str, unique: str, drops: bool, together: bool
) -> None:
    """What people have added to a lookup, others name while it is not there; and what they write stays what it says."""
    down = ("ALTER TABLE orders ADD state text; " if drops else "") + BACK
    two(project, ORDERS, "", down, ups=ups(key, unique, drops, together))
    empty.rows(MINE if unique else MINE.replace("UPDATE states SET colour = 'mine' WHERE name = 'paid'; ", ""))

    down_and_up(
        project, empty,
        "INSERT INTO orders (who, state) VALUES ('fay', 'shipped'), ('gus', 'paid'); "
        "UPDATE orders SET who = 'bobby' WHERE who = 'bob'",
    )  # fmt: skip

    assert empty.rows(MEANS) == [("ann", "open"), ("bobby", "shipped"), ("fay", "shipped"), ("gus", "paid")]
    assert empty.rows("SELECT name, colour FROM states ORDER BY 1") == [
        ("open", None),
        ("paid", "mine" if unique else None),
        ("shipped", "red"),
    ]


def test_a_lookup_without_anything_unique_is_no_bar(empty: Database, project: Project) -> None:
    """Where two rows have one name, and nobody can tell that they are the same, the body finds its own alone."""
    two(project, ORDERS, "", "ALTER TABLE orders ADD state text; " + BACK, ups=ups("uuid", "", drops=True))
    empty.rows(MINE)

    down_and_up(project, empty, "INSERT INTO orders (who, state) VALUES ('gus', 'paid')")

    assert empty.rows(MEANS) == [("ann", "open"), ("bob", "shipped"), ("gus", "paid")]


def test_a_renamed_seed_that_somebody_names_is_there_once_more(empty: Database, project: Project) -> None:
    """Both names were written by people, and each row has the one that it says."""
    two(project, ORDERS, "", "ALTER TABLE orders ADD state text; " + BACK, ups=ups("serial", " UNIQUE", drops=True))
    empty.rows("UPDATE states SET name = 'offen' WHERE name = 'open'; DELETE FROM states WHERE name = 'paid' AND false")

    down_and_up(project, empty, "INSERT INTO orders (who, state) VALUES ('fay', 'open'), ('gus', 'offen')")

    assert empty.rows(MEANS) == [("ann", "offen"), ("bob", "paid"), ("fay", "open"), ("gus", "offen")]


@pytest.mark.parametrize("reads", [False, True], ids=["drops only", "writes back"])
def test_a_new_name_in_the_place_of_a_kept_one_is_its_own(empty: Database, project: Project, reads: bool) -> None:
    """The lookup is filled from what people have written: a new name has got the number that a kept row had."""
    ups = [
        "CREATE TABLE states (id serial PRIMARY KEY, name text UNIQUE)",
        "INSERT INTO states (name) SELECT DISTINCT state FROM orders ORDER BY 1",
        "ALTER TABLE orders ADD s int REFERENCES states", "UPDATE orders SET s = (SELECT id FROM states WHERE name = state)",
    ]  # fmt: skip
    down = BACK if reads else "ALTER TABLE orders DROP s; DROP TABLE states"
    two(project, ORDERS, "", down, ups="\n".join(map(sql, ups)))
    empty.rows("INSERT INTO states (name) VALUES ('custom'); INSERT INTO orders (who, s) VALUES ('cid', 3)")

    down_and_up(project, empty, "INSERT INTO orders (who, state) VALUES ('zoe', 'zzz')")

    assert empty.rows(MEANS) == [("ann", "open"), ("bob", "paid"), ("cid", "custom"), ("zoe", "zzz")]


@pytest.mark.parametrize(
    "said", ["-- fill\n{}", "UPDATE /* all */ orders SET {}", "DELETE"], ids=["comment", "inside", "delete"]
)
def test_what_stands_before_a_statement_changes_nothing(empty: Database, project: Project, said: str) -> None:
    """A comment hides no UPDATE, and a DELETE of what refers to nothing finds the kept rows too."""
    fill = "UPDATE orders SET s = (SELECT id FROM states WHERE name = state)"
    if said == "DELETE":
        ups_ = [
            "CREATE TABLE states (id int PRIMARY KEY, name text)", "INSERT INTO states VALUES (1, 'open'), (2, 'paid')",
            "DELETE FROM orders WHERE s NOT IN (SELECT id FROM states)",
            "ALTER TABLE orders ADD CONSTRAINT f FOREIGN KEY (s) REFERENCES states",
        ]  # fmt: skip
        two(
            project, ORDERS + "; ALTER TABLE orders ADD s int", "", "ALTER TABLE orders DROP CONSTRAINT f; DROP TABLE states",
            ups="\n".join(map(sql, ups_)),
        )  # fmt: skip
        empty.rows(
            "INSERT INTO states VALUES (3, 'blocked'); INSERT INTO orders (who, s) VALUES ('cid', 3); "
            "UPDATE orders SET s = 1 WHERE s IS NULL"
        )
        down_and_up(project, empty, "SELECT")
        assert empty.rows(MEANS) == [("ann", "open"), ("bob", "open"), ("cid", "blocked")]
        return
    written = said.format(fill if said.startswith("--") else fill.partition(" SET ")[2])
    statements = ups("serial", " UNIQUE", drops=True).replace(sql(fill), f"op.execute({written!r})")
    assert written.splitlines()[-1] in statements or repr(written) in statements
    two(project, ORDERS, "", "ALTER TABLE orders ADD state text; " + BACK, ups=statements)
    empty.rows(MINE)

    down_and_up(project, empty, "INSERT INTO orders (who, state) VALUES ('fay', 'shipped')")

    assert ("fay", "shipped") in empty.rows(MEANS)


def test_a_seed_that_comes_after_the_update_is_no_bar(empty: Database, project: Project) -> None:
    """It meets a kept row that was let in, to which others refer by now: the third try is without."""
    statements = ups("serial", " UNIQUE", drops=False) + "\n" + sql("INSERT INTO states (name) VALUES ('unknown')")
    two(project, ORDERS, "", BACK, ups=statements)
    empty.rows("INSERT INTO states (name, colour) VALUES ('shipped', 'red')")
    before = empty.rows("SELECT name, colour FROM states ORDER BY 1")

    down_and_up(project, empty, "INSERT INTO orders (who, state) VALUES ('gus', 'paid')")

    assert empty.rows(MEANS) == [("ann", "open"), ("bob", "paid"), ("gus", "paid")]
    assert empty.rows("SELECT name, colour FROM states ORDER BY 1") == before
