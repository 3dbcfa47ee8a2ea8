"""Keys that come to their end: sequences and identity columns by what they have used, and references that are too narrow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mcp_planner_schema.guard.preflight.asked import Found, Here, Question, found

NEAR = 0.8
"""The share of a key's values from which on it is told: at a steady rate a fifth of the time so far is left."""

# What a column holds may be less than what its sequence gives: serial columns had sequences of bigint. pg_depend knows the
# column of an identity (internal) and of OWNED BY (auto). last_value needs a right on the sequence, as in pg_sequences.
_KEYS = """
SELECT pg_catalog.json_agg(pg_catalog.json_build_array(k.schema, k.tab, k.col, k.seq, k.last, k.most) ORDER BY 1, 2, 3, 4)
FROM (
  SELECT coalesce(tn.nspname, sn.nspname) AS schema, t.relname AS tab, a.attname AS col, c.relname AS seq,
         CASE WHEN pg_catalog.has_sequence_privilege(c.oid, 'SELECT, USAGE')
              THEN pg_catalog.pg_sequence_last_value(c.oid) END AS last,
         least(s.seqmax, CASE a.atttypid WHEN 'smallint'::regtype THEN 32767 WHEN 'integer'::regtype THEN 2147483647 END) AS most
  FROM pg_catalog.pg_sequence s
  JOIN pg_catalog.pg_class c ON c.oid = s.seqrelid
  JOIN pg_catalog.pg_namespace sn ON sn.oid = c.relnamespace
  LEFT JOIN pg_catalog.pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.objsubid = 0
    AND d.refclassid = 'pg_class'::regclass AND d.refobjsubid > 0 AND d.deptype IN ('a', 'i')
  LEFT JOIN pg_catalog.pg_class t ON t.oid = d.refobjid
  LEFT JOIN pg_catalog.pg_namespace tn ON tn.oid = t.relnamespace
  LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
  WHERE s.seqincrement > 0 AND NOT s.seqcycle AND c.relpersistence <> 't' AND sn.nspname !~ %(own)s) AS k
WHERE k.last >= {near} * k.most
"""
_NARROW = """
SELECT pg_catalog.json_agg(pg_catalog.json_build_array(
    k.conrelid::regclass::text, a.attname, pg_catalog.format_type(a.atttypid, NULL),
    k.confrelid::regclass::text, f.attname, pg_catalog.format_type(f.atttypid, NULL)) ORDER BY 1, 2)
FROM pg_catalog.pg_constraint k
CROSS JOIN LATERAL ROWS FROM (pg_catalog.unnest(k.conkey), pg_catalog.unnest(k.confkey)) AS c (own, far)
JOIN pg_catalog.pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = c.own
JOIN pg_catalog.pg_attribute f ON f.attrelid = k.confrelid AND f.attnum = c.far
WHERE k.contype = 'f' AND k.conparentid = 0 AND a.attlen < f.attlen
  AND a.atttypid IN ('smallint'::regtype, 'integer'::regtype) AND f.atttypid IN ('integer'::regtype, 'bigint'::regtype)
"""


def _keys(told: Any, here: Here) -> Iterator[Found]:
    for schema, table, column, sequence, last, most in told:
        name = sequence if table is None else f"{table}.{column}"
        where = name if schema == "public" else f"{schema}.{name}"
        if not _changed(here, schema, table, column):
            share = f"{min(last / most, 1):.0%}"
            yield found("key-near-end", where, name=where, share=share, limit=f"{most:,}")


def _changed(here: Here, schema: str, table: str | None, column: str | None) -> bool:
    """Whether a pending revision gives the column another type, or drops it: that is the cure."""
    from mcp_planner_schema.guard.preflight.pending import parts

    return any(
        line.kind == "column" and parts(line.identity) == [schema, table, column]
        for step in here.steps
        for line in step.gone
    )


def _narrow(told: Any, here: Here) -> Iterator[Found]:
    for table, column, kind, far, of, wider in told:
        shown = f"{table.removeprefix('public.')}.{column}"
        target = f"{far.removeprefix('public.')}.{of}"
        yield found("foreign-key-narrow", shown, column=shown, type=kind, target=target, wider=wider)


# A key of two bytes is the first to come to its end.
_ANY_KEY = """
EXISTS (SELECT FROM pg_catalog.pg_sequence s WHERE s.seqincrement > 0 AND NOT s.seqcycle
        AND CASE WHEN pg_catalog.has_sequence_privilege(s.seqrelid, 'SELECT, USAGE')
                 THEN pg_catalog.pg_sequence_last_value(s.seqrelid) END >= {near} * least(s.seqmax, 32767))
"""
# Of a foreign key, conpfeqop compares what it refers to (left) with its own (right).
_ANY_NARROW = """
EXISTS (SELECT FROM pg_catalog.pg_constraint k WHERE k.contype = 'f' AND k.conpfeqop && ARRAY[
        'pg_catalog.=(bigint,integer)'::regoperator, 'pg_catalog.=(bigint,smallint)'::regoperator,
        'pg_catalog.=(integer,smallint)'::regoperator]::oid[])
"""
QUESTIONS = (
    Question(
        "keys near their end",
        ("key-near-end",),
        lambda here: _KEYS.format(near=NEAR),
        _keys,
        _ANY_KEY.format(near=NEAR),
    ),
    Question("narrow foreign keys", ("foreign-key-narrow",), lambda here: _NARROW, _narrow, _ANY_NARROW),
)
