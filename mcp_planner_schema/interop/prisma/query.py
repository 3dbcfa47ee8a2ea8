"""Reading the catalog: a few queries in one snapshot, under settings that make its texts the same for everybody."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.interop.prisma.catalog import Catalog, Column, Enum, ForeignKey, Index, Left, Part, Table
from mcp_planner_schema.interop.prisma.query_left import LEFT

if TYPE_CHECKING:
    from sqlalchemy import Connection

METHODS = {"btree": "", "hash": "Hash", "gin": "Gin", "gist": "Gist", "spgist": "SpGist", "brin": "Brin"}
"""Prisma's name for each index method that it knows."""

_ACTIONS = {"a": "NoAction", "r": "Restrict", "c": "Cascade", "n": "SetNull", "d": "SetDefault"}
# Names in public are written without it, as db pull does; every other one is qualified, whatever the role's own path is.
_SETTINGS = """
SELECT pg_catalog.set_config(name, value, true)
  FROM (VALUES ('search_path', 'public'), ('datestyle', 'ISO'), ('intervalstyle', 'postgres'), ('bytea_output', 'hex'),
               ('extra_float_digits', '1'), ('timezone', 'UTC'), ('lc_monetary', 'C')) AS settings (name, value)
"""
_OURS = """
WITH RECURSIVE schemas AS (
  SELECT oid, nspname
    FROM pg_catalog.pg_namespace
   WHERE nspname !~ '^pg_' AND nspname NOT IN ('information_schema', %(own)s)
), tables AS (
  -- What belongs to an extension comes with it, and partitions are storage of the table that they are of.
  SELECT relation.oid, schemas.nspname, relation.relname, relation.relkind
    FROM pg_catalog.pg_class AS relation
    JOIN schemas ON schemas.oid = relation.relnamespace
   WHERE relation.relkind IN ('r', 'p') AND NOT relation.relispartition
     AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS held
                      WHERE held.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND held.objid = relation.oid
                        AND held.deptype = 'e')
     AND (schemas.nspname::text, relation.relname::text) NOT IN
         (SELECT tool.schema, tool.name
            FROM ROWS FROM (pg_catalog.unnest(%(schemas)s::text[]), pg_catalog.unnest(%(names)s::text[]))
                 AS tool (schema, name))
)
"""
_TABLES = (
    _OURS
    + """
SELECT oid, nspname, relname, pg_catalog.obj_description(oid, 'pg_class')
  FROM tables
 ORDER BY nspname COLLATE "C", relname COLLATE "C"
"""
)
# A domain is followed to what it is made of. An array of a domain is not: its elements have no type that Prisma knows.
_COLUMNS = (
    _OURS
    + """
, domains AS (
  SELECT oid AS domain, typbasetype AS base, typtypmod AS modifier, typnotnull AS required
    FROM pg_catalog.pg_type
   WHERE typtype = 'd'
   UNION ALL
  SELECT domains.domain, inner_one.typbasetype,
         CASE WHEN domains.modifier = -1 THEN inner_one.typtypmod ELSE domains.modifier END,
         domains.required OR inner_one.typnotnull
    FROM domains
    JOIN pg_catalog.pg_type AS inner_one ON inner_one.oid = domains.base AND inner_one.typtype = 'd'
)
SELECT tables.oid, attribute.attname, element.typname, pg_catalog.format_type(type.oid, attribute.atttypmod),
       type.typtype = 'd', pg_catalog.format_type(base.oid, coalesce(domains.modifier, attribute.atttypmod)),
       element.typnamespace = 'pg_catalog'::pg_catalog.regnamespace, CASE WHEN element.typtype = 'e' THEN element.oid END,
       base.typcategory = 'A' AND base.typelem <> 0, attribute.attnotnull OR coalesce(domains.required, false),
       pg_catalog.pg_get_expr(given.adbin, given.adrelid), attribute.attidentity <> '', attribute.attgenerated <> '',
       pg_catalog.col_description(tables.oid, attribute.attnum)
  FROM tables
  JOIN pg_catalog.pg_attribute AS attribute ON attribute.attrelid = tables.oid
  JOIN pg_catalog.pg_type AS type ON type.oid = attribute.atttypid
  LEFT JOIN domains ON domains.domain = type.oid
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_type AS further WHERE further.oid = domains.base AND further.typtype = 'd')
  JOIN pg_catalog.pg_type AS base ON base.oid = coalesce(domains.base, type.oid)
  JOIN pg_catalog.pg_type AS element
       ON element.oid = CASE WHEN base.typcategory = 'A' AND base.typelem <> 0 THEN base.typelem ELSE base.oid END
  LEFT JOIN pg_catalog.pg_attrdef AS given ON given.adrelid = tables.oid AND given.adnum = attribute.attnum
 WHERE attribute.attnum > 0 AND NOT attribute.attisdropped
 ORDER BY tables.oid, attribute.attnum
"""
)
# Columns behind INCLUDE come after the key's own, and are none of it.
_INDEXES = (
    _OURS
    + """
SELECT tables.oid, entry.relname,
       CASE WHEN index.indisprimary THEN 'primary' WHEN index.indisunique THEN 'unique' ELSE '' END, method.amname,
       pg_catalog.array_agg(attribute.attname::text ORDER BY position.at),
       pg_catalog.array_agg((index.indoption[position.at] & 1) = 1 ORDER BY position.at),
       pg_catalog.array_agg(operators.opcname::text ORDER BY position.at),
       pg_catalog.array_agg(operators.opcdefault ORDER BY position.at)
  FROM tables
  JOIN pg_catalog.pg_index AS index ON index.indrelid = tables.oid
  JOIN pg_catalog.pg_class AS entry ON entry.oid = index.indexrelid
  JOIN pg_catalog.pg_am AS method ON method.oid = entry.relam AND method.amname = ANY (%(methods)s)
 CROSS JOIN LATERAL pg_catalog.generate_series(0, index.indnkeyatts - 1) AS position (at)
  JOIN pg_catalog.pg_attribute AS attribute
       ON attribute.attrelid = tables.oid AND attribute.attnum = index.indkey[position.at]
  JOIN pg_catalog.pg_opclass AS operators ON operators.oid = index.indclass[position.at]
 WHERE index.indpred IS NULL AND index.indexprs IS NULL AND NOT index.indisexclusion
 GROUP BY tables.oid, entry.relname, index.indisprimary, index.indisunique, method.amname
 ORDER BY tables.oid, entry.relname COLLATE "C"
"""
)
# A key to a partitioned table has one of its own to each partition, which have a parent.
_FOREIGN_KEYS = (
    _OURS
    + """
SELECT tables.oid, foreign_key.conname, foreign_key.confrelid, foreign_key.confdeltype, foreign_key.confupdtype,
       pg_catalog.array_agg(own.attname::text ORDER BY position.at),
       pg_catalog.array_agg(referred.attname::text ORDER BY position.at)
  FROM tables
  JOIN pg_catalog.pg_constraint AS foreign_key
       ON foreign_key.conrelid = tables.oid AND foreign_key.contype = 'f' AND foreign_key.conparentid = 0
  JOIN tables AS other ON other.oid = foreign_key.confrelid
 CROSS JOIN LATERAL pg_catalog.generate_subscripts(foreign_key.conkey, 1) AS position (at)
  JOIN pg_catalog.pg_attribute AS own
       ON own.attrelid = tables.oid AND own.attnum = foreign_key.conkey[position.at]
  JOIN pg_catalog.pg_attribute AS referred
       ON referred.attrelid = foreign_key.confrelid AND referred.attnum = foreign_key.confkey[position.at]
 GROUP BY tables.oid, foreign_key.oid, foreign_key.conname, foreign_key.confrelid, foreign_key.confdeltype,
          foreign_key.confupdtype
 ORDER BY tables.oid, foreign_key.conname COLLATE "C", foreign_key.oid
"""
)
_ENUMS = (
    _OURS
    + """
SELECT type.oid, schemas.nspname, type.typname, pg_catalog.obj_description(type.oid, 'pg_type'),
       pg_catalog.array_agg(label.enumlabel::text ORDER BY label.enumsortorder)
  FROM schemas
  JOIN pg_catalog.pg_type AS type ON type.typnamespace = schemas.oid
  JOIN pg_catalog.pg_enum AS label ON label.enumtypid = type.oid
 WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS held
                    WHERE held.classid = 'pg_catalog.pg_type'::pg_catalog.regclass AND held.objid = type.oid
                      AND held.deptype = 'e')
 GROUP BY type.oid, schemas.nspname, type.typname
 ORDER BY schemas.nspname COLLATE "C", type.typname COLLATE "C"
"""
)


