"""Chains: references and links say the same whichever is written, their order, what walks them, as a role that owns nothing."""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from alembic import command
from alembic.config import Config

from mcp_planner_schema import example_data
from tests.catalog import catalog, difference
from tests.conftest import ROOT, Database, Project, some
from tests.test_offline import run, written
from tests.test_progress import Load, ask, new_project, new_task
from tests.until import until


class Items:
    """A project's steps a, b, c … by letter, all in one task named T, and what a chain of them looks like."""

    def __init__(self, cursor: Any, letters: str = "abcdefgh") -> None:
        self.cursor = cursor
        self.project = new_project(cursor, f"project {uuid.uuid4()}")
        self.task = new_task(cursor, self.project)
        self.refs: dict[str, str] = {"T": f"task://{self.task}"}
        for letter in letters:
            (one,) = ask(cursor, "INSERT INTO steps (task_id, title) VALUES (%s, %s) RETURNING id", self.task, letter)
            self.refs[letter] = f"step://{one}"

    def id(self, letter: str) -> str:
        """An item's id."""
        return self.refs[letter][7:]

    def set(self, letter: str, **references: str | None) -> None:
        """Write prev or next (or both) of an item in one statement; None for null."""
        columns = ", ".join(f"{name}_id = %s" for name in references)
        table = "tasks" if self.refs[letter].startswith("task") else "steps"
        ask(self.cursor, f"UPDATE {table} SET {columns} WHERE id = %s",
            *[other and self.refs[other] for other in references.values()], self.id(letter))  # fmt: skip

    def chain(self, letters: str) -> None:
        """Link items one behind the other, by next_id alone."""
        for here, there in itertools.pairwise(letters):
            self.set(here, next=there)

    def chains(self) -> list[str]:
        """Every chain of two and more items, first their own order; circles begin with their least letter behind an @."""
        names = {ref: letter for letter, ref in self.refs.items()}
        links = {
            names[one]: names[other]
            for one, other in ask(
                self.cursor, "SELECT from_ref, to_ref FROM navigation_links WHERE project_id = %s", self.project
            )
        }
        found = []
        heads = sorted(set(links) - set(links.values()))
        while links:
            circle = not heads
            at = heads.pop(0) if heads else min(links)
            text = at
            while at in links:
                at = links.pop(at)
                text += at
            found.append(f"@{text[:-1]}" if circle else text)
        return sorted(found)


@pytest.fixture
def items(cursor: Any) -> Items:
    """Eight steps in no chain."""
    return Items(cursor)


def wrong(cursor: Any) -> list[Any]:
    """What is not as it must be, over all projects: the two forms, one by one, and the order."""
    ends = """
        WITH item AS (
            SELECT project_id, 'task://' || id AS ref, prev_id, next_id, chain_position, finished, progress FROM tasks
            UNION ALL SELECT project_id, 'step://' || id, prev_id, next_id, chain_position, finished, progress FROM steps
        )
        SELECT item.ref, item.prev_id, incoming.from_ref, item.next_id, outgoing.to_ref, item.chain_position, incoming.position
        FROM item
        LEFT JOIN navigation_links incoming ON incoming.project_id = item.project_id AND incoming.to_ref = item.ref
        LEFT JOIN navigation_links outgoing ON outgoing.project_id = item.project_id AND outgoing.from_ref = item.ref
        WHERE item.prev_id IS DISTINCT FROM incoming.from_ref OR item.next_id IS DISTINCT FROM outgoing.to_ref
            OR (item.chain_position IS NULL) <> (item.prev_id IS NULL AND item.next_id IS NULL)
            OR (outgoing.position > item.chain_position OR outgoing.closes_circle) IS FALSE
            OR incoming.position <> item.chain_position OR coalesce(item.finished, false) <> (item.progress >= 1)
    """
    return [
        *ask(cursor, ends),
        *ask(cursor, "SELECT found.* FROM projects, validate_navigation(projects.id) found WHERE problem <> 'circle'"),
    ]


# What an old release writes, statement by statement, and the chains that come of it.
WRITES: dict[str, tuple[str, list[tuple[str, dict[str, str | None]]], list[str]]] = {
    "next alone": ("", [("a", {"next": "b"})], ["ab"]),
    "prev alone": ("", [("b", {"prev": "a"})], ["ab"]),
    "a task behind its steps": ("ab", [("T", {"prev": "b"})], ["abT"]),
    "both of one": ("", [("b", {"prev": "a", "next": "c"})], ["abc"]),
    "appended": ("abc", [("d", {"prev": "c"})], ["abcd"]),
    "put in front": ("abc", [("d", {"next": "a"})], ["dabc"]),
    "put between, from the front": ("abc", [("a", {"next": "x"}), ("x", {"prev": "a", "next": "b"})], ["axbc"]),
    "put between, from behind": ("abc", [("b", {"prev": "x"}), ("x", {"prev": "a", "next": "b"})], ["axbc"]),
    "put between at once": ("abc", [("x", {"prev": "a", "next": "b"})], ["axbc"]),
    "taken from its predecessor": ("abc", [("x", {"next": "c"})], ["ab", "xc"]),
    "taken from its successor": ("abc", [("x", {"prev": "a"})], ["ax", "bc"]),
    "cut behind": ("abcd", [("b", {"next": None})], ["ab", "cd"]),
    "cut before": ("abcd", [("c", {"prev": None})], ["ab", "cd"]),
    "taken out": ("abc", [("b", {"prev": None, "next": None})], []),
    "taken out and closed": ("abc", [("a", {"next": "c"})], ["ac"]),
    "last to first": ("abcd", [("d", {"prev": None, "next": "a"})], ["dabc"]),
    "first to last": ("abcd", [("a", {"prev": "d", "next": None})], ["bcda"]),
    "a circle": ("abc", [("c", {"next": "a"})], ["@abc"]),
    "a circle opened": ("abc", [("c", {"next": "a"}), ("b", {"next": None})], ["cab"]),
    "last to first by way of a circle": ("abcd", [("d", {"next": "a"}), ("c", {"next": None})], ["dabc"]),
    "a circle opened by deletion": ("abcd", [("d", {"next": "b"}), ("b", {"prev": None})], ["bcd"]),
    "a circle of two": ("", [("a", {"prev": "b", "next": "b"})], ["@ab"]),
    "two chains joined": ("ab", [("c", {"next": "d"}), ("d", {"next": "a"})], ["cdab"]),
    "two chains joined the other way": ("ab", [("c", {"next": "d"}), ("b", {"next": "c"})], ["abcd"]),
    "what is there again": ("abc", [("b", {"prev": "a", "next": "c"})], ["abc"]),
}  # fmt: skip


