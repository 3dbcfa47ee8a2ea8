CREATE OR REPLACE FUNCTION public.complete_agreed_step() RETURNS trigger
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_variable
BEGIN
    NEW.progress := 1;
    RETURN NEW;
END
$function$;

COMMENT ON FUNCTION public.complete_agreed_step() IS
'Trigger: an agreed step is done, whatever progress the statement gives it.';