def read(connection: Connection, own: str, without: list[tuple[str, str]]) -> Catalog:
    """The catalog without the schema ``own`` and without the tables of that schema and name."""
    given = {
        "own": own,
        "schemas": [schema for schema, _ in without],
        "names": [name for _, name in without],
        "methods": list(METHODS),
    }

    def ask(sql: str) -> list[Any]:
        return list(connection.exec_driver_sql(sql, given).all())

    ask(_SETTINGS)
    columns, indexes, keys = defaultdict(list), defaultdict(list), defaultdict(list)
    for table, *found in ask(_COLUMNS):
        columns[table].append(_column(*found))
    for table, name, key, method, *parts in ask(_INDEXES):
        indexes[table].append(Index(name, key, method, tuple(Part(*one) for one in zip(*parts, strict=True))))
    for table, name, other, delete, update, own_columns, referred in ask(_FOREIGN_KEYS):
        actions = _ACTIONS[delete], _ACTIONS[update]
        keys[table].append(ForeignKey(name, tuple(own_columns), other, tuple(referred), *actions))
    tables = tuple(
        Table(oid, schema, name, comment, tuple(columns[oid]), tuple(indexes[oid]), tuple(keys[oid]))
        for oid, schema, name, comment in ask(_TABLES)
    )
    enums = tuple(Enum(oid, schema, name, comment, tuple(values)) for oid, schema, name, comment, values in ask(_ENUMS))
    return Catalog(tables, enums, tuple(Left(*found) for found in ask(_OURS + LEFT)))


def _column(name: str, element: str, written: str, domain: bool, formatted: str, builtin: bool, *rest: Any) -> Column:
    size = re.search(r"\((-?\d+)(?:,(-?\d+))?\)", formatted) if builtin else None
    numbers = tuple(int(one) for one in size.groups() if one is not None) if size else ()
    return Column(name, element, written, domain, numbers, builtin, *rest)
