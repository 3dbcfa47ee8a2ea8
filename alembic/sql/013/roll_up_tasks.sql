CREATE OR REPLACE FUNCTION public.roll_up_tasks() RETURNS trigger
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_variable
DECLARE
    single boolean;  -- null for no row
    parent uuid;  -- null for the project itself
    owner uuid;
    more integer;
    gain numeric;
    parents uuid[];
    owners uuid[];
    counts integer[];
    sums numeric[];
BEGIN
    -- As in roll_up_steps.
    IF TG_OP = 'UPDATE' THEN
        SELECT (n.project_id, n.parent_task_id) IS NOT DISTINCT FROM (o.project_id, o.parent_task_id)
                AND NOT EXISTS (SELECT FROM added OFFSET 1),
            n.parent_task_id, n.project_id, 0, round(n.progress::numeric, 15) - round(o.progress::numeric, 15)
        INTO single, parent, owner, more, gain FROM added n, removed o LIMIT 1;
    ELSIF TG_OP = 'INSERT' THEN
        SELECT NOT EXISTS (SELECT FROM added OFFSET 1), parent_task_id, project_id, 1, round(progress::numeric, 15)
        INTO single, parent, owner, more, gain FROM added LIMIT 1;
    ELSE
        SELECT NOT EXISTS (SELECT FROM removed OFFSET 1), parent_task_id, project_id, -1, -round(progress::numeric, 15)
        INTO single, parent, owner, more, gain FROM removed LIMIT 1;
    END IF;
    IF NOT single THEN
        CASE TG_OP
            WHEN 'INSERT' THEN
                SELECT array_agg(change.parent_task_id), array_agg(change.project_id), array_agg(change.n), array_agg(change.s)
                INTO parents, owners, counts, sums
                FROM (
                    SELECT project_id, parent_task_id, count(*) AS n, sum(round(progress::numeric, 15)) AS s
                    FROM added GROUP BY project_id, parent_task_id
                ) change;
            WHEN 'DELETE' THEN
                SELECT array_agg(change.parent_task_id), array_agg(change.project_id), array_agg(change.n), array_agg(change.s)
                INTO parents, owners, counts, sums
                FROM (
                    SELECT project_id, parent_task_id, -count(*) AS n, -sum(round(progress::numeric, 15)) AS s
                    FROM removed GROUP BY project_id, parent_task_id
                ) change;
            ELSE
                SELECT array_agg(change.parent_task_id), array_agg(change.project_id), array_agg(change.n), array_agg(change.s)
                INTO parents, owners, counts, sums
                FROM (
                    SELECT project_id, parent_task_id, sum(each.n) AS n, sum(each.s) AS s
                    FROM (
                        SELECT project_id, parent_task_id, 1 AS n, round(progress::numeric, 15) AS s FROM added
                        UNION ALL
                        SELECT project_id, parent_task_id, -1, -round(progress::numeric, 15) FROM removed
                    ) each
                    GROUP BY project_id, parent_task_id HAVING sum(each.n) <> 0 OR sum(each.s) <> 0
                ) change;
        END CASE;
        IF cardinality(parents) > 1 THEN
            -- An update from within a trigger is this roll-up one level further down, which has locked all it will need.
            IF TG_OP <> 'UPDATE' OR pg_trigger_depth() = 1 THEN
                PERFORM public.lock_ancestors(array_remove(parents, NULL));
                PERFORM FROM public.projects WHERE id = ANY (owners) ORDER BY id FOR NO KEY UPDATE;
            END IF;
            EXECUTE $query$
                UPDATE public.tasks SET child_count = tasks.child_count + change.n,
                    child_progress = tasks.child_progress + change.s
                FROM unnest($1, $2, $3) AS change (id, n, s) WHERE tasks.id = change.id
            $query$ USING parents, counts, sums;
            EXECUTE $query$
                UPDATE public.projects SET child_count = projects.child_count + change.n,
                    child_progress = projects.child_progress + change.s
                FROM unnest($1, $2, $3, $4) AS change (parent, id, n, s) WHERE change.parent IS NULL AND projects.id = change.id
            $query$ USING parents, owners, counts, sums;
            RETURN NULL;
        END IF;
        parent := parents[1];
        owner := owners[1];
        more := counts[1];
        gain := sums[1];
    END IF;
    IF more <> 0 OR gain <> 0 THEN
        IF parent IS NULL THEN
            UPDATE public.projects SET child_count = child_count + more, child_progress = child_progress + gain
            WHERE id = owner;
        ELSE
            UPDATE public.tasks SET child_count = child_count + more, child_progress = child_progress + gain WHERE id = parent;
        END IF;
    END IF;
    RETURN NULL;
END
$function$;

COMMENT ON FUNCTION public.roll_up_tasks() IS
'Trigger: adds what a statement changed of tasks to the counters of the tasks above, and of the project for root tasks; its own update goes on upwards, and ends where no progress changes. Locks tasks deepest first, then projects by id.';
