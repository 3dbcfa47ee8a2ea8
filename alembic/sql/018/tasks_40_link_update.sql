CREATE OR REPLACE TRIGGER tasks_40_link_update
AFTER UPDATE ON public.tasks
REFERENCING OLD TABLE AS before NEW TABLE AS changed
FOR EACH ROW WHEN ((OLD.prev_id, OLD.next_id) IS DISTINCT FROM (NEW.prev_id, NEW.next_id))
EXECUTE FUNCTION public.link_items();

COMMENT ON TRIGGER tasks_40_link_update ON public.tasks IS
'Turns changed references into links. For each row only because WHEN then costs other rows nothing.';
