CREATE OR REPLACE TRIGGER steps_20_check_references_update
AFTER UPDATE ON public.steps
FOR EACH ROW WHEN (
    (NEW.prev_id IS NOT NULL OR NEW.next_id IS NOT NULL)
    AND (OLD.prev_id, OLD.next_id, OLD.project_id) IS DISTINCT FROM (NEW.prev_id, NEW.next_id, NEW.project_id)
)
EXECUTE FUNCTION public.check_references();

COMMENT ON TRIGGER steps_20_check_references_update ON public.steps IS
'A changed reference points at an item that exists; one left alone is not looked at again.';
