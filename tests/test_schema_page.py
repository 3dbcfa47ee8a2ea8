"""docs/schema.md: written from the models, whole, and a diagram that Mermaid can read."""

from __future__ import annotations

import re

import pytest

from mcp_planner_schema.inspect import schema_page
from mcp_planner_schema.models import metadata
from tests.conftest import ROOT

PAGE = schema_page.markdown()
RELATION = re.compile(r'    (\w+) (\|\||\|o)--(o\||o\{) (\w+) : "[a-z_, ]+"')
# What Mermaid's grammar takes for an attribute: a type of one word, with parentheses, a name, and keys.
ATTRIBUTE = re.compile(r"        [A-Za-z][\w()]* \w+( (PK|FK)(, FK)?)?")


def diagram() -> list[str]:
    """The lines of the diagram, without its fence and its first word."""
    block = PAGE.split("```mermaid\nerDiagram\n")[1].split("```")[0]
    return block.splitlines()


def test_the_page_says_what_the_models_say() -> None:
    """docs/schema.md is what ``make schema-doc`` writes today."""
    written = (ROOT / "docs" / "schema.md").read_text(encoding="utf-8")

    assert written == PAGE, "docs/schema.md is stale. next: make schema-doc"


@pytest.mark.parametrize("name", sorted(metadata.tables))
def test_nothing_of_a_table_is_left_out(name: str) -> None:
    """Its section has its comment, and each column, constraint and index exactly once."""
    table = metadata.tables[name]
    section = PAGE.split(f"\n## {name}\n")[1].split("\n## ")[0]

    assert str(table.comment) in section
    assert [section.count(f"| `{column.name}` |") for column in table.columns] == [1] * len(table.columns)
    assert [section.count(f"- `{one.name} ") for one in table.constraints] == [1] * len(table.constraints)
    assert [section.count(f" INDEX {one.name} ON ") for one in table.indexes] == [1] * len(table.indexes)


def test_the_diagram_is_mermaid() -> None:
    """Each line is a relation, the head of an entity, an attribute of a one-word type, or a closing brace."""
    shapes = (RELATION, re.compile(r"    \w+ \{"), ATTRIBUTE, re.compile(r"    \}"))

    assert [line for line in diagram() if not any(shape.fullmatch(line) for shape in shapes)] == []
    assert len(diagram()) > 150


def test_the_diagram_has_every_foreign_key() -> None:
    """One relation for each, from the parent to the child, with how many there may be at either end."""
    keys = sorted((key.referred_table.name, name) for name, table in metadata.tables.items()
                  for key in table.foreign_key_constraints)  # fmt: skip

    drawn = sorted((found[1], found[4]) for line in diagram() if (found := RELATION.fullmatch(line)))

    assert drawn == keys
    for line in (
        '    projects ||--o{ tasks : "project_id"',
        '    tasks |o--o{ tasks : "project_id, parent_task_id"',
        '    tasks ||--o| step_promotions : "project_id, new_task_id"',
    ):
        assert line in diagram()


def test_what_markdown_would_swallow_is_escaped() -> None:
    """Outside code no bare <name>, and each row of a table has as many cells as its head."""
    prose = re.sub(r"`[^`\n]*`", "", PAGE.split("```")[2])
    rows = [line for line in PAGE.splitlines() if line.startswith("| `")]

    assert re.findall(r"(?<!\\)<", prose) == []
    assert {line.replace("\\|", "").count("|") for line in rows} == {3, 6}
