CREATE OR REPLACE FUNCTION public.navigation_chain(start text, max_depth integer DEFAULT 1000)
RETURNS TABLE (
    depth integer, reference text, entity_type public.entity_type, id uuid, title varchar, progress double precision, problem text
)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_variable
DECLARE
    item record;
    linked text;
BEGIN
    depth := 0;
    reference := start;
    LOOP
        EXIT WHEN depth >= max_depth;
        depth := depth + 1;
        SELECT * INTO item FROM public.resolve_reference(navigation_chain.reference);
        IF NOT FOUND THEN
            entity_type := NULL;
            id := NULL;
            title := NULL;
            progress := NULL;
            problem := CASE WHEN reference ~ '^(task|step)://[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' THEN 'broken: no such item'
                ELSE 'no reference: task://<uuid> or step://<uuid> is one' END;
            RETURN NEXT;
            RETURN;
        END IF;
        entity_type := item.entity_type;
        id := item.id;
        title := item.title;
        progress := item.progress;
        SELECT to_ref INTO linked FROM public.navigation_links
        WHERE from_ref = navigation_chain.reference;
        -- Only along links, of which an item has one at each end: then the first item that comes twice is the start.
        problem := CASE
            WHEN item.next_id IS NOT DISTINCT FROM linked AND linked = start THEN 'circle: the next item is ' || start || ' again'
            WHEN item.next_id IS NOT DISTINCT FROM linked AND depth = max_depth THEN 'cut: max_depth, next is ' || linked
            WHEN item.next_id IS NOT DISTINCT FROM linked THEN NULL
            WHEN linked IS NOT NULL THEN 'one-sided: linked to ' || linked || ', but next_id is ' || coalesce(item.next_id, 'null')
            WHEN public.item_exists(item.project_id, item.next_id)
                THEN 'one-sided: next_id is ' || item.next_id || ', but there is no such link'
            ELSE 'broken: next_id is ' || item.next_id || ', which is no item of the project'
        END;
        RETURN NEXT;
        EXIT WHEN problem IS NOT NULL OR linked IS NULL;
        reference := linked;
    END LOOP;
END
$function$;

COMMENT ON FUNCTION public.navigation_chain(text, integer) IS
'The items from a reference on, in chain order, at most max_depth. Columns: depth (1 for the first), reference, entity_type (TASK or STEP), id, title, progress, problem (null, or in the last row why the chain cannot be followed: broken, one-sided, circle, cut). Only a last row without problem is the end of the chain.';
