"""Giving back touches nobody else's rows: what people wrote, and what only looks as if the upgrade had made it."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator
from dataclasses import replace

import pytest

from mcp_planner_schema.guard.findings import Refused
from tests.conftest import Database, Project
from tests.test_restore import ROWS_A, TABLE_A, down_and_up, two
from tests.test_stash import sql

REBUILT = (
    "CREATE TABLE n (id int PRIMARY KEY, v text); INSERT INTO n SELECT id, v FROM a; DROP TABLE a; "
    "ALTER TABLE n RENAME TO a"
)


def test_a_table_that_gets_its_name_from_the_upgrade_keeps_its_rows(empty: Database, project: Project) -> None:
    """The downgrade made it, people have written to it, and the upgrade only renames it: their rows stay."""
    two(
        project, "CREATE TABLE b (id int PRIMARY KEY, v text); INSERT INTO b VALUES (1, 'old'), (2, 'old')",
        "ALTER TABLE b RENAME TO a",
        "CREATE TABLE b (id int PRIMARY KEY, v text); INSERT INTO b SELECT * FROM a; DROP TABLE a",
    )  # fmt: skip

    down_and_up(project, empty, "UPDATE b SET v = 'newer' WHERE id = 1; INSERT INTO b VALUES (7, 'mine')")

    assert empty.rows("SELECT id, v FROM a ORDER BY id") == [(1, "newer"), (2, "old"), (7, "mine")]


def test_a_table_that_becomes_a_partition_keeps_its_rows(empty: Database, project: Project) -> None:
    """A table is turned into the first partition of a new one, and back: what people wrote to it in between stays."""
    two(
        project, "CREATE TABLE e (id int PRIMARY KEY, v text); INSERT INTO e VALUES (1, 'old'), (2, 'old')",
        "ALTER TABLE e RENAME TO e_old; CREATE TABLE e (id int PRIMARY KEY, v text) PARTITION BY RANGE (id); "
        "ALTER TABLE e ATTACH PARTITION e_old FOR VALUES FROM (0) TO (100); CREATE TABLE e_new PARTITION OF e DEFAULT",
        "ALTER TABLE e DETACH PARTITION e_old; DROP TABLE e; ALTER TABLE e_old RENAME TO e",
    )  # fmt: skip
    empty.rows("INSERT INTO e VALUES (200, 'late')")

    down_and_up(project, empty, "UPDATE e SET v = 'newer' WHERE id = 1; INSERT INTO e VALUES (7, 'mine')")

    assert empty.rows("SELECT id, v FROM e ORDER BY id") == [(1, "newer"), (2, "old"), (7, "mine"), (200, "late")]


def test_rows_that_refer_to_a_partition_stay(empty: Database, project: Project) -> None:
    """Making room in a partitioned table takes no row along that refers to one of its partitions."""
    ups = "\n".join(
        map(sql, [
            "CREATE TABLE p (id int PRIMARY KEY, v text) PARTITION BY LIST (id)", "CREATE TABLE p1 PARTITION OF p DEFAULT",
            "INSERT INTO p VALUES (1, 'seed')",
            "ALTER TABLE k ADD CONSTRAINT k_p FOREIGN KEY (p) REFERENCES p1 ON DELETE CASCADE",
        ])
    )  # fmt: skip
    two(
        project,
        "CREATE TABLE k (id int PRIMARY KEY, p int)",
        "",
        "ALTER TABLE k DROP CONSTRAINT k_p; DROP TABLE p",
        ups=ups,
    )
    empty.rows("UPDATE p SET v = 'mine'; INSERT INTO k VALUES (1, 1)")

    down_and_up(project, empty, "SELECT")

    assert empty.rows("SELECT id, p FROM k") == [(1, 1)]
    assert empty.rows("SELECT v FROM p") == [("mine",)]


def test_a_table_that_both_ways_write_anew_brings_the_newer_rows(empty: Database, project: Project) -> None:
    """What people wrote to the table that the downgrade made is what the upgrade carries over, and it stays."""
    two(
        project,
        "CREATE TABLE a (id int PRIMARY KEY, v text); INSERT INTO a VALUES (1, 'old'), (2, 'old')",
        REBUILT,
        REBUILT,
    )

    down_and_up(project, empty, "UPDATE a SET v = 'newer' WHERE id = 1; INSERT INTO a VALUES (7, 'mine')")

    assert empty.rows("SELECT id, v FROM a ORDER BY id") == [(1, "newer"), (2, "old"), (7, "mine")]


def test_a_newer_value_stays_where_the_upgrade_commits_in_between(empty: Database, project: Project) -> None:
    """A COMMIT ends the list of rows that were written since: then no value that the upgrade has moved back is replaced."""
    project.revision(
        "001", "create_things",
        sql("CREATE TABLE a (id int PRIMARY KEY, y text); INSERT INTO a VALUES (1, 'old'), (2, 'old')"),
        "raise NotImplementedError", reversible="forward-only: the base",
    )  # fmt: skip
    body = (
        f"{sql('ALTER TABLE a ADD x text')}\n"
        "with op.get_context().autocommit_block():\n    op.execute('CREATE INDEX CONCURRENTLY ix ON a (id)')\n"
        f"{sql('UPDATE a SET x = y')}\n{sql('ALTER TABLE a DROP y')}"
    )
    down = sql("DROP INDEX ix; ALTER TABLE a ADD y text; UPDATE a SET y = x; ALTER TABLE a DROP x")
    project.revision("002", "alter_things", body, down, transaction="none")
    project.upgrade()

    down_and_up(project, empty, "UPDATE a SET y = 'new' WHERE id = 1")

    assert empty.rows("SELECT id, x FROM a ORDER BY id") == [(1, "new"), (2, "old")]


def test_a_value_written_by_an_older_transaction_is_newer(empty: Database, project: Project) -> None:
    """Whoever had begun to write before the downgrade, and has come to the row only after it, has written since."""
    two(
        project, "CREATE TABLE a (id int PRIMARY KEY, y text); INSERT INTO a VALUES (1, 'old'), (2, 'old')",
        "ALTER TABLE a ADD x text; UPDATE a SET x = y; ALTER TABLE a DROP y",
        "ALTER TABLE a ADD y text; UPDATE a SET y = x; ALTER TABLE a DROP x",
    )  # fmt: skip

    with empty.connect(autocommit=False) as other, other.cursor() as cursor:
        cursor.execute("SELECT pg_current_xact_id()")
        project.downgrade("-1")
        cursor.execute("UPDATE a SET y = 'new' WHERE id = 1")
        other.commit()
    project.upgrade()

    assert empty.rows("SELECT id, x FROM a ORDER BY id") == [(1, "new"), (2, "old")]


def test_what_one_statement_makes_and_fills_is_set_aside_too(
    empty: Database, project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    """However the upgrade is written, rows of its own that give way to kept ones are told of, and there to be looked at."""
    two(
        project, "CREATE TABLE s (id int PRIMARY KEY, v text); INSERT INTO s VALUES (1, 'old'), (2, 'old')",
        f"{TABLE_A}; INSERT INTO a SELECT id, v, 0 FROM s", "DROP TABLE a",
    )  # fmt: skip
    empty.rows("UPDATE a SET w = 5")

    with caplog.at_level(logging.INFO, "mcp_planner_schema.guard"):
        down_and_up(project, empty, "UPDATE s SET v = 'newer' WHERE id = 1")

    assert empty.rows("SELECT id, v, w FROM a ORDER BY id") == [(1, "old", 5), (2, "old", 5)]
    place = caplog.text.partition("they are in ")[2].split("\n")[0]
    assert empty.rows(f"SELECT v FROM {place} ORDER BY id") == [("newer",), ("old",)]


def test_a_row_of_the_upgrade_that_others_refer_to_stays(empty: Database, project: Project) -> None:
    """People had deleted a seed, and have since written a row that refers to it: the upgrade passes, and both stand there."""
    ups = "\n".join(
        map(sql, [
            TABLE_A, "INSERT INTO a VALUES (1, 'seed', 1), (9, 'seed', 9)",
            "ALTER TABLE k ADD CONSTRAINT k_a FOREIGN KEY (a) REFERENCES a",
        ])
    )  # fmt: skip
    two(
        project,
        "CREATE TABLE k (id int PRIMARY KEY, a int)",
        "",
        "ALTER TABLE k DROP CONSTRAINT k_a; DROP TABLE a",
        ups=ups,
    )
    empty.rows("DELETE FROM a WHERE id = 9; UPDATE a SET v = 'mine'")

    down_and_up(project, empty, "INSERT INTO k VALUES (1, 9)")

    assert empty.rows("SELECT id, a FROM k") == [(1, 9)]
    assert empty.rows("SELECT id, v FROM a ORDER BY id") == [(1, "mine"), (9, "seed")]


def test_a_row_of_the_upgrade_is_there_for_its_next_statements(empty: Database, project: Project) -> None:
    """Kept rows make way for a seed that is inserted again; what the upgrade has inserted before stays where it is."""
    ups = "\n".join(
        map(sql, [
            TABLE_A, "CREATE TABLE c (id int PRIMARY KEY, a int REFERENCES a)", "INSERT INTO a VALUES (100, 'seed', 0)",
            "INSERT INTO a VALUES (1, 'seed', 1)", "INSERT INTO c VALUES (1, 100)",
        ])
    )  # fmt: skip
    two(project, "CREATE TABLE z ()", "", "DROP TABLE c; DROP TABLE a", ups=ups)
    empty.rows("DELETE FROM c; DELETE FROM a; " + ROWS_A)

    down_and_up(project, empty, "SELECT")

    assert empty.rows("SELECT id, v FROM a ORDER BY id") == [(n, f"v{n}") for n in range(1, 6)]
    assert empty.rows("SELECT id FROM c") == []


@pytest.mark.parametrize(
    "made",
    [
        ["CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1)"],
        ["CREATE TABLE p1 (id int NOT NULL, v text)", "ALTER TABLE p ATTACH PARTITION p1 FOR VALUES IN (1)"],
    ],
)
def test_a_partition_made_after_the_default_one_gets_its_rows(
    empty: Database, project: Project, made: list[str]
) -> None:
    """Kept rows are back in the default partition when another is made for them: they make way, and come back to it."""
    first = [
        "CREATE TABLE p (id int PRIMARY KEY, v text) PARTITION BY LIST (id)",
        "CREATE TABLE pd PARTITION OF p DEFAULT",
    ]
    two(project, "CREATE TABLE z ()", "", "DROP TABLE p", ups="\n".join(map(sql, first + made)))
    empty.rows("INSERT INTO p VALUES (1, 'one'), (2, 'two')")

    down_and_up(project, empty, "SELECT")

    assert empty.rows("SELECT tableoid::regclass::text, id, v FROM p ORDER BY id") == [
        ("p1", 1, "one"),
        ("pd", 2, "two"),
    ]


@pytest.fixture
def plain(empty: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """The database as its owner sees it, who may not make temporary tables."""
    role = f"owner_{uuid.uuid4().hex[:8]}"
    empty.rows(
        f"CREATE ROLE {role} LOGIN; ALTER DATABASE {empty.name} OWNER TO {role}; ALTER SCHEMA public OWNER TO {role}; "
        f"REVOKE TEMPORARY ON DATABASE {empty.name} FROM PUBLIC, {role}"
    )
    owned = replace(empty, user=role)
    monkeypatch.setenv("DATABASE_URL", owned.url)
    yield owned
    empty.rows(f"REASSIGN OWNED BY {role} TO postgres; DROP OWNED BY {role}; DROP ROLE {role}")


def test_a_role_without_temporary_tables_is_told_before_anything_is_done(
    plain: Database, empty: Database, project: Project
) -> None:
    """Changed rows wait in the stash until the role has the right, and come back then."""
    two(project, f"{TABLE_A}; {ROWS_A}", "COMMENT ON TABLE a IS 'x'", "UPDATE a SET v = 'gone'")
    project.downgrade("-1")

    with pytest.raises(Refused, match="stash-not-let-in") as refused:
        project.upgrade()

    assert refused.value.next_command.startswith(f"GRANT TEMPORARY ON DATABASE {empty.name} TO {plain.user};")
    assert empty.rows("SELECT version_num, (SELECT state FROM migration.stash) FROM alembic_version") == [
        ("001", "kept")
    ]
    empty.rows(refused.value.next_command.partition(";")[0])
    project.upgrade()
    assert empty.rows("SELECT count(*), (SELECT state FROM migration.stash) FROM a WHERE v = 'v' || id") == [
        (5, "restored")
    ]


def test_whole_tables_need_no_temporary_ones(plain: Database, empty: Database, project: Project) -> None:
    """They come back without that right, but for the row whose parent is gone: that is found without it too."""
    made = f"{TABLE_A}; ALTER TABLE a ADD FOREIGN KEY (w) REFERENCES k"
    two(
        project, "CREATE TABLE k (id int PRIMARY KEY); INSERT INTO k SELECT generate_series(1, 5)", made, "DROP TABLE a"
    )
    plain.rows(ROWS_A)

    down_and_up(project, plain, "DELETE FROM k WHERE id = 3")

    assert plain.rows("SELECT array_agg(id ORDER BY id) FROM a") == [([1, 2, 4, 5],)]
    assert plain.rows("SELECT restored_rows, left_rows FROM migration.stash_object") == [(4, 1)]
    made_for_it = empty.rows("SELECT c.relname FROM pg_class c WHERE c.relname LIKE 'guard:%' ORDER BY 1")
    assert made_for_it == [("guard:left_1",), ("guard:left_1_key",)]  # which row is left, and nothing else
