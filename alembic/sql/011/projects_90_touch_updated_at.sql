CREATE OR REPLACE TRIGGER projects_90_touch_updated_at
BEFORE UPDATE ON public.projects
FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*)
EXECUTE FUNCTION public.touch_updated_at();

COMMENT ON TRIGGER projects_90_touch_updated_at ON public.projects IS
'Keeps updated_at; an update that changes nothing leaves it alone.';
