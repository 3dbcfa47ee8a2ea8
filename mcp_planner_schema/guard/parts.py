"""What a table is made of, as the statements that make it again: keys, indexes, triggers, foreign keys both ways.

They come from the catalog of the running transaction and are run in it; nothing here is ever written down.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard import rights
from mcp_planner_schema.guard.evidence import Table
from mcp_planner_schema.guard.postcheck import SYSTEM_PATH, pinned

if TYPE_CHECKING:
    from sqlalchemy import Connection

_OUTGOING = """
SELECT k.conrelid::regclass::text, quote_ident(k.conname), pg_get_constraintdef(k.oid), k.conrelid::bigint, k.confrelid::bigint
FROM pg_constraint k WHERE k.contype = 'f' AND %(oid)s IN (k.conrelid, k.confrelid) AND k.conrelid <> k.confrelid ORDER BY k.oid
"""
_TRIGGERS = """
SELECT quote_ident(g.tgname), pg_get_triggerdef(g.oid), g.tgenabled::text
FROM pg_trigger g WHERE g.tgrelid = %(oid)s AND NOT g.tgisinternal ORDER BY g.oid
"""
_STATISTICS = """
SELECT format('%%I.%%I', n.nspname, s.stxname), quote_ident(n.nspname), pg_get_statisticsobjdef(s.oid), format('%%I', s.stxname)
FROM pg_statistic_ext s JOIN pg_namespace n ON n.oid = s.stxnamespace WHERE s.stxrelid = %(oid)s ORDER BY s.oid
"""
# Keys and indexes in the order in which they were made, each under its own name.
_KEYS = """
SELECT format('ALTER TABLE %%s ADD CONSTRAINT %%I %%s', k.conrelid::regclass, k.conname, pg_get_constraintdef(k.oid))
FROM pg_constraint k WHERE k.conrelid = %(oid)s AND (k.contype IN ('p', 'u', 'x') OR (k.contype = 'f'
    AND k.confrelid = k.conrelid))
ORDER BY k.contype = 'f', k.oid
"""
_INDEXES = """
SELECT pg_get_indexdef(i.indexrelid) FROM pg_index i WHERE i.indrelid = %(oid)s
AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = i.indexrelid AND k.contype IN ('p', 'u',
    'x')) ORDER BY i.indexrelid
"""
_SEQUENCES = """
SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname), quote_ident(a.attname), a.attidentity::text,
       format('AS %%s INCREMENT BY %%s MINVALUE %%s MAXVALUE %%s START WITH %%s CACHE %%s %%s', format_type(s.seqtypid,
           NULL), s.seqincrement,
              s.seqmin, s.seqmax, s.seqstart, s.seqcache, CASE WHEN s.seqcycle THEN 'CYCLE' ELSE 'NO CYCLE' END),
       pg_get_expr(f.adbin, f.adrelid)
FROM pg_depend d JOIN pg_class c ON c.oid = d.objid AND c.relkind = 'S' JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_sequence s ON s.seqrelid = c.oid JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
LEFT JOIN pg_attrdef f ON f.adrelid = a.attrelid AND f.adnum = a.attnum
WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = %(oid)s AND d.refobjsubid > 0
  AND d.deptype IN ('a', 'i') ORDER BY c.oid
"""
_ABOUT = """
SELECT quote_ident(pg_get_userbyid(c.relowner)),
       (SELECT string_agg(o.prefix || format('%%I = %%L', o.option_name, o.option_value), ', ')
        FROM (SELECT '' AS prefix, * FROM pg_options_to_table(c.reloptions)
              UNION ALL SELECT 'toast.', * FROM pg_options_to_table(t.reloptions)) o)
FROM pg_class c LEFT JOIN pg_class t ON t.oid = c.reltoastrelid WHERE c.oid = %(oid)s
"""
_COMMENTS = """
SELECT 'TABLE ' || d.objoid::regclass::text, d.description FROM pg_description d
WHERE d.classoid = 'pg_class'::regclass AND d.objoid = %(oid)s AND d.objsubid = 0
UNION ALL SELECT 'INDEX ' || d.objoid::regclass::text, d.description FROM pg_description d
    JOIN pg_index i ON i.indexrelid = d.objoid
WHERE d.classoid = 'pg_class'::regclass AND i.indrelid = %(oid)s
UNION ALL SELECT format('CONSTRAINT %%I ON %%s', k.conname, k.conrelid::regclass), d.description
FROM pg_description d JOIN pg_constraint k ON k.oid = d.objoid
WHERE d.classoid = 'pg_constraint'::regclass AND %(oid)s IN (k.conrelid, k.confrelid)
UNION ALL SELECT format('TRIGGER %%I ON %%s', g.tgname, g.tgrelid::regclass), d.description
FROM pg_description d JOIN pg_trigger g ON g.oid = d.objoid WHERE d.classoid = 'pg_trigger'::regclass AND g.tgrelid = %(oid)s
"""


@dataclass(frozen=True)
class Parts:
    """What is made of SQL that the catalog gives, to be made again: foreign keys both ways, triggers, the rest of a table.

    A foreign key is its table, its name, its definition and the OIDs of both ends; a trigger its name, definition and state.
    """

    foreign: tuple[tuple[str, str, str, int, int], ...]
    triggers: tuple[tuple[str, str, str], ...]
    statistics: tuple[tuple[str, str, str, str], ...]
    keys: tuple[str, ...]
    indexes: tuple[str, ...]
    sequences: tuple[tuple[str, str, str, str, str | None], ...]
    comments: tuple[tuple[str, str], ...]
    rights: rights.Rights
    owner: str
    options: str | None


def of(connection: Connection, table: Table) -> Parts:
    """How the table's parts are made, as the catalog has it. Reads only."""
    with pinned(connection, search_path=SYSTEM_PATH):

        def all_of(asked: str) -> tuple[Any, ...]:
            return tuple(tuple(row) for row in connection.exec_driver_sql(asked, {"oid": table.oid}))

        owner, options = all_of(_ABOUT)[0]
        return Parts(
            all_of(_OUTGOING), all_of(_TRIGGERS), all_of(_STATISTICS), tuple(one for (one,) in all_of(_KEYS)),
            tuple(one for (one,) in all_of(_INDEXES)), all_of(_SEQUENCES), all_of(_COMMENTS),
            rights.of_table(connection, table.oid), owner, options,
        )  # fmt: skip
