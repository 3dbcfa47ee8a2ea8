"""A downgrade loses nothing on any PostgreSQL that the guard takes; see :mod:`tests.test_fingerprint_majors` for which."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from mcp_planner_schema.guard import connect
from mcp_planner_schema.guard.checksum import checksum
from tests import (
    test_bodies_back,
    test_commits_again,
    test_expand_contract,
    test_fresh,
    test_lookups,
    test_means,
    test_newer_stays,
    test_numbers_back,
    test_put_in,
    test_references_back,
    test_restore_hard,
    test_unite,
)
from tests.conftest import Database, Project
from tests.test_checksum import SAME, SUMS
from tests.test_fingerprint_majors import BINS, major, running
from tests.test_rights_back import GIVEN, go_and_come, readers
from tests.test_seeds_again import WAYS, goes_and_comes
from tests.test_stash import shown, sql

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not BINS, reason="no other PostgreSQL is installed, and PLANNER_TEST_PG_BINS names none"),
]

FIRST = """
CREATE TABLE b (id serial PRIMARY KEY, v text, w int);
INSERT INTO b (v, w) SELECT 'v' || n, n FROM generate_series(1, 9) AS n
"""
SECOND = """
CREATE TYPE mood AS ENUM ('glad', 'sad');
CREATE TABLE a (id int PRIMARY KEY, v text);
CREATE TABLE p (id int PRIMARY KEY, m mood) PARTITION BY LIST (id);
CREATE TABLE p1 PARTITION OF p DEFAULT;
ALTER TABLE b ADD x int, ADD m mood
"""
FILL = """
INSERT INTO a SELECT n, repeat('v', 100) || n FROM generate_series(1, 999) AS n;
INSERT INTO p SELECT n, 'sad' FROM generate_series(1, 9) AS n;
UPDATE b SET x = id, m = 'glad' WHERE id > 3
"""
BACK = {
    "a table that is moved": ("DROP TABLE a, p; ALTER TABLE b DROP x, DROP m; DROP TYPE mood", "moved back"),
    "tables, columns, a type": ("DROP TABLE a, p; DROP TYPE mood CASCADE; ALTER TABLE b DROP x", "restored table p: 9 rows"),
    "rows too": (
        "DROP TABLE a, p; ALTER TABLE b DROP x, DROP m; DROP TYPE mood; UPDATE b SET v = upper(v); DELETE FROM b WHERE id < 4; "
        "ALTER SEQUENCE b_id_seq RESTART", "and changed rows: 9 rows",
    ),
}  # fmt: skip


@pytest.fixture(scope="module", params=BINS, ids=lambda binaries: str(major(binaries)))
def server(request: pytest.FixtureRequest) -> Iterator[Database]:
    """A server of each installation."""
    binaries: Path = request.param
    with running(binaries) as database:
        yield database


@pytest.fixture
def database(server: Database, monkeypatch: pytest.MonkeyPatch) -> Database:
    """An empty database there, which commands find by themselves."""
    server.rows("DROP DATABASE IF EXISTS there")
    server.rows("CREATE DATABASE there")
    there = Database(server.host, server.port, "there")
    monkeypatch.setenv("DATABASE_URL", there.url)
    return there


@pytest.mark.parametrize("what", GIVEN)
def test_rights_stand_again(database: Database, project: Project, what: str) -> None:
    """So do the rights on all that goes."""
    with readers(database) as roles:
        go_and_come(database, project, roles, what)


@pytest.mark.parametrize("above", ["never", "8kB"], ids=["copied", "moved"])
@pytest.mark.parametrize("way", WAYS)
def test_upgrades_find_their_own_rows(database: Database, project: Project, way: str, above: str) -> None:
    """And foreign keys that must wait for kept rows are valid at the end, as far as a version has them at all."""
    goes_and_comes(database, project, way, above)


@pytest.mark.parametrize("key", test_lookups.KEYS)
@pytest.mark.parametrize("fill", [test_lookups.SEEDS, test_lookups.MOVED], ids=["seeds", "moved"])
def test_lookups_mean_what_they_meant(database: Database, project: Project, fill: str, key: str) -> None:
    """Their rows get the keys that they had, though somebody has written meanwhile to what the downgrade put there."""
    test_lookups.test_each_row_means_what_it_meant(database, project, fill, key, "one is another")


@pytest.mark.parametrize("way", test_commits_again.WAYS)
def test_changed_rows_come_back_over_a_commit(database: Database, project: Project, way: str) -> None:
    """What nobody has written to since is known after a commit in the middle of the upgrade too."""
    test_commits_again.test_what_the_downgrade_changed_comes_back_over_a_commit(database, project, way)


@pytest.mark.parametrize("after", test_commits_again.AFTER)
@pytest.mark.parametrize("between", test_commits_again.BETWEEN)
def test_what_others_write_after_a_commit_stays(
    database: Database, project: Project, caplog: pytest.LogCaptureFixture, between: str, after: str
) -> None:
    """A row's xmin, and whether its transaction has ended, tell whose it is."""
    test_commits_again.test_what_others_write_between_two_transactions_stays(database, project, caplog, between, after)


