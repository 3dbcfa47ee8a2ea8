"""What is wrong in a database that no migration complains of, each with the one command that cures it. Reads only.

Two sorts: what interrupted work leaves (invalid indexes, constraints that were not validated, rows of the guard that say
"running" and nobody runs), and what no revision explains: where the catalog differs from what the applied revisions make.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from mcp_planner_schema.backfill import standing
from mcp_planner_schema.guard import catalog_change, connect, deploy_lock, forced, manifest, version_table
from mcp_planner_schema.guard.evidence import own
from mcp_planner_schema.guard.findings import WrongUse
from mcp_planner_schema.guard.fingerprint import Line, Lines, at_once, entries, stored, together, without
from mcp_planner_schema.guard.postcheck import SYSTEM_PATH, identifier, pinned
from mcp_planner_schema.guard.version_table import VersionTable
from mcp_planner_schema.inspect import repair, route, status

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy import Connection

    from mcp_planner_schema.guard.settings import Settings

# One that is being built now is no leftover: not every role sees that somebody is at it, but each sees the lock. Of a
# partitioned index only the parts can be built: it is valid with the last.
_INVALID = """
SELECT i.indexrelid::regclass::text, i.indrelid::regclass::text, c.relkind = 'I', c.relname ~ '_cc(new|old)[0-9]*$',
       EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = i.indexrelid)
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE NOT i.indisvalid AND left(n.nspname, 3) <> 'pg_' AND n.nspname !~ %s
  AND NOT EXISTS (SELECT FROM pg_stat_progress_create_index p WHERE p.index_relid = i.indexrelid)
  AND NOT EXISTS (SELECT FROM pg_locks l WHERE l.relation = i.indrelid AND l.mode = 'ShareUpdateExclusiveLock' AND l.granted
                  AND l.database = (SELECT b.oid FROM pg_database b WHERE b.datname = current_database())
                  AND NOT EXISTS (SELECT FROM pg_stat_progress_vacuum v WHERE v.pid = l.pid))
ORDER BY 1
"""
_NOT_VALID = """
SELECT quote_ident(k.conname), coalesce(nullif(k.conrelid, 0)::regclass::text, k.contypid::regtype::text), k.contypid <> 0
FROM pg_constraint k JOIN pg_namespace n ON n.oid = k.connamespace
WHERE NOT k.convalidated AND coalesce(to_jsonb(k) ->> 'conenforced', 'true') = 'true' AND left(n.nspname, 3) <> 'pg_'
  AND n.nspname !~ %s ORDER BY 2, 1
