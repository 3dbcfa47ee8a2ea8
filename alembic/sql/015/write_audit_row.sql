CREATE OR REPLACE FUNCTION public.write_audit_row() RETURNS trigger
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET extra_float_digits = 1
AS $function$
#variable_conflict use_variable
DECLARE
    -- What triggers derive from other rows is no change of this one; a column that a table lacks does no harm here.
    unlogged CONSTANT text[] := '{updated_at,child_count,child_progress,chain_position,finished}';
    entity CONSTANT public.entity_type := upper(left(TG_TABLE_NAME, -1));
    old_row CONSTANT jsonb := to_jsonb(OLD) - unlogged;
    new_row CONSTANT jsonb := to_jsonb(NEW) - unlogged;
    actor record;
BEGIN
    IF old_row = new_row THEN
        RETURN NULL;
    END IF;
    actor := public.current_actor();
    IF NEW.id = OLD.id THEN
        INSERT INTO public.audit_logs
            (entity_type, entity_id, project_id, action, old_values, new_values, metadata, user_id, ai_agent, occurred_at)
        SELECT entity, NEW.id, coalesce(new_row ->> 'project_id', new_row ->> 'id')::uuid, 'UPDATED',
            jsonb_object_agg(key, old_row -> key), jsonb_object_agg(key, value),
            actor.metadata, actor.user_id, actor.agent, clock_timestamp()
        FROM jsonb_each(new_row) WHERE value <> old_row -> key;
    ELSE
        -- One row gone and another come, as among many, where nothing tells which became which.
        INSERT INTO public.audit_logs
            (entity_type, entity_id, project_id, action, old_values, new_values, metadata, user_id, ai_agent, occurred_at)
        SELECT entity, (held.value ->> 'id')::uuid, coalesce(held.value ->> 'project_id', held.value ->> 'id')::uuid, held.action,
            CASE held.action WHEN 'DELETED' THEN held.value END, CASE held.action WHEN 'CREATED' THEN held.value END,
            actor.metadata, actor.user_id, actor.agent, clock_timestamp()
        FROM (VALUES ('DELETED'::public.audit_action, old_row), ('CREATED', new_row)) AS held (action, value);
    END IF;
    RETURN NULL;
END
$function$;

COMMENT ON FUNCTION public.write_audit_row() IS
'Trigger: logs an update of projects and tasks as write_audit_log does, row by row: there are few of them, and a row alone costs less so. Acts as its owner, too.';
-- Whoever may execute it may make a trigger of it, on a table of their own, and have it do as its owner.
REVOKE EXECUTE ON FUNCTION public.write_audit_row() FROM PUBLIC;
