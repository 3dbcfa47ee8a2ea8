CREATE OR REPLACE FUNCTION public.check_references() RETURNS trigger
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_variable
DECLARE
    reference text;
    target uuid;
BEGIN
    FOREACH reference IN ARRAY array_remove(ARRAY[NEW.prev_id, NEW.next_id], NULL) LOOP
        -- task://<uuid> or step://<uuid>: the check constraints have seen to its form.
        target := substr(reference, 8)::uuid;
        -- KEY SHARE, as a foreign key takes it: the item cannot go before this transaction ends.
        IF reference LIKE 'task://%' THEN
            PERFORM FROM public.tasks WHERE id = target AND project_id = NEW.project_id FOR KEY SHARE;
        ELSE
            PERFORM FROM public.steps WHERE id = target AND project_id = NEW.project_id FOR KEY SHARE;
        END IF;
        IF NOT FOUND THEN
            RAISE EXCEPTION USING
                ERRCODE = 'MP002', SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME,
                COLUMN = CASE reference WHEN NEW.prev_id THEN 'prev_id' ELSE 'next_id' END,
                MESSAGE = format('%s %s refers to %s, which is no item of its project',
                                 rtrim(TG_TABLE_NAME, 's'), NEW.id, reference),
                DETAIL = format('"%s" of project %s.', NEW.title, NEW.project_id),
                HINT = 'Insert the item first, in the same project, and set the reference afterwards or in the same statement.';
        END IF;
    END LOOP;
    RETURN NULL;
END
$function$;

COMMENT ON FUNCTION public.check_references() IS
'Trigger: prev_id and next_id point at existing items of the same project, or SQLSTATE MP002. Runs at the end of the statement.';
