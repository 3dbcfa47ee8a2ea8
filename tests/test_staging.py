"""Rehearsals, piece by piece: what is masked, what is slower, what is another database afterwards, what production asks for."""

from __future__ import annotations

import datetime as dt
import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.config import Config

from mcp_planner_schema.cli import main
from mcp_planner_schema.guard import connect, marker, settings
from mcp_planner_schema.guard.findings import Refused, WrongUse
from mcp_planner_schema.guard.settings import Settings
from mcp_planner_schema.staging import copying, impact, masking, masks, own, picture, place, queries, record, stages
from mcp_planner_schema.staging.masks import Column, Masks
from mcp_planner_schema.staging.pending import Pending, Revision
from mcp_planner_schema.staging.queries import Measured
from mcp_planner_schema.staging.record import Record
from tests.conftest import ROOT, Database
from tests.test_queries import QUERIES

NOW = dt.datetime(2026, 11, 27, 12, tzinfo=dt.UTC)
PEOPLE = """
CREATE TABLE people (id int PRIMARY KEY, name varchar(60) NOT NULL, email text, login text, note text, extra jsonb, born date,
                     nick text, state text, height int);
CREATE TABLE visits (id int, login text, seen timestamptz);
CREATE TABLE log (id int, new_values jsonb) PARTITION BY RANGE (id);
CREATE TABLE log_1 PARTITION OF log FOR VALUES FROM (0) TO (1000);
INSERT INTO people SELECT n, 'Agatha Person' || n, 'agatha' || n || '@corp.example', 'agatha' || n, 'Born in Torquay, no. ' || n,
    jsonb_build_object('id', gen_random_uuid(), 'name', 'Agatha Person' || n, 'tags', '["secret tag", "ab"]'::jsonb, 'n', n),
    date '1950-01-01' + n, 'aggie' || n, 'system', 150 + n FROM generate_series(1, 200) n;
INSERT INTO visits SELECT n, 'agatha' || (n % 200 + 1), now() FROM generate_series(1, 400) n;
INSERT INTO log SELECT n, jsonb_build_object('name', 'Agatha Person' || n, 'since', now()) FROM generate_series(1, 200) n
"""
RULES = """
harmless = ["system"]
[public.people]
name = "unique-words"
email = "email"
login = "hash"
note = "words"
extra = "json"
born = "shuffle"
nick = "null"
state = "hash"
[public.visits]
login = "hash"
[public.log]
new_values = "json"
"""


@pytest.fixture
def rules(tmp_path: Path) -> Any:
    """Makes a rule file of a text."""

    def made(text: str) -> Masks:
        path = tmp_path / "masks.toml"
        path.write_text(text, encoding="utf-8")
        return masks.read(path)

    return made


@contextmanager
def opened(database: Database) -> Iterator[sa.Connection]:
    """A connection as the guard makes its own."""
    engine = connect.own(connect.engine(sa.make_url(database.url).set(drivername="postgresql+psycopg2"), "the test"))
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def masked(database: Database, rules: Masks) -> None:
    """Mask a database as a copy is masked."""
    with opened(database) as connection:
        there = masks.columns(connection, "migration")
        masking.mask(connection, rules, there, rules.decide(there))


@contextmanager
def refused(code: str) -> Iterator[Any]:
    """A refusal for this one reason, with every name filled in."""
    with pytest.raises(Refused) as caught:
        yield caught
    assert {one.code for one in caught.value.findings} == {code}
    assert not re.search(r"\{\w*(!r)?\}", caught.value.text())
    assert caught.value.next_command


# --- masks ------------------------------------------------------------------------------------------------------------


