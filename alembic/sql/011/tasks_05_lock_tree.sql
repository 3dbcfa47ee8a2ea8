CREATE OR REPLACE TRIGGER tasks_05_lock_tree
BEFORE UPDATE OF parent_task_id, project_id ON public.tasks
FOR EACH STATEMENT
EXECUTE FUNCTION public.lock_task_tree();

COMMENT ON TRIGGER tasks_05_lock_tree ON public.tasks IS
'Serialises re-parenting, so that two moves which are harmless alone cannot make a circle together.';
