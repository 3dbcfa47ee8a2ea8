CREATE OR REPLACE FUNCTION public.roll_up_steps() RETURNS trigger
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_variable
DECLARE
    single boolean;  -- null for no row
    parent uuid;  -- one parent and its change, then those of several
    more integer;
    gain numeric;
    parents uuid[];
    owners uuid[];
    counts integer[];
    sums numeric[];
BEGIN
    -- Only the branch that is taken is planned: each operation has its own transition tables. No join on a column, so the kept
    -- plan fits any number of rows. One row alone needs no sums, whose plans cost more to start than all the rest.
    IF TG_OP = 'UPDATE' THEN
        SELECT n.task_id = o.task_id AND NOT EXISTS (SELECT FROM added OFFSET 1),
            n.task_id, 0, round(n.progress::numeric, 15) - round(o.progress::numeric, 15)
        INTO single, parent, more, gain FROM added n, removed o LIMIT 1;
    ELSIF TG_OP = 'INSERT' THEN
        SELECT NOT EXISTS (SELECT FROM added OFFSET 1), task_id, 1, round(progress::numeric, 15)
        INTO single, parent, more, gain FROM added LIMIT 1;
    ELSE
        SELECT NOT EXISTS (SELECT FROM removed OFFSET 1), task_id, -1, -round(progress::numeric, 15)
        INTO single, parent, more, gain FROM removed LIMIT 1;
    END IF;
    IF NOT single THEN
        CASE TG_OP
            WHEN 'INSERT' THEN
                SELECT array_agg(change.task_id), array_agg(change.project_id), array_agg(change.n), array_agg(change.s)
                INTO parents, owners, counts, sums
                FROM (
                    SELECT project_id, task_id, count(*) AS n, sum(round(progress::numeric, 15)) AS s
                    FROM added GROUP BY project_id, task_id
                ) change;
            WHEN 'DELETE' THEN
                SELECT array_agg(change.task_id), array_agg(change.project_id), array_agg(change.n), array_agg(change.s)
                INTO parents, owners, counts, sums
                FROM (
                    SELECT project_id, task_id, -count(*) AS n, -sum(round(progress::numeric, 15)) AS s
                    FROM removed GROUP BY project_id, task_id
                ) change;
            ELSE
                SELECT array_agg(change.task_id), array_agg(change.project_id), array_agg(change.n), array_agg(change.s)
                INTO parents, owners, counts, sums
                FROM (
                    SELECT project_id, task_id, sum(each.n) AS n, sum(each.s) AS s
                    FROM (
                        SELECT project_id, task_id, 1 AS n, round(progress::numeric, 15) AS s FROM added
                        UNION ALL
                        SELECT project_id, task_id, -1, -round(progress::numeric, 15) FROM removed
                    ) each
                    GROUP BY project_id, task_id HAVING sum(each.n) <> 0 OR sum(each.s) <> 0
                ) change;
        END CASE;
        IF cardinality(parents) > 1 THEN
            PERFORM public.lock_ancestors(parents);
            IF owners[1] <> ANY (owners) THEN  -- several projects
                PERFORM FROM public.projects WHERE id = ANY (owners) ORDER BY id FOR NO KEY UPDATE;
            END IF;
            EXECUTE $query$
                UPDATE public.tasks SET child_count = tasks.child_count + change.n,
                    child_progress = tasks.child_progress + change.s
                FROM unnest($1, $2, $3) AS change (id, n, s) WHERE tasks.id = change.id
            $query$ USING parents, counts, sums;
            RETURN NULL;
        END IF;
        parent := parents[1];
        more := counts[1];
        gain := sums[1];
    END IF;
    IF more <> 0 OR gain <> 0 THEN
        -- One task and what is above it are changed, and so locked, in the order of lock_ancestors anyway.
        UPDATE public.tasks SET child_count = child_count + more, child_progress = child_progress + gain WHERE id = parent;
    END IF;
    RETURN NULL;
END
$function$;

COMMENT ON FUNCTION public.roll_up_steps() IS
'Trigger: adds what a statement changed of steps to the counters of their tasks, once a task. Locks the tasks above, deepest first, then, where they are of several projects, those by id.';
