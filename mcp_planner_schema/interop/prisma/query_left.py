"""The query for what Prisma cannot express. Its first column is the table that it belongs to, or null."""

_MEMBER = """
    AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS held
                     WHERE held.classid = '{catalog}'::pg_catalog.regclass AND held.objid = {oid} AND held.deptype = 'e')"""


def _owned(catalog: str, oid: str) -> str:
    """The condition that an object belongs to no extension."""
    return _MEMBER.format(catalog=f"pg_catalog.{catalog}", oid=oid)


_PARTS = {
    "partitioned": """
SELECT oid, 'partitioning', relname::text, 'PARTITION BY ' || pg_catalog.pg_get_partkeydef(oid)
  FROM tables WHERE relkind = 'p'""",
    "inherited": """
SELECT tables.oid, 'inheritance', tables.relname::text, 'INHERITS (' || parent.inhparent::pg_catalog.regclass || ')'
  FROM tables JOIN pg_catalog.pg_inherits AS parent ON parent.inhrelid = tables.oid""",
    "checks": """
SELECT tables.oid, CASE rule.contype WHEN 'c' THEN 'check constraint' ELSE 'exclusion constraint' END, rule.conname::text,
       pg_catalog.pg_get_constraintdef(rule.oid, true)
  FROM tables JOIN pg_catalog.pg_constraint AS rule ON rule.conrelid = tables.oid AND rule.contype IN ('c', 'x')""",
    # What a key says beyond its columns and actions: when it is checked, whether of all rows, and what is set to null.
    "keys": """
SELECT tables.oid, 'constraint, in part', rule.conname::text, pg_catalog.pg_get_constraintdef(rule.oid, true)
  FROM tables JOIN pg_catalog.pg_constraint AS rule
       ON rule.conrelid = tables.oid AND rule.contype IN ('p', 'u', 'f') AND rule.conparentid = 0
 WHERE rule.condeferrable OR NOT rule.convalidated OR rule.confmatchtype = 'f'
    OR pg_catalog.to_jsonb(rule) ->> 'confdelsetcols' IS NOT NULL OR pg_catalog.to_jsonb(rule) ->> 'conperiod' = 'true'
    OR (rule.contype = 'f' AND NOT EXISTS (SELECT FROM tables AS other WHERE other.oid = rule.confrelid))""",
    "indexes": """
SELECT tables.oid,
       CASE WHEN index.indpred IS NOT NULL THEN 'partial index' WHEN index.indexprs IS NOT NULL THEN 'expression index'
            WHEN method.amname <> ALL (%(methods)s) THEN 'index' ELSE 'index, in part' END,
       entry.relname::text, pg_catalog.pg_get_indexdef(entry.oid, 0, true)
  FROM tables
  JOIN pg_catalog.pg_index AS index ON index.indrelid = tables.oid AND NOT index.indisexclusion
  JOIN pg_catalog.pg_class AS entry ON entry.oid = index.indexrelid
  JOIN pg_catalog.pg_am AS method ON method.oid = entry.relam
 WHERE index.indpred IS NOT NULL OR index.indexprs IS NOT NULL OR method.amname <> ALL (%(methods)s)
    OR index.indnatts > index.indnkeyatts OR entry.reloptions IS NOT NULL OR NOT index.indisvalid
    OR pg_catalog.to_jsonb(index) ->> 'indnullsnotdistinct' = 'true'
    OR EXISTS (SELECT FROM pg_catalog.generate_series(0, index.indnkeyatts - 1) AS position (at)
                 JOIN pg_catalog.pg_opclass AS operators ON operators.oid = index.indclass[position.at]
                 LEFT JOIN pg_catalog.pg_attribute AS attribute
                   ON attribute.attrelid = tables.oid AND attribute.attnum = index.indkey[position.at]
                WHERE index.indoption[position.at] IN (1, 2) -- DESC NULLS LAST, ASC NULLS FIRST
                   OR (NOT operators.opcdefault AND method.amname IN ('btree', 'hash'))
                   OR index.indcollation[position.at] <> ALL (ARRAY[0, coalesce(attribute.attcollation, 0)]::oid[]))""",
    "triggers": """
SELECT tables.oid, 'trigger', rule.tgname::text, pg_catalog.pg_get_triggerdef(rule.oid, true)
  FROM tables JOIN pg_catalog.pg_trigger AS rule ON rule.tgrelid = tables.oid AND NOT rule.tgisinternal""",
    "rules": """
SELECT tables.oid, 'rule', rule.rulename::text, pg_catalog.pg_get_ruledef(rule.oid, true)
  FROM tables JOIN pg_catalog.pg_rewrite AS rule ON rule.ev_class = tables.oid""",
    "policies": """
SELECT tables.oid, 'policy', rule.polname::text, pg_catalog.concat_ws(' ',
           CASE WHEN NOT rule.polpermissive THEN 'AS RESTRICTIVE' END, 'FOR '
           || CASE rule.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE' WHEN 'd' THEN 'DELETE'
                               ELSE 'ALL' END,
           'TO ' || pg_catalog.array_to_string(ARRAY(
               SELECT CASE one WHEN 0 THEN 'PUBLIC' ELSE one::pg_catalog.regrole::text END
                 FROM pg_catalog.unnest(rule.polroles) AS one ORDER BY 1), ', '),
           'USING (' || pg_catalog.pg_get_expr(rule.polqual, rule.polrelid, true) || ')',
           'WITH CHECK (' || pg_catalog.pg_get_expr(rule.polwithcheck, rule.polrelid, true) || ')')
  FROM tables JOIN pg_catalog.pg_policy AS rule ON rule.polrelid = tables.oid""",
    "secured": """
SELECT tables.oid, 'row level security', tables.relname::text,
       CASE WHEN relation.relforcerowsecurity THEN 'FORCE' ELSE 'ENABLE' END || ' ROW LEVEL SECURITY'
  FROM tables JOIN pg_catalog.pg_class AS relation ON relation.oid = tables.oid AND relation.relrowsecurity""",
    "stored": """
SELECT tables.oid, 'storage', tables.relname::text,
       pg_catalog.concat_ws(' ', CASE relation.relpersistence WHEN 'u' THEN 'UNLOGGED' END,
                            'WITH (' || pg_catalog.array_to_string(relation.reloptions, ', ') || ')')
  FROM tables JOIN pg_catalog.pg_class AS relation ON relation.oid = tables.oid
 WHERE relation.relpersistence = 'u' OR relation.reloptions IS NOT NULL""",
    "granted": """
SELECT tables.oid, 'privileges', tables.relname::text, 'GRANT '
           || pg_catalog.string_agg(one.privilege_type, ', ' ORDER BY one.privilege_type) || ' TO '
           || CASE one.grantee WHEN 0 THEN 'PUBLIC' ELSE one.grantee::pg_catalog.regrole::text END
           || CASE WHEN one.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END
  FROM tables JOIN pg_catalog.pg_class AS relation ON relation.oid = tables.oid
 CROSS JOIN LATERAL pg_catalog.aclexplode(relation.relacl) AS one
 WHERE one.grantee <> relation.relowner
 GROUP BY tables.oid, tables.relname, one.grantee, one.is_grantable""",
    "columns": """
SELECT tables.oid, said.kind, attribute.attname::text, said.told
  FROM tables
  JOIN pg_catalog.pg_attribute AS attribute
       ON attribute.attrelid = tables.oid AND attribute.attnum > 0 AND NOT attribute.attisdropped
  JOIN pg_catalog.pg_type AS type ON type.oid = attribute.atttypid
  LEFT JOIN pg_catalog.pg_attrdef AS given ON given.adrelid = tables.oid AND given.adnum = attribute.attnum
 CROSS JOIN LATERAL (VALUES
       ('generated column', CASE WHEN attribute.attgenerated <> '' THEN
            'GENERATED ALWAYS AS (' || pg_catalog.pg_get_expr(given.adbin, given.adrelid, true) || ') '
                || CASE attribute.attgenerated WHEN 's' THEN 'STORED' ELSE 'VIRTUAL' END END),
       ('identity', CASE attribute.attidentity WHEN 'a' THEN 'GENERATED ALWAYS AS IDENTITY'
                                               WHEN 'd' THEN 'GENERATED BY DEFAULT AS IDENTITY' END),
       ('list that is never null', CASE WHEN type.typcategory = 'A' AND attribute.attnotnull THEN 'NOT NULL' END),
       ('collation', CASE WHEN attribute.attcollation NOT IN (0, type.typcollation) THEN
            (SELECT 'COLLATE ' || pg_catalog.quote_ident(one.collname) FROM pg_catalog.pg_collation AS one
              WHERE one.oid = attribute.attcollation) END),
       ('privileges', (
            SELECT 'GRANT ' || pg_catalog.string_agg(one.privilege_type || ' TO '
                       || CASE one.grantee WHEN 0 THEN 'PUBLIC' ELSE one.grantee::pg_catalog.regrole::text END, ', '
                       ORDER BY one.privilege_type, one.grantee::pg_catalog.regrole::text)
              FROM pg_catalog.aclexplode(attribute.attacl) AS one))
       ) AS said (kind, told)
 WHERE said.told <> ''""",
    "statistics": """
SELECT tables.oid, 'extended statistics', one.stxname::text, pg_catalog.pg_get_statisticsobjdef(one.oid)
  FROM tables JOIN pg_catalog.pg_statistic_ext AS one ON one.stxrelid = tables.oid""",
    "relations": f"""
SELECT NULL::oid, CASE relation.relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' WHEN 'f' THEN 'foreign table'
                                        ELSE 'sequence of its own' END,
       relation.oid::pg_catalog.regclass::text, ''
  FROM schemas JOIN pg_catalog.pg_class AS relation
       ON relation.relnamespace = schemas.oid AND relation.relkind IN ('v', 'm', 'f', 'S') AND NOT relation.relispartition
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS held
                    WHERE held.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND held.objid = relation.oid
                      AND held.refobjsubid > 0 AND held.deptype IN ('a', 'i')){_owned("pg_class", "relation.oid")}""",
    "functions": f"""
SELECT NULL::oid, CASE function.prokind WHEN 'p' THEN 'procedure' WHEN 'a' THEN 'aggregate' ELSE 'function' END,
       function.oid::pg_catalog.regprocedure::text, ''
  FROM schemas JOIN pg_catalog.pg_proc AS function
       ON function.pronamespace = schemas.oid{_owned("pg_proc", "function.oid")}""",
    # The row type of a table is none of its own, and a multirange comes with its range.
    "types": f"""
SELECT NULL::oid, CASE type.typtype WHEN 'd' THEN 'domain' WHEN 'c' THEN 'composite type' WHEN 'r' THEN 'range type'
                                    ELSE 'base type' END, type.oid::pg_catalog.regtype::text, ''
  FROM schemas JOIN pg_catalog.pg_type AS type
       ON type.typnamespace = schemas.oid AND type.typtype IN ('d', 'c', 'r', 'b') AND type.typcategory <> 'A'
  LEFT JOIN pg_catalog.pg_class AS relation ON relation.oid = type.typrelid
 WHERE coalesce(relation.relkind, 'c') = 'c'{_owned("pg_type", "type.oid")}""",
    "extensions": """
SELECT NULL::oid, 'extension', extname::text, '' FROM pg_catalog.pg_extension WHERE extname <> 'plpgsql'""",
    "events": """
SELECT NULL::oid, 'event trigger', evtname::text, ''
  FROM pg_catalog.pg_event_trigger
 WHERE evtfoid IN (SELECT oid FROM pg_catalog.pg_proc WHERE pronamespace IN (SELECT oid FROM schemas))""",
}

LEFT = (
    "SELECT * FROM ("
    + "\nUNION ALL".join(_PARTS.values())
    + '\n) AS remaining (place, kind, name, told)\nORDER BY kind COLLATE "C", name COLLATE "C", told COLLATE "C", place'
)
"""To be put behind what says which schemas and tables there are."""
