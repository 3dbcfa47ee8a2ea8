CREATE OR REPLACE TRIGGER navigation_cursors_90_touch_updated_at
BEFORE UPDATE ON public.navigation_cursors
FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*)
EXECUTE FUNCTION public.touch_updated_at();

COMMENT ON TRIGGER navigation_cursors_90_touch_updated_at ON public.navigation_cursors IS
'Keeps updated_at; an update that changes nothing leaves it alone.';