@pytest.mark.parametrize("case", WRITES)
def test_references_become_links(cursor: Any, case: str) -> None:
    """What an old release writes into prev_id and next_id, one row a statement, both forms say afterwards."""
    items = Items(cursor, "abcdx")
    begun, writes, expected = WRITES[case]
    items.chain(begun)

    for letter, references in writes:
        items.set(letter, **references)

    assert items.chains() == sorted(expected)
    assert wrong(cursor) == []


def test_a_statement_over_many_rows_is_taken_as_a_whole(cursor: Any, items: Items) -> None:
    """Reversed, shifted and emptied by one statement each, the chain is what the statement says; no neighbour is in the way."""
    items.chain("abcdefgh")

    ask(cursor, "UPDATE steps SET prev_id = next_id, next_id = prev_id WHERE project_id = %s", items.project)
    assert items.chains() == ["hgfedcba"] and wrong(cursor) == []

    order = ["a", "c", "e", "g", "h", "f", "d", "b"]
    ask(
        cursor,
        """UPDATE steps SET prev_id = place.prev, next_id = place.next FROM (
            SELECT ref, lag(ref) OVER (ORDER BY n) AS prev, lead(ref) OVER (ORDER BY n) AS next
            FROM unnest(%s) WITH ORDINALITY AS one (ref, n)
        ) place WHERE steps.id = substr(place.ref, 8)::uuid""",
        [items.refs[one] for one in order],
    )
    assert items.chains() == ["aceghfdb"] and wrong(cursor) == []

    ask(cursor, "UPDATE steps SET prev_id = NULL, next_id = NULL WHERE project_id = %s", items.project)
    assert items.chains() == [] and wrong(cursor) == []


@pytest.mark.long
def test_many_rows_are_linked_as_they_are_inserted(cursor: Any, items: Items) -> None:
    """10,000 steps that come chained, by one statement, by next_id alone, are linked in order."""
    ask(
        cursor,
        """WITH one AS MATERIALIZED (SELECT n, gen_random_uuid() AS id FROM generate_series(1, 10000) n)
        INSERT INTO steps (id, project_id, task_id, title, next_id)
        SELECT id, %s, %s, 'step ' || n, 'step://' || lead(id) OVER (ORDER BY n) FROM one""",
        items.project,
        items.task,
    )

    walked = "SELECT title FROM steps WHERE chain_position IS NOT NULL AND project_id = %s ORDER BY chain_position"
    assert ask(cursor, walked, items.project) == [f"step {n}" for n in range(1, 10001)]
    assert wrong(cursor) == []


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE steps SET next_id = %(c)s WHERE id IN (%(a_id)s, %(b_id)s)",
        "UPDATE steps SET prev_id = %(c)s WHERE id IN (%(a_id)s, %(b_id)s)",
        "UPDATE steps SET next_id = CASE id WHEN %(a_id)s THEN %(c)s END,"
        " prev_id = CASE id WHEN %(c_id)s THEN %(b)s ELSE prev_id END WHERE id IN (%(a_id)s, %(c_id)s)",
    ],
)
def test_what_contradicts_itself_is_refused(cursor: Any, items: Items, statement: str) -> None:
    """A statement that gives an item two neighbours at one end is refused, and says which item and which two."""
    values = items.refs | {f"{one}_id": items.id(one) for one in "abc"}

    with pytest.raises(psycopg2.Error) as caught:
        cursor.execute(statement, values)

    assert caught.value.pgcode == "MP005"
    assert items.refs["c"] in str(caught.value.diag.message_primary)
    assert "prev_id" in str(caught.value.diag.message_hint)
    assert items.chains() == [] and wrong(cursor) == []


def test_links_become_references(cursor: Any, items: Items) -> None:
    """What a new release writes into navigation_links, both forms say afterwards: insert, another end, another place, delete."""
    a, b, c, d = (items.id(one) for one in "abcd")
    ask(
        cursor,
        "INSERT INTO navigation_links (project_id, from_step_id, to_step_id, to_task_id)"
        " VALUES (%s, %s, %s, NULL), (%s, %s, NULL, %s)",
        items.project, a, b, items.project, b, items.task,
    )  # fmt: skip
    assert items.chains() == ["abT"] and wrong(cursor) == []

    ask(
        cursor,
        "UPDATE navigation_links SET to_step_id = %s, to_task_id = NULL WHERE to_task_id = %s RETURNING 1",
        c,
        items.task,
    )
    assert items.chains() == ["abc"] and wrong(cursor) == []

    ask(cursor, "INSERT INTO navigation_links (from_step_id, to_step_id, position) VALUES (%s, %s, 7)", c, d)
    assert items.chains() == ["abcd"] and wrong(cursor) == []

    ask(cursor, "UPDATE navigation_links SET position = -position")
    assert wrong(cursor) == []

    ask(cursor, "DELETE FROM navigation_links WHERE from_step_id = %s", b)
    assert items.chains() == ["ab", "cd"] and wrong(cursor) == []

    ask(cursor, "TRUNCATE navigation_links")
    assert wrong(cursor) == []
    assert ask(cursor, "SELECT count(*) FROM steps WHERE num_nonnulls(prev_id, next_id, chain_position) > 0") == [0]


