"""A column moves to another table, whose rows belong to those of the first one to one: expand, migrate, contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING

from mcp_planner_schema.generate import belongings, facts
from mcp_planner_schema.generate.columns import alter, call, expected, schema_of, words
from mcp_planner_schema.generate.facts import quoted
from mcp_planner_schema.generate.revision import Revision, sql
from mcp_planner_schema.guard.findings import WrongUse
from mcp_planner_schema.guard.postcheck import literal
from mcp_planner_schema.operations.moves import Move
from mcp_planner_schema.operations.written import quoted as python

if TYPE_CHECKING:
    from sqlalchemy import Connection


def written(connection: Connection, values: Mapping[str, str], form: str) -> Sequence[Revision]:
    """The three revisions."""
    table, target = (facts.table(connection, values[name], form) for name in ("TABLE", "TO_TABLE"))
    old, name = table.column(values["FROM"], form), values.get("TO") or values["FROM"]
    on = tuple(part.strip() for part in values["ON"].split("="))
    if len(on) != 2 or table.schema != target.schema:
        raise WrongUse("ON is a column of TABLE and one of TO_TABLE, of one schema, like id=user_id.", form)
    target.free(name, form)
    for one, key in ((table, on[0]), (target, on[1])):
        one.column(key, form)
        if not facts.unique(connection, one, key):
            raise WrongUse(f"{one.name}.{key} is not unique, so a row of the one table may belong to several.", form)
    if old.not_null:
        # Both releases write at their own place, and one row of a pair comes before the other.
        raise WrongUse(
            f"{table.name}.{old.name} is NOT NULL, and a row without a value at the place a release does not know would be "
            f"refused. First op.drop_not_null({python(table.name)}, {python(old.name)}) in a revision of its own; when it "
            f"has moved, make migrate-create KIND=add_not_null TABLE={target.name} FROM={name}.",
            facts.by_hand(f"alter {words([old.name])} of {words([table.name])}", "op.drop_not_null"),
        )
    hanging = facts.hanging(connection, table, old)
    hanging += [f"constraint {one.name}" for one in belongings.constraints(connection, table, old.name, "moved", None)]
    hanging += [f"index {one.name}" for one, _ in belongings.indexes(connection, table, old.name, "moved", None)]
    if hanging or old.volatile:
        raise WrongUse(
            f"{table.name}.{old.name} has what cannot move along: "
            f"{'; '.join(hanging) or 'a default that differs from row to row'}. Write the revisions by hand, with "
            "op.sync_moved_column.",
            facts.by_hand(f"add {words([name])} to {words([target.name])}", "op.sync_moved_column"),
        )
    move = Move(
        table.name, old.name, target.name, on, None if name == old.name else name, old.default or "NULL",
        schema=table.schema, key=table.key, to_key=target.key,
    )  # fmt: skip
    given = {one.name: getattr(move, one.name) for one in fields(Move)}
    constant = {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in given.items()
        if value and (key, value) not in (("fill", "new"), ("default", "NULL"), ("schema", "public"))
    }
    says = f"{old.name} of {table.name} moves to {target.name}"
    there, here = f"{target.sql} AS there", f"{table.sql} AS here"
    same = f"there.{quoted(on[1])} = here.{quoted(on[0])}"
    differ = (
        f"SELECT FROM {here} JOIN {there} ON {same} WHERE here.{quoted(old.name)} IS DISTINCT FROM there.{quoted(name)}"
    )
    homeless = f"SELECT FROM {here} WHERE here.{quoted(old.name)} IS NOT NULL AND NOT EXISTS (SELECT FROM {there} WHERE {same})"
    triggers = [
        expected("trigger", one, move.trigger(word, side))
        for one, side in ((table, "away"), (target, "here"))
        for word in ("take", "pass")
    ]
    agreed = f"expect.rows({python(differ)}, count=0)"
    default = [f"default={python(old.default)}"] if old.default else []
    comment = [f"comment={python(old.comment)}"] if old.comment else []
    expand = [alter(target, [f"ADD COLUMN {quoted(name)} {old.type}"])]
    if old.default:
        expand.append(alter(target, [f"ALTER COLUMN {quoted(name)} SET DEFAULT {old.default}"]))
    if old.comment:
        expand.append(sql(f"COMMENT ON COLUMN {target.sql}.{quoted(name)} IS {literal(old.comment)}"))
    return [
        Revision(
            f"add {words([name])} to {words([target.name])}",
            f"{says}: made here, with triggers that keep both places equal.",
            "expand",
            [*expand, "op.sync_moved_column(**MOVE)"],
            ["op.drop_moved_sync(**MOVE)", alter(target, [f"DROP COLUMN {quoted(name)}"])],
            [expected("column", target, name, type=old.shown, nullable=True), *triggers],
            reversible="stash",
            constants={"MOVE": constant},
        ),
        Revision(
            f"fill {words([name])} of {words([target.name])}",
            f"{says}: rows that are older than the triggers are filled.",
            "migrate",
            ["op.fill_moved_column(**MOVE)"],
            ["# What was filled stays true: the triggers keep it.", "op.sync_moved_column(**MOVE)"],
            [agreed, f"expect.rows({python(homeless)}, count=0)"],
            type="data",
            transaction="none",
            budgets={"statement_timeout": "1h"},
            constants={"MOVE": constant},
        ),
        Revision(
            f"drop {words([old.name])} of {words([table.name])}",
            f"{says}: no release looks for it at the old place any more, so it goes.",
            "contract",
            ["op.drop_moved_sync(**MOVE)", alter(table, [f"DROP COLUMN {quoted(old.name)}"])],
            [
                call("op.ensure_column", python(table.name), python(old.name), python(old.type), *default, *comment,
                     *schema_of(table)),
                "# Until all rows are filled, the new place is the one that has the value.",
                'op.sync_moved_column(**MOVE, fill="old")',
                'op.fill_moved_column(**MOVE, fill="old")',
                "op.sync_moved_column(**MOVE)",
            ],
            [f"expect.absent({expected('column', table, old.name)})",
             *(f"expect.absent({one})" for one in triggers)],
            [expected("column", table, old.name, type=old.shown, nullable=True), *triggers, agreed],
            transaction="none",
            budgets={"statement_timeout": "1h"},
            constants={"MOVE": constant},
        ),
    ]  # fmt: skip
