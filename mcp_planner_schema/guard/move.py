"""Keeps a huge table by moving it away instead of copying it, where that can make no difference to anybody.

Only where the trial has shown that the downgrade drops the whole table, reads nothing of it, and writes no rows at all; and
where nothing but foreign keys hangs on it, and it on nothing. Its foreign keys and triggers are taken off, so that the stash
cannot be reached and holds nothing up, and a stand-in without rows takes its place: the untouched downgrade() then
finds what it found in its trial. Whatever is different in the end is a reason to copy after all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from mcp_planner_schema.guard import damage, evidence, ladder, parts, reading, regrant, sequences, structure, trial
from mcp_planner_schema.guard.evidence import Table, name_of
from mcp_planner_schema.guard.parts import Parts
from mcp_planner_schema.guard.postcheck import SYSTEM_PATH, execute, identifier, literal, pinned
from mcp_planner_schema.guard.reading import Counted
from mcp_planner_schema.guard.sequences import Sequence as Standing
from mcp_planner_schema.guard.structure import Lines
from mcp_planner_schema.guard.tripwire import CommitInside, ended

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from mcp_planner_schema.guard.stash import Kept
    from mcp_planner_schema.guard.trial import Trial


# Everything that is the table's own, or a foreign key to or from it; then whatever depends across that border. What
# PostgreSQL itself brings is not in pg_depend; a function that a trigger calls is let go with the trigger.
_TIES = """
WITH own AS MATERIALIZED (
    SELECT 'pg_class'::regclass::oid AS classid, c.oid AS objid, false AS crosses FROM pg_class c
    WHERE c.oid = %(oid)s OR c.oid IN (SELECT indexrelid FROM pg_index WHERE indrelid = %(oid)s)
       OR c.oid = (SELECT reltoastrelid FROM pg_class WHERE oid = %(oid)s)
       OR c.oid IN (SELECT i.indexrelid FROM pg_index i JOIN pg_class t ON t.reltoastrelid = i.indrelid WHERE t.oid = %(oid)s)
       OR c.oid IN (SELECT d.objid FROM pg_depend d JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
           WHERE d.classid = 'pg_class'::regclass
                    AND d.refclassid = 'pg_class'::regclass AND d.refobjid = %(oid)s AND d.deptype IN ('a', 'i')
                        AND d.refobjsubid > 0)
    UNION ALL SELECT 'pg_type'::regclass, t.oid, false FROM pg_type t WHERE t.typrelid = %(oid)s
       OR t.oid = (SELECT e.typarray FROM pg_type e WHERE e.typrelid = %(oid)s)
    UNION ALL SELECT 'pg_constraint'::regclass, k.oid, k.contype = 'f' FROM pg_constraint k
    WHERE k.conrelid = %(oid)s OR k.confrelid = %(oid)s
    UNION ALL SELECT 'pg_attrdef'::regclass, a.oid, false FROM pg_attrdef a WHERE a.adrelid = %(oid)s
    UNION ALL SELECT 'pg_statistic_ext'::regclass, s.oid, false FROM pg_statistic_ext s WHERE s.stxrelid = %(oid)s
    UNION ALL SELECT 'pg_trigger'::regclass, g.oid, true FROM pg_trigger g WHERE g.tgrelid = %(oid)s
       OR g.tgconstraint IN (SELECT k.oid FROM pg_constraint k WHERE k.confrelid = %(oid)s OR k.conrelid = %(oid)s)
)
SELECT pg_describe_object(d.classid, d.objid, d.objsubid) || ' depends on ' || pg_describe_object(d.refclassid, d.refobjid,
    d.refobjsubid)
FROM pg_depend d
LEFT JOIN own a ON a.classid = d.classid AND a.objid = d.objid
LEFT JOIN own b ON b.classid = d.refclassid AND b.objid = d.refobjid
WHERE (a.objid IS NULL) <> (b.objid IS NULL) AND (NOT coalesce(a.crosses, false) OR d.deptype = 'x')
  AND NOT (a.objid IS NOT NULL AND d.refclassid = 'pg_namespace'::regclass)