def test_a_position_that_fits_is_kept(cursor: Any, items: Items) -> None:
    """A new release may say where an item stands: between its neighbours that holds, elsewhere it is replaced."""
    position = "SELECT position FROM navigation_links WHERE to_step_id = %s"
    items.chain("abc")
    between = ask(cursor, position, items.id("b"))[0] + 17

    ask(cursor, "UPDATE navigation_links SET position = %s WHERE to_step_id = %s", between, items.id("b"))
    assert ask(cursor, position, items.id("b")) == [between]

    ask(cursor, "UPDATE navigation_links SET position = %s WHERE to_step_id = %s", 2**62, items.id("b"))
    assert wrong(cursor) == []
    with pytest.raises(psycopg2.errors.NumericValueOutOfRange, match="Leave position out"):
        ask(cursor, "UPDATE navigation_links SET position = %s WHERE to_step_id = %s", 2**62 + 1, items.id("b"))
    assert wrong(cursor) == []

    ask(cursor, "INSERT INTO navigation_links (from_step_id, to_step_id, position) VALUES (%s, %s, 12)",
        items.id("e"), items.id("f"))  # fmt: skip
    assert ask(cursor, position, items.id("f")) == [12]
    assert wrong(cursor) == []


def test_links_that_would_be_two_are_refused_by_their_keys(cursor: Any, items: Items) -> None:
    """A new release's link is not taken for another: a second successor or predecessor is a unique violation."""
    items.chain("abc")

    for start, end in (("a", "d"), ("d", "c")):
        with pytest.raises(psycopg2.errors.UniqueViolation):
            ask(cursor, "INSERT INTO navigation_links (from_step_id, to_step_id) VALUES (%s, %s)",
                items.id(start), items.id(end))  # fmt: skip

    assert items.chains() == ["abc"]


def test_no_link_and_no_reference_outlives_its_ends(cursor: Any, items: Items) -> None:
    """A deleted item's neighbours refer to nothing, also where both neighbours of a survivor go in one statement."""
    items.chain("abcdefgh")

    ask(cursor, "DELETE FROM steps WHERE id IN (%s, %s)", items.id("b"), items.id("d"))
    assert items.chains() == ["efgh"] and wrong(cursor) == []

    other = new_task(cursor, items.project)
    (s,) = ask(
        cursor,
        "INSERT INTO steps (task_id, title, prev_id, next_id) VALUES (%s, 's', %s, %s) RETURNING id",
        other,
        items.refs["f"],
        items.refs["g"],
    )
    items.refs["s"] = f"step://{s}"
    assert items.chains() == ["efsgh"]

    ask(cursor, "DELETE FROM tasks WHERE id = %s", items.task)
    assert ask(cursor, "SELECT prev_id, next_id, chain_position FROM steps WHERE project_id = %s", items.project) == [
        (None, None, None)
    ]
    assert wrong(cursor) == []


def test_a_broken_reference_is_refused_by_name(cursor: Any, items: Items) -> None:
    """A reference to nothing, or into another project, is MP002 naming row, column and reference; the other rows stay too."""
    foreign = Items(cursor, "a")
    nothing = f"step://{uuid.uuid4()}"

    for column, reference in (("next_id", nothing), ("prev_id", foreign.refs["a"]), ("next_id", foreign.refs["T"])):
        with pytest.raises(psycopg2.Error) as caught:
            ask(cursor, f"UPDATE steps SET {column} = CASE title WHEN 'b' THEN %s ELSE %s END"
                " WHERE title IN ('b', 'c') AND task_id = %s",
                reference, items.refs["a"], items.task)  # fmt: skip

        said = caught.value.diag
        assert (caught.value.pgcode, said.table_name, said.column_name) == ("MP002", "steps", column)
        assert f"step {items.id('b')} refers to {reference}" in str(said.message_primary)
        assert '"b" of project' in str(said.message_detail)
    assert items.chains() == [] and wrong(cursor) == []


def test_one_statement_is_one_audit_row_for_each_row_that_changed(cursor: Any, items: Items) -> None:
    """Of a change in the middle of chains the item and each of its three neighbours are logged once, places never."""
    items.chain("abc")
    items.chain("def")
    ask(cursor, "SET planner.user_id = 'tester'")
    moved = "SELECT title, updated_at FROM steps WHERE task_id = %s ORDER BY title"
    before = dict(ask(cursor, moved, items.task))

    items.set("a", next="e")

    logged = ask(
        cursor,
        "SELECT steps.title, log.old_values, log.new_values FROM audit_logs log JOIN steps ON steps.id = log.entity_id"
        " WHERE log.user_id = 'tester' ORDER BY 1",
    )
    refs = items.refs
    assert logged == [
        ("a", {"next_id": refs["b"]}, {"next_id": refs["e"]}),
        ("b", {"prev_id": refs["a"]}, {"prev_id": None}),
        ("d", {"next_id": refs["e"]}, {"next_id": None}),
        ("e", {"prev_id": refs["d"]}, {"prev_id": refs["a"]}),
    ]
    assert items.chains() == ["aef", "bc"]
    after = dict(ask(cursor, moved, items.task))
    assert {title for title in after if after[title] != before[title]} == set("abde")


def test_places_are_not_the_applications_to_write(database: Database, cursor: Any, items: Items) -> None:
    """What a statement writes into chain_position or finished has no effect, and what came past the triggers is found."""
    items.chain("abc")
    places = "SELECT chain_position, finished FROM steps WHERE project_id = %s ORDER BY title"
    before = ask(cursor, places, items.project)

    ask(cursor, "UPDATE steps SET chain_position = -5, finished = true WHERE project_id = %s", items.project)
    ask(cursor, "INSERT INTO steps (task_id, title, chain_position, finished) VALUES (%s, 'z', 3, true)", items.task)

    assert ask(cursor, places, items.project) == [*before, (None, False)]
    assert wrong(cursor) == []
    behind_the_triggers(
        database, f"UPDATE steps SET chain_position = 1 WHERE id IN ('{items.id('b')}', '{items.id('h')}')"
    )
    found = ask(cursor, "SELECT problem, reference FROM validate_navigation(%s)", items.project)
    assert {("order", items.refs["b"]), ("order", items.refs["h"])} <= set(found)


