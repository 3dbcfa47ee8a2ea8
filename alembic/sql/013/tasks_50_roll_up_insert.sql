CREATE OR REPLACE TRIGGER tasks_50_roll_up_insert
AFTER INSERT ON public.tasks
REFERENCING NEW TABLE AS added
FOR EACH STATEMENT
EXECUTE FUNCTION public.roll_up_tasks();

COMMENT ON TRIGGER tasks_50_roll_up_insert ON public.tasks IS
'Progress flows up: once a statement, whatever its number of rows.';
