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
