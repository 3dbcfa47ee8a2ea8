CREATE OR REPLACE FUNCTION public.calculate_project_progress(project uuid) RETURNS double precision
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
    SELECT public.mean_progress(count(root.progress)::integer, sum(round(root.progress::numeric, 15)))
    FROM public.projects
    LEFT JOIN public.progress_tree(ARRAY(
        SELECT id FROM public.tasks
        WHERE project_id = calculate_project_progress.project AND parent_task_id IS NULL
    )) root ON root.height = 1
    WHERE projects.id = calculate_project_progress.project
    GROUP BY projects.id
$function$;

COMMENT ON FUNCTION public.calculate_project_progress(uuid) IS
'Progress of a project as it must be, counted from its steps; null for an unknown project. Reads all of the project.';
