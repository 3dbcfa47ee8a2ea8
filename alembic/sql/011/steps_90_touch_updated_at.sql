CREATE OR REPLACE TRIGGER steps_90_touch_updated_at
BEFORE UPDATE ON public.steps
FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*)
EXECUTE FUNCTION public.touch_updated_at();

COMMENT ON TRIGGER steps_90_touch_updated_at ON public.steps IS
'Keeps updated_at; an update that changes nothing leaves it alone.';
