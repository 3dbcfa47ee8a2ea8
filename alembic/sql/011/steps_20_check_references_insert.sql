CREATE OR REPLACE TRIGGER steps_20_check_references_insert
AFTER INSERT ON public.steps
FOR EACH ROW WHEN (NEW.prev_id IS NOT NULL OR NEW.next_id IS NOT NULL)
EXECUTE FUNCTION public.check_references();

COMMENT ON TRIGGER steps_20_check_references_insert ON public.steps IS
'A new row refers only to items that exist.';
