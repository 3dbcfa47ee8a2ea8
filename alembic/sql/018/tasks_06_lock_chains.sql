CREATE OR REPLACE TRIGGER tasks_06_lock_chains
BEFORE UPDATE OF prev_id, next_id ON public.tasks
FOR EACH STATEMENT WHEN (pg_catalog.pg_trigger_depth() = 0)
EXECUTE FUNCTION public.lock_chains();

COMMENT ON TRIGGER tasks_06_lock_chains ON public.tasks IS
'Serialises changes of chains, before the first row is locked.';
