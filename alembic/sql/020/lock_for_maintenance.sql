CREATE OR REPLACE FUNCTION public.lock_for_maintenance(relations regclass[], mode text, patience text) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '2s'
AS $function$
#variable_conflict use_variable
DECLARE
    holders text;
BEGIN
    -- Local to this function, which sets lock_timeout itself: the caller's own comes back at its end, after an error too.
    PERFORM set_config('lock_timeout', patience, true);
    EXECUTE format('LOCK TABLE %s IN %s MODE', (
        SELECT string_agg(format('ONLY %s', relation), ', ' ORDER BY place)
        FROM unnest(relations) WITH ORDINALITY AS wanted (relation, place)), mode);
EXCEPTION WHEN lock_not_available THEN
    SELECT string_agg(DISTINCT pid::text, ', ') INTO holders FROM pg_locks
    WHERE locktype = 'relation' AND relation = ANY (relations) AND granted AND pid <> pg_backend_pid()
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database());
    RAISE EXCEPTION USING
        ERRCODE = 'MP006',
        MESSAGE = format('%s could not be locked for maintenance within %s', array_to_string(relations, ', '), patience),
        DETAIL = format('Locks are held by process %s; nothing was changed.', coalesce(holders, '(gone by now)')),
        HINT = 'Call it again when that transaction has ended; pg_stat_activity shows what it does.';
END
$function$;

COMMENT ON FUNCTION public.lock_for_maintenance(regclass[], text, text) IS
'Locks tables in a mode to the end of the transaction, or gives up after a time (as lock_timeout has it) with SQLSTATE MP006, which names who holds them. Writers that come meanwhile wait behind it no longer than that.';
REVOKE EXECUTE ON FUNCTION public.lock_for_maintenance(regclass[], text, text) FROM PUBLIC;
