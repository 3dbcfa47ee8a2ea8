"""Fill the navigation links.

Version: 019
Description: References older than the triggers get their links, and items their places, project by project, in small commits.
Author: MCP-Planner team <maintainers@mcp-planner.example>
Date: 2026-11-27
Dependencies: 018
Type: data
Phase: migrate
Transaction: none
Reversible: lossless
"""

from alembic import op

from mcp_planner_schema.operations import expect, sql

revision = "019"
down_revision = "018"
branch_labels = None
depends_on = None

sql_files = ["019/fill_links.sql"]

# For the walk, which blocks nobody.
budgets = {"statement_timeout": "1h", "lock_timeout": "2s"}

ITEMS = """
    SELECT project_id, 'task://' || id AS ref, prev_id, next_id FROM public.tasks
    UNION ALL SELECT project_id, 'step://' || id, prev_id, next_id FROM public.steps
"""

expectations = [
    # What both ends say has a link. What only one says, or what contradicts itself, validate_navigation lists.
    expect.rows(
        f"WITH item AS ({ITEMS}) SELECT FROM item JOIN item next ON next.ref = item.next_id AND next.prev_id = item.ref"
        " WHERE next.project_id = item.project_id AND NOT EXISTS (SELECT FROM public.navigation_links link"
        " WHERE link.project_id = item.project_id AND link.from_ref = item.ref AND link.to_ref = next.ref)",
        count=0,
    ),
    expect.rows("SELECT FROM public.tasks WHERE finished IS NULL AND progress >= 1", count=0),
    expect.rows("SELECT FROM public.steps WHERE finished IS NULL AND progress >= 1", count=0),
]
expectations_down = [
    expect.function("change_links(uuid, text[], text[])"),
]

# The pairs that are to be linked, in the order of their chains, and these in that of their oldest item: what is appended to a
# chain costs least, and places follow age. A reference counts where the other end agrees or says nothing; of two that say the
# same of a third the older item's. No other reference is touched. Only reads what the application writes; each run walks anew,
# and what is there from one that was killed goes: `walked` is later, so its pairs come behind those that are done.
WALK = r"""
DO $walk$
DECLARE
    start text;
    here text;
    before text;
    project uuid;
    there text;
BEGIN
    DROP TABLE IF EXISTS public.navigation_fill;
    CREATE TABLE public.navigation_fill (
        walked timestamptz NOT NULL DEFAULT pg_catalog.now(),
        place bigint GENERATED ALWAYS AS IDENTITY,
        project_id uuid NOT NULL,
        from_ref text NOT NULL,
        to_ref text NOT NULL,
        PRIMARY KEY (walked, place)
    ) WITH (autovacuum_enabled = off);
    CREATE TABLE public.navigation_pairs AS
    WITH item AS (
        SELECT project_id, 'task://' || id AS ref, prev_id::text, next_id::text, chain_position, created_at FROM public.tasks
        UNION ALL SELECT project_id, 'step://' || id, prev_id, next_id, chain_position, created_at FROM public.steps
    ), follower AS (
        SELECT DISTINCT ON (project_id, prev_id) project_id, prev_id, ref FROM item WHERE prev_id IS NOT NULL
        ORDER BY project_id, prev_id, created_at, ref
    ), said AS (
        SELECT item.project_id, item.ref AS from_ref, item.next_id, item.chain_position, item.created_at,
            link.to_ref AS linked, coalesce(item.next_id, link.to_ref, follower.ref) AS to_ref
        FROM item
        LEFT JOIN public.navigation_links link ON link.from_ref = item.ref
        LEFT JOIN follower ON follower.project_id = item.project_id AND follower.prev_id = item.ref
    )
    SELECT DISTINCT ON (said.to_ref) said.project_id, said.from_ref, said.to_ref, least(
        CASE WHEN said.chain_position IS NOT NULL THEN '-infinity'::timestamptz END,  -- goes on with what was begun
        CASE WHEN said.next_id IS NOT NULL THEN said.created_at END,
        CASE WHEN there.prev_id IS NOT NULL THEN there.created_at END
    ) AS said_at
    FROM said
    JOIN item there ON there.project_id = said.project_id AND there.ref = said.to_ref
    LEFT JOIN public.navigation_links arriving ON arriving.to_ref = said.to_ref
    WHERE coalesce(there.prev_id, arriving.from_ref, said.from_ref) = said.from_ref
        AND (said.next_id, said.linked, there.prev_id) IS DISTINCT FROM (said.to_ref, said.to_ref, said.from_ref)
    ORDER BY said.to_ref, said.created_at, said.from_ref;
    CREATE UNIQUE INDEX ON public.navigation_pairs (from_ref);
    CREATE UNIQUE INDEX ON public.navigation_pairs (to_ref);
    ANALYZE public.navigation_pairs;
    FOR start IN SELECT from_ref FROM public.navigation_pairs ORDER BY project_id, said_at, from_ref LOOP
        here := start;
        LOOP
            SELECT from_ref INTO before FROM public.navigation_pairs WHERE to_ref = here;
            EXIT WHEN NOT FOUND;
            here := before;
            EXIT WHEN here = start;  -- a circle: it begins anywhere
        END LOOP;
        LOOP
            DELETE FROM public.navigation_pairs WHERE from_ref = here RETURNING project_id, to_ref INTO project, there;
            EXIT WHEN NOT FOUND;
            INSERT INTO public.navigation_fill (project_id, from_ref, to_ref) VALUES (project, here, there);
            here := there;
        END LOOP;
    END LOOP;
    DROP TABLE public.navigation_pairs;
    ANALYZE public.navigation_fill;
END
$walk$
"""
FILL = """
WITH linked AS MATERIALIZED (
    SELECT public.fill_links(
        pg_catalog.array_agg(project_id ORDER BY place), pg_catalog.array_agg(from_ref ORDER BY place),
        pg_catalog.array_agg(to_ref ORDER BY place))
    FROM batch
)
DELETE FROM public.navigation_fill AS pair USING batch, linked WHERE pair.walked = batch.walked AND pair.place = batch.place
"""


def upgrade() -> None:
    sql.apply(sql_files)
    with op.get_context().autocommit_block():
        op.execute(WALK)
    op.backfill(
        "navigation_fill",
        statement=FILL,
        verify="SELECT count(*) FROM public.navigation_fill",
        batch=500,
        in_order=True,
        repeatable=True,
        key=["walked", "place"],
    )
    for table in ("tasks", "steps"):
        op.backfill(
            table,
            set={"finished": "true"},
            where="filled.finished IS NULL AND filled.progress >= 1",
            key=["id"],
        )
    with op.get_context().autocommit_block():
        op.execute("DROP TABLE public.navigation_fill")
    sql.remove(sql_files)


def downgrade() -> None:
    # What was filled stays true: the triggers of 018 are still there and keep it.
    op.execute("DO $$ BEGIN END $$")
