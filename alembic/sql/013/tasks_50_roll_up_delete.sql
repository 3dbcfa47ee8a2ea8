CREATE OR REPLACE TRIGGER tasks_50_roll_up_delete
AFTER DELETE ON public.tasks
REFERENCING OLD TABLE AS removed
FOR EACH STATEMENT
EXECUTE FUNCTION public.roll_up_tasks();

COMMENT ON TRIGGER tasks_50_roll_up_delete ON public.tasks IS
'Progress flows up: once a statement, whatever its number of rows.';
