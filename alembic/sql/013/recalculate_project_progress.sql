CREATE OR REPLACE FUNCTION public.recalculate_project_progress(project uuid) RETURNS integer
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_variable
DECLARE
    tasks uuid[];
    depths integer[];
    level uuid[];
    rows integer;
    changed integer := 0;
BEGIN
    -- First nobody moves tasks, then the tasks are locked as the triggers do it, deepest first, then the project. Whoever
    -- changes a child now waits with adding it up until this transaction ends, and then adds to what is counted here.
    PERFORM pg_advisory_xact_lock(1296256073, 1);  -- see lock_task_tree
    WITH RECURSIVE down AS (
        SELECT id, 1 AS depth FROM public.tasks
        WHERE project_id = recalculate_project_progress.project AND parent_task_id IS NULL
        UNION ALL
        SELECT child.id, down.depth + 1 FROM down
        JOIN public.tasks child ON child.project_id = recalculate_project_progress.project
            AND child.parent_task_id = down.id
    )
    SELECT array_agg(id), array_agg(depth) INTO tasks, depths FROM down;
    PERFORM FROM public.tasks task JOIN unnest(tasks, depths) AS locked (id, depth) ON locked.id = task.id
    ORDER BY locked.depth DESC, task.id FOR NO KEY UPDATE OF task;
    PERFORM FROM public.projects WHERE id = recalculate_project_progress.project FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    -- For derive_progress, and to the end of this call only: an error takes it back with everything else. Not a SET clause of
    -- the function: for a setting that no module knows, only a superuser may write one.
    PERFORM set_config('planner.recalculating', 'on', true);
    -- A task that came after the first look has the triggers' counters, and is not touched: it is not locked.
    FOR at IN REVERSE coalesce((SELECT max(depth) FROM unnest(depths) AS depth), 0)..1 LOOP
        level := ARRAY(SELECT task.id FROM unnest(tasks, depths) AS task (id, depth) WHERE task.depth = at);
        EXECUTE $query$
            UPDATE public.tasks SET child_count = counted.n, child_progress = counted.s,
                progress = public.mean_progress(counted.n, counted.s)
            FROM (
                SELECT task.id, coalesce(sum(child.n), 0)::integer AS n, coalesce(sum(child.s), 0) AS s
                FROM unnest($2) AS task (id) LEFT JOIN (
                    SELECT step.task_id AS parent, count(*) AS n, sum(round(step.progress::numeric, 15)) AS s
                    FROM public.steps step WHERE step.project_id = $1 AND step.task_id = ANY ($2) GROUP BY step.task_id
                    UNION ALL
                    SELECT sub.parent_task_id, count(*), sum(round(sub.progress::numeric, 15))
                    FROM public.tasks sub WHERE sub.project_id = $1 AND sub.parent_task_id = ANY ($2)
                    GROUP BY sub.parent_task_id
                ) child ON child.parent = task.id
                GROUP BY task.id
            ) counted
            WHERE tasks.id = counted.id AND (tasks.child_count, tasks.child_progress, tasks.progress)
                IS DISTINCT FROM (counted.n, counted.s, public.mean_progress(counted.n, counted.s))
        $query$ USING recalculate_project_progress.project, level;
        GET DIAGNOSTICS rows = ROW_COUNT;
        changed := changed + rows;
    END LOOP;
    UPDATE public.projects SET child_count = counted.n, child_progress = counted.s,
        progress = public.mean_progress(counted.n, counted.s)
    FROM (
        SELECT count(*)::integer AS n, coalesce(sum(round(root.progress::numeric, 15)), 0) AS s
        FROM public.tasks root
        WHERE root.project_id = recalculate_project_progress.project AND root.parent_task_id IS NULL
    ) counted
    WHERE projects.id = recalculate_project_progress.project
        AND (projects.child_count, projects.child_progress, projects.progress)
            IS DISTINCT FROM (counted.n, counted.s, public.mean_progress(counted.n, counted.s));
    GET DIAGNOSTICS rows = ROW_COUNT;
    PERFORM set_config('planner.recalculating', '', true);
    RETURN changed + rows;
END
$function$;

COMMENT ON FUNCTION public.recalculate_project_progress(uuid) IS
'Counts progress and counters of a project anew, level by level, and gives the number of tasks that were wrong, plus 1 if the project was; null for an unknown project. Writers of the project wait to the end of the transaction, and so does every move of a task.';
