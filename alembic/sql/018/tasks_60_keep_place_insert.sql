CREATE OR REPLACE TRIGGER tasks_60_keep_place_insert
BEFORE INSERT ON public.tasks
FOR EACH ROW WHEN (NEW.chain_position IS NOT NULL)
EXECUTE FUNCTION public.keep_place();

COMMENT ON TRIGGER tasks_60_keep_place_insert ON public.tasks IS
'The place in the chain is not the application''s to write.';
