"""Checksum of rows: what must be the same in a table, in its copy, and in the table made anew, on any server and in any session.

PostgreSQL's own hashes, at a fifth of what writing a row out as text costs. By themselves they take 1.10 for 1.1 and bigint
-1 for 4294967295, know enums by OID and stop at json: so they are only given values whose bytes are equal exactly when their
text is, and of everything else the text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from mcp_planner_schema.guard.postcheck import SYSTEM_PATH, execute, identifier, pinned

if TYPE_CHECKING:
    from sqlalchemy import Connection

ALGORITHM = "sum-hash-chain-v3"
"""Written beside every checksum: the number of rows, the sum of their hashes, and that of the hashes of these."""

OUTPUT = {
    "search_path": SYSTEM_PATH,
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "lc_monetary": "C",
    "row_security": "off",
}
"""What the text of a value depends on, whose functions are meant; rows that row level security hides are to be an error."""

TIMEOUT = "mcp_planner_guard.stash_timeout"
"""Where ``stash_timeout`` stands in ``connection.info``, in milliseconds. Where nothing does, no statement is limited."""

# OIDs of PostgreSQL's own types are the same on every server. A column of a domain has the domain's and is text, as its copy is.
_AS_IT_IS = {16: "boolean", 17: "bytea", 26: "oid", 1082: "date", 2950: "uuid"}
_STRING = {25: "text", 1043: "character varying"}
# The hash of 64 bits starts by folding them to 32, so that many pairs have the same one whatever the seed; that of numeric
# knows no scale, and no NaN from null. All integers in one form: a wider column has the same values.
_SENT = {
    20: "int8send", 21: "int8send", 23: "int8send",
    1083: "time_send", 1114: "timestamp_send", 1184: "timestamptz_send", 1700: "numeric_send",
}  # fmt: skip

_INTEGERS, _BOOLEAN, _UUID, _NUMERIC = (20, 21, 23), 16, 2950, 1700
_RECORDED = (17, 26, 1082)
"""bytea, which as text would be twice as long; oid and date, which are too rare for a link of their own."""

_CHAINED = 50
"""How many values are hashed one after the other: each is a call in a call, and PostgreSQL's stack has an end."""
_NULL = 7046029254386353131
"""What turns the seed of a value that is null: the one that stands for it has the other seed, and any number does."""
_INSTEAD = {20: "0", 21: "0", 23: "0", _BOOLEAN: "false", _UUID: "uuid '00000000-0000-0000-0000-000000000000'"}

# Piece by piece, for one may be larger than any value; opened to learn its size, and closed before the next.
_LARGE = """
SELECT count(DISTINCT m.oid), coalesce(sum(hashtextextended(p.said, 0)), 0), coalesce(sum(hashtextextended(p.said, 1)), 0)
FROM pg_catalog.pg_largeobject_metadata m
CROSS JOIN LATERAL (SELECT lo_open(m.oid, 262144) AS handle OFFSET 0) o
CROSS JOIN LATERAL (SELECT lo_lseek64(o.handle, 0, 2) AS bytes OFFSET 0) s
CROSS JOIN LATERAL generate_series(0, (s.bytes + lo_close(o.handle)) / 1048576) AS k(piece)
CROSS JOIN LATERAL (SELECT concat_ws(' ', m.oid, k.piece, md5(lo_get(m.oid, k.piece * 1048576, 1048576))) AS said) p
"""


class Checksum(NamedTuple):
    """How many rows, the sum of each one's 64-bit hash and that of a hash of it. A sum, unlike an xor, sees duplicates."""

    rows: int
    sum_0: int
    sum_1: int


def row_text(columns: Iterable[str], alias: str) -> str:
    """SQL: the text of a row of these columns, in this order."""
    # Not alias::text: that would be the value of a column of that name, where there is one.
    named = ", ".join(f"{alias}.{identifier(name)}" for name in columns)
    return f'ROW({named})::pg_catalog.text COLLATE pg_catalog."C"'


