"""What SQLAlchemy has noted of enums and domains while Alembic creates tables.

``op.create_table()`` makes a named type the first time it meets it, and notes that in Alembic's context: the next table of the
same run takes it as made. The guard gives each step a context of its own, and calls some bodies twice. So what a step has noted
goes on to the next one, as far as the type is still there, and each call of a body begins with what was noted before its step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext
    from sqlalchemy import Connection

Noted = dict[str, set[tuple[str | None, str]]]
"""By kind of type, schema and name: as SQLAlchemy keeps it in ``memo`` of Alembic's implementation."""

_THERE = "SELECT typname::text FROM pg_catalog.pg_type WHERE typname = ANY (%s::name[])"


def after(context: MigrationContext, connection: Connection) -> Noted:
    """What a step has noted and ``connection`` finds there: a type that another statement has dropped is to be made again.

    Of a connection that is gone it is taken for true: the step is final, and whatever comes next will meet that.
    """
    from sqlalchemy.exc import SQLAlchemyError

    noted = _copied(context.impl.memo)
    names = {name for kind in noted.values() for _, name in kind}
    if not names:
        return noted
    try:
        there = set(connection.exec_driver_sql(_THERE, (sorted(names),)).scalars())
    except SQLAlchemyError:
        return noted
    return {kind: {one for one in types if one[1] in there} for kind, types in noted.items()}


def beginning(context: MigrationContext, noted: Noted, body: Callable[[], Any]) -> Any:
    """Call ``body`` with ``noted``, whatever an earlier call of it, undone since, has noted."""
    context.impl.memo = _copied(noted)
    return body()


def _copied(memo: Noted) -> Noted:
    return {kind: set(types) for kind, types in memo.items()}
