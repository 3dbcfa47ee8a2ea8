"""What follows from a trial: whether its downgrade may run, given what its header says and what can be kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mcp_planner_schema.guard.findings import Finding, Refused
from mcp_planner_schema.guard.judge import later, today
from mcp_planner_schema.guard.trial import Trial

if TYPE_CHECKING:
    from mcp_planner_schema.guard.header import Header


def refuse(tried: Trial, header: Header | None, where: str, revision: str) -> None:
    """Raise :class:`Refused` where the header promises more than the trial has shown, or something lost cannot be kept."""
    lost = list(map(str, tried.losses)) + [f"sequence {one.name}" for one in tried.sequences]
    harmed = ["rows of " + ", ".join(map(str, tried.harms))] if tried.harms else []
    if header and header.reversible == "lossless" and lost + harmed:
        values = {"objects": "; ".join(lost + harmed)}
        raise Refused([Finding("reversible-false", where, revision, values)], f"edit {where}: Reversible: stash")
    written = [tried.before[oid].shown for oid in sorted(tried.written | tried.rewritten)]
    if tried.commits and (lost or harmed or written):
        # Its locks end with the first commit, and nothing of it could be taken back: a row that its trial did not meet would go.
        does = [f"destroys {'; '.join(lost + harmed)}"] if lost or harmed else [f"writes to {', '.join(written)}"]
        problem = f"it commits in the middle and {does[0]}"
        raise Refused([Finding("downgrade-untried", where, revision, {"problem": problem})], f"edit {where}")
    if tried.beyond:
        values = {"problem": "; ".join(tried.beyond)}
        raise Refused([Finding("stash-impossible", where, revision, values)], f"edit {where}")
    keyless = [harm for harm in tried.harms if harm.changes and not tried.root(harm.table).key]
    if keyless and not (header and header.waives("rows-not-kept", today())):
        values = {"objects": "rows of " + ", ".join(map(str, keyless)), "later": later()}
        raise Refused([Finding("rows-not-kept", where, revision, values)], f"edit {where}")
