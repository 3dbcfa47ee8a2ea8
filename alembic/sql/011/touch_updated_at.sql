CREATE OR REPLACE FUNCTION public.touch_updated_at() RETURNS trigger
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $function$
BEGIN
    NEW.updated_at := now();
    RETURN NEW;
END
$function$;

COMMENT ON FUNCTION public.touch_updated_at() IS
'Trigger: updated_at is the start of the transaction that last changed the row. Whether anything changed is the trigger''s WHEN.';