@pytest.mark.long
def test_places_have_room_for_ever(cursor: Any, items: Items) -> None:
    """1,000 items put at one place, always behind or always before the last, keep the order and move few others."""
    items.chain("ab")
    ask(cursor, "INSERT INTO steps (task_id, title) SELECT %s, 'new ' || n FROM generate_series(1, 1000) n", items.task)
    new = ask(cursor, "SELECT id FROM steps WHERE title LIKE 'new %%' AND task_id = %s ORDER BY id", items.task)
    last = items.refs["a"]

    for n, one in enumerate(new):
        ask(cursor, "UPDATE steps SET prev_id = %s, next_id = %s WHERE id = %s",
            last if n < 500 else items.refs["a"], items.refs["b"] if n < 500 else last, one)  # fmt: skip
        last = f"step://{new[0] if n == 499 else one}"

    assert wrong(cursor) == []
    assert ask(cursor, "SELECT max(depth) FROM navigation_chain(%s, 5000)", items.refs["a"]) == [1002]


@pytest.mark.parametrize("seed", range(4))
def test_random_writes_of_both_forms_agree(cursor: Any, seed: int) -> None:
    """After each of 120 random writes, by references, by links and by deletions, both forms say the same."""
    dice = random.Random(seed)
    items = Items(cursor, "abcdefghij")
    letters = list(items.refs)

    for _ in range(120):
        one, other, third = dice.sample(letters, 3)
        kind = dice.randrange(7)
        try:
            if kind < 2:
                items.set(one, next=dice.choice([other, other, None]))
            elif kind < 3:
                items.set(one, prev=dice.choice([other, other, None]))
            elif kind < 4:
                items.set(one, prev=dice.choice([other, None]), next=dice.choice([third, None]))
            elif kind < 5:
                ask(cursor, "DELETE FROM navigation_links WHERE from_ref = %s", items.refs[one])
            elif kind < 6:
                ask(
                    cursor,
                    "UPDATE steps SET next_id = (%s::text[])[1 + (random() * 3)::int],"
                    " prev_id = (%s::text[])[1 + (random() * 3)::int]"
                    " WHERE id IN (%s, %s)",
                    [items.refs[other], items.refs[third], None, None],
                    [None, items.refs[third], items.refs[other], None],
                    items.id(one),
                    items.id(third),
                )
            else:
                columns = [f"{end}_{items.refs[name][:4]}_id" for end, name in (("from", one), ("to", other))]
                ask(cursor, f"INSERT INTO navigation_links ({', '.join(columns)}) VALUES (%s, %s)",
                    items.id(one), items.id(other))  # fmt: skip
        except psycopg2.Error as error:
            assert error.pgcode in ("MP005", "23505", "23514"), error  # two neighbours, a second link, itself

        assert wrong(cursor) == []


# --- functions --------------------------------------------------------------------------------------------------------


def following(cursor: Any, items: Items) -> str:
    """The letter of the next item, or - for none."""
    names = {ref: letter for letter, ref in items.refs.items()}
    found = ask(cursor, "SELECT reference FROM next_actionable_item(%s)", items.project)
    return names.get(found[0], found[0]) if found else "-"


def finish(items: Items, *letters: str) -> None:
    """Set steps' progress to 1."""
    ask(items.cursor, "UPDATE steps SET progress = 1 WHERE id = ANY (%s::uuid[])", [items.id(one) for one in letters])


def test_the_next_item_is_the_first_unfinished_in_chain_order(cursor: Any, items: Items) -> None:
    """Chain order first, whatever the order of creation; what is in no chain comes last by time; then nothing."""
    items.chain("hgf")
    items.chain("cba")
    order = ""

    while (one := following(cursor, items)) != "-":
        assert one not in order
        order += one
        finish(items, one)

    assert order == "hgfcbade"


def test_steps_come_before_the_task_that_holds_them(cursor: Any, items: Items) -> None:
    """A task at the head of the chain gives way to what is unfinished in it, deep down too; an empty one is the item."""
    items.chain("Tba")
    sub = new_task(cursor, items.project, items.task)
    items.refs["S"] = f"task://{sub}"
    assert following(cursor, items) == "b"

    finish(items, *"abcdefgh")
    assert following(cursor, items) == "S"

    (deep,) = ask(cursor, "INSERT INTO steps (task_id, title) VALUES (%s, 'deep') RETURNING id", sub)
    items.refs["z"] = f"step://{deep}"
    assert following(cursor, items) == "z"
    finish(items, "z")
    assert following(cursor, items) == "-"


def test_no_step_is_skipped_whatever_the_rounding(cursor: Any, items: Items) -> None:
    """A step so nearly done that its task's mean is 1 is still the next item."""
    finish(items, *"abcdefgh")
    ask(cursor, "UPDATE steps SET progress = 0.9999999999999999 WHERE id = %s", items.id("c"))
    assert ask(cursor, "SELECT progress, finished FROM tasks WHERE id = %s", items.task) == [(1, True)]

    assert following(cursor, items) == "c"


def test_the_next_item_of_nothing(cursor: Any) -> None:
    """An unknown project and one without items give no row, one with an empty task that task."""
    project = new_project(cursor)

    assert ask(cursor, "SELECT * FROM next_actionable_item(%s)", str(uuid.uuid4())) == []
    assert ask(cursor, "SELECT * FROM next_actionable_item(%s)", project) == []
    task = new_task(cursor, project)
    assert ask(cursor, "SELECT entity_type, id FROM next_actionable_item(%s)", project) == [("TASK", task)]


