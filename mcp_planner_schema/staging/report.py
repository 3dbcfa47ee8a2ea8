"""The end of a rehearsal: its record for machines, the same as a page for people, and the copy opened to others."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from mcp_planner_schema.guard.findings import GuardError
from mcp_planner_schema.staging import copying, place, record, stages
from mcp_planner_schema.staging.impact import Impact
from mcp_planner_schema.staging.queries import Measured, measured
from mcp_planner_schema.staging.rehearsal import Rehearsal

_WITH_FINDINGS = ("measured-after", "look-back", "look-forth")
_WITH_NOTES = ("measured-after", "back", "look-back", "look-forth")
_PAGE = """\
# Rehearsal of ${ids or "nothing"}: ${"green" if told["green"] else "not green"}

${told["at"]}, PostgreSQL ${told["server"] or "?"}, from ${heads(told["from"])} to ${heads(told["to"])}.
The copy: ${told["copy"].get("of", "none was made")}${", made " + told["copy"]["created"] if told["copy"].get("created") else ""}.

% if told["green"]:
Production may run exactly these revisions: `make migrate-rehearsed` says so while they are unchanged.
% else:
Production does not run on it (`make migrate-rehearsed`); what stands against it:
% endif
% for one in told["findings"]:

${"##"} ${one["code"]}

```
${one["text"]}
```
% endfor
% if told["notes"]:

${"##"} Notes

% for one in told["notes"]:
- ${one}
% endfor
% endif

${"##"} Steps

% if told["steps"]:
| revision | direction | outcome | ms | waited ms | held ms | tries | rows |
|---|---|---|---:|---:|---:|---:|---:|
% for one in told["steps"]:
| ${one["revision"]} | ${one["direction"]} | ${one["outcome"]} | ${ms(one["duration_ms"])} | ${ms(one["lock_wait_ms"])} | \
${ms(one["hold_ms"])} | \
${one["attempts"]} | ${"" if one["rows_touched"] is None else one["rows_touched"]} |
% endfor
% else:
None was taken.
% endif

${"##"} Queries

% if impacts:
| query | before | afterwards | factor | blocks before | afterwards | plan |
|---|---:|---:|---:|---:|---:|---|
% for one in impacts:
| ${cell(one.query)} | ${time(one.before)} | ${time(one.after)} | ${factor(one)} | ${one.before.blocks} | ${one.after.blocks} | \
${"another" if one.other_plan else "the same"} |
% endfor
% else:
None was measured twice.
% endif

${"##"} Tables of the copy

| table | rows | bytes |
|---|---:|---:|
% for name, one in sorted(told["sizes"].items()):
| ${cell(name)} | ${"?" if one["rows"] is None else one["rows"]} | ${"?" if one["bytes"] is None else one["bytes"]} |
% endfor
% if told["copy"].get("masked"):

Masked: ${", ".join(f"`{name}` ({rule})" for name, rule in told["copy"]["masked"].items())}.
% endif
"""


def write(this: Rehearsal, step: str, code: int) -> bool:
    """Write record and page, and open the copy. Gives whether it is green. ``step`` is the last one, ``code`` how it ended."""
    told = content(this, step, code)
    path = record.write(this.folder, told)
    page = record.whole(path.with_suffix(".md"), text(this, told))
    if this.left("copy"):
        with suppress(GuardError), place.server(this.target) as server:
            copying.open_to_others(server, this.target)
    print(f"{'green' if told['green'] else 'NOT green'}: {path}\n{page}")
    return bool(told["green"])


def content(this: Rehearsal, step: str, code: int) -> dict[str, Any]:
    """The record, as JSON has it."""
    start, up, copied, failed = (this.left(name) for name in ("start", "up", "copy", "failed"))
    findings = [one for name in _WITH_FINDINGS for one in this.left(name).get("findings", ())]
    findings += failed.get("findings", ())
    if code:
        findings.append(_failed(step, code, failed.get("error", "")))
    notes = [note for name in _WITH_NOTES for note in this.left(name).get("notes", ())]
    done = not code and bool(this.left("look-forth"))
    server = start.get("server", "")
    return {
        "format": record.FORMAT,
        "at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "began": this.kept("begin")["at"],
        "green": done and not findings,
        "environment": this.given.environment,
        "server": server,
        "from": start.get("heads", []),
        "to": up.get("heads", []),
        "revisions": [{"id": one["id"], "checksum": one["checksum"]} for one in (up or start).get("revisions", ())],
        "findings": findings,
        "notes": notes,
        "copy": {
            name: copied[name]
            for name in ("kind", "of", "created", "seconds", "phases", "masked", "sizes")
            if name in copied
        },
        "steps": _quietly(lambda: stages.steps(this), []),
        "sizes": _quietly(lambda: stages.sizes(this), {}),
        "queries": [_query(one) for one in _impacts(this)],
    }


def text(this: Rehearsal, told: Mapping[str, Any]) -> str:
    """The same for people, as Markdown."""
    from mako.template import Template

    return str(
        Template(_PAGE, strict_undefined=True).render(
            told=told,
            ids=", ".join(one["id"] for one in told["revisions"]),
            impacts=_impacts(this),
            ms=lambda number: f"{number:.0f}",
            heads=lambda names: ", ".join(names) or "base",
            cell=lambda name: str(name).replace("|", "\\|"),
            time=lambda one: one.error or one.skipped or f"{one.ms:.2f} ms",
            factor=lambda one: "" if one.before.error or one.after.error or one.after.skipped else f"{one.factor:.2f}",
        )
    )


def _failed(step: str, code: int, error: str) -> dict[str, str]:
    from mcp_planner_schema.guard.findings import Finding

    values = {"step": step, "error": error or f"it was ended (exit code {code})"}
    one = Finding("rehearsal-failed", "staging", "", values)
    return {"code": one.code, "where": one.where, "revision": "", "text": one.text()}


def _impacts(this: Rehearsal) -> list[Impact]:
    from mcp_planner_schema.staging import impact

    before, after = (_measured(this.left(f"measured-{when}")) for when in ("before", "after"))
    return impact.compare(before, after)


def _measured(kept: Mapping[str, Any]) -> dict[str, Measured]:
    return {name: measured(one) for name, one in kept.get("queries", {}).items()}


def _query(one: Impact) -> dict[str, Any]:
    def side(measured: Measured) -> dict[str, Any]:
        return {
            "ms": round(measured.ms, 3),
            "blocks": measured.blocks,
            "plan": list(measured.plan),
            "error": measured.error,
        }

    return {"name": one.query, "before": side(one.before), "after": side(one.after)}


def _quietly(ask: Any, otherwise: Any) -> Any:
    """What can be asked of a copy whose server may be gone."""
    from sqlalchemy.exc import SQLAlchemyError

    try:
        return ask()
    except (GuardError, SQLAlchemyError):
        return otherwise
