"""The header as a value: what is read out of each form an author may write it in."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest

from mcp_planner_schema.guard import header, source
from mcp_planner_schema.guard.findings import Finding
from mcp_planner_schema.guard.header import REQUIRED, Header
from mcp_planner_schema.guard.settings import ENVIRONMENTS
from mcp_planner_schema.guard.source import Source
from tests.conftest import ROOT

REVISIONS = ROOT / "tests" / "revisions"
PLAIN = (REVISIONS / "good_plain.py").read_text()
TODAY = dt.date(2026, 2, 15)


def read(folder: Path, text: str) -> Source:
    """A text as a revision file."""
    path = folder / "001_create_thing.py"
    path.write_text(text)
    found = source.read(path)
    assert isinstance(found, Source), found.text()
    return found


def parsed(folder: Path, text: str) -> tuple[Header, list[Finding]]:
    """The header of a text."""
    return header.parse(read(folder, text), TODAY, {"Version": "001", "Dependencies": "None"})


def test_every_field_is_read(tmp_path: Path) -> None:
    """A full header comes out field by field, with the line each stands in."""
    found, findings = parsed(tmp_path, PLAIN)

    assert findings == []
    assert (found.title, found.version, found.description) == ("Create a thing", "001", "A thing for the tests")
    assert (found.author, found.date) == ("A Tester <tester@example.org>", dt.date(2026, 1, 31))
    assert (found.dependencies, found.type, found.phase, found.transaction) == ((), "schema", "expand", "single")
    assert (found.reversible, found.reason, found.environments, found.waivers) == ("stash", "", ENVIRONMENTS, ())
    assert found.lines[:2] == ("Version: 001", "Description: A thing for the tests")
    lines = PLAIN.splitlines()
    assert {name: lines[number - 1].partition(":")[0] for name, number in found.places.items()} == {
        name: name for name in REQUIRED
    }


@pytest.mark.parametrize(
    ("name", "title", "field", "value"),
    [
        ("escapes", "Create a thing", "author", 'O\'Hara \\ "Sons" 100% <tester@example.org>'),
        ("escapes", "Create a thing", "description", "A thing  for the tests"),
        ("raw", "Create a thing", "description", r"A thing \d+ for the tests"),
        ("unicode", "Create a thing", "author", "Zoë 山田 <zoë@例え.jp>  <tester@example.org>"),
        ("indented", "Create a thing", "author", "A Tester <tester@example.org>"),
        ("one_line", "Create a thing", "reversible", "stash"),
        ("no_title", "A thing for the tests", "version", "001"),
        ("title_below", "Create a thing", "version", "001"),
        ("title_attached", "Create a thing: the first", "version", "001"),
        ("prose", "Create a thing: the first", "type", "schema"),
        ("forward_only", "Create a thing", "reason", "the old format cannot be made again: see the notes"),
        ("forward_only", "Create a thing", "reversible", "forward-only"),
        ("environments", "Create a thing", "environments", ("development", "staging")),
        ("environments_all", "Create a thing", "environments", ENVIRONMENTS),
        ("merge/004_merge_b_and_c", "Create a thing", "dependencies", ("002", "003")),
    ],
)
def test_forms_of_a_docstring(tmp_path: Path, name: str, title: str, field: str, value: object) -> None:
    """Whatever quotes, escapes and layout Python takes, the value is what Python reads."""
    found, findings = parsed(tmp_path, (REVISIONS / f"good_{name}.py").read_text())

    assert findings == []
    assert (found.title, getattr(found, field)) == (title, value)


@pytest.mark.parametrize(
    "name", ["escapes", "continued", "title_below", "raw", "no_title", "shebang", "prose", "indented"]
)
def test_lines_are_right_in_every_form(tmp_path: Path, name: str) -> None:
    """An escaped line end or a first line below the quotes does not shift the line a finding names."""
    text = (REVISIONS / f"good_{name}.py").read_text().replace("Phase: expand", "Phase: someday")

    _, findings = parsed(tmp_path, text)

    number = next(n for n, line in enumerate(text.splitlines(), 1) if "Phase:" in line)
    assert [(one.code, one.where.rpartition(":")[2]) for one in findings] == [("header-field-invalid", str(number))]


def test_waivers_are_kept_with_reason_and_end(tmp_path: Path) -> None:
    """Each waiver is a value that the history can keep, in force up to its day."""
    found, _ = parsed(tmp_path, (REVISIONS / "good_waivers.py").read_text())

    assert [str(waiver) for waiver in found.waivers] == [
        "import-application | a vendored constant | 2026-02-15",
        "settings-read | the server's own name | 2026-12-31",
    ]
    assert found.waives("import-application", TODAY)
    assert not found.waives("import-application", TODAY + dt.timedelta(days=1))
    assert not found.waives("applied-edited", TODAY)


def test_the_template_is_a_header_without_fault(tmp_path: Path) -> None:
    """What header-missing tells to write is a header that is in order."""
    text = header.template({"Version": "001", "Dependencies": "None", "Date": str(TODAY)})

    _, findings = parsed(tmp_path, text + PLAIN[PLAIN.index("\nfrom alembic") :])

    assert findings == []


@pytest.mark.parametrize(
    ("text", "required", "optional"),
    [
        ('"""Add x."""', False, False),
        ('"""Add x.\n\nVersion: 1.2 of the API\n"""', True, False),
        ('"""Add x.\n\nAuthor: me\nDate: 2024-01-01\nDescription: x\nVersion: 1\n"""', True, False),
        ('"""Add x.\n\nAuthor: me\nDate: 2024-01-01\nDescription: x\nVersion: 1\nPhase: expand\n"""', True, True),
        ('"""Add x.\n\nVerison: 1\nDescription: x\n"""', True, False),
        ("", False, False),
    ],
)
def test_what_counts_as_a_header(tmp_path: Path, text: str, required: bool, optional: bool) -> None:
    """Where headers are optional, other people's docstrings may have a line or two that look like ours."""
    found = read(tmp_path, text + "\n")

    assert header.has_header(found, required=True) is required
    assert header.has_header(found, required=False) is optional
