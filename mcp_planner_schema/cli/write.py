"""Writing the files that are committed beside the revisions."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mcp_planner_schema.cli.command import ROOT, Command, Values
from mcp_planner_schema.guard.findings import DONE

if TYPE_CHECKING:
    from alembic.config import Config


def _trace(config: Config, values: Values) -> int:
    from alembic.script import ScriptDirectory

    from mcp_planner_schema.inspect import trace

    traced = trace.trace(config, values.get("VERSION"))
    for one in traced:
        print(one.text() + "\n")
    stored = trace.store(ScriptDirectory.from_config(config), traced)
    print(f"{len(stored)} revisions traced, stored in alembic/locks" if stored else "nothing is pending")
    return DONE


def _fingerprint(config: Config, values: Values) -> int:
    from mcp_planner_schema.inspect import fingerprints

    found, written = fingerprints.store(config, values.get("VERSION"))
    for revision, (fingerprint, _) in found.items():
        print(f"{revision} {fingerprint}")
    what = f"{len(written)} file{'' if len(written) == 1 else 's'} written" if written else "nothing has changed"
    print(f"{len(found)} revisions run, {what}" if found else "every revision has its fingerprint", file=sys.stderr)
    return DONE


def _table_stats(config: Config, values: Values) -> int:
    from alembic.script import ScriptDirectory

    from mcp_planner_schema.guard.source import shown
    from mcp_planner_schema.inspect import table_stats

    stats, place = table_stats.measure(config), table_stats.place(ScriptDirectory.from_config(config).dir)
    place.write_text(table_stats.text(stats), encoding="utf-8")
    print(f"{len(stats.bytes)} tables at {', '.join(stats.heads) or 'base'}, written to {shown(place)}")
    return DONE


def _findings(config: Config, values: Values) -> int:
    from mcp_planner_schema.inspect import catalogue, runbook

    Path(ROOT / "docs" / "findings.md").write_text(catalogue.markdown(), encoding="utf-8")
    page = Path(ROOT / "docs" / "runbook.md")
    page.write_text(runbook.filled(page.read_text(encoding="utf-8")), encoding="utf-8")
    return DONE


def _schema_doc(config: Config, values: Values) -> int:
    from mcp_planner_schema.inspect import schema_page

    Path(ROOT / "docs" / "schema.md").write_text(schema_page.markdown(), encoding="utf-8")
    return DONE


def _schema_sql(config: Config, values: Values) -> int:
    from alembic.script import ScriptDirectory

    from mcp_planner_schema.guard.source import shown
    from mcp_planner_schema.inspect import schema_sql

    path = schema_sql.place(ScriptDirectory.from_config(config).dir)
    path.write_text(schema_sql.text(config), encoding="utf-8")
    print(f"wrote {shown(path)}")
    return DONE


def _known_revisions(config: Config, values: Values) -> int:
    from mcp_planner_schema.inspect import known

    known.write(ROOT)
    return DONE


def _models_pull(config: Config, values: Values) -> int:
    from mcp_planner_schema.guard.source import shown
    from mcp_planner_schema.interop import pulled

    schemas = [name.strip() for name in values.get("SCHEMA", "").split(",") if name.strip()]
    if values["OUT"] == "-":
        print(pulled.text(config, schemas), end="")
        return DONE
    into = Path(values["OUT"]).expanduser().absolute()
    changed = pulled.write(config, into, schemas)
    print(f"{shown(into)} {'written' if changed else 'is as it should be'}", file=sys.stderr)
    return DONE


COMMANDS: dict[str, Command] = {
    "migrate-trace": Command(_trace, (), ("VERSION",), "[VERSION=003|all]"),
    "migrate-fingerprint": Command(_fingerprint, (), ("VERSION",), "[VERSION=003|all]"),
    "table-stats": Command(_table_stats),
    "findings": Command(_findings),
    "schema-doc": Command(_schema_doc),
    "schema-sql": Command(_schema_sql),
    "known-revisions": Command(_known_revisions),
    "models-pull": Command(_models_pull, ("OUT",), ("SCHEMA",), "OUT=models.py [SCHEMA=public,app]"),
}
