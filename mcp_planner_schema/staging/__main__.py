"""``python -m mcp_planner_schema.staging STAGE``: what each line of ``scripts/staging-deploy.sh`` runs. Exit codes as ever."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

from alembic.util import CommandError

from mcp_planner_schema.guard import connect, interrupt
from mcp_planner_schema.guard.findings import BROKEN, BUSY, DONE, REFUSED, WRONG_USE, Broken, GuardError
from mcp_planner_schema.staging import place, rehearsal, report, stages, stopping
from mcp_planner_schema.staging.rehearsal import Rehearsal

ROOT = Path(__file__).resolve().parent.parent.parent
STAGES: dict[str, Callable[[Rehearsal], None]] = {
    "begin": stages.begin,
    "copy": stages.copy,
    "look-before": lambda this: stages.look(this, "before"),
    "measure-before": lambda this: stages.measure(this, "before"),
    "up": stages.up,
    "measure-after": lambda this: stages.measure(this, "after"),
    "look-up": lambda this: stages.look(this, "up"),
    "back": stages.back,
    "look-back": lambda this: stages.look(this, "back"),
    "forth": stages.forth,
    "look-forth": lambda this: stages.look(this, "forth"),
}
"""The stages in their order; ``report STAGE CODE`` comes last, whatever has happened."""


def main(arguments: Sequence[str]) -> int:
    """Run one stage and give its exit code; what it was refused for is kept for the report."""
    from alembic.config import Config

    if not arguments or arguments[0] not in (*STAGES, "report"):
        print(f"Which stage? {', '.join(STAGES)}, report\n\nnext: {place.AGAIN} --help", file=sys.stderr)
        return WRONG_USE
    config = Config(str(ROOT / "alembic.ini"), stdout=sys.stdout, attributes={"repeat": place.AGAIN})
    this = None
    try:
        this = rehearsal.of(config, ROOT)
        if arguments[0] == "report":
            return DONE if report.write(this, arguments[1], int(arguments[2])) else REFUSED
        # A migration has a handler of its own, which knows when nothing may be cut off any more.
        migrates = arguments[0] in ("up", "back", "forth")
        with nullcontext() if migrates else interrupt.cancelling(stopping.cancel):
            STAGES[arguments[0]](this)
        return DONE
    except GuardError as error:
        return _ended(this, error, arguments[0])
    except CommandError as error:
        return _ended(this, Broken(str(error), place.AGAIN), arguments[0])
    except KeyboardInterrupt as stop:
        print(f"{str(stop) or 'Stopped.'}\n\nnext: {place.AGAIN}", file=sys.stderr)
        return BUSY
    except Exception as error:
        from sqlalchemy.exc import DBAPIError

        if not isinstance(error, DBAPIError) or this is None:
            raise
        said = connect.masked(str(error.orig).strip().split("\n")[0], this.target)
        return _ended(this, Broken(f"PostgreSQL says: {said}", place.AGAIN), arguments[0])


def _ended(this: Rehearsal | None, error: GuardError, stage: str) -> int:
    print(error.text(), file=sys.stderr)
    if this is not None and stage not in ("begin", "report"):
        try:
            stages.failed(this, error)
        except GuardError as other:  # the folder cannot be written: that is the cause, or comes from it
            print(other.text(), file=sys.stderr)
    return error.code or BROKEN


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