def test_no_value_of_a_masked_column_is_left(empty: Database, rules: Any) -> None:
    """Names, addresses and texts are gone, in the log too; what was equal stays equal, what was unique unique, lengths stay."""
    empty.rows(PEOPLE)
    lengths = empty.rows("SELECT id, length(note) FROM people ORDER BY id")

    masked(empty, rules(RULES))

    whole = str(empty.rows("SELECT people::text FROM people UNION ALL SELECT visits::text FROM visits"
                           " UNION ALL SELECT log::text FROM log"))  # fmt: skip
    assert [word for word in ("gatha", "corp", "Torquay", "secret", "aggie") if word in whole] == []
    assert empty.value(
        "SELECT count(DISTINCT name) = 200 AND count(DISTINCT email) = 200 AND count(nick) = 0 FROM people"
    )
    assert empty.value("SELECT count(*) FROM visits JOIN people USING (login)") == 400
    assert empty.rows("SELECT id, length(note) FROM people ORDER BY id") == lengths
    assert empty.rows(
        "SELECT DISTINCT state, extra ->> 'n' = id::text, jsonb_array_length(extra -> 'tags') FROM people"
    ) == [("system", True, 2)]
    born = empty.rows("SELECT min(born), max(born), count(DISTINCT born), "
                      "count(*) FILTER (WHERE born = '1950-01-01'::date + id) < 9 FROM people")  # fmt: skip
    assert born == [(dt.date(1950, 1, 2), dt.date(1950, 7, 20), 200, True)]
    assert empty.value("SELECT bool_and(email LIKE 'user-%@example.invalid') FROM people")


@pytest.mark.parametrize("collation", ["C", "pg_c_utf8"])
def test_a_name_in_any_alphabet_is_masked(empty: Database, rules: Any, collation: str) -> None:
    """Whatever the collation takes for a letter: no name stays, be it Cyrillic, Chinese or of two signs."""
    names = ["Иван Петров", "王伟", "Ὀδυσσεύς 7", "Zoë O'Hara-Łoś"]
    empty.rows(f'CREATE TABLE people (name text COLLATE "{collation}", extra jsonb)')
    for name in names:
        empty.rows("INSERT INTO people VALUES (%s, jsonb_build_object('name', %s::text))", name, name)

    masked(empty, rules('[public.people]\nname = "words"\nextra = "json"'))

    whole = str(empty.rows("SELECT name, extra::text FROM people"))
    assert [word for name in names for word in re.findall(r"\w+", name) if word in whole and len(word) > 1] == []
    assert empty.value("SELECT count(*) FROM people WHERE name ~ '^.{10,11}$' AND name LIKE '% %'") >= 1


def test_what_was_masked_here_and_stands_there_is_found(empty: Database, rules: Any) -> None:
    """A log that keeps the names which the table has lost is refused by its name, and no value is in what is said."""
    empty.rows(PEOPLE)

    with refused("mask-leaves") as caught:
        masked(empty, rules(RULES.replace('new_values = "json"', 'new_values = "keep"')))

    assert caught.value.findings[0].values["columns"] == "public.log.new_values"
    assert "gatha" not in caught.value.text()


def test_a_column_that_nobody_has_decided_is_refused(empty: Database, rules: Any) -> None:
    """Words, JSON, and what is called like something personal: each is named, with lines that decide it when they are pasted."""
    empty.rows(PEOPLE)

    with refused("mask-undecided") as caught:
        masked(empty, rules('[public.people]\nname = "words"'))

    (found,) = caught.value.findings
    assert found.values["columns"].split(", ") == [
        "public.log.new_values", *(f"public.people.{name}" for name in ("email", "login", "note", "extra", "nick", "state")),
        "public.visits.login",
    ]  # fmt: skip
    pasted = found.values["lines"].replace("[public.people]", '[public.people]\nname = "words"\nborn = "keep"')
    masked(empty, rules(pasted))


def test_the_project_has_decided_every_column(database: Database) -> None:
    """scripts/staging-masks.toml has a rule for each column of the schema that needs one, and for none that is not there."""
    decided = masks.read(ROOT / "scripts" / "staging-masks.toml")
    with opened(database) as connection:
        there = masks.columns(connection, "migration")

    changed = {one.shown for one, _ in decided.decide(there)}

    assert {"public.audit_logs.new_values", "public.projects.name", "public.navigation_cursors.actor"} <= changed
    assert decided.unknown(there) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[public", "is no TOML"),
        ('[public.people]\nname = "wrods"', "there is no such rule"),
        ("[public.people]\nname = 3", "is no rule of a column"),
        ('public = "words"', "is no rule of a column"),
        ('harmless = "system"', "a list of texts"),
        ('large_objects = "some"', "large_objects is 'some'"),
        ('[public.t]\nname = "null"', "is NOT NULL"),
        ('[public.t]\nname = "json"', "it is for JSON"),
        ('[public.t]\nname = "hash"\nsize = "words"', "it is for texts, and the column is integer"),
        ('[public.t]\nname = "email"', "takes 35 characters"),
    ],
)
def test_a_rule_that_cannot_be_in_force_is_refused(rules: Any, text: str, said: str) -> None:
    """A misspelt rule, or one that does not fit its column, is told with the place where it stands."""
    columns = [
        Column("public", "t", "name", "character varying(30)", True, "r", "varchar", "S", "", 30),
        Column("public", "t", "size", "integer", False, "r", "int4", "N", "", None),
    ]

    with refused("mask-unusable") as caught:
        rules(text).decide(columns if "public.t" in text else [])

    assert said in caught.value.text()
    assert "masks.toml" in caught.value.text()


