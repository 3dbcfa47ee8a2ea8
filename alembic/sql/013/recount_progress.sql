CREATE OR REPLACE FUNCTION public.recount_progress() RETURNS trigger
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_variable
BEGIN
    PERFORM public.recalculate_project_progress(id) FROM public.projects ORDER BY id;
    RETURN NULL;
END
$function$;

COMMENT ON FUNCTION public.recount_progress() IS
'Trigger: recalculates the progress of every project after a TRUNCATE.';
