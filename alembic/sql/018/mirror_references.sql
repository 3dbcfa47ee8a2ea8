CREATE OR REPLACE FUNCTION public.mirror_references(froms text[], tos text[]) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET enable_hashjoin = off
SET enable_mergejoin = off
SET enable_seqscan = off
AS $function$
BEGIN
    -- Each row once, and only where something differs. The other reference of an item stays as it is: before the links were
    -- filled, it may be the only one that knows. IF: a statement that meets no row would call the triggers all the same.
    IF EXISTS (SELECT FROM unnest(froms || tos) ref WHERE ref LIKE 'step://%') THEN
        UPDATE public.steps step SET prev_id = item.prev_id, next_id = item.next_id, chain_position = item.chain_position
        FROM (
            SELECT one.id, CASE WHEN end_of.arriving THEN incoming.from_ref ELSE one.prev_id END AS prev_id,
                CASE WHEN end_of.leaving THEN outgoing.to_ref ELSE one.next_id END AS next_id,
                CASE WHEN incoming.id IS NOT NULL OR outgoing.id IS NOT NULL THEN one.chain_position END AS chain_position
            FROM (
                SELECT ref, bool_or(leaving) AS leaving, bool_or(NOT leaving) AS arriving
                FROM (SELECT unnest(froms) AS ref, true AS leaving UNION ALL SELECT unnest(tos), false) both_sides
                WHERE ref LIKE 'step://%' GROUP BY ref
            ) end_of
            JOIN public.steps one ON one.id = substr(end_of.ref, 8)::uuid
            LEFT JOIN LATERAL (
                SELECT link.id, link.from_ref FROM public.navigation_links link
                WHERE link.to_ref = end_of.ref LIMIT 1
            ) incoming ON true
            LEFT JOIN LATERAL (
                SELECT link.id, link.to_ref FROM public.navigation_links link
                WHERE link.from_ref = end_of.ref LIMIT 1
            ) outgoing ON true
        ) item
        WHERE step.id = item.id AND (step.prev_id, step.next_id, step.chain_position)
            IS DISTINCT FROM (item.prev_id, item.next_id, item.chain_position);
    END IF;
    IF EXISTS (SELECT FROM unnest(froms || tos) ref WHERE ref LIKE 'task://%') THEN
        UPDATE public.tasks task SET prev_id = item.prev_id, next_id = item.next_id, chain_position = item.chain_position
        FROM (
            SELECT one.id, CASE WHEN end_of.arriving THEN incoming.from_ref ELSE one.prev_id END AS prev_id,
                CASE WHEN end_of.leaving THEN outgoing.to_ref ELSE one.next_id END AS next_id,
                CASE WHEN incoming.id IS NOT NULL OR outgoing.id IS NOT NULL THEN one.chain_position END AS chain_position
            FROM (
                SELECT ref, bool_or(leaving) AS leaving, bool_or(NOT leaving) AS arriving
                FROM (SELECT unnest(froms) AS ref, true AS leaving UNION ALL SELECT unnest(tos), false) both_sides
                WHERE ref LIKE 'task://%' GROUP BY ref
            ) end_of
            JOIN public.tasks one ON one.id = substr(end_of.ref, 8)::uuid
            LEFT JOIN LATERAL (
                SELECT link.id, link.from_ref FROM public.navigation_links link
                WHERE link.to_ref = end_of.ref LIMIT 1
            ) incoming ON true
            LEFT JOIN LATERAL (
                SELECT link.id, link.to_ref FROM public.navigation_links link
                WHERE link.from_ref = end_of.ref LIMIT 1
            ) outgoing ON true
        ) item
        WHERE task.id = item.id AND (task.prev_id, task.next_id, task.chain_position)
            IS DISTINCT FROM (item.prev_id, item.next_id, item.chain_position);
    END IF;
END
$function$;

COMMENT ON FUNCTION public.mirror_references(text[], text[]) IS
'Sets next_id of the items in froms and prev_id of those in tos to what the links say, and takes the place in the chain from items without any link. For triggers.';
