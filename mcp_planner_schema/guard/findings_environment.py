"""The part of the catalogue that is about which database this is."""

from __future__ import annotations

from mcp_planner_schema.guard.rule import Rule

ENVIRONMENT_RULES = (
    Rule(
        "environment-differs",
        "the database says that it is {marked} (since {since}, said by {who}), and here it counts as {environment}: {told}",
        "it is another database than was meant, or a copy of one: what is right for {environment} would be done to {marked}",
        "where this database is meant: PLANNER_ENV={marked}. Where it is not: another DATABASE_URL (make config says from where "
        "this one is). Where it is a copy that has become {environment}: make environment-set ENV={environment} CONFIRM=…",
    ),
    Rule(
        "environment-unsaid",
        "the database does not say which environment it is, {why}; and here it counts as {environment}",
        "production that nobody has marked yet looks just so: its rows would be at the mercy of one variable that is set wrongly",
        "PLANNER_ENV=production where it is that. Where it is {environment}, say so in the database, once: "
        "PLANNER_ENV={environment} make environment-set ENV={environment} CONFIRM=… REASON=…",
    ),
    Rule(
        "unconfirmed",
        "{deed}, in {environment}, and CONFIRM {said}",
        "done to the wrong database, it would be found out by everybody who works with it",
        "the name of the database, as you know it: CONFIRM=… before the command or behind it, alembic -x confirm=…",
    ),
)  # fmt: skip
