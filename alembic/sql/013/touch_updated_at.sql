CREATE OR REPLACE FUNCTION public.touch_updated_at() RETURNS trigger
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_variable
BEGIN
    -- Here and not in the triggers' WHEN: columns that a WHEN lists could no longer change their type.
    IF TG_TABLE_NAME IN ('projects', 'tasks') THEN
        OLD.child_count := NEW.child_count;
        OLD.child_progress := NEW.child_progress;
    END IF;
    IF OLD IS DISTINCT FROM NEW THEN
        NEW.updated_at := now();
    END IF;
    RETURN NEW;
END
$function$;

COMMENT ON FUNCTION public.touch_updated_at() IS
'Trigger: updated_at is the start of the transaction that last changed the row. An update that changes nothing leaves it alone; progress counters alone do not count.';
