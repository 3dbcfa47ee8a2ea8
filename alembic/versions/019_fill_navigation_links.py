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

from mcp_planner_schema.operations import expect

revision = "019"
down_revision = "018"
branch_labels = None
depends_on = None

# For all of it, one statement to PostgreSQL; each of its transactions takes a fraction of a second.
budgets = {"statement_timeout": "4h", "lock_timeout": "2s"}

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

# A reference counts where the other end agrees or says nothing; of two that say the same of a third the older item's. No other
# reference is touched. From each item the chain is followed as far as it has no links yet, so that nothing is placed twice.
FILL = r"""
DO $fill$
DECLARE
    batch CONSTANT integer := 1000;
    seqscan CONSTANT text := pg_catalog.current_setting('enable_seqscan');
    owner uuid;
    start text;
    here record;
    there record;
    next text;
    linked text;
    froms text[];
    tos text[];
    ids uuid[];
    last uuid;
    batches integer := 0;
BEGIN
    -- The session keeps the plans it makes now, with no links there: reading all of them would be cheapest, and stay so. The
    -- ANALYZE further down makes it plan again.
    PERFORM pg_catalog.set_config('enable_seqscan', 'off', false);
    FOR owner IN SELECT id FROM public.projects ORDER BY id LOOP
        FOR start IN
            SELECT said.ref FROM (
                SELECT 'task://' || id AS ref, created_at FROM public.tasks WHERE project_id = owner AND next_id IS NOT NULL
                UNION ALL SELECT prev_id, created_at FROM public.tasks WHERE project_id = owner AND prev_id IS NOT NULL
                UNION ALL SELECT 'step://' || id, created_at FROM public.steps WHERE project_id = owner AND next_id IS NOT NULL
                UNION ALL SELECT prev_id, created_at FROM public.steps WHERE project_id = owner AND prev_id IS NOT NULL
                UNION ALL SELECT from_ref, 'infinity' FROM public.navigation_links WHERE project_id = owner
            ) said GROUP BY said.ref ORDER BY min(said.created_at), said.ref
        LOOP
            SELECT to_ref INTO linked FROM public.navigation_links WHERE from_ref = start;
            SELECT * INTO here FROM public.resolve_reference(start);
            SELECT * INTO there FROM public.resolve_reference(linked);
            CONTINUE WHEN here.id IS NULL OR here.project_id <> owner OR here.next_id = linked AND there.prev_id = start;
            next := start;
            WHILE next IS NOT NULL LOOP
                -- As every writer of references does, and with no snapshot held while waiting.
                WHILE NOT pg_catalog.pg_try_advisory_xact_lock(1296256073, 2) LOOP
                    COMMIT;
                    PERFORM pg_catalog.pg_sleep(0.01);
                END LOOP;
                SELECT * INTO here FROM public.resolve_reference(next);
                froms := '{}';
                tos := '{}';
                LOOP
                    SELECT to_ref INTO linked FROM public.navigation_links
                    WHERE from_ref = lower(here.entity_type::text) || '://' || here.id;
                    start := lower(here.entity_type::text) || '://' || here.id;
                    next := coalesce(here.next_id, linked, (
                        SELECT said.ref FROM (
                            SELECT 'task://' || id AS ref, created_at FROM public.tasks
                            WHERE prev_id = start AND project_id = owner
                            UNION ALL
                            SELECT 'step://' || id, created_at FROM public.steps WHERE prev_id = start AND project_id = owner
                        ) said ORDER BY said.created_at, said.ref LIMIT 1
                    ));
                    SELECT * INTO there FROM public.resolve_reference(next);
                    IF there.id IS NULL OR there.project_id <> owner OR there.prev_id <> start
                        OR (next = linked AND here.next_id = next AND there.prev_id = start)
                        OR (there.prev_id IS NULL AND (next = ANY (tos) OR EXISTS (
                            SELECT FROM public.navigation_links
                            WHERE to_ref = next AND from_ref <> start)))
                    THEN
                        next := NULL;
                        EXIT;
                    END IF;
                    froms := froms || start;
                    tos := tos || next;
                    EXIT WHEN cardinality(froms) = batch OR next = froms[1];
                    here := there;
                END LOOP;
                IF froms <> '{}' THEN
                    PERFORM public.change_links(owner, froms, tos);
                    batches := batches + 1;
                    IF batches IN (1, 10, 100, 1000) THEN
                        ANALYZE public.navigation_links;
                    END IF;
                END IF;
                COMMIT;
            END LOOP;
        END LOOP;
    END LOOP;
    PERFORM pg_catalog.set_config('enable_seqscan', seqscan, false);
    last := '00000000-0000-0000-0000-000000000000';
    LOOP
        ids := ARRAY(SELECT id FROM public.tasks WHERE id > last AND finished IS NULL AND progress >= 1 ORDER BY id LIMIT batch);
        EXIT WHEN ids = '{}';
        UPDATE public.tasks SET finished = true WHERE id = ANY (ids);
        last := ids[cardinality(ids)];
        COMMIT;
    END LOOP;
    last := '00000000-0000-0000-0000-000000000000';
    LOOP
        ids := ARRAY(SELECT id FROM public.steps WHERE id > last AND finished IS NULL AND progress >= 1 ORDER BY id LIMIT batch);
        EXIT WHEN ids = '{}';
        UPDATE public.steps SET finished = true WHERE id = ANY (ids);
        last := ids[cardinality(ids)];
        COMMIT;
    END LOOP;
END
$fill$
"""


def upgrade() -> None:
    # Outside of a transaction, because it commits. Run again, it goes on where it stopped.
    with op.get_context().autocommit_block():
        op.execute(FILL)


def downgrade() -> None:
    # What was filled stays true: the triggers of 018 are still there and keep it.
    op.execute("DO $$ BEGIN END $$")
