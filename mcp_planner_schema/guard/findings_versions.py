"""The part of the catalogue that is about files and databases that say different things."""

from __future__ import annotations

from mcp_planner_schema.guard.rule import Rule

VERSION_RULES = (
    Rule(
        "database-ahead",
        "the database is at {heads}, which no file here has; {count}:{listed}",
        "without their files no step can be run, up or down; and of an application of this build: {meaning}",
        "{deploy}; or bring the missing file back from what the database has kept of it, read it, and go on from there: "
        "make migrate-recover VERSION={revision}",
    ),
    Rule(
        "recover-impossible",
        "revision {revision} is not recovered: {problem}",
        "what is written here is run by the next upgrade or downgrade, so it is what was run before, or nothing",
        "{instead}",
    ),
    Rule(
        "rebase-impossible",
        "revision {revision} is not moved: {problem}",
        "a database that has applied it would hold another history than the files, and skip or repeat revisions",
        "{instead}",
    ),
    Rule(
        "stamp-differs",
        "the version is to be set to {revision}, and the database is not what the revisions up to there make of it; it matches "
        "{match}: "
        "{differences}",
        "every later upgrade and downgrade believes the version; if the schema is another one, they fail half-way or lose rows",
        "the version that the database does match, named above where there is one; or the reason why it is "
        'right all the same, which the history keeps: make migrate-force VERSION={revision} REASON="…"',
    ),
    Rule(
        "adopted-otherwise",
        "what {tool} has written down of this database is not what the revisions here came from: {differences}",
        "the database was made by another text than the one that builds the next database: the two may differ, in rows above all",
        "the text that was applied, imported anew; or, where both come to the same (a comment, several that were squashed into "
        'one), the reason, which the history keeps with what differs: REASON="…"',
    ),
    Rule(
        "stamp-unexplained",
        "the version in {environment} is to be set to {revision}, and nothing is run: nobody has said why",
        "every later upgrade and downgrade believes the version; if the schema is another one, they fail half-way or lose rows",
        'the reason, which the history keeps: make migrate-force VERSION={revision} REASON="…", '
        'or alembic -x reason="…" stamp {revision}; what a failure needs is the command that it named, and hardly ever this one',
    ),
)  # fmt: skip
