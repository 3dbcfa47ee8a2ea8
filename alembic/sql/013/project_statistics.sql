CREATE OR REPLACE FUNCTION public.project_statistics(project uuid)
RETURNS TABLE (
    tasks bigint, root_tasks bigint, max_depth integer, steps bigint, pending bigint, server_draft bigint, client_review bigint,
    agreed bigint, disputed bigint, user_resolution bigint, completed_steps bigint, exhausted_steps bigint,
    progress double precision, mean_step_progress double precision, pending_disputes bigint, promoted_steps bigint
)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
    WITH RECURSIVE down AS (
        SELECT root.id, 1 AS depth FROM public.tasks root
        WHERE root.project_id = project_statistics.project AND root.parent_task_id IS NULL
        UNION ALL
        SELECT child.id, down.depth + 1 FROM down
        JOIN public.tasks child ON child.project_id = project_statistics.project AND child.parent_task_id = down.id
    )
    SELECT (SELECT count(*) FROM public.tasks task WHERE task.project_id = owner.id), tree.roots, tree.deepest, step.*,
        owner.progress, mean.step_progress,
        (SELECT count(*) FROM public.disputes dispute WHERE dispute.project_id = owner.id AND dispute.status = 'PENDING'),
        (SELECT count(*) FROM public.step_promotions promotion WHERE promotion.project_id = owner.id)
    FROM public.projects owner
    CROSS JOIN (SELECT count(*) FILTER (WHERE depth = 1) AS roots, coalesce(max(depth), 0) AS deepest FROM down) tree
    CROSS JOIN LATERAL (
        SELECT count(*), count(*) FILTER (WHERE status = 'PENDING'), count(*) FILTER (WHERE status = 'SERVER_DRAFT'),
            count(*) FILTER (WHERE status = 'CLIENT_REVIEW'), count(*) FILTER (WHERE status = 'AGREED'),
            count(*) FILTER (WHERE status = 'DISPUTED'), count(*) FILTER (WHERE status = 'USER_RESOLUTION'),
            count(*) FILTER (WHERE one.progress = 1), count(*) FILTER (WHERE max_iterations_reached)
        FROM public.steps one WHERE one.project_id = owner.id
    ) step
    CROSS JOIN LATERAL (
        SELECT coalesce(round(avg(round(one.progress::numeric, 15)), 20), 0)::double precision AS step_progress
        FROM public.steps one WHERE one.project_id = owner.id
    ) mean
    WHERE owner.id = project_statistics.project
$function$;

COMMENT ON FUNCTION public.project_statistics(uuid) IS
'One row on a project, none for an unknown one: tasks, root_tasks, max_depth (1 for a root task, 0 without tasks), steps; steps by status: pending, server_draft, client_review, agreed, disputed, user_resolution; completed_steps (progress 1), exhausted_steps (max_iterations_reached), progress (the project''s, stored), mean_step_progress (over all steps alike, 0 without any), pending_disputes, promoted_steps. Reads all of the project.';
