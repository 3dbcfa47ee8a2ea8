CREATE OR REPLACE TRIGGER steps_60_keep_place_update
BEFORE UPDATE OF chain_position ON public.steps
FOR EACH ROW WHEN (OLD.chain_position IS DISTINCT FROM NEW.chain_position)
EXECUTE FUNCTION public.keep_place();

COMMENT ON TRIGGER steps_60_keep_place_update ON public.steps IS
'The place in the chain is not the application''s to write.';
