CREATE OR REPLACE FUNCTION public.sync_iterations_allowed() RETURNS trigger
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_variable
BEGIN
    -- On INSERT OLD is null, so a column that is left out counts as one that has not changed.
    IF NEW.iterations_allowed IS NOT DISTINCT FROM OLD.iterations_allowed THEN
        NEW.iterations_allowed := NEW.max_iterations;
    ELSIF NEW.max_iterations IS NOT DISTINCT FROM OLD.max_iterations THEN
        NEW.max_iterations := NEW.iterations_allowed;
    ELSIF NEW.max_iterations IS DISTINCT FROM NEW.iterations_allowed THEN
        RAISE EXCEPTION USING
            ERRCODE = 'MP009', SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME, COLUMN = 'iterations_allowed',
            MESSAGE = format('run %s has max_iterations %s and iterations_allowed %s', NEW.id,
                             coalesce(NEW.max_iterations::text, 'NULL'), coalesce(NEW.iterations_allowed::text, 'NULL')),
            DETAIL = format('Run of project %s. The two columns are one value under an old and a new name.', NEW.project_id),
            HINT = 'Give one of them, or both the same value.';
    END IF;
    RETURN NEW;
END
$function$;

COMMENT ON FUNCTION public.sync_iterations_allowed() IS
'Trigger: max_iterations and iterations_allowed stay equal, whichever is written. Two different values: SQLSTATE MP009.';
