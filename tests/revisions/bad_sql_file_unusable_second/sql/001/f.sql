CREATE OR REPLACE FUNCTION public.f() RETURNS integer LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $function$
    SELECT 1
$function$;

COMMENT ON FUNCTION public.f() IS 'One.';
CREATE TABLE other ();
