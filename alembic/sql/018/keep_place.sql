CREATE OR REPLACE FUNCTION public.keep_place() RETURNS trigger
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_variable
BEGIN
    IF current_setting('planner.linking', true) IS DISTINCT FROM 'on' THEN
        NEW.chain_position := OLD.chain_position;  -- of a new row: none
    END IF;
    RETURN NEW;
END
$function$;

COMMENT ON FUNCTION public.keep_place() IS
'Trigger: chain_position follows from the links, whatever a statement writes there.';
