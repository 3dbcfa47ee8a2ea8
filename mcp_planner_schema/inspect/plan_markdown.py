"""A plan as Markdown, to be read in a pull request: the whole in one table, then each revision, folded.

Whatever a revision says stays where it stands: in a cell or a list a sign that means something to Markdown or HTML at its place
is written as its number, all others as they are, for it is read on a terminal too; SQL stands in a fence that is longer than any
row of backticks in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from mcp_planner_schema.inspect import plan_text
from mcp_planner_schema.inspect.planned import Plan, Revision

LIMIT = 60_000
"""Characters of the whole: a comment on GitHub may have 65,536. What is longer goes without SQL."""

# An underscore within a word begins nothing (CommonMark 6.2). At the beginning of a line there are lists, rules and headings.
# What GitHub and GitLab add is among them: @names, #1 and !1, $formulas$, ~~strikes~~, {+ changes +}.
_MEANS = re.compile(
    r"[`*<>\[\]{}|~^$#@&!\\]|(?<![^\W_])_|_(?![^\W_])|(?<=:)/(?=/)|^=|^[+-](?=[\s+-]|$)|^\d+[.)](?=\s|$)"
)
_MARK = {"harmless": "🟢", "risky": "🟠", "refused": "🔴"}


def markdown(plan: Plan) -> str:
    """All of it; where that is too long for a comment, without the SQL, and it is said where that is to be had."""
    whole = _markdown(plan, sql=True)
    return whole if len(whole) <= LIMIT else _markdown(plan, sql=False)


def _markdown(plan: Plan, *, sql: bool) -> str:
    lines = [f"### {_MARK[plan.risk]} migrate-plan: {plan.risk}", ""]
    lines += [*_listed(("", line) for line in plan_text.head(plan)), ""]
    if plan.revisions:
        lines += [_row(plan_text.COLUMNS), "|---" * len(plan_text.COLUMNS) + "|"]
        lines += [*(_row(plan_text.row(one)) for one in plan.revisions), ""]
    for one in plan.revisions:
        lines += _details(one, sql=sql)
    return "\n".join([*lines, *_listed(("", line) for line in plan_text.tail(plan))]) + "\n"


def _details(one: Revision, *, sql: bool) -> list[str]:
    """A revision, folded; the empty lines let what is between the tags be read as Markdown."""
    title = f"{_MARK[one.risk]} {text(one.revision)} {text(one.title)}: {text(plan_text.state(one))}"
    lines = ["<details>", f"<summary>{title}</summary>", "", *_listed(plan_text.facts(one)), ""]
    if one.sql is None:
        lines += [f"No SQL: {text(one.no_sql)}"]
    elif sql:
        lines += fenced(one.sql)
    else:
        lines += [f"The SQL is too long for a comment: {text(f'make migrate-plan TO={one.revision}')}"]
    return [*lines, "", "</details>", ""]


def _listed(facts: Iterable[tuple[str, str]]) -> list[str]:
    """One item a fact; what belongs to the one above it is indented as it is for people, by spaces that stay."""
    lines = []
    for name, value in facts:
        indent = "&nbsp;" * (len(value) - len(value.lstrip(" "))) * 2
        lines.append(f"- {f'**{name}** ' if name else ''}{indent}{text(value)}")
    return lines


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(text(cell) for cell in cells) + " |"


def text(value: str) -> str:
    """In one line, and nothing in it but text: neither a cell, a list, a tag nor a link ends or begins in it."""
    line = " ".join("".join(char if char.isprintable() else " " for char in value).split())
    return " ".join(_word(word) for word in _MEANS.sub(_numbered, line).split(" "))


def _word(word: str) -> str:
    """An address without the dots that would make it a link."""
    return word.replace(".", "&#46;") if "//" in word or "&#47;/" in word or "www." in word.lower() else word


def _numbered(found: re.Match[str]) -> str:
    return "".join(char if char.isdigit() else f"&#{ord(char)};" for char in found[0])


def fenced(sql: str) -> list[str]:
    """The SQL as it is, in a fence that it cannot close."""
    longest = max((len(run) for run in re.findall("`+", sql)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}sql", *sql.rstrip("\n").split("\n"), fence]
