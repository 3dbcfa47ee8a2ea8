"""Functions and triggers as files: ``alembic/sql/<revision>/<name>.sql``, one object each.

A revision lists them in a literal, and nothing else of them stands in it::

    sql_files = ["011/touch_updated_at.sql", "011/steps_90_touch_updated_at.sql"]

    def upgrade() -> None:
        sql.apply(sql_files)

    def downgrade() -> None:
        sql.revert(sql_files)

A file is never edited once it is released: its text is part of the revision's checksum. What changes is written anew as a
file of the same name in the new revision's folder; going back runs the file before it, of the nearest earlier revision.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from alembic import op

from mcp_planner_schema.guard import sql_file
from mcp_planner_schema.guard.postcheck import execute
from mcp_planner_schema.guard.sql_file import SqlFile


def apply(names: Sequence[str]) -> None:
    """Create what each file holds, in the order given, within the step's transaction.

    Where an earlier revision has a file of the same name, this one replaces it: in place, or, where PostgreSQL cannot
    (other arguments, other result, another table), by dropping that first. Raises :class:`sql_file.Unusable`.
    """
    for name in names:
        new, old = _read(name), _before(name)
        if old and old.shape != new.shape:
            _run(old.drop.replace("DROP FUNCTION", "DROP FUNCTION IF EXISTS", 1))
        _run(new.text)


def revert(names: Sequence[str]) -> None:
    """Undo :func:`apply`, in reverse order: bring back the file before each, or drop what had none before."""
    for name in reversed(names):
        new, old = _read(name), _before(name)
        if old is None or old.shape != new.shape:
            _run(new.drop)
        if old:
            _run(old.text)


def remove(names: Sequence[str]) -> None:
    """Drop what the files created, in reverse order; the downgrade is ``sql.apply`` of the same names."""
    for name in reversed(names):
        _run(_read(name).drop)


def _folder() -> Path:
    environment = op.get_context().environment_context
    assert environment is not None, "only an env.py runs revisions"
    return Path(environment.script.dir) / "sql"


def _read(name: str) -> SqlFile:
    return sql_file.read(_folder(), name)


def _before(name: str) -> SqlFile | None:
    """The file of the same name that the nearest ancestor of the file's revision has."""
    environment = op.get_context().environment_context
    assert environment is not None, "only an env.py runs revisions"
    revision, _, file = name.partition("/")
    for ancestor in environment.script.iterate_revisions(revision, "base"):
        earlier = f"{ancestor.revision}/{file}"
        if earlier != name and (_folder() / earlier).is_file():
            return _read(earlier)
    return None


def _run(text: str) -> None:
    context = op.get_context()
    if context.as_sql:
        context.impl.static_output(text.rstrip().rstrip(";") + ";")
    else:
        assert context.connection is not None, "online there is a connection"
        execute(context.connection, text)
