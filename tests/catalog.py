"""What a schema holds, as rows to compare: two databases are the same when the difference of their sets is empty.

Read from the catalogs, never from information_schema, which hides what the role may not use. Partitions are data and not
listed; tables of the guard (schemas whose name begins with ``migration``) and Alembic's version table are not schema.
"""

from __future__ import annotations

from tests.conftest import Database

_QUERY = """
WITH ns AS (
    SELECT oid, nspname FROM pg_namespace
    WHERE nspname !~ '^(pg_|migration)' AND nspname <> 'information_schema'
), rel AS (
    SELECT c.*, format('%s.%s', n.nspname, c.relname) AS shown FROM pg_class c JOIN ns n ON n.oid = c.relnamespace
    WHERE NOT c.relispartition AND c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f', 'i', 'I')
      AND c.relname NOT IN ('alembic_version', 'alembic_version_pkc')
)
SELECT 'schema', nspname, '' FROM ns
UNION ALL
SELECT 'relation', shown, concat_ws(' ', relkind, relpersistence, relrowsecurity, relforcerowsecurity, relreplident,
       reloptions, pg_get_partkeydef(CASE relkind WHEN 'p' THEN oid END),
       pg_get_viewdef(CASE WHEN relkind IN ('v', 'm') THEN oid END))
FROM rel
UNION ALL
SELECT 'column', rel.shown || '.' || a.attname, concat_ws(' ',
       row_number() OVER (PARTITION BY a.attrelid ORDER BY a.attnum), format_type(a.atttypid, a.atttypmod),
       CASE WHEN a.attnotnull THEN 'not null' END, nullif(a.attidentity::text, ''), nullif(a.attgenerated::text, ''),
       pg_get_expr(d.adbin, d.adrelid), nullif(a.attcollation, t.typcollation)::regcollation,
       a.attstorage, nullif(a.attcompression::text, ''))
FROM rel JOIN pg_attribute a ON a.attrelid = rel.oid AND a.attnum > 0 AND NOT a.attisdropped
JOIN pg_type t ON t.oid = a.atttypid
LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE rel.relkind IN ('r', 'p', 'v', 'm', 'f')
UNION ALL
SELECT 'constraint', rel.shown || '.' || k.conname, concat_ws(' ', pg_get_constraintdef(k.oid), k.convalidated, k.condeferrable)
FROM rel JOIN pg_constraint k ON k.conrelid = rel.oid WHERE k.conparentid = 0
UNION ALL
SELECT 'index', rel.shown, concat_ws(' ', pg_get_indexdef(rel.oid),
       CASE WHEN NOT (i.indisvalid AND i.indisready) THEN 'INVALID' END,
       nullif(i.indisreplident, false), nullif(i.indisclustered, false))
FROM rel JOIN pg_index i ON i.indexrelid = rel.oid
UNION ALL
SELECT 'trigger', rel.shown || '.' || g.tgname, concat_ws(' ', pg_get_triggerdef(g.oid), g.tgenabled)
FROM rel JOIN pg_trigger g ON g.tgrelid = rel.oid WHERE NOT g.tgisinternal AND g.tgparentid = 0
UNION ALL
SELECT 'policy', rel.shown || '.' || p.polname, concat_ws(' ', p.polcmd, pg_get_expr(p.polqual, p.polrelid))
FROM rel JOIN pg_policy p ON p.polrelid = rel.oid
UNION ALL
SELECT 'sequence', rel.shown, concat_ws(' ', format_type(s.seqtypid, NULL),
       s.seqstart, s.seqincrement, s.seqmin, s.seqmax, s.seqcycle)
FROM rel JOIN pg_sequence s ON s.seqrelid = rel.oid
UNION ALL
SELECT 'type', n.nspname || '.' || t.typname, concat_ws(' ', t.typtype, format_type(nullif(t.typbasetype, 0), t.typtypmod),
       (SELECT string_agg(quote_literal(e.enumlabel), ', ' ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = t.oid))
FROM pg_type t JOIN ns n ON n.oid = t.typnamespace WHERE t.typtype IN ('e', 'd', 'r')
UNION ALL
SELECT 'function', p.oid::regprocedure::text, pg_get_functiondef(p.oid)
FROM pg_proc p JOIN ns n ON n.oid = p.pronamespace WHERE p.prokind <> 'a'
UNION ALL
SELECT 'comment', o.type || ' ' || o.identity, d.description
FROM pg_description d CROSS JOIN LATERAL pg_identify_object(d.classoid, d.objoid, d.objsubid) o
WHERE d.objoid >= 16384 AND d.classoid <> 'pg_extension'::regclass AND o.identity !~ '^"?migration'
  AND NOT EXISTS (SELECT FROM pg_class c WHERE d.classoid = 'pg_class'::regclass AND c.oid = d.objoid AND c.relispartition)
UNION ALL
SELECT 'privilege', rel.shown, rel.relacl::text FROM rel WHERE rel.relacl IS NOT NULL
"""

# Sequences and definitions have no rows; the newest stash of an object comes last.
_KEPT = """
SELECT CASE o.object_schema WHEN 'public' THEN '' ELSE o.object_schema || '.' END || o.object_name,
       quote_ident(s.kept_in) || '.' || quote_ident(o.relation)
FROM migration.stash s JOIN migration.stash_object o ON o.stash_id = s.id
WHERE o.relation IS NOT NULL ORDER BY o.stash_id, o.number
"""

Row = tuple[str, str, str]


def catalog(database: Database) -> set[Row]:
    """Every object of the schema as (kind, name, definition)."""
    return {(kind, name, definition) for kind, name, definition in database.rows(_QUERY)}


def difference(left: set[Row], right: set[Row]) -> list[str]:
    """What only one of the two has, in lines for people: empty means that they are the same."""
    gone = [f"- {kind} {name}: {definition}" for kind, name, definition in left - right]
    come = [f"+ {kind} {name}: {definition}" for kind, name, definition in right - left]
    return sorted(gone + come, key=lambda line: line[2:])


def kept(database: Database) -> dict[str, str]:
    """Where the copy of each table that a downgrade has kept is, quoted; by the table's name, in the order of the manifest."""
    return dict(database.rows(_KEPT))
