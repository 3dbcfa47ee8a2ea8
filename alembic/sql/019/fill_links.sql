CREATE OR REPLACE FUNCTION public.fill_links(projects uuid[], froms text[], tos text[]) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET enable_hashjoin = off
SET enable_mergejoin = off
SET enable_seqscan = off
AS $function$
#variable_conflict use_variable
DECLARE
    owner uuid;
    chain_froms text[];
    chain_tos text[];
    asleep text[];
    statement text;
BEGIN
    -- What only one end says is said of the other from now on. Nobody has changed that: neither updated_at nor the log may tell
    -- so, and their triggers sleep. The tables' locks come before the other one, as with everybody who writes.
    IF EXISTS (
        SELECT FROM unnest(froms, tos) AS asked (from_ref, to_ref)
        CROSS JOIN LATERAL public.resolve_reference(asked.from_ref) here
        CROSS JOIN LATERAL public.resolve_reference(asked.to_ref) there
        WHERE (here.next_id, there.prev_id) IS DISTINCT FROM (asked.to_ref, asked.from_ref)
    ) THEN
        LOCK TABLE public.steps, public.tasks IN SHARE ROW EXCLUSIVE MODE;
        asleep := ARRAY(
            SELECT format('ALTER TABLE %s %%s TRIGGER %I', tgrelid::regclass, tgname) FROM pg_trigger
            WHERE tgenabled = 'O' AND tgrelid IN ('public.steps'::regclass, 'public.tasks'::regclass) AND tgname IN (
                'steps_45_audit_update', 'steps_90_touch_updated_at', 'tasks_45_audit_update', 'tasks_90_touch_updated_at')
        );
        FOREACH statement IN ARRAY asleep LOOP
            EXECUTE format(statement, 'DISABLE');
        END LOOP;
    END IF;
    PERFORM pg_advisory_xact_lock(1296256073, 2);  -- see lock_chains; whoever had it may have changed both ends
    -- One chain at a time: of several at once, place_items places first whose first item's id is the least.
    FOR owner, chain_froms, chain_tos IN
        SELECT pair.project_id, array_agg(pair.from_ref ORDER BY pair.place), array_agg(pair.to_ref ORDER BY pair.place)
        FROM (
            SELECT agreed.*, count(*) FILTER (WHERE agreed.begins) OVER (ORDER BY agreed.place) AS chain
            FROM (
                SELECT asked.*,
                    asked.from_ref IS DISTINCT FROM lag(asked.to_ref) OVER (ORDER BY asked.place) AS begins
                FROM unnest(projects, froms, tos) WITH ORDINALITY AS asked (project_id, from_ref, to_ref, place)
                CROSS JOIN LATERAL public.resolve_reference(asked.from_ref) here
                CROSS JOIN LATERAL public.resolve_reference(asked.to_ref) there
                LEFT JOIN LATERAL (
                    SELECT link.to_ref FROM public.navigation_links link WHERE link.from_ref = asked.from_ref LIMIT 1
                ) leaving ON true
                LEFT JOIN LATERAL (
                    SELECT link.from_ref FROM public.navigation_links link WHERE link.to_ref = asked.to_ref LIMIT 1
                ) arriving ON true
                WHERE here.project_id = asked.project_id AND there.project_id = asked.project_id
                    AND coalesce(here.next_id, leaving.to_ref, CASE there.prev_id WHEN asked.from_ref THEN asked.to_ref END)
                        = asked.to_ref
                    AND coalesce(there.prev_id, arriving.from_ref, asked.from_ref) = asked.from_ref
            ) agreed
        ) pair
        GROUP BY pair.project_id, pair.chain ORDER BY pair.chain
    LOOP
        PERFORM public.change_links(owner, chain_froms, chain_tos);
    END LOOP;
    FOREACH statement IN ARRAY coalesce(asleep, '{}') LOOP
        EXECUTE format(statement, 'ENABLE');
    END LOOP;
END
$function$;

COMMENT ON FUNCTION public.fill_links(uuid[], text[], text[]) IS
'Makes links from froms[n] to tos[n], items of projects[n], where both ends still say so, or one of them does and the other nothing: then it does from now on, and neither updated_at nor audit_logs tells so. For revision 019, at whose end it goes.';
