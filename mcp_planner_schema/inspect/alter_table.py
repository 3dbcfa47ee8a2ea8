"""What the actions of an ALTER TABLE do."""

from __future__ import annotations

from collections.abc import Iterator

from mcp_planner_schema.guard import lexer
from mcp_planner_schema.inspect.sql_reader import CONSTRAINTS, Action, Reader, a_word


def alter_table(reader: Reader) -> Iterator[Action]:
    """The actions from the table's name on."""
    table = reader.name()
    reader.take("*")
    for part in lexer.parts(reader.left()):
        yield from _alter_action(table, Reader(part))


def _alter_action(table: str, reader: Reader) -> Iterator[Action]:
    if reader.take("ADD"):
        yield from _add(table, reader)
    elif reader.take("DROP", "CONSTRAINT"):
        reader.take("IF", "EXISTS")
        yield Action("constraint dropped", table, reader.name(), rest=reader.left())
    elif reader.take("DROP"):
        reader.take("COLUMN")
        reader.take("IF", "EXISTS")
        yield Action("column dropped", table, columns=(reader.name(),), rest=reader.left())
    elif reader.take("VALIDATE", "CONSTRAINT"):
        yield Action("validate", table, reader.name())
    elif reader.take("ALTER"):
        yield from _alter_column(table, reader)
    elif reader.take("RENAME"):
        yield from _rename(table, reader)
    elif reader.take("SET", "SCHEMA"):
        yield Action("table renamed", table)
    elif reader.take("ATTACH", "PARTITION"):
        yield Action("attach", table, reader.name(), rest=reader.left())
    elif reader.take("DETACH", "PARTITION"):
        yield Action("detach", table, reader.name(), rest=reader.left())
    elif reader.word() == "SET" and any(token.word in _REWRITES for token in reader.left()[1:2]):
        yield Action("rewrite", table, " ".join(token.text for token in reader.left()[:3]))
    elif reader.any("ENABLE", "DISABLE"):
        if any(token.word == "TRIGGER" for token in reader.left()):
            yield Action("trigger switched", table)
        elif any(token.word == "SECURITY" for token in reader.left()):
            yield Action("policy", table)
        else:
            yield Action("altered", table)
    elif reader.take("REPLICA"):
        yield Action("replica identity", table)
    elif reader.any("INHERIT", "NO"):
        yield Action("inherit", table)
    else:
        yield Action("altered", table)


_REWRITES = ("TABLESPACE", "LOGGED", "UNLOGGED", "ACCESS")


def _rename(table: str, reader: Reader) -> Iterator[Action]:
    if reader.take("TO"):
        yield Action("table renamed", table, reader.name())
    elif reader.take("CONSTRAINT"):
        yield Action("object renamed", table, reader.name(), rest=(a_word("CONSTRAINT"),))
    else:
        reader.take("COLUMN")
        column = reader.name()
        reader.take("TO")
        yield Action("column renamed", table, reader.name(), columns=(column,))


def _add(table: str, reader: Reader) -> Iterator[Action]:
    if reader.word() in CONSTRAINTS:
        name = reader.name() if reader.take("CONSTRAINT") else ""
        yield _constraint(table, name, reader)
        return
    reader.take("COLUMN")
    reader.take("IF", "NOT", "EXISTS")
    column = reader.name()
    yield Action("column added", table, columns=(column,), rest=reader.left())


def _constraint(table: str, name: str, reader: Reader) -> Action:
    left = reader.left()
    if reader.take("PRIMARY", "KEY"):
        return Action("primary key", table, name, reader.columns(), left)
    if reader.take("UNIQUE"):
        reader.take("NULLS", "NOT", "DISTINCT")
        reader.take("NULLS", "DISTINCT")
        return Action("unique", table, name, reader.columns(), left)
    if reader.take("FOREIGN", "KEY"):
        return Action("foreign key", table, name, reader.columns(), left)
    if reader.take("EXCLUDE"):
        return Action("exclude", table, name, rest=left)
    if reader.take("NOT", "NULL"):
        return Action("not null", table, name, (reader.name(),), left)
    return Action("check", table, name, rest=left)


def _alter_column(table: str, reader: Reader) -> Iterator[Action]:
    if reader.take("CONSTRAINT"):
        return
    reader.take("COLUMN")
    columns = (reader.name(),)
    left = reader.left()
    if reader.take("TYPE") or reader.take("SET", "DATA", "TYPE"):
        yield Action("type", table, columns=columns, rest=left)
    elif reader.take("SET", "NOT", "NULL"):
        yield Action("not null", table, columns=columns, rest=left)
    elif reader.take("DROP", "NOT", "NULL"):
        yield Action("null", table, columns=columns)
    elif reader.take("SET", "DEFAULT") or reader.take("DROP", "DEFAULT"):
        yield Action("default", table, columns=columns)
    elif any(token.word in ("GENERATED", "IDENTITY", "EXPRESSION", "RESTART") for token in left):
        yield Action("expression", table, columns=columns)
