"""Phases: how far an upgrade may go while an older release still runs.

A contract revision takes away what that release uses. It runs in staging and production only when asked for
(``PHASE=contract make migrate-up``, ``alembic -x phase=contract upgrade head``); ``phase=expand`` stops before the first one
everywhere. What comes after a contract revision waits with it: the order of a history is not changed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard import environments, header, judge, plan, source
from mcp_planner_schema.guard.findings import Finding, Refused, WrongUse
from mcp_planner_schema.guard.progress import name_of, script_of
from mcp_planner_schema.guard.saying import say
from mcp_planner_schema.guard.settings import Settings

if TYPE_CHECKING:
    from mcp_planner_schema.guard.progress import Step

CHOICES = ("expand", "contract")


def allowed(context: Any, settings: Settings, destination: Any, steps: list[Step]) -> list[Step]:
    """Those of an upgrade's steps that may run now, and a word about those that wait, once.

    Raises :class:`Refused` where a revision was named that cannot be reached without a contract revision that nobody has
    asked for; ``head`` and ``phase=expand`` mean "as far as it goes". A downgrade or a stamp is left alone.
    """
    asked = _asked(context)
    if not steps or not steps[0].is_upgrade or steps[0].info.is_stamp:
        return steps
    first = first_waiting((_phase(step, settings) for step in steps), settings.environment, asked)
    if first is None:
        return steps
    waiting = steps[first:]
    command = with_contract(plan.repeat_of(context))
    if not asked and not str(destination).endswith(("head", "heads")):
        name = name_of(waiting[0])
        values = {"revision": name, "environment": settings.environment, "command": command}
        path = source.shown(Path(script_of(waiting[0]).path))
        raise Refused([Finding("contract-held", f"{path}:1", name, values)], command)
    _tell(context, _text(waiting, asked, settings.environment, command))
    return steps[:first]


def first_waiting(phases: Iterable[str], environment: str, asked: str) -> int | None:
    """The place of the first revision that may not run now, of these phases in their order: it waits with all behind it."""
    if asked == "contract" or (not asked and not environments.of(environment).contract_waits):
        return None
    return next((place for place, phase in enumerate(phases) if phase == "contract"), None)


def why_waiting(environment: str, asked: str) -> str:
    """Why a contract revision does not run now, for people."""
    return "phase=expand was asked for" if asked else f"in {environment} it runs only when asked for"


def with_contract(repeat: str) -> str:
    """The command as it was typed, asking for the contract revisions too."""
    command, _, rest = re.sub(r"\s+(-x\s*phase|PHASE)=\S+", "", repeat).partition(" ")
    if command == "make":
        return f"PHASE=contract make {rest}"
    if command == "alembic":
        return f"alembic -x phase=contract {rest}"
    return 'the same call with config.attributes["phase"] = "contract"'


def _asked(context: Any) -> str:
    named = context.get_x_argument(as_dictionary=True).get("phase")
    return chosen(named if named is not None else context.config.attributes.get("phase"))


def chosen(asked: str | None) -> str:
    """What was asked for; empty where nothing was. Raises :class:`WrongUse` for what is no phase to ask for."""
    if asked is None:
        return ""
    if asked not in CHOICES:
        raise WrongUse(
            f"phase is {asked!r}. It is expand (stop before the first contract revision), contract (run those too), or left "
            "out: then contract revisions run in development, and wait in staging and production.",
            "alembic -x phase=expand upgrade head, or PHASE=expand make migrate-up",
        )
    return str(asked)


def _phase(step: Step, settings: Settings) -> str:
    read = source.read(Path(script_of(step).path))
    if isinstance(read, Finding) or not header.has_header(read, required=settings.headers == "required"):
        return ""  # the judgement before the first step has its say about it
    return header.parse(read, judge.today(), {})[0].phase


def _text(waiting: Sequence[Step], asked: str, environment: str, command: str) -> str:
    first, *after = waiting
    lines = [f"waits: {_titled(first)} (contract: {why_waiting(environment, asked)})"]
    lines += [f"waits: {_titled(step)} (comes after {name_of(first)})" for step in after]
    return "\n".join([*lines, f"when no older release runs any more: {command}"])


def _titled(step: Step) -> str:
    return f"{name_of(step)} {step.doc or ''}".strip().rstrip(".")


def _tell(context: Any, text: str) -> None:
    told = plan.options_of(context)
    if told.get("guard_waits") != text:  # the plan is read again under the deployers' lock
        told["guard_waits"] = text
        say(text)
