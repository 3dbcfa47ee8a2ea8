"""One SQL statement as what it does: the few forms that matter to people who use the tables meanwhile, told by its words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from mcp_planner_schema.guard import lexer
from mcp_planner_schema.guard.sql_file import Token
from mcp_planner_schema.inspect.alter_table import alter_table
from mcp_planner_schema.inspect.sql_reader import CONSTRAINTS, Action, Reader, a_word

_OBJECTS = (
    "VIEW", "FUNCTION", "PROCEDURE", "ROUTINE", "AGGREGATE", "TYPE", "SEQUENCE", "DOMAIN", "EXTENSION", "TRIGGER", "RULE",
)  # fmt: skip


def actions(tokens: Sequence[Token]) -> list[Action]:
    """What a statement does. Empty for what blocks nobody and takes nothing away, and for what is not known."""
    reader = Reader(tokens)
    first = reader.word()
    read = _STATEMENTS.get(first)
    if read is None:
        return []
    reader.at += 1
    return list(read(reader))


def _alter(reader: Reader) -> Iterator[Action]:
    kind = reader.any("TABLE", "TYPE", "DOMAIN", "SCHEMA", "POLICY", "INDEX", *_OBJECTS)
    if not kind and reader.take("MATERIALIZED", "VIEW"):
        kind = "VIEW"
    reader.take("IF", "EXISTS")
    if kind == "TABLE":
        reader.take("ONLY")
        yield from alter_table(reader)
        return
    name = reader.name()
    if kind == "POLICY":
        reader.take("ON")
        yield Action("policy", reader.name())
    elif kind == "TYPE" and reader.take("ADD", "VALUE"):
        yield Action("enum value added", name=name, rest=reader.left())
    elif kind == "TYPE" and reader.take("RENAME", "VALUE"):
        yield Action("enum value renamed", name=name)
    elif kind == "TYPE" and any(token.word == "ATTRIBUTE" for token in reader.left()):
        yield Action("type changed", name=name)
    elif kind == "DOMAIN" and (reader.take("ADD") or reader.take("SET", "NOT")):
        yield Action("domain constrained", name=name, rest=reader.left())
    elif kind and kind != "INDEX":
        if reader.word() == "(":
            reader.columns()
        if reader.any("RENAME") or reader.take("SET", "SCHEMA"):
            yield Action("object renamed", name=name, rest=(a_word(kind),))


def _create(reader: Reader) -> Iterator[Action]:
    reader.take("OR", "REPLACE")
    unique = reader.take("UNIQUE")
    if reader.take("INDEX"):
        concurrently = reader.take("CONCURRENTLY")
        exists = reader.take("IF", "NOT", "EXISTS")
        name = "" if reader.word() == "ON" else reader.name()
        reader.take("ON")
        only = reader.take("ONLY")
        table = reader.name()
        if reader.take("USING"):
            reader.name()
        parts = (("CONCURRENTLY", concurrently), ("UNIQUE", unique), ("ONLY", only), ("EXISTS", exists))
        words = frozenset(word for word, said in parts if said)
        yield Action("index", table, name, reader.columns(), reader.left(), words)
    elif reader.any("TEMP", "TEMPORARY"):
        return
    elif reader.take("POLICY"):
        reader.name()
        reader.take("ON")
        yield Action("policy", reader.name())
    else:
        reader.any("UNLOGGED", "FOREIGN", "MATERIALIZED", "RECURSIVE", "CONSTRAINT")
        kind = reader.any("TABLE", "SCHEMA", *_OBJECTS)
        exists = reader.take("IF", "NOT", "EXISTS")
        name = reader.name()
        said = frozenset({"EXISTS"} if exists else ())
        if kind == "TABLE":
            yield Action("table", name, name, rest=reader.left(), words=said)
            yield from _created_columns(name, reader)
        elif kind:
            yield Action("created", name=name, words=said)


def _created_columns(table: str, reader: Reader) -> Iterator[Action]:
    if reader.take("PARTITION", "OF"):
        yield Action("attach", reader.name(), table, rest=reader.left(), words=frozenset({"NEW"}))
        return
    if reader.word() != "(":
        return
    depth, end = 0, reader.at
    for end in range(reader.at, len(reader.tokens)):
        depth += {"(": 1, ")": -1}.get(reader.tokens[end].word, 0)
        if not depth:
            break
    for part in lexer.parts(reader.tokens[reader.at + 1 : end]):
        column = Reader(part)
        if part and column.word() not in (*CONSTRAINTS, "LIKE"):
            yield Action("column created", table, columns=(column.name(),), rest=column.left())


def _drop(reader: Reader) -> Iterator[Action]:
    reader.any("MATERIALIZED", "FOREIGN")
    kind = reader.any("TABLE", "INDEX", "SCHEMA", "DATABASE", "OWNED", "POLICY", *_OBJECTS)
    said = frozenset({"CONCURRENTLY"} if reader.take("CONCURRENTLY") else ())
    reader.take("IF", "EXISTS")
    names = [Reader(part).name() for part in lexer.parts(reader.left())]
    for name in names:
        if kind == "TABLE":
            yield Action("table dropped", name, name, rest=reader.left())
        elif kind == "INDEX":
            yield Action("index dropped", name=name, rest=reader.left(), words=said)
        elif kind in ("SCHEMA", "DATABASE", "OWNED"):
            yield Action("schema dropped", name=name)
        elif kind == "POLICY":
            on = Reader(reader.left()[2:])
            yield Action("policy", on.name())
        elif kind:
            yield Action("object dropped", name=name, rest=(a_word(kind), *reader.left()))


def _reindex(reader: Reader) -> Iterator[Action]:
    options = reader.columns()
    kind = reader.any("INDEX", "TABLE", "SCHEMA", "DATABASE", "SYSTEM")
    if kind:
        said = frozenset({"CONCURRENTLY"} if reader.take("CONCURRENTLY") or "concurrently" in options else ())
        yield Action("reindex", reader.name(), words=said | {kind})


def _truncate(reader: Reader) -> Iterator[Action]:
    reader.take("TABLE")
    for part in lexer.parts(reader.left()):
        one = Reader(part)
        one.take("ONLY")
        yield Action("truncate", one.name(), rest=reader.left())


def _rows(kind: str) -> Callable[[Reader], Iterator[Action]]:
    def read(reader: Reader) -> Iterator[Action]:
        reader.any("FROM", "INTO")
        reader.take("ONLY")
        yield Action(kind, reader.name(), rest=reader.left())

    return read


def _one(kind: str, *before: str) -> Callable[[Reader], Iterator[Action]]:
    def read(reader: Reader) -> Iterator[Action]:
        for word in before:
            reader.take(word)
        yield Action(kind, reader.name(), rest=reader.left())

    return read


def _revoke(reader: Reader) -> Iterator[Action]:
    while reader.word() not in ("ON", "FROM") and reader.at < len(reader.tokens):
        reader.at += 1
    if reader.take("ON"):
        reader.any("TABLE", "SCHEMA", *_OBJECTS)
    yield Action("revoke", name=reader.name())


def _vacuum(reader: Reader) -> Iterator[Action]:
    options = reader.columns()
    full = "full" in options or reader.take("FULL")
    reader.any("VERBOSE", "ANALYZE", "FREEZE")
    yield Action("rewrite" if full else "vacuum", reader.name(), "VACUUM FULL")


def _cluster(reader: Reader) -> Iterator[Action]:
    reader.take("VERBOSE")
    yield Action("rewrite", reader.name(), "CLUSTER")


def _refresh(reader: Reader) -> Iterator[Action]:
    reader.take("MATERIALIZED", "VIEW")
    said = frozenset({"CONCURRENTLY"} if reader.take("CONCURRENTLY") else ())
    yield Action("refresh", reader.name(), words=said)


def _transaction(reader: Reader) -> Iterator[Action]:
    if not any(token.word in ("SAVEPOINT", "TO") for token in reader.tokens):
        yield Action("transaction")


def _set(reader: Reader) -> Iterator[Action]:
    reader.any("LOCAL", "SESSION")
    name = reader.name()
    if name in ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout", "transaction_timeout"):
        yield Action("timeout", name=name)


_STATEMENTS: dict[str, Callable[[Reader], Iterator[Action]]] = {
    "ALTER": _alter,
    "CREATE": _create,
    "DROP": _drop,
    "REINDEX": _reindex,
    "TRUNCATE": _truncate,
    "UPDATE": _rows("update"),
    "DELETE": _rows("delete"),
    "INSERT": _rows("insert"),
    "VACUUM": _vacuum,
    "CLUSTER": _cluster,
    "LOCK": _one("lock", "TABLE", "ONLY"),
    "REFRESH": _refresh,
    "BEGIN": _transaction,
    "START": _transaction,
    "COMMIT": _transaction,
    "END": _transaction,
    "ROLLBACK": _transaction,
    "ABORT": _transaction,
    "SET": _set,
    "RESET": _set,
    "REVOKE": _revoke,
}
