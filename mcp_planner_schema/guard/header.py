"""The header of a revision: what its author promises, read from the docstring with ``ast``."""

from __future__ import annotations

import ast
import datetime as dt
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from mcp_planner_schema.guard.findings import RULES, Finding
from mcp_planner_schema.guard.settings import ENVIRONMENTS
from mcp_planner_schema.guard.source import Source, finding

REQUIRED = (
    "Version",
    "Description",
    "Author",
    "Date",
    "Dependencies",
    "Type",
    "Phase",
    "Transaction",
    "Reversible",
)
OPTIONAL = ("Environments", "Waive")
FIELDS = REQUIRED + OPTIONAL
_CHOICES = {
    "Type": ("schema", "data", "function"),
    "Phase": ("expand", "migrate", "contract"),
    "Transaction": ("single", "none"),
}
_EXAMPLES = {
    "Description": "What changes, and why, in one sentence",
    "Author": "Jane Doe <jane@example.org>",
    "Reversible": "stash",
    "Environments": "all",
    **{name: choices[0] for name, choices in _CHOICES.items()},
}
_OTHERS = {
    "Reversible": "\n(stash: rows or values go and are kept; or lossless: none go; or forward-only: REASON)",
    "Environments": f"\n(all, or some of {', '.join(ENVIRONMENTS)}, separated by commas)",
    **{name: f"\n(or {', '.join(choices[1:])})" for name, choices in _CHOICES.items()},
}


@dataclass(frozen=True)
class Waiver:
    """A finding lifted for one revision, until a day, for a reason that the history keeps."""

    code: str
    reason: str
    until: dt.date

    def __str__(self) -> str:
        return f"{self.code} | {self.reason} | {self.until}"


@dataclass(frozen=True)
class Header:
    """The fields of a revision's header; a missing one is empty. ``places`` says in which line of the file each stands.

    ``reversible`` is lossless, stash or forward-only (then with ``reason``). ``lines`` are the fields as offline SQL shows
    them.
    """

    title: str
    version: str
    description: str
    author: str
    date: dt.date
    dependencies: tuple[str, ...]
    type: str
    phase: str
    transaction: str
    reversible: str
    reason: str
    environments: tuple[str, ...]
    waivers: tuple[Waiver, ...]
    lines: tuple[str, ...]
    places: Mapping[str, int] = field(default_factory=dict)

    def waives(self, code: str, today: dt.date) -> bool:
        """Whether a waiver lifts ``code`` today."""
        return any(waiver.code == code and waiver.until >= today for waiver in self.waivers)


@dataclass(frozen=True)
class Line:
    """One line of the header: ``Field: value`` and where it stands in the file. Without a known field it has none."""

    text: str
    number: int

    @property
    def field(self) -> str:
        """The known field before the colon, or nothing."""
        name, colon, _ = self.text.partition(":")
        return name.strip() if colon and name.strip() in FIELDS else ""

    @property
    def value(self) -> str:
        """What stands behind the colon."""
        return self.text.partition(":")[2].strip()


def has_header(source: Source, *, required: bool) -> bool:
    """Whether the docstring claims to be one of our headers.

    Where headers are required, one known field is a claim. Elsewhere it takes most of them: other people's docstrings have
    a line ``Version:`` or ``Author:`` too.
    """
    found = {line.field for line in _docstring(source)} & set(REQUIRED)
    return len(found) >= (1 if required else 5)


def template(examples: Mapping[str, str]) -> str:
    """A header to fill in, as the finding ``header-missing`` shows it."""
    values = {**_EXAMPLES, **examples}
    fields = "\n".join(f"{name}: {values[name]}" for name in REQUIRED)
    return f'"""What changes.\n\n{fields}\n"""'


def parse(source: Source, today: dt.date, examples: Mapping[str, str]) -> tuple[Header, list[Finding]]:
    """Read the header, and every finding against its own lines. ``examples`` are the right values, where code knows them."""
    lines, findings = _lines(source)
    values = {line.field: line for line in lines}
    shown = {**_EXAMPLES, "Date": str(today), **examples}

    def invalid(line: Line, problem: str) -> None:
        name = line.field
        findings.append(finding(source.path, line.number, "header-field-invalid", field=name, value=line.value,
                                problem=problem, example=shown[name], others=_OTHERS.get(name, "")))  # fmt: skip

    apart = {one.values["line"].partition(":")[0] for one in findings if one.code == "header-field-apart"}
    for name in REQUIRED:
        if name not in values and name not in apart:
            findings.append(
                finding(source.path, lines[0].number if lines else 1, "header-field-missing", field=name,
                        example=shown[name], others=_OTHERS.get(name, ""))
            )  # fmt: skip
    for line in lines:
        if line.field in _CHOICES and line.value not in _CHOICES[line.field]:
            invalid(line, f"it is one of {', '.join(_CHOICES[line.field])}")
        elif line.field in ("Version", "Description", "Author", "Dependencies") and not line.value:
            invalid(line, "it is empty")
        elif line.field == "Author" and line.value == "undecided":
            invalid(line, "somebody has written it")
        elif line.field == "Environments":
            problem = _environments_problem(line.value, values["Type"].value if "Type" in values else "data")
            if problem:
                invalid(line, problem)
        elif line.field == "Reversible":
            if line.value == "undecided":
                findings.append(finding(source.path, line.number, "reversible-undecided"))
            elif not re.fullmatch(r"lossless|stash|forward-only\s*:\s*\S.*", line.value):
                invalid(line, "it is lossless, stash, or forward-only: REASON")
    date = _date(source, values.get("Date"), today, findings)
    waivers = [_waiver(source, line, today, findings) for line in lines if line.field == "Waive"]
    text = {name: values[name].value if name in values else "" for name in FIELDS}
    reversible, _, reason = (part.strip() for part in text["Reversible"].partition(":"))
    title = next((line.text for line in _docstring(source)[:1] if not line.field), "")
    header = Header(
        title=(title or text["Description"]).rstrip("."),
        version=text["Version"],
        description=text["Description"],
        author=text["Author"],
        date=date or today,
        dependencies=() if text["Dependencies"] in ("None", "") else _names(text["Dependencies"]),
        type=text["Type"],
        phase=text["Phase"],
        transaction=text["Transaction"],
        reversible=reversible,
        reason=reason,
        environments=ENVIRONMENTS if text["Environments"] in ("all", "") else _names(text["Environments"]),
        waivers=tuple(waiver for waiver in waivers if waiver),
        lines=tuple(f"{line.field}: {line.value}" for line in lines),
        places={name: line.number for name, line in values.items()},
    )
    return header, findings


