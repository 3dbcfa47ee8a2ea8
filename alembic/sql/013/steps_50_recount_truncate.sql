CREATE OR REPLACE TRIGGER steps_50_recount_truncate
AFTER TRUNCATE ON public.steps
FOR EACH STATEMENT
EXECUTE FUNCTION public.recount_progress();

COMMENT ON TRIGGER steps_50_recount_truncate ON public.steps IS
'A TRUNCATE names no rows: all that is left is counted anew.';
