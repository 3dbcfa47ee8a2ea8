CREATE OR REPLACE TRIGGER navigation_links_40_mirror_truncate
AFTER TRUNCATE ON public.navigation_links
FOR EACH STATEMENT
EXECUTE FUNCTION public.mirror_links();

COMMENT ON TRIGGER navigation_links_40_mirror_truncate ON public.navigation_links IS
'Without links there are no references.';