"""
# Tables that the guard makes for a part of a step: names with a colon, which nobody else gives. Not those where it has put rows
# aside that gave way to kept ones, for nobody else has these, nor what says which kept rows are left, or what was
# written to them while an upgrade that commits in the middle has not ended: the next one drops that.
_LEFT = """
SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND c.relname ~ '^guard:(?!aside_|left_|xids$|untouched_|stood_|keys_|touched_|theirs_)' AND n.nspname ~ %s
ORDER BY 1
"""
_STASHES = "SELECT nspname::text FROM pg_namespace WHERE nspname ~ %s ORDER BY 1"
_BEGUN = """
SELECT revision, direction, operation, target FROM {schema}.journal
WHERE version_table = %s AND (state = 'begun' OR (direction = 'upgrade') <> (revision = ANY (%s::text[])))
ORDER BY revision, direction, place
"""
_RUNNING = """
SELECT id, command, who, date_trunc('second', started_at)::text FROM {schema}.run
WHERE state = 'running' AND version_table = %s ORDER BY id
"""


class Ailment(NamedTuple):
    """``kind`` is one word for machines, ``what`` a sentence, below it more lines where texts are compared."""

    kind: str
    what: str
    cure: str


def examine(config: Config) -> list[Ailment]:
    """Everything that is found, in the order in which it would be cured."""
    table = version_table.of(config)
    with status.connected(config) as (connection, given):
        heads = version_table.heads(connection, table)
        with route.history(config, given, (), connection, table) as script:
            applied = [one.revision for one in script.iterate_revisions(heads, "base")][::-1] if heads else []
            match = forced.another(connection, given, script, heads, table.shown)
            reached = catalog_change.chain(script, [one for one in match[-1:] if one != "base"])
        expected, unknown = _expected(script.dir, applied)
        alive = deploy_lock.taken(connection, deploy_lock.of(connection, *table))
        # Every other question would be asked of what is there by a version that it is not; but what is half done is no version.
        if match and not alive and not list(_interrupted(connection, given, reached, table)):
            return [_misplaced(heads, match)]
        found = [] if alive else list(_interrupted(connection, given, applied, table))
        onward = next((one.cure for one in found if one.kind != "run"), None)
        with pinned(connection, search_path=SYSTEM_PATH):
            found += [*_indexes(connection, given, expected, onward), *_constraints(connection, given, expected)]
            found += [] if alive else _left(connection, given)
        found += [*_stashes(connection, given), *unknown]
        if expected:
            with connect.opened(connection.engine, autocommit=True) as asking:
                there = together(at_once(asking, given.schema, without=without(asking, given.schema, table.shown)))
            found += _unexplained(given, expected, there, onward)
        return found


def text(found: list[Ailment]) -> str:
    """For people: what is wrong, and below it what to type."""
    lines = [f"{one.what}\n  next: {one.cure}\n" for one in found]
    return "\n".join([*lines, f"{len(found)} found" if found else "nothing found"])


# --- what interrupted work leaves -------------------------------------------------------------------------------------


def _interrupted(connection: Connection, given: Settings, applied: list[str], table: VersionTable) -> Iterator[Ailment]:
    """Rows of the guard's tables about work that nobody is at."""
    if not _exists(connection, f"{given.schema}.run"):
        return
    with pinned(connection, search_path=SYSTEM_PATH):
        runs = _rows(connection, _RUNNING, given, (table.shown,))
        begun = _rows(connection, _BEGUN, given, (table.shown, applied))
    for number, command, who, since in runs:
        what = f"run {number} ({command}, by {who}, {since}) says running, and nobody runs"
        way = "make migrate-down" if command.split()[:1] == ["downgrade"] else "make migrate-up"
        yield Ailment("run", what, f"{way}   (the next run writes that it was interrupted, and goes on)")
    told: dict[tuple[str, str], list[str]] = {}
    for revision, direction, operation, target in begun:
        told.setdefault((revision, direction), []).append(f"{operation} {target}")
    for (revision, direction), operations in told.items():
        what = f"the {direction} of revision {revision} was interrupted: {', '.join(operations)}"
        yield Ailment("operation", what, _onward(direction, revision))
    for one in standing.read(connection, given.schema, *table):
        if one.state != "done":
            what = f"backfill {one.line()}"
            yield Ailment("backfill", what, _onward(one.direction, one.revision))


def _misplaced(heads: tuple[str, ...], match: list[str]) -> Ailment:
    up_to = " or ".join(match)
    what = f"the version says {', '.join(heads) or 'base'}, and the database is what the revisions up to {up_to} make of it"
    return Ailment("version", what, forced.next_of(match))


def _onward(direction: str, revision: str) -> str:
    if direction == "upgrade":
        return f"make migrate-up TO={revision}   (goes on where it was interrupted)"
    return "make migrate-down   (goes on where it was interrupted)"


def _indexes(connection: Connection, given: Settings, expected: Lines, onward: str | None) -> Iterator[Ailment]:
    made = {line.identity for line in expected if line.kind == "index"}
    for name, table, partitioned, leftover, constraint in connection.exec_driver_sql(_INVALID, (own(given.schema),)):
        what = f"index {name} of {table} is not valid: "
        drop = connect.psql(given, f"DROP INDEX CONCURRENTLY {name}")
        if partitioned:
            yield Ailment(
                "index",
                what + "a partition has no index that belongs to it",
                connect.psql(given, f"ALTER INDEX {name} ATTACH PARTITION …")
                + "   (for each partition, after its index was built)",
            )
        elif leftover and not constraint:
            what += "a REINDEX CONCURRENTLY that was interrupted has left it, and it costs every write"
            yield Ailment("index", what, drop)
        elif made and name not in made:
            what += "no query uses it, it costs every write, and no applied revision makes it"
            yield Ailment("index", what, onward or drop)
        else:
            what += "no query uses it, and it costs every write"
            yield Ailment("index", what, connect.psql(given, f"REINDEX INDEX CONCURRENTLY {name}"))


