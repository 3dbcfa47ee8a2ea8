"""Rows of a table are filled by batches that nobody feels: ``op.backfill``, and what other operations need of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from alembic.operations import MigrateOperation, Operations

from mcp_planner_schema.backfill import engine, rows
from mcp_planner_schema.backfill.spec import BATCH, TABLE, Backfill, Bypass, Rows
from mcp_planner_schema.guard import brief, connect, deadline, journal, trial
from mcp_planner_schema.guard.postcheck import do_block, identifier
from mcp_planner_schema.guard.settings import Backfill as Limits
from mcp_planner_schema.guard.transaction import ELSEWHERE
from mcp_planner_schema.operations import online, sql_script
from mcp_planner_schema.operations.written import rendered

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext
    from sqlalchemy import Connection

    from mcp_planner_schema.operations.online import Table

Function = Callable[[Iterator[dict[str, Any]]], Iterable[Mapping[str, Any]]]

_BATCH_IN_SQL = 1000
"""Rows, of a batch that psql sends: nobody watches there who waits behind it."""


@rendered("backfill")
@Operations.register_operation("backfill")
@dataclass(frozen=True)
class BackfillRows(MigrateOperation):
    """Change the rows of a table by batches, each its own short transaction. For a revision with ``Transaction: none``.

    Either ``set`` (columns and what they get, as SQL over ``filled``, the row) or ``statement``, an INSERT … SELECT, UPDATE or
    DELETE whose rows are those of ``batch``; or ``rows``, a Python function. In all only rows are taken that meet ``where``. A
    run that was stopped or killed goes on where it was. See docs/5-data-migrations.md.

    Triggers fire, unless ``bypass`` names them (or says ``"user"``: all) with a ``"reason"``. Each batch then keeps other
    writers out of the table, for half a deadline at most; foreign keys stay in force.

    The function gets an iterator over a batch's rows, each a dict of the table's key and of ``columns``, and gives (or yields)
    mappings of the key and of each column of ``writes``; rows that it leaves out are not written. Values are as psycopg2 has
    them, but an interval is its text. It runs while nothing is locked, is asked again for rows that somebody has changed
    meanwhile, and with ``workers`` in several threads at once.
    """

    table: str
    set: Mapping[str, str] = field(default_factory=dict)
    where: str = "true"
    statement: str = ""
    verify: str = ""
    name: str = ""
    batch: int = 50_000
    schema: str | None = None
    key: Sequence[str] = ()
    in_order: bool = False
    repeatable: bool = False
    rows: Function | None = None
    columns: Sequence[str] = ()
    writes: Sequence[str] = ()
    bypass: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if [bool(self.set), bool(self.statement), self.rows is not None].count(True) != 1:
            raise ValueError(
                f"backfill of {self.table}: it needs set={{…}}, statement=… or rows=…, and one of them only"
            )
        if bool(self.writes) != (self.rows is not None) or (self.columns and self.rows is None):
            raise ValueError(
                f"backfill of {self.table}: rows=… needs writes=[…], and nothing else has them or columns=[…]"
            )
        if self.statement and not re.search(rf"\b{BATCH}\b", self.statement):
            raise ValueError(f"backfill of {self.table}: the statement does not take its rows from {BATCH}")
        if self.bypass and self.statement:
            raise ValueError(
                f"backfill of {self.table}: bypass=… is for its own triggers, and a statement may write elsewhere"
            )
        self.bypassed()
        if self.batch < 1:
            raise ValueError(f"backfill of {self.table}: batch is {self.batch}, and a batch has at least one row")

    @classmethod
    def backfill(
        cls, operations: Operations, table: str, *, set: Mapping[str, str] | None = None, where: str = "true",
        statement: str = "", verify: str = "", name: str = "", batch: int = 50_000, schema: str | None = None,
        key: Sequence[str] = (), in_order: bool = False, repeatable: bool = False, rows: Function | None = None,
        columns: Sequence[str] = (), writes: Sequence[str] = (), bypass: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        """Fill, copy or delete by batches. ``verify`` is a query whose one value is 0 when all is done; ``name`` is what it is
        called in ``migration.backfill`` and by ``make backfill-pause``, ``key`` the table's key, needed only for ``--sql``.

        ``in_order``: by one session, from the least key to the greatest, however many ``WORKERS`` there are. ``repeatable``: a
        row that is done does not come again (it is gone, or misses ``where``), so the table may be gone through once more; so it
        may where ``set`` does not read what it sets, without being told."""
        operations.invoke(cls(
            table, dict(set or {}), where, statement, verify, name, batch, schema, tuple(key), in_order, repeatable,
            rows, tuple(columns), tuple(writes), dict(bypass or {}),
        ))  # fmt: skip

    def reverse(self) -> Any:
        """Old values, where the header says that they are kept. Else what was filled stays: no earlier release misses it."""
        from alembic.operations.ops import ExecuteSQLOp

        from mcp_planner_schema.operations.give_back import GiveBackBackfill

        columns = tuple(self.set or self.writes)
        if not columns:
            return ExecuteSQLOp("SELECT 1")
        return GiveBackBackfill(self.table, columns, self.name, self.schema, self.batch)

    def asked(self) -> Backfill:
        """What the engine is asked to do."""
        assigned = ", ".join(f"{identifier(column)} = ({value})" for column, value in self.set.items())
        name = self.name or f"{self.table}.{'_'.join(self.set or self.writes) or 'rows'}"
        computed = Rows(self.rows, tuple(self.columns), tuple(self.writes)) if self.rows else None
        statement = self.statement.rstrip("; \n\t")
        keeps = tuple(self.set or self.writes)
        return Backfill(
            name, assigned, self.where, statement, self.verify, self.batch, self.again(), self.in_order, computed,
            keeps, self.bypassed(),
        )  # fmt: skip

    def again(self) -> bool:
        """Whether a row may be written a second time: what it gets does not depend on what it got."""
        if self.repeatable:
            return True
        own = self.set or dict.fromkeys(self.writes)
        read = " ".join([*self.set.values(), *self.columns])
        return self.where != "true" and bool(own) and not any(re.search(rf"\b{re.escape(one)}\b", read) for one in own)

    def bypassed(self) -> Bypass | None:
        """Which triggers do not fire, and why. Raises ValueError where nobody has said that."""
        if not self.bypass:
            return None
        triggers, reason = self.bypass.get("triggers"), self.bypass.get("reason")
        names = () if isinstance(triggers, str) else tuple(triggers or ())
        if self.bypass.keys() != {"triggers", "reason"} or not (names or triggers == "user"):
            raise ValueError(
                f'backfill of {self.table}: bypass is {{"triggers": ["…"] or "user", "reason": "…"}}, and nothing less or more'
            )
        if not isinstance(reason, str) or not reason.strip():
            raise ValueError(
                f"backfill of {self.table}: why its triggers are bypassed is written nowhere else: a reason, please"
            )
        return Bypass(names or None, reason.strip())


@Operations.implementation_for(BackfillRows)
def _backfill(operations: Operations, operation: BackfillRows) -> None:
    context, fill = operations.migration_context, operation.asked()
    if context.as_sql:
        if (fill.rows or fill.bypass or not operation.key) and _shown(context, fill):
            return
        if fill.rows:
            online.unwritable(f"backfill({operation.table!r}): a Python function cannot be written as SQL")
        if not operation.key:
            online.unwritable(f"backfill({operation.table!r}): as SQL, the batches need its key=[…]")
        if fill.bypass:
            online.unwritable(
                f"backfill({operation.table!r}): psql cannot try again for the lock that bypass={{…}} needs"
            )
        where = online.qualified(operation.schema, operation.table)
        text(context, where, operation.key, fill.assignments, fill.where, fill.statement)
        return
    table = online.table(context, operation.table, operation.schema)
    if fill.statement and _keeping(context, fill):
        online.say(context, f"warning: {fill.name} is a statement, and nothing is kept of what that overwrites")
    written = fill_rows(context, table, fill)
    if written:
        online.say(context, f"{fill.name}: {written:,} rows written")


def _shown(context: MigrationContext, fill: Backfill) -> bool:
    """In SQL that is only shown (``DRY_RUN=1``), what is no SQL; whoever runs that all the same is stopped there."""
    if context.config is None or not context.config.attributes.get("only_shown"):
        return False
    context.impl.static_output(f"-- backfill {' '.join(fill.name.split())}: by batches, and no SQL.")
    context.impl.static_output(sql_script.stops(f"{fill.name} is done by batches: it can only be run online"))
    return True


def run(context: MigrationContext, table: Table, settings: str, where: str, name: str) -> int:
    """``UPDATE table SET settings WHERE where`` for all rows, as a part of another operation; gives how many were written."""
    step = journal.of(context)
    place = f" ({step.place})" if step else ""
    return fill_rows(context, table, Backfill(name + place, settings, where, repeatable=True))


def fill_rows(context: MigrationContext, table: Table, fill: Backfill) -> int:
    """Work off a backfill, and give how many rows were written. Commits; in a downgrade's trial it does nothing."""
    with context.autocommit_block():
        assert context.connection is not None
        connection: Connection = context.connection
        driver: Any = connection.connection.dbapi_connection
        if not driver.autocommit:
            connection.info[trial.LEFT_OUT] = True
            return 0
        policy = connection.info.get(brief.POLICY)
        limits = (policy and policy.backfill) or Limits(200, 10_000, 600_000, share=0.03)

        @contextmanager
        def beside() -> Iterator[Connection]:
            own = connect.own(connection.engine, "mcp-planner-guard")
            with connect.opened(own, autocommit=True) as made:
                yield made

        connection.info[ELSEWHERE] = {table.oid, *connection.info.get(ELSEWHERE, ())}
        with journal.own(connection), _ready(connection), _calm(policy and policy.clock, fill):
            done = engine.run(
                connection, table.oid, table.shown, fill, limits=limits, deadline=policy.clock.usual if policy else 0.2,
                beside=(policy and policy.beside) or beside, opened=(policy and policy.opened) or beside,
                workers=policy.workers if policy and not fill.in_order else 1, say=lambda line: online.say(context, line),
                events=bool(policy and policy.events), emit=policy.emit if policy else None,
                keeping=_keeping(context, fill) if fill.keeps else None,
            )  # fmt: skip
            rows.forget(connection)
            return done