@pytest.mark.parametrize("later", test_commits_again.LATER)
def test_what_others_write_stays_theirs(database: Database, project: Project, later: str) -> None:
    """Whatever the body does to their rows then."""
    test_commits_again.test_what_others_write_stays_theirs_whatever_the_body_does_then(database, project, later)


@pytest.mark.parametrize("key", test_unite.KEYS)
def test_a_new_row_finds_a_kept_one(database: Database, project: Project, key: str) -> None:
    """An UPDATE of the upgrade's looks up what people had added to a lookup."""
    test_unite.test_a_new_row_finds_a_kept_one(database, project, key, " UNIQUE", drops=True, together=False)


@pytest.mark.parametrize("moved", [False, True], ids=["copied", "moved"])
@pytest.mark.parametrize("way", test_fresh.WAYS)
def test_what_is_made_of_a_new_row_stays(
    database: Database, project: Project, caplog: pytest.LogCaptureFixture, way: str, moved: bool
) -> None:
    """What the server counts tells where a row comes from."""
    test_fresh.test_what_is_made_of_a_new_row_stays(database, project, caplog, way, moved)


@pytest.mark.parametrize("setup", [test_fresh.PLAIN, test_fresh.PARTED], ids=["plain", "partitions"])
@pytest.mark.parametrize("first", test_fresh.FIRST)
def test_a_table_that_the_upgrade_changes_first(database: Database, project: Project, first: str, setup: str) -> None:
    """Asked before, of partitions as well."""
    test_fresh.test_a_table_that_the_upgrade_changes_first_is_looked_at_before(database, project, first, setup, True)


@pytest.mark.parametrize("way", test_commits_again.OUTSIDE)
def test_a_place_without_a_transaction_is_everybodys(database: Database, project: Project, way: str) -> None:
    """At once, whatever the body does then."""
    again = test_commits_again.test_a_place_that_comes_without_a_transaction_is_everybodys_at_once
    again(database, project, way, "commits once more")


@pytest.mark.parametrize("key", test_numbers_back.NUMBERS)
def test_a_number_stays_with_its_row(database: Database, project: Project, key: str) -> None:
    """Where the server numbers all rows anew."""
    added = "INSERT INTO inv (amt) VALUES (4)"
    test_numbers_back.test_a_number_stays_with_its_row(database, project, key, added, "DELETE FROM inv WHERE id = 1")


@pytest.mark.parametrize("kind", test_means.KINDS)
def test_a_new_primary_key_is_the_rows_own(database: Database, project: Project, kind: str) -> None:
    """And so are its children."""
    test_means.test_a_new_primary_key_is_the_rows_own(database, project, kind, "one for another")


@pytest.mark.parametrize("changed", [False, True], ids=["all alike", "changed"])
def test_a_row_that_a_trigger_makes_for_each(database: Database, project: Project, changed: bool) -> None:
    """Nothing tells one from another but who has it."""
    test_means.test_a_row_that_a_trigger_makes_for_each_is_nobody_elses(database, project, "", changed)


@pytest.mark.parametrize("way", test_means.STAY)
def test_seeds_that_refer_to_each_other(database: Database, project: Project, way: str) -> None:
    """They are not there twice, however often it goes back and forth."""
    test_means.test_seeds_that_refer_to_each_other_are_not_there_twice(database, project, way)


@pytest.mark.parametrize("index", test_restore_hard.EXCHANGED)
def test_exchanged_values_go_back(database: Database, project: Project, index: str) -> None:
    """By an index of whatever kind."""
    test_restore_hard.test_exchanged_values_go_back_by_any_index(database, project, index, lost=True)


def test_the_sums_are_the_same(database: Database) -> None:
    """A checksum written on one server can be compared on every other."""
    engine = connect.engine(sa.make_url(database.url).set(drivername="postgresql+psycopg2"), "the test")
    with engine.connect() as connection:
        connection.exec_driver_sql(SAME)
        found = checksum(connection, "public.a", ["id", "v", "q", "at", "b", "u", "y", "d", "f", "j"])
    engine.dispose()

    assert found == SUMS


