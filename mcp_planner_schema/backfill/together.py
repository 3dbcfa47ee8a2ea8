"""Several statements as one transaction, on a connection in autocommit: all of them or none."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlalchemy import Connection


@contextmanager
def transaction(connection: Connection, begin: Callable[[], None] | None = None) -> Iterator[None]:
    """While inside, what is sent is one transaction. ``begin`` begins it otherwise than by a plain BEGIN.

    Raises SQLAlchemy's errors, as its own statements do; after any the transaction is undone.
    """
    if begin:
        begin()
    else:
        send(connection, "BEGIN")
    with undone(connection):
        yield
        send(connection, "COMMIT")


@contextmanager
def undone(connection: Connection) -> Iterator[None]:
    """After an error inside, the transaction is rolled back."""
    from psycopg2 import Error

    driver = _driver(connection)  # asked now: a connection that is gone has none
    try:
        yield
    except BaseException:
        with contextlib.suppress(Error), driver.cursor() as cursor:
            cursor.execute("ROLLBACK")
        raise


def send(connection: Connection, sql: str) -> None:
    """Send text by the driver itself: the limits of the statement before stay in force."""
    from psycopg2 import Error
    from sqlalchemy.exc import DBAPIError

    try:
        with _driver(connection).cursor() as cursor:
            cursor.execute(sql)
    except Error as error:
        raise DBAPIError(sql, None, error) from error


def copy(connection: Connection, sql: str, lines: Any) -> None:
    """``COPY … FROM STDIN``, of what the file ``lines`` holds."""
    from psycopg2 import Error
    from sqlalchemy.exc import DBAPIError

    try:
        with _driver(connection).cursor() as cursor:
            cursor.copy_expert(sql, lines)
    except Error as error:
        raise DBAPIError(sql, None, error) from error


def _driver(connection: Connection) -> Any:
    return connection.connection.dbapi_connection
