"""Connections whose running statement a signal ends: psycopg2 waits inside libpq, where Python's handlers do not run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard import connect

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

_running: list[Any] = []


@contextmanager
def opened(engine: Engine, *, autocommit: bool = False) -> Iterator[Connection]:
    """As :func:`.connect.opened`, and known to :func:`cancel`."""
    with connect.opened(engine, autocommit=autocommit) as connection:
        driver = connection.connection.dbapi_connection
        _running.append(driver)
        try:
            yield connection
        finally:
            _running.remove(driver)


def cancel() -> None:
    """End what runs on these connections now."""
    for driver in list(_running):
        with suppress(Exception):  # it may be gone: then there is nothing to end
            driver.cancel()
