"""Runs that were killed: all that one with nothing to do has to know, which imports nothing of a step."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from mcp_planner_schema.guard.saying import say

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext
    from sqlalchemy import Connection, Engine

    from mcp_planner_schema.guard.settings import Settings


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


def end(
    settings: Settings, migration: MigrationContext, engine: Engine, heads: tuple[str, ...], repeat: str
) -> None:  # fmt: skip
    """Write that a run was interrupted which was killed behind its last step: no later run has a step to begin with."""
    from mcp_planner_schema.guard import plan

    connection, named = migration.connection, plan.version_table(migration)
    assert connection is not None
    dead = has_dead(connection, settings.schema, named)
    connection.rollback()
    if not dead:
        return
    from mcp_planner_schema.guard import connect, deploy_lock, history

    lock = deploy_lock.of(connection, migration.version_table, migration.version_table_schema)
    alive = deploy_lock.taken(connection, lock)
    connection.rollback()
    if alive:
        return
    with (
        deploy_lock.held(engine, lock, settings.deploy_lock_timeout, say, repeat),
        connect.opened(engine, autocommit=True) as beside,
    ):
        orphans = deploy_lock.end_orphans(beside, lock)
        tell(history.end_dead(beside, settings.schema, named, heads), orphans)


def refuse_half_back(settings: Settings, migration: MigrationContext, heads: tuple[str, ...]) -> None:
    """Raise :class:`Refused` where an interrupted downgrade has given back some of a revision's values, and not all."""
    from mcp_planner_schema.guard import backfill_tables, plan
    from mcp_planner_schema.guard.findings import Finding, Refused

    connection = migration.connection
    assert connection is not None
    half = backfill_tables.half_back(connection, settings.schema, plan.version_table(migration), heads)
    connection.rollback()
    if half:
        command = "make migrate-down, or alembic downgrade -1"
        findings = [
            Finding("downgrade-interrupted", "alembic", one, {"revision": one, "name": name, "command": command})
            for one, name in half
        ]
        raise Refused(findings, command)


def tell(dead: Iterable[str], orphans: Iterable[str]) -> None:
    """Say which runs were interrupted, and which sessions they had left behind."""
    for line in dead:
        say(f"note: {line} was interrupted; its finished steps stand, the server rolls the one it was in back")
    for line in orphans:
        say(line)
