"""The one command that follows a run, by how it ended."""

from __future__ import annotations

from collections.abc import Sequence

from mcp_planner_schema.backfill.spec import typed
from mcp_planner_schema.guard.findings import BUSY
from mcp_planner_schema.telemetry.report.facts import Backfill, Kept, Next, Run, Step


def of(run: Run, steps: Sequence[Step], backfills: Sequence[Backfill], kept: Sequence[Kept], told: str) -> Next:
    """What to type now. ``told`` is what the run itself has named when it ended, empty where it did not."""
    paused = next((one for one in backfills if one.state == "paused"), None)
    if run.state == "running" and paused:
        return Next(typed("resume", paused.name), f"The backfill {paused.name} is paused, and the run waits for it.")
    if run.state == "running":
        return Next(
            "make migrate-status", "It is at work. This shows how far it has come; so does this report, made anew."
        )
    if run.id != run.newest and run.state != "done":
        return Next(
            f"make migrate-report RUN={run.newest}", "Other runs came after this one. The newest tells how it stands."
        )
    if run.state in ("killed", "interrupted"):
        why = (
            "Its finished steps stand and the server has rolled back the one it was in. The same command goes on there."
        )
        return Next(run.command, why)
    if run.state == "failed" and run.exit_code == BUSY:
        why = "Somebody was in the way, or it was stopped: nothing is to be corrected, and the same command goes on there."
        return Next(told or run.command, why)
    if run.state == "failed":
        if told:
            return Next(told, "As the run itself said when it ended.")
        return Next(
            run.command, "Correct what the error names; the same command then goes on with the step that failed."
        )
    waiting = [one for one in kept if one.direction == "downgrade" and one.state in ("kept", "partly restored")]
    if waiting:
        return Next(
            f"make migrate-stash-show ID={waiting[-1].id}", "Nothing is lost: this shows what the downgrade has kept."
        )
    if {one.direction for one in steps} == {"stamp"}:
        return Next(
            "make migrate-drift", "Only the version was moved. This tells whether the database is what it now says."
        )
    return Next("make migrate-verify", "All is done. This holds the database once more to what its revisions promise.")
