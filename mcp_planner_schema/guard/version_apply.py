"""Who is called with each step, in its transaction, when its version is written: Alembic's ``on_version_apply``.

Besides what an ``env.py`` gives: what the caller has put into ``config.attributes``, and what ``on_version_apply`` in alembic.ini
names, so that another tool's version can be kept in step without the guard knowing of it. What one raises undoes the step.
One that has a method ``before`` is asked before a step begins, when nothing of it is final yet.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard.findings import WrongUse
from mcp_planner_schema.guard.settings import Settings

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext
    from sqlalchemy import Connection

    from mcp_planner_schema.guard.progress import Step


def called(context: Any, settings: Settings, options: Mapping[str, Any]) -> tuple[Callable[..., None], ...]:
    """All of them, in this order. Raises :class:`WrongUse` where a name of alembic.ini is none that can be called."""
    asked = context.config.attributes.get("on_version_apply")
    return (*_each(options.get("on_version_apply")), *_each(asked), *map(_named, settings.on_version_apply))


def ask_before(
    called: Iterable[Callable[..., None]], migration: MigrationContext, beside: Connection, step: Step
) -> None:
    """Let those that want to look at the database before this step; what one raises ends the run. ``beside`` is in autocommit."""
    for one in called:
        before = getattr(one, "before", None)
        if before is not None:
            before(migration, beside, step)


def _each(given: Any) -> tuple[Callable[..., None], ...]:
    if given is None:
        return ()
    return (given,) if callable(given) else tuple(given)


def _named(name: str) -> Callable[..., None]:
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise WrongUse(
            f"alembic.ini, [guard]: on_version_apply = {name}: {error}.",
            "write it as module:function, or leave it empty, then repeat the command",
        ) from error
    return found  # type: ignore[no-any-return]
