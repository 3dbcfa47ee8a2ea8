"""What is asked of the server before a run: every bad state is made for real, asked about, and told by its name."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from alembic import command

from mcp_planner_schema import cli, embedded
from mcp_planner_schema.guard import connect, settings
from mcp_planner_schema.guard.findings import Finding, Refused, WrongUse
from mcp_planner_schema.guard.findings_preflight import LEVELS, PREFLIGHT_RULES
from mcp_planner_schema.guard.fingerprint.line import Line
from mcp_planner_schema.guard.preflight import check, disk, pending, server
from mcp_planner_schema.guard.preflight.asked import Question
from mcp_planner_schema.guard.preflight.check import Report
from mcp_planner_schema.guard.preflight.pending import Pending
from tests import sent
from tests.conftest import ROOT, Database, Project, _clone
from tests.until import until

IN_TESTS = {"server-setting"}
"""What the tests' own server has: it is set up to be fast, and to be thrown away."""


def step(
    *come: tuple[str, str, str], gone: Iterable[tuple[str, str, str]] = (), locks: dict[str, str] | None = None, text: str = "",
    rewritten: tuple[str, ...] = (), direction: str = "upgrade", revision: str = "002",
) -> Pending:  # fmt: skip
    """A pending revision that is known to touch this."""
    return Pending(
        revision, direction, f"{revision}_x.py", text, False,
        {pending.named(name): mode for name, mode in (locks or {}).items()}, frozenset(map(pending.named, rewritten)),
        tuple(Line(*one) for one in come), tuple(Line(*one) for one in gone), locks is not None,
    )  # fmt: skip


LOCKS_T = step(locks={"public.t": "ACCESS EXCLUSIVE"}, text="ALTER TABLE t")


@dataclasses.dataclass
class Asking:
    """Preflight on a database, as the run in an environment asks."""

    project: Project
    database: Database

    def report(self, *steps: Pending, environment: str = "production", user: str = "postgres", **more: Any) -> Report:
        """Everything that is found."""
        url = dataclasses.replace(self.database, user=user).url
        given = settings.load(self.project.config(), {**os.environ, "DATABASE_URL": url, "PLANNER_ENV": environment})
        engine = connect.engine(connect.url(given), "the test")
        return check.ask(connect.own(engine), given, steps, **more)

    def found(self, *steps: Pending, **more: Any) -> dict[str, list[Finding]]:
        """The findings by code, without those of the tests' own server."""
        report = self.report(*steps, **more)
        codes: dict[str, list[Finding]] = {}
        for one in (*report.refused, *report.told):
            if one.code not in IN_TESTS:
                codes.setdefault(one.code, []).append(one)
                assert not re.search(r"\{\w*\}", one.text())
        return codes

    def only(self, code: str, *steps: Pending, **more: Any) -> list[Finding]:
        """The findings of this code, which are the only ones."""
        codes = self.found(*steps, **more)
        assert list(codes) == [code], codes
        return codes[code]

    def nothing(self, *steps: Pending, **more: Any) -> bool:
        """Whether all is in order."""
        codes = self.found(*steps, **more)
        assert codes == {}
        return True


@pytest.fixture
def asking(empty: Database, project: Project) -> Asking:
    """Preflight on an empty database; nobody asks for a backup."""
    project.configure(backup_age="never")
    return Asking(project, empty)


@pytest.fixture(scope="module")
def unchanged(empty_template: Any) -> Iterator[Database]:
    """An empty database that stays so."""
    with _clone(empty_template) as database:
        yield database


@pytest.fixture
def quiet(unchanged: Database, project: Project) -> Asking:
    """Preflight on it, for what needs nothing in it."""
    project.configure(backup_age="never")
    return Asking(project, unchanged)


@pytest.fixture
def role(empty: Database) -> Iterator[str]:
    """A role that may connect, and owns nothing."""
    name = f"deployer_{empty.name}"
    empty.rows(f"CREATE ROLE {name} LOGIN; GRANT pg_monitor TO {name}")
    yield name
    empty.rows(f"DROP OWNED BY {name} CASCADE; DROP ROLE {name}")


@contextmanager
def session(database: Database, application: str, statement: str) -> Iterator[Any]:
    """A session of that name, in a transaction in which it has run the statement."""
    connection = psycopg2.connect(
        host=database.host, port=database.port, dbname=database.name, user=database.user, application_name=application
    )
    try:
        connection.cursor().execute(statement)
        yield connection
    finally:
        connection.close()


def old(database: Database, application: str) -> bool:
    """Whether the session's transaction is older than a second."""
    asked = (
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s AND xact_start < now() - interval '1.1 s'"
    )
    return bool(database.value(asked, application))


# --- the table ----------------------------------------------------------------------------------------------------------


def test_every_finding_has_its_levels_and_the_page_says_the_same() -> None:
    """The table in docs/preflight.md is the table in the code, row by row."""
    page = (ROOT / "docs" / "preflight.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \[`([a-z-]+)`\]\(findings\.md#\1\) \| (\w+) \| (\w+) \| (\w+) \|$", page, re.MULTILINE)

    assert {rule.code for rule in PREFLIGHT_RULES} == set(LEVELS)
    assert {code: levels for code, *levels in rows} == {code: list(levels) for code, levels in LEVELS.items()}