def row_hash(columns: Iterable[str], alias: str) -> str:
    """SQL: one 64-bit number for a row of these columns, in this order."""
    return f"pg_catalog.hashtextextended({row_text(columns, alias)}, 0)"


def alike(
    connection: Connection, kept: str, live: str, columns: Iterable[str], called: Mapping[str, str] | None = None
) -> str:
    """SQL: that the row ``c`` of ``kept`` and the row ``l`` of ``live`` (as they stand in FROM) have the same text.

    Without writing it out, where the two types allow that: a third of the time. ``called``: what the columns are called in
    ``live``.
    """
    names = sorted(columns)
    others = [(called or {}).get(name, name) for name in names]
    was_types = _types(connection, kept, [f"x.{identifier(name)}" for name in names])
    now_types = _types(connection, live, [f"x.{identifier(name)}" for name in others])
    was, now = [], []
    for name, other, one, two in zip(names, others, was_types, now_types, strict=True):
        same = _form(one) == _form(two)
        was.append(_value(f"c.{identifier(name)}", one if same else 0))
        now.append(_value(f"l.{identifier(other)}", two if same else 0))
    # Cast, the rows are compared as wholes: two nulls are the same.
    rows = [f"ROW({', '.join(values)})::pg_catalog.record" for values in (was, now)]
    return f"({rows[0]} OPERATOR(pg_catalog.=) {rows[1]})"


def of(connection: Connection, rows_of: str, columns: Iterable[str]) -> Checksum:
    """Read ``rows_of`` (a relation as it stands in FROM) once. To be called with :data:`OUTPUT` pinned.

    The columns are taken in the order of their names, so that one dropped and added again changes nothing.
    """
    names = [f"x.{identifier(name)}" for name in sorted(columns)]
    # OFFSET keeps the planner from writing the hash out once for each sum. As a bigint, for with any other zero it does not see
    # that nothing is left out, and takes no parallel workers.
    row = execute(
        connection,
        "SELECT pg_catalog.count(*), coalesce(pg_catalog.sum(y.h), 0), "
        "coalesce(pg_catalog.sum(pg_catalog.hashint4extended(1, y.h)), 0) "  # of a constant, with all 64 bits as its seed
        f"FROM (SELECT {_hash(names, _types(connection, rows_of, names))} AS h FROM {rows_of} AS x OFFSET bigint '0') AS y",
    ).one()
    return Checksum(row[0], int(row[1]), int(row[2]))


def _hash(names: list[str], types: list[int]) -> str:
    """SQL: the 64-bit hash of a row of these columns.

    A chain: each value's hash has the hash so far as its seed. A record's own hash is 31 times that of the columns before plus
    that of the next: added up just so, two rows that swap their values in one column would go unseen. As a seed it is stirred,
    so what no hash takes with a seed is put into a record, which the chain begins with; to make one takes longer than a link.
    """
    columns = list(zip(names, types, strict=True))
    chained = [one for one in columns if one[1] not in _RECORDED][:_CHAINED]
    record = [_value(*one) for one in columns if one not in chained]
    first = f"pg_catalog.hash_record_extended(ROW({', '.join(record)}), 0)" if record else "bigint '0'"
    if not chained:
        return f"pg_catalog.hashint4extended(0, {first})"
    whole = with_nulls = first
    for name, oid in chained:
        whole = _link(name, oid, whole)
        turned = (
            f"CASE WHEN pg_catalog.num_nulls({name}) OPERATOR(pg_catalog.=) 1 THEN bigint '{_NULL}' ELSE bigint '0' END"
        )
        with_nulls = _link(name, oid, f"{with_nulls} OPERATOR(pg_catalog.#) {turned}", null=True)
    # The same for a row without nulls, at three quarters of the time.
    nulls = f"pg_catalog.num_nulls({', '.join(name for name, _ in chained)})"
    return f"CASE WHEN {nulls} OPERATOR(pg_catalog.=) 0 THEN {whole} ELSE {with_nulls} END"


