"""The part of the catalogue of findings that is about what revisions make of PostgreSQL's catalog."""

from __future__ import annotations

from mcp_planner_schema.guard.rule import Rule

CATALOG_RULES = (
    Rule(
        "catalog-differs",
        "the {direction} of revision {revision} has left something else here than where it was written: {differences}",
        "the next revision, and the application, rest on what it should have made; nobody would see it until one of them fails",
        "what was made or changed here by hand (an index of the same name, a column) is undone first, as make migrate-doctor "
        "shows, or becomes a revision before this one; where the revision was edited: make migrate-fingerprint VERSION="
        "{revision}, and commit what it writes",
        waivable=True,
    ),
    Rule(
        "fingerprint-missing",
        "nothing is stored of what revision {revision} changes in the catalog (alembic/fingerprints, alembic/catalog)",
        "whatever it does here, nobody could tell whether that is what it did where it was written",
        "make migrate-fingerprint (or make migrate-up in development), and commit what it writes together with the revision",
    ),
)
