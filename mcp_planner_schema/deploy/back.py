"""The words to go back: what stands in the database, and the exact commands that undo it. Asks the database where it can."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mcp_planner_schema.deploy import record
from mcp_planner_schema.guard import connect, judge, settings
from mcp_planner_schema.guard.findings import GuardError
from mcp_planner_schema.inspect import route, status

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy import URL

    from mcp_planner_schema.deploy.record import Deploy
    from mcp_planner_schema.guard.settings import Settings


def words(config: Config, start: str, database: str, kind: str) -> list[str]:
    """Lines for people. ``start`` is where the database was before the deploy: told also where nothing answers any more."""
    from sqlalchemy.exc import SQLAlchemyError

    try:
        given = settings.load(config)
        way = route.find(config, start)
        once = list(_once(config, given, way.steps)) if way.back else []
        url = connect.url(given)
        with connect.opened(connect.engine(url, "mcp-planner-guard deploy"), autocommit=True) as connection:
            saved = record.newest(connection, given.schema, saved=True)
    except (GuardError, SQLAlchemyError) as error:
        said = str(error).strip().splitlines()[0]
        return [f"to go back: where the database stands could not be asked ({said})", *_down(start, database)]
    if way.here == way.there:
        return [f"to go back: nothing has to be undone, the database is at {start} as before"]
    old = (
        "the release from before does not run with it: go back below first, then redeploy that release"
        if kind == "contract"
        else "the release from before runs with it: redeploying that is the smaller step, and may be enough"
    )
    return [f"to go back: the database is at {way.here}, and was at {start} ({old})", *_down(start, database), *once,
            *_restore(saved, url, database)]  # fmt: skip


def _down(start: str, database: str) -> Iterator[str]:
    confirm = f"CONFIRM={shlex.quote(database)} " if database else ""
    yield f"  make migrate-down TO={start} DRY_RUN=1      (shows what would go; changes nothing)"
    yield f'  {confirm}make migrate-down TO={start} REASON="why"      (what goes is kept; the next run gives it back)'


def _once(config: Config, given: Settings, steps: tuple[str, ...]) -> Iterator[str]:
    """Those that have no way back."""
    with status.connected(config) as (connection, _), route.history(config, given, (), connection) as script:
        files = [found.path for one in steps if (found := script.get_revision(one)) is not None]
    for judged in judge.judge_pending(script, files, given):
        if judged.header and judged.header.reversible == "forward-only":
            yield f"  {judged.header.version} has no way back ({judged.header.reason}): only the backup has what it took away"


def _restore(saved: Deploy | None, url: URL, database: str) -> Iterator[str]:
    """The backup into a database beside the one that is there. libpq's variables say where; the password is not said."""
    if saved is None or not (before := saved.before):
        return
    path, beside = shlex.quote(str(before["path"])), shlex.quote(f"{database}_before")
    query = url.query
    parts = {"PGHOST": url.host or query.get("host"), "PGPORT": url.port or query.get("port"), "PGUSER": url.username}
    where = " ".join(f"{name}={shlex.quote(str(value))}" for name, value in parts.items() if value)
    machine = f" on {before['host']}" if before.get("host") else ""
    yield f"  the whole database as it was before deploy {saved.id}, beside it (file{machine}; sha256: migration.deploy):"
    if where:
        yield f"  export {where}      (and the password, by PGPASSFILE or a service file)"
    yield f"  createdb --template=template0 {beside} && pg_restore --exit-on-error --dbname={beside} {path}"
    if saved.backup is not None and saved.backup.get("path") not in (None, before["path"]):
        at = saved.backup.get("head", "a later revision")
        yield f"  (written when the deploy went on, with what it had done by then, at {at}: {saved.backup['path']})"
