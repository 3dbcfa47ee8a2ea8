"""The one question to the catalog whose answer is the same on every PostgreSQL from 14 on.

What differs between majors is not asked for: names of NOT NULL constraints (18 has them), rows that PostgreSQL makes for a
partition, the MAINTAIN right (17), versions of extensions, who owns what, the rights on the schema public. What differs
between two ways to the same schema is not printed: numbers of columns, OIDs. Every "char" is cast to text, which 15 wants.

Not asked for either: tablespaces, security labels, languages, conversions, transforms, user mappings, statistics targets of an
index's columns.
"""

from __future__ import annotations

import re

from mcp_planner_schema.guard.fingerprint import other_tools

# Kinds and texts are stored in alembic/catalog: whatever changes one of them is another algorithm, see digest.VERSION. To be
# asked under live.PREAMBLE only. {x.oid} stands for "and one of those asked for", {ours class x} for that and "no part of an
# extension, nor made by PostgreSQL for another object".
# In "at" is the object that a line belongs to, as guard/touched.py counts it.
_LINES = """
WITH {asked}ns AS MATERIALIZED (
    SELECT n.oid, n.nspname, n.nspowner, n.nspacl, quote_ident(n.nspname) AS qn FROM pg_namespace n
    WHERE left(n.nspname, 3) <> 'pg_' AND n.nspname <> 'information_schema' AND n.nspname !~ %(own)s
      AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_namespace'::regclass AND d.objid = n.oid AND d.deptype = 'e')
), away AS MATERIALIZED (
    SELECT c.oid FROM pg_class c JOIN ns ON ns.oid = c.relnamespace
    WHERE c.relname = ANY (%(named)s::name[])
      AND (c.relname = ANY (%(without)s::text[]) OR ns.nspname || '.' || c.relname = ANY (%(without)s::text[])
           OR {other_tool})
), rel AS MATERIALIZED (
    SELECT c.*, ns.qn || '.' || quote_ident(c.relname) AS qn,
           CASE c.relkind WHEN 'S' THEN 'sequence' WHEN 'v' THEN 'view' WHEN 'm' THEN 'view' ELSE 'table' END AS word
    FROM pg_class c JOIN ns ON ns.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'c', 'f', 'i', 'I') AND c.oid NOT IN (TABLE away)
      AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indexrelid = c.oid AND (i.indrelid IN (TABLE away) OR EXISTS (
          SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = i.indrelid AND d.deptype = 'e')))
      AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND (d.deptype = 'e'
          OR c.relkind = 'S' AND d.refclassid = 'pg_class'::regclass AND d.refobjid IN (TABLE away)))
      {c.oid}
), typ AS MATERIALIZED (
    SELECT t.*, ns.qn || '.' || quote_ident(t.typname) AS qn FROM pg_type t JOIN ns ON ns.oid = t.typnamespace
    WHERE t.typtype IN ('e', 'd', 'r')
      AND {ours pg_type t}
), fn AS MATERIALIZED (
    SELECT p.* FROM pg_proc p JOIN ns ON ns.oid = p.pronamespace
    WHERE {ours pg_proc p}
), serial AS MATERIALIZED (
    SELECT d.objid, d.refobjid, d.refobjsubid FROM pg_depend d JOIN rel s ON s.oid = d.objid AND s.relkind = 'S'
    WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
      AND d.refobjsubid > 0
), local (oid, at, qn, conname) AS MATERIALIZED (
    SELECT k.oid, r.oid, r.qn, k.conname FROM rel r JOIN pg_constraint k ON k.conrelid = r.oid
    WHERE k.contype IN ('c', 'p', 'u', 'f', 'x') AND k.conparentid = 0 AND k.conislocal
    UNION ALL
    SELECT k.oid, t.oid, t.qn, k.conname FROM typ t JOIN pg_constraint k ON k.contypid = t.oid WHERE k.contype = 'c'
), foreign_server AS MATERIALIZED (
    SELECT s.* FROM pg_foreign_server s
    WHERE {ours pg_foreign_server s}
), thing (class, oid, at) AS (
    SELECT 'pg_class'::regclass, oid, oid FROM rel
    UNION ALL SELECT 'pg_namespace'::regclass, ns.oid, ns.oid FROM ns WHERE true {ns.oid}
    UNION ALL SELECT 'pg_type'::regclass, oid, oid FROM typ
    UNION ALL SELECT 'pg_type'::regclass, reltype, oid FROM rel WHERE relkind = 'c'
    UNION ALL SELECT 'pg_proc'::regclass, oid, oid FROM fn UNION ALL SELECT 'pg_constraint'::regclass, oid, at FROM local
    UNION ALL SELECT 'pg_trigger'::regclass, g.oid, rel.oid FROM rel JOIN pg_trigger g ON g.tgrelid = rel.oid
              WHERE NOT g.tgisinternal AND g.tgparentid = 0
    UNION ALL SELECT 'pg_policy'::regclass, p.oid, rel.oid FROM rel JOIN pg_policy p ON p.polrelid = rel.oid
    UNION ALL SELECT 'pg_rewrite'::regclass, w.oid, rel.oid FROM rel JOIN pg_rewrite w ON w.ev_class = rel.oid
    UNION ALL SELECT 'pg_statistic_ext'::regclass, s.oid, rel.oid FROM rel JOIN pg_statistic_ext s ON s.stxrelid = rel.oid
    UNION ALL SELECT 'pg_event_trigger'::regclass, e.oid, e.oid FROM pg_event_trigger e WHERE true {e.oid}
    UNION ALL SELECT 'pg_publication'::regclass, b.oid, b.oid FROM pg_publication b WHERE true {b.oid}
    UNION ALL SELECT 'pg_foreign_server'::regclass, s.oid, s.oid FROM foreign_server s
    UNION ALL SELECT 'pg_collation'::regclass, l.oid, l.oid FROM pg_collation l JOIN ns ON ns.oid = l.collnamespace {l.oid}
), given (at, name, usual, owner, acl) AS (
    SELECT r.oid, r.word || ' ' || r.qn, NULL, r.relowner, r.relacl FROM rel r WHERE r.relacl IS NOT NULL
    UNION ALL SELECT r.oid, 'column ' || r.qn || '.' || quote_ident(a.attname), NULL, r.relowner, a.attacl
    FROM rel r JOIN pg_attribute a ON a.attrelid = r.oid AND a.attacl IS NOT NULL AND NOT a.attisdropped
    UNION ALL SELECT f.oid, 'function ' || f.oid::regprocedure, 'public:EXECUTE', f.proowner, f.proacl
    FROM fn f WHERE f.proacl IS NOT NULL
    UNION ALL SELECT t.oid, 'type ' || t.qn, 'public:USAGE', t.typowner, t.typacl FROM typ t WHERE t.typacl IS NOT NULL
    UNION ALL SELECT ns.oid, 'schema ' || ns.qn, NULL, ns.nspowner, ns.nspacl
    FROM ns WHERE ns.nspacl IS NOT NULL AND ns.nspname <> 'public' {ns.oid}
    UNION ALL SELECT s.oid, 'server ' || quote_ident(s.srvname), NULL, s.srvowner, s.srvacl
    FROM foreign_server s WHERE s.srvacl IS NOT NULL
    UNION ALL SELECT d.oid, concat_ws(' ', 'default', CASE d.defaclobjtype WHEN 'r' THEN 'tables' WHEN 'S' THEN 'sequences'
                         WHEN 'f' THEN 'functions' WHEN 'T' THEN 'types' WHEN 'n' THEN 'schemas' ELSE d.defaclobjtype::text END,
                         'of', CASE WHEN d.defaclrole = (SELECT b.datdba FROM pg_database b WHERE b.datname = current_database())
                         THEN 'the owner' ELSE quote_ident(pg_get_userbyid(d.defaclrole)) END,
                     'in ' || ns.qn), '-', d.defaclrole, d.defaclacl
    FROM pg_default_acl d LEFT JOIN ns ON ns.oid = d.defaclnamespace
    WHERE (ns.oid IS NOT NULL OR d.defaclnamespace = 0) {d.oid}
)
SELECT ns.oid, 'schema', ns.qn, '' FROM ns WHERE ns.nspname <> 'public' {ns.oid}
UNION ALL
SELECT x.oid, 'extension', quote_ident(x.extname), 'in ' || quote_ident(n.nspname)
FROM pg_extension x JOIN pg_namespace n ON n.oid = x.extnamespace WHERE x.extname <> 'plpgsql' {x.oid}
UNION ALL
SELECT r.oid, 'table', r.qn, concat_ws(' ', CASE r.relpersistence WHEN 'u' THEN 'unlogged' END,
       CASE r.relkind WHEN 'p' THEN 'partitioned' WHEN 'f' THEN 'foreign' ELSE 'ordinary' END,
       'by ' || pg_get_partkeydef(CASE r.relkind WHEN 'p' THEN r.oid END),
       (SELECT CASE WHEN r.relispartition THEN 'partition of ' ELSE 'inherits ' END
               || string_agg(i.inhparent::regclass::text, ', ' ORDER BY i.inhseqno) FROM pg_inherits i WHERE i.inhrelid = r.oid),
       CASE WHEN r.relispartition THEN pg_get_expr(r.relpartbound, r.oid) END,
       'of type ' || format_type(nullif(r.reloftype, 0), NULL),
       CASE WHEN m.amname <> 'heap' THEN 'using ' || quote_ident(m.amname) END,
       CASE WHEN r.reloptions IS NOT NULL THEN
           (SELECT 'with (' || string_agg(o, ', ' ORDER BY o COLLATE "C") || ')' FROM unnest(r.reloptions) o) END,
       (SELECT 'toast (' || (SELECT string_agg(o, ', ' ORDER BY o COLLATE "C") FROM unnest(t.reloptions) o) || ')'
        FROM pg_class t WHERE t.oid = r.reltoastrelid AND t.reloptions IS NOT NULL),
       CASE WHEN r.relrowsecurity THEN 'row level security' END, CASE WHEN r.relforcerowsecurity THEN 'forced' END,
       'replica identity ' || CASE r.relreplident WHEN 'n' THEN 'nothing' WHEN 'f' THEN 'full' WHEN 'i' THEN 'index' END,
       CASE r.relkind WHEN 'f' THEN (
           SELECT concat_ws(' ', 'server', quote_ident(s.srvname), (SELECT string_agg(o, ', ' ORDER BY o COLLATE "C")
                  FROM unnest(f.ftoptions) o WHERE o !~* %(secret)s))
           FROM pg_foreign_table f JOIN pg_foreign_server s ON s.oid = f.ftserver WHERE f.ftrelid = r.oid) END)
FROM rel r LEFT JOIN pg_am m ON m.oid = r.relam WHERE r.relkind IN ('r', 'p', 'f')
UNION ALL
SELECT r.oid, 'column', r.qn || '.' || quote_ident(a.attname), concat_ws(' ', format_type(a.atttypid, a.atttypmod),
       CASE WHEN a.attcollation <> t.typcollation THEN 'collate ' || a.attcollation::regcollation END,
       CASE WHEN a.attnotnull THEN 'not null' END, CASE WHEN NOT nn.convalidated THEN 'not valid' END,
       CASE WHEN nn.connoinherit THEN 'no inherit' END,
       CASE WHEN r.relispartition THEN NULL WHEN a.attidentity = 'a' THEN 'identity always'
            WHEN a.attidentity = 'd' THEN 'identity by default' END,
       CASE WHEN a.attgenerated = 's' THEN 'generated stored' WHEN a.attgenerated <> '' THEN 'generated virtual'
            WHEN d.oid IS NOT NULL THEN 'default' END, pg_get_expr(d.adbin, d.adrelid),
       CASE WHEN a.attstorage <> t.typstorage THEN 'storage '
            || CASE a.attstorage WHEN 'p' THEN 'plain' WHEN 'e' THEN 'external' WHEN 'm' THEN 'main' ELSE 'extended' END END,
       CASE a.attcompression WHEN 'p' THEN 'compression pglz' WHEN 'l' THEN 'compression lz4' END,
       'statistics ' || nullif(a.attstattarget, -1),
       CASE WHEN a.attoptions IS NOT NULL THEN
           (SELECT 'with (' || string_agg(o, ', ' ORDER BY o COLLATE "C") || ')' FROM unnest(a.attoptions) o) END,
       CASE WHEN a.attfdwoptions IS NOT NULL THEN (SELECT 'options (' || string_agg(o, ', ' ORDER BY o COLLATE "C") || ')'
            FROM unnest(a.attfdwoptions) o WHERE o !~* %(secret)s) END,
       CASE WHEN NOT a.attislocal THEN 'inherited' END)
FROM rel r JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped
JOIN pg_type t ON t.oid = a.atttypid LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
LEFT JOIN pg_constraint nn ON nn.conrelid = a.attrelid AND nn.contype = 'n' AND nn.conkey[1] = a.attnum
WHERE r.relkind IN ('r', 'p', 'v', 'm', 'c', 'f')
UNION ALL
SELECT r.oid, 'order', r.qn, string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum)
FROM rel r JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE r.relkind IN ('r', 'p', 'c', 'f') GROUP BY r.oid, r.qn
UNION ALL
SELECT k.at, 'constraint', k.qn || '.' || quote_ident(k.conname), concat_ws(' ', pg_get_constraintdef(k.oid),
       -- ALTER TABLE … DISABLE TRIGGER ALL: nothing checks a foreign key then, though it stays valid.
       CASE WHEN EXISTS (SELECT FROM pg_trigger g WHERE g.tgconstraint = k.oid AND g.tgisinternal AND g.tgenabled <> 'O')
            THEN 'disabled' END)
FROM local k
UNION ALL
SELECT r.oid, 'index', r.qn, concat_ws(' ', pg_get_indexdef(r.oid), CASE WHEN i.indisclustered THEN 'clustered' END,
       CASE WHEN i.indisreplident THEN 'replica identity' END, CASE WHEN NOT i.indisvalid THEN 'invalid' END)
FROM rel r JOIN pg_index i ON i.indexrelid = r.oid WHERE NOT r.relispartition
UNION ALL
SELECT r.oid, 'view', r.qn, concat_ws(' ', CASE r.relkind WHEN 'm' THEN 'materialized' END,
       (SELECT 'with (' || string_agg(o, ', ' ORDER BY o COLLATE "C") || ')' FROM unnest(r.reloptions) o), 'as',
       pg_get_viewdef(CASE WHEN r.relkind IN ('v', 'm') THEN r.oid END))
FROM rel r WHERE r.relkind IN ('v', 'm')
UNION ALL
SELECT r.oid, 'rule', r.qn || '.' || quote_ident(w.rulename), concat_ws(' ', pg_get_ruledef(w.oid),
       CASE w.ev_enabled WHEN 'D' THEN 'disabled' WHEN 'R' THEN 'replica' WHEN 'A' THEN 'always' END)
FROM rel r JOIN pg_rewrite w ON w.ev_class = r.oid WHERE w.rulename <> '_RETURN'
UNION ALL
SELECT f.oid, 'function', f.oid::regprocedure::text, CASE WHEN f.prokind <> 'a' THEN pg_get_functiondef(f.oid) ELSE (
       SELECT concat_ws(' ', 'aggregate', f.proparallel, ROW(g.aggkind, g.aggnumdirectargs, g.aggtransfn, g.aggtranstype::regtype,
              g.aggtransspace, g.aggfinalfn, g.aggfinalextra, g.aggfinalmodify, g.aggcombinefn, g.aggserialfn, g.aggdeserialfn,
              g.aggmtransfn, g.aggminvtransfn, nullif(g.aggmtranstype, 0)::regtype, g.aggmtransspace, g.aggmfinalfn,
              g.aggmfinalextra, g.aggmfinalmodify, nullif(g.aggsortop, 0)::regoperator, g.agginitval, g.aggminitval)::text)
       FROM pg_aggregate g WHERE g.aggfnoid = f.oid) END
FROM fn f
UNION ALL
SELECT r.oid, 'trigger', r.qn || '.' || quote_ident(g.tgname), concat_ws(' ', pg_get_triggerdef(g.oid),
       CASE g.tgenabled WHEN 'D' THEN 'disabled' WHEN 'R' THEN 'replica' WHEN 'A' THEN 'always' END)
FROM rel r JOIN pg_trigger g ON g.tgrelid = r.oid WHERE NOT g.tgisinternal AND g.tgparentid = 0
UNION ALL
SELECT r.oid, 'policy', r.qn || '.' || quote_ident(p.polname), concat_ws(' ',
       CASE WHEN NOT p.polpermissive THEN 'restrictive' END,
       'for ' || CASE p.polcmd WHEN 'r' THEN 'select' WHEN 'a' THEN 'insert' WHEN 'w' THEN 'update' WHEN 'd' THEN 'delete'
                      ELSE 'all' END,
       'to ' || (SELECT string_agg(CASE WHEN u = 0 THEN 'public' ELSE quote_ident(pg_get_userbyid(u)) END, ', '
                                   ORDER BY pg_get_userbyid(u) COLLATE "C") FROM unnest(p.polroles) u),
       'using (' || pg_get_expr(p.polqual, p.polrelid) || ')',
       'with check (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')')
FROM rel r JOIN pg_policy p ON p.polrelid = r.oid
UNION ALL
SELECT r.oid, 'sequence', coalesce('owned ' || t.qn || '.' || quote_ident(a.attname), r.qn), concat_ws(' ',
       format_type(s.seqtypid, NULL), 'start', s.seqstart, 'increment', s.seqincrement, 'from', s.seqmin, 'to', s.seqmax,
       'cache', s.seqcache, CASE WHEN s.seqcycle THEN 'cycle' END, CASE WHEN o.objid IS NOT NULL THEN 'named ' || r.qn END)
FROM rel r JOIN pg_sequence s ON s.seqrelid = r.oid LEFT JOIN serial o ON o.objid = r.oid
LEFT JOIN (SELECT c.oid, quote_ident(n.nspname) || '.' || quote_ident(c.relname) AS qn FROM pg_class c
           JOIN pg_namespace n ON n.oid = c.relnamespace) t ON t.oid = o.refobjid
LEFT JOIN pg_attribute a ON a.attrelid = o.refobjid AND a.attnum = o.refobjsubid
UNION ALL
SELECT t.oid, 'type', t.qn, concat_ws(' ', CASE t.typtype WHEN 'd' THEN concat_ws(' ', 'domain',
           format_type(t.typbasetype, t.typtypmod),
           CASE WHEN t.typcollation <> b.typcollation THEN 'collate ' || t.typcollation::regcollation END,
           CASE WHEN t.typnotnull THEN 'not null' END, 'default ' || pg_get_expr(t.typdefaultbin, 0)) END,
       CASE t.typtype WHEN 'e' THEN concat('enum (', (SELECT string_agg(quote_literal(e.enumlabel), ', ' ORDER BY e.enumsortorder)
                                                      FROM pg_enum e WHERE e.enumtypid = t.oid), ')') END,
       (SELECT concat_ws(' ', 'range of', format_type(g.rngsubtype, NULL), 'collate ' || nullif(g.rngcollation, 0)::regcollation,
               CASE WHEN g.rngcanonical <> 0 THEN 'canonical ' || g.rngcanonical END,
               CASE WHEN g.rngsubdiff <> 0 THEN 'difference ' || g.rngsubdiff END,
               'multirange ' || format_type(g.rngmultitypid, NULL))
        FROM pg_range g WHERE g.rngtypid = t.oid))
FROM typ t LEFT JOIN pg_type b ON b.oid = t.typbasetype
UNION ALL
SELECT r.oid, 'type', r.qn, 'composite' FROM rel r WHERE r.relkind = 'c'
UNION ALL
SELECT r.oid, 'statistics', ns.qn || '.' || quote_ident(s.stxname), concat_ws(' ', pg_get_statisticsobjdef(s.oid),
       'target ' || nullif(s.stxstattarget, -1))
FROM rel r JOIN pg_statistic_ext s ON s.stxrelid = r.oid JOIN ns ON ns.oid = s.stxnamespace
UNION ALL
SELECT e.oid, 'eventtrigger', quote_ident(e.evtname), concat_ws(' ', 'on', e.evtevent,
       'for ' || (SELECT string_agg(g, ', ' ORDER BY g COLLATE "C") FROM unnest(e.evttags) g), 'execute', e.evtfoid::regprocedure,
       CASE e.evtenabled WHEN 'D' THEN 'disabled' WHEN 'R' THEN 'replica' WHEN 'A' THEN 'always' END)
FROM pg_event_trigger e WHERE NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_event_trigger'::regclass
                                          AND d.objid = e.oid AND d.deptype = 'e') {e.oid}
UNION ALL
SELECT l.oid, 'collation', ns.qn || '.' || quote_ident(l.collname), concat_ws(' ',
       CASE l.collprovider WHEN 'i' THEN 'icu' WHEN 'c' THEN 'libc' WHEN 'b' THEN 'builtin' ELSE l.collprovider::text END,
       coalesce(j.j ->> 'colllocale', j.j ->> 'colliculocale', l.collcollate), CASE l.collprovider WHEN 'c' THEN l.collctype END,
       'rules ' || (j.j ->> 'collicurules'), CASE WHEN NOT l.collisdeterministic THEN 'not deterministic' END)
FROM pg_collation l CROSS JOIN LATERAL to_jsonb(l) AS j (j) JOIN ns ON ns.oid = l.collnamespace
WHERE {ours pg_collation l}
UNION ALL
SELECT s.oid, 'cast', format_type(s.castsource, NULL) || ' as ' || format_type(s.casttarget, NULL), concat_ws(' ',
       CASE s.castmethod WHEN 'b' THEN 'binary' WHEN 'i' THEN 'inout' END, 'by ' || nullif(s.castfunc, 0)::regprocedure,
       CASE s.castcontext WHEN 'i' THEN 'implicit' WHEN 'a' THEN 'assignment' ELSE 'explicit' END)
FROM pg_cast s WHERE s.oid >= 16384 AND {ours pg_cast s}
UNION ALL
SELECT o.oid, 'operator', o.oid::regoperator::text, concat_ws(' ', 'by', o.oprcode,
       'commutator ' || nullif(o.oprcom, 0)::regoperator, 'negator ' || nullif(o.oprnegate, 0)::regoperator,
       CASE WHEN o.oprrest <> 0 THEN 'restrict ' || o.oprrest END, CASE WHEN o.oprjoin <> 0 THEN 'join ' || o.oprjoin END,
       CASE WHEN o.oprcanhash THEN 'hashes' END, CASE WHEN o.oprcanmerge THEN 'merges' END)
FROM pg_operator o JOIN ns ON ns.oid = o.oprnamespace
WHERE {ours pg_operator o}
UNION ALL
SELECT c.oid, 'operatorclass', ns.qn || '.' || quote_ident(c.opcname) || ' using ' || m.amname, concat_ws(' ',
       CASE WHEN c.opcdefault THEN 'default' END, 'for', format_type(c.opcintype, NULL), 'family', f.qn,
       'storage ' || format_type(nullif(c.opckeytype, 0), NULL),
       (SELECT string_agg(concat_ws(' ', 'operator', o.amopstrategy, o.amopopr::regoperator), ', '
                          ORDER BY o.amopstrategy, o.amopopr::regoperator::text COLLATE "C") FROM pg_amop o
        WHERE o.amopfamily = c.opcfamily AND o.amoplefttype = c.opcintype),
       (SELECT string_agg(concat_ws(' ', 'function', p.amprocnum, p.amproc::regprocedure), ', '
                          ORDER BY p.amprocnum, p.amproc::regprocedure::text COLLATE "C") FROM pg_amproc p
        WHERE p.amprocfamily = c.opcfamily AND p.amproclefttype = c.opcintype))
FROM pg_opclass c JOIN ns ON ns.oid = c.opcnamespace JOIN pg_am m ON m.oid = c.opcmethod
JOIN (SELECT f.oid, quote_ident(n.nspname) || '.' || quote_ident(f.opfname) AS qn FROM pg_opfamily f
      JOIN pg_namespace n ON n.oid = f.opfnamespace) f ON f.oid = c.opcfamily
WHERE {ours pg_opclass c}
UNION ALL
SELECT x.oid, 'textsearch', 'configuration ' || ns.qn || '.' || quote_ident(x.cfgname), concat_ws(' ', 'parser', p.prsname,
       (SELECT string_agg(concat_ws(' ', m.maptokentype, m.mapdict::regdictionary), ', ' ORDER BY m.maptokentype, m.mapseqno)
        FROM pg_ts_config_map m WHERE m.mapcfg = x.oid))
FROM pg_ts_config x JOIN ns ON ns.oid = x.cfgnamespace JOIN pg_ts_parser p ON p.oid = x.cfgparser
WHERE {ours pg_ts_config x}
UNION ALL
SELECT x.oid, 'textsearch', 'dictionary ' || ns.qn || '.' || quote_ident(x.dictname),
       concat_ws(' ', 'template', t.tmplname, x.dictinitoption)
FROM pg_ts_dict x JOIN ns ON ns.oid = x.dictnamespace JOIN pg_ts_template t ON t.oid = x.dicttemplate
WHERE {ours pg_ts_dict x}
UNION ALL
SELECT s.oid, 'server', quote_ident(s.srvname), concat_ws(' ', 'wrapper', w.fdwname,
       'type ' || s.srvtype, 'version ' || s.srvversion,
       (SELECT string_agg(o, ', ' ORDER BY o COLLATE "C") FROM unnest(s.srvoptions) o WHERE o !~* %(secret)s))
FROM foreign_server s JOIN pg_foreign_data_wrapper w ON w.oid = s.srvfdw
UNION ALL
SELECT b.oid, 'publication', quote_ident(b.pubname), concat_ws(' ', CASE WHEN b.puballtables THEN 'all tables' END,
       CASE WHEN b.pubinsert THEN 'insert' END, CASE WHEN b.pubupdate THEN 'update' END, CASE WHEN b.pubdelete THEN 'delete' END,
       CASE WHEN b.pubtruncate THEN 'truncate' END, CASE WHEN b.pubviaroot THEN 'via root' END)
FROM pg_publication b WHERE true {b.oid}
UNION ALL
SELECT r.oid, 'publication', quote_ident(b.pubname) || ' ' || r.qn, {published} FROM pg_publication_rel q
JOIN pg_publication b ON b.oid = q.prpubid JOIN rel r ON r.oid = q.prrelid
{published_schemas}
UNION ALL
SELECT thing.at, 'comment', i.type || ' ' || i.identity, d.description
FROM thing JOIN pg_description d ON d.classoid = thing.class AND d.objoid = thing.oid
CROSS JOIN LATERAL pg_identify_object(d.classoid, d.objoid, d.objsubid) i WHERE d.objoid >= 16384
UNION ALL
SELECT shown.at, 'acl', shown.name, coalesce(shown.entries, 'nobody') FROM (
    SELECT g.at, g.name, g.usual, (
        SELECT string_agg(entry, ', ' ORDER BY entry COLLATE "C") FROM (
            SELECT DISTINCT CASE WHEN e.grantee = 0 THEN 'public' ELSE quote_ident(pg_get_userbyid(e.grantee)) END || ':'
                   || e.privilege_type || CASE WHEN e.is_grantable THEN '*' ELSE '' END AS entry
            FROM aclexplode(g.acl) e WHERE e.grantee <> g.owner AND e.privilege_type <> 'MAINTAIN') AS named) AS entries
    FROM given g) shown
WHERE shown.entries IS DISTINCT FROM shown.usual
"""
# Below, the parts of a table and the objects that they belong to: a comment names the part only.
_ASKED = """asked AS MATERIALIZED (
    SELECT unnest(%(only)s::oid[]) AS oid
    UNION SELECT greatest(conrelid, contypid) FROM pg_constraint WHERE oid = ANY (%(only)s::oid[])
    UNION SELECT tgrelid FROM pg_trigger WHERE oid = ANY (%(only)s::oid[])
    UNION SELECT polrelid FROM pg_policy WHERE oid = ANY (%(only)s::oid[])
    UNION SELECT ev_class FROM pg_rewrite WHERE oid = ANY (%(only)s::oid[])
    UNION SELECT stxrelid FROM pg_statistic_ext WHERE oid = ANY (%(only)s::oid[])
), """
# Whose lines name one of these: by a type, a default, a foreign key, a view, a body, or because it lies in that schema.
NAMING = """
SELECT coalesce(greatest(k.conrelid, k.contypid), f.adrelid, g.tgrelid, w.ev_class, p.polrelid, s.stxrelid, d.objid)::bigint
FROM pg_depend d
LEFT JOIN pg_constraint k ON d.classid = 'pg_constraint'::regclass AND k.oid = d.objid
LEFT JOIN pg_attrdef f ON d.classid = 'pg_attrdef'::regclass AND f.oid = d.objid
LEFT JOIN pg_trigger g ON d.classid = 'pg_trigger'::regclass AND g.oid = d.objid
LEFT JOIN pg_rewrite w ON d.classid = 'pg_rewrite'::regclass AND w.oid = d.objid
LEFT JOIN pg_policy p ON d.classid = 'pg_policy'::regclass AND p.oid = d.objid
LEFT JOIN pg_statistic_ext s ON d.classid = 'pg_statistic_ext'::regclass AND s.oid = d.objid
WHERE d.refclassid IN ('pg_class'::regclass, 'pg_type'::regclass, 'pg_proc'::regclass, 'pg_namespace'::regclass,
    'pg_collation'::regclass, 'pg_operator'::regclass, 'pg_opclass'::regclass, 'pg_foreign_server'::regclass,
    'pg_ts_config'::regclass, 'pg_ts_dict'::regclass)
  AND d.refobjid = ANY (%(only)s::oid[])
UNION SELECT i.indexrelid::bigint FROM pg_index i WHERE i.indrelid = ANY (%(only)s::oid[])
UNION SELECT i.inhrelid::bigint FROM pg_inherits i WHERE i.inhparent = ANY (%(only)s::oid[])
UNION SELECT d.objid::bigint FROM pg_type t JOIN pg_depend d ON d.refclassid = 'pg_type'::regclass AND d.refobjid = t.oid
WHERE t.typrelid = ANY (%(only)s::oid[]) OR t.typelem = ANY (%(only)s::oid[])
"""
_OURS = r"""NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = '\1'::regclass AND d.objid = \2.oid
                                                 AND d.deptype IN ('e', 'i')) {\2.oid}"""