def _keeping(context: MigrationContext, fill: Backfill) -> brief.Keeping | None:
    """Only an upgrade keeps what it overwrites: a downgrade gives back."""
    step, policy = journal.of(context), context.connection.info.get(brief.POLICY) if context.connection else None
    return policy.keeping if policy and step and step.direction == "upgrade" else None


@contextmanager
def _calm(clock: deadline.Clock | None, fill: Backfill) -> Iterator[None]:
    """While inside, the step takes no strong lock, unless triggers are bypassed; of batches another thread sees who waits."""
    if clock is None or fill.bypass:
        yield
        return
    clock.calm = True
    try:
        yield
    finally:
        clock.calm = False


@contextmanager
def _ready(connection: Connection) -> Iterator[None]:
    """While inside, the session is one for batches.

    Row level security hides no row: where it would, PostgreSQL raises instead. No commit waits for the disk: after a crash the
    last batches may be missing, and their positions with them; the commit of the step, which comes behind, waits for all.
    """
    names = list(engine.SESSION)
    asked = ", ".join(["pg_catalog.current_setting(%s)"] * len(names))
    before = connection.exec_driver_sql(f"SELECT {asked}", tuple(names)).one()
    engine.prepare(connection)
    yield  # after an exception the run ends, or the session is restored before the next step
    for name, value in zip(names, before, strict=True):
        connection.exec_driver_sql("SELECT pg_catalog.set_config(%s, %s, false)", (name, value))


