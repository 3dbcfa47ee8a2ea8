CREATE OR REPLACE FUNCTION public.check_step_status() RETURNS trigger
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_variable
DECLARE
    allowed text[] := CASE OLD.status
        WHEN 'PENDING' THEN ARRAY['SERVER_DRAFT']
        WHEN 'SERVER_DRAFT' THEN ARRAY['CLIENT_REVIEW', 'DISPUTED']
        WHEN 'CLIENT_REVIEW' THEN ARRAY['AGREED', 'SERVER_DRAFT', 'DISPUTED']
        WHEN 'DISPUTED' THEN ARRAY['USER_RESOLUTION']
        WHEN 'USER_RESOLUTION' THEN ARRAY['AGREED']
        ELSE ARRAY[]::text[]
    END;
BEGIN
    IF NEW.status::text <> ALL (allowed) THEN
        RAISE EXCEPTION USING
            ERRCODE = 'MP001', SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME, COLUMN = 'status',
            MESSAGE = format('step %s cannot move from %s to %s', OLD.id, OLD.status, NEW.status),
            DETAIL = format('Step "%s" of task %s.', OLD.title, OLD.task_id),
            HINT = CASE WHEN allowed = '{}' THEN format('%s is final.', OLD.status)
                        ELSE format('From %s it moves to %s.', OLD.status, array_to_string(allowed, ' or ')) END;
    END IF;
    RETURN NEW;
END
$function$;

COMMENT ON FUNCTION public.check_step_status() IS
'Trigger: refuses a status move that the negotiation does not know, SQLSTATE MP001. AGREED is final.';
