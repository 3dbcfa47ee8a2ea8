"""A report to look at: a night on which everything has happened that a report can tell of. No database is asked for it."""

from __future__ import annotations

import datetime as dt

from mcp_planner_schema.telemetry.report.facts import (
    Backfill,
    Blocker,
    Change,
    Finding,
    Kept,
    Next,
    Operation,
    Report,
    Run,
    Schema,
    Script,
    Step,
    Wait,
)

BEGIN = dt.datetime(2026, 11, 27, 1, 58, 3, 120_000, tzinfo=dt.UTC)
ERROR = (
    "Revision 021 (021_add_complexity_levels.py:48) met a lock it did not get, try 3: pid 41207 (billing-export, user reporting, "
    "idle in transaction, in its transaction for 912 s) holds tasks.\nThis step was undone; the database is at 020."
)


def at(seconds: float) -> dt.datetime:
    """A moment of that night."""
    return BEGIN + dt.timedelta(seconds=seconds)


def _step(revision: str, described: str, begun: float, lasted: float, held: float, **more: object) -> Step:
    values = {
        "revision": revision, "direction": "upgrade", "outcome": "done", "description": described,
        "author": "A Planner <planner@example.org>", "started": at(begun), "ended": at(begun + lasted), "duration": lasted * 1000,
        "waited": 0.0, "held": held, "attempts": 1, "rows": 0,
    }  # fmt: skip
    return Step(**(values | more))  # type: ignore[arg-type]


def night(state: str = "failed") -> Report:
    """All of it: four steps, of which the last one met a report that would not end."""
    blocker = Blocker(41207, "billing-export", "reporting", "idle in transaction", 912, "tasks")
    failed = state == "failed"
    steps = (
        _step(
            "018", "Keep links between steps and tasks in both directions", 0.4, 1.9, 61.0, rows=12_480, notes=(
                "restored table navigation_links: 4,212 rows",), waivers=("index-blocking | the table is new | 2027-01-31",),
            locks=(("public.navigation_links", "ACCESS EXCLUSIVE"), ("public.steps", "SHARE ROW EXCLUSIVE"),
                   ("public.tasks", "SHARE ROW EXCLUSIVE")), locks_from="seen in this run",
        ),
        _step("019", "Give each step the length of its title", 2.4, 14.2, 0.0, rows=2_048_331, parts=True, scripts=(
            Script("019/merge_titles.py", '{"batch": 5000, "token": "***"}', 3.2),)),
        _step("020", "Trigger that keeps the length", 16.7, 0.09, 24.0, locks=(("public.steps", "SHARE ROW EXCLUSIVE"),),
              locks_from="seen in this run"),
        _step(
            "021", "Complexity levels as a table of their own, so that a team can name them itself", 16.9, 9.8,
            3.0 if not failed else 204.0, outcome="failed" if failed else "done", waited=598.0, attempts=3,
            rows=None if failed else 3, error=ERROR if failed else "", sqlstate="55P03" if failed else "",
            locks=(("public.tasks", "ACCESS EXCLUSIVE"),), locks_from="traced when it was written",
        ),
    )  # fmt: skip
    waits = (
        Wait(at(17.3), "021", 1, 200.0, 201.0, "55P03", (blocker,)),
        Wait(
            at(20.4),
            "021",
            2,
            199.0,
            203.0,
            "55P03",
            (blocker, Blocker(41233, "web", "planner", "active", 0.4, "tasks")),
        ),
        Wait(at(26.7), "021", 3, 199.0, 204.0, "55P03", (blocker,), last=True),
        Wait(
            at(24.0), "021", None, 2_100.0, None, "", (Blocker(0, holds="a prepared transaction 'x7' holds tasks"),), 4
        ),
    )
    return Report(
        Run(
            42,
            state,
            "make migrate-up PHASE=expand",
            "mcp_planner at db-1.internal.example:5432",
            "production",
            "deploy",
            "planner_owner",
            "runner-7f9c",
            4711,
            "8c1f0e2d9a7b4c6e5f3a1b2c4d6e8f0a9b7c5d3e",
            "0.7.0",
            "alembic_version",
            ("017",),
            ("020",) if failed else ("021",),
            4,
            BEGIN,
            at(26.8) if state in ("failed", "done") else None,
            at(30),
            ERROR if failed else "",
            75 if failed else 0,
            42,
        ),
        Next(
            "make migrate-up PHASE=expand",
            "Somebody was in the way: nothing is to be corrected, and the same command goes on there.",
        ),
        steps,
        waits,
        (
            Finding(
                "accepted",
                "backup-old: the newest backup is 31 h old; backup_age is 24h",
                "the provider's snapshot is of tonight",
            ),
            Finding("waived", "index-blocking", "the table is new", "018", "2027-01-31"),
            Finding(
                "silenced", "backfill steps.title_length bypasses trigger audit_steps", "a copy of what is there", "019"
            ),
        ),
        (
            Operation("019", "upgrade", 1, "create_index", "steps_title_length", "done", at(3), at(9)),
            Operation("019", "upgrade", 2, "validate_constraint", "steps_title_length_check", "begun", at(9), None),
        ),
        (
            Backfill(
                "steps.title_length",
                "019",
                "upgrade",
                "public.steps",
                "done",
                2_048_331,
                2_048_331,
                2_050_000,
                11.4,
                "",
            ),
        ),
        (
            Kept(
                3,
                "019",
                "upgrade",
                "kept",
                "migration_stash_3",
                at(90 * 86_400),
                "",
                "",
                (("column steps.title_length", 2_048_331, 81_788_928, False), ("table old_levels", None, 49_152, True)),
            ),
        ),
        Schema(
            (
                ("table", 13, 14),
                ("column", 148, 152),
                ("constraint", 96, 99),
                ("index", 51, 53),
                ("function", 49, 50),
                ("trigger", 66, 68),
            ),
            (
                Change(
                    "came",
                    "table",
                    "public.navigation_links",
                    (
                        "table navigation_links",
                        "column id  uuid not null default gen_random_uuid()",
                        "constraint navigation_links_pkey  PRIMARY KEY (id)",
                    ),
                ),
                Change(
                    "changed",
                    "table",
                    "public.steps",
                    (
                        "+ column title_length  integer",
                        "~ column title",
                        "  before  character varying(255)",
                        "  after   character varying(500)",
                    ),
                ),
                Change(
                    "changed",
                    "function",
                    "public.complexity_summary(uuid)",
                    (
                        "~ function",
                        "  --- before",
                        "  +++ after",
                        "  @@ -1,3 +1,3 @@",
                        "   SELECT count(*)",
                        "  -FROM steps",
                        "  +FROM public.steps WHERE title_length > 0 AND project_id = $1 AND something_that_is_long IS NOT NULL",
                    ),
                ),
                Change("went", "index", "public.steps_old", ()),
            ),
        ),
        events=True,
    )
