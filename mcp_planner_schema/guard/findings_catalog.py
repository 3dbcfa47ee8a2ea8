"""The part of the catalogue of findings that is about what revisions make of PostgreSQL's catalog."""

from __future__ import annotations

from mcp_planner_schema.guard.rule import Rule

CATALOG_RULES = (
    Rule(
        "catalog-differs",
        "the {direction} of revision {revision} has not changed the same here as where it was written: {differences}",
        "the next revision, and the application, rest on what it should have made; nobody would see it until one of them fails",
        "what somebody has changed here by hand undone, or made a revision; where the revision itself was edited: make "
        "migrate-fingerprint VERSION={revision}, and commit what it writes",
        waivable=True,
    ),
    Rule(
        "fingerprint-missing",
        "nothing is stored of what revision {revision} changes in the catalog (alembic/fingerprints, alembic/catalog)",
        "whatever it does here, nobody could tell whether that is what it did where it was written",
        "make migrate-fingerprint (or make migrate-up in development), and commit what it writes together with the revision",
    ),
)