UNION ALL
SELECT 'its kind' FROM pg_class c WHERE c.oid = %(oid)s AND (c.relkind <> 'r' OR c.relpersistence <> 'p' OR c.relispartition
  OR c.relhassubclass OR c.relrowsecurity OR c.relhasrules)
UNION ALL
SELECT 'a foreign key of a partitioned table' FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid
WHERE k.contype = 'f' AND %(oid)s IN (k.conrelid, k.confrelid) AND (c.relkind <> 'r' OR k.conparentid <> 0)
UNION ALL
SELECT 'published' FROM pg_publication p WHERE p.puballtables
UNION ALL
SELECT 'a foreign key whose triggers are not enabled' FROM pg_trigger g
WHERE g.tgisinternal AND g.tgenabled <> 'O' AND %(oid)s IN (g.tgrelid, g.tgconstrrelid)
"""
_TIES_15 = """
UNION ALL
SELECT 'published with its schema' FROM pg_publication_namespace p JOIN pg_class c ON c.relnamespace = p.pnnspid
WHERE c.oid = %(oid)s
"""
_WAKE = {"D": "DISABLE", "A": "ENABLE ALWAYS", "R": "ENABLE REPLICA"}
_LIKE = "DEFAULTS", "GENERATED", "CONSTRAINTS", "STORAGE", "COMPRESSION", "COMMENTS"


def candidates(connection: Connection, tried: Trial) -> list[Table]:
    """The tables that may be moved: those whose loss can be kept so, given the trial and all that hangs on them."""
    plain = not (
        tried.commits or tried.harms or tried.rewritten or tried.sequences or tried.written - {tried.version_table}
    )
    whole = [loss.table for loss in tried.losses if not loss.columns]
    names = [table.name for table in whole] + [loss.table.name for loss in tried.losses if loss.columns]
    return [
        table
        for table in whole
        if plain and table.oid in tried.unread and names.count(table.name) == 1
        and all(column.builtin for column in table.columns.values()) and not ties(connection, table.oid)
    ]  # fmt: skip


def first(
    connection: Connection, moving: Sequence[Table], for_real: Callable[[Sequence[Table]], Kept]
) -> tuple[Kept | None, str]:
    """Run the step with what may be moved moved; None where there is nothing, or where it was undone and all is to be copied.

    Gives the reason of that too. A lock that was not granted and a statement that was cancelled are let through: that is for
    the whole step to answer.
    """
    from sqlalchemy.exc import DBAPIError

    if not moving:
        return None, ""
    connection.exec_driver_sql("SAVEPOINT guard_move")
    try:
        kept = for_real(moving)
    except (CommitInside, DBAPIError) as error:
        code = getattr(getattr(error, "orig", None), "pgcode", None)
        if ended(connection) or code in (*ladder.TRANSIENT, ladder.CANCELED):
            raise
        connection.exec_driver_sql("ROLLBACK TO SAVEPOINT guard_move")
        connection.exec_driver_sql("RELEASE SAVEPOINT guard_move")
        shown = ", ".join(table.shown for table in moving)
        return None, f"copied and not moved: {shown}: {str(getattr(error, 'orig', error)).strip().splitlines()[0]}"
    connection.exec_driver_sql("RELEASE SAVEPOINT guard_move")
    return kept, ""


def ties(connection: Connection, oid: int) -> list[str]:
    """What depends on a table, or it on, beside foreign keys and what its triggers call; or why it cannot be moved at all."""
    version = connection.dialect.server_version_info
    asked = _TIES + (_TIES_15 if version is None or version >= (15,) else "")
    with pinned(connection, search_path=SYSTEM_PATH):
        return list(connection.exec_driver_sql(asked, {"oid": oid}).scalars())


def away(connection: Connection, schema: str, kept_in: str, tables: Sequence[Table]) -> Counted:
    """Move the tables into the schema ``kept_in`` and put stand-ins in their places. Gives these, as nothing has read them.

    The tables are locked against writers already. Takes ACCESS EXCLUSIVE on each and on those that foreign keys tie it to;
    nothing after that takes longer with more rows.
    Raises :class:`CommitInside` where a stand-in is not exactly like its table.
    """
    with pinned(connection, search_path=SYSTEM_PATH):
        return _moved(connection, schema, kept_in, tables)


def _moved(connection: Connection, schema: str, kept_in: str, tables: Sequence[Table]) -> Counted:
    # Readers go on while this is asked; what came to hang on a table since its trial is looked for behind the lock.
    stand = sequences.owned(connection, schema, [one.oid for one in tables])
    lines = {one.oid: structure.of_table(connection, schema, one.oid) for one in tables}
    made = {one.oid: parts.of(connection, one) for one in tables}
    execute(connection, "; ".join(f"LOCK TABLE {name_of(one)} IN ACCESS EXCLUSIVE MODE" for one in tables))
    for one in tables:
        for tie in ties(connection, one.oid):
            raise CommitInside(f"since its trial {tie}")
    foreign = sorted({key for part in made.values() for key in part.foreign})
    for table, name, *_ in foreign:
        execute(connection, f"ALTER TABLE {table} DROP CONSTRAINT {name}")
    for one in tables:
        _away(connection, kept_in, one, made[one.oid])
    for one in tables:
        _stand_in(connection, kept_in, one, made[one.oid])
    for standing in stand.values():  # the body may hand on where they stand, and reading that is not counted
        if standing.table in made:
            sequences.advance(connection, standing.schema, standing.name, standing.last_value, standing.is_called)
    moved = {one.oid for one in tables}
    for table, name, text, referring, _ in foreign:
        # The rows of a table that refers to it find nothing in the stand-in.
        unchecked = "" if referring in moved or text.endswith(" NOT VALID") else " NOT VALID"
        execute(connection, f"ALTER TABLE {table} ADD CONSTRAINT {name} {text}{unchecked}")
    for part in made.values():
        _comments(connection, part)
    found = [(one, evidence.named(connection, one.schema, one.name)) for one in tables]
    for one, stand_in in found:
        assert stand_in is not None
        now = structure.of_table(connection, schema, stand_in.oid)
        if now != lines[one.oid]:
            raise CommitInside(f"no stand-in for {one.shown} is like it: {structure.difference(lines[one.oid], now)}")
    return reading.begin(connection, [stand_in.oid for _, stand_in in found if stand_in])


def prove(
    connection: Connection, schema: str, tried: Trial, stand_ins: Counted, rows: tuple[frozenset[int], Sequence[Table]],
    touched: frozenset[int],
) -> None:  # fmt: skip
    """After the real run: raise :class:`CommitInside` where it has looked at a stand-in, or written rows.

    ``rows`` are the tables that were written to, and those that are new; ``touched`` is what is new or altered in the catalog.
    """
    written, made = rows
    if reading.unread(connection, stand_ins) != stand_ins.keys():
        raise CommitInside("run for real it reads a table that it did not read in its trial")
    if written - {tried.version_table} or damage.filled(connection, made):
        raise CommitInside("run for real it writes rows, and did not in its trial")
    stood = connection.info[trial.STOOD]
    stands = sequences.again(connection, schema, stood, touched)
    fallen = [one for oid, one in stood.items() if oid in stands and stands[oid].behind(one)]
    if fallen:
        raise CommitInside(f"run for real it sets the sequence {fallen[0].name} back, and did not in its trial")


def back(connection: Connection, schema: str, place: tuple[str, str], fresh: Table, lines: Lines) -> bool:
    """Put a moved table in the place of ``fresh``, which the running upgrade has made, where both are the same but for rows.

    ``place`` is its schema and name in the stash, ``lines`` what it was when it went. False where it is not the same, or
    something but foreign keys hangs on the fresh one; the caller must then undo what was done.
    """
    if structure.of_table(connection, schema, fresh.oid) != lines or ties(connection, fresh.oid):
        return False
    kept_in, name = place
    old, stand = evidence.named(connection, kept_in, name), sequences.states(connection, schema)
    if old is None or ties(connection, old.oid):
        return False
    with pinned(connection, search_path=SYSTEM_PATH):
        _swap(connection, kept_in, name, fresh)
    _not_behind(connection, schema, stand, old.oid)
    return structure.of_table(connection, schema, old.oid) == lines


def _swap(connection: Connection, kept_in: str, name: str, fresh: Table) -> None:
    made, old = parts.of(connection, fresh), f"{identifier(kept_in)}.{identifier(name)}"
    # Checking takes long, and lets the tables referred to be read; dropping a key does not, until the end of the step.
    for _, key, text, referring, _ in made.foreign:
        if referring == fresh.oid:
            execute(connection, f"ALTER TABLE {old} ADD CONSTRAINT {key} {text}")
    for table, key, *_ in made.foreign:
        execute(connection, f"ALTER TABLE {table} DROP CONSTRAINT {key}")
    execute(connection, f"DROP TABLE {name_of(fresh)}")
    for _, into, _, bare in made.statistics:
        execute(connection, f"ALTER STATISTICS {identifier(kept_in)}.{bare} SET SCHEMA {into}")
    execute(connection, f"ALTER TABLE {old} SET SCHEMA {identifier(fresh.schema)}")
    _triggers(connection, fresh, made)
    for table, key, text, referring, _ in made.foreign:
        if referring != fresh.oid:
            execute(connection, f"ALTER TABLE {table} ADD CONSTRAINT {key} {text}")
    _comments(connection, made)


def _away(connection: Connection, kept_in: str, table: Table, made: Parts) -> None:
    for name, *_ in made.triggers:
        execute(connection, f"DROP TRIGGER {name} ON {name_of(table)}")
    for statistics, *_ in made.statistics:
        execute(connection, f"ALTER STATISTICS {statistics} SET SCHEMA {identifier(kept_in)}")
    execute(connection, f"ALTER TABLE {name_of(table)} SET SCHEMA {identifier(kept_in)}")


def _stand_in(connection: Connection, kept_in: str, table: Table, made: Parts) -> None:
    """All but the foreign keys. What is not made here shows in the comparison, and the table is copied."""
    name, like = name_of(table), f"{identifier(kept_in)}.{identifier(table.name)}"
    including = " ".join(f"INCLUDING {one}" for one in _LIKE)
    execute(connection, f"CREATE TABLE {name} (LIKE {like} {including})")
    for sequence, column, identity, options, default in made.sequences:
        if identity:
            always = "ALWAYS" if identity == "a" else "BY DEFAULT"
            given = f"SEQUENCE NAME {sequence} {options[options.index('INCREMENT') :]}"  # it takes the column's type
            execute(
                connection, f"ALTER TABLE {name} ALTER COLUMN {column} ADD GENERATED {always} AS IDENTITY ({given})"
            )
        else:
            execute(connection, f"CREATE SEQUENCE {sequence} {options} OWNED BY {name}.{column}")
            if default:
                execute(connection, f"ALTER TABLE {name} ALTER COLUMN {column} SET DEFAULT {default}")
    for text in (*made.keys, *made.indexes, *(text for _, _, text, _ in made.statistics)):
        execute(connection, text)
    if made.options:
        execute(connection, f"ALTER TABLE {name} SET ({made.options})")
    _triggers(connection, table, made)
    execute(connection, f"ALTER TABLE {name} OWNER TO {made.owner}")
    fresh = evidence.named(connection, table.schema, table.name)
    assert fresh is not None
    regrant.give(connection, fresh.oid, made.rights)


def _triggers(connection: Connection, table: Table, made: Parts) -> None:
    for name, text, state in made.triggers:
        execute(connection, text)
        if state in _WAKE:
            execute(connection, f"ALTER TABLE {name_of(table)} {_WAKE[state]} TRIGGER {name}")


def _comments(connection: Connection, made: Parts) -> None:
    for what, comment in made.comments:
        execute(connection, f"COMMENT ON {what} IS {literal(comment)}")


def _not_behind(connection: Connection, schema: str, made: dict[int, Standing], oid: int) -> None:
    """Where the upgrade's own rows have taken higher numbers, these count. ``made`` are the sequences before the swap."""
    taken = {(one.schema, one.name): one for one in made.values()}
    for one in sequences.states(connection, schema).values():
        other = taken.get((one.schema, one.name))
        if one.table == oid and other and one.behind(other):
            sequences.advance(connection, one.schema, one.name, other.last_value, other.is_called)
