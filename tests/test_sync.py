"""Two names for one value: whichever side a statement gives, both agree; rows from before the trigger are filled."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import psycopg2
import pytest

from mcp_planner_schema.operations import sync
from mcp_planner_schema.operations.written import call
from tests.conftest import Database, _clone

SAME = sync.SyncColumns("thing", "old", "new", key="id", schema="public")
LOSSY = sync.SyncColumns(
    "money", "euros", "cents", forward="(euros * 100)::bigint", backward="round(cents / 100.0)::integer", key="id"
)
SPLIT = sync.SyncColumns(
    "people", "full_name", ["first_name", "last_name"], key="id",
    forward=["split_part(full_name, ' ', 1)", "nullif(substr(full_name, strpos(full_name || ' ', ' ') + 1), '')"],
    backward=["nullif(concat_ws(' ', first_name, last_name), '')"],
)  # fmt: skip
GREETED = sync.SyncColumns("greeted", "old", "new", defaults={"old": "'hello'", "new": "'hello'"}, key="id")
DRAWN = sync.SyncColumns("drawn", "old", "new", volatile=["old"], key="id")
PAPER = sync.SyncColumns("paper", "old", "new", key="id")

TABLES = """
CREATE TABLE thing (id int PRIMARY KEY, old int CHECK (old > 0), other int);
CREATE TABLE money (id int PRIMARY KEY, euros int, other int);
CREATE TABLE people (id int PRIMARY KEY, full_name text, other int);
CREATE TABLE greeted (id int PRIMARY KEY, old text DEFAULT 'hello', other int);
CREATE TABLE drawn (id int PRIMARY KEY, old uuid NOT NULL DEFAULT gen_random_uuid(), other int);
CREATE TABLE paper (id int PRIMARY KEY, old json, other int);
INSERT INTO thing VALUES (1, 3), (2, NULL);
INSERT INTO money VALUES (1, 3);
INSERT INTO people VALUES (1, 'Ada King  Lovelace');
INSERT INTO paper VALUES (1, '{"a":1}');
ALTER TABLE thing ADD new int;
ALTER TABLE money ADD cents bigint;
ALTER TABLE people ADD first_name text, ADD last_name text;
ALTER TABLE greeted ADD new text; ALTER TABLE greeted ALTER new SET DEFAULT 'hello';
ALTER TABLE drawn ADD new uuid;
ALTER TABLE paper ADD new json;
"""


@pytest.fixture(scope="module")
def ask(empty_template: Any) -> Iterator[Callable[..., Any]]:
    """Runs statements as a role that owns nothing, and undoes them: the rows of the last one, or the error.

    Rows with id 1 and 2 are older than the trigger; what a statement does with rows of its own it inserts itself.
    """
    role = f"app_{uuid.uuid4().hex[:12]}"
    with _clone(empty_template) as database:
        database.rows(TABLES)
        for one in (SAME, LOSSY, SPLIT, GREETED, DRAWN, PAPER):
            database.rows(f"{sync.function_sql(one)};\n{sync.trigger_sql(one)}")
        database.rows(
            f"CREATE ROLE {role} LOGIN; GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA public TO {role}"
        )
        with database.connect(autocommit=False, user=role) as connection, connection.cursor() as cursor:

            def ask(*statements: str) -> Any:
                try:
                    for sql in statements:
                        cursor.execute(sql)
                    return cursor.fetchall()
                except psycopg2.Error as error:
                    return error
                finally:
                    connection.rollback()

            yield ask
        database.rows(f"DROP OWNED BY {role}; DROP ROLE {role}")


THING = "INSERT INTO thing (id, {}) VALUES (9, {}) RETURNING old, new"
FULL = "INSERT INTO thing (id, old) VALUES (9, 3)"
WRITES = [
    ([THING.format("old", "4")], [(4, 4)]),
    ([THING.format("new", "4")], [(4, 4)]),
    ([THING.format("other", "4")], [(None, None)]),
    ([THING.format("old, new", "4, 4")], [(4, 4)]),
    ([THING.format("old, new", "4, NULL")], [(4, 4)]),
    ([THING.format("old, new", "NULL, 4")], [(4, 4)]),
    ([THING.format("old, new", "4, 5")], "MP010"),
    ([THING.format("new", "0")], "23514"),
    ([FULL, "INSERT INTO thing (id, new) VALUES (9, 8) ON CONFLICT (id) DO UPDATE SET new = excluded.new RETURNING old, new"],
     [(8, 8)]),
    ([FULL, "INSERT INTO thing (id, old) VALUES (9, 8) ON CONFLICT (id) DO UPDATE SET old = excluded.old RETURNING old, new"],
     [(8, 8)]),
    *(([*first, f"UPDATE thing SET {change} WHERE id = {row} RETURNING old, new"], result)
      for first, row in (([], 1), ([FULL], 9))
      for change, result in (
          ("old = 5", [(5, 5)]),
          ("new = 5", [(5, 5)]),
          ("old = NULL", [(None, None)]),
          ("old = 5, new = 5", [(5, 5)]),
          ("old = 3, new = 5", [(5, 5)]),
          ("old = 5, new = 6", "MP010"),
          ("old = NULL, new = 5", "MP010"),
          ("old = 0", "23514"),
          ("new = -1", "23514"),
          ("other = 1", [(3, 3)]),
      )),
    ([FULL, "UPDATE thing SET new = NULL WHERE id = 9 RETURNING old, new"], [(None, None)]),
    ([FULL, "UPDATE thing SET old = 5, new = NULL WHERE id = 9 RETURNING old, new"], "MP010"),
    (["UPDATE thing SET other = 1 WHERE id = 2 RETURNING old, new"], [(None, None)]),
    # A conversion that loses: what one side wrote stays as it was written.
    (["INSERT INTO money (id, cents) VALUES (9, 151) RETURNING euros, cents"], [(2, 151)]),
    (["INSERT INTO money (id, cents) VALUES (9, 151)", "UPDATE money SET other = 1 WHERE id = 9 RETURNING euros, cents"],
     [(2, 151)]),
    (["INSERT INTO money (id, cents) VALUES (9, 151)", "UPDATE money SET euros = 3 WHERE id = 9 RETURNING euros, cents"],
     [(3, 300)]),
    (["INSERT INTO money (id, euros, cents) VALUES (9, 2, 151) RETURNING euros, cents"], [(2, 151)]),
    (["INSERT INTO money (id, euros, cents) VALUES (9, 3, 151)"], "MP010"),
    (["UPDATE money SET other = 1 WHERE id = 1 RETURNING euros, cents"], [(3, 300)]),
    # One column of two of a row that is not filled yet: the other one is filled first.
    (["UPDATE people SET first_name = 'Augusta' WHERE id = 1 RETURNING full_name, first_name, last_name"],
     [("Augusta King  Lovelace", "Augusta", "King  Lovelace")]),
    (["UPDATE people SET other = 1 WHERE id = 1 RETURNING full_name, first_name, last_name"],
     [("Ada King  Lovelace", "Ada", "King  Lovelace")]),
    (["INSERT INTO people (id, last_name) VALUES (9, 'Hopper') RETURNING full_name, first_name, last_name"],
     [("Hopper", None, "Hopper")]),
    # Defaults: what has its default counts as not given, so that NULL can be.
    (["INSERT INTO greeted (id) VALUES (9) RETURNING old, new"], [("hello", "hello")]),
    (["INSERT INTO greeted (id, new) VALUES (9, 'ciao') RETURNING old, new"], [("ciao", "ciao")]),
    (["INSERT INTO greeted (id, new) VALUES (9, NULL) RETURNING old, new"], [(None, None)]),
    (["INSERT INTO greeted (id, old) VALUES (9, NULL) RETURNING old, new"], [(None, None)]),
    (["INSERT INTO greeted (id, old) VALUES (9, 'ciao') RETURNING old, new"], [("ciao", "ciao")]),
    (["INSERT INTO greeted (id, old, new) VALUES (9, 'a', 'b')"], "MP010"),
    (["INSERT INTO drawn (id) VALUES (9) RETURNING old = new"], [(True,)]),
    (["INSERT INTO drawn (id, new) VALUES (9, '00000000-0000-0000-0000-000000000001') RETURNING old::text, old = new"],
     [("00000000-0000-0000-0000-000000000001", True)]),
    # A type that knows no equality.
    (["INSERT INTO paper (id, new) VALUES (9, '[1]') RETURNING old::text"], [("[1]",)]),
    (["UPDATE paper SET other = 1 WHERE id = 1 RETURNING new::text"], [('{"a":1}',)]),
]  # fmt: skip


@pytest.mark.parametrize(("statements", "result"), WRITES)
def test_whichever_side_is_given_both_agree(ask: Callable[..., Any], statements: list[str], result: Any) -> None:
    """The side that a statement gives counts for both; two that do not agree, and impossible values, are errors."""
    found = ask(*statements)

    assert (getattr(found, "pgcode", None) or found) == result


def test_two_values_are_a_clear_error(ask: Callable[..., Any]) -> None:
    """MP010 names row, table and both values, the way out and the place, as PostgreSQL's own errors do."""
    said = ask("UPDATE thing SET old = 5, new = 6 WHERE id = 1").diag

    assert said.message_primary == "row 1 of thing has old 5 and new 6"
    assert said.message_hint == "Give one of them, or both in agreement."
    assert (said.schema_name, said.table_name, said.column_name) == ("public", "thing", "new")


