CREATE OR REPLACE FUNCTION public.place_items(project uuid, starts text[], opened boolean) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
AS $function$
#variable_conflict use_variable
DECLARE
    unplaced CONSTANT bigint := '-9223372036854775808';
    apart CONSTANT bigint := 1::bigint << 32;  -- from one item to the next that is appended
    apart_chains CONSTANT bigint := 1::bigint << 40;
    room CONSTANT bigint := 1 << 8;  -- see below
    start text;
    here bigint;
    last text;
    next text;
    there bigint;
    run text[];
    new integer;  -- how many at the beginning of the run have no place yet
    spacing bigint;
BEGIN
    IF opened AND EXISTS (SELECT FROM public.navigation_links WHERE project_id = place_items.project AND closes_circle) THEN
        -- Where another link of the circle has gone, this one is an ordinary one now, and leads to a lesser place.
        WITH no_longer AS (
            UPDATE public.navigation_links SET closes_circle = false
            WHERE project_id = place_items.project AND closes_circle RETURNING from_ref
        )
        SELECT starts || array_agg(from_ref) INTO starts FROM no_longer;
    END IF;
    -- Along a chain places grow. From each start the items behind it are passed until one stands far enough ahead, and those
    -- passed are placed between. The last start first: what is moved behind it is then not moved again. Of items that have
    -- no place yet, first those that nothing leads to.
    FOREACH start IN ARRAY ARRAY(
        SELECT item.ref FROM (SELECT DISTINCT unnest(starts) AS ref) item
        WHERE item.ref IS NOT NULL
        ORDER BY public.chain_position(item.ref) DESC NULLS LAST, (
            SELECT link.id FROM public.navigation_links link WHERE link.to_ref = item.ref
        ) IS NOT NULL, item.ref
    ) LOOP
        here := public.chain_position(start);
        last := start;
        run := '{}';
        new := 0;
        LOOP
            SELECT to_ref, position INTO next, there FROM public.navigation_links
            WHERE from_ref = last;
            EXIT WHEN NOT FOUND;
            IF next = start THEN
                -- A circle: one of its links leads back, whatever the places. What has one stays.
                run := run[:new];
                next := NULL;
                UPDATE public.navigation_links SET closes_circle = true
                WHERE from_ref = coalesce(run[new], start);
                EXIT;
            END IF;
            -- The more items are passed, the more room they get, so that the next ones that come here pass few. numeric: the
            -- difference of two bigints may be none.
            EXIT WHEN there <> unplaced AND (here IS NULL OR there::numeric - here
                > CASE run WHEN '{}' THEN 0 ELSE room * (cardinality(run) + 1) ^ 2 END);
            new := new + (there = unplaced AND new = cardinality(run))::integer;
            run := run || next;
            last := next;
        END LOOP;
        CONTINUE WHEN run = '{}' AND (here IS NOT NULL OR next IS NULL);
        spacing := apart;
        IF here IS NULL THEN
            run := start || run;
            here := CASE WHEN next IS NOT NULL THEN there - (cardinality(run) + 1) * apart ELSE (
                SELECT greatest(max(position), 0) FROM public.navigation_links WHERE project_id = place_items.project
            ) + apart_chains END;
        ELSIF next IS NOT NULL THEN
            spacing := least(apart, div(there::numeric - here, cardinality(run) + 1));
        END IF;
        PERFORM public.set_places(array_agg(item.ref), array_agg(here + item.place * spacing))
        FROM unnest(run) WITH ORDINALITY AS item (ref, place);
    END LOOP;
END
$function$;

COMMENT ON FUNCTION public.place_items(uuid, text[], boolean) IS
'Gives items a place in their chain, so that it grows from each to the next, beginning with the items given; opened: whether links have gone. Others are moved only where no room is left. Cost: the items passed, most often one or none. For triggers.';
