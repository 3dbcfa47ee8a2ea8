CREATE OR REPLACE TRIGGER tasks_04_lock_chains
BEFORE DELETE OR UPDATE OF prev_id, next_id ON public.tasks
FOR EACH STATEMENT WHEN (pg_catalog.pg_trigger_depth() = 0)
EXECUTE FUNCTION public.lock_chains();

COMMENT ON TRIGGER tasks_04_lock_chains ON public.tasks IS
'Serialises changes of chains, before the first row is locked; before tasks_05_lock_tree, so that the two are taken in one order.';
