CREATE OR REPLACE FUNCTION public.check_moved_task() RETURNS trigger
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_variable
DECLARE
    at uuid := NEW.parent_task_id;
    depth integer := 1;
    below integer;
BEGIN
    -- Other moves wait for tasks_05_lock_tree, inserts below for this row: nothing above or below changes meanwhile.
    WHILE at IS NOT NULL LOOP
        IF at = NEW.id THEN
            RAISE EXCEPTION USING
                ERRCODE = 'MP003', SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME, COLUMN = 'parent_task_id',
                MESSAGE = format('task %s would be its own ancestor below task %s', NEW.id, NEW.parent_task_id),
                DETAIL = format('"%s" of project %s.', NEW.title, NEW.project_id),
                HINT = 'Move the parent out of this task''s sub-tasks first, or choose another parent.';
        END IF;
        depth := depth + 1;
        EXIT WHEN depth > 100;  -- too deep, or a circle further up, of which another of the moved rows is part
        SELECT parent_task_id INTO at FROM public.tasks WHERE id = at;
    END LOOP;
    WITH RECURSIVE down AS (
        SELECT NEW.id AS at, 0 AS more
        UNION ALL
        SELECT tasks.id, down.more + 1 FROM down JOIN public.tasks ON tasks.parent_task_id = down.at
            AND tasks.project_id = NEW.project_id
        WHERE down.more <= 100 - depth
    )
    SELECT max(more) INTO below FROM down;
    IF depth + below > 100 THEN
        RAISE EXCEPTION USING
            ERRCODE = 'MP004', SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME, COLUMN = 'parent_task_id',
            MESSAGE = format('task %s%s would be more than 100 tasks deep', NEW.id, CASE WHEN below > 0 THEN ' or one below it' END),
            DETAIL = format('"%s" of project %s.', NEW.title, NEW.project_id),
            HINT = 'Choose a parent closer to the root; a root task has depth 1.';
    END IF;
    RETURN NULL;
END
$function$;

COMMENT ON FUNCTION public.check_moved_task() IS
'Trigger: a moved task gets into no circle (SQLSTATE MP003), and neither it nor what is below it is more than 100 deep (MP004).';