def test_the_guards_own_rows_say_nothing_about_people(database: Database) -> None:
    """Who ran what where, and what errors quote of rows, is gone; what downgrades have kept is given up."""
    database.rows("UPDATE migration.run SET error = 'Key (name)=(Agatha) already exists'")
    database.rows(
        "INSERT INTO migration.event (run_id, at, kind, data) "
        "SELECT id, now(), 'run-ended', '{\"error\": \"Agatha\"}' FROM migration.run LIMIT 1"
    )

    with opened(database) as connection:
        own.mask(connection, "migration")
        connection.commit()

    assert database.rows("SELECT DISTINCT who, host, error FROM migration.run") == [("somebody", "somewhere", None)]
    assert database.value("SELECT count(*) FROM migration.event") == 0


# --- queries ----------------------------------------------------------------------------------------------------------


def plain(sql: str) -> str:
    """A query without its layout, with parameters as psql writes them."""
    return " ".join(re.sub(r"%\((\w+)\)s", r":\1", sql).split())


def test_the_file_has_the_queries_that_are_tested() -> None:
    """scripts/application-queries.sql and tests/test_queries.py say the same, query by query."""
    read = queries.read(ROOT / "scripts" / "application-queries.sql")

    assert {one.name: plain(one.sql) for one in read.queries} == {name: plain(one.sql) for name, one in QUERIES.items()}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("SELECT 1;", "has no query"),
        ("-- query: a\nSELECT :id;", "no parameter id above it"),
        ("-- query: a\n\n-- query: b\nSELECT 1;", "it is empty"),
        ("-- query: a\nSELECT 1;\n-- query: a\nSELECT 2;", "the name is taken"),
    ],
)
def test_a_file_of_queries_is_read_with_suspicion(tmp_path: Path, text: str, said: str) -> None:
    """What would not be asked is refused beforehand."""
    (tmp_path / "queries.sql").write_text(text)

    with pytest.raises(WrongUse, match=said):
        queries.read(tmp_path / "queries.sql")


def test_a_query_is_measured_and_changes_nothing(empty: Database, tmp_path: Path) -> None:
    """Its plan and blocks are told without a value of a row; one that fails, or that nothing can be asked with, says so."""
    empty.rows(
        "CREATE TABLE t (id int PRIMARY KEY, name text); INSERT INTO t SELECT n, 'Agatha' FROM generate_series(1, 999) n"
    )
    (tmp_path / "q.sql").write_text(
        "-- parameter: id\nSELECT max(id) FROM t;\n-- parameter: none\nSELECT id FROM t WHERE id < 0;\n"
        "-- query: by key\nSELECT * FROM t WHERE id = :id AND '100%' <> 'x::y';\n"
        "-- query: by name\nSELECT * FROM t WHERE name = 'Agatha';\n"
        "-- query: broken\nSELECT nothing FROM t;\n-- query: unasked\nSELECT * FROM t WHERE id = :none;\n"
        "-- query: writes\nDELETE FROM t;\n"
    )
    read = queries.read(tmp_path / "q.sql")

    with opened(empty) as connection:
        connection.exec_driver_sql("SET search_path = public")
        connection.commit()
        values = queries.values(connection, read)
        found = {one.name: queries.measure(connection, one, values, 3) for one in read.queries}

    assert values == {"id": "999", "none": None}
    assert found["by key"].plan in (("Index Scan using t_pkey on t",), ("Seq Scan on t",))
    assert found["by name"].plan == ("Seq Scan on t",)
    assert found["by name"].blocks > 0
    assert found["by name"].ms > 0
    assert len(found["by name"].runs) == len(found["by name"].yardstick) == 3
    assert min(found["by name"].yardstick) > 0
    assert queries.measured(json.loads(json.dumps(asdict(found["by name"])))) == found["by name"]
    assert found["broken"].error == 'column "nothing" does not exist (42703)'
    assert found["unasked"].skipped == "no row gives none"
    assert empty.value("SELECT count(*) FROM t") == 999


