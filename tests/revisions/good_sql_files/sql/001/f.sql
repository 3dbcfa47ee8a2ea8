-- COMMIT; begins nothing here /*
CREATE OR REPLACE FUNCTION public.f() RETURNS integer LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $function$
    SELECT 1; COMMIT; CREATE TABLE x ()
$function$;

COMMENT ON FUNCTION public.f() IS 'One.';
GRANT EXECUTE ON FUNCTION public.f() TO PUBLIC;
