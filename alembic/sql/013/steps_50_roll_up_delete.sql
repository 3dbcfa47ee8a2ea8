CREATE OR REPLACE TRIGGER steps_50_roll_up_delete
AFTER DELETE ON public.steps
REFERENCING OLD TABLE AS removed
FOR EACH STATEMENT
EXECUTE FUNCTION public.roll_up_steps();

COMMENT ON TRIGGER steps_50_roll_up_delete ON public.steps IS
'Progress flows up: once a statement, whatever its number of rows.';