def _constraints(connection: Connection, given: Settings, expected: Lines) -> Iterator[Ailment]:
    waiting = {line.identity for line in expected if line.definition.endswith(" NOT VALID")}
    for name, of, domain in connection.exec_driver_sql(_NOT_VALID, (own(given.schema),)):
        what = f"constraint {name} of {of} was never validated: rows from before it may break it"
        kind = "DOMAIN" if domain else "TABLE"
        cure = connect.psql(given, f"ALTER {kind} {of} VALIDATE CONSTRAINT {name}")
        if f"{of}.{name}" in waiting:  # a revision made it so, so another one has to go on
            cure = f"make migrate-create NAME=validate_constraint   (with op.validate_constraint of {name})"
        yield Ailment("constraint", what, cure)


def _left(connection: Connection, given: Settings) -> Iterator[Ailment]:
    for (name,) in connection.exec_driver_sql(_LEFT, (own(given.schema),)):
        what = f"table {name} was made for a part of a step, and outlived it"
        yield Ailment("table", what, connect.psql(given, f"DROP TABLE {name}"))


def _stashes(connection: Connection, given: Settings) -> Iterator[Ailment]:
    """Schemas of stashes without a row of the manifest, and the reverse."""
    with pinned(connection, search_path=SYSTEM_PATH):
        there = set(connection.exec_driver_sql(_STASHES, (f"^{given.schema}_stash_[0-9]+$",)).scalars())
    kept = manifest.read(connection, given.schema) if manifest.exists(connection, given.schema) else []
    for name in sorted(there - {one.kept_in for one in kept}):
        what = f"schema {name} holds what a downgrade has kept, and the manifest knows nothing of it"
        yield Ailment(
            "stash",
            what,
            connect.psql(given, f"\\dt {name}.*") + "   (look what it is; DROP SCHEMA … CASCADE if nothing)",
        )
    for one in kept:
        if one.state in ("kept", "partly restored") and one.objects and one.kept_in not in there:
            what = (
                f"stash {one.id} of revision {one.revision} is to be given back, and its schema {one.kept_in} is gone"
            )
            archive = f" ARCHIVE={shlex.quote(one.archive)}" if one.archive else ""
            cure = f"make migrate-restore VERSION={one.revision} ID={one.id}{archive}"
            yield Ailment("stash", what, cure if archive else f"make migrate-stash-show ID={one.id}   (what was lost)")


# --- what no revision explains ----------------------------------------------------------------------------------------


def _expected(folder: str, applied: list[str]) -> tuple[Lines, list[Ailment]]:
    """What the applied revisions make; nothing, and why, where that is not stored. A history without any such file is let be."""
    if not stored.place(folder).exists():
        return frozenset(), []
    try:
        return stored.expected(folder, applied), []
    except WrongUse as error:
        return frozenset(), [Ailment("fingerprint", error.message, error.next_command)]


def _unexplained(given: Settings, expected: Lines, found: Lines, onward: str | None) -> Iterator[Ailment]:
    every = [one for one in entries(expected, _without_invalid(found, expected)) if one.told]
    repairs = repair.statements(every)
    for one in every:
        first, *more = one.told
        undone = f"{connect.psql(given, repairs[one])}   ({_KEPT})" if one in repairs else _EXPLAIN
        yield Ailment("drift", "\n".join([f"{first}; no applied revision says so", *more]), onward or undone)


_KEPT = "or, if it is to stay, a revision that says so: make migrate-create NAME=add_what_is_there"
_EXPLAIN = "make migrate-create NAME=add_what_is_there   (a revision that says so), or undo it: make db-shell, or psql"


def _without_invalid(found: Lines, expected: Lines) -> Lines:
    """What is only not valid is told by itself, with a cure of its own."""
    made = {line.identity for line in expected if line.kind == "index"}
    return frozenset(
        _valid(line, expected)
        for line in found
        if not (line.kind == "index" and line.definition.endswith(" invalid") and line.identity not in made)
    )


def _valid(line: Line, expected: Lines) -> Line:
    for word in (" invalid", " NOT VALID", " not valid"):
        without = line._replace(definition=line.definition.removesuffix(word))
        if without != line and without in expected:
            return without
    return line


def _rows(connection: Connection, sql: str, given: Settings, values: tuple[Any, ...]) -> list[Any]:
    return list(connection.exec_driver_sql(sql.format(schema=identifier(given.schema)), values))


def _exists(connection: Connection, name: str) -> bool:
    return connection.exec_driver_sql("SELECT pg_catalog.to_regclass(%s) IS NOT NULL", (name,)).scalar_one() is True
