CREATE OR REPLACE FUNCTION public.check_new_tasks() RETURNS trigger
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_variable
DECLARE
    parents uuid[];
    wrong record;
BEGIN
    SELECT array_agg(DISTINCT parent_task_id) INTO parents FROM changed WHERE parent_task_id IS NOT NULL;
    IF parents IS NULL THEN
        RETURN NULL;
    END IF;
    -- EXECUTE, here and wherever rows of a statement meet a table: the plan made for the first statement of a session would
    -- be kept, the one for a single row for ten thousand, or the other way round.
    EXECUTE $query$
        WITH RECURSIVE up AS (
            SELECT id AS start, parent_task_id AS at FROM changed WHERE parent_task_id = ANY ($1)
            UNION
            SELECT up.start, changed.parent_task_id FROM up JOIN changed ON changed.id = up.at
            WHERE changed.parent_task_id IS NOT NULL
        )
        SELECT changed.id, changed.parent_task_id, changed.project_id, changed.title FROM up JOIN changed ON changed.id = up.start
        WHERE up.at = up.start LIMIT 1
    $query$ USING parents INTO wrong;
    IF wrong.id IS NOT NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'MP003', SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME, COLUMN = 'parent_task_id',
            MESSAGE = format('task %s would be its own ancestor below task %s', wrong.id, wrong.parent_task_id),
            DETAIL = format('"%s" of project %s.', wrong.title, wrong.project_id),
            HINT = 'Give one of the tasks in the circle another parent, or none.';
    END IF;
    -- A task above that is being moved is locked by its move: after this wait, where it stands is final.
    PERFORM public.lock_ancestors(parents);
    EXECUTE $query$
        WITH RECURSIVE up AS (
            SELECT id AS start, parent_task_id AS at, 2 AS depth FROM changed WHERE parent_task_id = ANY ($1)
            UNION ALL
            SELECT up.start, tasks.parent_task_id, up.depth + 1 FROM up JOIN public.tasks ON tasks.id = up.at
            WHERE tasks.parent_task_id IS NOT NULL AND up.depth <= 100
        )
        SELECT changed.id, changed.project_id, changed.title FROM up JOIN changed ON changed.id = up.start
        WHERE up.depth > 100 LIMIT 1
    $query$ USING parents INTO wrong;
    IF wrong.id IS NOT NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'MP004', SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME, COLUMN = 'parent_task_id',
            MESSAGE = format('task %s would be more than 100 tasks deep', wrong.id),
            DETAIL = format('"%s" of project %s.', wrong.title, wrong.project_id),
            HINT = 'Choose a parent closer to the root; a root task has depth 1.';
    END IF;
    RETURN NULL;
END
$function$;

COMMENT ON FUNCTION public.check_new_tasks() IS
'Trigger: new tasks make no circle (SQLSTATE MP003) and are at most 100 deep (MP004). Locks the tasks above them.';