def _link(name: str, oid: int, seed: str, *, null: bool = False) -> str:
    """SQL: the hash of one value that begins with ``seed``. It may be ``null``: then some value, for it has another seed."""
    given = f"coalesce({name}, {_INSTEAD[oid]})" if null and oid in _INSTEAD else name
    if oid in _INTEGERS:
        # The hash of 64 bits folds them to 32, whatever the seed: with the upper half by itself nothing is left out.
        upper = f"pg_catalog.hashint8extended({given}::bigint OPERATOR(pg_catalog.>>) 32, {seed})"
        return f"pg_catalog.hashint8extended({given}::bigint, {upper})"
    if oid == _BOOLEAN:
        return f"pg_catalog.hashint4extended({given}::int, {seed})"
    if oid == _UUID:
        return f"pg_catalog.uuid_hash_extended({given}, {seed})"
    if oid == _NUMERIC:
        text = f"pg_catalog.textin(pg_catalog.numeric_out({name}))"
    elif oid in _SENT:
        text = f"pg_catalog.encode({_value(name, oid)}, 'hex')"
    else:
        text = _value(name, oid)
    text = f"coalesce({text}, '')" if null else text
    return f'pg_catalog.hashtextextended({text} COLLATE pg_catalog."C", {seed})'


def _types(connection: Connection, rows_of: str, names: list[str]) -> list[int]:
    """The columns' types by OID, of rows or none. A result's own description would show a domain's base type."""
    if not names:
        return []
    types = ", ".join(f"pg_catalog.pg_typeof({name})::pg_catalog.oid" for name in names)
    asked = f"SELECT {types} FROM (SELECT) AS one LEFT JOIN (SELECT * FROM {rows_of} AS x LIMIT 0) AS x ON true"
    return list(execute(connection, asked).one())


def _form(oid: int) -> str:
    """In which type a value of this one is compared, "" for its text. A record of text is not compared with one of varchar."""
    return _AS_IT_IS.get(oid) or _STRING.get(oid) or _SENT.get(oid, "")


def _value(name: str, oid: int) -> str:
    """SQL: what stands for a value in its row's hash; equal exactly when the text of the value is."""
    if oid in _AS_IT_IS:
        return name
    if oid in _STRING:
        return f'{name} COLLATE pg_catalog."C"'
    if oid in _SENT:
        return f"pg_catalog.{_SENT[oid]}({name})"
    # As the stash keeps it: what the type's output function gives. A row of nulls "IS NULL", and is a value.
    given = f"pg_catalog.num_nonnulls({name}) OPERATOR(pg_catalog.=) 1"
    return f"CASE WHEN {given} THEN pg_catalog.format('%s', {name}) END COLLATE pg_catalog.\"C\""


@contextmanager
def reading(connection: Connection) -> Iterator[None]:
    """While inside, the guard copies, compares or puts back rows: :data:`OUTPUT` is pinned, ``stash_timeout`` holds.

    How long that takes has nothing to do with how long the revision's own statements may. An error says that it was here
    (:func:`was_reading`); after one nothing is put back.
    """
    try:
        with pinned(connection, **OUTPUT, statement_timeout=f"{connection.info.get(TIMEOUT, 0)}ms"):
            yield
    except Exception as error:
        error._guard_reading = True  # type: ignore[attr-defined]
        raise


def was_reading(error: BaseException) -> bool:
    """Whether an error came out of :func:`reading`, and not out of the revision."""
    return getattr(error, "_guard_reading", False)


def checksum(connection: Connection, rows_of: str, columns: Iterable[str]) -> Checksum:
    """:func:`of`, with :data:`OUTPUT` pinned meanwhile."""
    with reading(connection):
        return of(connection, rows_of, columns)


def large_objects(connection: Connection) -> Checksum:
    """Of all large objects of the database, numbers and bytes; ``rows`` is how many there are."""
    with reading(connection):
        rows, *sums = execute(connection, _LARGE).one()
    return Checksum(rows, *map(int, sums))
