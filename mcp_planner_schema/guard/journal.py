"""The journal: which operations of a revision are begun and which are done, so that an interrupted one goes on.

An operation commits by itself, so its row does too, beside it. What the catalog shows decides what is left to do; the journal
tells what the catalog cannot: that a thing is missing because this revision has dropped it already.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard.postcheck import literal
from mcp_planner_schema.guard.transaction import OWN

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext
    from sqlalchemy import Connection

STEP = "mcp_planner_guard.journal"
"""Where the running :class:`Step` stands in ``connection.info``."""

TABLES = """
CREATE TABLE IF NOT EXISTS {schema}.journal (
    version_table text NOT NULL,
    revision     text NOT NULL,
    direction    text NOT NULL CHECK (direction IN ('upgrade', 'downgrade')),
    place        integer NOT NULL,
    operation    text NOT NULL,
    target       text NOT NULL,
    state        text NOT NULL CHECK (state IN ('begun', 'done')),
    run          bigint NOT NULL,
    begun_at     timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    done_at      timestamptz,
    detail       jsonb NOT NULL DEFAULT '{{}}',
    PRIMARY KEY (version_table, revision, direction, place)
);
COMMENT ON TABLE {schema}.journal IS
'One row an operation of a revision that commits by itself; gone when the revision has gone the other way';
"""


@dataclass
class Step:
    """The step whose operations are journaled. ``place`` counts them; ``sent``: one of them has changed something.

    ``scripts`` are those that were run, and ``bypassed`` what was silenced and why, for the history. ``trial``: the body runs
    in a trial of a downgrade, in one transaction that is rolled back.
    """

    schema: str
    version_table: str
    revision: str
    direction: str
    run: int
    where: str
    repeat: str
    say: Callable[[str], None]
    place: int = 0
    sent: bool = False
    trial: bool = False
    scripts: list[dict[str, Any]] = field(default_factory=list)
    bypassed: list[str] = field(default_factory=list)


@dataclass
class Entry:
    """One operation. ``before`` is the state that an earlier run left it in, None where it is new; ``detail`` is kept."""

    before: str | None = None
    detail: dict[str, Any] = field(default_factory=dict)


def of(context: MigrationContext) -> Step | None:
    """The running step; None where no guard runs, and offline."""
    return None if context.connection is None or context.as_sql else context.connection.info.get(STEP)


@contextmanager
def entry(context: MigrationContext, operation: str, target: str) -> Iterator[Entry]:
    """While inside, the operation is begun; afterwards it is done. Nothing is written in a trial, which commits nothing."""
    step = of(context)
    if step is None:
        yield Entry()
        return
    with context.autocommit_block():
        step.trial = not _commits(context)
        step.sent = step.sent and step.place > 0  # what a trial has sent is undone
        step.place += not step.trial
        key = (step.version_table, step.revision, step.direction, step.place)
        with own(context.connection):
            found = Entry() if step.trial else _begun(context.connection, step, key, operation, target)
    yield found
    if not step.trial:
        with context.autocommit_block(), own(context.connection):
            _done(context.connection, step, key, found.detail)


def followed(context: MigrationContext, target: str) -> bool:
    """Whether an operation behind the running one, of the same revision, has begun with the same target."""
    step = of(context)
    if step is None or step.trial:
        return False
    assert context.connection is not None
    with own(context.connection):
        return bool(
            context.connection.exec_driver_sql(
                f"SELECT EXISTS (SELECT FROM {step.schema}.journal "
                "WHERE version_table = %s AND revision = %s AND direction = %s AND place > %s AND target = %s)",
                (step.version_table, step.revision, step.direction, step.place, target),
            ).scalar_one()
        )


def remember(context: MigrationContext, found: Entry, **detail: Any) -> None:
    """Keep something that the next run could not find out, if this one does not come to its end."""
    found.detail.update(detail)
    step = of(context)
    if step is None or step.trial:
        return
    with context.autocommit_block(), own(context.connection):
        assert context.connection is not None
        context.connection.exec_driver_sql(
            f"UPDATE {step.schema}.journal SET detail = %s::jsonb "
            "WHERE version_table = %s AND revision = %s AND direction = %s AND place = %s",
            (json.dumps(found.detail), step.version_table, step.revision, step.direction, step.place),
        )


def remembering(context: MigrationContext, found: Entry) -> str:
    """SQL that keeps ``found`` as it is now, to be sent with what it tells of; empty where there is no journal, or a trial."""
    step = of(context)
    if step is None or step.trial:
        return ""
    version_table, revision, direction = (literal(one) for one in (step.version_table, step.revision, step.direction))
    return (
        f"UPDATE {step.schema}.journal SET detail = {literal(json.dumps(found.detail))}::jsonb WHERE version_table = "
        f"{version_table} AND revision = {revision} AND direction = {direction} AND place = {step.place}"
    )


@contextmanager
def own(connection: Connection | None) -> Iterator[None]:
    """While inside, statements are the guard's and not the revision's: they are not told as work that was done."""
    assert connection is not None
    info = connection.info  # asked now: a connection that is gone has none
    info[OWN] = True
    try:
        yield
    finally:
        info.pop(OWN, None)


def settle(connection: Connection, schema: str, version_table: str, revision: str, direction: str) -> None:
    """The revision has gone all the way: what its operations did in the other direction holds no longer."""
    connection.exec_driver_sql(
        f"DELETE FROM {schema}.journal WHERE version_table = %s AND revision = %s AND direction <> %s",
        (version_table, revision, direction),
    )


def _commits(context: MigrationContext) -> bool:
    """Inside ``autocommit_block()``: whether each statement really commits, which it does not in a trial."""
    assert context.connection is not None
    driver: Any = context.connection.connection.dbapi_connection
    return bool(driver.autocommit)


def _begun(connection: Any, step: Step, key: tuple[Any, ...], operation: str, target: str) -> Entry:
    where = "WHERE version_table = %s AND revision = %s AND direction = %s AND place = %s"
    row = connection.exec_driver_sql(
        f"SELECT state, detail FROM {step.schema}.journal {where} AND operation = %s AND target = %s",
        (*key, operation, target),
    ).first()
    if row is not None:
        connection.exec_driver_sql(f"UPDATE {step.schema}.journal SET run = %s {where}", (step.run, *key))
        return Entry(row[0], row[1])
    # A row of this place for something else: the revision was edited since.
    connection.exec_driver_sql(
        f"INSERT INTO {step.schema}.journal (version_table, revision, direction, place, operation, target, state, run) "
        "VALUES (%s, %s, %s, %s, %s, %s, 'begun', %s) ON CONFLICT (version_table, revision, direction, place) "
        "DO UPDATE SET operation = excluded.operation, target = excluded.target, state = 'begun', run = excluded.run, "
        "begun_at = pg_catalog.clock_timestamp(), done_at = NULL, detail = '{}'",
        (*key, operation, target, step.run),
    )
    return Entry()


def _done(connection: Any, step: Step, key: tuple[Any, ...], detail: dict[str, Any]) -> None:
    connection.exec_driver_sql(
        f"UPDATE {step.schema}.journal SET state = 'done', done_at = pg_catalog.clock_timestamp(), detail = %s::jsonb "
        "WHERE version_table = %s AND revision = %s AND direction = %s AND place = %s",
        (json.dumps(detail), *key),
    )
