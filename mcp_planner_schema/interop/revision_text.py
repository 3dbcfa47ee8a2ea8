"""An imported version as a revision's file: header, what it came from, expectations, and both bodies or their names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mcp_planner_schema.guard.scope import in_docstring
from mcp_planner_schema.operations.written import quoted


@dataclass(frozen=True)
class Text:
    """What the file says. ``came``, kept in the constant ``mark``, is where it is from.

    ``bodies`` are the directions that have a file in SQL beside it, ``texts`` those that stand in it. Without a way back
    ``no_way_back`` says why.
    """

    name: str
    parent: str | None
    slug: str
    description: str
    author: str
    date: str
    type: str
    phase: str
    transaction: str
    reversible: str
    mark: str
    came: Mapping[str, object]
    expectations: Sequence[str]
    expectations_down: Sequence[str]
    bodies: Sequence[str]
    no_way_back: str
    texts: Mapping[str, str] = field(default_factory=dict)

    @property
    def stem(self) -> str:
        """What the revision and its bodies are called."""
        return f"{self.name}_{self.slug}"

    def whole(self) -> str:
        """All of the file."""
        code = f"def upgrade() -> None:\n{self._body('up')}\n\ndef downgrade() -> None:\n{self._body('down')}"
        operations = "as_written, expect" if "as_written." in code else "expect"
        constants = "".join(f"{name.upper()} = {_literal(text)}\n" for name, text in self.texts.items())
        parts = [
            self._header(),
            "from alembic import op\n\n" if "op." in code else "",
            f"from mcp_planner_schema.operations import {operations}\n\n",
            f"revision = {quoted(self.name)}\ndown_revision = {quoted(self.parent) if self.parent else None}\n",
            "branch_labels = None\ndepends_on = None\n\n",
            f"{self.mark} = {quoted(dict(self.came))}\n\n",
            _listed("expectations", self.expectations) + _listed("expectations_down", self.expectations_down),
            f"\n{constants}" if constants else "",
            f"\n\n{code}",
        ]
        return "".join(parts)

    def _header(self) -> str:
        title = self.slug.replace("_", " ")
        return (
            f'"""{in_docstring(title[0].upper() + title[1:])}.\n\n'
            f"Version: {self.name}\nDescription: {in_docstring(self.description)}\nAuthor: {in_docstring(self.author)}\n"
            f"Date: {self.date}\nDependencies: {self.parent}\nType: {self.type}\nPhase: {self.phase}\n"
            f'Transaction: {self.transaction}\nReversible: {self.reversible}\n"""\n\n'
        )

    def _body(self, direction: str) -> str:
        if direction in self.bodies:
            return f'    op.run_sql("{self.stem}.{direction}.sql")\n'
        if direction not in self.texts:
            no_way_back = f"    raise NotImplementedError({quoted(self.no_way_back)})\n"
            return '    as_written.run("")\n' if direction == "up" else no_way_back
        run = f"as_written.run({direction.upper()})"
        if self.transaction == "single":
            return f"    {run}\n"
        return f"    with op.get_context().autocommit_block():\n        {run}\n"


def _literal(text: str) -> str:
    """The text as Python reads it back, line by line where that can be."""
    if "\n" in text and '"""' not in text and not text.endswith(('"', "\\")):
        return f'r"""{text}"""'
    return repr(text)


def _listed(name: str, items: Sequence[str]) -> str:
    return f"{name} = [\n" + "".join(f"    {item},\n" for item in items) + "]\n"
