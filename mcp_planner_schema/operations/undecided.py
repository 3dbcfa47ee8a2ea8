"""What autogenerate has found and only the author can decide: it stands in the new revision as a comment."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from alembic.autogenerate.render import render_op_text, renderers
from alembic.operations.ops import MigrateOperation

if TYPE_CHECKING:
    from alembic.autogenerate.api import AutogenContext
    from alembic.runtime.migration import MigrationContext


@dataclass(frozen=True)
class Undecided(MigrateOperation):
    """What could be done, with what has to be known before."""

    says: tuple[str, ...]
    of: tuple[MigrateOperation, ...]

    def reverse(self) -> Undecided:
        """Its way back, a comment too."""
        return Undecided((), tuple(one.reverse() for one in reversed(self.of)))


@dataclass(frozen=True)
class Nothing(MigrateOperation):
    """A body of comments needs a statement."""

    def reverse(self) -> Nothing:
        """The same."""
        return self


def names_in(migration: MigrationContext, operation: MigrateOperation) -> set[str]:
    """Every name that stands in what would be written for the operation: of columns as such and in SQL."""
    from alembic.autogenerate.api import AutogenContext

    tree = ast.parse(render_op_text(AutogenContext(migration, autogenerate=False), operation))
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return {word for text in texts for word in (text, *re.findall(r"\w+", text))}


@renderers.dispatch_for(Undecided)
def _comment(context: AutogenContext, one: Undecided) -> list[str]:
    written = [line for part in one.of for line in render_op_text(context, part).split("\n")]
    return [f"# {line}" for line in (*one.says, *written)]


@renderers.dispatch_for(Nothing)
def _nothing(context: AutogenContext, one: Nothing) -> str:
    return "pass"
