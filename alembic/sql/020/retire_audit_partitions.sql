CREATE OR REPLACE FUNCTION public.retire_audit_partitions(keep interval, drop_rows boolean DEFAULT false)
RETURNS TABLE (partition_name text, action text, row_count bigint)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET timezone = 'UTC'
SET datestyle = 'ISO, YMD'
AS $function$
#variable_conflict use_variable
DECLARE
    old regclass[];
    counts bigint[] := '{}';
    name text;
    n bigint;
BEGIN
    IF keep IS NULL OR keep < interval '1 month' OR drop_rows IS NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'MP008', MESSAGE = format('audit rows are kept one month at least, not %s', coalesce(keep::text, 'NULL')),
            HINT = 'SELECT * FROM retire_audit_partitions(''2 years'');';
    END IF;
    PERFORM public.lock_for_maintenance(ARRAY['public.audit_logs'::regclass], 'SHARE UPDATE EXCLUSIVE', '60s');
    SELECT array_agg(past.partition_name ORDER BY past.starts_at) INTO old
    FROM public.audit_partitions() past WHERE past.ends_at <= now() - keep;
    IF old IS NULL THEN
        RETURN;
    END IF;
    IF NOT drop_rows AND to_regnamespace('migration_retired') IS NULL THEN
        CREATE SCHEMA migration_retired;
    END IF;
    FOR at IN 1..cardinality(old) LOOP
        SELECT relname INTO name FROM pg_class WHERE oid = old[at];
        IF NOT drop_rows AND to_regclass(format('migration_retired.%I', name)) IS NOT NULL THEN
            RAISE EXCEPTION USING
                ERRCODE = 'MP007', SCHEMA = 'migration_retired', TABLE = name,
                MESSAGE = format('migration_retired.%I is there already', name),
                DETAIL = format('%s has later rows of the same month; nothing was changed.', old[at]),
                HINT = 'Save the table that was detached before and drop it, then call it again.';
        END IF;
        EXECUTE format('SELECT count(*) FROM %s', old[at]) INTO n;  -- before others have to wait
        counts := counts || n;
    END LOOP;
    -- What DETACH PARTITION locks; CONCURRENTLY cannot be run in a function.
    PERFORM public.lock_for_maintenance(ARRAY['public.audit_logs', 'public.audit_logs_default']::regclass[] || old, 'ACCESS EXCLUSIVE', '2s');
    FOR at IN 1..cardinality(old) LOOP
        partition_name := (SELECT relname FROM pg_class WHERE oid = old[at]);
        action := CASE WHEN drop_rows THEN 'dropped' ELSE 'detached' END;
        row_count := counts[at];
        EXECUTE format('ALTER TABLE public.audit_logs DETACH PARTITION %s', old[at]);
        EXECUTE format(CASE WHEN drop_rows THEN 'DROP TABLE %s' ELSE 'ALTER TABLE %s SET SCHEMA migration_retired' END, old[at]);
        RETURN NEXT;
    END LOOP;
END
$function$;

COMMENT ON FUNCTION public.retire_audit_partitions(interval, boolean) IS
'Takes the partitions of audit_logs that end before now - keep (one month at least) out of it, whoever made them, never audit_logs_default: into the schema migration_retired, or, with drop_rows, away with their rows. One row for each: partition_name, action (detached or dropped), row_count. Only for the owner of audit_logs, in a transaction of its own; see SQLSTATE MP006 (busy), MP007 (detached before), MP008 (keep too short).';
REVOKE EXECUTE ON FUNCTION public.retire_audit_partitions(interval, boolean) FROM PUBLIC;
