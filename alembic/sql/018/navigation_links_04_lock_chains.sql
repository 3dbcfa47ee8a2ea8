CREATE OR REPLACE TRIGGER navigation_links_04_lock_chains
BEFORE INSERT OR UPDATE OR DELETE ON public.navigation_links
FOR EACH STATEMENT WHEN (pg_catalog.pg_trigger_depth() = 0)
EXECUTE FUNCTION public.lock_chains();

COMMENT ON TRIGGER navigation_links_04_lock_chains ON public.navigation_links IS
'Serialises changes of chains, before the first row is locked.';
