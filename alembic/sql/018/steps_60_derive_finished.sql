CREATE OR REPLACE TRIGGER steps_60_derive_finished
BEFORE INSERT OR UPDATE ON public.steps
FOR EACH ROW WHEN (NEW.finished IS DISTINCT FROM (NEW.progress >= '1'))
EXECUTE FUNCTION public.derive_finished();

COMMENT ON TRIGGER steps_60_derive_finished ON public.steps IS
'Follows progress, whatever a statement writes there.';
