CREATE OR REPLACE TRIGGER steps_04_lock_chains
BEFORE DELETE OR UPDATE OF prev_id, next_id ON public.steps
FOR EACH STATEMENT WHEN (pg_catalog.pg_trigger_depth() = 0)
EXECUTE FUNCTION public.lock_chains();

COMMENT ON TRIGGER steps_04_lock_chains ON public.steps IS
'Serialises changes of chains, before the first row is locked.';
