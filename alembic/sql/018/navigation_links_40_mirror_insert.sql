CREATE OR REPLACE TRIGGER navigation_links_40_mirror_insert
AFTER INSERT ON public.navigation_links
REFERENCING NEW TABLE AS changed
FOR EACH STATEMENT
EXECUTE FUNCTION public.mirror_links();

COMMENT ON TRIGGER navigation_links_40_mirror_insert ON public.navigation_links IS
'Both ends of a new link refer to each other.';
