CREATE OR REPLACE FUNCTION public.derive_progress() RETURNS trigger
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_variable
BEGIN
    IF TG_OP = 'INSERT' THEN
        NEW.child_count := 0;
        NEW.child_progress := 0;
        NEW.progress := 0;
        RETURN NEW;
    END IF;
    -- Statements of the application are one trigger deep, the roll-up is deeper; recalculation says who it is.
    IF pg_trigger_depth() = 1 AND current_setting('planner.recalculating', true) IS DISTINCT FROM 'on' THEN
        NEW.child_count := OLD.child_count;
        NEW.child_progress := OLD.child_progress;
    END IF;
    -- Few expressions: each is prepared anew in each transaction. As mean_progress, written out: its call would cost as much as
    -- all the rest here.
    NEW.progress := CASE
        WHEN NEW.child_count IS NULL OR NEW.child_progress IS NULL THEN NEW.progress
        WHEN NEW.child_count > 0 THEN
            least(1, greatest(0, round(NEW.child_progress / NEW.child_count, 20)))::double precision
        ELSE 0 END;
    -- Spares the call of touch_updated_at.
    NEW.updated_at := CASE WHEN NEW.progress <> OLD.progress THEN now() ELSE NEW.updated_at END;
    RETURN NEW;
END
$function$;

COMMENT ON FUNCTION public.derive_progress() IS
'Trigger: progress follows from the counters, and the counters from the children, whatever a statement writes into them. A new row starts at 0; one whose counters are null (older than they are) keeps what it is given.';
