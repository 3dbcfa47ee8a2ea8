CREATE OR REPLACE FUNCTION public.progress_tree(start uuid[])
RETURNS TABLE (task_id uuid, parent_id uuid, height integer, child_count integer, child_progress numeric, progress double precision)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_variable
DECLARE
    ids uuid[];
    tasks uuid[];
    depths integer[];
    level uuid[];
    below uuid[];  -- parents of the level below, one entry for each of its tasks
    done double precision[];  -- and their progress
    counts integer[];
    sums numeric[];
BEGIN
    -- A circle that is older than the checks must not keep this going for ever.
    WITH RECURSIVE down AS (
        SELECT id, project_id, 1 AS depth FROM public.tasks WHERE id = ANY (progress_tree.start)
        UNION ALL
        SELECT child.id, child.project_id, down.depth + 1 FROM down
        JOIN public.tasks child ON child.project_id = down.project_id AND child.parent_task_id = down.id
        WHERE down.depth < 200
    )
    SELECT array_agg(id), array_agg(depth) INTO tasks, depths FROM down;
    FOR at IN REVERSE coalesce((SELECT max(depth) FROM unnest(depths) AS depth), 0)..1 LOOP
        level := ARRAY(SELECT task.id FROM unnest(tasks, depths) AS task (id, depth) WHERE task.depth = at);
        -- EXECUTE: levels differ in size, and so do the best plans.
        EXECUTE $query$
            SELECT array_agg(task.id), array_agg(task.parent_task_id), array_agg(task.n), array_agg(task.s)
            FROM (
                SELECT task.id, task.parent_task_id, coalesce(sum(child.n), 0)::integer AS n, coalesce(sum(child.s), 0) AS s
                FROM public.tasks task LEFT JOIN (
                    SELECT step.task_id AS parent, count(*) AS n, sum(round(step.progress::numeric, 15)) AS s
                    FROM public.steps step
                    WHERE step.task_id = ANY ($1) AND step.project_id = ANY (ARRAY(
                        SELECT DISTINCT project_id FROM public.tasks WHERE id = ANY ($1)))
                    GROUP BY step.task_id
                    UNION ALL
                    SELECT sub.parent, count(*), sum(round(sub.progress::numeric, 15))
                    FROM unnest($2, $3) AS sub (parent, progress) GROUP BY sub.parent
                ) child ON child.parent = task.id
                WHERE task.id = ANY ($1)
                GROUP BY task.id
            ) task
        $query$ USING level, below, done INTO ids, below, counts, sums;
        done := ARRAY(SELECT public.mean_progress(one.n, one.s)
                      FROM unnest(counts, sums) WITH ORDINALITY AS one (n, s, place) ORDER BY one.place);
        RETURN QUERY SELECT one.id, one.parent, at, one.n, one.s, one.done
            FROM unnest(ids, below, counts, sums, done) AS one (id, parent, n, s, done);
    END LOOP;
END
$function$;

COMMENT ON FUNCTION public.progress_tree(uuid[]) IS
'What the counters of these tasks and all below must be, counted from the steps, level by level; stored counters and task progress are not looked at. One row a task: task_id, parent_id, height (1 for a task it begins with), child_count, child_progress, progress.';
