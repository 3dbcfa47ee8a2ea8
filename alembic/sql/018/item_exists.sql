CREATE OR REPLACE FUNCTION public.item_exists(project uuid, reference text) RETURNS boolean
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
AS $function$
#variable_conflict use_variable
BEGIN
    -- task://<uuid> or step://<uuid>: check constraints see to the form of what is stored.
    IF reference LIKE 'task://%' THEN
        RETURN (SELECT project_id FROM public.tasks WHERE id = substr(reference, 8)::uuid) IS NOT DISTINCT FROM project;
    END IF;
    RETURN (SELECT project_id FROM public.steps WHERE id = substr(reference, 8)::uuid) IS NOT DISTINCT FROM project;
END
$function$;

COMMENT ON FUNCTION public.item_exists(uuid, text) IS
'Whether a reference points at an item of the project.';
