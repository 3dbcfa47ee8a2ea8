"""The part of the catalogue that is about rehearsals on staging, and what production asks of them."""

from __future__ import annotations

from mcp_planner_schema.guard.rule import Rule

STAGING_RULES = (
    Rule(
        "not-rehearsed",
        "{problem}",
        "how long it takes, what it slows down and whether there is a way back is then found out in production",
        "scripts/staging-deploy.sh, with a copy of production as it is now (docs/staging.md); or the reason, which is written "
        'down: scripts/production-migrate.sh --without-rehearsal --reason "…"',
    ),
    Rule(
        "staging-misplaced",
        "{database} is not to be replaced by a copy: {problem}",
        "what is in it would be gone, and staging is where that is meant to be nobody's loss",
        "{instead}",
    ),
    Rule(
        "copy-impossible",
        "the copy cannot be made: {problem}",
        "a rehearsal on anything else says nothing about production",
        "{instead}",
    ),
    Rule(
        "mask-unusable",
        "{problem}",
        "a rule that is not in force leaves people's data as it is, and staging is read by many",
        "{instead}",
    ),
    Rule(
        "mask-undecided",
        "{count} columns can hold people's data, and {file} has no rule for them: {columns}",
        "whoever may read staging would read production's rows",
        "a rule for each (words, unique-words, hash, email, json, shuffle, null, text: …, or keep), such as:\n{lines}",
    ),
    Rule(
        "mask-leaves",
        "values of masked columns are still in the copy: {columns}",
        "who reads them there knows what was masked elsewhere; the copy was dropped",
        "another rule than keep for these columns; or, for words that say nothing about anybody, harmless = [\"…\"] in {file}",
    ),
    Rule(
        "rehearsal-failed",
        "the rehearsal has ended at its step '{step}': {error}",
        "production would end there too, with people waiting",
        "what the message asks for, then scripts/staging-deploy.sh",
    ),
    Rule(
        "rehearsal-differs",
        "{after}, the copy is not what it was: {differences}",
        "the way back does not lead back, or the way there not to the same place twice: in production nobody would see it",
        "a downgrade() that undoes all that upgrade() does; or Reversible: forward-only, with the reason, where nothing does",
    ),
    Rule(
        "performance-impact",
        "the query '{query}' takes {factor} times as long: {before} before, {after} afterwards; {plan}",
        "the application asks it as often as before, and everything behind it waits",
        "the index that it has lost (op.create_index_concurrently), or the query as the new schema wants it, deployed first; "
        "what is meant to be so is said by a recorded reason in production",
    ),
    Rule(
        "performance-unclear",
        "the query '{query}' takes {factor} times as long, but the machine {machine}: whether the migration is to blame cannot "
        "be told; {before} before, {after} afterwards; {plan}",
        "production may be slower afterwards, and this rehearsal would not have seen it",
        "a rehearsal while nothing else works on the machine of the copy, or its server: scripts/staging-deploy.sh",
    ),
    Rule(
        "query-broken",
        "the query '{query}' fails after the migration: {error}",
        "the application asks it, and its users see the error",
        "the old name or column kept until no release asks for it (expand, then contract: docs/5-zero-downtime.md); or the query "
        "in {file} as the application asks it now",
    ),
)  # fmt: skip
