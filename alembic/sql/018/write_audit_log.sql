CREATE OR REPLACE FUNCTION public.write_audit_log() RETURNS trigger
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET extra_float_digits = 1
AS $function$
#variable_conflict use_variable
DECLARE
    -- What triggers derive from other rows is no change of this one; a column that a table lacks does no harm here.
    unlogged CONSTANT text[] := ARRAY['updated_at', 'child_count', 'child_progress', 'chain_position', 'finished'];
    -- As current_actor, which is asked only where an agent acts: its call costs a row alone as much as reading it.
    user_id varchar := coalesce(left(nullif(current_setting('planner.user_id', true), ''), 255), 'system');
    agent public.ai_agent;
    metadata jsonb;
    first record;  -- the statement's first row, before and after, and whether there is no second; null for no row
    old_one record;
    new_one record;
    was double precision;  -- its progress before
    entity public.entity_type;
    old_row jsonb;
    new_row jsonb;
    differing text[];
    differs text;
    old_values text;
    new_values text;
BEGIN
    IF current_setting('planner.ai_agent', true) <> '' THEN
        SELECT * INTO user_id, agent, metadata FROM public.current_actor();
    END IF;
    IF TG_OP = 'UPDATE' THEN
        SELECT whole_old_row AS old_one, whole_new_row AS new_one, NOT EXISTS (SELECT FROM changed OFFSET 1) AS alone INTO first
        FROM before whole_old_row, changed whole_new_row LIMIT 1;
        IF first.alone AND TG_TABLE_NAME = 'steps' THEN
            -- Progress changes most often, by statements of one row: it is logged without making JSON of the rows, which costs
            -- more than the write itself, and with few expressions: each is prepared anew in each transaction.
            old_one := first.old_one;
            new_one := first.new_one;
            was := old_one.progress;
            old_one.progress := new_one.progress;
            old_one.updated_at := new_one.updated_at;
            old_one.finished := new_one.finished;
            IF old_one IS NOT DISTINCT FROM new_one THEN
                IF was <> new_one.progress THEN
                    INSERT INTO public.audit_logs
                        (entity_type, entity_id, project_id, action, old_values, new_values, metadata, user_id, ai_agent,
                         occurred_at)
                    VALUES ('STEP', new_one.id, new_one.project_id, 'UPDATED',
                        jsonb_build_object('progress', was), jsonb_build_object('progress', new_one.progress),
                        metadata, user_id, agent, clock_timestamp());
                END IF;
                RETURN NULL;
            END IF;
        END IF;
        IF first.alone THEN
            old_row := to_jsonb(first.old_one) - unlogged;
            new_row := to_jsonb(first.new_one) - unlogged;
        END IF;
        IF first.alone IS NULL OR old_row = new_row THEN
            RETURN NULL;
        END IF;
    END IF;
    entity := upper(left(TG_TABLE_NAME, -1));
    -- Static where no transition tables are joined: the plan is kept, and fits any number of rows. Columns that only some
    -- of the tables have are read from the row as JSON, which OFFSET 0 has made once; with it EXISTS looks up each row, and
    -- no plan that is kept reads all promotions for one.
    IF TG_OP = 'INSERT' THEN
        INSERT INTO public.audit_logs
            (entity_type, entity_id, project_id, action, new_values, metadata, user_id, ai_agent, occurred_at)
        SELECT entity, n.id, coalesce(n.held ->> 'project_id', n.held ->> 'id')::uuid,
            CASE entity WHEN 'DISPUTE' THEN 'DISPUTED' ELSE 'CREATED' END::public.audit_action,
            n.held, metadata, user_id, agent, clock_timestamp()
        FROM (SELECT id, to_jsonb(changed.*) - unlogged AS held FROM changed OFFSET 0) n;
    ELSIF TG_OP = 'DELETE' THEN
        INSERT INTO public.audit_logs
            (entity_type, entity_id, project_id, action, old_values, metadata, user_id, ai_agent, occurred_at)
        SELECT entity, o.id, coalesce(o.held ->> 'project_id', o.held ->> 'id')::uuid,
            CASE WHEN entity = 'STEP' AND EXISTS (
                SELECT FROM public.step_promotions promotion
                WHERE promotion.project_id = (o.held ->> 'project_id')::uuid AND promotion.step_id = o.id OFFSET 0
            ) THEN 'PROMOTED' ELSE 'DELETED' END::public.audit_action,
            o.held, metadata, user_id, agent, clock_timestamp()
        FROM (SELECT id, to_jsonb(before.*) - unlogged AS held FROM before OFFSET 0) o;
    ELSIF TG_OP = 'TRUNCATE' THEN
        -- Before it, the table itself holds what is about to go.
        EXECUTE format($query$
            INSERT INTO public.audit_logs
                (entity_type, entity_id, project_id, action, old_values, metadata, user_id, ai_agent, occurred_at)
            SELECT $1, o.id, coalesce(o.held ->> 'project_id', o.held ->> 'id')::uuid,
                CASE WHEN $1 = 'STEP' AND EXISTS (
                    SELECT FROM public.step_promotions promotion
                    WHERE promotion.project_id = (o.held ->> 'project_id')::uuid AND promotion.step_id = o.id OFFSET 0
                ) THEN 'PROMOTED' ELSE 'DELETED' END::public.audit_action,
                o.held, $3, $4, $5, clock_timestamp()
            FROM (SELECT id, to_jsonb(gone.*) - $2 AS held FROM %s gone OFFSET 0) o
            $query$, TG_RELID::regclass)
        USING entity, unlogged, metadata, user_id, agent;
    ELSIF first.alone AND new_row -> 'id' = old_row -> 'id' THEN
        INSERT INTO public.audit_logs
            (entity_type, entity_id, project_id, action, old_values, new_values, metadata, user_id, ai_agent, occurred_at)
        SELECT entity, (new_row ->> 'id')::uuid, coalesce(new_row ->> 'project_id', new_row ->> 'id')::uuid,
            CASE
                WHEN entity = 'STEP' AND new_row ->> 'status' = 'AGREED' AND old_row ->> 'status' <> 'AGREED' THEN 'COMPLETED'
                WHEN entity = 'DISPUTE' AND new_row ->> 'status' = 'RESOLVED' AND old_row ->> 'status' <> 'RESOLVED'
                    THEN 'RESOLVED'
                ELSE 'UPDATED' END::public.audit_action,
            jsonb_object_agg(key, old_row -> key), jsonb_object_agg(key, value),
            metadata, user_id, agent, clock_timestamp()
        FROM jsonb_each(new_row) WHERE value <> old_row -> key;
    ELSE
        -- The columns that the statement changed in any row at all: most change one to three of twenty, and only these are
        -- made JSON. EXECUTE: a plan kept from a statement of two rows would join ten thousand the wrong way.
        SELECT string_agg(format('CASE WHEN bool_or(o.%1$I IS DISTINCT FROM n.%1$I) THEN %1$L END', attname), ', ')
        INTO differs
        FROM pg_attribute
        WHERE attrelid = TG_RELID AND attnum > 0 AND NOT attisdropped AND attname <> ALL (unlogged);
        EXECUTE format('SELECT array_remove(ARRAY[%s]::text[], NULL) FROM before o FULL JOIN changed n ON n.id = o.id', differs)
        INTO differing;
        SELECT string_agg(differ, ' OR '),
            string_agg(format('CASE WHEN %s THEN jsonb_build_object(%L, o.%I) ELSE ''{}'' END', differ, name, name), ' || '),
            string_agg(format('CASE WHEN %s THEN jsonb_build_object(%L, n.%I) ELSE ''{}'' END', differ, name, name), ' || ')
        INTO differs, old_values, new_values
        FROM unnest(differing) name, format('o.%1$I IS DISTINCT FROM n.%1$I', name) differ;
        IF differs IS NULL THEN
            RETURN NULL;
        END IF;
        -- An id that changes is one row gone and another come: nothing tells which became which.
        EXECUTE format($query$
            INSERT INTO public.audit_logs
                (entity_type, entity_id, project_id, action, old_values, new_values, metadata, user_id, ai_agent, occurred_at)
            SELECT $1, coalesce(n.id, o.id), CASE WHEN n.id IS NULL THEN o.%1$I ELSE n.%1$I END,
                CASE WHEN n.id IS NULL THEN 'DELETED' WHEN o.id IS NULL THEN 'CREATED' WHEN %2$s
                    ELSE 'UPDATED' END::public.audit_action,
                CASE WHEN n.id IS NULL THEN to_jsonb(o.*) - $2 WHEN o.id IS NOT NULL THEN %3$s END,
                CASE WHEN o.id IS NULL THEN to_jsonb(n.*) - $2 WHEN n.id IS NOT NULL THEN %4$s END,
                $3, $4, $5, clock_timestamp()
            FROM before o FULL JOIN changed n ON n.id = o.id
            WHERE %5$s
            $query$,
            CASE entity WHEN 'PROJECT' THEN 'id' ELSE 'project_id' END,
            CASE entity
                WHEN 'STEP' THEN $when$n.status = 'AGREED' AND o.status <> 'AGREED' THEN 'COMPLETED'$when$
                WHEN 'DISPUTE' THEN $when$n.status = 'RESOLVED' AND o.status <> 'RESOLVED' THEN 'RESOLVED'$when$
                ELSE $when$false THEN ''$when$ END,
            old_values, new_values, differs)
        USING entity, unlogged, metadata, user_id, agent;
    END IF;
    RETURN NULL;
END
$function$;

COMMENT ON FUNCTION public.write_audit_log() IS
'Trigger: one row in audit_logs for each row of the statement that changed; of an update only the changed columns. Acts as its owner, so that the application needs no right to write the log. What other triggers derive (updated_at, child_count, child_progress, chain_position, finished) is no change.';
-- Whoever may execute it may make a trigger of it, on a table of their own, and have it do as its owner.
REVOKE EXECUTE ON FUNCTION public.write_audit_log() FROM PUBLIC;
