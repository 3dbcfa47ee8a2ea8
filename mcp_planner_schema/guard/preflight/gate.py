"""What the runner calls: nothing is run that preflight refuses, unless whoever runs it accepts the finding, with a reason."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard import forced, history, judge, plan, progress
from mcp_planner_schema.guard.findings import RULES, Refused, WrongUse
from mcp_planner_schema.guard.preflight import check, pending
from mcp_planner_schema.guard.preflight.pending import Pending

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mcp_planner_schema.guard.judge import Judged
    from mcp_planner_schema.guard.progress import Step
    from mcp_planner_schema.guard.settings import Settings
    from mcp_planner_schema.guard.tries import Run

_FORM = 'PREFLIGHT_ACCEPT=backup-old REASON="why" make migrate-up   (alembic -x preflight_accept=… -x reason=… upgrade head)'


def passed(context: Any, run: Run, steps: Sequence[Step], judged: Mapping[str, Judged]) -> dict[str, Any] | None:
    """Ask the server about these steps, tell what is to be told, and raise :class:`Refused` with all that stands against them.

    Gives what was accepted and why, for the run's row; None where nothing was. Writes nothing.
    """
    accept, reason = accepted(context)
    back = bool(steps) and progress.direction_of(steps[0]) == "downgrade"
    named = plan.version_table(run.migration())
    recorded = history.upgraded_as(run.beside, run.settings.schema, named) if back else {}
    wanted = of_steps(run.folder, run.settings, steps, judged, recorded)
    found = check.ask(
        run.engine, run.settings, wanted, accepted=accept, ours=run.processes(), opened=check.OPEN, workers=run.asked.workers,
        version_table=named,
    )  # fmt: skip
    for one in found.told:
        run.emit("finding", line=f"note: {check.line(one)}", code=one.code, where=one.where, weight="told")
    if found.refused:
        raise Refused(found.refused, f"correct what they name, then {run.repeat}")
    if not found.accepted:
        return None
    for one in found.accepted:
        line = f"accepted ({reason}): {check.line(one)}"
        run.emit("finding", line=line, code=one.code, where=one.where, weight="accepted", reason=reason)
    return {"reason": reason, "accepted": [check.line(one) for one in found.accepted]}


def accepted(context: Any) -> tuple[frozenset[str], str]:
    """The findings that whoever runs this accepts for once, and why. Raises :class:`WrongUse` for what nobody can."""
    named = context.get_x_argument(as_dictionary=True).get("preflight_accept")
    wanted = codes(named or context.config.attributes.get("preflight_accept"))
    why = forced.reason(context)
    if wanted and not why:
        raise WrongUse("preflight_accept needs a reason, which the run's row keeps.", _FORM)
    return wanted, why or ""


def codes(given: str | None) -> frozenset[str]:
    """The codes in a list with commas. Raises :class:`WrongUse` for one that nobody can accept."""
    wanted = frozenset(word.strip() for word in str(given or "").split(",") if word.strip())
    for code in sorted(wanted):
        if code not in RULES or not RULES[code].acceptable:
            known = ", ".join(sorted(code for code, rule in RULES.items() if rule.acceptable))
            raise WrongUse(f"preflight_accept names {code!r}, which nobody can accept. Known are: {known}.", _FORM)
    return wanted


def of_steps(
    folder: str, settings: Settings, steps: Sequence[Step], judged: Mapping[str, Judged], recorded: Mapping[str, str]
) -> list[Pending]:  # fmt: skip
    """What the steps are known to touch; not those that are skipped here: by their headers, on the way down as ``recorded``."""
    found = []
    for step in steps:
        name = progress.name_of(step)
        if not judge.left_out(judged.get(name), settings, recorded.get(name)):
            found.append(pending.of(folder, name, progress.direction_of(step), judged.get(name)))
    return found
