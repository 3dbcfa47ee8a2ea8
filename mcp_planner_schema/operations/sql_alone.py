"""A body in SQL of a revision with ``Transaction: none``: statement by statement, each final by itself, none done twice.

What runs in a transaction is sent in one with the note that it is done. What runs in none is done by the operation that does
the same, which asks the catalog what is left to do; or it may run twice by its nature (VACUUM, ANALYZE).
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mcp_planner_schema.guard import brief, journal, source, sql_alone, sql_body
from mcp_planner_schema.guard.findings import Refused
from mcp_planner_schema.guard.postcheck import execute
from mcp_planner_schema.guard.sql_body import Place
from mcp_planner_schema.operations import (
    constraint_ops,
    index_ops,
    maintenance_ops,
    online,
    partition_ops,
    partitioned,
    scripts,
)
from mcp_planner_schema.operations.indexes import Definition

if TYPE_CHECKING:
    from alembic.operations import Operations
    from alembic.runtime.migration import MigrationContext

    from mcp_planner_schema.guard.journal import Entry
    from mcp_planner_schema.guard.sql_alone import Work
    from mcp_planner_schema.guard.sql_body import Statement

# What reads and writes rows has the time that the revision gives a statement; all else is held to the deadline of its locks.
_ROWS = frozenset(
    {"INSERT", "UPDATE", "DELETE", "MERGE", "SELECT", "WITH", "VALUES", "TABLE", "DO", "CALL", "COPY", "EXPLAIN"}
)
_INDEXED = """
SELECT n.nspname::text, c.relname::text FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE i.indexrelid = pg_catalog.to_regclass(%s::text)
"""


def run(operations: Operations, path: Path, statements: Sequence[Statement]) -> None:
    """Send each statement that an earlier run has not finished. Refuses a file of which those have another text now."""
    context = operations.migration_context
    with journal.entry(context, "run_sql", path.name) as entry:
        step = journal.of(context)
        digests = [hashlib.sha256(one.text.encode()).hexdigest()[:16] for one in statements]
        done: list[str] = list(entry.detail.get("done", []))
        differs = next((place for place, one in enumerate(done) if digests[place : place + 1] != [one]), None)
        if differs is not None:
            line = statements[differs].line if differs < len(statements) else 1
            problem = f"its statement {differs + 1} was run before, with another text"
            finding = source.finding(path, line, "sql-body-differs", file=path.name, problem=problem)
            raise Refused([finding], step.repeat if step else "correct it", "what it has finished stays")
        if done:
            left = (
                f"goes on with statement {len(done) + 1} of {len(digests)}"
                if len(done) < len(digests)
                else "was done before"
            )
            online.say(context, f"{path.name} {left}")
        for place, one in enumerate(statements[len(done) :], len(done)):
            entry.detail["done"] = digests[: place + 1]
            with sql_body.sending(Place(path, one)):
                _send(operations, entry, one, place)
        if step is not None and not step.trial:
            step.place += len(statements)  # where each statement would have had its row


def _send(operations: Operations, entry: Entry, one: Statement, place: int) -> None:
    context = operations.migration_context
    step = journal.of(context)
    if step is not None:
        step.sent = True
    if known := sql_alone.work(one.tokens):
        with _row_of(step, place):
            _WORKS[known.kind](operations, known, one)
        journal.remember(context, entry)
    elif sql_alone.repeats(one.tokens):
        if not online.tried(context):  # of a trial nothing would be left, and most of these run in no transaction
            online.send(context, one.text)
        journal.remember(context, entry)
    else:
        # In one transaction with how far it has come: of a statement that was killed both are there, or none.
        noted = journal.remembering(context, entry)
        text = f"{one.text};\n{noted}" if noted else one.text
        if one.tokens[0].word in _ROWS:
            with context.autocommit_block():
                assert context.connection is not None
                scripts.again(context, functools.partial(execute, context.connection, text))
        else:
            brief.run(context, text)
        if not noted:
            journal.remember(context, entry)


@contextmanager
def _row_of(step: journal.Step | None, place: int) -> Iterator[None]:
    """While inside, an operation has the row of the journal that belongs to this statement, whatever was skipped before."""
    if step is None or step.trial:
        yield
        return
    own = step.place
    step.place = own + place
    try:
        yield
    finally:
        step.place = own


def _create_index(operations: Operations, known: Work, one: Statement) -> None:
    context = operations.migration_context
    wanted = Definition(known.unique, one.text[known.definition :])

    def build(_: Entry) -> None:
        partitioned.build(context, online.table(context, known.table, known.table_schema), known.name, wanted)

    _carry_out(context, "create_index_concurrently", known, build)


def _drop_index(operations: Operations, known: Work, one: Statement) -> None:
    context = operations.migration_context

    def drop(entry: Entry) -> None:
        if table := _table_of(context, known):
            index_ops.drop(context, online.table(context, *table), known.name, known=entry.before is not None)
        elif entry.before is None:
            online.refuse(context, "operation-missing", what=f"index {known.name}")
        else:
            online.say(context, f"index {known.name} is gone already")

    _carry_out(context, "drop_index_concurrently", known, drop)


def _reindex_index(operations: Operations, known: Work, one: Statement) -> None:
    table = _table_of(operations.migration_context, known)
    if table is None:
        online.refuse(operations.migration_context, "operation-missing", what=f"index {known.name}")
    operations.invoke(maintenance_ops.ReindexConcurrentlyOp(table[0], known.name, table[1]))


def _reindex_table(operations: Operations, known: Work, one: Statement) -> None:
    operations.invoke(maintenance_ops.ReindexConcurrentlyOp(known.name, None, known.schema))


def _validate(operations: Operations, known: Work, one: Statement) -> None:
    operations.invoke(constraint_ops.ValidateConstraintOp(known.name, known.table, known.table_schema))


def _detach(operations: Operations, known: Work, one: Statement) -> None:
    schema = known.table_schema
    operations.invoke(partition_ops.DetachPartitionOp(known.table, known.name, schema, known.schema or schema))


_WORKS: dict[str, Callable[[Operations, Work, Statement], None]] = {
    "create index": _create_index,
    "drop index": _drop_index,
    "reindex index": _reindex_index,
    "reindex table": _reindex_table,
    "validate": _validate,
    "detach": _detach,
}


def _carry_out(context: MigrationContext, operation: str, known: Work, work: Callable[[Entry], None]) -> None:
    online.carry_out(context, operation, known.name, work, lambda: None)


def _table_of(context: MigrationContext, known: Work) -> tuple[str, str] | None:
    """The table of an index: its name and schema."""
    found = online.ask(context, _INDEXED, (online.qualified(known.schema, known.name),))
    return (found[0][1], found[0][0]) if found else None
