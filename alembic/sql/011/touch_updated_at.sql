CREATE OR REPLACE FUNCTION public.touch_updated_at() RETURNS trigger
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_variable
BEGIN
    IF OLD IS DISTINCT FROM NEW THEN
        NEW.updated_at := now();
    END IF;
    RETURN NEW;
END
$function$;

COMMENT ON FUNCTION public.touch_updated_at() IS
'Trigger: updated_at is the start of the transaction that last changed the row. An update that changes nothing leaves it alone.';
