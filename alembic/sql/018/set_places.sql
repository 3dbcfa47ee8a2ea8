CREATE OR REPLACE FUNCTION public.set_places(refs text[], places bigint[]) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET enable_hashjoin = off
SET enable_mergejoin = off
SET enable_seqscan = off
AS $function$
#variable_conflict use_variable
BEGIN
    UPDATE public.navigation_links link SET position = item.place
    FROM (
        SELECT there.id, item.place FROM unnest(refs, places) AS item (ref, place) CROSS JOIN LATERAL (
            SELECT one.id, one.position FROM public.navigation_links one
            WHERE one.to_ref = item.ref LIMIT 1
        ) there WHERE there.position <> item.place
    ) item
    WHERE link.id = item.id;
    -- A statement that meets no row would call the triggers of its table all the same.
    IF EXISTS (SELECT FROM unnest(refs) ref WHERE ref LIKE 'step://%') THEN
        UPDATE public.steps step SET chain_position = item.place
        FROM unnest(refs, places) AS item (ref, place)
        WHERE item.ref LIKE 'step://%' AND step.id = substr(item.ref, 8)::uuid
            AND step.chain_position IS DISTINCT FROM item.place;
    END IF;
    IF EXISTS (SELECT FROM unnest(refs) ref WHERE ref LIKE 'task://%') THEN
        UPDATE public.tasks task SET chain_position = item.place
        FROM unnest(refs, places) AS item (ref, place)
        WHERE item.ref LIKE 'task://%' AND task.id = substr(item.ref, 8)::uuid
            AND task.chain_position IS DISTINCT FROM item.place;
    END IF;
END
$function$;

COMMENT ON FUNCTION public.set_places(text[], bigint[]) IS
'Writes the place of items in their chain: chain_position, and position of the link that leads there. For triggers.';
