CREATE OR REPLACE FUNCTION public.write_audit_log() RETURNS trigger
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    -- What triggers derive from other rows is no change of this one; a column that a table lacks does no harm here.
    unlogged CONSTANT text[] := '{updated_at,child_count,child_progress}';
    entity CONSTANT text := upper(left(TG_TABLE_NAME, -1));
    project CONSTANT text := CASE TG_TABLE_NAME WHEN 'projects' THEN 'id' ELSE 'project_id' END;
    promoted CONSTANT text := CASE TG_TABLE_NAME
        WHEN 'steps' THEN 'EXISTS (SELECT FROM public.step_promotions promotion '
            'WHERE promotion.project_id = o.project_id AND promotion.step_id = o.id)' ELSE 'false' END;
    target CONSTANT text := 'INSERT INTO public.audit_logs '
        '(entity_type, entity_id, project_id, action, old_values, new_values, metadata, user_id, ai_agent, occurred_at) ';
    actor record;
    compared text[];
    differs text;
    differing text[];
BEGIN
    IF TG_OP = 'UPDATE' THEN
        -- The columns that the statement changed in any row at all: most change one to three of twenty, and only these are
        -- made JSON. EXECUTE: a plan kept from a statement of one row would join ten thousand the wrong way.
        SELECT array_agg(attname ORDER BY attnum),
               string_agg(format('CASE WHEN bool_or(o.%1$I IS DISTINCT FROM n.%1$I) THEN %1$L END', attname), ', ' ORDER BY attnum)
        INTO compared, differs
        FROM pg_attribute
        WHERE attrelid = TG_RELID AND attnum > 0 AND NOT attisdropped AND attname <> ALL (unlogged);
        EXECUTE format('SELECT array_remove(ARRAY[%s]::text[], NULL) FROM before o FULL JOIN changed n ON n.id = o.id', differs)
        INTO differing;
        IF differing = '{}' THEN
            RETURN NULL;
        END IF;
    END IF;
    SELECT * INTO actor FROM public.current_actor();
    CASE TG_OP
        WHEN 'INSERT' THEN
            EXECUTE target || format($query$
                SELECT $1::public.entity_type, n.id, n.%I, $2::public.audit_action, NULL, to_jsonb(n) - $3, $4, $5, $6, clock_timestamp()
                FROM changed n
                $query$, project)
            USING entity, CASE entity WHEN 'DISPUTE' THEN 'DISPUTED' ELSE 'CREATED' END, unlogged,
                  actor.metadata, actor.user_id, actor.agent;
        WHEN 'UPDATE' THEN
            -- An id that changes is one row gone and another come: nothing tells which became which.
            EXECUTE target || (
                SELECT format($query$
                    SELECT $1::public.entity_type, coalesce(n.id, o.id), CASE WHEN n.id IS NULL THEN o.%1$I ELSE n.%1$I END,
                        CASE WHEN n.id IS NULL THEN 'DELETED' WHEN o.id IS NULL THEN 'CREATED' WHEN %2$s ELSE 'UPDATED' END::public.audit_action,
                        CASE WHEN n.id IS NULL THEN to_jsonb(o) - $2 WHEN o.id IS NOT NULL THEN %3$s END,
                        CASE WHEN o.id IS NULL THEN to_jsonb(n) - $2 WHEN n.id IS NOT NULL THEN %4$s END,
                        $3, $4, $5, clock_timestamp()
                    FROM before o FULL JOIN changed n ON n.id = o.id
                    WHERE %5$s
                    $query$, project,
                    CASE TG_TABLE_NAME
                        WHEN 'steps' THEN 'n.status = ''AGREED'' AND o.status <> ''AGREED'' THEN ''COMPLETED'''
                        WHEN 'disputes' THEN 'n.status = ''RESOLVED'' AND o.status <> ''RESOLVED'' THEN ''RESOLVED'''
                        ELSE 'false THEN ''''' END,
                    CASE cardinality(differing) WHEN 1 THEN format('jsonb_build_object(%1$L, o.%1$I)', differing[1])
                        ELSE string_agg(format('CASE WHEN o.%1$I IS DISTINCT FROM n.%1$I THEN jsonb_build_object(%1$L, o.%1$I) ELSE ''{}'' END', name), ' || ') END,
                    CASE cardinality(differing) WHEN 1 THEN format('jsonb_build_object(%1$L, n.%1$I)', differing[1])
                        ELSE string_agg(format('CASE WHEN o.%1$I IS DISTINCT FROM n.%1$I THEN jsonb_build_object(%1$L, n.%1$I) ELSE ''{}'' END', name), ' || ') END,
                    string_agg(format('o.%1$I IS DISTINCT FROM n.%1$I', name), ' OR '))
                FROM unnest(differing) name)
            USING entity, unlogged, actor.metadata, actor.user_id, actor.agent;
        ELSE  -- DELETE, or TRUNCATE: before it, the table itself holds what is about to go
            EXECUTE target || format($query$
                SELECT $1::public.entity_type, o.id, o.%I, CASE WHEN %s THEN 'PROMOTED' ELSE 'DELETED' END::public.audit_action,
                    to_jsonb(o) - $2, NULL, $3, $4, $5, clock_timestamp()
                FROM %s o
                $query$, project, promoted, CASE TG_OP WHEN 'TRUNCATE' THEN TG_RELID::regclass::text ELSE 'before' END)
            USING entity, unlogged, actor.metadata, actor.user_id, actor.agent;
    END CASE;
    RETURN NULL;
END
$function$;

COMMENT ON FUNCTION public.write_audit_log() IS
'Trigger: one row in audit_logs for each row of the statement that changed; of an update only the changed columns. Acts as its owner, so that the application needs no right to write the log. What other triggers derive (updated_at, child_count, child_progress) is no change.';
