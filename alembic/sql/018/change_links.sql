CREATE OR REPLACE FUNCTION public.change_links(project uuid, froms text[], tos text[]) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET enable_hashjoin = off
SET enable_mergejoin = off
SET enable_seqscan = off
AS $function$
#variable_conflict use_variable
DECLARE
    contested record;
    gone_froms text[];
    gone_tos text[];
BEGIN
    SELECT * INTO contested FROM (
        SELECT asked.from_ref AS item, 'successor' AS what, string_agg(coalesce(asked.to_ref, 'none'), ' and ') AS ends
        FROM unnest(froms, tos) AS asked (from_ref, to_ref) WHERE asked.from_ref IS NOT NULL
        GROUP BY asked.from_ref HAVING count(*) > 1
        UNION ALL
        SELECT asked.to_ref, 'predecessor', string_agg(coalesce(asked.from_ref, 'none'), ' and ')
        FROM unnest(froms, tos) AS asked (from_ref, to_ref) WHERE asked.to_ref IS NOT NULL
        GROUP BY asked.to_ref HAVING count(*) > 1
    ) twice LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION USING
            ERRCODE = 'MP005', SCHEMA = 'public', TABLE = 'navigation_links',
            MESSAGE = format('%s would have more than one %s: %s', contested.item, contested.what, contested.ends),
            DETAIL = format('Project %s; prev_id and next_id of one statement contradict each other.', project),
            HINT = 'Let the next_id of an item and the prev_id of its successor say the same, or write only one of them.';
    END IF;
    PERFORM set_config('planner.linking', 'on', true);
    -- LATERAL with LIMIT, and the settings of this function: one look into the index for each, whatever the planner thought of
    -- the table when it made the plan that the session keeps. Nor is project_id asked: other indexes begin with it, and look as
    -- good on a table that was empty then. A reference is of one project only.
    WITH gone AS (
        DELETE FROM public.navigation_links WHERE id IN (
            SELECT link.id FROM unnest(froms, tos) AS asked (from_ref, to_ref) CROSS JOIN LATERAL (
                SELECT one.id, one.to_ref FROM public.navigation_links one
                WHERE one.from_ref = asked.from_ref LIMIT 1
            ) link WHERE link.to_ref IS DISTINCT FROM asked.to_ref
            UNION
            SELECT link.id FROM unnest(froms, tos) AS asked (from_ref, to_ref) CROSS JOIN LATERAL (
                SELECT one.id, one.from_ref FROM public.navigation_links one
                WHERE one.to_ref = asked.to_ref LIMIT 1
            ) link WHERE link.from_ref IS DISTINCT FROM asked.from_ref
        )
        RETURNING from_ref, to_ref
    )
    SELECT array_agg(from_ref), array_agg(to_ref) INTO gone_froms, gone_tos FROM gone;
    INSERT INTO public.navigation_links (project_id, from_task_id, from_step_id, to_task_id, to_step_id, position)
    SELECT change_links.project,
        CASE WHEN asked.from_ref LIKE 'task://%' THEN substr(asked.from_ref, 8)::uuid END,
        CASE WHEN asked.from_ref LIKE 'step://%' THEN substr(asked.from_ref, 8)::uuid END,
        CASE WHEN asked.to_ref LIKE 'task://%' THEN substr(asked.to_ref, 8)::uuid END,
        CASE WHEN asked.to_ref LIKE 'step://%' THEN substr(asked.to_ref, 8)::uuid END,
        coalesce(CASE WHEN asked.to_ref LIKE 'task://%'
            THEN (SELECT chain_position FROM public.tasks WHERE id = substr(asked.to_ref, 8)::uuid)
            ELSE (SELECT chain_position FROM public.steps WHERE id = substr(asked.to_ref, 8)::uuid) END,
            '-9223372036854775808')  -- not placed yet, see place_items
    FROM unnest(froms, tos) AS asked (from_ref, to_ref)
    WHERE asked.from_ref IS NOT NULL AND asked.to_ref IS NOT NULL AND asked.to_ref IS DISTINCT FROM (
        SELECT link.to_ref FROM public.navigation_links link
        WHERE link.from_ref = asked.from_ref
    );
    PERFORM public.mirror_references(froms || gone_froms, tos || gone_tos);
    PERFORM public.place_items(project, ARRAY(
        SELECT asked.from_ref FROM unnest(froms, tos) AS asked (from_ref, to_ref) WHERE asked.to_ref IS NOT NULL
    ), gone_froms IS NOT NULL);
    PERFORM set_config('planner.linking', '', true);
END
$function$;

COMMENT ON FUNCTION public.change_links(uuid, text[], text[]) IS
'Makes links from froms[n] to tos[n]; where one of the two is null, the other end loses its link. Links in the way go. SQLSTATE MP005 where the arrays name an end twice. For triggers, which hold the lock of lock_chains.';