def test_case_is_a_change(empty: Database) -> None:
    """A new value that its type takes for equal to the former one (citext, numeric's zeros) reaches the other side too."""
    empty.rows(
        "CREATE EXTENSION citext; CREATE TABLE t (id int PRIMARY KEY, old citext, new citext, a numeric, b numeric);"
        + ";".join(sync.function_sql(one) + ";" + sync.trigger_sql(one)
                   for one in (sync.Sync("t", "old", "new"), sync.Sync("t", "a", "b")))
        + "; INSERT INTO t (id, old, a) VALUES (1, 'ada', 1.0); UPDATE t SET new = 'Ada', b = 1.00"
    )  # fmt: skip

    assert empty.rows("SELECT old::text, a::text FROM t") == [("Ada", "1.00")]


def test_on_the_way_back_the_old_side_is_filled(empty: Database) -> None:
    """fill=old: a row whose old column has just come back takes it from the new one, and never the other way."""
    empty.rows(
        "CREATE TABLE thing (id int PRIMARY KEY, new int, other int); INSERT INTO thing VALUES (1, 3), (2, 4), (3, 5);"
        "ALTER TABLE thing ADD old int"
    )
    one = replace(SAME, fill="old")
    empty.rows(f"{sync.function_sql(one)}; {sync.trigger_sql(one)}")

    empty.rows("UPDATE thing SET other = 1 WHERE id = 1; UPDATE thing SET old = 7 WHERE id = 2")

    assert empty.rows("SELECT id, old, new FROM thing ORDER BY id") == [(1, 3, 3), (2, 7, 7), (3, None, 5)]