def chain(cursor: Any, items: Items, start: str, *depth: int) -> tuple[str, str | None]:
    """Letters that navigation_chain gives, and what it says in the last row."""
    names = {ref: letter for letter, ref in items.refs.items()}
    rows = ask(
        cursor, f"SELECT depth, reference, problem FROM navigation_chain(%s{', %s' * len(depth)})", start, *depth
    )
    assert [row[0] for row in rows] == list(range(1, len(rows) + 1))
    assert all(row[2] is None for row in rows[:-1])
    return "".join(names.get(row[1], "?") for row in rows), rows[-1][2] if rows else None


def test_a_chain_is_walked_and_says_why_it_ends(database: Database, cursor: Any, items: Items) -> None:
    """To the end, to max_depth, to a circle, to a broken or one-sided reference: the last row tells which."""
    items.chain("abcT")
    refs = items.refs

    assert chain(cursor, items, refs["b"]) == ("bcT", None)
    assert chain(cursor, items, refs["h"]) == ("h", None)
    assert chain(cursor, items, refs["a"], 2) == ("ab", f"cut: max_depth, next is {refs['c']}")
    assert chain(cursor, items, refs["a"], 4) == ("abcT", None)
    assert chain(cursor, items, refs["a"], 0) == ("", None)
    items.set("T", next="a")
    assert chain(cursor, items, refs["c"]) == ("cTab", f"circle: the next item is {refs['c']} again")
    assert chain(cursor, items, f"step://{uuid.uuid4()}") == ("?", "broken: no such item")
    for unknown in ("tasks://x", items.id("a"), ""):
        assert chain(cursor, items, unknown) == ("?", "no reference: task://<uuid> or step://<uuid> is one")

    gone = f"step://{uuid.uuid4()}"
    behind_the_triggers(database, f"UPDATE steps SET next_id = '{gone}' WHERE id = '{items.id('d')}'")
    behind_the_triggers(database, f"UPDATE steps SET next_id = '{refs['g']}' WHERE id = '{items.id('e')}'")
    assert chain(cursor, items, refs["d"]) == ("d", f"broken: next_id is {gone}, which is no item of the project")
    assert chain(cursor, items, refs["e"]) == ("e", f"one-sided: next_id is {refs['g']}, but there is no such link")


def behind_the_triggers(database: Database, sql: str) -> None:
    """Change steps as no application can."""
    database.rows(f"ALTER TABLE steps DISABLE TRIGGER USER; {sql}; ALTER TABLE steps ENABLE TRIGGER USER")


def test_validation_names_what_is_wrong(database: Database, cursor: Any, items: Items) -> None:
    """Broken references, one-sided ones of both kinds and circles, each once, and nothing in a healthy project."""
    items.chain("abc")
    assert ask(cursor, "SELECT * FROM validate_navigation(%s)", items.project) == []
    assert ask(cursor, "SELECT * FROM validate_navigation(%s)", str(uuid.uuid4())) == []
    items.chain("efge")
    gone = f"step://{uuid.uuid4()}"

    behind_the_triggers(database, f"UPDATE steps SET prev_id = '{gone}' WHERE id = '{items.id('h')}'")
    behind_the_triggers(database, f"UPDATE steps SET next_id = '{items.refs['a']}' WHERE id = '{items.id('d')}'")
    behind_the_triggers(database, f"UPDATE steps SET prev_id = NULL WHERE id = '{items.id('c')}'")

    refs = items.refs
    found = ask(cursor, "SELECT problem, reference, other, detail FROM validate_navigation(%s)", items.project)
    assert found == [
        ("broken", refs["h"], gone, "prev_id points at no item of the project"),
        *sorted(
            [
                ("one-sided", refs["c"], refs["b"], "there is a link, but prev_id does not say so"),
                ("one-sided", refs["d"], refs["a"], "next_id has no link"),
            ]
        ),
        ("circle", refs["g"], refs["e"], "3 items that lead back to the first"),
    ]


def test_links_of_nothing_are_broken(database: Database, cursor: Any, items: Items) -> None:
    """What a deletion past the triggers and foreign keys leaves is named as broken, on both sides, until orphans are removed."""
    items.chain("abc")
    database.rows(f"SET session_replication_role = replica; DELETE FROM steps WHERE id = '{items.id('b')}'")

    found = ask(cursor, "SELECT problem, reference, other FROM validate_navigation(%s)", items.project)

    refs = items.refs
    assert {("broken", refs["b"], refs["a"]), ("broken", refs["b"], refs["c"])} <= set(found)
    database.rows("SELECT * FROM cleanup_orphans()")
    assert ask(cursor, "SELECT * FROM validate_navigation(%s)", items.project) == []


def test_references_are_resolved(cursor: Any, items: Items) -> None:
    """An item's row by its reference, and no row for what is none or does not exist."""
    items.chain("ab")
    columns = "entity_type, id, project_id, parent_task_id, title, prev_id, next_id"
    ask_for = f"SELECT {columns} FROM resolve_reference(%s)"

    assert ask(cursor, ask_for, items.refs["b"]) == [
        ("STEP", items.id("b"), items.project, items.task, "b", items.refs["a"], None)
    ]
    assert ask(cursor, ask_for, items.refs["T"])[0][:4] == ("TASK", items.task, items.project, None)
    for unknown in (f"task://{items.id('a')}", "step://", "'; DROP TABLE steps; --", "", None, items.refs["a"].upper()):
        assert ask(cursor, ask_for, unknown) == []


# --- what is older than the triggers ---------------------------------------------------------------------------------


def test_example_projects_are_linked_as_the_triggers_would(database: Database, cursor: Any) -> None:
    """Loaded past the triggers, both forms of the example projects agree, and places and finished are right."""
    with database.connect() as connection:
        example_data.load(connection, projects=60)

    assert wrong(cursor) == []
    assert ask(cursor, "SELECT count(*) > 1000 FROM navigation_links") == [True]


