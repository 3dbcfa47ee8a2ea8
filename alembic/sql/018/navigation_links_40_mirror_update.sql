CREATE OR REPLACE TRIGGER navigation_links_40_mirror_update
AFTER UPDATE ON public.navigation_links
REFERENCING OLD TABLE AS before NEW TABLE AS changed
FOR EACH STATEMENT
EXECUTE FUNCTION public.mirror_links();

COMMENT ON TRIGGER navigation_links_40_mirror_update ON public.navigation_links IS
'References follow the ends of a changed link.';
