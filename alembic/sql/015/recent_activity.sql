CREATE OR REPLACE FUNCTION public.recent_activity(project uuid, "limit" integer DEFAULT 50, since timestamptz DEFAULT NULL)
RETURNS TABLE (
    id uuid, occurred_at timestamptz, entity_type public.entity_type, entity_id uuid, action public.audit_action,
    old_values jsonb, new_values jsonb, metadata jsonb, user_id varchar, ai_agent public.ai_agent
)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
    -- Not "since IS NULL OR": a plain comparison leaves out the partitions of older months.
    SELECT log.id, log.occurred_at, log.entity_type, log.entity_id, log.action, log.old_values, log.new_values, log.metadata,
        log.user_id, log.ai_agent
    FROM public.audit_logs log
    WHERE log.project_id = $1 AND log.occurred_at >= coalesce($3, '-infinity')
    ORDER BY log.occurred_at DESC, log.id DESC
    LIMIT $2
$function$;

COMMENT ON FUNCTION public.recent_activity(uuid, integer, timestamptz) IS
'What happened in a project, latest first, at most "limit" rows (NULL: all), from since on where given. Columns: id, occurred_at, entity_type, entity_id, action, old_values, new_values, metadata, user_id, ai_agent.';