OLD = {
    # what each item says (prev, next), and the chains that come of it
    "both sides": ({"a": "-b", "b": "ac", "c": "b-"}, ["abc"]),
    "next alone": ({"a": "-b", "b": "-c"}, ["abc"]),
    "prev alone": ({"b": "a-", "c": "b-"}, ["abc"]),
    "mixed, with a task": ({"a": "-T", "T": "-b", "c": "b-"}, ["aTbc"]),
    "against the order of creation": ({"h": "-g", "g": "hf", "f": "ge", "e": "f-"}, ["hgfe"]),
    "a circle": ({"a": "cb", "b": "ac", "c": "ba"}, ["@abc"]),
    "two that say the same of a third": ({"b": "-c", "a": "-c"}, ["ac"]),
    "contradiction": ({"a": "-b", "b": "c-", "c": "-d"}, ["cd"]),
    "broken": ({"a": "-?", "b": "?c", "c": "b-"}, ["bc"]),
    "two chains": ({"a": "-b", "b": "a-", "c": "-d", "d": "c-"}, ["ab", "cd"]),
}


@pytest.mark.parametrize("case", some(OLD))
def test_old_references_are_filled(
    empty: Database, planner: Config, begin_at: Callable[[str], None], case: str
) -> None:
    """References from before the triggers become links where they agree; no other is touched, and validation lists it."""
    begin_at("016")
    said, expected = OLD[case]
    with empty.connect() as connection, connection.cursor() as cursor:
        items = Items(cursor)
        refs = {**items.refs, "-": None, "?": f"step://{uuid.uuid4()}"}
        finish(items, "h")
        ask(cursor, "ALTER TABLE steps DISABLE TRIGGER USER; ALTER TABLE tasks DISABLE TRIGGER USER")
        for letter, (prev, next) in said.items():
            table = "tasks" if letter == "T" else "steps"
            ask(cursor, f"UPDATE {table} SET prev_id = %s, next_id = %s WHERE id = %s",
                refs[prev], refs[next], items.id(letter))  # fmt: skip
        ask(cursor, "ALTER TABLE steps ENABLE TRIGGER USER; ALTER TABLE tasks ENABLE TRIGGER USER")

    command.upgrade(planner, "019")  # nobody is in the database: on a busy machine no deadline is missed

    with empty.connect() as connection, connection.cursor() as cursor:
        items.cursor = cursor
        assert items.chains() == expected
        linked = "".join(expected).replace("@", "")
        now = ask(cursor, "SELECT title, prev_id, next_id FROM steps WHERE project_id = %s", items.project)
        for letter, (prev, next) in said.items():
            if letter not in linked:
                assert (letter, refs[prev], refs[next]) in now
        listed = set(ask(cursor, "SELECT problem FROM validate_navigation(%s)", items.project))
        lost = {"two that say the same of a third": {"one-sided"}, "contradiction": {"one-sided"}, "broken": {"broken"}}
        assert listed == lost.get(case, {"circle"} if case == "a circle" else set())
        if case not in lost:
            assert wrong(cursor) == []
        assert ask(cursor, "SELECT title FROM steps WHERE finished") == ["h"]


def test_links_and_references_that_changed_while_they_were_apart_are_brought_together(
    empty: Database, planner: Config, begin_at: Callable[[str], None]
) -> None:
    """Down to where no trigger keeps both forms, written by both releases, and up again: nothing that agrees is lost."""
    begin_at("019")
    with empty.connect() as connection, connection.cursor() as cursor:
        items = Items(cursor)
        items.chain("abcd")
        items.chain("ef")
        command.downgrade(planner, "017")

        ask(cursor, "DELETE FROM navigation_links WHERE from_step_id = %s", items.id("a"))
        ask(cursor, "UPDATE steps SET next_id = %s WHERE id = %s", items.refs["g"], items.id("d"))
        ask(cursor, "UPDATE steps SET prev_id = NULL WHERE id = %s", items.id("f"))
        ask(cursor, "INSERT INTO navigation_links (project_id, from_step_id, to_step_id, position) VALUES (%s, %s, %s, 5)",
            items.project, items.id("g"), items.id("h"))  # fmt: skip
        command.upgrade(planner, "019")

        assert items.chains() == ["abcdgh", "ef"]
        assert wrong(cursor) == []


OLD_CHAINS = """
    WITH one AS MATERIALIZED (SELECT n, ('00000000-0000-4000-8000-' || right(md5(n::text), 12))::uuid AS id
        FROM generate_series(1, %(steps)s) n)
    INSERT INTO steps (id, project_id, task_id, title, progress, prev_id, next_id, created_at)
    SELECT id, %(project)s, %(task)s, 'step ' || n, n %% 2, 'step://' || lag(id) OVER w, 'step://' || lead(id) OVER w,
        '2026-01-01'::timestamptz + n * interval '1 min'
    FROM one WINDOW w AS (PARTITION BY n %% 100 ORDER BY n)
"""
"""A hundred chains, their items in turns."""


def old_chains(database: Database, steps: int) -> None:
    """So many steps of one project, in chains from before the triggers."""
    with database.connect() as connection, connection.cursor() as cursor:
        items = Items(cursor, "")
        ask(cursor, "ALTER TABLE steps DISABLE TRIGGER USER")
        cursor.execute(OLD_CHAINS, {"steps": steps, "project": items.project, "task": items.task})
        ask(cursor, "UPDATE steps SET finished = NULL")
        ask(cursor, "ALTER TABLE steps ENABLE TRIGGER USER")


