CREATE OR REPLACE TRIGGER steps_20_check_status
BEFORE UPDATE OF status ON public.steps
FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status)
EXECUTE FUNCTION public.check_step_status();

COMMENT ON TRIGGER steps_20_check_status ON public.steps IS
'Refuses illegal status moves; staying put is always allowed, and an insert may carry any status.';
