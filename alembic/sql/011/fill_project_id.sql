CREATE OR REPLACE FUNCTION public.fill_project_id() RETURNS trigger
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_variable
BEGIN
    -- Only the branch that is taken is resolved, so each may name columns that the other tables lack.
    CASE TG_TABLE_NAME
        WHEN 'tasks' THEN
            SELECT project_id INTO NEW.project_id FROM public.tasks WHERE id = NEW.parent_task_id;
        WHEN 'steps' THEN
            SELECT project_id INTO NEW.project_id FROM public.tasks WHERE id = NEW.task_id;
        WHEN 'step_promotions' THEN
            SELECT project_id INTO NEW.project_id FROM public.tasks WHERE id = NEW.new_task_id;
        WHEN 'navigation_links' THEN
            SELECT project_id INTO NEW.project_id FROM public.tasks WHERE id = NEW.from_task_id;
            IF NOT FOUND THEN
                SELECT project_id INTO NEW.project_id FROM public.steps WHERE id = NEW.from_step_id;
            END IF;
        WHEN 'navigation_cursors' THEN
            SELECT project_id INTO NEW.project_id FROM public.tasks WHERE id = NEW.current_task_id;
            IF NOT FOUND THEN
                SELECT project_id INTO NEW.project_id FROM public.steps WHERE id = NEW.current_step_id;
            END IF;
        ELSE  -- disputes, complexity_assessments, complexity_agreements
            SELECT project_id INTO NEW.project_id FROM public.steps WHERE id = NEW.step_id;
    END CASE;
    IF NEW.project_id IS NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'foreign_key_violation', SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME, COLUMN = 'project_id',
            MESSAGE = format('row %s of %s has no project: none is given, and the item it belongs to does not exist',
                             NEW.id, TG_TABLE_NAME),
            HINT = 'Give project_id, or insert the parent first; it may have been deleted meanwhile.';
    END IF;
    RETURN NEW;
END
$function$;

COMMENT ON FUNCTION public.fill_project_id() IS
'Trigger: takes project_id from the row''s parent where an insert leaves it out. Without a parent: SQLSTATE 23503.';
