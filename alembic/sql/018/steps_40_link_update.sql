CREATE OR REPLACE TRIGGER steps_40_link_update
AFTER UPDATE ON public.steps
REFERENCING OLD TABLE AS before NEW TABLE AS changed
FOR EACH ROW WHEN ((OLD.prev_id, OLD.next_id) IS DISTINCT FROM (NEW.prev_id, NEW.next_id))
EXECUTE FUNCTION public.link_items();

COMMENT ON TRIGGER steps_40_link_update ON public.steps IS
'Turns changed references into links. For each row only because WHEN then costs other rows nothing.';
