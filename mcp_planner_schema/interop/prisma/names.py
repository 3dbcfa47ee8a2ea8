"""From names in the database to names in Prisma: as ``prisma db pull`` has them, and none of them twice or empty."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from mcp_planner_schema.interop.prisma.catalog import Enum, Table

# What neither a model nor an enum may be called: Prisma's own types, and the words that its client cannot have.
_RESERVED = frozenset(
    re.findall(
        r"\w+",
        """
        PrismaClient String Boolean Int BigInt Float Decimal DateTime Json Bytes Unsupported
        break case catch class const continue debugger default delete do else enum export extends false finally for function if
        implements import in instanceof interface let new null package private protected public return super switch this throw
        true try typeof var void while with yield
        """,
    )
)
_STAND_IN = "unnamed"


def sanitised(name: str) -> str:
    """A name as Prisma's own introspection changes it; empty where nothing of it remains."""
    if re.match(r"[a-zA-Z][_a-zA-Z0-9]*\Z", name):
        return name
    return re.sub(r"[^_a-zA-Z0-9]", "_", re.sub(r"\A[^a-zA-Z]+", "", name))


def unused(name: str, taken: set[str]) -> str:
    """``name``, with a number where it is taken; it is taken from now on."""
    found, number = name, 1
    while found in taken:
        number += 1
        found = f"{name}_{number}"
    taken.add(found)
    return found


def plain(name: str) -> str:
    """The name of a model or enum as if there were no other one; relation fields are called by it."""
    found = sanitised(name)
    return f"Renamed{found}" if found in _RESERVED else found or _STAND_IN


def types(declared: Iterable[Table | Enum]) -> dict[int, str]:
    """The name of each model and enum by its OID: with its schema where two would have the same one."""
    every = list(declared)
    count = Counter(sanitised(one.name) for one in every)
    wanted = {
        one.oid: plain(one.name if count[sanitised(one.name)] == 1 else f"{one.schema}_{one.name}") for one in every
    }
    # Whoever keeps its name has it: only then is another one given a number.
    order = sorted(every, key=lambda one: wanted[one.oid] != one.name)
    taken: set[str] = set()
    return {one.oid: unused(wanted[one.oid], taken) for one in order}


def distinct(names: Iterable[str], empty: str = _STAND_IN) -> dict[str, str]:
    """The name of each column, or of each value of an enum, by its name in the database."""
    every = list(names)
    taken: set[str] = set()
    order = sorted(every, key=lambda name: sanitised(name) != name)
    found = {name: unused(sanitised(name) or empty, taken) for name in order}
    return {name: found[name] for name in every}


def usual(table: str, columns: Iterable[str], suffix: str) -> str:
    """The name that Prisma gives a constraint or an index where none is written: within 63 bytes, as PostgreSQL's."""
    joined = "_".join([table, *columns]).encode()
    limit = 63 - len(suffix)
    if len(joined) >= limit:
        joined = joined[:limit]
    return joined.decode(errors="ignore") + suffix
