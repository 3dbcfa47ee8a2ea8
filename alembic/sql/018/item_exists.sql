CREATE OR REPLACE FUNCTION public.item_exists(project uuid, reference text) RETURNS boolean
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
BEGIN
    -- task://<uuid> or step://<uuid>: check constraints see to the form of what is stored.
    IF reference LIKE 'task://%' THEN
        RETURN EXISTS (SELECT FROM public.tasks WHERE id = substr(reference, 8)::uuid AND project_id = item_exists.project);
    END IF;
    RETURN EXISTS (SELECT FROM public.steps WHERE id = substr(reference, 8)::uuid AND project_id = item_exists.project);
END
$function$;

COMMENT ON FUNCTION public.item_exists(uuid, text) IS
'Whether a reference points at an item of the project.';