def test_what_is_in_order_is_left_alone(asking: Asking, role: str) -> None:
    """A database with tables, keys, indexes and constraints in order has no finding, for its superuser and for its owner."""
    asking.database.rows(
        "CREATE TABLE far (id bigint PRIMARY KEY); CREATE TABLE t (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "
        "far bigint REFERENCES far, n int NOT NULL CHECK (n > 0), name text UNIQUE); INSERT INTO t (n) VALUES (1); "
        f"ALTER TABLE t OWNER TO {role}; GRANT CREATE ON SCHEMA public TO {role}; "
        f"GRANT CREATE ON DATABASE {asking.database.name} TO {role}"
    )
    coming = step(
        ("constraint", "public.t.c", "CHECK ((n < 10))"), ("index", "public.i", "CREATE INDEX i ON public.t USING btree (n)"),
        locks={"public.t": "ACCESS EXCLUSIVE"}, rewritten=("public.t",),
    )  # fmt: skip

    assert asking.nothing(coming)
    assert asking.nothing(coming, user=role)
    assert asking.report(coming, environment="development").as_json()["told"] == []


def test_it_takes_one_round_trip(quiet: Asking) -> None:
    """All questions to the catalogs of a database without findings are one message, in production too."""
    given = settings.load(quiet.project.config(), {"DATABASE_URL": quiet.database.url, "PLANNER_ENV": "production"})
    target = connect.url(given).update_query_dict({"options": sent.TELLING})
    engine = connect.own(connect.engine(target, "the test"))
    heard = sent.by(engine)
    with engine.connect():
        pass
    heard.clear()

    report = check.ask(engine, given, [LOCKS_T])

    assert [one.code for one in report.refused] == []
    assert len(heard.messages()) == 1, heard
    assert "mcp_planner_guard.told" in heard.messages()[0]


