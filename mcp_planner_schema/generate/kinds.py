"""The kinds of change that ``make migrate-create KIND=…`` writes, each with what it wants to be told."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mcp_planner_schema.generate import belongings, columns, empty, facts, moves, tables
from mcp_planner_schema.generate.columns import Change, New
from mcp_planner_schema.generate.facts import Column, Table, quoted
from mcp_planner_schema.generate.revision import Revision, sql
from mcp_planner_schema.guard.findings import WrongUse
from mcp_planner_schema.guard.postcheck import execute, literal
from mcp_planner_schema.operations.sync import Sync
from mcp_planner_schema.operations.written import quoted as python

if TYPE_CHECKING:
    from sqlalchemy import Connection

Values = Mapping[str, str]


@dataclass(frozen=True)
class Kind:
    """One kind: what it writes, which values it needs and takes, and an example of its right form."""

    writes: Callable[[Connection, Values, str], Sequence[Revision]]
    needs: tuple[str, ...]
    takes: tuple[str, ...]
    form: str


def written(connection: Connection, values: Values) -> Sequence[Revision]:
    """The revisions of a change, in the order in which they run. Raises :class:`WrongUse` for what cannot be written."""
    kind = KINDS.get(values["KIND"])
    if kind is None:
        raise WrongUse(
            f"KIND is {values['KIND']!r}; it is one of {', '.join(KINDS)}.", f"make {_form('rename_column')}"
        )
    form = f"make {_form(values['KIND'])}"
    for name in kind.needs:
        if not values.get(name):
            raise WrongUse(f"KIND={values['KIND']} needs {name}.", form)
    for name in values.keys() - {"KIND", "AUTHOR", *kind.needs, *kind.takes}:
        raise WrongUse(f"KIND={values['KIND']} knows no {name}.", form)
    return kind.writes(connection, values, facts.command(values))


def _form(kind: str) -> str:
    return f"migrate-create KIND={kind} {KINDS[kind].form}"


def _rename(connection: Connection, values: Values, form: str) -> Sequence[Revision]:
    table, old = _old(connection, values, form)
    table.free(values["TO"], form)
    new = New(values["TO"], old.type, old.shown, None if old.volatile else old.default, old.comment)
    sync = _sync(table, old, [new])
    constraints, indexes = columns.carried(connection, table, old, new)
    says = f"{old.name} of {table.name} gets the name {new.name}"
    return columns.revisions(Change(table, old, [new], sync, says, constraints, indexes))


def _change_type(connection: Connection, values: Values, form: str) -> Sequence[Revision]:
    table, old = _old(connection, values, form)
    type_sql, shown = empty.type_of(connection, values["TO_TYPE"])
    if not values.get("TO"):
        return [_in_place(connection, table, old, type_sql, shown, form)]
    table.free(values["TO"], form)
    forward = values.get("FORWARD") or f"{quoted(old.name)}::{type_sql}"
    backward = values.get("BACKWARD") or f"{quoted(values['TO'])}::{old.type}"
    new = New(values["TO"], type_sql, shown, facts.made_of_default(connection, old, forward, type_sql), old.comment)
    sync = _sync(table, old, [new], forward=[forward], backward=[backward])
    constraints, indexes = columns.carried(connection, table, old, new)
    says = f"{old.name} of {table.name} becomes {new.name} of type {shown}"
    return columns.revisions(Change(table, old, [new], sync, says, constraints, indexes))


def _in_place(connection: Connection, table: Table, old: Column, type_sql: str, shown: str, form: str) -> Revision:
    """A type that PostgreSQL takes without writing a row: that is tried on an empty copy."""
    if belongings.rewrites(connection, table, old.name, type_sql):
        raise WrongUse(
            f"{old.type} to {shown} writes every row of {table.name} anew, and nobody could read it meanwhile. "
            "TO= names the column that the new release uses.",
            f"{form} TO=new_{columns.words([old.name]).replace(' ', '_')}",
        )
    name = f"ALTER TABLE {table.sql} ALTER COLUMN {quoted(old.name)} TYPE"
    return Revision(
        f"alter {columns.words([old.name])} of {columns.words([table.name])}",
        f"{old.name} of {table.name} gets the type {shown}; no row is written for it.",
        "expand",
        [sql(f"{name} {type_sql}")],
        [sql(f"{name} {old.type}")],
        [columns.expected("column", table, old.name, type=shown)],
        reversible="stash",
    )


def _split(connection: Connection, values: Values, form: str) -> Sequence[Revision]:
    table, old = _old(connection, values, form)
    names, forward = _parts(values["TO"]), _parts(values["FORWARD"])
    types = _parts(values.get("TO_TYPE", "")) or [old.type] * len(names)
    if not len(names) == len(forward) == len(types):
        raise WrongUse("TO, FORWARD and TO_TYPE have a part for each new column, with ' | ' between them.", form)
    new = []
    for name, made, type_given in zip(names, forward, types, strict=True):
        table.free(name, form)
        type_sql, shown = empty.type_of(connection, type_given)
        new.append(New(name, type_sql, shown, facts.made_of_default(connection, old, made, type_sql)))
    sync = _sync(table, old, new, forward=forward, backward=[values["BACKWARD"]])
    says = f"{old.name} of {table.name} is split into {' and '.join(names)}"
    return columns.revisions(Change(table, old, new, sync, says, *columns.uncarried(connection, table, old)))


def _replace_enum(connection: Connection, values: Values, form: str) -> Sequence[Revision]:
    table, old = _old(connection, values, form)
    if old.enum is None:
        raise WrongUse(f"{table.name}.{old.name} is of type {old.type}, which is no enum.", form)
    table.free(values["TO"], form)
    labels, before = _parts(values["LABELS"]), facts.labels(connection, old.enum)
    mapped = dict(_pair(one, form) for one in _parts(values.get("MAP", "")))
    unknown = (set(labels) - set(before)) | (set(mapped) - set(before)) | (set(mapped.values()) - set(labels))
    if unknown:
        raise WrongUse(f"{', '.join(sorted(unknown))}: not among {', '.join(before)}, or not kept by LABELS.", form)
    gone = [label for label in before if label not in labels and label not in mapped]
    schema, name = _schema_of(old.enum), values["TO_TYPE"]
    type_sql = f"{quoted(schema)}.{quoted(name)}"
    text = f"{quoted(old.name)}::text"
    if mapped:
        cases = " ".join(f"WHEN {literal(one)} THEN {literal(to)}" for one, to in mapped.items())
        text = f"(CASE {text} {cases} ELSE {text} END)"
    forward, backward = f"{text}::{type_sql}", f"{quoted(values['TO'])}::text::{old.type}"
    made = sql(f"CREATE TYPE {facts.name_sql(schema, name)} AS ENUM ({', '.join(map(literal, labels))})")
    default = facts.label_of_default(connection, old)
    default = mapped.get(default, default) if default else None
    shown = facts.name_sql(schema, name)
    new = New(values["TO"], type_sql, shown, f"{literal(default)}::{type_sql}" if default else None, old.comment)
    enum, kw = facts.unquoted(old.enum.rpartition(".")[2]), columns.schema_kw_of(schema)
    refused = [f"op.refuse_used_enum_values({python(enum)}, {python(gone)}{kw})"] if gone else []
    sync = _sync(table, old, [new], forward=[forward], backward=[backward])
    with empty.nothing(connection):
        execute(connection, f"CREATE TYPE {type_sql} AS ENUM ({', '.join(map(literal, labels))})")
        constraints, indexes = columns.carried(connection, table, old, new)
    says = f"{old.name} of {table.name} becomes {new.name} with the values {', '.join(labels)}"
    change = Change(
        table, old, [new], sync, says, constraints, indexes, [*refused, made], [sql(f"DROP TYPE {shown}")],
        f"expect.enum({python(name)}, {python(labels)}{kw})", lossy=bool(mapped),
    )  # fmt: skip
    return columns.revisions(change)


def _add_enum_value(connection: Connection, values: Values, form: str) -> Sequence[Revision]:
    schema, _, name = values["ENUM"].rpartition(".")
    before = facts.labels(connection, facts.name_sql(schema or "public", name), form)
    value, where = values["VALUE"], [(key, values[key]) for key in ("BEFORE", "AFTER") if values.get(key)]
    if value in before or len(where) > 1 or any(one not in before for _, one in where):
        raise WrongUse(f"{name} has {', '.join(before)}; VALUE is a new one, BEFORE or AFTER one of them.", form)
    at = len(before)
    for key, one in where:
        at = before.index(one) + (key == "AFTER")
    labels = [*before[:at], value, *before[at:]]
    place = "".join(f", {key.lower()}={python(one)}" for key, one in where)
    kw = columns.schema_kw_of(schema or "public")
    expected = f"expect.enum({python(name)}, {python(labels)}{kw})"
    return [
        Revision(
            f"add {columns.words([value])} to {columns.words([name])}",
            f"The enum {name} gets the value {value}.",
            "expand",
            [f"op.add_enum_value({python(name)}, {python(value)}{place}{kw})"],
            ["# PostgreSQL cannot take it out again; refused while a row has it.",
             f"op.leave_enum_value({python(name)}, {python(value)}{kw})"],
            [expected],
            [expected],
            transaction="none",
        )
    ]  # fmt: skip


def _old(connection: Connection, values: Values, form: str) -> tuple[Table, Column]:
    """The table and the column that changes. Raises :class:`WrongUse` where something hangs on it that cannot come along."""
    table, name = facts.table(connection, values["TABLE"], form), values["FROM"]
    if name not in table.columns:
        raise table.lacking(name, facts.instead(form, name, _free_columns(connection, table) or table.columns))
    old = table.columns[name]
    hanging = facts.hanging(connection, table, old)
    if hanging:
        others = ", ".join(_free_columns(connection, table)) or "none"
        raise WrongUse(
            f"{table.name}.{name} has what no generator can carry to another column: {'; '.join(hanging)}. Give the new "
            f"column its own first, by hand, in a revision that adds it. Of {table.name} the generator can take: {others}.",
            facts.by_hand(f"add {columns.words([values.get('TO') or 'new ' + name])} to {columns.words([table.name])}"),
        )
    return table, old


def _free_columns(connection: Connection, table: Table) -> list[str]:
    return [name for name, one in table.columns.items() if not facts.hanging(connection, table, one)]


def _sync(
    table: Table, old: Column, new: Sequence[New], *, forward: Sequence[str] | None = None,
    backward: Sequence[str] | None = None,
) -> Sync:  # fmt: skip
    defaults = {one.name: one.default for one in new if one.default}
    if old.default and not old.volatile:
        defaults[old.name] = old.default
    return Sync(
        table.name, [old.name], [one.name for one in new], forward, backward, defaults, [old.name] if old.volatile else [],
        table.key, schema=None if table.schema == "public" else table.schema,
    )  # fmt: skip


def _parts(text: str) -> list[str]:
    """What stands between bars; a bar of SQL (``||``) has no space on both sides of each of its two."""
    return [part.strip() for part in re.split(r"\s\|\s", text) if part.strip()]


def _pair(text: str, form: str) -> tuple[str, str]:
    one, equals, other = (part.strip() for part in text.partition("="))
    if not (one and equals and other):
        raise WrongUse(f"{text!r} is not of the form OLD=NEW.", form)
    return one, other


def _schema_of(qualified: str) -> str:
    schema, dot, _ = qualified.rpartition(".")
    return facts.unquoted(schema) if dot else "public"


_COLUMN = ("TABLE", "FROM", "TO")

KINDS = {
    "rename_column": Kind(_rename, _COLUMN, (), "TABLE=tasks FROM=objective TO=goal"),
    "change_type": Kind(
        _change_type, ("TABLE", "FROM", "TO_TYPE"), ("TO", "FORWARD", "BACKWARD"),
        "TABLE=steps FROM=iteration_count TO=rounds TO_TYPE=bigint [FORWARD='iteration_count::bigint'] "
        "[BACKWARD='rounds::integer']",
    ),
    "split_column": Kind(
        _split, (*_COLUMN, "FORWARD", "BACKWARD"), ("TO_TYPE",),
        "TABLE=projects FROM=name TO='first | last' FORWARD=\"split_part(name, ' ', 1) | split_part(name, ' ', 2)\" "
        "BACKWARD=\"concat_ws(' ', first, last)\"",
    ),
    "move_column": Kind(
        moves.written, ("TABLE", "FROM", "TO_TABLE", "ON"), ("TO",),
        "TABLE=users FROM=address TO_TABLE=profiles ON=id=user_id [TO=address]",
    ),
    "rename_table": Kind(tables.rename, ("TABLE", "TO"), (), "TABLE=steps TO=items"),
    "drop_column": Kind(tables.drop_column, ("TABLE", "FROM"), ("FILL",), "TABLE=steps FROM=final_content [FILL=\"''\"]"),
    "drop_table": Kind(tables.drop_table, ("TABLE",), (), "TABLE=threshold_changes"),
    "add_not_null": Kind(tables.add_not_null, ("TABLE", "FROM"), ("FILL",), "TABLE=steps FROM=final_content [FILL=\"''\"]"),
    "add_enum_value": Kind(
        _add_enum_value, ("ENUM", "VALUE"), ("BEFORE", "AFTER"), "ENUM=step_status VALUE=PAUSED [AFTER=AGREED]"
    ),
    "replace_enum": Kind(
        _replace_enum, (*_COLUMN, "TO_TYPE", "LABELS"), ("MAP",),
        "TABLE=steps FROM=agreed_complexity TO=effort TO_TYPE=effort_level LABELS='LOW | HIGH' [MAP='MEDIUM=HIGH']",
    ),
}  # fmt: skip
NAMES = tuple(sorted({name for kind in KINDS.values() for name in (*kind.needs, *kind.takes)}))
