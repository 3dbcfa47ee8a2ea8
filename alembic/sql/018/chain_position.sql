CREATE OR REPLACE FUNCTION public.chain_position(reference text) RETURNS bigint
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
AS $function$
#variable_conflict use_variable
BEGIN
    IF reference LIKE 'task://%' THEN
        RETURN (SELECT chain_position FROM public.tasks WHERE id = substr(reference, 8)::uuid);
    END IF;
    RETURN (SELECT chain_position FROM public.steps WHERE id = substr(reference, 8)::uuid);
END
$function$;

COMMENT ON FUNCTION public.chain_position(text) IS
'Place of an item in its chain; null for one that is in none, or does not exist.';
