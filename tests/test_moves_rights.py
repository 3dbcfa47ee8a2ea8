"""A column that moves: its trigger functions act with their owner's rights, and lend them to nobody."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg2
import pytest

from tests.conftest import Database, Project

MOVE = '"users", "address", "profiles", ["id", "user_id"]'


@pytest.fixture
def moving(empty: Database, project: Project) -> Database:
    """Two tables between which a column moves."""
    empty.rows("CREATE TABLE users (id int PRIMARY KEY, address text)")
    empty.rows("CREATE TABLE profiles (user_id int PRIMARY KEY, address text)")
    empty.rows("INSERT INTO users VALUES (1, 'home')")
    empty.rows("INSERT INTO profiles VALUES (1, 'home')")
    project.revision("001", "move_address", f"op.sync_moved_column({MOVE})", f"op.drop_moved_sync({MOVE})")
    project.upgrade()
    return empty


@pytest.fixture
def stranger(moving: Database) -> Iterator[str]:
    """A role that may do nothing to either table."""
    role = f"stranger_{moving.name}"
    moving.rows(f"CREATE ROLE {role} LOGIN")
    yield role
    moving.rows(f"DROP OWNED BY {role}")
    moving.rows(f"DROP ROLE {role}")


@pytest.mark.parametrize("word", ["take", "pass"])
@pytest.mark.parametrize("side", ["away", "here"])
def test_a_stranger_cannot_put_the_function_on_a_table_of_his_own(
    moving: Database, stranger: str, word: str, side: str
) -> None:
    """On a temporary table of anybody it would read and write the other place with the owner's rights: it is refused."""
    function = moving.value("SELECT proname FROM pg_proc WHERE proname LIKE %s", f"zz_{word}%{side}")

    with moving.connect(user=stranger) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TEMPORARY TABLE mine (id int, user_id int, address text)")
        with pytest.raises(psycopg2.errors.InsufficientPrivilege, match="permission denied for function"):
            cursor.execute(f"CREATE TRIGGER mine AFTER INSERT ON mine FOR EACH ROW EXECUTE FUNCTION {function}()")


def test_who_writes_one_place_needs_no_right_on_the_other(moving: Database, stranger: str) -> None:
    """The triggers that are there fire for everybody: a writer of the one table passes its value on."""
    moving.rows(f"GRANT SELECT, UPDATE ON users TO {stranger}")

    with moving.connect(user=stranger) as connection, connection.cursor() as cursor:
        cursor.execute("UPDATE users SET address = 'away' WHERE id = 1")

    assert moving.rows("SELECT address FROM profiles") == [("away",)]
