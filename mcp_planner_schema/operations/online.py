"""The shape of an operation: it asks the catalog, sends what is missing, proves the result, and has its row in the journal.

Statements that nobody waits behind go through :func:`send`, those that stop somebody through :func:`.guard.brief.run`. Both
commit by themselves, so a revision that calls an operation says ``Transaction: none``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from mcp_planner_schema.guard import brief, journal, trial
from mcp_planner_schema.guard.findings import Broken, Finding, Refused
from mcp_planner_schema.guard.postcheck import execute, identifier

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext

    from mcp_planner_schema.guard.journal import Entry

_TABLE = """
SELECT c.oid::bigint, n.nspname::text, c.relname::text, c.relkind::text
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = pg_catalog.to_regclass(%s::text) AND c.relkind IN ('r', 'p')
"""


@dataclass(frozen=True)
class Table:
    """A table as the catalog has it; ``partitioned`` says that its rows are in its partitions."""

    oid: int
    schema: str
    name: str
    kind: str

    @property
    def partitioned(self) -> bool:
        """Whether it has no rows of its own."""
        return self.kind == "p"

    @property
    def sql(self) -> str:
        """Its name for a statement: with schema, quoted."""
        return qualified(self.schema, self.name)

    @property
    def shown(self) -> str:
        """Its name for people."""
        return self.name if self.schema == "public" else f"{self.schema}.{self.name}"


def carry_out(
    context: MigrationContext, operation: str, target: str, work: Callable[[Entry], None], text: Callable[[], None]
) -> None:
    """Do ``work`` with a row in the journal; offline write ``text`` instead, for there is nobody to ask.

    Of an interrupted revision what was done before may miss what a later operation has taken away, or meet what a later one has
    put in its place: that is no error then.
    """
    if context.as_sql:
        text()
        return
    with journal.entry(context, operation, target) as entry:
        try:
            work(entry)
        except Refused as refused:
            codes = [one.code for one in refused.findings]
            replaced = codes == ["operation-differs"] and journal.followed(context, target)
            if entry.before != "done" or not (replaced or codes == ["operation-missing"]):
                raise
            since = "another operation has changed that since" if replaced else "what it needs has gone since"
            say(context, f"{operation} of {target} was done before; {since}")


def send(context: MigrationContext, sql: str) -> None:
    """Send one statement that nobody waits behind, in autocommit. Offline it is written down."""
    with context.autocommit_block():
        if context.as_sql:
            context.impl.static_output(sql + ";")
            return
        _changing(context)
        execute(context.connection, sql)  # type: ignore[arg-type]  # online there is one


def hold(context: MigrationContext, *statements: str) -> None:
    """Send statements whose locks stop somebody: all of them or none, in a brief transaction that is tried again."""
    if not context.as_sql:
        _changing(context)
    brief.run(context, ";\n".join(statements))


def ask(context: MigrationContext, sql: str, values: Sequence[Any] = ()) -> list[Any]:
    """The rows of a question to the catalog."""
    connection = context.connection
    assert connection is not None
    with journal.own(connection):
        answer: Any = connection.exec_driver_sql(sql, tuple(values)) if values else execute(connection, sql)
        return list(answer) if answer.returns_rows else []


def read(context: MigrationContext, sql: str) -> list[Any]:
    """The rows of a question that may read a whole table: it has no time limit (but a trial's), and blocks nobody."""
    unlimited = "" if tried(context) else "SET statement_timeout = 0; "  # a trial's own limit stays
    with context.autocommit_block():
        return ask(context, unlimited + sql)


def tried(context: MigrationContext) -> bool:
    """Whether this is a downgrade's trial, where everything is one transaction that is rolled back."""
    step = journal.of(context)
    return step is not None and step.trial


def unfilled(context: MigrationContext) -> bool:
    """Whether this is a trial in which rows were not filled, so that nothing that rests on them holds."""
    return context.connection is not None and trial.LEFT_OUT in context.connection.info


def table(context: MigrationContext, name: str, schema: str | None) -> Table:
    """The table of this name, in ``schema`` or where the session's search_path finds it. Refuses one that is missing."""
    found = ask(context, _TABLE, (qualified(schema, name),))
    if not found:
        refuse(context, "operation-missing", what=f"table {schema + '.' if schema else ''}{name}")
    return Table(*found[0])


def version(context: MigrationContext) -> int:
    """The server's major version."""
    return int(ask(context, "SELECT pg_catalog.current_setting('server_version_num')::int / 10000")[0][0])


def qualified(schema: str | None, name: str) -> str:
    """A quoted name, with its schema where one is given."""
    return (identifier(schema) + "." if schema else "") + identifier(name)


def columns_sql(names: Sequence[str]) -> str:
    """Quoted column names, one after the other."""
    return ", ".join(map(identifier, names))


def shortened(name: str, ending: str) -> str:
    """A name with an ending, within the 63 bytes that PostgreSQL keeps of a name."""
    return name.encode()[: 63 - len(ending.encode())].decode(errors="ignore") + ending


def refuse(context: MigrationContext, code: str, **values: str) -> NoReturn:
    """Stop with one finding; says whether anything was changed before."""
    step = journal.of(context)
    if step is None:
        raise Refused([Finding(code, "alembic", "", values)], "correct the revision")
    left = "what the revision's operations had finished stays, the version has not moved"
    raise Refused(
        [Finding(code, step.where, step.revision, values)], step.repeat, left if step.sent else "nothing was changed"
    )


def unwritable(problem: str) -> NoReturn:
    """Offline, of an operation that cannot be said without asking; the guard makes a finding of it."""
    raise NotImplementedError(problem)


def unproven(context: MigrationContext, what: str) -> NoReturn:
    """The statement was a success, and the catalog does not show it."""
    step = journal.of(context)
    raise Broken(f"{what}, although the server has reported success: somebody works on it at the same time.",
                 step.repeat if step else "look who it is")  # fmt: skip


def say(context: MigrationContext, text: str) -> None:
    """One line for people."""
    step = journal.of(context)
    if step is not None and not step.trial:
        step.say(f"{step.revision:<4} {text}")


def _changing(context: MigrationContext) -> None:
    step = journal.of(context)
    if step is not None:
        step.sent = True
