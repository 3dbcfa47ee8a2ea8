CREATE OR REPLACE FUNCTION public.derive_finished() RETURNS trigger
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_variable
BEGIN
    NEW.finished := NEW.progress >= 1;
    RETURN NEW;
END
$function$;

COMMENT ON FUNCTION public.derive_finished() IS
'Trigger: finished says whether progress is 1. A column of its own, because an index on progress would be written at every change of it.';
