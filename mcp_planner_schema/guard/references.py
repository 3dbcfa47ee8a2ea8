"""Foreign keys of a table, and to it; and SQL that one row refers to another, as the key itself compares them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mcp_planner_schema.guard.postcheck import SYSTEM_PATH, identifier, pinned

if TYPE_CHECKING:
    from sqlalchemy import Connection

# Columns are compared by the operator of the key. Where the two have collations of their own, PostgreSQL lets them be a key only
# if equal is what has the same bytes, and asks which one is meant. A table that the role may not read counts as one that
# refers. From 18 on a key may be there and not be enforced.
_KEYS = """
SELECT k.conrelid::bigint, k.confrelid::bigint, c.nspname::text, child.relname::text, p.nspname::text, parent.relname::text,
       k.confupdtype::text, k.convalidated,
       pg_catalog.has_schema_privilege(c.oid, 'USAGE') AND pg_catalog.has_table_privilege(child.oid, 'SELECT')
         AND NOT pg_catalog.row_security_active(child.oid),
       pg_catalog.has_schema_privilege(p.oid, 'USAGE') AND pg_catalog.has_table_privilege(parent.oid, 'SELECT')
         AND NOT pg_catalog.row_security_active(parent.oid),
       (SELECT pg_catalog.array_agg(ARRAY[a.attname::text, b.attname::text,
               'OPERATOR(' || pg_catalog.quote_ident(s.nspname::text) || '.' || o.oprname::text || ')',
               CASE WHEN a.attcollation <> b.attcollation AND 0 NOT IN (a.attcollation, b.attcollation)
                    THEN ' COLLATE pg_catalog."C"' ELSE '' END] ORDER BY u.place)
        FROM ROWS FROM (pg_catalog.unnest(k.conkey), pg_catalog.unnest(k.confkey), pg_catalog.unnest(k.conpfeqop))
             WITH ORDINALITY AS u (a, b, o, place)
        JOIN pg_catalog.pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.a
        JOIN pg_catalog.pg_attribute b ON b.attrelid = k.confrelid AND b.attnum = u.b
        JOIN pg_catalog.pg_operator o ON o.oid = u.o JOIN pg_catalog.pg_namespace s ON s.oid = o.oprnamespace)
FROM pg_catalog.pg_constraint k
JOIN pg_catalog.pg_class child ON child.oid = k.conrelid JOIN pg_catalog.pg_namespace c ON c.oid = child.relnamespace
JOIN pg_catalog.pg_class parent ON parent.oid = k.confrelid JOIN pg_catalog.pg_namespace p ON p.oid = parent.relnamespace
WHERE k.contype = 'f' AND k.conparentid = 0 AND coalesce((pg_catalog.to_jsonb(k) ->> 'conenforced')::boolean, true)
  AND {which} ORDER BY k.oid
"""
_OF = _KEYS.format(which="k.conrelid = %(oid)s")
_TO = _KEYS.format(
    which="k.confrelid IN (SELECT %(oid)s::oid UNION SELECT relid::oid FROM pg_catalog.pg_partition_tree(%(oid)s::oid) "
    "UNION SELECT relid::oid FROM pg_catalog.pg_partition_ancestors(%(oid)s::oid) AS a (relid))"
)


@dataclass(frozen=True)
class Key:
    """A foreign key: ``child`` and ``parent`` by OID and (schema, name), ``pairs`` of columns with operator and collation.

    ``on_update`` is one letter, as in pg_constraint; ``open`` and ``parent_open``: the role may read all rows of the child, of
    the parent.
    """

    child: int
    parent: int
    child_name: tuple[str, str]
    parent_name: tuple[str, str]
    on_update: str
    validated: bool
    open: bool
    parent_open: bool
    pairs: tuple[tuple[str, str, str, str], ...]

    @property
    def child_table(self) -> str:
        """The child's name, quoted."""
        return ".".join(map(identifier, self.child_name))

    @property
    def parent_table(self) -> str:
        """The parent's name, quoted."""
        return ".".join(map(identifier, self.parent_name))

    @property
    def own(self) -> list[str]:
        """The columns that refer."""
        return [a for a, *_ in self.pairs]

    @property
    def theirs(self) -> list[str]:
        """The columns that are referred to, in the same order."""
        return [b for _, b, *_ in self.pairs]

    def match(self, child: str | Callable[[str], str], parent: str) -> str:
        """SQL: that a row refers to the row ``parent``. ``child`` is its alias, or gives SQL for a column of it."""
        value = child if callable(child) else lambda name: f"{child}.{identifier(name)}"
        return " AND ".join(f"{parent}.{identifier(b)} {same} {value(a)}{how}" for a, b, same, how in self.pairs)


def of(connection: Connection, oid: int) -> list[Key]:
    """The foreign keys of a table."""
    return _found(connection, _OF, oid)


def to(connection: Connection, oid: int) -> list[Key]:
    """The foreign keys that refer to a table, to a partition of it, or to what it is a partition of."""
    return _found(connection, _TO, oid)


def referred(connection: Connection, oid: int) -> str:
    """SQL: whether a foreign key refers to the row ``l`` of a table; one that the role may not read may."""
    each = [
        f"EXISTS (SELECT FROM {key.child_table} AS r WHERE {key.match('r', 'l')})" if key.open else "true"
        for key in to(connection, oid)
    ]
    return f"({' OR '.join(each) or 'false'})"


def _found(connection: Connection, asked: str, oid: int) -> list[Key]:
    with pinned(connection, search_path=SYSTEM_PATH):
        found = connection.exec_driver_sql(asked, {"oid": oid}).all()
    return [
        Key(
            child,
            parent,
            (c, child_name),
            (p, parent_name),
            action,
            valid,
            mine,
            theirs,
            tuple(tuple(pair) for pair in pairs),
        )
        for child, parent, c, child_name, p, parent_name, action, valid, mine, theirs, pairs in found
    ]
