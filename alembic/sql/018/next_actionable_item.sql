CREATE OR REPLACE FUNCTION public.next_actionable_item(project uuid)
RETURNS TABLE (
    entity_type public.entity_type, id uuid, reference text, task_id uuid, title varchar, progress double precision,
    status public.step_status
)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_variable
DECLARE
    last CONSTANT bigint := 9223372036854775807;
    step record;
    task record;
BEGIN
    -- The indexes hold unfinished items only, in this order: one lookup each, however much is done. Rows from before finished
    -- have null there until they are filled, so progress is asked as well.
    SELECT * INTO step FROM public.steps one
    WHERE one.project_id = next_actionable_item.project AND one.finished IS NOT TRUE AND one.progress < 1
    ORDER BY one.chain_position, one.created_at, one.id LIMIT 1;
    SELECT * INTO task FROM public.tasks one
    WHERE one.project_id = next_actionable_item.project AND one.finished IS NOT TRUE AND one.progress < 1
    ORDER BY one.chain_position, one.created_at, one.id LIMIT 1;
    WHILE task.id IS NOT NULL AND (step.id IS NULL OR (coalesce(task.chain_position, last), task.created_at, task.id)
        < (coalesce(step.chain_position, last), step.created_at, step.id))
    LOOP
        -- A task's turn is that of what is unfinished in it, first its own next; a task without anything in it is to be done itself.
        entity_type := 'TASK';
        id := task.id;
        task_id := task.parent_task_id;
        title := task.title;
        progress := task.progress;
        SELECT * INTO step FROM public.steps one
        WHERE one.task_id = next_actionable_item.id AND one.finished IS NOT TRUE AND one.progress < 1
        ORDER BY one.chain_position, one.created_at, one.id LIMIT 1;
        SELECT * INTO task FROM public.tasks one
        WHERE one.parent_task_id = next_actionable_item.id AND one.finished IS NOT TRUE AND one.progress < 1
        ORDER BY one.chain_position, one.created_at, one.id LIMIT 1;
    END LOOP;
    IF step.id IS NOT NULL THEN
        entity_type := 'STEP';
        id := step.id;
        task_id := step.task_id;
        title := step.title;
        progress := step.progress;
        status := step.status;
    END IF;
    IF id IS NOT NULL THEN
        reference := lower(entity_type::text) || '://' || id;
        RETURN NEXT;
    END IF;
END
$function$;

COMMENT ON FUNCTION public.next_actionable_item(uuid) IS
'What is to be done next in a project, one row; none where all is finished or the project is unknown. Unfinished items in chain order, those in no chain last by (created_at, id); in place of a task first what is unfinished in it. Columns: entity_type (TASK or STEP), id, reference, task_id (of a task its parent), title, progress, status (of a step).';
