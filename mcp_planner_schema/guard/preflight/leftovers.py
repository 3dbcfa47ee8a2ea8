"""What interrupted or unfinished work has left: INVALID indexes and NOT VALID constraints that no pending revision is about."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mcp_planner_schema.guard.preflight.asked import Found, Here, Question, found

# One that is being built just now is nobody's leftover.
_INVALID = """
SELECT pg_catalog.json_agg(pg_catalog.json_build_array(c.relname, pg_catalog.quote_ident(n.nspname) || '.' ||
    pg_catalog.quote_ident(c.relname), i.indrelid::regclass::text) ORDER BY n.nspname, c.relname)
FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE NOT (i.indisvalid AND i.indisready) AND left(n.nspname, 3) <> 'pg_' AND n.nspname !~ %(own)s
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_stat_progress_create_index p WHERE p.index_relid = c.oid)
"""
_NOT_VALID = """
SELECT pg_catalog.json_agg(pg_catalog.json_build_array(k.conname, pg_catalog.quote_ident(k.conname), k.conrelid::regclass::text)
                           ORDER BY k.conrelid::regclass::text, k.conname)
FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_namespace n ON n.oid = k.connamespace
WHERE NOT k.convalidated AND k.conrelid <> 0 AND k.conparentid = 0 AND left(n.nspname, 3) <> 'pg_' AND n.nspname !~ %(own)s
  {enforced}
"""


def _invalid(told: Any, here: Here) -> Iterator[Found]:
    for name, shown, table in told:
        if not any(step.names(name) for step in here.steps):
            yield found("index-invalid", _plain(table), name=_plain(shown), table=_plain(table))


def _not_valid(told: Any, here: Here) -> Iterator[Found]:
    for name, shown, table in told:
        if not any(step.names(name) for step in here.steps):
            yield found("constraint-not-valid", _plain(table), name=shown, table=_plain(table))


def _plain(name: str) -> str:
    return name.removeprefix("public.")


QUESTIONS = (
    Question(
        "INVALID indexes", ("index-invalid",), lambda here: _INVALID, _invalid,
        "EXISTS (SELECT FROM pg_catalog.pg_index i WHERE NOT (i.indisvalid AND i.indisready))",
    ),
    Question(
        "NOT VALID constraints", ("constraint-not-valid",),
        # Since 18 a constraint may be NOT ENFORCED, which is NOT VALID for good.
        lambda here: _NOT_VALID.format(enforced="AND k.conenforced" if here.major >= 18 else ""), _not_valid,
        "EXISTS (SELECT FROM pg_catalog.pg_constraint k WHERE NOT k.convalidated)",
    ),
)  # fmt: skip
