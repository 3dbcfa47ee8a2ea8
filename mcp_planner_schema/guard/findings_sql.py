"""The part of the catalogue that is about revisions whose bodies are written in SQL."""

from __future__ import annotations

from mcp_planner_schema.guard.rule import Rule

SQL_RULES = (
    Rule(
        "sql-body-literal",
        "op.run_sql does not say which file is the body: {problem}",
        "the checksum covers what the call names; any other file could be changed after it was run, and nobody would know",
        'op.run_sql("{stem}.up.sql") in upgrade(), op.run_sql("{stem}.down.sql") in downgrade(), both files beside {stem}.py',
    ),
    Rule(
        "sql-body-unusable",
        "this cannot be a revision's body: {problem}",
        "the server gets each statement as it stands, from the guard and not from psql, within a step that is tried again or "
        "undone as a whole",
        "{instead}",
    ),
    Rule(
        "sql-body-unrepeatable",
        "{problem} runs in no transaction, and as it stands here it could not run twice",
        "of a run that is interrupted there nobody would know whether it was done, and the next one could not go on",
        "{instead}",
    ),
    Rule(
        "sql-body-differs",
        "{file} was begun as another text: {problem}",
        "what was run of the former text is final and stays, and the rest may not fit",
        "the former text of what was run already; what is to be done differently comes behind it, or in the next revision",
    ),
)  # fmt: skip