def text(
    context: MigrationContext, table: str, key: Sequence[str], settings: str, where: str, statement: str = ""
) -> None:
    """Write the same down for psql: a DO block that commits after each batch. ``table`` is quoted already."""
    names = [identifier(name) for name in key]
    beyond = f"({', '.join(names)}) > ({', '.join(f'reached.{name}' for name in names)})"
    same = " AND ".join(f"filled.{name} = page.{name}" for name in names)
    if statement:
        read = "*"
        written = (
            f"{BATCH} AS (\n            SELECT * FROM page AS {TABLE} WHERE {where}\n"
            f"        ), written AS (\n{statement.strip()}\n        )\n"
        )
    else:
        read = ", ".join(names)
        written = (
            f"written AS (\n            UPDATE {table} AS {TABLE} SET {settings} FROM page\n"
            f"            WHERE {same} AND ({where})\n        )\n"
        )
    body = (
        f"\nDECLARE\n    reached {table}%ROWTYPE;\n    begun boolean := false;\nBEGIN\n    LOOP\n"
        f"        WITH page AS MATERIALIZED (\n            SELECT {read} FROM {table}\n"
        f"            WHERE NOT begun OR {beyond} ORDER BY {', '.join(names)} LIMIT {_BATCH_IN_SQL}\n        ), {written}"
        f"        SELECT {', '.join(names)} INTO {', '.join(f'reached.{name}' for name in names)}\n"
        f"        FROM page ORDER BY {', '.join(f'{name} DESC' for name in names)} LIMIT 1;\n"
        "        EXIT WHEN NOT FOUND;\n        begun := true;\n        COMMIT;\n    END LOOP;\nEND\n"
    )
    with context.autocommit_block():
        # Kept plans would read the index from its beginning for each batch: the first one has no key to begin behind.
        context.impl.static_output("SET statement_timeout = 0; SET plan_cache_mode = force_custom_plan;")
        context.impl.static_output(do_block(body) + ";")
        context.impl.static_output("RESET statement_timeout; RESET plan_cache_mode;")
