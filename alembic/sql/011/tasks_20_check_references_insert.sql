CREATE OR REPLACE TRIGGER tasks_20_check_references_insert
AFTER INSERT ON public.tasks
FOR EACH ROW WHEN (NEW.prev_id IS NOT NULL OR NEW.next_id IS NOT NULL)
EXECUTE FUNCTION public.check_references();

COMMENT ON TRIGGER tasks_20_check_references_insert ON public.tasks IS
'A new row refers only to items that exist.';
