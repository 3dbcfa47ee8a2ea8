CREATE OR REPLACE FUNCTION public.mirror_references(froms text[], tos text[]) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET enable_hashjoin = off
SET enable_mergejoin = off
SET enable_seqscan = off
AS $function$
#variable_conflict use_variable
DECLARE
    ids uuid[];
BEGIN
    -- Locked by a statement of its own first: after a wait, the next one sees what the other session has made of the row and of
    -- its links. Each row is written once, and only where something differs. The other reference of an item stays as it is:
    -- before the links were filled, it may be the only one that knows. IF: a statement that meets no row would call the triggers.
    ids := ARRAY(SELECT substr(ref, 8)::uuid FROM unnest(froms || tos) ref WHERE ref LIKE 'step://%');
    IF ids <> '{}' THEN
        PERFORM FROM public.steps WHERE id = ANY (ids) ORDER BY id FOR NO KEY UPDATE;
        UPDATE public.steps step SET
            prev_id = CASE WHEN item.arriving THEN item.prev_id ELSE step.prev_id END,
            next_id = CASE WHEN item.leaving THEN item.next_id ELSE step.next_id END,
            chain_position = CASE WHEN item.prev_id IS NOT NULL OR item.next_id IS NOT NULL THEN step.chain_position END
        FROM (
            SELECT substr(end_of.ref, 8)::uuid AS id, end_of.leaving, end_of.arriving,
                (SELECT link.from_ref FROM public.navigation_links link WHERE link.to_ref = end_of.ref) AS prev_id,
                (SELECT link.to_ref FROM public.navigation_links link WHERE link.from_ref = end_of.ref) AS next_id
            FROM (
                SELECT ref, bool_or(leaving) AS leaving, bool_or(NOT leaving) AS arriving
                FROM (SELECT unnest(froms) AS ref, true AS leaving UNION ALL SELECT unnest(tos), false) both_sides
                WHERE ref LIKE 'step://%' GROUP BY ref
            ) end_of
        ) item
        WHERE step.id = item.id AND (
            item.arriving AND step.prev_id IS DISTINCT FROM item.prev_id
            OR item.leaving AND step.next_id IS DISTINCT FROM item.next_id
            OR step.chain_position IS NOT NULL AND item.prev_id IS NULL AND item.next_id IS NULL
        );
    END IF;
    ids := ARRAY(SELECT substr(ref, 8)::uuid FROM unnest(froms || tos) ref WHERE ref LIKE 'task://%');
    IF ids <> '{}' THEN
        PERFORM FROM public.tasks WHERE id = ANY (ids) ORDER BY id FOR NO KEY UPDATE;
        UPDATE public.tasks task SET
            prev_id = CASE WHEN item.arriving THEN item.prev_id ELSE task.prev_id END,
            next_id = CASE WHEN item.leaving THEN item.next_id ELSE task.next_id END,
            chain_position = CASE WHEN item.prev_id IS NOT NULL OR item.next_id IS NOT NULL THEN task.chain_position END
        FROM (
            SELECT substr(end_of.ref, 8)::uuid AS id, end_of.leaving, end_of.arriving,
                (SELECT link.from_ref FROM public.navigation_links link WHERE link.to_ref = end_of.ref) AS prev_id,
                (SELECT link.to_ref FROM public.navigation_links link WHERE link.from_ref = end_of.ref) AS next_id
            FROM (
                SELECT ref, bool_or(leaving) AS leaving, bool_or(NOT leaving) AS arriving
                FROM (SELECT unnest(froms) AS ref, true AS leaving UNION ALL SELECT unnest(tos), false) both_sides
                WHERE ref LIKE 'task://%' GROUP BY ref
            ) end_of
        ) item
        WHERE task.id = item.id AND (
            item.arriving AND task.prev_id IS DISTINCT FROM item.prev_id
            OR item.leaving AND task.next_id IS DISTINCT FROM item.next_id
            OR task.chain_position IS NOT NULL AND item.prev_id IS NULL AND item.next_id IS NULL
        );
    END IF;
END
$function$;

COMMENT ON FUNCTION public.mirror_references(text[], text[]) IS
'Sets next_id of the items in froms and prev_id of those in tos to what the links say, and takes the place in the chain from items without any link. For triggers.';
