CREATE OR REPLACE TRIGGER tasks_50_recount_truncate
AFTER TRUNCATE ON public.tasks
FOR EACH STATEMENT
EXECUTE FUNCTION public.recount_progress();

COMMENT ON TRIGGER tasks_50_recount_truncate ON public.tasks IS
'A TRUNCATE names no rows: all that is left is counted anew.';
