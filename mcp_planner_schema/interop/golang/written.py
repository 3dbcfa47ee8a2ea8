"""What a revision sends, as the files that golang-migrate needs for it: run offline, its text is caught part by part."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard import offline
from mcp_planner_schema.guard.findings import Finding, GuardError, Refused
from mcp_planner_schema.interop import query

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.script import Script, ScriptDirectory


@dataclass
class Part:
    """What one file sends: statements of one transaction, or one statement that ``commits`` by itself."""

    commits: bool
    statements: list[str] = field(default_factory=list)


def parts(config: Config, script: ScriptDirectory, one: Script, *, back: bool) -> list[Part]:
    """The parts of a revision in the order they run. Imports it, and asks no database.

    Raises :class:`Refused` that names the revision where it cannot be said in SQL.
    """
    from alembic.operations import Operations

    from mcp_planner_schema.inspect.statements import offline_context

    body = one.module.downgrade if back else one.module.upgrade
    caught = _Catcher()
    with offline_context(config, script) as context:
        caught.listen(context)
        try:
            with Operations.context(context), redirect_stdout(sys.stderr):
                body()
        except GuardError:
            raise
        except Exception as error:
            problem = str(error) if isinstance(error, NotImplementedError) else f"{type(error).__name__}: {error}"
            values = {"revision": one.revision, "problem": problem.partition("\n")[0], "command": "upgrade"}
            values["command"] = f"{'downgrade' if back else 'upgrade'} {one.revision}"
            raise Refused(
                [Finding("offline-impossible", f"{one.path}:1", one.revision, values)],
                f"make migrate-export FORMAT=golang-migrate … TO={one.down_revision or 'base'}   (what comes before it), and for "
                f"{one.revision} itself make migrate-up TO={one.revision}",
            ) from error
    return [part for part in caught.parts if part.statements]


class _Catcher:
    def __init__(self) -> None:
        self.parts: list[Part] = [Part(False)]
        self._alone = False

    def listen(self, context: Any) -> None:
        @contextmanager
        def autocommit_block() -> Iterator[None]:
            before, self._alone = self._alone, True
            try:
                yield
            finally:
                self._alone = before
                if not before:
                    self.parts.append(Part(False))

        context.autocommit_block = autocommit_block
        context.impl.static_output = self._catch

    def _catch(self, text: str) -> None:
        text = text.replace(offline.TAB, "\t").strip()
        if not self._alone:
            self.parts[-1].statements.append(text)
            return
        inside: Part | None = None  # an operation's own BEGIN … COMMIT
        for statement in query.split(text):
            word = statement.upper()
            if word == "BEGIN":
                inside = Part(False)
            elif word == "COMMIT" and inside is not None:
                self.parts.append(inside)
                inside = None
            elif inside is not None:
                inside.statements.append(statement + ";")
            elif not word.startswith(("SET ", "RESET ")):  # golang-migrate's session has no limits of its own
                self.parts.append(Part(True, [statement + ";"]))
