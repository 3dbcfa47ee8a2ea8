CREATE OR REPLACE TRIGGER steps_50_roll_up_update
AFTER UPDATE ON public.steps
REFERENCING OLD TABLE AS removed NEW TABLE AS added
FOR EACH STATEMENT
EXECUTE FUNCTION public.roll_up_steps();

COMMENT ON TRIGGER steps_50_roll_up_update ON public.steps IS
'Progress flows up: once a statement, whatever its number of rows.';
