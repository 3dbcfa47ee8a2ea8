CREATE OR REPLACE FUNCTION public.audit_partitions()
RETURNS TABLE (partition_name regclass, starts_at timestamptz, ends_at timestamptz)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
SET timezone = 'UTC'
SET datestyle = 'ISO, YMD'
AS $function$
    -- The catalog shows bounds only as text, and MINVALUE and MAXVALUE without quotes.
    SELECT oid::regclass, coalesce(substring(bounds FROM 'FROM \(''([^'']+)''\)')::timestamptz, '-infinity'),
        coalesce(substring(bounds FROM 'TO \(''([^'']+)''\)')::timestamptz, 'infinity')
    FROM (
        SELECT partition.oid, pg_get_expr(partition.relpartbound, partition.oid) AS bounds
        FROM pg_inherits JOIN pg_class partition ON partition.oid = pg_inherits.inhrelid
        WHERE pg_inherits.inhparent = 'public.audit_logs'::regclass
    ) partitions
    WHERE bounds <> 'DEFAULT'
    ORDER BY 2
$function$;

COMMENT ON FUNCTION public.audit_partitions() IS
'Partitions of audit_logs in order of time, whoever made them, without audit_logs_default. Columns: partition_name, starts_at (inclusive), ends_at (exclusive); -infinity and infinity where there is no bound.';
