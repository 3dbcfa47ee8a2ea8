CREATE OR REPLACE FUNCTION public.audit_statistics(since timestamptz)
RETURNS TABLE (
    entity_type public.entity_type, action public.audit_action, changes bigint, entities bigint, first_at timestamptz, last_at timestamptz
)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
    SELECT log.entity_type, log.action, count(*), count(DISTINCT log.entity_id), min(log.occurred_at), max(log.occurred_at)
    FROM public.audit_logs log
    WHERE log.occurred_at >= coalesce($1, '-infinity')
    GROUP BY log.entity_type, log.action
    ORDER BY log.entity_type, log.action
$function$;

COMMENT ON FUNCTION public.audit_statistics(timestamptz) IS
'Audit rows since a time (NULL: all there are), one row for each kind and action that occurs. Columns: entity_type, action, changes (rows), entities (different items), first_at, last_at. Reads every row since then.';