FAST = Measured(1.0, 10, ("Index Scan using ix on t",))
SLOW = {
    "the index is gone": (FAST, Measured(30.0, 900, ("Seq Scan on t",))),
    "the plan is the same": (FAST, Measured(2.6, 40, FAST.plan)),
    "only the clock": (FAST, Measured(3.0, 10, FAST.plan)),
    "only the clock, on a slower machine": (
        replace(FAST, yardstick=(4.0,) * 7),
        replace(FAST, ms=6.0, runs=(5.0, 6.0, 6.0), yardstick=(8.0,) * 3),
    ),
    "only blocks, on a copy in memory": (FAST, Measured(1.1, 2_000, ("Seq Scan on t",))),
    "one time of the yardstick is far out": (
        replace(FAST, ms=10.0, runs=(10.0,) * 7, yardstick=(12.0,) * 7),
        replace(FAST, ms=20.0, runs=(20.0,) * 28, yardstick=(*(12.0,) * 27, 400.0)),
    ),
    "another plan, and slower in each run": (
        FAST, Measured(3.0, 10, ("Index Scan using other on t",), runs=(2.9, 3.0, 3.1)),
    ),
    "another plan, and slower in some runs": (
        FAST, Measured(3.0, 10, ("Index Scan using other on renamed",), runs=(1.2, 1.2, 3.0, 3.1)),
    ),
    "half of the time the machine is twice as slow": (
        replace(FAST, ms=5.0, runs=(5.0,) * 7, yardstick=(4.0,) * 7),
        replace(FAST, ms=25.0, runs=(*(25.0,) * 15, *(12.5,) * 13), yardstick=(*(8.0,) * 15, *(4.0,) * 13)),
    ),
    "as before, on a machine that was slower then": (
        replace(FAST, ms=9.0, runs=(9.0,) * 7, yardstick=(7.0,) * 7),
        replace(FAST, ms=9.0, runs=(9.0,) * 28, yardstick=(4.0,) * 28),
    ),
}  # fmt: skip
AS_GOOD = {
    "the same": (FAST, FAST),
    "the machine's mood": (Measured(0.1, 10, FAST.plan), Measured(0.9, 10, FAST.plan)),
    "less than half as much again": (Measured(10, 10, FAST.plan), Measured(14, 15, FAST.plan)),
    "another plan, as fast": (FAST, Measured(1.1, 12, ("Bitmap Heap Scan on t", "  Bitmap Index Scan using ix"))),
    "faster": (Measured(30.0, 900, ("Seq Scan on t",)), FAST),
    "the machine does something else": (
        replace(FAST, ms=5.0, runs=(5.0,) * 7, yardstick=(4.0,) * 7),
        replace(FAST, ms=9.0, runs=(8.5,) * 28, yardstick=(5.0, 9.0) * 14),
    ),
    "a few blocks more, on a slower machine": (
        replace(FAST, ms=5.0, runs=(5.0,) * 7, yardstick=(4.0,) * 7),
        replace(FAST, ms=9.5, blocks=16, runs=(9.5,) * 7, yardstick=(7.9,) * 7),
    ),
    "not asked before": (Measured(skipped="no row gives id"), SLOW["the index is gone"][1]),
    "failed before": (Measured(error="gone"), SLOW["the index is gone"][1]),
}  # fmt: skip


@pytest.mark.parametrize("case", SLOW)
def test_a_slower_query_is_a_finding(case: str) -> None:
    """More than half as much again by the clock, or by blocks, with both plans in what is said."""
    found = impact.Impact("steps of a task", *SLOW[case]).finding("q.sql")

    assert found is not None
    assert found.code == "performance-impact"
    assert "steps of a task" in found.text()
    assert SLOW[case][1].plan[0] in found.text()


@pytest.mark.parametrize("case", AS_GOOD)
def test_noise_is_no_finding(case: str) -> None:
    """What is short, or within half as much again, or was never asked before, is left alone."""
    assert impact.Impact("q", *AS_GOOD[case]).finding("q.sql") is None


