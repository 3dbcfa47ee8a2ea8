"""Versions that moved below the database: of collations, which decide where a row stands in an index, and of extensions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mcp_planner_schema.guard.preflight.asked import Found, Here, Question, found

_SHOWN = 5
"""So many indexes are named."""

# The version of a database's own collation is recorded since 15. Only collations that an index uses are looked at: to ask the
# actual version of one opens it in ICU, and there are hundreds. 100 is the database's own.
_INDEXES = """
SELECT pg_catalog.json_build_array(
    pg_catalog.count(*), (pg_catalog.array_agg(i.indexrelid::regclass::text ORDER BY i.indexrelid))[1:{shown}])
FROM pg_catalog.pg_index i WHERE {collation} = ANY (i.indcollation::oid[])
  AND (i.indexrelid >= 16384 OR i.indrelid >= 16384)
"""
_DATABASE = """
SELECT pg_catalog.json_build_array(
    d.datname, d.datcollate, d.datcollversion, pg_catalog.pg_database_collation_actual_version(d.oid), ({indexes}))
FROM pg_catalog.pg_database d
WHERE d.datname = pg_catalog.current_database()
  AND d.datcollversion IS DISTINCT FROM pg_catalog.pg_database_collation_actual_version(d.oid)
"""
_COLLATIONS = """
SELECT pg_catalog.json_agg(pg_catalog.json_build_array(
    c.oid::regcollation::text, c.collversion, pg_catalog.pg_collation_actual_version(c.oid), ({indexes})) ORDER BY c.oid)
FROM pg_catalog.pg_collation c
WHERE c.collversion IS NOT NULL AND c.oid IN (SELECT DISTINCT u.oid FROM pg_catalog.pg_index i,
                                              pg_catalog.unnest(i.indcollation::oid[]) AS u (oid) WHERE i.indexrelid >= 16384)
  AND c.collversion IS DISTINCT FROM pg_catalog.pg_collation_actual_version(c.oid)
"""
# What the server has is read from its files, so only where there is an extension besides the one of every database.
_EXTENSIONS = """
SELECT pg_catalog.json_agg(pg_catalog.json_build_array(e.extname, e.extversion, a.default_version) ORDER BY e.extname)
FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_available_extensions a ON a.name = e.extname
WHERE a.default_version IS DISTINCT FROM e.extversion
"""
_ANY_EXTENSION = "EXISTS (SELECT FROM pg_catalog.pg_extension x WHERE x.oid >= 16384)"
_ANY_DATABASE = """
SELECT d.datcollversion IS DISTINCT FROM pg_catalog.pg_database_collation_actual_version(d.oid)
FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()
"""
# 0 is none, 950 and 951 are C and POSIX, which never change.
_ANY_COLLATION = """
EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indexrelid >= 16384 AND NOT i.indcollation::oid[] <@ '{0,100,950,951}'::oid[])
"""


def _indexes(collation: str) -> str:
    return _INDEXES.format(shown=_SHOWN, collation=collation)


def _database(told: Any, here: Here) -> Iterator[Found]:
    name, collation, recorded, actual, indexes = told
    yield _changed(f"the database {name} ({collation})", f'DATABASE "{name}"', recorded, actual, indexes)


def _collations(told: Any, here: Here) -> Iterator[Found]:
    for name, recorded, actual, indexes in told:
        yield _changed(f"the collation {name}", f"COLLATION {name}", recorded, actual, indexes)


def _changed(what: str, thing: str, recorded: str | None, actual: str | None, indexes: Any) -> Found:
    count, names = indexes
    listed = ", ".join(one.removeprefix("public.") for one in names or ())
    more = " …" if count > _SHOWN else ""
    return found(
        "collation-changed", what, what=what, recorded=recorded or "unknown", actual=actual or "none", object=thing,
        indexes=f"{count} index{' rests' if count == 1 else 'es rest'} on it" + (f": {listed}{more}" if listed else ""),
    )  # fmt: skip


def _extensions(told: Any, here: Here) -> Iterator[Found]:
    for name, installed, default in told:
        yield found("extension-outdated", name, name=name, installed=installed, default=default)


QUESTIONS = (
    Question(
        "the database's collation", ("collation-changed",), lambda here: _DATABASE.format(indexes=_indexes("100")), _database,
        _ANY_DATABASE, since=15,
    ),
    Question(
        "collations", ("collation-changed",), lambda here: _COLLATIONS.format(indexes=_indexes("c.oid")), _collations,
        _ANY_COLLATION,
    ),
    Question("extensions' versions", ("extension-outdated",), lambda here: _EXTENSIONS, _extensions, _ANY_EXTENSION),
)  # fmt: skip
