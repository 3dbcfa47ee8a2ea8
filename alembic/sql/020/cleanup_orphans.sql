CREATE OR REPLACE FUNCTION public.cleanup_orphans()
RETURNS TABLE (table_name text, removed bigint)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_variable
DECLARE
    miscounted uuid[];
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION USING
            ERRCODE = 'MP008', MESSAGE = format('orphans are not removed in a %s transaction', current_setting('transaction_isolation')),
            DETAIL = 'It would not see the parents that were written since it began, and take their children for orphans.',
            HINT = 'Call it by itself, or after BEGIN ISOLATION LEVEL READ COMMITTED.';
    END IF;
    -- Nobody gives an orphan new parents between the look and the deletion. A writer may have locked the tables in another
    -- order: with less than deadlock_timeout it is this that gives up, and not the writer.
    PERFORM public.lock_for_maintenance(ARRAY['public.projects', 'public.tasks', 'public.steps', 'public.disputes',
        'public.complexity_assessments', 'public.complexity_agreements', 'public.step_promotions', 'public.complexity_runs',
        'public.threshold_changes', 'public.navigation_links', 'public.navigation_cursors']::regclass[],
        'SHARE ROW EXCLUSIVE', '200ms');
    -- A child that says another project than its parent was never counted there, and the triggers are about to subtract it.
    SELECT array_agg(DISTINCT task.project_id) INTO miscounted
    FROM (
        SELECT project_id, task_id AS parent FROM public.steps UNION ALL SELECT project_id, parent_task_id FROM public.tasks
    ) child
    JOIN public.tasks task ON task.id = child.parent AND task.project_id <> child.project_id;
    RETURN QUERY
    WITH RECURSIVE lost_tasks AS (
        SELECT task.project_id, task.id FROM public.tasks task
        WHERE NOT EXISTS (SELECT FROM public.projects WHERE projects.id = task.project_id)
            OR task.parent_task_id IS NOT NULL AND NOT EXISTS (
                SELECT FROM public.tasks parent WHERE parent.project_id = task.project_id AND parent.id = task.parent_task_id)
        UNION
        SELECT child.project_id, child.id FROM lost_tasks
        JOIN public.tasks child ON child.project_id = lost_tasks.project_id AND child.parent_task_id = lost_tasks.id
    ), task AS MATERIALIZED (
        SELECT project_id, id FROM public.tasks EXCEPT SELECT project_id, id FROM lost_tasks
    ), step AS MATERIALIZED (
        SELECT steps.project_id, steps.id FROM public.steps JOIN task ON task.project_id = steps.project_id AND task.id = steps.task_id
    -- All by one statement, and so each row by its own DELETE: what a cascade removes is not counted.
    ), gone_tasks AS (
        DELETE FROM public.tasks gone WHERE NOT EXISTS (SELECT FROM task WHERE task.id = gone.id) RETURNING 1
    ), gone_steps AS (
        DELETE FROM public.steps gone WHERE NOT EXISTS (SELECT FROM step WHERE step.id = gone.id) RETURNING 1
    ), gone_disputes AS (
        DELETE FROM public.disputes gone
        WHERE NOT EXISTS (SELECT FROM step WHERE step.project_id = gone.project_id AND step.id = gone.step_id) RETURNING 1
    ), gone_assessments AS (
        DELETE FROM public.complexity_assessments gone
        WHERE NOT EXISTS (SELECT FROM step WHERE step.project_id = gone.project_id AND step.id = gone.step_id) RETURNING 1
    ), gone_agreements AS (
        DELETE FROM public.complexity_agreements gone
        WHERE NOT EXISTS (SELECT FROM step WHERE step.project_id = gone.project_id AND step.id = gone.step_id) RETURNING 1
    ), gone_promotions AS (  -- the task it became; the step may be gone
        DELETE FROM public.step_promotions gone
        WHERE NOT EXISTS (SELECT FROM task WHERE task.project_id = gone.project_id AND task.id = gone.new_task_id) RETURNING 1
    ), gone_runs AS (
        DELETE FROM public.complexity_runs gone
        WHERE NOT EXISTS (SELECT FROM public.projects WHERE projects.id = gone.project_id) RETURNING 1
    ), gone_thresholds AS (
        DELETE FROM public.threshold_changes gone
        WHERE NOT EXISTS (SELECT FROM public.projects WHERE projects.id = gone.project_id) RETURNING 1
    ), gone_links AS (  -- of each end one of the two is null
        DELETE FROM public.navigation_links gone
        WHERE NOT EXISTS (SELECT FROM task WHERE task.project_id = gone.project_id AND task.id = gone.from_task_id)
                AND NOT EXISTS (SELECT FROM step WHERE step.project_id = gone.project_id AND step.id = gone.from_step_id)
            OR NOT EXISTS (SELECT FROM task WHERE task.project_id = gone.project_id AND task.id = gone.to_task_id)
                AND NOT EXISTS (SELECT FROM step WHERE step.project_id = gone.project_id AND step.id = gone.to_step_id)
        RETURNING 1
    ), gone_cursors AS (
        DELETE FROM public.navigation_cursors gone
        WHERE NOT EXISTS (SELECT FROM task WHERE task.project_id = gone.project_id AND task.id = gone.current_task_id)
            AND NOT EXISTS (SELECT FROM step WHERE step.project_id = gone.project_id AND step.id = gone.current_step_id)
        RETURNING 1
    )
    SELECT found.name, found.rows
    FROM (VALUES
        (1, 'tasks', (SELECT count(*) FROM gone_tasks)),
        (2, 'steps', (SELECT count(*) FROM gone_steps)),
        (3, 'disputes', (SELECT count(*) FROM gone_disputes)),
        (4, 'complexity_assessments', (SELECT count(*) FROM gone_assessments)),
        (5, 'complexity_agreements', (SELECT count(*) FROM gone_agreements)),
        (6, 'step_promotions', (SELECT count(*) FROM gone_promotions)),
        (7, 'complexity_runs', (SELECT count(*) FROM gone_runs)),
        (8, 'threshold_changes', (SELECT count(*) FROM gone_thresholds)),
        (9, 'navigation_links', (SELECT count(*) FROM gone_links)),
        (10, 'navigation_cursors', (SELECT count(*) FROM gone_cursors))
    ) AS found (place, name, rows)
    WHERE found.rows > 0
    ORDER BY found.place;
    PERFORM public.recalculate_project_progress(project) FROM unnest(miscounted) AS project;
END
$function$;

COMMENT ON FUNCTION public.cleanup_orphans() IS
'Deletes rows whose parent is gone, and what hangs on them; foreign keys let none come about, unless they were bypassed (session_replication_role, a restore with disabled triggers). One row for each table with removals: table_name, removed. A promotion without its step and a run without an end are no orphans. Writers wait while it runs; busy tables give SQLSTATE MP006. Only for the owner.';
REVOKE EXECUTE ON FUNCTION public.cleanup_orphans() FROM PUBLIC;
