CREATE OR REPLACE FUNCTION public.mean_progress(child_count integer, child_progress numeric) RETURNS double precision
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_variable
BEGIN
    -- Numeric to the last step: the result depends on no order of adding up. Always 20 decimals, whatever the operands;
    -- the bounds only matter for counters that somebody has written by hand.
    RETURN CASE WHEN mean_progress.child_count > 0 THEN
        least(1, greatest(0, round(mean_progress.child_progress / mean_progress.child_count, 20)))::double precision
    ELSE 0 END;
END
$function$;

COMMENT ON FUNCTION public.mean_progress(integer, numeric) IS
'Progress that follows from the counters of a task or project: child_progress / child_count, or 0 without children.';
