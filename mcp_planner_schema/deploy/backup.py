"""A backup before a deploy: what the configured check knows, or a file of the whole database that was restored and compared."""

from __future__ import annotations

import datetime as dt
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.deploy import record
from mcp_planner_schema.guard import archive, connect, evidence
from mcp_planner_schema.guard.findings import Broken, Refused
from mcp_planner_schema.guard.postcheck import execute
from mcp_planner_schema.guard.preflight import backup, gate
from mcp_planner_schema.guard.preflight.asked import Here, size, span

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

    from mcp_planner_schema.deploy.record import Deploy
    from mcp_planner_schema.guard.settings import Settings

# A partition's rows come with its table. Of an extension's tables those are dumped that it has registered for that.
_TABLES = """
SELECT n.nspname::text, c.relname::text, n.nspname ~ %(own)s OR x.extends
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
CROSS JOIN LATERAL (SELECT EXISTS (SELECT FROM pg_catalog.pg_depend d
  WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e') AS extends) x
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND left(n.nspname, 3) <> 'pg_'
  AND n.nspname <> 'information_schema'
  AND (NOT x.extends OR EXISTS (SELECT FROM pg_catalog.pg_extension e WHERE c.oid = ANY (e.extconfig)))
ORDER BY 1, 2
"""
# What no dump of one database has: rows that lie elsewhere, that an extension does not register, settings of the database.
_NOT_IN_IT = """
SELECT 'the rows of the foreign table ' || c.oid::regclass::text FROM pg_catalog.pg_class c WHERE c.relkind = 'f'
UNION ALL
SELECT pg_catalog.format('the rows of %s, which the extension %s has not registered to be dumped', c.oid::regclass, e.extname)
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid
WHERE c.relkind = 'r' AND pg_catalog.pg_relation_size(c.oid) > 0
  AND NOT c.oid = ANY (coalesce(e.extconfig, '{}'::oid[]))
UNION ALL
SELECT pg_catalog.format('%s, by ALTER %s', s.setting,
       CASE WHEN d.setrole = 0 THEN 'DATABASE' ELSE pg_catalog.format('ROLE %s IN DATABASE', d.setrole::regrole) END)
FROM pg_catalog.pg_db_role_setting d, pg_catalog.unnest(d.setconfig) AS s (setting)
WHERE d.setdatabase = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
"""


def make(
    given: Settings, engine: Engine, deploy: Deploy, head: str, accepted: str | None, repeat: str
) -> Iterator[str]:  # fmt: skip
    """See to it that there is a backup from before the deploy, and write down which; one line for people for each thing said.

    With ``backup_check`` configured its word is taken, and findings are refused unless ``accepted``. Else the file that this
    deploy has written already counts, where it is there. ``head`` is where the database is just now.
    Raises :class:`Refused`, :class:`Busy` or :class:`Broken`.
    """
    asked = given.preflight
    if asked.backup_age is None:
        yield "backup_age = never: nobody asks for a backup here"
        return
    with connect.opened(engine, autocommit=True) as connection:
        if asked.backup_check:
            yield from _checked(connection, given, deploy, accepted, repeat)
            return
        found = connection.exec_driver_sql(_TABLES, {"own": evidence.own(given.schema)}).all()
        tables = [(schema, name) for schema, name, _ in found]
        lacks = execute(connection, _NOT_IN_IT).scalars().all()
        if all(ours for *_, ours in found):
            yield "the database has no tables yet: there is nothing to back up"
            return
    if deploy.backup and _usable(deploy, asked.backup_age / 1000):
        yield f"the backup of this deploy is there: {deploy.backup['path']}, {span(deploy.age or 0)} old"
        return
    made = archive.make(given, engine, tables, f"before-deploy-{deploy.id}", repeat, whole=True)
    rows = sum(one[2] for one in made.tables)
    kept = {
        "path": str(made.path), "sha256": made.sha256, "bytes": made.bytes, "tables": len(made.tables), "rows": rows,
        "server": made.server_version, "pg_dump": made.pg_dump_version, "host": socket.gethostname(), "head": head,
    }  # fmt: skip
    with connect.opened(engine, autocommit=True) as connection:
        record.save(connection, given.schema, deploy.id, kept)
    yield (
        f"{made.path}: {len(made.tables)} tables, {rows} rows, {size(made.bytes)}, "
        f"restored and compared; sha256 {made.sha256}"
    )
    yield from (f"note: not in it: {one}" for one in lacks)
    yield from (f"note: restored from it, {one}" for one in made.differs)


def told(given: Settings, engine: Engine) -> list[str]:
    """What a ``backup_check`` prints, of the newest file that a deploy has written. Raises :class:`Broken` where none is."""
    with connect.opened(engine, autocommit=True) as connection:
        found = record.newest(connection, given.schema, saved=True)
    if found is None or not _there(found):
        raise Broken("There is no backup that a deploy has written, or its file is gone.", "make migrate-status")
    age = max(0, int(found.age or 0))
    return [f"age={age}s", f"restored={age}s"]


def _checked(
    connection: Connection, given: Settings, deploy: Deploy, accepted: str | None, repeat: str
) -> Iterator[str]:  # fmt: skip
    found = list(backup.ask(connection, Here(given, (), 0, dt.date.today()), [True, False]))
    taken = gate.codes(accepted)
    against = [one.finding for one in found if one.finding.code not in taken and one.finding.code != "backup-unproven"]
    if against:
        raise Refused(against, f"see to a backup, then {repeat}")
    for one in found:
        yield f"note: {one.finding.code}: {one.finding.rule.happens.format_map(one.finding.values)}"
    record.save(connection, given.schema, deploy.id, {"check": given.preflight.backup_check.split()[0]})
    yield "backup_check says that there is one"


def _usable(deploy: Deploy, limit: float) -> bool:
    return deploy.age is not None and deploy.age < limit and _there(deploy)


def _there(deploy: Deploy) -> bool:
    """Whether the file is in its place, as long as it was. Its checksum is read when it is restored."""
    kept: Any = deploy.backup or {}
    path = Path(str(kept.get("path", "")))
    try:
        return bool(kept.get("path")) and path.is_file() and path.stat().st_size == kept["bytes"]
    except OSError:
        return False
