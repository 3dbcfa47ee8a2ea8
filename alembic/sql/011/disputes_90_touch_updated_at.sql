CREATE OR REPLACE TRIGGER disputes_90_touch_updated_at
BEFORE UPDATE ON public.disputes
FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*)
EXECUTE FUNCTION public.touch_updated_at();

COMMENT ON TRIGGER disputes_90_touch_updated_at ON public.disputes IS
'Keeps updated_at; an update that changes nothing leaves it alone.';
