"""A SQL script, statement by statement: its arguments are bound by the driver, and for ``--sql`` written as literals."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard.postcheck import do_block, literal
from mcp_planner_schema.guard.script import Statement

if TYPE_CHECKING:
    from sqlalchemy import Connection

LINE = "_script_line"
"""What an error of a statement carries: the line of the script that it begins in."""


def send(
    connection: Connection,
    statement: Statement,
    arguments: Mapping[str, Any],
    say: Callable[[str], None],
    mark: str = "",
) -> int:
    """Send one statement, and give how many rows it wrote. ``mark`` is sent with it, in the same transaction.

    What the server says of it (``RAISE NOTICE``) is told.
    """
    driver: Any = connection.connection.dbapi_connection
    driver.notices.clear()
    bound = {name: _adapted(arguments[name]) for _, name in statement.places}
    text = _with(statement, lambda name: f"%({name})s", percent="%%") if bound else statement.text
    if mark and not statement.alone:
        text += ";\n" + (mark.replace("%", "%%") if bound else mark)
    try:
        if bound:
            result = connection.exec_driver_sql(text, bound)
        else:
            result = connection.exec_driver_sql(text, execution_options={"no_parameters": True})
    except Exception as error:
        setattr(error, LINE, statement.line)
        raise
    for notice in driver.notices:
        say(notice.strip().split("\n")[0])
    return 0 if result.returns_rows else max(0, result.rowcount)


def written(statement: Statement, arguments: Mapping[str, Any]) -> str:
    """The statement with its arguments as literals."""
    return _with(statement, lambda name: _literal(arguments[name]), percent="%")


def stops(message: str) -> str:
    """A statement that ends the file where somebody runs it."""
    return do_block(f"\nBEGIN\n  RAISE EXCEPTION USING MESSAGE = {literal(message)};\nEND\n") + ";"


def _with(statement: Statement, value: Callable[[str], str], *, percent: str) -> str:
    parts, last = [], 0
    for at, name in statement.places:
        parts += [statement.text[last:at].replace("%", percent), value(name)]
        last = at + 1 + len(name)
    return "".join(parts) + statement.text[last:].replace("%", percent)


def _adapted(value: Any) -> Any:
    """As the driver binds it: lists of single values are arrays, all other lists and objects are JSON."""
    from psycopg2.extras import Json

    return Json(value) if _is_json(value) else value


def _is_json(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and any(isinstance(one, (list, dict)) for one in value))


def _literal(value: Any) -> str:
    if _is_json(value):
        return literal(json.dumps(value))
    if isinstance(value, list):
        return f"ARRAY[{', '.join(map(_literal, value))}]" if value else "'{}'"
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return str(value).lower()
    return (
        literal(value) if isinstance(value, str) else f" {value!r}"
    )  # a space: what stands before may be a minus sign
