CREATE OR REPLACE TRIGGER steps_60_keep_place_insert
BEFORE INSERT ON public.steps
FOR EACH ROW WHEN (NEW.chain_position IS NOT NULL)
EXECUTE FUNCTION public.keep_place();

COMMENT ON TRIGGER steps_60_keep_place_insert ON public.steps IS
'The place in the chain is not the application''s to write.';
