CREATE OR REPLACE FUNCTION public.link_items() RETURNS trigger
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
AS $function$
#variable_conflict use_variable
DECLARE
    kind CONSTANT text := CASE TG_TABLE_NAME WHEN 'tasks' THEN 'task://' ELSE 'step://' END;
    here CONSTANT text := kind || NEW.id;
    owners uuid[];
    froms text[];  -- one entry for each end that the statement has changed; a null in tos: this one has no successor
    tos text[];
    owner uuid;
    broken record;
BEGIN
    IF current_setting('planner.linking', true) = 'on' THEN
        RETURN NULL;  -- a reference that follows a link
    END IF;
    -- The first row of a statement sees to all its rows; the others find their links as they want them.
    IF (NEW.next_id IS NOT DISTINCT FROM OLD.next_id OR NEW.next_id IS NOT DISTINCT FROM (
            SELECT to_ref FROM public.navigation_links WHERE from_ref = here))
        AND (NEW.prev_id IS NOT DISTINCT FROM OLD.prev_id OR NEW.prev_id IS NOT DISTINCT FROM (
            SELECT from_ref FROM public.navigation_links WHERE to_ref = here))
    THEN
        RETURN NULL;
    END IF;
    -- UNION: both ends of one link may say the same. No join of the two tables, so the kept plan fits any number of rows.
    IF TG_OP = 'INSERT' THEN
        SELECT array_agg(asked.project_id), array_agg(asked.from_ref), array_agg(asked.to_ref) INTO owners, froms, tos
        FROM (
            SELECT project_id, kind || id AS from_ref, next_id::text AS to_ref FROM changed WHERE next_id IS NOT NULL
            UNION
            SELECT project_id, prev_id, kind || id FROM changed WHERE prev_id IS NOT NULL
        ) asked;
    ELSE
        SELECT array_agg(asked.project_id), array_agg(asked.from_ref), array_agg(asked.to_ref) INTO owners, froms, tos
        FROM (
            SELECT project_id, kind || id AS from_ref, next_id::text AS to_ref FROM (
                SELECT project_id, id, next_id FROM changed EXCEPT SELECT project_id, id, next_id FROM before
            ) next
            UNION
            SELECT project_id, prev_id, kind || id FROM (
                SELECT project_id, id, prev_id FROM changed EXCEPT SELECT project_id, id, prev_id FROM before
            ) prev
        ) asked;
    END IF;
    SELECT asked.project_id, asked.to_exists,
        CASE WHEN asked.to_exists THEN asked.to_ref ELSE asked.from_ref END AS item,
        CASE WHEN asked.to_exists THEN asked.from_ref ELSE asked.to_ref END AS reference
    INTO broken
    FROM (
        SELECT ends.*, public.item_exists(ends.project_id, ends.from_ref) AS from_exists,
            public.item_exists(ends.project_id, ends.to_ref) AS to_exists
        FROM unnest(owners, froms, tos) AS ends (project_id, from_ref, to_ref)
        WHERE ends.from_ref IS NOT NULL AND ends.to_ref IS NOT NULL
    ) asked
    WHERE NOT (asked.from_exists AND asked.to_exists) LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION USING
            ERRCODE = 'MP002', SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME,
            COLUMN = CASE WHEN broken.to_exists THEN 'prev_id' ELSE 'next_id' END,
            MESSAGE = format('%s %s refers to %s, which is no item of its project',
                             rtrim(TG_TABLE_NAME, 's'), substr(broken.item, 8), broken.reference),
            DETAIL = format('%s of project %s.', coalesce((SELECT format('"%s"', title) FROM changed
                            WHERE id = substr(broken.item, 8)::uuid), broken.item), broken.project_id),
            HINT = 'Insert the item first, in the same project, and set the reference afterwards or in the same statement.';
    END IF;
    PERFORM pg_advisory_xact_lock(1296256073, 2);  -- see lock_chains; an insert comes here without it
    FOR owner IN SELECT DISTINCT unnest(owners) LOOP
        PERFORM public.change_links(owner, array_agg(asked.from_ref), array_agg(asked.to_ref))
        FROM unnest(owners, froms, tos) AS asked (project_id, from_ref, to_ref) WHERE asked.project_id = owner;
    END LOOP;
    RETURN NULL;
END
$function$;

COMMENT ON FUNCTION public.link_items() IS
'Trigger: navigation_links follow prev_id and next_id, for all rows of a statement at once; each must point at an item of the same project, or SQLSTATE MP002. The last word counts: an item that is given another neighbour leaves the one it had.';