NAMES = ['a"b', "50%", "made", "given", "x" * 60, "größe", "se;lect"]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_will_do(empty: Database, name: str) -> None:
    """Quotes, percent signs, names of the function's own variables, long ones: the trigger works under each."""
    other = name[:50] + "_2"
    quoted = [f'"{one.replace(chr(34), chr(34) * 2)}"' for one in (name, other)]
    empty.rows(f"CREATE TABLE t (id int PRIMARY KEY, {quoted[0]} int, {quoted[1]} int)".replace("%", "%"))
    one = sync.Sync("t", name, other, forward=quoted[0], backward=quoted[1], key="id")

    empty.rows(f"{sync.function_sql(one)}; {sync.trigger_sql(one)}; INSERT INTO t (id, {quoted[1]}) VALUES (1, 4)")

    assert empty.rows("SELECT * FROM t") == [(1, 4, 4)]
    with pytest.raises(psycopg2.Error) as caught:
        empty.rows("UPDATE t SET " + f"{quoted[0]} = 5, {quoted[1]} = 6")
    assert caught.value.pgcode == "MP010"


def test_operations_know_their_reverse_and_how_they_are_written() -> None:
    """The trigger's reverse is to drop it, with the same arguments, and both are written as an author would."""
    assert SAME.reverse().reverse() == SAME
    assert call("drop_sync", SAME.reverse()) == 'op.drop_sync("thing", ["old"], ["new"], key=["id"], schema="public")'


@pytest.mark.parametrize(
    "wrong",
    [
        {"old": "a", "new": ["b", "c"]},
        {"old": "a", "new": ["b", "c"], "forward": ["1"], "backward": ["1"]},
        {"old": "a", "new": "b", "fill": "both"},
    ],
)
def test_a_pair_that_does_not_fit_is_refused(wrong: dict[str, Any]) -> None:
    """As many expressions as columns, and two sides: anything else is an error before a statement is sent."""
    with pytest.raises(ValueError, match=r"sync of t|fill is"):
        sync.Sync("t", **wrong)
