CREATE OR REPLACE FUNCTION public.mirror_links() RETURNS trigger
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_variable
DECLARE
    unplaced CONSTANT bigint := '-9223372036854775808';
    most CONSTANT bigint := 1::bigint << 62;
    owners uuid[];
    froms text[];
    tos text[];
    places bigint[];  -- the place that the statement gives the item in tos, where it gives one
    owner uuid;
BEGIN
    IF current_setting('planner.linking', true) = 'on' THEN
        RETURN NULL;  -- a link that follows a reference
    END IF;
    CASE TG_OP
        WHEN 'INSERT' THEN
            SELECT array_agg(project_id), array_agg(from_ref), array_agg(to_ref), array_agg(position)
            INTO owners, froms, tos, places FROM changed;
        WHEN 'DELETE' THEN
            SELECT array_agg(project_id), array_agg(from_ref), array_agg(to_ref), array_agg(NULL::bigint)
            INTO owners, froms, tos, places FROM before;
        WHEN 'UPDATE' THEN
            SELECT array_agg(project_id), array_agg(from_ref), array_agg(to_ref), array_agg(place)
            INTO owners, froms, tos, places FROM (
                (SELECT project_id, from_ref, to_ref, position AS place FROM changed
                 EXCEPT SELECT project_id, from_ref, to_ref, position FROM before)
                UNION ALL
                (SELECT project_id, from_ref, to_ref, NULL::bigint FROM before
                 EXCEPT SELECT project_id, from_ref, to_ref, NULL::bigint FROM changed)
            ) ends;
        ELSE
            PERFORM set_config('planner.linking', 'on', true);
            UPDATE public.steps SET prev_id = NULL, next_id = NULL, chain_position = NULL
            WHERE num_nonnulls(prev_id, next_id, chain_position) > 0;
            UPDATE public.tasks SET prev_id = NULL, next_id = NULL, chain_position = NULL
            WHERE num_nonnulls(prev_id, next_id, chain_position) > 0;
            PERFORM set_config('planner.linking', '', true);
    END CASE;
    IF owners IS NULL THEN
        RETURN NULL;
    END IF;
    IF EXISTS (SELECT FROM unnest(places) place WHERE place > most OR place < -most AND place <> unplaced) THEN
        RAISE EXCEPTION USING
            ERRCODE = 'numeric_value_out_of_range', SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME, COLUMN = 'position',
            MESSAGE = format('a position lies beyond %s, where none could follow it', most),
            HINT = 'Leave position out: the link gets one.';
    END IF;
    PERFORM set_config('planner.linking', 'on', true);
    FOR owner IN SELECT DISTINCT unnest(owners) LOOP
        PERFORM public.mirror_references(array_agg(ends.from_ref), array_agg(ends.to_ref))
        FROM unnest(owners, froms, tos) AS ends (project_id, from_ref, to_ref) WHERE ends.project_id = owner;
        IF TG_OP <> 'DELETE' THEN
            PERFORM public.set_places(array_agg(ends.to_ref), array_agg(ends.place))
            FROM unnest(owners, tos, places) AS ends (project_id, to_ref, place)
            WHERE ends.project_id = owner AND ends.place <> unplaced;
        END IF;
        PERFORM public.place_items(owner, array_agg(ends.from_ref) || array_agg(ends.to_ref), TG_OP <> 'INSERT')
        FROM unnest(owners, froms, tos) AS ends (project_id, from_ref, to_ref)
        WHERE ends.project_id = owner AND TG_OP <> 'DELETE';
    END LOOP;
    PERFORM set_config('planner.linking', '', true);
    RETURN NULL;
END
$function$;

COMMENT ON FUNCTION public.mirror_links() IS
'Trigger: prev_id and next_id follow navigation_links. A position that fits between those of the neighbours is kept, any other replaced.';
