"""The header of a revision: what its author promises, read from the docstring with ``ast``."""

from __future__ import annotations

import ast
import datetime as dt
import re
from collections.abc import Callable
from dataclasses import dataclass

from mcp_planner_schema.guard.findings import RULES, Finding
from mcp_planner_schema.guard.settings import ENVIRONMENTS
from mcp_planner_schema.guard.source import Source

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
_EXAMPLES = {
    "Version": "007",
    "Description": "What changes, and why, in one sentence",
    "Author": "Jane Doe <jane@example.org>",
    "Date": "2026-01-31",
    "Dependencies": "006",
    "Type": "schema            (or data, function)",
    "Phase": "expand           (or migrate, contract)",
    "Transaction": "single     (or none)",
    "Reversible": "lossless    (or stash, or forward-only: REASON)",
    "Environments": "all       (or development, staging, production, separated by commas)",
    "Waive": "CODE | reason | YYYY-MM-DD",
}
_CHOICES = {
    "Type": ("schema", "data", "function"),
    "Phase": ("expand", "migrate", "contract"),
    "Transaction": ("single", "none"),
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
    """The fields of a revision's header. ``reversible`` is lossless, stash or forward-only (then with ``reason``)."""

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

    def waives(self, code: str, today: dt.date) -> bool:
        """Whether a waiver lifts ``code`` today."""
        return any(waiver.code == code and waiver.until >= today for waiver in self.waivers)


@dataclass(frozen=True)
class Line:
    """One ``Field: value`` line and where it stands in the file."""

    field: str
    value: str
    number: int


def has_header(source: Source) -> bool:
    """Whether the docstring claims to be one of our headers: it has a ``Version:`` line."""
    return re.search(r"^Version:", ast.get_docstring(source.tree, clean=False) or "", re.MULTILINE) is not None


def template(version: str, parents: str, today: dt.date) -> str:
    """A header to fill in, as the finding ``header-missing`` shows it."""
    values = {**_EXAMPLES, "Version": version, "Dependencies": parents, "Date": str(today)}
    fields = "\n".join(f"{name}: {values[name].split('  ')[0]}" for name in REQUIRED)
    return f'"""What changes.\n\n{fields}\n"""'


def parse(source: Source, today: dt.date) -> tuple[Header | None, list[Finding]]:
    """Read the header. Gives None for it as soon as one finding stands against the header's own lines."""
    lines, findings = _lines(source)
    values = {line.field: line for line in lines}
    version = values["Version"].value if "Version" in values else source.path.name.split("_")[0]

    def invalid(line: Line, problem: str) -> None:
        findings.append(
            _finding(source, line.number, version, "header-field-invalid", field=line.field, value=line.value,
                     problem=problem, example=_EXAMPLES[line.field])
        )  # fmt: skip

    first = lines[0].number if lines else 1
    for name in REQUIRED:
        if name not in values:
            findings.append(
                _finding(source, first, version, "header-field-missing", field=name, example=_EXAMPLES[name])
            )
    for line in lines:
        if not line.value:
            invalid(line, "it is empty")
        elif line.field in _CHOICES and line.value not in _CHOICES[line.field]:
            invalid(line, f"it is one of {', '.join(_CHOICES[line.field])}")
    date = _date(source, values.get("Date"), version, today, findings)
    reversible, reason = _reversible(source, values.get("Reversible"), version, findings)
    environments = _environments(values.get("Environments"), invalid)
    waivers = [_waiver(source, line, version, today, findings) for line in lines if line.field == "Waive"]
    if findings:
        return None, findings
    dependencies = values["Dependencies"].value
    return (
        Header(
            title=(ast.get_docstring(source.tree) or "").split("\n")[0].rstrip("."),
            version=version,
            description=values["Description"].value,
            author=values["Author"].value,
            date=date or today,
            dependencies=() if dependencies == "None" else tuple(re.split(r"\s*,\s*", dependencies)),
            type=values["Type"].value,
            phase=values["Phase"].value,
            transaction=values["Transaction"].value,
            reversible=reversible,
            reason=reason,
            environments=environments,
            waivers=tuple(waiver for waiver in waivers if waiver),
            lines=tuple(f"{line.field}: {line.value}" for line in lines),
        ),
        [],
    )


def line_of(source: Source, field: str) -> int:
    """The line number of a header field, or of the docstring where the field is missing."""
    lines, _ = _lines(source)
    return next((line.number for line in lines if line.field == field), lines[0].number if lines else 1)


def _lines(source: Source) -> tuple[list[Line], list[Finding]]:
    """The contiguous block of ``Field: value`` lines that holds the first known field; prose may follow after a blank."""
    docstring = source.tree.body[0]
    start = docstring.lineno
    text = source.text.split("\n")[start - 1 : docstring.end_lineno]
    # The last line may hold the closing quotes.
    text = [re.sub(r'^\s*[rR]?("""|\'\'\'|"|\')', "", line) if n == 0 else line for n, line in enumerate(text)]
    text = [re.sub(r'("""|\'\'\')\s*(#.*)?$', "", line) for line in text]
    known = REQUIRED + OPTIONAL
    begin = next((n for n, line in enumerate(text) if line.split(":")[0].strip() in known and ":" in line), len(text))
    while begin > 1 and begin < len(text) and text[begin - 1].strip() and ":" in text[begin - 1]:
        begin -= 1  # a misspelt first field belongs to the block too
    lines: list[Line] = []
    findings: list[Finding] = []
    version = source.path.name.split("_")[0]
    for number, line in enumerate(text[begin:], start + begin):
        if not line.strip():
            break
        field, colon, value = line.partition(":")
        if not colon or field not in known:
            findings.append(
                _finding(source, number, version, "header-field-unknown", line=line.strip(), fields=", ".join(known))
            )
        elif field != "Waive" and any(seen.field == field for seen in lines):
            findings.append(
                _finding(source, number, version, "header-field-repeated", field=field, example=_EXAMPLES[field])
            )
        else:
            lines.append(Line(field, value.strip(), number))
    return lines, findings


def _date(source: Source, line: Line | None, version: str, today: dt.date, findings: list[Finding]) -> dt.date | None:
    if line is None or not line.value:
        return None
    problem = ""
    date = None
    try:
        if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", line.value):
            raise ValueError
        date = dt.date.fromisoformat(line.value)
    except ValueError:
        problem = "it is not a day of the calendar, written YYYY-MM-DD"
    # One day ahead: an author east of the server is already in tomorrow.
    if date and date > today + dt.timedelta(days=1):
        problem = "it lies in the future"
    if problem:
        findings.append(
            _finding(source, line.number, version, "header-date", value=line.value, problem=problem, today=today)
        )
    return date


def _reversible(source: Source, line: Line | None, version: str, findings: list[Finding]) -> tuple[str, str]:
    if line is None or not line.value:
        return "", ""
    kind, _, reason = (part.strip() for part in line.value.partition(":"))
    if line.value == "undecided":
        findings.append(_finding(source, line.number, version, "reversible-undecided"))
    elif not (line.value in ("lossless", "stash") or (kind == "forward-only" and reason)):
        findings.append(
            _finding(source, line.number, version, "header-field-invalid", field="Reversible", value=line.value,
                     problem="it is lossless, stash, or forward-only with its reason", example=_EXAMPLES["Reversible"])
        )  # fmt: skip
    return kind, reason


def _environments(line: Line | None, invalid: Callable[[Line, str], None]) -> tuple[str, ...]:
    if line is None or line.value in ("", "all"):
        return ENVIRONMENTS
    names = tuple(re.split(r"\s*,\s*", line.value))
    unknown = [name for name in names if name not in ENVIRONMENTS]
    if unknown:
        invalid(line, f"{unknown[0]!r} is not one of {', '.join(ENVIRONMENTS)}, or all")
    return names


def _waiver(source: Source, line: Line, version: str, today: dt.date, findings: list[Finding]) -> Waiver | None:
    parts = [part.strip() for part in line.value.split("|")]
    later = today + dt.timedelta(days=90)
    try:
        code, reason, until = parts
        day = dt.date.fromisoformat(until)
        if not (code and reason and re.fullmatch(r"\d{4}-\d{2}-\d{2}", until)):
            raise ValueError
    except ValueError:
        findings.append(_finding(source, line.number, version, "waiver-incomplete", value=line.value, later=later))
        return None
    waivable = sorted(rule.code for rule in RULES.values() if rule.waivable)
    if code not in waivable:
        problem = "no rule has as its code" if code not in RULES else "cannot be waived"
        findings.append(
            _finding(source, line.number, version, "waiver-unknown", waived=code, problem=problem,
                     codes=", ".join(waivable))
        )  # fmt: skip
    elif day < today:
        findings.append(_finding(source, line.number, version, "waiver-expired", waived=code, value=until))
    return Waiver(code, reason, day)


def _finding(source: Source, line: int, version: str, code: str, /, **values: object) -> Finding:
    return Finding(code, f"{source.shown}:{line}", version, {key: str(value) for key, value in values.items()})
