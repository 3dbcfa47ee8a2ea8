CREATE OR REPLACE TRIGGER navigation_links_40_mirror_delete
AFTER DELETE ON public.navigation_links
REFERENCING OLD TABLE AS before
FOR EACH STATEMENT
EXECUTE FUNCTION public.mirror_links();

COMMENT ON TRIGGER navigation_links_40_mirror_delete ON public.navigation_links IS
'A link that goes takes its two references along.';
