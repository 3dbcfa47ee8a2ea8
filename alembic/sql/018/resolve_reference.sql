CREATE OR REPLACE FUNCTION public.resolve_reference(reference text)
RETURNS TABLE (
    entity_type public.entity_type, id uuid, project_id uuid, parent_task_id uuid, title varchar, progress double precision,
    prev_id varchar, next_id varchar
)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_variable
DECLARE
    item uuid;
BEGIN
    IF reference !~ '^(task|step)://[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' THEN
        RETURN;
    END IF;
    item := substr(reference, 8)::uuid;
    IF reference LIKE 'task://%' THEN
        RETURN QUERY SELECT 'TASK'::public.entity_type, task.id, task.project_id, task.parent_task_id, task.title, task.progress,
            task.prev_id, task.next_id
        FROM public.tasks task WHERE task.id = item;
    ELSE
        RETURN QUERY SELECT 'STEP'::public.entity_type, step.id, step.project_id, step.task_id, step.title, step.progress,
            step.prev_id, step.next_id
        FROM public.steps step WHERE step.id = item;
    END IF;
END
$function$;

COMMENT ON FUNCTION public.resolve_reference(text) IS
'The item that task://<uuid> or step://<uuid> names, one row; none where the text is no reference or the item does not exist. Columns: entity_type (TASK or STEP), id, project_id, parent_task_id (of a step the task it belongs to), title, progress, prev_id, next_id.';
