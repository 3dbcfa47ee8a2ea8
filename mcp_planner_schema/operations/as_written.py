"""SQL that another tool has sent as one query, sent so again: for what a body in SQL (docs/plain-sql.md) may not say.

No colon in it is a parameter, no percent sign is doubled.
"""

from __future__ import annotations

from alembic import op

from mcp_planner_schema.guard.lexer import pieces
from mcp_planner_schema.guard.postcheck import execute


def run(text: str) -> None:
    """Send all of ``text`` as one query: in the step's transaction, or, within ``autocommit_block()``, as PostgreSQL takes it.

    A text of comments only is nothing to be sent.
    """
    found = [piece for piece in pieces(text) if piece.tokens]
    context = op.get_context()
    if not found:
        return
    if context.as_sql:
        last = found[-1]
        end = last.tokens[-1].end
        context.impl.static_output(text if last.ended else text[:end] + ";" + text[end:])
        return
    assert context.connection is not None, "online there is a connection"
    execute(context.connection, text)
