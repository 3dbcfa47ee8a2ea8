"""What the catalog holds, one line for each object: the same lines mean the same structure.

Names are qualified, so a table is compared with another of the same name in the same schema, or with lines that were
written down. Columns count by their place, not by their number: a column dropped long ago changes nothing. No OID is in a
line: what is made twice has another each time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from mcp_planner_schema.guard import prepared
from mcp_planner_schema.guard.evidence import own
from mcp_planner_schema.guard.postcheck import SYSTEM_PATH, execute, pinned

if TYPE_CHECKING:
    from sqlalchemy import Connection

# A text with names of columns in it is made under the lock of a reader: what somebody else has for himself, and what shows it,
# is left out of all. It is not the body's to change either.
# Of one table (one is its OID): itself, its indexes, the sequences its columns own; of all (one is null): whatever is there, or
# what belongs to one of some objects (only, where it is not null). The first column is the object that a line belongs to; the
# comment on a part of a table names that too, and belongs to both.
_LINES = """
WITH ns AS MATERIALIZED (
    SELECT n.oid, n.nspname, n.nspowner, n.nspacl FROM pg_namespace n
    WHERE left(n.nspname, 3) <> 'pg_' AND n.nspname <> 'information_schema' AND n.nspname !~ %(own)s
), serial AS MATERIALIZED (
    SELECT d.objid, d.refobjid, d.refobjsubid FROM pg_depend d JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
    WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
        AND d.refobjsubid > 0 AND (%(only)s::oid[] IS NULL OR d.objid = ANY (%(only)s::oid[]))
        AND (%(one)s::oid IS NULL OR d.refobjid = %(one)s::oid)
), held AS MATERIALIZED (
    SELECT l.relation AS oid FROM pg_locks l WHERE %(one)s::oid IS NULL AND l.locktype = 'relation'
      AND l.mode = 'AccessExclusiveLock' AND l.pid IS DISTINCT FROM pg_backend_pid()
      AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
), away AS MATERIALIZED (
    SELECT oid FROM held UNION SELECT i.indexrelid FROM held JOIN pg_index i ON i.indrelid = held.oid
    UNION SELECT w.ev_class FROM held JOIN pg_depend d ON d.refobjid = held.oid
    JOIN pg_rewrite w ON w.oid = d.objid WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass
), rel AS MATERIALIZED (
    SELECT c.*, pg_catalog.format('%%I.%%I', n.nspname, c.relname) AS shown FROM pg_class c JOIN ns n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'c', 'f', 'i', 'I') AND c.relpersistence <> 't' AND c.oid NOT IN (TABLE away)
      AND (%(one)s::oid IS NULL OR c.oid = %(one)s::oid
           OR c.oid IN (SELECT i.indexrelid FROM pg_index i WHERE i.indrelid = %(one)s::oid)
           OR c.oid IN (SELECT s.objid FROM serial s WHERE s.refobjid = %(one)s::oid))
      AND (%(only)s::oid[] IS NULL OR c.oid = ANY (%(only)s::oid[]))
), part AS (
    SELECT k.conrelid AS at, 'pg_constraint'::regclass AS class, k.oid FROM rel JOIN pg_constraint k ON k.conrelid = rel.oid
    UNION ALL SELECT g.tgrelid, 'pg_trigger'::regclass, g.oid FROM rel JOIN pg_trigger g ON g.tgrelid = rel.oid
    UNION ALL SELECT p.polrelid, 'pg_policy'::regclass, p.oid FROM rel JOIN pg_policy p ON p.polrelid = rel.oid
    UNION ALL SELECT w.ev_class, 'pg_rewrite'::regclass, w.oid FROM rel JOIN pg_rewrite w ON w.ev_class = rel.oid
    UNION ALL SELECT s.stxrelid, 'pg_statistic_ext'::regclass, s.oid FROM rel JOIN pg_statistic_ext s ON s.stxrelid = rel.oid
)
SELECT line.* FROM (
SELECT rel.oid, 'relation', shown, concat_ws(' ', relkind, relpersistence, pg_get_userbyid(relowner), relrowsecurity,
    relforcerowsecurity,
       relreplident, reloptions, relispartition, am.amname, nullif(reltablespace, 0), nullif(reloftype, 0)::regtype,
       pg_get_partkeydef(CASE relkind WHEN 'p' THEN rel.oid END),
       pg_get_expr(CASE WHEN relispartition THEN relpartbound END, rel.oid),
       pg_get_viewdef(CASE WHEN relkind IN ('v', 'm') THEN rel.oid END),
       (SELECT string_agg(i.inhparent::regclass::text, ',' ORDER BY i.inhseqno) FROM pg_inherits i WHERE i.inhrelid = rel.oid),
       (SELECT 'toast ' || t.reloptions::text FROM pg_class t WHERE t.oid = rel.reltoastrelid))
FROM rel LEFT JOIN pg_am am ON am.oid = rel.relam
UNION ALL
SELECT a.attrelid, 'column', rel.shown || '.' || quote_ident(a.attname), concat_ws(' ',
       row_number() OVER (PARTITION BY a.attrelid ORDER BY a.attnum), format_type(a.atttypid, a.atttypmod), a.attnotnull,
       nullif(a.attidentity::text, ''), nullif(a.attgenerated::text, ''), pg_get_expr(d.adbin, d.adrelid),
       nullif(a.attcollation, 0)::regcollation, a.attstorage, nullif(a.attcompression::text, ''), nullif(a.attstattarget, -1),
       a.attoptions, a.attislocal, a.attinhcount)
FROM rel JOIN pg_attribute a ON a.attrelid = rel.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE rel.relkind IN ('r', 'p', 'v', 'm', 'c', 'f') OR rel.relkind IN ('i', 'I') AND coalesce(a.attstattarget, -1) <> -1
UNION ALL
SELECT rel.oid, 'constraint', rel.shown || '.' || quote_ident(k.conname), concat_ws(' ', pg_get_constraintdef(k.oid), k.contype,
    k.convalidated,
       k.condeferrable, k.condeferred, k.conislocal, k.coninhcount, k.connoinherit, nullif(k.conparentid, 0) IS NOT NULL)
FROM rel JOIN pg_constraint k ON k.conrelid = rel.oid WHERE k.contype <> 't'
UNION ALL
SELECT rel.oid, 'index', rel.shown, concat_ws(' ', pg_get_indexdef(rel.oid), i.indisvalid, i.indisready, i.indisprimary,
       i.indimmediate, i.indisreplident, i.indisclustered)
FROM rel JOIN pg_index i ON i.indexrelid = rel.oid
UNION ALL
SELECT rel.oid, 'trigger', rel.shown || '.' || quote_ident(g.tgname), concat_ws(' ', pg_get_triggerdef(g.oid), g.tgenabled)
FROM rel JOIN pg_trigger g ON g.tgrelid = rel.oid WHERE NOT g.tgisinternal
UNION ALL
SELECT rel.oid, 'policy', rel.shown || '.' || quote_ident(p.polname), concat_ws(' ', p.polcmd, p.polpermissive,
       p.polroles::regrole[], pg_get_expr(p.polqual, p.polrelid), 'check', pg_get_expr(p.polwithcheck, p.polrelid))
FROM rel JOIN pg_policy p ON p.polrelid = rel.oid
UNION ALL
SELECT rel.oid, 'rule', rel.shown || '.' || quote_ident(w.rulename), concat_ws(' ', pg_get_ruledef(w.oid), w.ev_enabled)
FROM rel JOIN pg_rewrite w ON w.ev_class = rel.oid
UNION ALL
SELECT rel.oid, 'sequence', rel.shown, concat_ws(' ', format_type(s.seqtypid, NULL), s.seqstart, s.seqincrement, s.seqmin,
       s.seqmax, s.seqcache, s.seqcycle, o.refobjid::regclass, o.refobjsubid > 0, a.attname)
FROM rel JOIN pg_sequence s ON s.seqrelid = rel.oid LEFT JOIN serial o ON o.objid = rel.oid
LEFT JOIN pg_attribute a ON a.attrelid = o.refobjid AND a.attnum = o.refobjsubid
UNION ALL
SELECT rel.oid, 'statistics', format('%%I.%%I', n.nspname, s.stxname), concat_ws(' ', pg_get_statisticsobjdef(s.oid),
       to_jsonb(s) ->> 'stxstattarget', pg_get_userbyid(s.stxowner))
FROM pg_statistic_ext s JOIN rel ON rel.oid = s.stxrelid JOIN pg_namespace n ON n.oid = s.stxnamespace
UNION ALL
SELECT rel.oid, 'grant', concat_ws('.', rel.shown, x.attname), concat_ws(' ', coalesce(r.rolname, 'PUBLIC'), e.privilege_type,
    e.is_grantable)
FROM rel CROSS JOIN LATERAL (SELECT NULL::name, rel.relacl UNION ALL SELECT a.attname, a.attacl FROM pg_attribute a
  WHERE a.attrelid = rel.oid AND a.attacl IS NOT NULL AND NOT a.attisdropped) x (attname, acl)
CROSS JOIN LATERAL aclexplode(x.acl) e LEFT JOIN pg_roles r ON r.oid = e.grantee
WHERE e.grantee <> rel.relowner OR x.attname IS NOT NULL
UNION ALL
SELECT d.at, 'comment', concat_ws(' ', o.type, o.identity), d.description
FROM (SELECT d.objoid AS at, d.* FROM pg_description d
      UNION ALL SELECT part.at, d.* FROM part JOIN pg_description d ON d.classoid = part.class AND d.objoid = part.oid) AS d
CROSS JOIN LATERAL pg_identify_object(d.classoid, d.objoid, d.objsubid) o
WHERE d.objoid >= 16384 AND CASE WHEN %(one)s::oid IS NULL THEN o.identity !~ %(own_identity)s ELSE
    (d.classoid = 'pg_class'::regclass AND d.objoid IN (SELECT oid FROM rel))
    OR (d.classoid = 'pg_constraint'::regclass AND d.objoid IN (SELECT oid FROM pg_constraint WHERE conrelid = %(one)s::oid))
    OR (d.classoid = 'pg_trigger'::regclass AND d.objoid IN (SELECT oid FROM pg_trigger WHERE tgrelid = %(one)s::oid))
    OR (d.classoid = 'pg_statistic_ext'::regclass AND d.objoid IN (SELECT oid FROM pg_statistic_ext
        WHERE stxrelid = %(one)s::oid))
    OR (d.classoid = 'pg_type'::regclass AND d.objoid IN (SELECT reltype FROM rel)) END
UNION ALL
SELECT l.objoid, 'label', concat_ws(' ', l.objtype, l.objname, l.provider), l.label FROM pg_seclabels l
WHERE %(one)s::oid IS NULL OR (l.classoid = 'pg_class'::regclass AND l.objoid = %(one)s::oid)
UNION ALL
SELECT rel.oid, 'published', p.pubname || ' ' || r.prrelid::regclass::text,
       {published}
FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid JOIN rel ON rel.oid = r.prrelid
{of_all}
UNION ALL
SELECT oid, 'away', '', '' FROM away
) AS line (at, kind, name, text) WHERE %(only)s::oid[] IS NULL OR line.at = ANY (%(only)s::oid[])
"""
_PUBLISHED_15 = "concat_ws(' ', r.prattrs, pg_get_expr(r.prqual, r.prrelid))"  # 14 publishes whole tables only
_OF_ALL = """
UNION ALL
SELECT oid, 'schema', quote_ident(nspname), concat_ws(' ', pg_get_userbyid(nspowner), nspacl) FROM ns
UNION ALL
SELECT t.oid, 'type', format('%%I.%%I', n.nspname, t.typname), concat_ws(' ', t.typtype, pg_get_userbyid(t.typowner), t.typacl,
       format_type(nullif(t.typbasetype, 0), t.typtypmod), t.typnotnull, pg_get_expr(t.typdefaultbin, 0),
           nullif(t.typcollation, 0)::regcollation,
       (SELECT string_agg(quote_literal(e.enumlabel), ',' ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = t.oid),
       (SELECT concat_ws(' ', g.rngsubtype::regtype, g.rngcollation::regcollation, g.rngcanonical, g.rngsubdiff)
        FROM pg_range g WHERE g.rngtypid = t.oid),
       (SELECT string_agg(concat_ws(' ', k.conname, pg_get_constraintdef(k.oid)), ',' ORDER BY k.conname)
        FROM pg_constraint k WHERE k.contypid = t.oid))
FROM pg_type t JOIN ns n ON n.oid = t.typnamespace WHERE t.typtype IN ('e', 'd', 'r')
UNION ALL
SELECT p.oid, 'function', p.oid::regprocedure::text, concat_ws(' ', pg_get_userbyid(p.proowner), p.proacl,
       CASE WHEN p.prokind <> 'a' THEN pg_get_functiondef(p.oid) ELSE (SELECT concat_ws(' ', g.aggtranstype::regtype,
           nullif(g.aggmtranstype, 0)::regtype, nullif(g.aggsortop, 0)::regoperator,
           to_jsonb(g) - '{aggtranstype,aggmtranstype,aggsortop}'::text[]) FROM pg_aggregate g WHERE g.aggfnoid = p.oid) END)
FROM pg_proc p JOIN ns n ON n.oid = p.pronamespace
UNION ALL
SELECT e.oid, 'extension', e.extname, concat_ws(' ', e.extversion, e.extnamespace::regnamespace) FROM pg_extension e
UNION ALL
SELECT e.oid, 'event trigger', e.evtname, concat_ws(' ', e.evtevent, e.evtenabled, e.evttags, e.evtfoid::regprocedure)
    FROM pg_event_trigger e
UNION ALL
SELECT p.oid, 'publication', p.pubname, (to_jsonb(p) - 'oid')::text FROM pg_publication p
UNION ALL
SELECT o.oid, 'operator', o.oid::regoperator::text, o.oprcode::text FROM pg_operator o JOIN ns n ON n.oid = o.oprnamespace
UNION ALL
SELECT c.oid, 'collation', c.oid::regcollation::text, (to_jsonb(c) - '{oid,collnamespace}'::text[])::text
FROM pg_collation c JOIN ns n ON n.oid = c.collnamespace
UNION ALL
SELECT c.oid, 'cast', concat_ws(' ', c.castsource::regtype, c.casttarget::regtype), c.castfunc::regprocedure::text
FROM pg_cast c WHERE c.oid >= 16384
UNION ALL
SELECT d.oid, 'default rights', concat_ws(' ', d.defaclrole::regrole, nullif(d.defaclnamespace, 0)::regnamespace,
    d.defaclobjtype), d.defaclacl::text
FROM pg_default_acl d
"""

_AWAY = ("away", "", "")
"""The only line of what somebody else has for himself, in a picture of everything."""

_MANY = 500
"""Objects. Fewer are found through indexes, by a plan that the session has; of more another plan may be the better one."""
_FEW = {"plan_cache_mode": "force_generic_plan", "jit": "off", "enable_hashjoin": "off", "enable_mergejoin": "off"}
_EXECUTE = "EXECUTE {} (%(own)s, %(own_identity)s, %(only)s::oid[])"
_PLACES = {"own": "$1", "own_identity": "$2", "only": "$3"}

Lines = frozenset[tuple[str, str, str]]

Picture = dict[int, Lines]
"""The lines of many objects, by the OID of each. Where two catalogs share one, those of both."""


class Change(NamedTuple):
    """The lines that went, those that came, and the objects that are not there any more, by OID."""

    gone: Lines
    come: Lines
    dropped: frozenset[int] = frozenset()


def of_table(connection: Connection, schema: str, oid: int) -> Lines:
    """The lines of one table: its columns, constraints, indexes, triggers, sequences, rights, comments. Reads only."""
    return frozenset().union(*_picture(connection, schema, one=oid).values())


def of_everything(connection: Connection, schema: str) -> tuple[Picture, frozenset[int]]:
    """The lines of the whole database but for the guard's own schemas, and what somebody else has for himself, without lines.

    Reads only.
    """
    found = _picture(connection, schema)
    away = frozenset(oid for oid, lines in found.items() if _AWAY in lines)
    return {oid: lines for oid, lines in found.items() if oid not in away}, away


def again(connection: Connection, schema: str, before: Picture, touched: frozenset[int]) -> Picture:
    """What :func:`of_everything` would find now: ``before``, and the objects touched since."""
    now = {oid: lines for oid, lines in before.items() if oid not in touched}
    return now | (_picture(connection, schema, only=touched) if touched else {})


def change(connection: Connection, schema: str, before: Picture, touched: frozenset[int]) -> Change:
    """What has happened since ``before``: the lines that went, and those that came. Reads what was touched since, and only that.

    A line of something else that names what was touched would only say the same once more.
    """
    now = _picture(connection, schema, only=touched) if touched else {}
    gone, come = (frozenset().union(*(one.get(oid, ()) for oid in touched)) for one in (before, now))
    return Change(gone - come, come - gone, frozenset((before.keys() & touched) - now.keys()))


def difference(before: Lines, after: Lines) -> str:
    """The first few lines that only one of the two has, for people."""
    lines = sorted([f"- {' '.join(one)}" for one in before - after] + [f"+ {' '.join(one)}" for one in after - before])
    return "; ".join(line[:200] for line in lines[:3])


def prepare(connection: Connection, schema: str) -> None:
    """Let the session plan now what is asked of the objects that a body has touched: that takes longer than the answer, and
    no lock is held yet. It stays prepared when the transaction is rolled back."""
    with pinned(connection, search_path=SYSTEM_PATH, **_FEW):
        text = _some(connection)
        if not prepared.is_there(connection, text):
            execute(connection, f"PREPARE {prepared.name(text)} (text, text, oid[]) AS {text % _PLACES}")
        connection.exec_driver_sql(_EXECUTE.format(prepared.name(text)), _values(schema, only=frozenset())).all()


def _picture(
    connection: Connection, schema: str, *, one: int | None = None, only: frozenset[int] | None = None
) -> Picture:
    found: dict[int, set[tuple[str, str, str]]] = {}
    few = only is not None and len(only) < _MANY
    with pinned(connection, search_path=SYSTEM_PATH, **(_FEW if few else {})):
        asked = _some(connection) if few else _text(connection, of_all="" if one else _OF_ALL)
        if few and prepared.is_there(connection, asked):
            asked = _EXECUTE.format(prepared.name(asked))
        for at, kind, name, text in connection.exec_driver_sql(asked, _values(schema, one=one, only=only)):
            if only is None or kind != _AWAY[0]:
                found.setdefault(at, set()).add((kind, name, text or ""))
    return {at: frozenset(lines) for at, lines in found.items()}


def _text(connection: Connection, of_all: str = _OF_ALL) -> str:
    version = connection.dialect.server_version_info
    published = _PUBLISHED_15 if version is None or version >= (15,) else "''"
    return _LINES.format(of_all=of_all, published=published)


def _some(connection: Connection) -> str:
    """The question about some objects only, so that a plan for whatever objects goes by their indexes."""
    text = _text(connection).replace("%(one)s::oid", "NULL::oid")
    return text.replace("%(only)s::oid[] IS NULL OR ", "")


def _values(schema: str, *, one: int | None = None, only: frozenset[int] | None = None) -> dict[str, object]:
    return {
        "own": "^$" if one else own(schema), "own_identity": rf"\m{schema}(_stash_[0-9]+)?(\.|$)", "one": one,
        "only": None if only is None else sorted(only),
    }  # fmt: skip
