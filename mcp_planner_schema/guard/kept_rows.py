"""What a backfill overwrites, kept row by row: a stash like a downgrade's, but written while an upgrade fills.

Beside the key and the old values each row has the new ones, so that the downgrade gives old values back only to rows that still
have what was filled in. It is filled batch by batch, in the statement that writes the rows; its checksums are taken at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mcp_planner_schema.guard import checksum, evidence, manifest, stash
from mcp_planner_schema.guard.checksum import ALGORITHM
from mcp_planner_schema.guard.evidence import Column, Table
from mcp_planner_schema.guard.manifest import Object, Stash
from mcp_planner_schema.guard.postcheck import execute, identifier
from mcp_planner_schema.guard.write_back import typed

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from mcp_planner_schema.guard.brief import Keeping
    from mcp_planner_schema.guard.journal import Step

_OF = "version_table = %s AND revision = %s AND direction = %s AND name = %s"


@dataclass(frozen=True)
class Kept:
    """Where a backfill keeps what it overwrites. ``place`` is the copy, quoted; ``columns`` are those that it sets."""

    stash: int
    place: str
    key: tuple[Column, ...]
    columns: tuple[Column, ...]

    def same_key(self) -> str:
        """SQL: the row ``c`` of the copy is that of the row ``filled`` of the table."""
        pairs = (
            f"c.{identifier(one.name)} OPERATOR(pg_catalog.=) {stash.value(one, 'filled.', bare=True)}"
            for one in self.key
        )
        return " AND ".join(pairs)

    def still(self) -> str:
        """SQL: the row ``filled`` has what ``c`` says was filled in. As text: not every type has an equality."""
        was = ", ".join(f"c.{new(place)}" for place in range(len(self.columns)))
        now = ", ".join(stash.value(one, "filled.", bare=True) for one in self.columns)
        return (
            f'ROW({was})::pg_catalog.text COLLATE pg_catalog."C" = ROW({now})::pg_catalog.text COLLATE pg_catalog."C"'
        )

    def given_back(self) -> tuple[str, str]:
        """SQL of a backfill that gives the old values back: what it sets, and in which rows."""
        source = f"FROM {self.place} AS c WHERE {self.same_key()}"
        names = ", ".join(identifier(one.name) for one in self.columns)
        values = ", ".join(typed(one) for one in self.columns)
        return f"({names}) = (SELECT {values} {source})", f"EXISTS (SELECT {source} AND {self.still()})"


def new(place: int) -> str:
    """The column of the copy, quoted, that has what was filled into the column at ``place``."""
    return identifier(f"guard:new_{place}")


def begin(
    connection: Connection, step: Step, backfill: int, keeping: Keeping, name: str, table: Table, columns: Sequence[str]
) -> Kept:
    """The stash of a running backfill, made where an interrupted run has not. To be called in a transaction."""
    asked = f"SELECT detail ->> 'stash' FROM {step.schema}.backfill WHERE id = %s FOR UPDATE"
    number = connection.exec_driver_sql(asked, (backfill,)).scalar()
    if number is None:
        number = _made(connection, step, backfill, keeping, name, table, columns)
    return _kept(manifest.find(connection, step.schema, int(number)), table)


def seal(connection: Connection, schema: str, kept: Kept) -> int:
    """All is filled: prove what was kept by its checksums; gives how many rows. To be called in a transaction."""
    one = manifest.find(connection, schema, kept.stash).objects[0]
    with checksum.reading(connection):
        found = checksum.of(connection, kept.place, one.columns)
    connection.exec_driver_sql(
        f"UPDATE {schema}.stash_object SET row_count = %s, sum_0 = %s, sum_1 = %s, algorithm = %s, bytes = %s "
        "WHERE stash_id = %s AND number = %s",
        (*found, ALGORITHM, stash.size(connection, kept.place), kept.stash, one.number),
    )
    return found.rows


def of(connection: Connection, step: Step, name: str) -> Stash | None:
    """What the upgrade of the running revision has kept for this backfill; None where it has kept nothing."""
    asked = f"SELECT detail ->> 'stash' FROM {step.schema}.backfill WHERE {_OF}"
    key = (step.version_table, step.revision, "upgrade", name)
    number = connection.exec_driver_sql(asked, key).scalar()
    return None if number is None else manifest.find(connection, step.schema, int(number))


def again(connection: Connection, stash: Stash) -> tuple[Kept, Table] | None:
    """The same to give it back, and the table it is of; None where that has gone."""
    one = stash.objects[0]
    table = evidence.named(connection, one.schema, one.name)
    return (_kept(stash, table), table) if table else None


def given(connection: Connection, step: Step, name: str, kept: Kept, table: Table, who: str) -> tuple[int, int, int]:
    """Write down what became of it. Gives how many rows have their old values, were changed since, and are gone."""
    back = connection.exec_driver_sql(
        f"SELECT coalesce(pg_catalog.sum(r.rows_written), 0)::bigint FROM {step.schema}.backfill_range r "
        f"JOIN {step.schema}.backfill b ON b.id = r.backfill WHERE {_OF}",
        (step.version_table, step.revision, "downgrade", name),
    ).scalar_one()
    rows = f"SELECT FROM {evidence.name_of(table)} AS filled WHERE {kept.same_key()}"
    counted = (
        f"SELECT pg_catalog.count(*), pg_catalog.count(*) FILTER (WHERE NOT EXISTS ({rows})) FROM {kept.place} AS c"
    )
    whole, gone = execute(connection, counted).one()
    manifest.mark_object(connection, step.schema, kept.stash, 1, back, whole - back)
    manifest.mark(connection, step.schema, kept.stash, "restored" if back == whole else "partly restored", who)
    return back, whole - back - gone, gone


def _made(
    connection: Connection, step: Step, backfill: int, keeping: Keeping, name: str, table: Table, columns: Sequence[str]
) -> int:
    number = manifest.next_id(connection, step.schema)
    there = {one.name: one for one in table.columns.values()}
    one = Object(
        1, "rows", table.schema, table.name, relation=table.name, key=table.key, columns=(*table.key, *columns),
        types=tuple(there[name].type for name in (*table.key, *columns)),
    )  # fmt: skip
    kept_in = manifest.schema_of(step.schema, number)
    stash.make_schema(connection, kept_in)
    copy = f"{identifier(kept_in)}.{identifier(table.name)}"
    taken = [stash.value(there[name], "l.") for name in one.columns]
    taken += [f"{stash.value(there[name], 'l.', bare=True)} AS {new(place)}" for place, name in enumerate(columns)]
    execute(
        connection,
        f"CREATE TABLE {copy} AS SELECT {', '.join(taken)} FROM {evidence.name_of(table)} AS l WITH NO DATA",
    )
    execute(connection, f"CREATE UNIQUE INDEX ON {copy} ({', '.join(map(identifier, table.key))})")
    execute(connection, f"ALTER TABLE {copy} REPLICA IDENTITY FULL")
    stash.close(connection, copy)
    manifest.write(
        connection, step.schema, number, run=step.run, version_table=step.version_table, revision=step.revision,
        who=keeping.who, why=f"backfill {name}", days=keeping.days, objects=[one], direction="upgrade",
    )  # fmt: skip
    connection.exec_driver_sql(
        f"UPDATE {step.schema}.backfill SET detail = detail || pg_catalog.jsonb_build_object('stash', %s::bigint) WHERE id = %s",
        (number, backfill),
    )
    return number


def _kept(stash: Stash, table: Table) -> Kept:
    [one] = stash.objects
    there = {column.name: column for column in table.columns.values()}
    columns = tuple(there[name] for name in one.columns if name not in one.key)
    return Kept(stash.id, stash.place(one), tuple(there[name] for name in one.key), columns)
