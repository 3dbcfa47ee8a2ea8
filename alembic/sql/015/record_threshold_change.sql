CREATE OR REPLACE FUNCTION public.record_threshold_change() RETURNS trigger
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_variable
DECLARE
    actor record;
BEGIN
    IF TG_OP = 'UPDATE' AND OLD.complexity_threshold = NEW.complexity_threshold THEN
        RETURN NULL;
    END IF;
    SELECT * INTO actor FROM public.current_actor();
    INSERT INTO public.threshold_changes (project_id, old_threshold, new_threshold, changed_by, changed_at)
    VALUES (NEW.id, CASE TG_OP WHEN 'UPDATE' THEN OLD.complexity_threshold END, NEW.complexity_threshold,
            coalesce(actor.user_id, actor.agent::text), clock_timestamp());
    RETURN NULL;
END
$function$;

COMMENT ON FUNCTION public.record_threshold_change() IS
'Trigger: keeps the history of a project''s complexity_threshold, the first one with no old value. Acts as its owner.';
-- Whoever may execute it may make a trigger of it, on a table of their own, and have it do as its owner.
REVOKE EXECUTE ON FUNCTION public.record_threshold_change() FROM PUBLIC;
