"""Whether a run was killed: all that one with nothing to do has to know, which imports nothing of a step."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy import Connection


def has_dead(connection: Connection, schema: str, version_table: str) -> bool:
    """Whether a run says running that this role could end; it is dead unless its lock is held. Reads only."""
    there = connection.exec_driver_sql("SELECT pg_catalog.to_regclass(%s) IS NOT NULL", (f"{schema}.run",))
    if not there.scalar_one():
        return False
    asked = (
        f"SELECT EXISTS (SELECT FROM {schema}.run WHERE state = 'running' AND version_table = %s) "
        "AND pg_catalog.has_table_privilege(%s, 'UPDATE')"
    )
    return connection.exec_driver_sql(asked, (version_table, f"{schema}.run")).scalar_one() is True