@pytest.mark.parametrize("case", BACK)
def test_what_goes_comes_back(
    database: Database, project: Project, caplog: pytest.LogCaptureFixture, case: str
) -> None:
    """A large table that is moved, one that is copied, columns, a type, changed and deleted rows, a sequence: all of it."""
    down, told = BACK[case]
    project.configure(stash_move_above="1kB")
    project.revision("001", "create_things", sql(FIRST), sql("DROP TABLE b"))
    project.revision("002", "alter_things", sql(SECOND), sql(down))
    project.upgrade()
    database.rows(FILL)
    before = {table: shown(database, table) for table in ("a", "b", "p")}
    stood = database.value("SELECT last_value FROM b_id_seq")

    project.downgrade("-1")
    caplog.set_level("INFO")
    project.upgrade()

    assert told in caplog.text
    assert {table: shown(database, table) for table in ("a", "b", "p")} == before
    assert database.value("SELECT last_value FROM b_id_seq") >= stood


@pytest.mark.parametrize("way", test_references_back.WAYS)
@pytest.mark.parametrize("commits", [False, True])
def test_kept_references(database: Database, project: Project, way: str, commits: bool) -> None:
    """On each of them nobody is what came in another's place."""
    test_references_back.test_a_kept_reference_is_not_to_who_has_its_number_now(
        database, project, way, commits, "domain", "sequence set back"
    )


@pytest.mark.parametrize("how", test_bodies_back.HOW)
def test_bodies_as_people_write_them(database: Database, project: Project, how: str) -> None:
    """A lookup, and a source that goes at once."""
    test_bodies_back.test_new_rows_name_what_they_say(database, project, "one renamed", how)


@pytest.mark.parametrize("how", test_bodies_back.HOW)
def test_sources_that_go_at_once(database: Database, project: Project, how: str) -> None:
    """What the server has counted of a table that is dropped differs from version to version."""
    test_bodies_back.test_what_was_written_in_a_table_that_goes_at_once(database, project, how)


@pytest.mark.parametrize("way", test_bodies_back.PYTHON)
def test_keys_in_python(database: Database, project: Project, way: str) -> None:
    """Keys that the client has seen."""
    test_bodies_back.test_keys_that_python_carries_are_those_of_its_rows(database, project, way, False)


@pytest.mark.parametrize("way", test_expand_contract.WAYS)
def test_expand_and_contract(database: Database, project: Project, caplog: pytest.LogCaptureFixture, way: str) -> None:
    """Over two revisions."""
    test_expand_contract.test_what_is_written_between_is_the_newer(database, project, caplog, way, "changed", 1)


@pytest.mark.parametrize("between", ["UPDATE users SET name = 'Z' WHERE id = 3"])
def test_rows_of_others(database: Database, project: Project, between: str) -> None:
    """Rows of those whom nobody has written to."""
    test_bodies_back.test_rows_of_those_whom_nobody_has_written_to_are_not_doubled(
        database, project, between, "serial PRIMARY KEY"
    )


@pytest.mark.parametrize("way", test_newer_stays.MOVES)
def test_what_was_moved_is_newer(
    database: Database, project: Project, caplog: pytest.LogCaptureFixture, way: str
) -> None:
    """Also where it is the column's default by chance."""
    test_newer_stays.test_a_value_that_was_moved_is_newer_however_it_was(database, project, way, "en", caplog)


@pytest.mark.parametrize("log", ["", "CASCADE"])
def test_the_newer_of_two_children(
    database: Database, project: Project, caplog: pytest.LogCaptureFixture, log: str
) -> None:
    """Who was written to has the newer one."""
    test_newer_stays.test_who_was_written_to_has_the_newer_row_and_nobody_two(
        database, project, "serial PRIMARY KEY", log, caplog
    )


@pytest.mark.parametrize("key", ["", " PRIMARY KEY"])
@pytest.mark.parametrize("used", test_put_in.USED)
def test_an_archive(
    database: Database, project: Project, caplog: pytest.LogCaptureFixture, used: str, key: str
) -> None:
    """Each row is in one of the two tables."""
    test_put_in.test_a_row_is_in_one_of_two_tables(database, project, used, "SELECT", key, caplog)


def test_an_archive_of_partitions(database: Database, project: Project) -> None:
    """What refers to a row keeps it."""
    test_put_in.test_what_refers_to_a_row_of_a_partition_keeps_it(database, project, "CASCADE")


@pytest.mark.parametrize("how", ["a domain", "a partition"])
def test_a_rule_of_a_domain(database: Database, project: Project, how: str) -> None:
    """A corrected revision lets in no NULL."""
    test_newer_stays.test_a_rule_that_is_not_the_columns_own_bars_no_way_up(database, project, how)