def test_a_query_that_fails_afterwards_is_a_finding() -> None:
    """The application would see the error."""
    found = impact.Impact("q", FAST, Measured(error='column "x" does not exist (42703)')).finding("q.sql")

    assert found is not None
    assert found.code == "query-broken"
    assert 'column "x" does not exist' in found.text()


def test_only_the_clock_is_doubted() -> None:
    """What blocks or plan confirm is not measured again."""
    assert {case: impact.Impact("q", *pair).doubtful for case, pair in SLOW.items()} == {
        "the index is gone": False, "the plan is the same": False, "only the clock": True,
        "only the clock, on a slower machine": True, "only blocks, on a copy in memory": False,
        "one time of the yardstick is far out": True, "another plan, and slower in each run": True,
        "another plan, and slower in some runs": True,
        "half of the time the machine is twice as slow": True, "as before, on a machine that was slower then": True,
    }  # fmt: skip


BEFORE = replace(FAST, ms=5.0, runs=(5.0,) * 7, yardstick=(4.0,) * 7)


@pytest.mark.parametrize(
    ("ms", "yardstick", "said"),
    [
        (14.0, 12.0, "performance-unclear"),
        (60.0, 12.0, "performance-unclear"),
        (5.0, 1.5, "performance-unclear"),  # it was slower before, by more than twice
        (5.0, 12.0, None),
        (7.0, 5.0, None),
    ],
)
def test_a_machine_that_is_not_what_it_was_proves_nothing(ms: float, yardstick: float, said: str | None) -> None:
    """Beyond twice as slow, afterwards or before, its clock neither accuses a query nor acquits it: no green rehearsal."""
    after = replace(FAST, ms=ms, runs=(ms,) * 28, yardstick=(yardstick,) * 28)
    found = impact.Impact("q", BEFORE, after).finding("q.sql")

    assert (found.code if found else None) == said


