CREATE OR REPLACE FUNCTION public.lock_task_tree() RETURNS trigger
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_variable
BEGIN
    -- Before the first row is locked, and so before the project is known: two sessions that re-parent each hold a task
    -- which the other's change of progress needs, and would deadlock under any lock taken later.
    PERFORM pg_advisory_xact_lock(1296256073, 1);  -- 'MCPI', task tree
    RETURN NULL;
END
$function$;

COMMENT ON FUNCTION public.lock_task_tree() IS
'Trigger: one transaction at a time moves tasks below other tasks; the advisory lock (1296256073, 1) is held to its end.';
