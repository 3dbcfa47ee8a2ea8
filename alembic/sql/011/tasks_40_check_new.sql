CREATE OR REPLACE TRIGGER tasks_40_check_new
AFTER INSERT ON public.tasks
REFERENCING NEW TABLE AS changed
FOR EACH STATEMENT
EXECUTE FUNCTION public.check_new_tasks();

COMMENT ON TRIGGER tasks_40_check_new ON public.tasks IS
'The tree stays a tree, at most 100 deep.';