@pytest.mark.parametrize(
    ("runs", "yardstick", "said"),
    [
        ((5.1,) * 4, 4.0, ""),
        ((12.0,) * 4, 4.0, ""),  # a finding
        (
            (9.0,) * 4,
            7.0,
            "the query 'q' took 1.8 times as long, which does not count: the machine had become 1.8 times as slow",
        ),
        ((5.0, 5.0, 9.0, 9.0, 9.0), 4.0, "the query 'q' took 1.8 times as long, which does not count: not in each run"),
    ],
)
def test_what_was_slower_and_does_not_count_is_told(runs: tuple[float, ...], yardstick: float, said: str) -> None:
    """With the reason; what is a finding, or was not slower, is no note."""
    after = replace(FAST, ms=sorted(runs)[len(runs) // 2], runs=runs, yardstick=(yardstick,) * len(runs))

    assert impact.Impact("q", BEFORE, after).note() == said


def test_a_query_on_a_busy_machine_is_measured_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """While its clock is not to be believed, with one pause for all queries; what a quieter machine then says counts."""
    busy, quiet = (
        replace(FAST, ms=ms, runs=(ms,) * 21, yardstick=(yardstick,) * 21)
        for ms, yardstick in ((15.0, 12.0), (5.0, 4.0))
    )
    slept, found = list[float](), {"p": busy, "q": busy, "as before": quiet}
    answers = {"p": iter([busy, quiet]), "q": iter([busy, busy, busy])}
    monkeypatch.setattr(stages.time, "sleep", slept.append)

    stages._doubtful_again(dict.fromkeys(found, BEFORE), found, lambda name: next(answers[name]))

    codes = {one.query: one.finding("q.sql") for one in impact.compare(dict.fromkeys(found, BEFORE), found)}
    assert slept == [15.0, 15.0]
    assert [name for name, told in codes.items() if told] == ["q"]
    assert codes["q"].code == "performance-unclear"  # type: ignore[union-attr]
    assert "2 queries" in capsys.readouterr().out


@pytest.mark.parametrize("broken", ["", "jit_is_no_setting"])
def test_the_yardstick_is_planned_in_one_way(
    empty: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """Whatever the database sets; where it cannot be asked the query is measured all the same, and keeps its own settings."""
    (tmp_path / "q.sql").write_text(
        "-- query: q\nSELECT 1 / (current_setting('work_mem') = '64kB')::int FROM pg_class;\n"
    )
    (query,) = queries.read(tmp_path / "q.sql").queries
    if broken:
        monkeypatch.setattr(queries, "_AS_EVER", f"SET LOCAL {broken} = 1")
    empty.rows(
        f"ALTER DATABASE {empty.name} SET enable_hashjoin = off; ALTER DATABASE {empty.name} SET work_mem = '64kB'"
    )

    with opened(empty) as connection:
        plans = list[str]()
        explained = queries._explained

        def seen(*given: Any) -> dict[str, Any]:
            told = explained(*given)
            plans.extend(queries.lines(told["Plan"]))
            return told

        monkeypatch.setattr(queries, "_explained", seen)
        found = queries.measure(connection, query, {}, 3)

    assert not found.error
    assert len(found.runs) == 3
    assert len(found.yardstick) == (0 if broken else 3)
    assert len([one for one in plans if "Hash Join" in one]) == (0 if broken else 3)


def test_a_query_that_writes_is_as_heavy_in_a_longer_round(empty: Database, tmp_path: Path) -> None:
    """Each run leaves dead rows to the next, and a round to the round after it: the first run's blocks of the first count."""
    empty.rows("CREATE TABLE t (id int PRIMARY KEY, n int); INSERT INTO t SELECT n, 0 FROM generate_series(1, 2000) n")
    (tmp_path / "q.sql").write_text("-- query: q\nUPDATE t SET n = n + 1;\n")
    (query,) = queries.read(tmp_path / "q.sql").queries

    with opened(empty) as connection:
        connection.exec_driver_sql("SET search_path = public")
        connection.commit()
        short = queries.measure(connection, query, {}, 2)
        again = queries.measure(connection, query, {}, 2)
    empty.rows("VACUUM FULL t")
    with opened(empty) as connection:
        connection.exec_driver_sql("SET search_path = public")
        connection.commit()
        long = queries.measure(connection, query, {}, 20)

    assert long.blocks == pytest.approx(short.blocks, rel=0.1)
    assert queries.together(short, again).blocks == short.blocks < again.blocks
    assert len(queries.together(short, again).runs) == 4


# --- schema and rows --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("SELECT", []),
        ("UPDATE t SET v = 'z' WHERE id = 1", ["table public.t: other values in its 2 rows"]),
        ("DELETE FROM t WHERE id = 1", ["table public.t: 1 rows, and there were 2"]),
        ("CREATE INDEX ix ON t (v)", ["index"]),
        ("ALTER TABLE t ADD COLUMN w int", ["column"]),
    ],
)
def test_what_is_not_as_it_was_is_found(empty: Database, change: str, said: list[str]) -> None:
    """After the way back schema and rows are what they were, or it is told what is not."""
    empty.rows("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'a'), (2, 'b')")
    with opened(empty) as connection:
        before = json.loads(json.dumps(picture.take(connection, "migration")))
        empty.rows(change)

        counts, notes = picture.differences(before, picture.take(connection, "migration", before))

    assert len(counts) == len(said)
    assert all(word in line for word, line in zip(said, counts, strict=True))
    assert notes == []


def test_what_a_revision_fills_may_be_filled_otherwise(empty: Database) -> None:
    """Other values in a column that came on the way there are a note; in one that was there before they are none."""
    empty.rows("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'a')")
    with opened(empty) as connection:
        before = picture.take(connection, "migration")
        empty.rows("ALTER TABLE t ADD COLUMN w uuid DEFAULT gen_random_uuid()")
        there = picture.take(connection, "migration", before)
        empty.rows("UPDATE t SET w = gen_random_uuid()")

        found = picture.differences(there, picture.take(connection, "migration", before))

    assert found == ([], ["table public.t: other values in columns that the revisions add"])


# --- where, and of what -----------------------------------------------------------------------------------------------


def given(**environment: str) -> Settings:
    """Settings of the project in an environment."""
    return settings.load(Config(str(ROOT / "alembic.ini")), environment)


@pytest.mark.parametrize("said", [{}, {"PLANNER_ENV": "production"}])
def test_a_copy_is_never_made_where_production_may_be(said: dict[str, str]) -> None:
    """Somebody has to say that it is staging: a database on this machine may be a tunnel's end."""
    url = "postgresql://somebody@localhost/planner"

    with refused("staging-misplaced"):
        place.refuse_elsewhere(given(DATABASE_URL=url, **said), sa.make_url(url))

    for environment in ("staging", "development"):
        place.refuse_elsewhere(given(DATABASE_URL=url, PLANNER_ENV=environment), sa.make_url(url))


def test_what_is_no_copy_is_not_replaced(new_database: Any) -> None:
    """A database with tables is dropped only where it is a copy, or its name is said; production's never."""
    database = new_database()
    url = sa.make_url(database.url).set(drivername="postgresql+psycopg2")
    read = given(DATABASE_URL=database.url, PLANNER_ENV="staging")

    def ask(confirm: str = "") -> None:
        with place.server(url) as server:
            place.refuse_what_is_not_ours(server, url, read, confirm)

    ask()  # empty
    database.rows("CREATE TABLE t (id int)")
    with refused("staging-misplaced"):
        ask()
    ask(confirm=database.name)
    with place.server(url) as server:
        place.say_what_it_is(server, database.name, "of a test")
    ask()
    database.rows("CREATE SCHEMA migration;" + marker.TABLES.format(schema="migration"))
    database.rows(
        "INSERT INTO migration.environment (name, who, host) VALUES ('staging', 'a', 'b'), ('production', 'a', 'b')"
    )
    with refused("staging-misplaced"):
        ask(confirm=database.name)


def test_what_is_no_archive_makes_no_copy(tmp_path: Path) -> None:
    """A file that is not there, or that pg_restore does not read, is told as such."""
    with refused("copy-impossible"), copying.of_file(tmp_path / "none.dump"):
        pass
    (tmp_path / "text.sql").write_text("SELECT 1;")

    from mcp_planner_schema.guard import client

    with (
        copying.of_file(tmp_path / "text.sql") as archive,
        pytest.raises(client.Impossible, match="cannot read the archive"),
    ):
        copying.like(client.find("", 18), archive)


def test_an_error_of_a_restore_quotes_no_row() -> None:
    """What stood in a row before it was masked is not in what is said."""
    said = (
        'pg_restore: error: COPY failed for table "t": ERROR:  invalid input syntax for type integer: "Agatha"\n'
        'CONTEXT:  COPY t, line 1, column id: "Agatha"'
    )

    assert "Agatha" not in copying._without_rows(said)
    assert 'COPY failed for table "t"' in copying._without_rows(said)


# --- the record -------------------------------------------------------------------------------------------------------

TWO = (Revision("023", "v1:a", "migrate"), Revision("024", "v1:b", "contract"))
AT_022 = Pending(("022",), "18.6", TWO)
GREEN = Record(
    Path("green.json"), NOW - dt.timedelta(days=1), True, "18.2", ("022",), (("023", "v1:a"), ("024", "v1:b")), ()
)
REASONS = {
    "not green: performance-impact": replace(GREEN, green=False, findings=("performance-impact", "performance-impact")),
    "8d 0h old": replace(GREEN, at=NOW - dt.timedelta(days=8)),
    "in the future": replace(GREEN, at=NOW + dt.timedelta(days=1)),
    "run on PostgreSQL 17.5": replace(GREEN, server="17.5"),
    "began at 021": replace(GREEN, start=("021",)),
    "did not run 024": replace(GREEN, revisions=GREEN.revisions[:1]),
    "ran 025, which is not to be run": replace(GREEN, revisions=(*GREEN.revisions, ("025", "v1:c"))),
    "024 has been edited": replace(GREEN, revisions=(GREEN.revisions[0], ("024", "v1:x"))),
    "in another order": replace(GREEN, revisions=GREEN.revisions[::-1]),
}


@pytest.mark.parametrize("reason", REASONS)
def test_what_was_not_rehearsed_is_refused(reason: str) -> None:
    """Not green, stale, of another server, of other revisions or texts: each is said, and ends with what to type."""
    with refused("not-rehearsed") as caught:
        record.require([REASONS[reason]], AT_022, 7, now=NOW)

    assert reason in caught.value.text()
    assert caught.value.code == 3
    assert "scripts/staging-deploy.sh" in caught.value.next_command


def test_without_a_rehearsal_it_is_refused() -> None:
    """Nothing was rehearsed: the revisions are named."""
    with refused("not-rehearsed") as caught:
        record.require([], AT_022, 7, now=NOW)

    assert "no rehearsal of 023, 024 from 022" in caught.value.text()


def test_what_was_rehearsed_may_run() -> None:
    """A green one of exactly these revisions counts, for its first phase too; of two the newest; nothing pending needs none."""
    expand = replace(GREEN, revisions=GREEN.revisions[:1])

    assert record.require([GREEN], AT_022, 7, now=NOW) is GREEN
    assert record.require([REASONS["began at 021"], GREEN], AT_022, 7, now=NOW) is GREEN
    assert record.require([GREEN], AT_022, 7, expand=True, now=NOW) is GREEN
    assert record.require([expand], AT_022, 7, expand=True, now=NOW) is expand
    assert record.require([], replace(AT_022, revisions=()), 7, now=NOW) is None
    with refused("not-rehearsed"):
        record.require([replace(GREEN, green=False, at=NOW), GREEN], AT_022, 7, now=NOW)


def test_a_record_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    """What was written is read again; a folder that cannot be written is told, and nothing half is left."""
    told = {
        "format": 1, "at": "2026-11-27T12:00:00+00:00", "green": True, "server": "18.6", "from": ["022"], "to": ["024"],
        "revisions": [{"id": "023", "checksum": "v1:a"}], "findings": [{"code": "query-broken"}],
    }  # fmt: skip

    path = record.write(tmp_path / "new", told)

    assert record.found(tmp_path / "new") == [
        Record(path, NOW, True, "18.6", ("022",), (("023", "v1:a"),), ("query-broken",))
    ]
    assert [one.name for one in (tmp_path / "new").iterdir()] == ["2026-11-27T120000+0000_022-024.json"]
    (tmp_path / "file").write_text("")
    with pytest.raises(WrongUse, match="cannot be written"):
        record.write(tmp_path / "file", told)
    (tmp_path / "new" / "other.json").write_text("{}")
    assert len(record.found(tmp_path / "new")) == 1
    with pytest.raises(WrongUse, match="no record of a rehearsal"):
        record.read(tmp_path / "new" / "other.json")


def test_production_asks_whether_it_was_rehearsed(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """migrate-rehearsed is 0 where nothing is pending, 3 where something is that nobody has rehearsed, and 2 for no record."""
    monkeypatch.setenv("PLANNER_REHEARSAL_DIR", str(tmp_path))

    assert main(["migrate-rehearsed"]) == 0
    database.rows("UPDATE alembic_version SET version_num = '023'")
    assert main(["migrate-rehearsed"]) == 3
    assert "there is no rehearsal of 024 from 023" in capsys.readouterr().err
    assert main(["migrate-rehearsed", f"REHEARSAL={tmp_path / 'none.json'}"]) == 2


# --- the script -------------------------------------------------------------------------------------------------------


def test_the_script_tells_what_it_takes() -> None:
    """--help names every variable that a stage reads, and nothing is run; other arguments are refused."""
    script = str(ROOT / "scripts" / "staging-deploy.sh")
    read = (ROOT / "mcp_planner_schema" / "staging" / "stages.py").read_text()

    told = subprocess.run([script, "--help"], capture_output=True, text=True, check=True).stdout
    wrong = subprocess.run([script, "DUMP=x"], capture_output=True, text=True, check=False)

    assert {
        name for name in re.findall(r'(?:environ\.get|environ|\.file)[(\[]"([A-Z_]+)"', read) if name not in told
    } == set()
    assert told.startswith("Rehearses what is pending on a copy of production")
    assert wrong.returncode == 2


def test_every_stage_of_the_script_is_one() -> None:
    """The script calls the stages there are, each once, in their order."""
    from mcp_planner_schema.staging.__main__ import STAGES

    text = (ROOT / "scripts" / "staging-deploy.sh").read_text()

    assert re.findall(r"^stage ([a-z-]+)$", text, re.MULTILINE) == list(STAGES)


def test_a_rehearsal_needs_to_know_of_what(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of DUMP, SOURCE_URL and GENERATE, or two of them, is wrong use."""
    from mcp_planner_schema.staging import stages

    for said in ({}, {"DUMP": "x", "GENERATE": "1"}):
        with monkeypatch.context() as environment:
            for name in stages.SOURCES:
                environment.delenv(name, raising=False)
            for name, value in said.items():
                environment.setenv(name, value)
            with pytest.raises(WrongUse, match="One of DUMP, SOURCE_URL, GENERATE is needed"):
                stages._source()
