"""Takes an edit of an applied revision for what was run: one revision at a time, with a reason, recorded in the history."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from mcp_planner_schema.guard import alone, connect, edits, graph, history, judge, source
from mcp_planner_schema.guard.findings import WrongUse

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy import Connection


def accept(config: Config, revision: str, reason: str) -> list[str]:
    """Record that the present text of ``revision`` stands for what was applied. Gives lines for people.

    Under the deployers' lock. Nothing of the revision is run, and the database is not compared with it. Raises
    :class:`WrongUse` for what is no applied revision of this folder, or without a reason.
    """
    from alembic.script import ScriptDirectory

    if not reason.strip():
        raise WrongUse("An edit is accepted for a reason; the history keeps it.",
                       f'make migrate-accept VERSION={revision} REASON="…"')  # fmt: skip
    with alone.deploying(config) as here:
        script = ScriptDirectory.from_config(config)
        graph.explain(script, here.settings, (), here.repeat)
        with connect.opened(here.engine) as connection:
            found = edits.read(script, here.settings, connection, here.table.shown, here.heads)
            applied = history.applied(connection, here.settings.schema, here.table.shown)
        edit = next((one for one in found if one.revision == revision), None)
        if edit is None:
            if revision in applied:
                return [f"nothing to do: revision {revision} says what was applied"]
            raise WrongUse(
                f"Revision {revision} is not applied here, or nothing was recorded of it: there is nothing to accept.",
                "make migrate-status",
            )
        read = edit.source
        judged = judge.judge(
            read.path, here.settings, sql=judge.sql_folder(script), required=False, today=judge.today()
        )
        files = judge.texts(read, judge.sql_folder(script))
        entry = history.Entry(
            revision=revision, direction="accept", outcome="done", description=reason.strip(),
            author=judged.header.author if judged.header else None, started_at=dt.datetime.now(dt.UTC), duration_ms=0.0,
            lock_wait_ms=0.0, hold_ms=0.0, attempts=1, rows_touched=None, checksum=source.checksum(read, files),
            source=source.kept(read, files), waivers=(), checksum_before=edit.checksum,
        )  # fmt: skip
        with alone.told(here) as number:

            def record(connection: Connection) -> None:
                history.write(connection, here.settings.schema, number, here.origin, entry)

            alone.attempt(here, here.settings.budgets, record)
        return [
            f"accepted: {edit.what} as it is now stands for what was applied on {edit.applied}",
            f"  from {edit.checksum}",
            f"  to   {entry.checksum}",
            f"  by {here.origin.who}: {reason.strip()}",
            *edit.difference,
        ]
