CREATE OR REPLACE FUNCTION public.maintain_audit_partitions(months_ahead integer DEFAULT 3)
RETURNS TABLE (partition_name text, action text, row_count bigint)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET timezone = 'UTC'
SET datestyle = 'ISO, YMD'
AS $function$
#variable_conflict use_variable
DECLARE
    log CONSTANT regclass := 'public.audit_logs';
    caught CONSTANT regclass := 'public.audit_logs_default';
    move text;
    month record;
    made regclass[] := '{}';
    starts timestamptz[] := '{}';
    moved bigint[] := '{}';
    late bigint;
BEGIN
    IF months_ahead IS NULL OR months_ahead NOT BETWEEN 0 AND 120 THEN
        RAISE EXCEPTION USING
            ERRCODE = 'MP008', MESSAGE = format('partitions are made 0 to 120 months ahead, not %s', coalesce(months_ahead::text, 'NULL')),
            HINT = 'SELECT * FROM maintain_audit_partitions(3);';
    ELSIF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION USING
            ERRCODE = 'MP008', MESSAGE = format('partitions are not maintained in a %s transaction', current_setting('transaction_isolation')),
            DETAIL = 'It would not see the rows that were written since it began, and could not move them.',
            HINT = 'Call it by itself, or after BEGIN ISOLATION LEVEL READ COMMITTED.';
    END IF;
    -- Lets everybody read and write, and is the queue of those that change the partitions: the other one waits, then finds
    -- nothing to do.
    PERFORM public.lock_for_maintenance(ARRAY[log], 'SHARE UPDATE EXCLUSIVE', '60s');
    SELECT format('WITH gone AS (DELETE FROM %1$s WHERE occurred_at >= $1 AND occurred_at < $1 + interval ''1 month'' RETURNING %2$s) '
        'INSERT INTO %%s (%2$s) SELECT %2$s FROM gone', caught, string_agg(quote_ident(attname), ', ' ORDER BY attnum))
    INTO move
    FROM pg_attribute WHERE attrelid = log AND attnum > 0 AND NOT attisdropped AND attgenerated = '';

    -- First what takes long: the rows go to tables that nobody sees before COMMIT, and writers go on.
    FOR month IN
        SELECT wanted.starts_at, sum(wanted.rows) AS rows, (
            SELECT string_agg(other.partition_name::text, ', ') FROM public.audit_partitions() other
            WHERE other.starts_at < wanted.starts_at + interval '1 month' AND other.ends_at > wanted.starts_at
        ) AS overlapping
        FROM (
            SELECT date_trunc('month', now()) + make_interval(months => n) AS starts_at, 0::bigint AS rows
            FROM generate_series(0, months_ahead) n
            UNION ALL
            SELECT date_trunc('month', occurred_at), count(*) FROM public.audit_logs_default
            WHERE occurred_at >= '0001-01-01' AND occurred_at < '9999-12-01' GROUP BY 1
        ) wanted
        GROUP BY wanted.starts_at
        ORDER BY wanted.starts_at
    LOOP
        IF month.overlapping IS NULL THEN
            made := made || public.create_audit_partition(month.starts_at);
            EXECUTE format(move, made[cardinality(made)]) USING month.starts_at;
            GET DIAGNOSTICS late = ROW_COUNT;
            starts := starts || month.starts_at;
            moved := moved || late;
        ELSIF month.rows > 0 THEN
            partition_name := to_char(month.starts_at, '"audit_logs_"YYYY_MM');
            action := format('skipped, overlaps %s', month.overlapping);
            row_count := month.rows;
            RETURN NEXT;
        END IF;
    END LOOP;
    IF made = '{}' THEN
        RETURN;
    END IF;

    -- From here to COMMIT others wait. Whoever is about to write into a month that gets its partition, or to read one whose rows
    -- move, has to wait for audit_logs itself: having chosen audit_logs_default already, it would fail there, or find no row.
    IF starts[1] < now() + interval '1 day' OR 0 < ANY (moved) THEN
        PERFORM public.lock_for_maintenance(ARRAY[log, caught], 'ACCESS EXCLUSIVE', '2s');
        FOR n IN 1..cardinality(made) LOOP
            EXECUTE format(move, made[n]) USING starts[n];  -- what was written meanwhile
            GET DIAGNOSTICS late = ROW_COUNT;
            moved[n] := moved[n] + late;
        END LOOP;
    ELSE
        PERFORM public.lock_for_maintenance(ARRAY[caught], 'ACCESS EXCLUSIVE', '2s');
    END IF;
    -- Attaching reads audit_logs_default for rows of the month, unless a check says that there are none: one look for all.
    EXECUTE format('ALTER TABLE %s ADD CONSTRAINT maintenance_rest CHECK (%s)', caught, (
        SELECT string_agg(format('(occurred_at < %L OR occurred_at >= %L)', at, at + interval '1 month'), ' AND ')
        FROM unnest(starts) AS at));
    FOR n IN 1..cardinality(made) LOOP
        EXECUTE format('ALTER TABLE %s ATTACH PARTITION %s FOR VALUES FROM (%L) TO (%L)',
            log, made[n], starts[n], starts[n] + interval '1 month');
        EXECUTE format('ALTER TABLE %s DROP CONSTRAINT maintenance_bounds', made[n]);
        partition_name := to_char(starts[n], '"audit_logs_"YYYY_MM');
        action := 'created';
        row_count := moved[n];
        RETURN NEXT;
    END LOOP;
    EXECUTE format('ALTER TABLE %s DROP CONSTRAINT maintenance_rest', caught);
END
$function$;

COMMENT ON FUNCTION public.maintain_audit_partitions(integer) IS
'Makes a partition of audit_logs for this month, for as many months ahead and for every month of which audit_logs_default has rows, and moves these there; months are those of UTC. One row for each thing done, none where all is done: partition_name, action (created; or skipped, with the partition that already has part of the month), row_count (moved, or left in audit_logs_default). Only for the owner of audit_logs, in a transaction of its own; see SQLSTATE MP006 (busy), MP007 (name taken), MP008 (not possible).';
REVOKE EXECUTE ON FUNCTION public.maintain_audit_partitions(integer) FROM PUBLIC;