SECRET = "^[^=]*(passw|secret|token|credential|private|apikey|api_key|access_key)[^=]*="
"""Options of foreign servers and tables that are not read: their values are not for a file."""

_COLUMNS_15 = """concat_ws(' ', (SELECT '(' || string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) || ')'
    FROM pg_attribute a WHERE a.attrelid = q.prrelid AND a.attnum = ANY (q.prattrs::int2[])),
    'where ' || pg_get_expr(q.prqual, q.prrelid))"""
_SCHEMAS_15 = """UNION ALL
SELECT ns.oid, 'publication', quote_ident(b.pubname) || ' schema ' || ns.qn, '' FROM pg_publication_namespace q
JOIN pg_publication b ON b.oid = q.pnpubid JOIN ns ON ns.oid = q.pnnspid {ns.oid}"""


def text(major: int, *, only: bool) -> str:
    """The query for a server of this major version; ``only``: for some objects."""
    since_15 = {"published": _COLUMNS_15, "published_schemas": _SCHEMAS_15}
    parts = {"asked": _ASKED if only else "", "other_tool": other_tools.IS_ONE} | (
        since_15 if major >= 15 else {"published": "''", "published_schemas": ""}
    )
    made = re.sub(r"\{(\w+)\}", lambda found: parts[found[1]], _LINES)
    made = re.sub(r"\{ours (\w+) (\w+)\}", _OURS, made)
    return re.sub(r"\{(\w+\.oid)\}", r"AND \1 IN (TABLE asked)" if only else "", made)
