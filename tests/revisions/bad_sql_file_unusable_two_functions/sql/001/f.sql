CREATE OR REPLACE FUNCTION public.f() RETURNS integer LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $function$
    SELECT 1
$function$;

COMMENT ON FUNCTION public.f() IS 'One.';
CREATE OR REPLACE FUNCTION public.g() RETURNS integer LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $function$
    SELECT 1
$function$;

COMMENT ON FUNCTION public.g() IS 'One.';