@pytest.mark.long
def test_killed_in_the_middle_it_comes_to_the_same(
    empty: Database, new_database: Callable[[], Database], planner: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL when a part of the links is there, twice, and once more to the end: links, places and finished are those of a
    run that nobody has disturbed, and nothing that it needed is left."""
    places = (
        "SELECT title, prev_id, next_id, chain_position, finished, updated_at = created_at, position FROM steps"
        " LEFT JOIN navigation_links ON to_ref = 'step://' || steps.id ORDER BY title"
    )
    command.upgrade(planner, "018")
    old_chains(empty, 3000)
    for part in (300, 1500):
        killed = subprocess.Popen(
            [sys.executable, "-m", "alembic", "upgrade", "019"], cwd=ROOT, env={**os.environ, "DATABASE_URL": empty.url}
        )
        until(lambda part=part: empty.value("SELECT count(*) FROM navigation_links") > part)
        killed.kill()
        killed.wait()
        assert empty.value("SELECT version_num FROM alembic_version") == "018"
        assert empty.value("SELECT count(*) FROM navigation_links") < 2900
    command.upgrade(planner, "019")
    found, built = empty.rows(places), catalog(empty)

    undisturbed = new_database()
    monkeypatch.setenv("DATABASE_URL", undisturbed.url)
    command.upgrade(planner, "018")
    old_chains(undisturbed, 3000)
    command.upgrade(planner, "019")

    assert found == undisturbed.rows(places)
    assert difference(built, catalog(undisturbed)) == []
    with empty.connect() as connection, connection.cursor() as cursor:
        assert wrong(cursor) == []


def test_what_one_end_said_alone_is_filled_without_a_trace(
    empty: Database, planner: Config, begin_at: Callable[[str], None]
) -> None:
    """The other end says so too from then on; nothing is logged, updated_at stays, and the triggers for that are awake again."""
    begin_at("018")
    old_chains(empty, 400)
    empty.rows(
        "ALTER TABLE steps DISABLE TRIGGER USER;"
        "UPDATE steps SET prev_id = CASE WHEN right(title, 1) >= '5' THEN prev_id END,"
        " next_id = CASE WHEN right(title, 1) < '5' THEN next_id END, updated_at = created_at;"
        "ALTER TABLE steps ENABLE TRIGGER USER"
    )
    said = empty.rows("SELECT id, prev_id, next_id FROM steps ORDER BY id")
    logged = empty.value("SELECT count(*) FROM audit_logs")

    command.upgrade(planner, "019")

    filled = empty.rows("SELECT id, prev_id, next_id FROM steps ORDER BY id")
    assert sum(before != after for before, after in zip(said, filled, strict=True)) > 100
    assert empty.value("SELECT count(*) FROM navigation_links") > 200
    assert empty.value("SELECT count(*) FROM steps WHERE updated_at <> created_at") == 0
    assert empty.value("SELECT count(*) FROM audit_logs") == logged
    assert empty.value("SELECT count(*) FROM pg_trigger WHERE tgenabled <> 'O' AND NOT tgisinternal") == 0


def test_old_references_are_filled_by_file(
    empty: Database, planner: Config, begin_at: Callable[[str], None], tmp_path: Path
) -> None:
    """Written by --sql and run by psql, in more than one batch: every reference has its link, places grow, nothing is left."""
    begin_at("018")
    old_chains(empty, 1500)
    before = catalog(empty)

    run(empty, tmp_path, written(Project(ROOT), "upgrade", "018:019"))

    assert empty.rows("SELECT count(*), count(DISTINCT xmin::text) > 1 FROM navigation_links") == [(1400, True)]
    assert difference(catalog(empty), before) == []
    with empty.connect() as connection, connection.cursor() as cursor:
        assert wrong(cursor) == []


@pytest.mark.long
def test_a_long_chain_is_filled_while_others_work(
    empty: Database, planner: Config, begin_at: Callable[[str], None]
) -> None:
    """20,000 chained steps of one project are filled while a session writes to it: no statement of it fails, and it never waits
    for the whole."""
    begin_at("018")
    with empty.connect() as connection, connection.cursor() as cursor:
        items = Items(cursor)
        ask(cursor, "ALTER TABLE steps DISABLE TRIGGER USER")
        ask(
            cursor,
            """WITH one AS MATERIALIZED (SELECT n, gen_random_uuid() AS id FROM generate_series(1, 20000) n)
            INSERT INTO steps (id, project_id, task_id, title, prev_id, next_id)
            SELECT id, %s, %s, 'step ' || n, 'step://' || lag(id) OVER w, 'step://' || lead(id) OVER w FROM one
            WINDOW w AS (ORDER BY n)""",
            items.project,
            items.task,
        )
        ask(cursor, "ALTER TABLE steps ENABLE TRIGGER USER")
        done = threading.Event()
        waits: list[float] = []

        def work() -> None:
            with empty.connect() as mine, mine.cursor() as writer:
                dice = random.Random(1)
                while not done.is_set():
                    one, other = dice.sample("abcdefgh", 2)
                    begun = time.monotonic()
                    writer.execute("UPDATE steps SET next_id = %s WHERE id = %s", (items.refs[other], items.id(one)))
                    writer.execute("UPDATE steps SET progress = random() WHERE title = 'step 17000'")
                    waits.append(time.monotonic() - begun)

        worker = threading.Thread(target=work)
        worker.start()
        try:
            command.upgrade(planner, "019")
        finally:
            done.set()
            worker.join()

        assert ask(cursor, "SELECT count(*) FROM navigation_links WHERE position > 0") > [19_999]
        assert wrong(cursor) == []
        assert len(waits) > 20


# --- several sessions at once -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("DELETE FROM steps WHERE id = '{c_id}'", "UPDATE steps SET next_id = '{b}' WHERE id = '{x_id}'", ["xb"]),
        ("UPDATE steps SET next_id = '{b}' WHERE id = '{x_id}'", "DELETE FROM steps WHERE id = '{c_id}'", ["xb"]),
        ("DELETE FROM steps WHERE id = '{a_id}'", "DELETE FROM steps WHERE id = '{c_id}'", []),
        ("DELETE FROM tasks WHERE id = '{T_id}'", "UPDATE steps SET prev_id = '{b}' WHERE id = '{x_id}'", ["bx"]),
        ("DELETE FROM navigation_links WHERE to_ref = '{c}'", "DELETE FROM steps WHERE id = '{a_id}'", []),
        (
            "DELETE FROM projects WHERE id = '{other}'",
            "UPDATE steps SET next_id = '{c}' WHERE id = '{x_id}'",
            ["ab", "xc"],
        ),
    ],
)
def test_who_waits_sees_what_the_other_has_done(
    database: Database, application: str, first: str, second: str, expected: list[str]
) -> None:
    """Of a change of a chain and a deletion next to it one waits for the other's end, and then both forms agree."""
    with database.connect(user=application) as one, database.connect(user=application, autocommit=False) as other:
        items = Items(one.cursor(), "bx")
        # a and c are in tasks of their own, so that no counter makes the two wait before the chain does
        for letter in "TC":
            items.refs[letter] = f"task://{new_task(items.cursor, items.project)}"
        for letter, task in (("a", "T"), ("c", "C")):
            (step,) = ask(
                items.cursor, "INSERT INTO steps (task_id, title) VALUES (%s, %s) RETURNING id", items.id(task), letter
            )
            items.refs[letter] = f"step://{step}"
        items.chain("abc")
        names = {**items.refs, **{f"{letter}_id": items.id(letter) for letter in items.refs}}
        names["other"] = new_project(items.cursor, "other")
        blocked = other.cursor()
        blocked.execute(first.format(**names))

        failed: list[Exception] = []

        def wait() -> None:
            try:
                ask(items.cursor, second.format(**names))
            except psycopg2.Error as error:
                failed.append(error)

        waiting = threading.Thread(target=wait)
        waiting.start()
        begun = time.monotonic()
        until(
            lambda: (
                not waiting.is_alive()
                or database.value("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'") > 0
                or time.monotonic() > begun + 5
            )
        )
        other.commit()
        waiting.join()

        assert not failed
        assert items.chains() == expected
        assert wrong(items.cursor) == []


def test_neighbours_are_deleted_at_once(database: Database, application: str, cursor: Any) -> None:
    """Two sessions that delete every other item of one chain, one statement each, meet no deadlock and leave nothing behind."""
    items = Items(cursor, "")
    other = new_task(cursor, items.project)
    ask(
        cursor,
        """WITH one AS MATERIALIZED (SELECT n, gen_random_uuid() AS id FROM generate_series(1, 200) n)
        INSERT INTO steps (id, task_id, title, next_id)
        SELECT id, CASE n %% 2 WHEN 0 THEN %s ELSE %s END::uuid, n, 'step://' || lead(id) OVER (ORDER BY n) FROM one""",
        items.task,
        other,
    )
    errors: list[str | None] = []

    def delete(task: str) -> None:
        with database.connect(user=application) as connection, connection.cursor() as mine:
            for one in ask(mine, "SELECT id FROM steps WHERE task_id = %s ORDER BY chain_position", task):
                try:
                    ask(mine, "DELETE FROM steps WHERE id = %s", one)
                except psycopg2.Error as error:
                    errors.append(error.pgcode)

    sessions = [threading.Thread(target=delete, args=(task,)) for task in (items.task, other)]
    for session in sessions:
        session.start()
    for session in sessions:
        session.join()

    assert errors == []
    assert ask(cursor, "SELECT count(*) FROM steps WHERE project_id = %s", items.project) == [0]
    assert wrong(cursor) == []


def test_orders_that_change_at_once_stay_whole(database: Database, application: str, cursor: Any) -> None:
    """Eight sessions re-order steps of one project and change progress, one statement each: no deadlock, both forms agree."""
    load = Load(database, application, cursor)
    steps = ask(cursor, "SELECT id FROM steps WHERE project_id = %s", load.project)

    def turn(cursor: Any, dice: random.Random) -> str:
        one, other = dice.sample(steps, 2)
        if dice.random() < 0.5:
            column = dice.choice(["prev_id", "next_id"])
            reference = None if dice.random() < 0.2 else f"step://{other}"
            cursor.execute(f"UPDATE steps SET {column} = %s WHERE id = %s", (reference, one))
            return "order"
        cursor.execute("UPDATE steps SET progress = %s WHERE id = %s", (dice.random(), one))
        return "steps"

    load.run(turn)

    assert not load.errors, load.errors
    assert load.done["order"] > 30 and load.done["steps"] > 30
    load.check(cursor)
    assert wrong(cursor) == []


def test_everything_at_once_is_refused_at_most(database: Database, application: str, cursor: Any) -> None:
    """With tasks in the chains, links, moves and deletions, several statements a transaction: refused at times, never wrong."""
    load = Load(database, application, cursor)
    database.rows(f"ALTER ROLE {application} SET deadlock_timeout = '20ms'")

    def turn(cursor: Any, dice: random.Random) -> str:
        for _ in range(dice.randint(1, 3)):
            cursor.execute("SELECT id FROM steps WHERE project_id = %s ORDER BY random() LIMIT 2", (load.project,))
            (one,), (other,) = cursor.fetchall()
            task = dice.choice(load.tasks)
            kind = dice.randrange(6)
            if kind == 0:
                cursor.execute("UPDATE tasks SET prev_id = %s WHERE id = %s", (f"step://{one}", task))
            elif kind == 1:
                cursor.execute("UPDATE steps SET prev_id = %s, next_id = %s WHERE id = %s",
                               (f"task://{task}", f"step://{other}", one))  # fmt: skip
            elif kind == 2:
                cursor.execute("DELETE FROM navigation_links WHERE from_step_id = %s", (one,))
            elif kind == 3:
                cursor.execute(*load.task_move(dice))
            else:
                cursor.execute(*load.step_change(dice))
        return "transaction"

    load.run(turn)

    assert set(load.errors) <= {"40P01", "MP002", "MP003", "MP004", "23503"}, load.errors
    assert load.done["transaction"] > 10
    load.check(cursor)
    assert wrong(cursor) == []
