"""Expectations: what must be true after a revision, one call each.

``expectations = [expect.table("projects"), …]`` in a revision becomes one DO block in the step's transaction. Nothing here
touches a database; a name without schema is looked for in ``public``, and types and defaults are written as psql shows them
with nothing but ``public`` in the search_path, so that no search_path can answer for another.
"""

from __future__ import annotations

from collections.abc import Sequence

from mcp_planner_schema.guard.postcheck import Expectation, identifier, literal, opposite


def table(name: str, *, schema: str = "public") -> Expectation:
    """A table, ordinary or partitioned, of this name exists."""
    where = f"FROM pg_catalog.pg_class c WHERE c.relname = {literal(name)} AND c.relnamespace = {_schema(schema)}"
    kind = (
        "CASE c.relkind WHEN 'v' THEN 'a view' WHEN 'm' THEN 'a materialized view' WHEN 'S' THEN 'a sequence' "
        "WHEN 'i' THEN 'an index' WHEN 'I' THEN 'an index' WHEN 'f' THEN 'a foreign table' "
        "WHEN 'c' THEN 'a composite type' ELSE 'the table' END"
    )
    return Expectation(
        f"table {_shown(schema, name)}",
        f"EXISTS (SELECT {where} AND c.relkind IN ('r', 'p'))",
        f"SELECT {kind} {where} AND c.relkind <> 't'",
        subject=f"{schema}.{name}",
    )


def column(
    table: str,
    name: str,
    *,
    type: str | None = None,
    nullable: bool | None = None,
    default: str | None = None,
    schema: str = "public",
) -> Expectation:
    """A column exists; with ``type`` (as psql shows it: ``double precision``), ``nullable``, ``default`` where given.

    ``nullable=False`` means that no row can hold null: a NOT NULL that is NOT VALID does not count.
    """
    where = (
        "FROM pg_catalog.pg_attribute a LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum "
        f"WHERE a.attrelid = {_relation(schema, table)} AND a.attname = {literal(name)} AND NOT a.attisdropped"
    )
    # PostgreSQL 18 sets attnotnull for a NOT NULL that no row has been checked against; its constraint tells.
    not_null = (
        "(a.attnotnull AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint k WHERE k.conrelid = a.attrelid "
        "AND k.contype = 'n' AND k.conkey[1] = a.attnum AND NOT k.convalidated))"
    )
    shape = (
        f"pg_catalog.concat(pg_catalog.format_type(a.atttypid, a.atttypmod), CASE WHEN {not_null} THEN ' not null' "
        "WHEN a.attnotnull THEN ' not null (not valid)' END, CASE WHEN d.oid IS NOT NULL THEN CASE WHEN a.attgenerated = '' "
        "THEN ' default ' ELSE ' generated as ' END END, pg_catalog.pg_get_expr(d.adbin, d.adrelid))"
    )
    says, holds = f"column {_shown(schema, table)}.{name}", where
    if type is not None:
        says += f" of type {type}"
        holds += f" AND pg_catalog.format_type(a.atttypid, a.atttypmod) = {literal(type)}"
    if nullable is not None:
        says += " null" if nullable else " not null"
        holds += " AND NOT a.attnotnull" if nullable else f" AND {not_null}"
    if default is not None:
        says += f" default {default}"
        holds += f" AND a.attgenerated = '' AND pg_catalog.pg_get_expr(d.adbin, d.adrelid) = {literal(default)}"
    within = f"{schema}.{table}"
    return Expectation(
        says, f"EXISTS (SELECT {holds})", f"SELECT {shape} {where}", subject=f"{within}.{name}", within=within
    )


def index(name: str, *, table: str | None = None, unique: bool | None = None, schema: str = "public") -> Expectation:
    """A *valid* index of this name exists: one that a failed CONCURRENTLY left behind does not count."""
    where = (
        "FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid "
        f"WHERE c.relname = {literal(name)} AND c.relnamespace = {_schema(schema)}"
    )
    says, holds = f"valid index {_shown(schema, name)}", where + " AND i.indisvalid AND i.indisready"
    if table is not None:
        says += f" on {table}"
        holds += f" AND i.indrelid = {_relation(schema, table)}"
    if unique is not None:
        says = says.replace("valid index", "valid unique index" if unique else "valid index that is not unique")
        holds += f" AND i.indisunique = {str(unique).lower()}"
    found = "CASE WHEN i.indisvalid THEN '' ELSE 'INVALID: ' END || pg_catalog.pg_get_indexdef(i.indexrelid)"
    subject, within = f"index {schema}.{name}", f"{schema}.{table}" if table else ""
    return Expectation(says, f"EXISTS (SELECT {holds})", f"SELECT {found} {where}", subject=subject, within=within)


def constraint(table: str, name: str, *, validated: bool = True, schema: str = "public") -> Expectation:
    """A constraint exists on the table and, unless ``validated=False``, has been checked against every row."""
    where = (
        f"FROM pg_catalog.pg_constraint k WHERE k.conrelid = {_relation(schema, table)} AND k.conname = {literal(name)}"
    )
    return Expectation(
        f"constraint {name} on {_shown(schema, table)}" + ("" if validated else ", validated or not"),
        f"EXISTS (SELECT {where}{' AND k.convalidated' if validated else ''})",
        f"SELECT pg_catalog.pg_get_constraintdef(k.oid) {where}",
        subject=f"constraint {schema}.{table}.{name}",
        within=f"{schema}.{table}",
    )


