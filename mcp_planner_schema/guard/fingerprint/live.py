"""The lines of a live database. Reads the catalog only, as whoever asks: a role without any right sees the same."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import TYPE_CHECKING

from mcp_planner_schema.guard import prepared
from mcp_planner_schema.guard.evidence import own
from mcp_planner_schema.guard.fingerprint import other_tools, query
from mcp_planner_schema.guard.fingerprint.canonical import canonical
from mcp_planner_schema.guard.fingerprint.line import PARTS, Line, Lines, Picture
from mcp_planner_schema.guard.postcheck import SYSTEM_PATH, execute, literal, pinned

if TYPE_CHECKING:
    from sqlalchemy import Connection

VERSION_TABLE = "alembic_version"
_LABEL = re.compile(r"'(?:[^']|'')*'")

# What decides how PostgreSQL writes a name, a constant, a date. Names are qualified where they are not PostgreSQL's own.
# The query costs enough for JIT to be tried, which takes longer than the query.
PREAMBLE = {
    "search_path": SYSTEM_PATH,
    "quote_all_identifiers": "off",
    "datestyle": "ISO, MDY",
    "intervalstyle": "postgres",
    "timezone": "UTC",
    "bytea_output": "hex",
    "standard_conforming_strings": "on",
    "extra_float_digits": "1",
    "jit": "off",
    "plan_cache_mode": "force_generic_plan",
}
# A few objects are found through indexes; to look for anything else takes longer than to find them.
_FEW = {"enable_hashjoin": "off", "enable_mergejoin": "off", "enable_material": "off"}
_MANY = 500

_EXECUTE = "EXECUTE {} (%(own)s, %(without)s::text[], %(named)s::name[], %(secret)s, %(only)s::oid[])"
_PLACES = {"own": "$1", "without": "$2", "named": "$3", "secret": "$4", "only": "$5"}


def read(
    connection: Connection,
    schema: str,
    only: Collection[int] | None = None,
    *,
    without: Collection[str] = (VERSION_TABLE,),
) -> dict[int, Lines]:
    """The lines of the whole database, or of some objects (``only``, OIDs as :func:`.touched.since` gives them).

    ``schema`` is the guard's: that and those of its stashes are left out, and so are the tables named in ``without`` (Alembic's
    version table, with or without its schema) and those of :mod:`.other_tools`. Call it in a transaction: settings are changed
    for this query and come back.
    """
    if only is not None and not only:
        return {}
    few = only is not None and len(only) < _MANY
    with pinned(connection, **PREAMBLE, **(_FEW if few else {})):
        asked = query.text(_major(connection), only=only is not None)
        if few and prepared.is_there(connection, asked):
            asked = _EXECUTE.format(prepared.name(asked))
        return _sorted(connection, asked, schema, without, only)


def at_once(connection: Connection, schema: str, *, without: Collection[str] = (VERSION_TABLE,)) -> dict[int, Lines]:
    """:func:`read` of the whole database in one round trip, on a connection in autocommit.

    Statements that are sent together are one transaction, and the settings end with it. Raises ValueError for a connection on
    which a transaction would go on, and they with it.
    """
    if not connection.connection.dbapi_connection.autocommit:  # type: ignore[union-attr]  # it is connected
        raise ValueError("the catalog is read at once on a connection in autocommit only")
    local = {**PREAMBLE, "transaction_read_only": "on"}
    setting = ", ".join(
        f"pg_catalog.set_config({literal(name)}, {literal(value)}, true)" for name, value in local.items()
    )
    return _sorted(connection, f"SELECT {setting};\n{query.text(_major(connection), only=False)}", schema, without)


def prepare(connection: Connection, schema: str) -> None:
    """Let the session plan now what :func:`read` asks of some objects: that takes longer than the answer, and no lock is held
    yet. Call it in a transaction; it stays prepared when that is rolled back."""
    with pinned(connection, **PREAMBLE, **_FEW):
        text = query.text(_major(connection), only=True)
        if not prepared.is_there(connection, text):
            execute(
                connection, f"PREPARE {prepared.name(text)} (text, text[], name[], text, oid[]) AS {text % _PLACES}"
            )
        connection.exec_driver_sql(_EXECUTE.format(prepared.name(text)), _values(schema, (), ())).all()


def _sorted(
    connection: Connection, asked: str, schema: str, without: Collection[str], only: Collection[int] | None = None
) -> dict[int, Lines]:
    """The lines that the question gives, by the object that they belong to."""
    found: dict[int, set[Line]] = {}
    for at, kind, identity, definition in connection.exec_driver_sql(asked, _values(schema, without, only)):
        found.setdefault(at, set()).add(Line(kind, identity, canonical(kind, definition or "")))
    return {at: frozenset(lines) for at, lines in found.items()}


def _values(schema: str, without: Collection[str], only: Collection[int] | None) -> dict[str, object]:
    return {
        "own": own(schema),
        "without": list(without),
        "named": [*(name.rpartition(".")[2] for name in without), *other_tools.TABLES],
        "secret": query.SECRET,
        "only": None if only is None else sorted(only),
    }


def again(
    connection: Connection,
    schema: str,
    before: Picture,
    touched: Collection[int],
    *,
    without: Collection[str] = (VERSION_TABLE,),
) -> dict[int, Lines]:
    """What :func:`read` would find now: ``before``, and the objects touched since; where one has another name now, also those
    whose lines name it."""
    now: dict[int, Lines] = {}
    asked, further = set(touched), set(touched)
    while fresh := read(connection, schema, further, without=without):
        now |= fresh
        renamed = [oid for oid in fresh if _renamed(before.get(oid, frozenset()), fresh[oid])]
        # Not those without lines of their own again: an index may have the OID of some table's constraint, and lead back to it.
        further = _naming(connection, renamed) - asked - now.keys()
        asked |= further
    return {**{oid: lines for oid, lines in before.items() if oid not in touched}, **now}


def _naming(connection: Connection, renamed: list[int]) -> set[int]:
    """The objects whose lines name one of these."""
    if not renamed:
        return set()
    with pinned(connection, search_path=PREAMBLE["search_path"]):
        return set(connection.exec_driver_sql(query.NAMING, {"only": renamed}).scalars())


def _renamed(before: Lines, now: Lines) -> bool:
    """Whether the object, a column or a label of it, is gone under one name and there under another."""
    names = [{(line.kind, line.identity) for line in lines if line.kind not in PARTS} for lines in (before, now)]
    labels = [
        {one for line in lines if line.kind == "type" for one in _LABEL.findall(line.definition)}
        for lines in (before, now)
    ]
    return any(one - other and other - one for one, other in (names, labels))


def _major(connection: Connection) -> int:
    version = connection.dialect.server_version_info
    return (
        int(version[0]) if version else int(connection.exec_driver_sql("SHOW server_version_num").scalar_one()) // 10000
    )
