"""A stash on its way back into the schema: what is known of it while that lasts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard import evidence
from mcp_planner_schema.guard.evidence import Table
from mcp_planner_schema.guard.fills import Waiting
from mcp_planner_schema.guard.flow import Flow
from mcp_planner_schema.guard.manifest import Object, Stash
from mcp_planner_schema.guard.refill import Filled
from mcp_planner_schema.guard.regrant import Everything
from mcp_planner_schema.guard.sequences import Sequence

if TYPE_CHECKING:
    from sqlalchemy import Connection

_PARTS = "SELECT %(oid)s::oid UNION SELECT relid::oid FROM pg_catalog.pg_partition_tree(%(oid)s::oid::regclass)"

XID = "SELECT pg_catalog.pg_current_xact_id()::text"
_SAME = "SELECT pg_catalog.pg_current_xact_id()::text = %s"


class InTheWay(Exception):
    """Kept rows may keep a row of the upgrade's own out, without an error: its body is to be begun once more without them."""

    def __init__(self) -> None:
        super().__init__("it leaves out rows that are there already, or goes on after an error")


@dataclass
class Back:
    """A stash on its way back. ``before`` are the tables it is about as they stood before the upgrade, by (schema, name);
    ``already`` is every table and materialized view there was, by OID (see :func:`anew`), ``natts`` how many columns each had;
    ``others`` all that there was, where the stash has rights on more than tables.

    ``untouched`` names, for an object's number, the table (a temporary one, at first) of those kept rows whose place nobody has
    written to since, ``stood`` the one of the keys in use, where the server makes them, ``keys`` where the body does,
    ``touched`` of those with a lost value that somebody has written to, or may have: ``crossed`` are the objects whose values
    may have been moved to another table; ``stays`` is the table of changed rows as it began, and what each kept column is
    called there. ``shapes`` is what a table looked like when its rows were last put in, ``filled`` the outcome. ``late`` are
    the objects that wait for the end of the body; ``afterwards``: all tables do (1), values of columns too (2), and none (0).
    ``met``: something has come back while the body ran, and ``wanted``: not where its place was made, ``compound``:
    the statement that made it may have gone on. ``marks`` is what was so
    at each savepoint of the body's. ``in_the_way``: something kept may have kept a row of the upgrade's own out. ``unproven``
    are the foreign keys (schema, table, name) that are to be validated when the rows are back. ``xid`` is the transaction that
    it began in. ``anyway``: no upgrade runs, the schema is as it is. ``deleted``,
    ``asked`` and ``misled``: see :mod:`.meant`. ``named`` are lost columns that a statement of the body has had the name of, when
    it wrote rows, ``vague`` the tables that it has written otherwise than by a plain UPDATE, ``wrote`` those that the running
    statement has written, and ``unseen``: it may have written outside of any transaction (see :mod:`.defaults`). ``waits`` are
    the columns of which some rows have not got their values yet (see :mod:`.fills`), ``blindly``: it may have computed something
    without kept rows (see :mod:`.unite`).
    ``unkeyed`` are the tables whose new rows could not get the keys that they had, ``followed`` says how many rows of a table
    have followed one (see :mod:`.rekey`).

    ``sources`` are the tables that the downgrade put rows into and somebody has written to since, ``changes`` rows in all, and
    ``source_parts`` these with their partitions; ``carried`` the one of them in which copies of an object's rows stand (see
    :mod:`.carried`); ``flow`` is what the body has read and written, ``numbered`` are the made tables that a sequence has given
    keys, ``unasked`` those whose sequence had given none when they were first written to, ``seeded`` the objects that hold seeds
    only; ``unwatched`` are statements that have written outside of any transaction, ``emptied``: the body has used TRUNCATE,
    which sets counters to nothing (see :mod:`.sources`).

    ``fresh`` says in SQL, by the number of an object, which rows ``l`` of the upgrade's own are to stay though they were not
    there before, ``edited`` is the text that the revision had then, where it has another by now, ``steps`` are the xids and
    tables of steps since then, and ``changed_since`` notes which tables others have written to (see :mod:`.fresh`).

    Where the body has committed, ``horizon`` is the oldest xid that others can have had since the first time, ``files`` what
    its tables were written to, ``advanced`` are sequences that were set for the kept rows, as they stood before and then, and
    ``final`` are the objects whose place was there then; ``theirs`` lists, for the number of one of these, the keys of rows
    that others have written between two transactions; ``ended``: the next has not begun yet (see :mod:`.over_commit`).
    """

    schema: str
    stash: Stash
    before: dict[tuple[str, str], Table] = field(default_factory=dict)
    already: frozenset[int] = frozenset()
    others: Everything = frozenset()
    untouched: dict[int, str] = field(default_factory=dict)
    stood: dict[int, str] = field(default_factory=dict)
    keys: dict[int, str] = field(default_factory=dict)
    shapes: dict[int, object] = field(default_factory=dict)
    filled: dict[int, Filled] = field(default_factory=dict)
    sources: tuple[int, ...] = ()
    flow: Flow = field(default_factory=Flow)
    numbered: set[int] = field(default_factory=set)
    unasked: set[int] = field(default_factory=set)
    fresh: dict[int, str] = field(default_factory=dict)
    edited: str | None = None
    steps: tuple[tuple[int, int, frozenset[int]], ...] = ()
    source_parts: frozenset[int] = frozenset()
    changed_since: dict[int, bool] = field(default_factory=dict)
    unwatched: list[str] = field(default_factory=list)
    emptied: bool = False
    seeded: set[int] = field(default_factory=set)
    blindly: bool = False
    waits: dict[int, Waiting] = field(default_factory=dict)
    unkeyed: dict[int, Object] = field(default_factory=dict)
    followed: dict[int, int] = field(default_factory=dict)
    touched: dict[int, str] = field(default_factory=dict)
    crossed: set[int] = field(default_factory=set)
    changes: int = 0
    natts: dict[int, int] = field(default_factory=dict)
    advanced: dict[int, tuple[Sequence, Sequence]] = field(default_factory=dict)
    late: set[int] = field(default_factory=set)
    afterwards: int = 0
    in_the_way: bool = False
    met: bool = False
    wanted: bool = False
    compound: bool = False
    marks: list[tuple[str, dict[int, Filled], dict[int, object]]] = field(default_factory=list)
    unproven: list[tuple[str, str, str]] = field(default_factory=list)
    xid: str = ""
    stays: dict[int, tuple[Table, dict[str, str]]] = field(default_factory=dict)
    horizon: str = ""
    files: dict[int, str] = field(default_factory=dict)
    final: set[int] = field(default_factory=set)
    theirs: dict[int, str] = field(default_factory=dict)
    ended: bool = False
    anyway: bool = False
    deleted: dict[tuple[str, str], list[Any]] | None = None
    misled: list[str] = field(default_factory=list)
    named: set[str] = field(default_factory=set)
    vague: set[int] = field(default_factory=set)
    wrote: set[int] = field(default_factory=set)
    unseen: bool = False
    carried: dict[int, int] = field(default_factory=dict)
    asked: dict[int, frozenset[tuple[object, ...]]] = field(default_factory=dict)

    def rows(self) -> list[Object]:
        """The objects that hold rows, but for those whose rows are all back: a row deleted since then stays deleted."""
        return [one for one in self.stash.objects if one.relation and one.left != 0]

    def newer(self, one: Object) -> bool:
        """Whether the upgrade may move newer rows into its place: the downgrade has read it, what it wrote to has changed, and it
        is not known that the upgrade has put nothing but seeds there."""
        return bool(self.sources) and one.read and one.number not in self.seeded

    def changed(self) -> bool:
        """Whether rows came back, or rows of the upgrade's gave way to those that were there before, be they none."""
        kept = {one.number: (one.kind, one.checksum.rows if one.checksum else 0) for one in self.rows()}
        return any(
            kept[number][0] == "table" or filled.removed or filled.left < kept[number][1]
            for number, filled in self.filled.items()
        )


def undoable(connection: Connection, back: Back) -> bool:
    """Whether all that the upgrade has done so far is of one transaction, and goes with it."""
    return bool(connection.exec_driver_sql(_SAME, (back.xid,)).scalar_one())


def made(connection: Connection, back: Back) -> list[tuple[Object, Table]]:
    """The kept tables that the running upgrade has made again."""
    found = [(one, evidence.named(connection, one.schema, one.name)) for one in back.rows() if one.kind == "table"]
    return [(one, table) for one, table in found if table and anew(connection, back, table)]


def anew(connection: Connection, back: Back, table: Table) -> bool:
    """Whether the running upgrade has made a table, and nobody else can have written to it.

    One that has only got its name from the upgrade was there already; so were rows of a table that is now a partition of it.
    """
    return back.already.isdisjoint(connection.exec_driver_sql(_PARTS, {"oid": table.oid}).scalars())
