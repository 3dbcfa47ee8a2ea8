CREATE OR REPLACE TRIGGER complexity_runs_10_sync_iterations_allowed
BEFORE INSERT OR UPDATE ON public.complexity_runs
FOR EACH ROW
EXECUTE FUNCTION public.sync_iterations_allowed();

COMMENT ON TRIGGER complexity_runs_10_sync_iterations_allowed ON public.complexity_runs IS
'Keeps both names of the limit equal. On every update, so that one of other columns fills a row that is not filled yet.';
