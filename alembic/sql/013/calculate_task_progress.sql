CREATE OR REPLACE FUNCTION public.calculate_task_progress(task uuid) RETURNS double precision
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
    SELECT progress FROM public.progress_tree(ARRAY[calculate_task_progress.task]) WHERE task_id = calculate_task_progress.task
    LIMIT 1
$function$;

COMMENT ON FUNCTION public.calculate_task_progress(uuid) IS
'Progress of a task as it must be, counted from the steps below it; null for an unknown task. Reads all below.';