def enum(name: str, labels: Sequence[str], *, schema: str = "public") -> Expectation:
    """An enum type exists with exactly these labels in this order."""
    labelled = (
        "pg_catalog.array_agg(e.enumlabel::pg_catalog.text ORDER BY e.enumsortorder) FILTER (WHERE e.oid IS NOT NULL)"
    )
    where = (
        "FROM pg_catalog.pg_type t LEFT JOIN pg_catalog.pg_enum e ON e.enumtypid = t.oid "
        f"WHERE t.typname = {literal(name)} AND t.typnamespace = {_schema(schema)}"
    )
    wanted = ", ".join(literal(label) for label in labels)
    kind = "CASE t.typtype WHEN 'd' THEN 'a domain' WHEN 'c' THEN 'a composite type' ELSE 'no enum' END"
    return Expectation(
        f"enum {_shown(schema, name)} ({', '.join(labels)})",
        f"(SELECT coalesce({labelled}, '{{}}') {where} AND t.typtype = 'e' GROUP BY t.oid) "
        f"OPERATOR(pg_catalog.=) ARRAY[{wanted}]::pg_catalog.text[]",
        f"SELECT CASE t.typtype WHEN 'e' THEN '(' || coalesce(pg_catalog.array_to_string({labelled}, ', '), '') || ')' "
        f"ELSE {kind} END {where} GROUP BY t.oid",
        subject=f"enum {schema}.{name}",
    )


def function(signature: str, *, schema: str = "public") -> Expectation:
    """A function of this signature exists: ``"name(uuid, integer)"``, types as psql's ``\\df`` shows them."""
    name, opened, rest = signature.strip().removesuffix(")").rpartition("(")
    if not opened:
        raise ValueError(f"write {signature!r} with the types of its arguments: 'name(uuid, integer)', 'name()'")
    name, arguments = name.strip(), ", ".join(part.strip() for part in rest.split(","))
    where = f"FROM pg_catalog.pg_proc p WHERE p.proname = {literal(name)} AND p.pronamespace = {_schema(schema)}"
    shape = "pg_catalog.oidvectortypes(p.proargtypes)"
    return Expectation(
        f"function {_shown(schema, name)}({arguments})",
        f"EXISTS (SELECT {where} AND {shape} = {literal(arguments)})",
        f"SELECT pg_catalog.string_agg(pg_catalog.concat(p.proname, '(', {shape}, ')'), ', ' ORDER BY {shape}) {where}",
        subject=f"function {schema}.{name}({arguments})",
    )


def trigger(table: str, name: str, *, schema: str = "public") -> Expectation:
    """A trigger exists on the table and fires: it is neither disabled nor for replicas only."""
    where = f"FROM pg_catalog.pg_trigger t WHERE t.tgrelid = {_relation(schema, table)} AND t.tgname = {literal(name)}"
    state = "CASE t.tgenabled WHEN 'D' THEN 'disabled: ' WHEN 'R' THEN 'for replicas only: ' ELSE '' END"
    return Expectation(
        f"enabled trigger {name} on {_shown(schema, table)}",
        f"EXISTS (SELECT {where} AND t.tgenabled IN ('O', 'A'))",
        f"SELECT {state} || pg_catalog.pg_get_triggerdef(t.oid) {where}",
        subject=f"trigger {schema}.{table}.{name}",
        within=f"{schema}.{table}",
    )


def absent(other: Expectation) -> Expectation:
    """The opposite of another expectation: ``expect.absent(expect.column("steps", "old_name"))``."""
    return opposite(other)


def query(sql: str, *, equals: object) -> Expectation:
    """A query of one row and one column gives ``equals``. It is run as written, and not turned around on the way back."""
    asked = f"({_one_query(sql)})::pg_catalog.text"
    wanted = "true" if equals is True else "false" if equals is False else str(equals)
    holds = f"{asked} IS NULL" if equals is None else f"{asked} = {literal(wanted)}"
    says = f"{wanted} from {sql.strip()}"
    return Expectation(says, holds, asked, reversible=False, catalog=False, subject=sql.strip())


def rows(sql: str, *, count: int) -> Expectation:
    """A query gives exactly ``count`` rows; not turned around on the way back."""
    counted = f"(SELECT pg_catalog.count(*) FROM ({_one_query(sql)}) AS counted)"
    return Expectation(
        f"{count} rows from {sql.strip()}",
        f"{counted} OPERATOR(pg_catalog.=) {int(count)}",
        f"pg_catalog.concat({counted}, ' rows')",
        reversible=False,
        catalog=False,
        subject=sql.strip(),
    )


def _one_query(sql: str) -> str:
    # The newline ends a trailing -- comment before the closing parenthesis.
    return sql.strip().rstrip(";") + "\n"


def _schema(name: str) -> str:
    return f"pg_catalog.to_regnamespace({literal(identifier(name))})::pg_catalog.oid"


def _relation(schema: str, name: str) -> str:
    return f"pg_catalog.to_regclass({literal(identifier(schema) + '.' + identifier(name))})::pg_catalog.oid"


def _shown(schema: str, name: str) -> str:
    return name if schema == "public" else f"{schema}.{name}"