def test_a_question_that_cannot_be_asked_in_time_leaves_the_others(
    asking: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit that is over ends what was sent as a whole; then each is asked by itself, and only the slow one is unanswered."""
    slow = Question("the slow one", ("clock-skew",), lambda here: "SELECT pg_catalog.pg_sleep(30)::text", lambda *_: ())
    monkeypatch.setattr(check, "QUESTIONS", (slow, *check.QUESTIONS))
    asking.project.configure(preflight_timeout="300ms")
    asking.database.rows(f"ALTER DATABASE {asking.database.name} SET default_transaction_read_only = on")

    found = asking.found()

    assert set(found) == {"preflight-unanswered", "server-read-only"}
    assert [one.values["question"] for one in found["preflight-unanswered"]] == ["the slow one"]


# --- the server ---------------------------------------------------------------------------------------------------------


def test_server_too_old(quiet: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server below the oldest version is refused everywhere, and nobody can accept that."""
    monkeypatch.setattr(server, "OLDEST", 99)

    (one,) = quiet.only("server-too-old")
    report = quiet.report(environment="development")

    assert one.values["oldest"] == "99"
    assert [one.code for one in report.refused] == ["server-too-old"]
    assert not one.rule.acceptable


def test_server_end_of_life(quiet: Asking) -> None:
    """From the day after its last minor release on the server's major version is told, and not before."""
    major = quiet.database.value("SHOW server_version_num")[:2]
    end = server.END_OF_LIFE[int(major)]

    assert quiet.nothing(day=end)
    (one,) = quiet.only("server-end-of-life", day=end + dt.timedelta(days=1))
    assert (one.values["major"], one.values["since"]) == (major, str(end))


def test_server_read_only(asking: Asking) -> None:
    """A database whose sessions begin read-only is refused: the first statement would fail. Preflight's own setting is none."""
    asking.database.rows(f"ALTER DATABASE {asking.database.name} SET default_transaction_read_only = on")

    (one,) = asking.only("server-read-only")

    assert "default_transaction_read_only" in one.values["problem"]


def test_server_setting(quiet: Asking) -> None:
    """Settings under which a crash breaks the database are told in production, each by its name, and left in development."""
    found = [one for one in quiet.report().told if one.code == "server-setting"]

    assert {one.values["name"] for one in found} == {"fsync", "full_page_writes", "autovacuum"}
    assert quiet.report(environment="development").told == ()


def test_connections_short(asking: Asking, role: str) -> None:
    """A role whose limit leaves fewer connections than the run opens is told which limit, and how many are in use."""
    asking.database.rows(f"ALTER ROLE {role} CONNECTION LIMIT 8; CREATE SCHEMA migration")

    assert asking.nothing(user=role)
    with asking.database.connect(user=role), asking.database.connect(user=role):
        (one,) = asking.only("connections-short", user=role)

    assert one.values["limit"] == "the role's CONNECTION LIMIT"
    assert (one.values["free"], one.values["need"], one.values["counted"]) == ("5", "7", "3 of 8 are in use")


def test_lock_timeout_long(quiet: Asking) -> None:
    """A limit of an hour is none; development is told."""
    quiet.project.configure(lock_timeout="1h", deadline="11s")

    found = quiet.only("lock-timeout-long")
    report = quiet.report(environment="development")

    assert [(one.values["name"], one.values["value"]) for one in found] == [
        ("deadline", "11 s"),
        ("lock_timeout", "60 min"),
    ]
    assert [one.code for one in report.told] == ["lock-timeout-long"] * 2


def test_clock_skew(quiet: Asking) -> None:
    """A clock here that is a minute slow is told; half a second is not."""
    (one,) = quiet.only("clock-skew", now=lambda: time.time() - 60)

    assert one.values["skew"].endswith(" s (it is ahead)")
    assert quiet.nothing(now=lambda: time.time() + 0.5)


# --- rights -------------------------------------------------------------------------------------------------------------


def test_owner_missing(asking: Asking, role: str) -> None:
    """What a revision changes and somebody else owns is named with its owner: table, view, function, type; a member passes."""
    asking.database.rows(
        'CREATE TABLE "T t" (id int); CREATE TABLE mine (id int); CREATE VIEW v AS SELECT 1; CREATE TYPE e AS ENUM (); '
        "CREATE FUNCTION f(int) RETURNS int LANGUAGE sql AS 'SELECT 1'; CREATE TABLE far (id int PRIMARY KEY); "
        f"ALTER TABLE mine OWNER TO {role}; GRANT CREATE ON SCHEMA public TO {role}; "
        f"GRANT CREATE ON DATABASE {asking.database.name} TO {role}"
    )
    changing = step(
        ("column", 'public."T t".n', "integer"), ("column", "public.mine.n", "integer"), ("column", "public.new.n", "integer"),
        gone=[("view", "public.v", "as SELECT 1"), ("function", "public.f(integer)", ""), ("type", "public.e", "enum ()")],
        locks={"public.far": "SHARE ROW EXCLUSIVE", "public.mine": "ACCESS EXCLUSIVE"},
    )  # fmt: skip

    found = asking.only("owner-missing", changing, user=role)

    assert {one.values["what"] for one in found} == {
        'the table "T t"', "the view v", "the function public.f(integer)", "the type public.e", "the table far",
    }  # fmt: skip
    assert {one.values["owner"] for one in found} == {"postgres"}
    assert asking.nothing(changing)
    asking.database.rows(f"GRANT REFERENCES ON far TO {role}; GRANT postgres TO {role}")
    assert asking.nothing(changing, user=role)


def test_create_denied(asking: Asking, role: str) -> None:
    """A role without CREATE is told where: in the schema of a new table, and in the database for the guard's own schema."""
    asking.database.rows("CREATE SCHEMA app")
    new = step(("table", "app.t", "ordinary"))

    found = asking.only("create-denied", new, user=role)

    assert [one.values["place"] for one in found] == ["the schema app", f"the database {asking.database.name}"]
    assert "migration" in found[1].values["needed"]
    asking.database.rows(f"GRANT CREATE ON SCHEMA app TO {role}; CREATE SCHEMA migration AUTHORIZATION {role}")
    assert asking.nothing(new, user=role)


def test_extension_missing(quiet: Asking) -> None:
    """An extension that the server does not have is named, whether the catalog or the text of a revision says so."""
    (one,) = quiet.only("extension-missing", step(("extension", "no_such_thing", "in public")))
    (other,) = quiet.only("extension-missing", step(text="op.execute('CREATE EXTENSION IF NOT EXISTS \"not-here\"')"))

    assert (one.values["name"], other.values["name"]) == ("no_such_thing", "not-here")
    assert quiet.nothing(step(("extension", "hstore", "in public")))


def test_extension_denied(asking: Asking, role: str) -> None:
    """An untrusted extension takes a superuser, a trusted one the right to create; one that is there already takes nothing."""
    asking.database.rows("CREATE SCHEMA migration; CREATE EXTENSION dblink")
    wanted = [step(("extension", name, "in public")) for name in ("postgres_fdw", "hstore", "dblink")]

    found = asking.only("extension-denied", *wanted, user=role)

    assert [(one.values["name"], one.values["problem"]) for one in found] == [
        ("hstore", "it takes the right to create in the database"), ("postgres_fdw", "it takes a superuser"),
    ]  # fmt: skip
    asking.database.rows(f"GRANT CREATE ON DATABASE {asking.database.name} TO {role}")
    assert [one.values["name"] for one in asking.only("extension-denied", *wanted, user=role)] == ["postgres_fdw"]


# --- who is at work -----------------------------------------------------------------------------------------------------


@pytest.fixture
def busy(asking: Asking) -> Asking:
    """A table that a revision needs; a transaction is long after a second."""
    asking.project.configure(preflight_transaction="1s")
    asking.database.rows("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE elsewhere (id int)")
    return asking


def test_table_in_use(busy: Asking) -> None:
    """Who has held the table for too long is named; only told where the name in the text is all that is known."""
    with (
        session(busy.database, "a report", "SELECT FROM t"),
        session(busy.database, "far away", "SELECT FROM elsewhere"),
    ):
        until(lambda: old(busy.database, "a report") and old(busy.database, "far away"))
        found = busy.found(LOCKS_T)
        untraced = step(text="op.execute('ALTER TABLE t ADD COLUMN n int')")
        by_text, weaker = busy.found(untraced), busy.report(untraced)

    assert "t is in use: pid " in found["table-in-use"][0].values["line"]
    assert "(a report, user postgres, idle in transaction" in found["table-in-use"][0].values["line"]
    assert {one.values["who"].split("(")[1].split(",")[0] for one in found["transaction-long"]} == {
        "a report",
        "far away",
    }
    assert len(by_text["table-in-use"]) == 1
    assert "table-in-use" not in {one.code for one in weaker.refused}


def test_who_holds_a_table_is_told_before_it_refuses(busy: Asking) -> None:
    """From a second on a session in the way is named; what refuses is only what lasts."""
    busy.project.configure(preflight_transaction="1h")
    with (
        session(busy.database, "a report", "SELECT FROM t"),
        session(busy.database, "far away", "SELECT FROM elsewhere"),
    ):
        until(lambda: old(busy.database, "a report") and old(busy.database, "far away"))
        report = busy.report(LOCKS_T)

    assert "table-in-use" not in {one.code for one in report.refused}
    assert ["a report" in one.text() for one in report.told if one.code == "table-in-use"] == [True]


def test_transaction_long(busy: Asking) -> None:
    """A transaction that lasts is told with its age, and how to end it; a second later than the limit, not before."""
    with session(busy.database, "a report", "SELECT FROM elsewhere") as connection:
        pid = connection.info.backend_pid
        busy.project.configure(preflight_transaction="1h")
        assert busy.nothing(LOCKS_T)
        busy.project.configure(preflight_transaction="1s")
        until(lambda: old(busy.database, "a report"))
        (one,) = busy.only("transaction-long", LOCKS_T)

    assert one.values["pid"] == str(pid)


def test_backup_running(busy: Asking) -> None:
    """A dump is refused as soon as it holds the table, however short it has been at work."""
    busy.project.configure(preflight_transaction="1h")
    with session(busy.database, "pg_dump", "SELECT FROM t"):
        until(lambda: old(busy.database, "pg_dump"))
        (one,) = busy.only("backup-running", LOCKS_T)

    assert "t is in use: pid " in one.values["line"]
    assert "(a backup by pg_dump, user postgres, for " in one.values["line"]


def test_a_dump_that_runs(busy: Asking, tmp_path: Path) -> None:
    """The real program, at work while another table is locked: it holds what it has reached, and is called what it is."""
    database = busy.database
    at = [
        "-h",
        database.host,
        "-p",
        str(database.port),
        "-U",
        "postgres",
        "-d",
        database.name,
        "-f",
        str(tmp_path / "dump"),
    ]
    with (
        session(database, "in the way", "LOCK TABLE elsewhere IN ACCESS EXCLUSIVE MODE") as other,
        subprocess.Popen([embedded.binary("pg_dump"), *at, "-t", "t", "-t", "elsewhere"]) as dump,
    ):
        try:
            until(lambda: old(database, "pg_dump"))
            (one,) = busy.found(LOCKS_T)["backup-running"]
            report = busy.report(LOCKS_T, environment="development")
        finally:
            other.rollback()
        ended = dump.wait()

    assert (ended, (tmp_path / "dump").exists()) == (0, True)
    assert re.match(r"t is in use: pid \d+ \(a backup by pg_dump, user postgres, for ", one.values["line"])
    assert "backup-running" in {found.code for found in (*report.told, *report.refused)}
    assert "backup-running" not in busy.found(LOCKS_T)


def test_transaction_prepared(busy: Asking) -> None:
    """A prepared transaction is called by its name, with the table that it holds."""
    with session(busy.database, "a bank", "LOCK TABLE t IN ROW EXCLUSIVE MODE") as bank:
        bank.cursor().execute("PREPARE TRANSACTION 'left 50% open'")
    try:
        (one,) = until(lambda: busy.found(LOCKS_T).get("transaction-prepared"))
    finally:
        busy.database.rows("ROLLBACK PREPARED 'left 50% open'")

    assert one.values["name"] == "'left 50% open'"
    assert one.values["tables"] == " and holds public.t"
    assert one.values["owner"] == "postgres"


# --- leftovers, keys, versions ------------------------------------------------------------------------------------------


def test_index_invalid(asking: Asking) -> None:
    """An index whose build has failed is refused; not where a pending revision is about it."""
    asking.database.rows("CREATE TABLE t (id int); INSERT INTO t VALUES (1), (1)")
    with pytest.raises(psycopg2.errors.UniqueViolation):
        asking.database.rows("CREATE UNIQUE INDEX CONCURRENTLY u ON t (id)")

    (one,) = asking.only("index-invalid")

    assert (one.values["name"], one.values["table"]) == ("u", "t")
    assert asking.nothing(step(text="op.create_index_concurrently('u', …)"))


def test_constraint_not_valid(asking: Asking) -> None:
    """Constraints that old rows may break are told, NOT NULL and foreign keys too; not those that a pending revision names."""
    asking.database.rows(
        "CREATE TABLE t (id int PRIMARY KEY, n int); ALTER TABLE t ADD CONSTRAINT c CHECK (n > 0) NOT VALID; "
        "ALTER TABLE t ADD CONSTRAINT f FOREIGN KEY (n) REFERENCES t NOT VALID"
    )

    found = asking.only("constraint-not-valid")
    rest = asking.only("constraint-not-valid", step(text="op.validate_constraint('c', 't')"))

    assert [one.values["name"] for one in found] == ["c", "f"]
    assert [one.values["name"] for one in rest] == ["f"]


def test_key_near_end(asking: Asking) -> None:
    """A serial, an identity and a free sequence near their ends are named with their share; not one that a revision widens."""
    asking.database.rows(
        "CREATE TABLE a (id serial PRIMARY KEY); SELECT setval('a_id_seq', 2147483647); "
        "CREATE TABLE b (id smallint GENERATED ALWAYS AS IDENTITY); SELECT setval('b_id_seq', 27000); "
        "CREATE SEQUENCE s MAXVALUE 100; SELECT setval('s', 81); CREATE SEQUENCE round MAXVALUE 100 CYCLE; "
        "SELECT setval('round', 99); CREATE TABLE fresh (id serial)"
    )

    found = asking.only("key-near-end")
    widening = step(gone=[("column", "public.a.id", "integer not null")])
    rest = asking.only("key-near-end", widening)

    assert [(one.values["name"], one.values["share"]) for one in found] == [
        ("a.id", "100%"),
        ("b.id", "82%"),
        ("s", "81%"),
    ]
    assert [one.values["name"] for one in rest] == ["b.id", "s"]


def test_foreign_key_narrow(asking: Asking) -> None:
    """A reference of integer to bigint is told with both columns."""
    asking.database.rows("CREATE TABLE far (id bigint PRIMARY KEY); CREATE TABLE t (far int REFERENCES far)")

    (one,) = asking.only("foreign-key-narrow")

    assert one.values == {"column": "t.far", "type": "integer", "target": "far.id", "wider": "bigint"}


def test_collation_changed(asking: Asking) -> None:
    """A database and a collation whose recorded version is not the system's are refused, with the indexes that rest on them."""
    asking.database.rows(
        "CREATE COLLATION german (locale = 'POSIX'); CREATE TABLE t (a text, b text COLLATE german, n int); "
        "CREATE INDEX ia ON t (a); CREATE INDEX ib ON t (b); CREATE INDEX n ON t (n)"
    )
    assert asking.nothing()
    asking.database.rows(f"UPDATE pg_database SET datcollversion = '0.1' WHERE datname = '{asking.database.name}'")
    asking.database.rows("UPDATE pg_collation SET collversion = '0.2' WHERE collname = 'german'")

    whole, own = asking.only("collation-changed")

    assert (whole.values["recorded"], own.values["recorded"]) == ("0.1", "0.2")
    assert whole.values["indexes"] == "1 index rests on it: ia"
    assert own.values["indexes"] == "1 index rests on it: ib"


def test_extension_outdated(asking: Asking) -> None:
    """An extension below what the server brings is told with both versions."""
    asking.database.rows("CREATE EXTENSION hstore VERSION '1.4'")

    (one,) = asking.only("extension-outdated")

    assert (one.values["name"], one.values["installed"]) == ("hstore", "1.4")


@pytest.fixture
def slot(asking: Asking) -> Iterator[str]:
    """A slot that keeps WAL, and that nobody reads."""
    name = f"left_{asking.database.name}"
    asking.database.rows(f"SELECT pg_create_physical_replication_slot('{name}', true)")
    yield name
    asking.database.rows(f"SELECT pg_drop_replication_slot('{name}')")


def test_slot_unread(asking: Asking, slot: str) -> None:
    """A slot that nobody reads is told by its name."""
    (one,) = asking.only("slot-unread")

    assert one.values["name"] == slot


def test_slot_full(asking: Asking, slot: str) -> None:
    """A slot that keeps more than it may is refused."""
    asking.database.rows("CREATE TABLE t AS SELECT n FROM generate_series(1, 1000) n")
    asking.project.configure(backfill_slot_wal="1kB")

    (one,) = asking.only("slot-full")

    assert one.values["name"] == slot
    assert "is read by nobody and keeps " in one.values["problem"]


def test_preflight_unanswered(asking: Asking, role: str) -> None:
    """A question that the role may not ask is told, and the others are answered all the same."""
    asking.database.rows(
        "REVOKE EXECUTE ON FUNCTION pg_catalog.pg_stat_get_wal_senders FROM PUBLIC; CREATE SCHEMA migration; "
        "CREATE TABLE far (id bigint PRIMARY KEY); CREATE TABLE t (far int REFERENCES far)"
    )

    found = asking.found(user=role)

    assert sorted(found) == ["foreign-key-narrow", "preflight-unanswered"]
    assert found["preflight-unanswered"][0].values["question"] == "replicas"
    assert "permission denied" in found["preflight-unanswered"][0].values["problem"]


# --- rows ---------------------------------------------------------------------------------------------------------------

BROKEN = {
    "check": ("constraint", "public.t.c", "CHECK ((n > 0))", "2 rows", "id: 2, 3"),
    "not null": ("column", "public.t.name", "text not null", "1 row", "id: 3"),
    "foreign key": ("constraint", "public.t.f", "FOREIGN KEY (n) REFERENCES public.far(id)", "2 rows", "id: 2, 3"),
    "match full": (
        "constraint", "public.t.f", "FOREIGN KEY (n, name) REFERENCES public.far(id, name) MATCH FULL", "3 rows", "id: 1, 2, 3",
    ),
    "unique": ("constraint", "public.t.u", "UNIQUE (other)", "1 group of equal rows", "id: 1 and 2"),
    "nulls not distinct": ("constraint", "public.t.u", "UNIQUE NULLS NOT DISTINCT (gap)", "1 group of equal rows", "id: 1 and 2"),
    "primary key": ("constraint", "public.keyless.p", "PRIMARY KEY (id)", "1 group of equal rows", "ctid: (0,1) and (0,2)"),
    "unique index": (
        "index", "public.u", "CREATE UNIQUE INDEX u ON public.t USING btree (lower(name))",
        "1 group of equal rows", "id: 1 and 2",
    ),
    "partial index": (
        "index", "public.u", "CREATE UNIQUE INDEX u ON public.t USING btree (other) WHERE (n > 0)", "", "",
    ),
    "exclude": ("constraint", "public.t.x", "EXCLUDE USING btree (other WITH =)", "1 pair of rows", "id: 1 and 2"),
    "not valid": ("constraint", "public.t.c", "CHECK ((n > 0)) NOT VALID", "", ""),
    "a column to come": ("constraint", "public.t.c", "CHECK ((later > 0))", "", ""),
    "a table to come": ("constraint", "public.new.c", "CHECK ((n > 0))", "", ""),
    "not null already": ("column", "public.t.id", "integer not null", "", ""),
}  # fmt: skip


@pytest.fixture(scope="module")
def rows_of(empty_template: Any) -> Iterator[Database]:
    """A database with rows that break rules; nothing writes to it."""
    with _clone(empty_template) as database:
        database.rows(
            "CREATE TABLE far (id int PRIMARY KEY, name text, UNIQUE (id, name)); INSERT INTO far VALUES (1, 'a'); "
            "CREATE TABLE t (id int PRIMARY KEY, n int, name text, other int, gap int); "
            "INSERT INTO t VALUES (1, 1, 'A', 7, NULL), (2, -1, 'a', 7, NULL), (3, -2, NULL, 8, 1); "
            "CREATE TABLE keyless (id int); INSERT INTO keyless VALUES (1), (1)"
        )
        yield database


@pytest.mark.parametrize("what", BROKEN)
def test_rows_against_a_pending_rule_are_counted_and_named(rows_of: Database, project: Project, what: str) -> None:
    """Each kind of rule finds the rows that stand against it, by their keys, and lets those pass that are to be repaired."""
    kind, name, definition, count, sample = BROKEN[what]
    project.configure(backup_age="never")
    asking = Asking(project, rows_of)
    coming = step((kind, name, definition), text="ALTER TABLE t ADD …")

    found = asking.found(coming).get("constraint-violated", [])
    repaired = asking.report(
        step(text="op.execute('UPDATE t SET n = 1; UPDATE keyless SET id = 2')", revision="001"), coming
    )

    assert [(one.values["count"], one.values["sample"]) for one in found] == ([(count, sample)] if count else [])
    assert "constraint-violated" not in {one.code for one in repaired.refused}
    assert [
        "revision 001 may write" in one.values["note"] for one in repaired.told if one.code == "constraint-violated"
    ] == ([True] if count else [])


def test_constraint_violated(rows_of: Database, project: Project) -> None:
    """On the way down the rules that come back are asked for; and where a name is hostile, it is a name."""
    project.configure(backup_age="never")
    rows_of.rows('CREATE TABLE IF NOT EXISTS "x""; DROP TABLE t; --" ("a%b" int)')
    rows_of.rows('INSERT INTO "x""; DROP TABLE t; --" VALUES (NULL)')
    hostile = ("column", 'public."x""; DROP TABLE t; --"."a%b"', "integer not null")
    back = step(("constraint", "public.t.c", "CHECK ((n > 0))"), hostile, direction="downgrade")

    found = Asking(project, rows_of).only("constraint-violated", back)

    assert [one.values["table"] for one in found] == ["t", 'x"; DROP TABLE t; --']
    assert rows_of.value("SELECT count(*) FROM t") == 3


def test_constraint_unchecked(asking: Asking, role: str) -> None:
    """Rows that are counted for too long are "at least"; none within the time, or rows that a policy hides, are not known."""
    asking.database.rows(
        "CREATE FUNCTION slow(n int) RETURNS bool LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.02); RETURN n > 0; END'; "
        "CREATE TABLE t AS SELECT n - 5 AS n FROM generate_series(1, 1000) n; CREATE TABLE good AS SELECT 1 AS n "
        "FROM generate_series(1, 1000); CREATE TABLE veiled (n int); ALTER TABLE veiled ENABLE ROW LEVEL SECURITY; "
        f"GRANT SELECT ON veiled TO {role}; CREATE SCHEMA migration"
    )
    asking.project.configure(preflight_timeout="500ms")
    rule = "CHECK (public.slow(n))"

    (counted,) = asking.only("constraint-violated", step(("constraint", "public.t.c", rule)))
    (unknown,) = asking.only("constraint-unchecked", step(("constraint", "public.good.c", rule)))
    hidden = asking.found(step(("constraint", "public.veiled.c", "CHECK ((n > 0))")), user=role)["constraint-unchecked"]

    assert counted.values["count"] == "at least 5 rows (counting was not finished)"
    assert counted.values["sample"] == "ctid: (0,1), (0,2), (0,3), (0,4), (0,5)"
    assert unknown.values["problem"] == "not finished within 0.5 s"
    assert "row-level security" in hidden[0].values["problem"]


def test_nothing_is_written_by_an_expression(asking: Asking) -> None:
    """A rule's expression that writes is refused by the server, as all of preflight is read-only."""
    asking.database.rows(
        "CREATE TABLE t (n int); INSERT INTO t VALUES (1); CREATE FUNCTION bad(n int) RETURNS bool LANGUAGE plpgsql AS "
        "'BEGIN DELETE FROM t; RETURN false; END'"
    )

    (one,) = asking.only("constraint-unchecked", step(("constraint", "public.t.c", "CHECK (public.bad(n))")))

    assert "read-only transaction" in one.values["problem"]
    assert asking.database.value("SELECT count(*) FROM t") == 1


# --- the disk -----------------------------------------------------------------------------------------------------------


def test_disk_short(asking: Asking) -> None:
    """A run that needs more than it may is refused with its parts: a table rewritten, an index by its width, and the WAL."""
    asking.database.rows(
        "CREATE TABLE t AS SELECT n, repeat('x', 100) AS wide FROM generate_series(1, 10000) n; ANALYZE t"
    )
    total = asking.database.value("SELECT pg_total_relation_size('t')")
    index = step(("index", "public.i", "CREATE INDEX i ON public.t USING btree (n)"))
    asking.project.configure(disk_limit="1kB")

    (whole,) = asking.only("disk-short", step(rewritten=("public.t",)))
    (built,) = asking.only("disk-short", index)
    back = asking.only("disk-short", step(gone=[("table", "public.t", "ordinary")], direction="downgrade"))
    asking.project.configure(disk_limit="100MB")

    assert whole.values["parts"] == f"tables rewritten {total // 1024} kB, WAL {total // 1024} kB"
    assert built.values["parts"] == "indexes built 260 kB, WAL 260 kB"
    assert back[0].values["parts"].startswith("kept in the stash ")
    assert (whole.values["free"], whole.values["place"]) == ("1024 bytes", "alembic.ini, disk_limit")
    assert asking.nothing(step(rewritten=("public.t",)), index)


def test_disk_unknown(asking: Asking, role: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the server's folder cannot be seen the number is told; where it can, what is free there counts."""
    monkeypatch.setattr(disk, "LITTLE", 1000)
    asking.database.rows(f"CREATE TABLE t AS SELECT generate_series(1, 1000) n; ALTER TABLE t OWNER TO {role}")
    asking.database.rows(f"CREATE SCHEMA migration; REVOKE pg_monitor FROM {role}")
    writing = step(rewritten=("public.t",))

    (one,) = asking.only("disk-unknown", writing, user=role)
    assert asking.nothing(writing)
    monkeypatch.setattr(disk.os, "statvfs", lambda path: os.statvfs_result((1, 1, 1, 1, 1, 0, 0, 0, 0, 255)))
    (short,) = asking.only("disk-short", writing)

    assert one.values["need"] == short.values["need"]
    assert short.values["place"] == asking.database.value("SHOW data_directory")


def test_what_is_free_is_read_where_this_server_writes(quiet: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder counts only where it says of itself that it is this server's, started then, at that port."""
    directory, port = quiet.database.value("SHOW data_directory"), quiet.database.value("SHOW port")
    started = quiet.database.value("SELECT extract(epoch FROM pg_postmaster_start_time())::float8")
    told = {"directory": directory, "port": port, "started": started}

    free = disk._free(told)

    assert free is not None and abs(free - shutil.disk_usage(directory).free) < 1024**3
    assert disk._free(told | {"started": started - 60}) is None
    assert disk._free(told | {"port": "1"}) is None
    assert disk._free(told | {"directory": None}) is None


# --- the backup ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def kept(asking: Asking, tmp_path: Path) -> Callable[..., Asking]:
    """A database with a row, and a command that prints this, and ends so."""
    asking.database.rows("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")

    def checked(printed: str, code: int = 0, **more: str) -> Asking:
        script = tmp_path / "check.py"
        script.write_text(f"import sys\nprint({printed!r})\nsys.exit({code})\n")
        asking.project.configure(**{"backup_check": f"{sys.executable} {script}", "backup_age": "24h"} | more)
        return asking

    return checked


def test_backup_missing(kept: Callable[..., Asking]) -> None:
    """Without a backup production refuses: no command, one that says no, is not there, or does not end. Staging is told."""
    python = Path(sys.executable).name

    (none,) = kept("", backup_check="").only("backup-missing")
    (bad,) = kept("the last one failed", 7).only("backup-missing")
    (gone,) = kept("", backup_check="/no/such/command now").only("backup-missing")
    (slow,) = kept("", backup_check="sleep 60", backup_timeout="200ms").only("backup-missing")
    staging = kept("", backup_check="").report(environment="staging")

    assert none.values["problem"] == "no backup_check is configured, and there is no archive"
    assert bad.values["problem"].endswith(f"{python} ended with 7: the last one failed")
    assert gone.values["problem"] == "/no/such/command cannot be run (No such file or directory)"
    assert slow.values["problem"] == "sleep did not end within 0.2 s"
    assert [one.code for one in staging.told if one.code not in IN_TESTS] == ["backup-missing"]
    assert kept("", backup_check="", backup_age="never").nothing()
    assert kept("", backup_check="").report(environment="development").told == ()


def test_backup_old(kept: Callable[..., Asking]) -> None:
    """What the command prints about the age is held against the limit."""
    (one,) = kept("newest: base_0001\nage=25h\nrestored=2d").only("backup-old")

    assert (one.values["age"], one.values["limit"]) == ("25 h", "24 h")
    assert kept("age=23h\nrestored=2d").nothing()


def test_backup_unproven(kept: Callable[..., Asking]) -> None:
    """A command that says nothing of a restore is told of."""
    assert len(kept("age=1h").only("backup-unproven")) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [("disk_limit", "much"), ("backup_check", "say 'yes"), ("backup_age", "0s"), ("preflight_timeout", "no")],
)
def test_a_setting_that_cannot_be_read_is_refused(project: Project, name: str, value: str) -> None:
    """A limit that nobody understands is one that is not in force."""
    project.configure(**{name: value})

    with pytest.raises(WrongUse, match=rf"\[guard\]: {name} = "):
        settings.load(project.config(), {})


def test_a_database_without_rows_needs_no_backup(asking: Asking) -> None:
    """Before the first row there is nothing to lose."""
    asking.project.configure(backup_age="24h")
    asking.database.rows(
        "CREATE TABLE t (id int); CREATE TABLE alembic_version (v text); INSERT INTO alembic_version VALUES ('1')"
    )

    assert asking.nothing(LOCKS_T)


# --- the run ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def refused(project: Project, empty: Database) -> Project:
    """A revision that would be refused in production for two reasons, and stored files that say what it touches."""
    empty.rows(
        "CREATE TABLE t (id serial PRIMARY KEY, n int); INSERT INTO t (n) VALUES (-1); SELECT setval('t_id_seq', 2147483647)"
    )
    project.configure(backup_age="never")
    project.revision(
        "001", "add_check", 'op.execute("ALTER TABLE t ADD CONSTRAINT c CHECK (n > 0) NOT VALID")',
        'op.execute("ALTER TABLE t DROP CONSTRAINT c")',
    )  # fmt: skip
    folder = project.folder / "alembic"
    (folder / "catalog").mkdir()
    line = ["constraint", "public.t.c", "CHECK ((n > 0))"]
    (folder / "catalog" / "001.json").write_text(json.dumps({"come": [line], "gone": []}))
    return project


@pytest.fixture
def production(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment is production."""
    monkeypatch.setenv("PLANNER_ENV", "production")


def test_a_run_is_refused_with_all_reasons_at_once_and_changes_nothing(
    refused: Project, empty: Database, production: None
) -> None:
    """Both findings come with what to write and how to accept them, and not even the guard's schema was made."""
    with pytest.raises(Refused) as caught:
        refused.upgrade()

    said = caught.value.text()
    assert said.startswith("refused: 2 findings, nothing was changed")
    assert ": constraint-violated\n  what  1 row of t stand against the constraint c; id: 1" in said
    assert ": key-near-end\n  what  t.id has used 100% of its 2,147,483,647 values" in said
    assert '(alembic -x preflight_accept=key-near-end -x reason="why" …)' in said
    assert empty.value("SELECT to_regnamespace('migration') IS NULL")


def test_development_is_told_and_goes_on(refused: Project, empty: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """The same findings are one line each, and the revision runs."""
    refused.upgrade()

    said = capsys.readouterr().err
    assert re.search(r"^note: \S*001_add_check.py: constraint-violated: 1 row of t ", said, re.MULTILINE)
    assert "note: t.id: key-near-end: " in said
    assert empty.value("SELECT version_num FROM alembic_version") == "001"


def test_what_is_accepted_with_a_reason_is_kept(refused: Project, empty: Database, production: None) -> None:
    """Who accepts both findings runs, and the run's row says which, and why; one of the two is not enough."""
    with pytest.raises(Refused) as caught:
        refused.upgrade(preflight_accept="key-near-end", reason="x")
    codes = "preflight_accept=key-near-end,constraint-violated"
    done = refused.alembic("-x", codes, "-x", "reason=the table goes next week", "upgrade", "head")
    kept = empty.value("SELECT preflight FROM migration.run")

    assert [one.code for one in caught.value.findings] == ["constraint-violated"]
    assert done.returncode == 0, done.stderr
    assert "accepted (the table goes next week): t.id: key-near-end" in done.stderr
    assert kept["reason"] == "the table goes next week"
    assert [one.split(": ")[1] for one in kept["accepted"]] == ["key-near-end", "constraint-violated"]


def test_before_the_command_it_is_accepted_too(
    refused: Project,
    empty: Database,
    production: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As the finding says, PREFLIGHT_ACCEPT=… REASON=… make …: of the questions without a run, and of the run."""
    monkeypatch.setattr(cli, "ROOT", refused.folder)
    monkeypatch.setenv("PREFLIGHT_ACCEPT", "key-near-end,constraint-violated")

    asked = cli.main(["migrate-preflight"]), capsys.readouterr().out
    without = cli.main(["migrate-up"])
    monkeypatch.setenv("REASON", "it goes next week")
    done = cli.main(["migrate-up"])

    assert (asked[0], without, done) == (0, 2, 0)
    assert "accepted: t.id: key-near-end" in asked[1]
    assert empty.value("SELECT preflight ->> 'reason' FROM migration.run") == "it goes next week"


@pytest.mark.parametrize(
    ("code", "reason", "said"),
    [
        ("key-near-end", " ", "preflight_accept needs a reason"),
        ("everything", "x", "preflight_accept names 'everything', which nobody can accept"),
        ("server-read-only", "x", "names 'server-read-only', which nobody can accept"),
    ],
)
def test_nothing_is_accepted_without_name_and_reason(
    refused: Project, empty: Database, code: str, reason: str, said: str
) -> None:
    """A reason is left out, or a finding named that there is not, or that nobody can run with: wrong use, nothing is changed."""
    with pytest.raises(WrongUse, match=said):
        refused.upgrade(preflight_accept=code, reason=reason)

    assert empty.value("SELECT to_regnamespace('migration') IS NULL")


def test_a_stored_file_that_is_damaged_is_named(refused: Project, empty: Database) -> None:
    """A catalog file that is no such thing stops the run before anything is done, with the command that writes it anew."""
    path = refused.folder / "alembic" / "catalog" / "001.json"
    path.write_text('{"come": [["constraint", 1, null]], "gone": []}')

    with pytest.raises(WrongUse, match=r"001\.json cannot be read"):
        refused.upgrade()

    assert empty.value("SELECT to_regnamespace('migration') IS NULL")


def test_a_stamp_is_not_asked_about(refused: Project, empty: Database, production: None) -> None:
    """Moving only the version touches nothing that preflight asks for."""
    command.stamp(refused.config(reason="it was built by hand", confirm=empty.name), "head")

    assert empty.value("SELECT version_num FROM alembic_version") == "001"


def test_the_way_back_is_asked_about_too(refused: Project, empty: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A downgrade in production meets the key that is near its end, but no rule that it takes away."""
    refused.upgrade()
    monkeypatch.setenv("PLANNER_ENV", "production")

    with pytest.raises(Refused) as caught:
        command.downgrade(refused.config(confirm=empty.name), "base")

    assert [one.code for one in caught.value.findings] == ["key-near-end"]


def test_the_command_asks_without_a_run(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """migrate-preflight: exit 0 on the planner's schema in development, as text and as JSON."""
    text = cli.main(["migrate-preflight"]), capsys.readouterr().out
    code, printed = cli.main(["migrate-preflight", "JSON=1", "TO=003"]), capsys.readouterr().out

    assert text[0] == 0
    assert text[1].startswith("preflight (development): nothing refused, nothing told, in ")
    assert text[1].endswith(" ms; there is nothing to run\n")
    assert code == 0, printed
    assert json.loads(printed)["refused"] == []


def test_the_command_ends_with_three(
    database: Database, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """migrate-preflight in production without a backup: the whole finding, and exit code 3; only told where nothing is to run."""
    cli.main(["migrate-down"])
    monkeypatch.setenv("PLANNER_ENV", "production")
    database.rows("CREATE TABLE t (id int); INSERT INTO t VALUES (1)")
    capsys.readouterr()

    idle = cli.main(["migrate-preflight"]), capsys.readouterr()
    code = cli.main(["migrate-preflight", "PHASE=contract"])
    said = capsys.readouterr()

    assert code == 3
    assert "alembic.ini: backup-missing\n  what  there is no backup to rely on: " in said.out
    shown, _, rest = said.err.partition("\n")
    assert shown.startswith(f"production: {database.name} at ")
    assert rest == "\nnext: correct the first one above, then make migrate-preflight\n"
    assert idle[0] == 0
    assert re.fullmatch(r"production: .*\n", idle[1].err)
    assert "told: alembic.ini: backup-missing: " in idle[1].out and "there is nothing to run" in idle[1].out
