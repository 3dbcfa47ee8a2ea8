CREATE OR REPLACE TRIGGER steps_30_complete_agreed
BEFORE INSERT OR UPDATE ON public.steps
FOR EACH ROW WHEN (NEW.status = 'AGREED')
EXECUTE FUNCTION public.complete_agreed_step();

COMMENT ON TRIGGER steps_30_complete_agreed ON public.steps IS
'AGREED sets progress to 1.';
