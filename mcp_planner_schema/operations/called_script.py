"""A call of ``op.run_script`` that is about to be made: what was judged is read again, file, arguments and header."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from mcp_planner_schema.guard import header, journal, judge, script_calls, settings, source
from mcp_planner_schema.guard import script as files
from mcp_planner_schema.guard.findings import Finding, Refused
from mcp_planner_schema.guard.script import Script
from mcp_planner_schema.guard.sql_file import Unusable

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext


@dataclass(frozen=True)
class Called:
    """One call that is about to be made. ``commits``: the revision says ``Transaction: none``."""

    script: Script
    arguments: dict[str, Any]
    timeout: str
    commits: bool
    where: str
    revision: str

    @property
    def target(self) -> str:
        """Its name in the journal and for people."""
        return f"scripts/{self.script.name}"


def of(
    context: MigrationContext, name: str, arguments: Mapping[str, Any], per_environment: Mapping[str, Any], timeout: str
) -> Called:  # fmt: skip
    """Read again what was judged: the file, its arguments, and what the revision's header says. Runs nothing."""
    environment = context.environment_context
    if environment is None:
        raise NotImplementedError(f"run_script({name!r}): only an env.py knows where its files lie")
    revision, folder = name.partition("/")[0], Path(environment.script.dir) / "scripts"
    path = _path(environment.script, revision)
    read = source.read(path) if path else None
    if not isinstance(read, source.Source) or name not in script_calls.names(read):
        refuse(context, "script-literal", "alembic", revision,
                problem=f"no revision {revision} has op.run_script({name!r}) written out")  # fmt: skip
    parsed, _ = header.parse(read, judge.today(), {})
    given = _arguments(environment.config, arguments, per_environment)
    try:
        script = files.read(folder, name)
        problem = script_calls.unknown(per_environment) or files.problem(script, given)
    except Unusable as error:
        refuse(context, "script-unusable", f"{read.shown}:1", revision, file=name, problem=str(error))
    if problem:
        refuse(context, "script-arguments", f"{read.shown}:1", revision, file=name, problem=problem)
    return Called(script, given, timeout, parsed.transaction == "none", f"{read.shown}:1", revision)


def _path(script: Any, revision: str) -> Path | None:
    from alembic.util import CommandError

    try:
        found = script.get_revision(revision)
    except CommandError:
        return None
    return Path(found.path) if found and found.revision == revision else None


def _arguments(config: Any, arguments: Mapping[str, Any], per_environment: Mapping[str, Any]) -> Any:
    if not per_environment:
        return arguments
    return script_calls.merged(arguments, per_environment, settings.load(config).environment)


def refuse(context: MigrationContext, code: str, where: str, revision: str, **values: str) -> NoReturn:
    """Stop with one finding; says whether anything was changed before."""
    step = journal.of(context)
    left = "nothing was changed" if step is None or not step.sent else "what the revision has finished stays"
    raise Refused([Finding(code, where, revision, values)], step.repeat if step else "correct the revision", left)
