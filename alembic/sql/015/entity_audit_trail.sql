CREATE OR REPLACE FUNCTION public.entity_audit_trail(entity public.entity_type, entity_id uuid, "limit" integer DEFAULT 100)
RETURNS TABLE (
    id uuid, occurred_at timestamptz, action public.audit_action, old_values jsonb, new_values jsonb, metadata jsonb,
    user_id varchar, ai_agent public.ai_agent, project_id uuid
)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
    SELECT log.id, log.occurred_at, log.action, log.old_values, log.new_values, log.metadata, log.user_id, log.ai_agent, log.project_id
    FROM public.audit_logs log
    WHERE log.entity_type = $1 AND log.entity_id = $2
    ORDER BY log.occurred_at DESC, log.id DESC
    LIMIT $3
$function$;

COMMENT ON FUNCTION public.entity_audit_trail(public.entity_type, uuid, integer) IS
'What happened to one item, latest first, at most "limit" rows (NULL: all). Columns: id, occurred_at, action, old_values, new_values, metadata, user_id, ai_agent, project_id (null in rows from before it was logged).';
