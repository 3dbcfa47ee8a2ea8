CREATE OR REPLACE TRIGGER tasks_40_link_insert
AFTER INSERT ON public.tasks
REFERENCING NEW TABLE AS changed
FOR EACH ROW WHEN (NEW.prev_id IS NOT NULL OR NEW.next_id IS NOT NULL)
EXECUTE FUNCTION public.link_items();

COMMENT ON TRIGGER tasks_40_link_insert ON public.tasks IS
'Turns references of new rows into links. For each row only because WHEN then costs other rows nothing.';
