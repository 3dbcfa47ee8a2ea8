"""A revision as text: header, constants, expectations and both bodies, as an author of this project writes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mcp_planner_schema.guard.scope import in_docstring
from mcp_planner_schema.operations.written import quoted

WIDTH = 120


@dataclass(frozen=True)
class Revision:
    """What one file says. ``title`` is its name as words, the first a type word; bodies are lines of Python.

    ``notes`` are for who has it written, and stand in no file.
    """

    title: str
    description: str
    phase: str
    upgrade: Sequence[str]
    downgrade: Sequence[str]
    expectations: Sequence[str]
    expectations_down: Sequence[str] = ()
    type: str = "schema"
    transaction: str = "single"
    reversible: str = "lossless"
    notes: Sequence[str] = ()
    constants: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    budgets: Mapping[str, str] = field(default_factory=dict)

    def text(self, number: str, parent: str | None, author: str, date: str) -> str:
        """The whole file."""
        bodies = "\n".join((*self.upgrade, *self.downgrade))
        imports = ("import sqlalchemy as sa\n" if "sa." in bodies else "") + "from alembic import op\n"
        parts = [
            f'"""{in_docstring(self.title[0].upper() + self.title[1:])}.\n\n'
            f"Version: {number}\nDescription: {in_docstring(self.description)}\nAuthor: {in_docstring(author)}\nDate: {date}\n"
            f"Dependencies: {parent}\nType: {self.type}\nPhase: {self.phase}\nTransaction: {self.transaction}\n"
            f'Reversible: {self.reversible}\n"""\n\n{imports}\nfrom mcp_planner_schema.operations import expect\n\n'
            f"revision = {quoted(number)}\ndown_revision = {quoted(parent) if parent else None}\n"
            "branch_labels = None\ndepends_on = None\n\n",
            f"budgets = {quoted(dict(self.budgets))}\n\n" if self.budgets else "",
            *(f"{name} = {_dictionary(values)}\n\n" for name, values in self.constants.items()),
            _listed("expectations", self.expectations),
            _listed("expectations_down", self.expectations_down) if self.expectations_down else "",
            f"\n\ndef upgrade() -> None:\n{_body(self.upgrade)}\n\ndef downgrade() -> None:\n{_body(self.downgrade)}",
        ]
        return "".join(parts)


def sql(*lines: str) -> str:
    """``op.execute`` of one statement: on a line, or as a block where it is longer."""
    one = f"op.execute({quoted(' '.join(lines))})"
    if len(one) + 4 <= WIDTH and len(lines) == 1:
        return one
    text = "\n".join(f"        {line}" for line in lines)
    mark = '"""' if '"""' not in text and not text.endswith('"') and "\\" not in text else None
    if mark is None:
        return one
    return f"op.execute(\n        {mark}\n{text}\n        {mark}\n    )"


def _dictionary(values: Mapping[str, object]) -> str:
    lines = "".join(f"    {quoted(name)}: {_wrapped(value)},\n" for name, value in values.items())
    return "{\n" + lines + "}"


def _wrapped(value: object) -> str:
    one = quoted(value)
    if len(one) < WIDTH - 30 or not isinstance(value, (list, tuple)):
        return one
    return "[\n" + "".join(f"        {quoted(part)},\n" for part in value) + "    ]"


def _listed(name: str, items: Sequence[str]) -> str:
    return f"{name} = [\n" + "".join(f"    {item},\n" for item in items) + "]\n"


def _body(lines: Sequence[str]) -> str:
    # A block of SQL brings the depth of its further lines itself.
    return "".join(f"    {line}\n" for line in lines)
