"""A table gets another name; a column or table goes over two releases; a column may hold no null any more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mcp_planner_schema.generate import empty, facts
from mcp_planner_schema.generate.columns import alter, expected, schema_kw, schema_of, words
from mcp_planner_schema.generate.facts import Table, name_sql, quoted
from mcp_planner_schema.generate.revision import Revision
from mcp_planner_schema.guard.findings import WrongUse
from mcp_planner_schema.guard.postcheck import identifier, literal
from mcp_planner_schema.operations.written import quoted as python

if TYPE_CHECKING:
    from sqlalchemy import Connection

Values = Mapping[str, str]
HIDDEN = "dropped_"
"""How the name of a column or table begins that nobody uses any more: whoever still does finds out while it is there."""


def rename(connection: Connection, values: Values, form: str) -> Sequence[Revision]:
    """Two revisions: the new name as a view, then table and view change places."""
    table = facts.table(connection, values["TABLE"], form)
    old, new = table.name, values["TO"]
    _free(connection, table, new, form)
    kw, view = schema_kw(table), f"{identifier(table.schema)}.{identifier(new)}"
    named = f"{python(new)}, {python(old)}{kw}"
    # INSERT, UPDATE and DELETE pass through it: 8 + 4 + 16.
    updatable = f"SELECT pg_catalog.pg_relation_is_updatable(pg_catalog.to_regclass({literal(view)}), false) & 28"
    works = f"expect.query({python(updatable)}, equals=28)"
    gone = f"expect.query({python(f'SELECT pg_catalog.to_regclass({literal(view)}) IS NULL')}, equals=True)"
    says = f"Table {old} gets the name {new}"
    return [
        Revision(
            f"add {words([new])} for {words([old])}",
            f"{says}: a view for the release that knows the new one; the table stays what it is for the release before.",
            "expand",
            [f"op.create_table_alias({named})"],
            [f"op.drop_table_alias({named})"],
            [works],
            [gone],
        ),
        Revision(
            f"rename {words([old])} to {words([new])}",
            f"{says}: no release uses the old one any more, so the table takes the view's place.",
            "contract",
            [f"op.drop_table_alias({named})", f"op.rename_table({python(old)}, {python(new)}{kw})"],
            [f"op.rename_table({python(new)}, {python(old)}{kw})", f"op.create_table_alias({named})"],
            [f"expect.table({python(new)}{kw})", f"expect.absent(expect.table({python(old)}{kw}))"],
            [f"expect.table({python(old)}{kw})", works],
        ),
    ]


def drop_column(connection: Connection, values: Values, form: str) -> Sequence[Revision]:
    """Two or three revisions: nobody must write it, nobody can see it, it is gone."""
    table = facts.table(connection, values["TABLE"], form)
    old = table.column(values["FROM"], form)
    hidden = HIDDEN + old.name
    table.free(hidden, form)
    says, found = f"{old.name} of {table.name} is given up", []
    if old.not_null and old.default is None:
        if not values.get("FILL"):
            raise WrongUse(
                f"{table.name}.{old.name} is NOT NULL: FILL says, as SQL, what rows get on the way back that were written "
                "without it.",
                f"{form} FILL=\"''\"",
            )
        key = f", key={python(list(table.key))}" if table.key else ""
        named = f"{python(table.name)}, {python(old.name)}"
        found.append(
            Revision(
                f"alter {words([old.name])} of {words([table.name])}",
                f"{says}: a release may write rows without it.",
                "expand",
                [alter(table, [f"ALTER COLUMN {quoted(old.name)} DROP NOT NULL"])],
                [f"op.fill_column({named}, {python(values['FILL'])}{schema_kw(table)}{key})",
                 f"op.set_not_null_concurrently({', '.join([named, *schema_of(table)])})"],
                [expected("column", table, old.name, nullable=True)],
                [expected("column", table, old.name, nullable=False)],
                transaction="none",
            )
        )  # fmt: skip
    to = f"RENAME COLUMN {quoted(old.name)} TO {quoted(hidden)}"
    back = f"RENAME COLUMN {quoted(hidden)} TO {quoted(old.name)}"
    found.append(
        Revision(
            f"rename {words([old.name])} of {words([table.name])}",
            f"{says}: no release uses it any more. Whoever does after all finds out now, and all values are still there.",
            "contract",
            [alter(table, [to])],
            [alter(table, [back])],
            [expected("column", table, hidden), f"expect.absent({expected('column', table, old.name)})"],
        )
    )
    found.append(
        Revision(
            f"drop {words([old.name])} of {words([table.name])}",
            f"{says}: it goes, with its values.",
            "contract",
            [alter(table, [f"DROP COLUMN {quoted(hidden)}"])],
            [f"raise NotImplementedError({python(f'the values of {table.name}.{old.name} are gone')})"],
            [f"expect.absent({expected('column', table, hidden)})"],
            reversible=f"forward-only: the values of {table.name}.{old.name} are gone; they were there until this revision",
        )
    )
    return found


def drop_table(connection: Connection, values: Values, form: str) -> Sequence[Revision]:
    """Two revisions: nobody can see it, it is gone."""
    table = facts.table(connection, values["TABLE"], form)
    hidden = HIDDEN + table.name
    _free(connection, table, hidden, form)
    referring = facts.referring(connection, table)
    if referring:
        raise WrongUse(f"Others refer to {table.name}: {', '.join(referring)}. Drop those first.", form)
    kw, says = schema_kw(table), f"Table {table.name} is given up"
    return [
        Revision(
            f"rename {words([table.name])} to {words([hidden])}",
            f"{says}: no release uses it any more. Whoever does after all finds out now, and all rows are still there.",
            "contract",
            [f"op.rename_table({python(table.name)}, {python(hidden)}{kw})"],
            [f"op.rename_table({python(hidden)}, {python(table.name)}{kw})"],
            [f"expect.table({python(hidden)}{kw})", f"expect.absent(expect.table({python(table.name)}{kw}))"],
        ),
        Revision(
            f"drop {words([hidden])}",
            f"{says}: it goes, with its rows.",
            "contract",
            [f"op.drop_table({python(hidden)}{kw})"],
            [f"raise NotImplementedError({python(f'the rows of {table.name} are gone')})"],
            [f"expect.absent(expect.table({python(hidden)}{kw}))"],
            reversible=f"forward-only: the rows of {table.name} are gone; they were there until this revision",
        ),
    ]


def add_not_null(connection: Connection, values: Values, form: str) -> Sequence[Revision]:
    """One revision, or two where rows have to get a value: the default for new ones, then the old ones, then NOT NULL."""
    table = facts.table(connection, values["TABLE"], form)
    old, fill = table.column(values["FROM"], form), values.get("FILL")
    if old.not_null:
        raise WrongUse(f"{table.name}.{old.name} is NOT NULL already.", form)
    named, kw = f"{python(table.name)}, {python(old.name)}", schema_kw(table)
    says, found = f"{old.name} of {table.name} may hold no null any more", []
    if fill and old.default is None:
        name = f"ALTER COLUMN {quoted(old.name)}"
        default = empty.default_of(connection, old.type, fill)
        found.append(
            Revision(
                f"alter {words([old.name])} of {words([table.name])}",
                f"{says}: a release that does not know it writes rows with {fill}.",
                "expand",
                [alter(table, [f"{name} SET DEFAULT {fill}"])],
                [alter(table, [f"{name} DROP DEFAULT"])],
                [expected("column", table, old.name, default=default)],
            )
        )
    key = f", key={python(list(table.key))}" if table.key else ""
    filled = [f"op.fill_column({named}, {python(fill)}{kw}{key})"] if fill else []
    found.append(
        Revision(
            f"fill {words([old.name])} of {words([table.name])}",
            f"{says}: {'rows without a value get one by batches, and then ' if fill else ''}every row is known to have one.",
            "migrate",
            [*filled, f"op.set_not_null_concurrently({named}{kw})"],
            [f"op.drop_not_null({named}{kw})"],
            [expected("column", table, old.name, nullable=False)],
            transaction="none",
        )
    )
    return found


def _free(connection: Connection, table: Table, name: str, form: str) -> None:
    if facts.taken(connection, table.schema, name):
        raise WrongUse(f"There is something called {name_sql(table.schema, name)} already.",
                       facts.instead(form, name, [f"new_{name}"]))  # fmt: skip
