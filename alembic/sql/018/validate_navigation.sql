CREATE OR REPLACE FUNCTION public.validate_navigation(project uuid)
RETURNS TABLE (problem text, reference text, other text, detail text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_variable
DECLARE
    back record;
    at text;
    least_ref text;
    members integer;
    reported text[] := '{}';
BEGIN
    RETURN QUERY
    WITH ends AS (
        SELECT 'task://' || task.id AS item, task.prev_id::text AS prev, task.next_id::text AS next,
            task.chain_position AS place
        FROM public.tasks task WHERE task.project_id = validate_navigation.project
        UNION ALL
        SELECT 'step://' || step.id, step.prev_id, step.next_id, step.chain_position
        FROM public.steps step WHERE step.project_id = validate_navigation.project
    ), said AS (
        SELECT ends.item, ends.next AS ref, 'next_id' AS name, ends.item AS from_ref, ends.next AS to_ref
        FROM ends WHERE ends.next IS NOT NULL
        UNION ALL
        SELECT ends.item, ends.prev, 'prev_id', ends.prev, ends.item FROM ends WHERE ends.prev IS NOT NULL
    ), links AS (
        SELECT link.from_ref, link.to_ref, link.position FROM public.navigation_links link
        WHERE link.project_id = validate_navigation.project
    ), heard AS (
        SELECT 'next_id' AS name, links.from_ref AS item, links.to_ref AS ref FROM links
        UNION ALL
        SELECT 'prev_id', links.to_ref, links.from_ref FROM links
    )
    SELECT CASE WHEN target.item IS NULL THEN 'broken' ELSE 'one-sided' END, said.item, said.ref,
        said.name || CASE WHEN target.item IS NULL THEN ' points at no item of the project' ELSE ' has no link' END
    FROM said LEFT JOIN ends target ON target.item = said.ref
    WHERE NOT EXISTS (SELECT FROM links WHERE links.from_ref = said.from_ref AND links.to_ref = said.to_ref)
    UNION ALL
    SELECT CASE WHEN heard_of.item IS NULL THEN 'broken' ELSE 'one-sided' END, heard.item, heard.ref,
        CASE WHEN heard_of.item IS NULL THEN 'there is a link of this item, which does not exist: see cleanup_orphans()'
            ELSE 'there is a link, but ' || heard.name || ' does not say so' END
    FROM heard LEFT JOIN ends heard_of ON heard_of.item = heard.item
    WHERE NOT EXISTS (SELECT FROM said WHERE said.item = heard.item AND said.ref = heard.ref AND said.name = heard.name)
    UNION ALL
    SELECT 'order', ends.item, links.from_ref, 'chain_position is not what the link says'
    FROM ends LEFT JOIN links ON links.to_ref = ends.item
    WHERE ends.place IS DISTINCT FROM links.position AND (links.to_ref IS NOT NULL OR NOT EXISTS (
        SELECT FROM links WHERE links.from_ref = ends.item))
    ORDER BY 1, 2, 4;
    -- Round a circle places cannot grow all the way: it has a link to a place that is not greater.
    FOR back IN
        SELECT link.from_ref, link.to_ref FROM public.navigation_links link
        LEFT JOIN public.navigation_links before ON before.to_ref = link.from_ref
        WHERE link.project_id = validate_navigation.project
            AND (link.position > coalesce(before.position, public.chain_position(link.from_ref))) IS NOT TRUE
        ORDER BY link.from_ref
    LOOP
        at := back.to_ref;
        least_ref := back.to_ref;
        members := 1;
        WHILE at IS NOT NULL AND at <> back.from_ref LOOP
            SELECT link.to_ref INTO at FROM public.navigation_links link
            WHERE link.from_ref = at;
            least_ref := least(least_ref, at);
            members := members + 1;
        END LOOP;
        IF at = back.from_ref THEN
            CONTINUE WHEN least_ref = ANY (reported);
            reported := reported || least_ref;
            problem := 'circle';
            detail := format('%s items that lead back to the first', members);
        ELSE
            problem := 'order';
            detail := 'the place of the second is not behind that of the first';
        END IF;
        reference := back.from_ref;
        other := back.to_ref;
        RETURN NEXT;
    END LOOP;
END
$function$;

COMMENT ON FUNCTION public.validate_navigation(uuid) IS
'What is wrong with the chains of a project, no row where nothing is. Columns: problem (broken: a reference to nothing, or a link of nothing; one-sided: a reference without its link, or a link without its reference; circle; order), reference (the item), other (what it refers to), detail. Reads all of the project.';
