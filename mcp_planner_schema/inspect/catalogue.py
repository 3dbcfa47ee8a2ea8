"""The catalogue of findings as a page, so that the documentation cannot say something else than the tool."""

from __future__ import annotations

import string

from mcp_planner_schema.guard.findings import RULES, Rule
from mcp_planner_schema.guard.findings_preflight import LEVELS

_HEAD = """\
# Findings

Written from the catalogue by `make findings`; a test fails when it is stale.

A finding that refuses ends the command with exit code 3 before anything was changed. One that can be waived is lifted for one
revision by a line in its header, `Waive: CODE | reason | YYYY-MM-DD`; the waiver is kept in the history. What is asked of the
server before a run ([preflight](preflight.md)) can be accepted for one run, with a reason, where it says so.

| code | what happens | waivable |
|---|---|---|
"""


def markdown() -> str:
    """The whole page."""
    rows = "".join(
        f"| [{rule.code}](#{rule.code}) | {_prose(rule.happens)} | {_waivable(rule)} |\n" for rule in RULES.values()
    )
    return _HEAD + rows + "".join(map(_section, RULES.values()))


def _waivable(rule: Rule) -> str:
    return "yes" if rule.waivable else "for one run" if rule.acceptable else "no"


def _section(rule: Rule) -> str:
    kind = "" if rule.refuses else "A warning: the run goes on.\n\n"
    if rule.code in LEVELS:
        kind = f"Asked before a run: {', '.join(map(' '.join, LEVELS[rule.code]._asdict().items()))}.\n\n"
    happens = _prose(rule.happens)
    return (
        f"\n## {rule.code}\n\n{kind}{happens[0].upper()}{happens[1:]}.\n\n"
        f"Why it hurts: {_prose(rule.hurts)}.\n\nInstead:\n\n```\n{_filled(rule.instead, '<{}>')}\n```\n"
    )


def _prose(template: str) -> str:
    # Outside a code block Markdown takes <name> for HTML and shows nothing.
    return _filled(template, "*{}*").replace("|", "\\|")


def _filled(template: str, shape: str) -> str:
    """The template with each value's name in its place."""
    names = {name: shape.format(name) for _, name, _, _ in string.Formatter().parse(template) if name}
    return template.replace("!r}", "}").format_map(names)
