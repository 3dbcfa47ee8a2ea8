CREATE OR REPLACE FUNCTION public.lock_ancestors(tasks uuid[]) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_variable
DECLARE
    at uuid := lock_ancestors.tasks[1];
BEGIN
    -- Deepest first, and equally deep ones by id: whoever locks several tasks of a tree does it in this one order, so that
    -- two statements wait for each other one way only. The project's row comes after all of them.
    IF cardinality(lock_ancestors.tasks) = 1 THEN
        WHILE at IS NOT NULL LOOP
            SELECT parent_task_id INTO at FROM public.tasks WHERE id = at FOR NO KEY UPDATE;
        END LOOP;
        RETURN;
    END IF;
    BEGIN
        -- A task that is being moved is locked before the ones it moves below, which may be deeper: wait for the moves that
        -- are under way, and let none begin before these locks are there. Held to the end of the transaction instead, it
        -- would be in the way of a move in the same transaction.
        PERFORM pg_advisory_lock_shared(1296256073, 1);  -- see lock_task_tree
        PERFORM FROM public.tasks task
        JOIN (
            WITH RECURSIVE up AS (
                SELECT id AS start, id AS at, parent_task_id AS above, 1 AS height
                FROM public.tasks WHERE id = ANY (lock_ancestors.tasks)
                UNION ALL
                SELECT up.start, above.id, above.parent_task_id, up.height + 1
                FROM up JOIN public.tasks above ON above.id = up.above
            )
            SELECT up.at, max(roots.height - up.height) AS depth
            FROM up JOIN (SELECT start, max(height) AS height FROM up GROUP BY start) roots USING (start)
            GROUP BY up.at
        ) above ON above.at = task.id
        ORDER BY above.depth DESC, task.id
        FOR NO KEY UPDATE OF task;
        PERFORM pg_advisory_unlock_shared(1296256073, 1);
    EXCEPTION WHEN query_canceled OR OTHERS THEN
        -- A session's advisory lock outlives the failure.
        PERFORM pg_advisory_unlock_shared(1296256073, 1) FROM pg_locks
        WHERE locktype = 'advisory' AND pid = pg_backend_pid() AND mode = 'ShareLock' AND granted
            AND classid = 1296256073 AND objid = 1 AND objsubid = 2
            AND database = (SELECT oid FROM pg_database WHERE datname = current_database());
        RAISE;
    END;
END
$function$;

COMMENT ON FUNCTION public.lock_ancestors(uuid[]) IS
'Locks tasks and all above them, FOR NO KEY UPDATE, deepest first; for triggers that change rows up the tree. No project. For several tasks it waits for moves of tasks that are under way.';
