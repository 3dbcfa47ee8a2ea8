"""How an operation is written down: as the call that an author would write, for autogenerate and for new revisions."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

from alembic.autogenerate import renderers

_Operation = TypeVar("_Operation", bound=type)


def rendered(name: str) -> Any:
    """Class decorator: autogenerate writes such an operation, a frozen dataclass, as ``op.<name>(…)``."""

    def register(operation: _Operation) -> _Operation:
        renderers.dispatch_for(operation)(lambda context, one: call(name, one))
        return operation

    return register


def call(name: str, operation: Any) -> str:
    """``op.<name>(…)`` with the fields that differ from their defaults; the first ones without a default by place."""
    parts = []
    for field in dataclasses.fields(operation):
        value = getattr(operation, field.name)
        made = field.default_factory
        default = field.default if made is dataclasses.MISSING else made()
        if default is dataclasses.MISSING:
            parts.append(quoted(value))
        elif value != default:
            parts.append(f"{field.name}={quoted(value)}")
    return f"op.{name}({', '.join(parts)})"


def quoted(value: object) -> str:
    """A value as this project writes it: double quotes, tuples as lists."""
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(map(quoted, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{quoted(key)}: {quoted(one)}" for key, one in value.items()) + "}"
    if isinstance(value, str):
        text = repr(value)
        if text[0] == "'" and '"' not in text:
            return '"' + text[1:-1].replace("\\'", "'") + '"'
        return text
    return repr(value)
