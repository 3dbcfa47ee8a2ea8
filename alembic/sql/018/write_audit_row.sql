CREATE OR REPLACE FUNCTION public.write_audit_row() RETURNS trigger
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET extra_float_digits = 1
AS $function$
#variable_conflict use_variable
DECLARE
    was CONSTANT double precision := OLD.progress;
    -- As current_actor, which is asked only where an agent acts: its call costs a row alone as much as all the rest here.
    user_id varchar := coalesce(left(nullif(current_setting('planner.user_id', true), ''), 255), 'system');
    agent public.ai_agent;
    metadata jsonb;
    entity public.entity_type;
    old_row jsonb;
    new_row jsonb;
BEGIN
    IF current_setting('planner.ai_agent', true) <> '' THEN
        SELECT * INTO user_id, agent, metadata FROM public.current_actor();
    END IF;
    -- Progress changes most often, with a step's that of its task and project: it is logged without making JSON of the rows,
    -- which costs more than the write itself, and with few expressions: each is prepared anew in each transaction.
    OLD.progress := NEW.progress;
    OLD.updated_at := NEW.updated_at;
    OLD.child_count := NEW.child_count;
    OLD.child_progress := NEW.child_progress;
    IF OLD IS NOT DISTINCT FROM NEW THEN
        IF was = NEW.progress THEN
            RETURN NULL;
        ELSIF TG_TABLE_NAME = 'tasks' THEN
            INSERT INTO public.audit_logs
                (entity_type, entity_id, project_id, action, old_values, new_values, metadata, user_id, ai_agent, occurred_at)
            VALUES ('TASK', NEW.id, NEW.project_id, 'UPDATED',
                jsonb_build_object('progress', was), jsonb_build_object('progress', NEW.progress),
                metadata, user_id, agent, clock_timestamp());
        ELSE
            INSERT INTO public.audit_logs
                (entity_type, entity_id, project_id, action, old_values, new_values, metadata, user_id, ai_agent, occurred_at)
            VALUES ('PROJECT', NEW.id, NEW.id, 'UPDATED',
                jsonb_build_object('progress', was), jsonb_build_object('progress', NEW.progress),
                metadata, user_id, agent, clock_timestamp());
        END IF;
        RETURN NULL;
    END IF;
    OLD.progress := was;
    -- What triggers derive from other rows is no change of this one; a column that a table lacks does no harm here.
    old_row := to_jsonb(OLD) - '{updated_at,child_count,child_progress,chain_position,finished}'::text[];
    new_row := to_jsonb(NEW) - '{updated_at,child_count,child_progress,chain_position,finished}'::text[];
    IF old_row = new_row THEN
        RETURN NULL;
    END IF;
    entity := upper(left(TG_TABLE_NAME, -1));
    IF NEW.id = OLD.id THEN
        INSERT INTO public.audit_logs
            (entity_type, entity_id, project_id, action, old_values, new_values, metadata, user_id, ai_agent, occurred_at)
        SELECT entity, NEW.id, coalesce(new_row ->> 'project_id', new_row ->> 'id')::uuid, 'UPDATED',
            jsonb_object_agg(key, old_row -> key), jsonb_object_agg(key, value),
            metadata, user_id, agent, clock_timestamp()
        FROM jsonb_each(new_row) WHERE value <> old_row -> key;
    ELSE
        -- One row gone and another come, as among many, where nothing tells which became which.
        INSERT INTO public.audit_logs
            (entity_type, entity_id, project_id, action, old_values, new_values, metadata, user_id, ai_agent, occurred_at)
        SELECT entity, (held.value ->> 'id')::uuid, coalesce(held.value ->> 'project_id', held.value ->> 'id')::uuid, held.action,
            CASE held.action WHEN 'DELETED' THEN held.value END, CASE held.action WHEN 'CREATED' THEN held.value END,
            metadata, user_id, agent, clock_timestamp()
        FROM (VALUES ('DELETED'::public.audit_action, old_row), ('CREATED', new_row)) AS held (action, value);
    END IF;
    RETURN NULL;
END
$function$;

COMMENT ON FUNCTION public.write_audit_row() IS
'Trigger: logs an update of projects and tasks as write_audit_log does, row by row: there are few of them, and a row alone costs less so. Acts as its owner, too.';
-- Whoever may execute it may make a trigger of it, on a table of their own, and have it do as its owner.
REVOKE EXECUTE ON FUNCTION public.write_audit_row() FROM PUBLIC;
