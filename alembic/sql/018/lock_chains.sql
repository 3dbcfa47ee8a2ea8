CREATE OR REPLACE FUNCTION public.lock_chains() RETURNS trigger
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_variable
BEGIN
    -- Before the first row is locked, and so before the project is known: whoever changes a chain holds the item it was told to
    -- change and needs the neighbours; two of them side by side would deadlock under any lock taken later.
    PERFORM pg_advisory_xact_lock(1296256073, 2);  -- 'MCPI', chains
    RETURN NULL;
END
$function$;

COMMENT ON FUNCTION public.lock_chains() IS
'Trigger: one transaction at a time changes chains; the advisory lock (1296256073, 2) is held to its end.';
