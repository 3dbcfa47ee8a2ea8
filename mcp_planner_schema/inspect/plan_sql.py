"""The SQL of each pending revision, as ``alembic upgrade <before>:<revision> --sql`` writes it."""

from __future__ import annotations

import copy
import io
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from mcp_planner_schema.guard.findings import GuardError, Refused

if TYPE_CHECKING:
    from alembic.config import Config

Written = dict[str, tuple[str | None, str]]
"""By revision its SQL, without the words about the file that stand above it; or None, and why there is none."""


def written(config: Config, here: str, revisions: Sequence[str]) -> Written:
    """The SQL of these revisions, which come after each other and after ``here``. Where one cannot be said, the others are."""
    found: Written = {}
    left = list(revisions)
    while left:
        try:
            found |= _run(config, here, left)
            break
        except Refused as error:
            first = error.findings[0]
            if first.revision not in left:
                return found | dict.fromkeys(left, (None, error.message.partition("\n")[0]))
            place = left.index(first.revision)
            if place:
                found |= _run(config, here, left[:place])
            found[first.revision] = (None, f"{first.code}: {first.rule.happens.format_map(first.values)}")
            here, left = first.revision, left[place + 1 :]
        except GuardError as error:
            return found | dict.fromkeys(left, (None, error.message.partition("\n")[0]))
    return found


def _run(config: Config, here: str, revisions: Sequence[str]) -> Written:
    from alembic import command

    way = f"{here}:{revisions[-1]}"
    begins: list[tuple[str, int]] = []
    # What is written here goes nowhere else, and is no run that could wait for a phase; the config itself stays as it is.
    quiet, output = copy.copy(config), io.StringIO()
    quiet.output_buffer = output
    repeat = f"alembic upgrade {way} --sql"
    given = config.attributes.get("settings", {})
    quiet.attributes = {
        "only_shown": True,
        "phase": "contract",
        "repeat": repeat,
        "sql_begins": begins,
        "settings": given,
    }
    command.upgrade(quiet, way, sql=True)
    text = output.getvalue()
    ends = [*begins, ("", len(text))]
    return {name: (text[begin:end].strip() + "\n", "") for (name, begin), (_, end) in pairwise(ends)}
