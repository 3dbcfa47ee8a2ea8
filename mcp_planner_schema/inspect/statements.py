"""What a revision's upgrade or downgrade sends, without a database: run offline, its statements are caught with their lines."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard import offline, sql_body, sql_file
from mcp_planner_schema.guard.sql_file import Token

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.runtime.migration import MigrationContext
    from alembic.script import Script, ScriptDirectory

_OPERATIONS = Path(__file__).resolve().parent.parent / "operations"


@dataclass(frozen=True)
class Sent:
    """One statement. ``transaction`` numbers the one it runs in; 0 for a statement that commits by itself.

    ``operation``: one of ``mcp_planner_schema.operations`` has sent it, and not the author. ``inside``: it stands in a DO block.
    ``path`` is the SQL file that ``line`` is of, None where that is the revision itself.
    """

    text: str
    tokens: tuple[Token, ...]
    line: int
    transaction: int
    operation: bool = False
    inside: bool = False
    path: Path | None = None

    def shown(self) -> str:
        """Its beginning, in one line."""
        text = " ".join(self.text.split())
        return text if len(text) <= 70 else text[:69] + "…"


@dataclass(frozen=True)
class Captured:
    """The statements of one revision, and why they are not all of them, where it cannot run offline."""

    statements: tuple[Sent, ...]
    problem: str = ""


def capture(config: Config, script: ScriptDirectory, one: Script, *, back: bool = False) -> Captured:
    """Run the upgrade of one revision, or its downgrade, offline, as far as it goes. Imports it; sends nothing."""
    from alembic.operations import Operations

    name, problem = "downgrade" if back else "upgrade", ""
    caught = _Catcher(Path(one.path), name)
    if not hasattr(one.module, name):  # where headers are optional, a revision may have no way back
        return Captured(())
    body = getattr(one.module, name)
    with offline_context(config, script) as context:
        caught.listen(context)
        try:
            with Operations.context(context), redirect_stdout(sys.stderr):
                body()
        except Exception as error:
            said = str(error) if isinstance(error, NotImplementedError) else f"{type(error).__name__}: {error}"
            problem = said.partition("\n")[0]
    return Captured(tuple(caught.sent), problem or caught.problem)


@contextmanager
def offline_context(config: Config, script: ScriptDirectory) -> Iterator[MigrationContext]:
    """A context in which revisions can be run that sends nothing, and refuses questions."""
    from alembic.runtime.environment import EnvironmentContext

    environment = EnvironmentContext(config, script, as_sql=True)
    with environment:
        environment.configure(
            dialect_name="postgresql",
            literal_binds=True,
            dialect_opts={"paramstyle": "named"},
            transaction_per_migration=True,
            output_buffer=io.StringIO(),
        )
        context = environment.get_context()
        offline.prepare(context)
        yield context


class _Catcher:
    def __init__(self, path: Path, body: str) -> None:
        self.sent: list[Sent] = []
        self.problem = ""
        self._path, self._name, self._body = str(path.resolve()), path.name, body
        self._transaction = 1
        self._last = 1
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
                    self._begin()

        context.autocommit_block = autocommit_block
        context.impl.static_output = self._catch

    def _begin(self) -> None:
        self._last += 1
        self._transaction = self._last

    def _catch(self, text: str) -> None:
        text = text.replace(offline.TAB, "\t").strip()
        (line, operation, path), whole = self._sender(), text if text.endswith(";") else text + ";"
        try:
            found = sql_file.statements(whole)
        except sql_file.Unusable as error:
            named = f"{path.name} " if path else ""
            self.problem = self.problem or f"{named}line {line}: what it sends cannot be read: {error}"
            return
        inside = 0  # an operation's own BEGIN … COMMIT, where each statement commits by itself
        for place, tokens in enumerate(found):
            if self._alone and tokens[0].word in ("BEGIN", "COMMIT") and len(tokens) == 1:
                self._last += 1
                inside = self._last if tokens[0].word == "BEGIN" else 0
                continue
            end = found[place + 1][0].at if place + 1 < len(found) else len(whole)
            code = whole[tokens[0].at : end].strip().rstrip(";").rstrip()
            transaction = inside if self._alone else self._transaction
            self.sent.append(Sent(code, tuple(tokens), line, transaction, operation, path=path))

    def _sender(self) -> tuple[int, bool, Path | None]:
        """The line of the revision's body that is running, whether it is an operation that sends, and of which SQL file."""
        if body := sql_body.sent():
            return body.statement.line, False, body.path
        frame: FrameType | None = sys._getframe(2)
        line, operation = 1, False
        while frame is not None:
            path = Path(frame.f_code.co_filename)
            operation = operation or (path.parent.name == "operations" and path.parent.resolve() == _OPERATIONS)
            if path.name == self._name and str(path.resolve()) == self._path:
                line = frame.f_lineno
                if frame.f_code.co_name == self._body:
                    break
            frame = frame.f_back
        return line, operation, None
