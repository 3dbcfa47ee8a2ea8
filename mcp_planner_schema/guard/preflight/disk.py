"""The disk: how many bytes the run writes at most, against what is free where that can be known; never a guess.

A table that is rewritten is there twice until the step's COMMIT, with all its indexes. Of an index that is built, the keys'
average width is known where there are statistics; else it is counted as large as the table. What a downgrade keeps by copying is
counted whole. All of it goes through the WAL too. What a backfill writes is not counted: it goes in batches, and vacuum follows.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mcp_planner_schema.guard.preflight import definitions
from mcp_planner_schema.guard.preflight.asked import Found, Here, Question, columns, found, size
from mcp_planner_schema.guard.preflight.pending import Name, parts, table_of, unquoted

LITTLE = 100_000_000
"""Bytes that a server has left as long as it runs at all: of a run that needs no more, nobody has to look."""

_ENTRY = 20
"""Bytes of an index entry beside its key: its header, its place in the page, and alignment."""

_FILL = 0.9
"""How full the pages of a new B-tree are."""

# The data directory is shown to superusers and members of pg_read_all_settings. A partitioned table has no file of its own.
_SIZES = """
SELECT pg_catalog.json_build_object(
    'directory', CASE WHEN pg_catalog.pg_has_role('pg_read_all_settings', 'USAGE')
                      THEN pg_catalog.current_setting('data_directory') END,
    'port', pg_catalog.current_setting('port'), 'minimal', pg_catalog.current_setting('wal_level') = 'minimal',
    'started', extract(epoch FROM pg_catalog.pg_postmaster_start_time())::float8,
    'tables', (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(n.nspname, c.relname,
        (SELECT coalesce(pg_catalog.sum(pg_catalog.pg_total_relation_size(p.oid)), 0) FROM leaves p),
        (SELECT coalesce(pg_catalog.sum(pg_catalog.pg_table_size(p.oid)), 0) FROM leaves p),
        (SELECT coalesce(pg_catalog.sum(greatest(p.reltuples, pg_catalog.pg_stat_get_live_tuples(p.oid), 0)), 0) FROM leaves p),
        (SELECT pg_catalog.json_object_agg(s.attname, s.avg_width) FROM pg_catalog.pg_stats s
         WHERE s.schemaname = n.nspname AND s.tablename = c.relname AND s.inherited = (c.relkind = 'p'))))
      FROM ROWS FROM (pg_catalog.unnest(%(sized_schemas)s::text[]),
                      pg_catalog.unnest(%(sized_names)s::text[])) AS w (schema, name)
      JOIN pg_catalog.pg_namespace n ON n.nspname = w.schema::name
      JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = w.name::name AND c.relkind IN ('r', 'p')))
"""
_LEAVES = """
(SELECT l.oid, l.reltuples FROM (SELECT c.oid UNION SELECT t.relid FROM pg_catalog.pg_partition_tree(c.oid) t) AS own (oid)
 JOIN pg_catalog.pg_class l ON l.oid = own.oid)
"""


def values(here: Here) -> dict[str, Any]:
    """The tables whose sizes matter, as the question's parameters."""
    wanted: set[Name] = set()
    for step in here.steps:
        wanted |= step.rewritten
        wanted |= {table for line in step.come if line.kind == "index" and (table := table_of(line))}
        if step.direction == "downgrade":
            wanted |= {table for line in step.gone if line.kind in ("table", "column") and (table := table_of(line))}
    schemas, names = columns(wanted)
    return {"sized_schemas": schemas, "sized_names": names}


def _asked(here: Here) -> str | None:
    return _SIZES.replace("leaves p", f"{_LEAVES} p") if here.values["sized_names"] else None


def _disk(told: Any, here: Here) -> Iterator[Found]:
    tables = {Name(schema, name): _Table(*rest) for schema, name, *rest in told["tables"] or ()}
    rewritten = sum(one.total for one in (tables.get(name) for name in _rewritten(here)) if one)
    built, kept = sum(_built(here, tables)), sum(_kept(here, tables))
    wal = 0 if told["minimal"] else rewritten + built + kept
    need = rewritten + built + kept + wal
    numbers = {"tables rewritten": rewritten, "indexes built": built, "kept in the stash": kept, "WAL": wal}
    listed = ", ".join(f"{name} {size(count)}" for name, count in numbers.items() if count)
    limit, free = here.settings.preflight.disk_limit, _free(told)
    known = {"alembic.ini, disk_limit": limit, told["directory"] or "": free}
    smallest = min(((count, where) for where, count in known.items() if count is not None), default=None)
    if smallest is None:
        if need > LITTLE:
            yield found("disk-unknown", "server", need=size(need), parts=listed)
    elif need > smallest[0]:
        yield found("disk-short", "server", need=size(need), parts=listed, free=size(smallest[0]), place=smallest[1])


class _Table:
    """Bytes of a table with and without its indexes, its rows, and how wide its columns are on average, as far as known."""

    def __init__(self, total: int, heap: int, rows: float, widths: dict[str, int] | None) -> None:
        self.total, self.heap, self.rows, self.widths = int(total), int(heap), float(rows), widths or {}

    def index(self, keys: tuple[str, ...]) -> int:
        """Bytes of an index of these keys, at most."""
        wide = [self.widths.get(unquoted(key)) for key in keys]
        if not self.rows or None in wide:
            return self.heap
        return int(self.rows * (sum(one or 0 for one in wide) + _ENTRY) / _FILL)


def _rewritten(here: Here) -> set[Name]:
    return {name for step in here.steps for name in step.rewritten}


def _built(here: Here, tables: dict[Name, _Table]) -> Iterator[int]:
    """Each index that comes; those of a rewritten table are written with it."""
    again = _rewritten(here)
    for step in here.steps:
        for line in step.come:
            table = (
                tables.get(name) if line.kind == "index" and (name := table_of(line)) and name not in again else None
            )
            if table:
                found_keys = definitions.keys_of(line.definition)
                yield table.index(found_keys[1]) if found_keys else table.heap


def _kept(here: Here, tables: dict[Name, _Table]) -> Iterator[int]:
    """What a downgrade copies away: tables that are not moved, and columns, which come to no more than their table."""
    above = here.settings.stash_move_above
    for step in here.steps:
        if step.direction != "downgrade":
            continue
        whole = {table_of(line) for line in step.gone if line.kind == "table"}
        changed = {tuple(parts(line.identity)) for line in step.come if line.kind == "column"}
        some = {
            table_of(line) for line in step.gone if line.kind == "column" and tuple(parts(line.identity)) not in changed
        }
        for name in whole | some:
            table = tables.get(name) if name else None
            if table and (name not in whole or above is None or table.total < above):
                yield table.heap


def _free(told: Any) -> int | None:
    """Bytes that are free where the server's files lie, once it is proven that these are this server's: by what it writes there
    about itself when it starts. A path alone may name another server's folder on this machine."""
    directory = told["directory"]
    if not directory:
        return None
    try:
        lines = Path(directory, "postmaster.pid").read_text(encoding="utf-8").splitlines()
        if lines[3] != told["port"] or abs(float(lines[2]) - told["started"]) > 5:
            return None
        volume = os.statvfs(directory)
    except (OSError, ValueError, IndexError):
        return None
    return volume.f_bavail * volume.f_frsize


QUESTIONS = (Question("the disk", ("disk-short", "disk-unknown"), _asked, _disk),)
