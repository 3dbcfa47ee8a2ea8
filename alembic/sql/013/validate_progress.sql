CREATE OR REPLACE FUNCTION public.validate_progress(project uuid)
RETURNS TABLE (
    entity_type public.entity_type, id uuid, stored double precision, computed double precision, stored_child_count integer,
    computed_child_count integer, stored_child_progress numeric, computed_child_progress numeric
)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
    WITH tree AS MATERIALIZED (
        SELECT * FROM public.progress_tree(ARRAY(
            SELECT task.id FROM public.tasks task
            WHERE task.project_id = validate_progress.project AND task.parent_task_id IS NULL
        ))
    ), compared AS (
        SELECT 'TASK'::public.entity_type AS kind, task.id, task.progress, tree.progress AS right_progress, task.child_count,
            tree.child_count AS right_count, task.child_progress, tree.child_progress AS right_sum
        FROM public.tasks task LEFT JOIN tree ON tree.task_id = task.id
        WHERE task.project_id = validate_progress.project
        UNION ALL
        SELECT 'PROJECT', owner.id, owner.progress, public.mean_progress(root.n, root.s), owner.child_count, root.n,
            owner.child_progress, root.s
        FROM public.projects owner
        CROSS JOIN (
            SELECT count(*)::integer AS n, coalesce(sum(round(tree.progress::numeric, 15)), 0) AS s FROM tree WHERE height = 1
        ) root
        WHERE owner.id = validate_progress.project
    )
    SELECT * FROM compared
    WHERE (progress, child_count, child_progress) IS DISTINCT FROM (right_progress, right_count, right_sum)
    ORDER BY kind, id
$function$;

COMMENT ON FUNCTION public.validate_progress(uuid) IS
'Rows of a project whose stored progress or counters are not what its steps give, no row where all is right or the project is unknown: entity_type (PROJECT or TASK), id, stored and computed (progress), stored_child_count, computed_child_count, stored_child_progress, computed_child_progress. Computed is null for a task that hangs below no root.';