def _docstring(source: Source) -> list[Line]:
    """The docstring's lines as Python reads them, each with its place in the file, empty lines at the beginning left out."""
    text = ast.get_docstring(source.tree, clean=False)
    if text is None:
        return []
    first, last = source.tree.body[0].lineno, source.below_docstring
    written = source.text.split("\n")[first - 1 : last]
    lines: list[Line] = []
    place = 0
    for line in text.split("\n"):
        # An escaped line end or a \n moves the lines: look for the beginning of the text from the last place on.
        begin = line.partition(":")[0].strip()
        place = next((n for n in range(place, len(written)) if begin in written[n]), place)
        if lines or line.strip():
            lines.append(Line(line.strip(), first + place))
        place = min(place + 1, len(written) - 1)
    return lines


def _lines(source: Source) -> tuple[list[Line], list[Finding]]:
    """The unbroken run of lines around the first known field; prose may stand above and below, after an empty line."""
    text = _docstring(source)
    begin = next((n for n, line in enumerate(text) if line.field), len(text))
    end = next((n for n in range(begin, len(text)) if not text[n].text), len(text))
    while begin > 1 and ":" in text[begin - 1].text:
        begin -= 1  # a misspelt first field belongs to the header too; the first line of all is the title
    lines: list[Line] = []
    findings: list[Finding] = []
    seen: set[str] = set()
    for line in text[begin:end]:
        if not line.field:
            findings.append(finding(source.path, line.number, "header-field-unknown", line=line.text,
                                    fields=", ".join(FIELDS)))  # fmt: skip
        elif line.field in seen and line.field != "Waive":
            findings.append(finding(source.path, line.number, "header-field-repeated", field=line.field))
        else:
            seen.add(line.field)
            lines.append(line)
    for line in text[end:]:
        if line.field == "Waive" or (line.field and line.field not in seen):
            findings.append(finding(source.path, line.number, "header-field-apart", line=line.text,
                                    line_number=lines[-1].number + 1))  # fmt: skip
    return lines, findings


def _date(source: Source, line: Line | None, today: dt.date, findings: list[Finding]) -> dt.date | None:
    if line is None:
        return None
    date = _day(line.value)
    # One day ahead: an author east of the server is already in tomorrow.
    if date and date <= today + dt.timedelta(days=1):
        return date
    problem = "it lies in the future" if date else "it is not a day of the calendar, written YYYY-MM-DD"
    findings.append(finding(source.path, line.number, "header-date", value=line.value, problem=problem, today=today))
    return None


def _day(text: str) -> dt.date | None:
    # fromisoformat alone takes 20260131 and 2026-W05-6 too.
    try:
        return dt.date.fromisoformat(text) if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text) else None
    except ValueError:
        return None


def _names(text: str) -> tuple[str, ...]:
    return tuple(re.split(r"\s*,\s*", text))


def _environments_problem(value: str, kind: str) -> str:
    if value == "all":
        return ""
    unknown = [name for name in _names(value) if name not in ENVIRONMENTS]
    if unknown:
        return f"{unknown[0]!r} is none of {', '.join(ENVIRONMENTS)}, or all"
    # Skipped somewhere, a change of the schema would leave databases that differ for ever.
    return "" if kind == "data" else "only a revision of Type: data may be left out somewhere"


def _waiver(source: Source, line: Line, today: dt.date, findings: list[Finding]) -> Waiver | None:
    code, reason, until = parts if len(parts := [part.strip() for part in line.value.split("|")]) == 3 else ("", "", "")
    day = _day(until)
    later = today + dt.timedelta(days=90)
    if not (code and reason and day):
        findings.append(finding(source.path, line.number, "waiver-incomplete", value=line.value, later=later))
        return None
    waivable = sorted(rule.code for rule in RULES.values() if rule.waivable)
    if code not in waivable:
        problem = "no rule has as its code" if code not in RULES else "cannot be waived"
        findings.append(finding(source.path, line.number, "waiver-unknown", waived=code, problem=problem,
                                codes=", ".join(waivable)))  # fmt: skip
    elif day < today:
        findings.append(finding(source.path, line.number, "waiver-expired", waived=code, value=until))
    return Waiver(code, reason, day)
