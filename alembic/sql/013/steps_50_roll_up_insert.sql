CREATE OR REPLACE TRIGGER steps_50_roll_up_insert
AFTER INSERT ON public.steps
REFERENCING NEW TABLE AS added
FOR EACH STATEMENT
EXECUTE FUNCTION public.roll_up_steps();

COMMENT ON TRIGGER steps_50_roll_up_insert ON public.steps IS
'Progress flows up: once a statement, whatever its number of rows.';
