"""Transaction ids: how old the oldest of the database and of the tables that a run needs are, against wraparound."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mcp_planner_schema.guard.preflight.asked import Found, Here, Question, found

BEHIND = 2
"""So many times autovacuum_freeze_max_age old: a vacuum should have come at once that age, and does not get done."""

_AGES = """
SELECT pg_catalog.json_build_object(
    'database', d.datname, 'age', pg_catalog.age(d.datfrozenxid), 'multi', pg_catalog.mxid_age(d.datminmxid),
    'limit', pg_catalog.current_setting('autovacuum_freeze_max_age')::bigint,
    'multi_limit', pg_catalog.current_setting('autovacuum_multixact_freeze_max_age')::bigint)
FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()
"""
# TOAST tables have an age of their own. Tables that nobody vacuums (partitioned ones, views) have none.
_TABLES = """
SELECT pg_catalog.json_agg(pg_catalog.json_build_array(o.shown, o.age, o.most) ORDER BY o.age DESC, o.shown) FROM (
  SELECT CASE WHEN n.nspname = 'public' THEN c.relname::text ELSE pg_catalog.concat(n.nspname, '.', c.relname) END AS shown,
         greatest(pg_catalog.age(c.relfrozenxid), pg_catalog.age(t.relfrozenxid)) AS age,
         pg_catalog.current_setting('autovacuum_freeze_max_age')::bigint AS most
  FROM ROWS FROM (pg_catalog.unnest(%(locked_schemas)s::text[]),
                  pg_catalog.unnest(%(locked_names)s::text[])) AS w (schema, name)
  JOIN pg_catalog.pg_namespace n ON n.nspname = w.schema::name
  JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = w.name::name AND c.relkind IN ('r', 'm')
  LEFT JOIN pg_catalog.pg_class t ON t.oid = c.reltoastrelid) AS o
WHERE o.age > o.most
"""


def _ages(told: Any, here: Here) -> Iterator[Found]:
    for what, age, limit in (
        ("the oldest transaction id", told["age"], told["limit"]),
        ("the oldest multixact", told["multi"], told["multi_limit"]),
    ):
        if age > BEHIND * limit:
            name = told["database"]
            yield found("wraparound-near", name, what=what, database=name, age=f"{age:,}", limit=f"{limit:,}")


def _tables(told: Any, here: Here) -> Iterator[Found]:
    for table, age, limit in told:
        yield found("wraparound-vacuum", table, table=table, age=f"{age:,}", limit=f"{limit:,}")


QUESTIONS = (
    Question("wraparound", ("wraparound-near",), lambda here: _AGES, _ages),
    Question(
        "wraparound of tables",
        ("wraparound-vacuum",),
        lambda here: _TABLES if here.values["locked_names"] else None,
        _tables,
    ),
)
