CREATE OR REPLACE TRIGGER tasks_40_check_move
AFTER UPDATE OF parent_task_id ON public.tasks
FOR EACH ROW WHEN (OLD.parent_task_id IS DISTINCT FROM NEW.parent_task_id AND NEW.parent_task_id IS NOT NULL)
EXECUTE FUNCTION public.check_moved_task();

COMMENT ON TRIGGER tasks_40_check_move ON public.tasks IS
'The tree stays a tree, at most 100 deep.';
