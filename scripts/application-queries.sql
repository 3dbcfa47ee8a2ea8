-- What the application asks of the database. scripts/staging-deploy.sh runs each before and after a rehearsed migration, and
-- compares times and plans; tests/test_queries.py says which index each is to use.
--
-- "-- query: name" stands above each, and :name in it is a parameter. "-- parameter: name" stands above a query that finds a
-- value for one in the rows that are there, and may use those above it. What no row gives is left out.

-- parameter: project
SELECT project_id FROM steps GROUP BY project_id ORDER BY count(*) DESC, project_id LIMIT 1;

-- parameter: small
SELECT coalesce(
    (SELECT project_id FROM disputes WHERE status = 'PENDING' AND project_id <> :project ORDER BY created_at, id LIMIT 1),
    (SELECT id FROM projects WHERE id <> :project ORDER BY id LIMIT 1)
);

-- parameter: since
SELECT to_timestamp(avg(extract(epoch FROM occurred_at))) FROM audit_logs WHERE project_id = :small;

-- parameter: step
SELECT id FROM steps WHERE project_id = :project ORDER BY created_at, id OFFSET 10 LIMIT 1;

-- parameter: task
SELECT task_id FROM steps WHERE id = :step;

-- parameter: parent
SELECT parent_task_id FROM tasks WHERE project_id = :project AND parent_task_id IS NOT NULL ORDER BY id LIMIT 1;

-- parameter: disputed
SELECT step_id FROM disputes WHERE project_id = :project ORDER BY created_at, id LIMIT 1;

-- parameter: promoted
SELECT step_id FROM step_promotions WHERE project_id = :project ORDER BY promoted_at, id LIMIT 1;

-- parameter: reference
SELECT 'step://' || :step;

-- parameter: actor
SELECT actor FROM navigation_cursors WHERE project_id = :project ORDER BY actor LIMIT 1;

-- parameter: position
SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY position) FROM navigation_links WHERE project_id = :project;

-- parameter: updated_at
SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY updated_at) FROM projects;

-- parameter: words
SELECT substring(title FROM '\w{4,}') FROM steps WHERE title ~ '\w{4,}' ORDER BY created_at, id LIMIT 1;

-- query: dashboard
SELECT id, name, progress, updated_at, (
    SELECT count(*) FROM disputes WHERE disputes.project_id = projects.id AND disputes.status = 'PENDING'
) AS pending_disputes
FROM projects ORDER BY updated_at DESC, id DESC LIMIT 20;

-- query: dashboard's next page
SELECT id, name, progress, updated_at FROM projects
WHERE (updated_at, id) < (:updated_at, :small) ORDER BY updated_at DESC, id DESC LIMIT 20;

-- query: work queue of the server AI
SELECT id, task_id, title, created_at FROM steps WHERE project_id = :project AND status = 'PENDING'
ORDER BY created_at, id LIMIT 20;

-- query: work queue of the client AI
SELECT id, task_id, title, server_content FROM steps WHERE project_id = :project AND status = 'CLIENT_REVIEW'
ORDER BY created_at, id LIMIT 20;

-- query: work queue of the user
SELECT id, task_id, title, status FROM steps
WHERE project_id = :project AND status IN ('DISPUTED', 'USER_RESOLUTION')
ORDER BY created_at, id LIMIT 20;

-- query: open steps by status
SELECT status, count(*), min(created_at) FROM steps WHERE project_id = :project AND status <> 'AGREED'
GROUP BY status;

-- query: steps above the threshold
SELECT id, task_id, title, complexity_score FROM steps
WHERE project_id = :project
    AND complexity_score > (SELECT complexity_threshold FROM projects WHERE id = :project)
ORDER BY complexity_score DESC LIMIT 20;

-- query: pending disputes
SELECT disputes.id, disputes.step_id, disputes.created_at, projects.name
FROM disputes JOIN projects ON projects.id = disputes.project_id
WHERE disputes.status = 'PENDING' ORDER BY disputes.created_at, disputes.id LIMIT 20;

-- query: pending disputes of a project
SELECT disputes.id, disputes.created_at, disputes.server_reasoning, disputes.client_reasoning, steps.title
FROM disputes JOIN steps ON steps.project_id = disputes.project_id AND steps.id = disputes.step_id
WHERE disputes.project_id = :small AND disputes.status = 'PENDING'
ORDER BY disputes.created_at, disputes.id LIMIT 20;

-- query: disputes of a step
SELECT id, status, user_resolution, resolved_content, created_at FROM disputes
WHERE project_id = :project AND step_id = :disputed ORDER BY created_at;

-- query: search in steps
SELECT id, project_id, title FROM steps
WHERE to_tsvector('english', (title || ' ') || left(coalesce(final_content, ''), 50000)) @@ websearch_to_tsquery('english', :words)
ORDER BY ts_rank(to_tsvector('english', (title || ' ') || left(coalesce(final_content, ''), 50000)), websearch_to_tsquery('english', :words)) DESC LIMIT 20;

-- query: search in the steps of a project
SELECT id, task_id, title FROM steps
WHERE project_id = :project AND to_tsvector('english', (title || ' ') || left(coalesce(final_content, ''), 50000)) @@ websearch_to_tsquery('english', :words)
ORDER BY updated_at DESC LIMIT 20;

-- query: search in tasks
SELECT id, project_id, title FROM tasks
WHERE to_tsvector('english', (title || ' ') || left(objective, 50000)) @@ websearch_to_tsquery('english', :words)
ORDER BY ts_rank(to_tsvector('english', (title || ' ') || left(objective, 50000)), websearch_to_tsquery('english', :words)) DESC LIMIT 20;

-- query: root tasks
SELECT id, title, progress FROM tasks WHERE project_id = :project AND parent_task_id IS NULL ORDER BY title;

-- query: sub-tasks
SELECT id, title, progress FROM tasks WHERE project_id = :project AND parent_task_id = :parent ORDER BY title;

-- query: steps of a task
SELECT id, title, status, progress FROM steps WHERE project_id = :project AND task_id = :task ORDER BY title;

-- query: next item
SELECT link.to_ref FROM navigation_cursors stands
JOIN navigation_links link ON link.project_id = stands.project_id
    AND link.from_ref = coalesce('task://' || stands.current_task_id, 'step://' || stands.current_step_id)
WHERE stands.project_id = :project AND stands.actor = :actor;

-- query: next step to do
SELECT * FROM steps WHERE project_id = :project AND finished IS NOT TRUE AND progress < 1
ORDER BY chain_position, created_at, id LIMIT 1;

-- query: next task to do
SELECT * FROM tasks WHERE project_id = :project AND finished IS NOT TRUE AND progress < 1
ORDER BY chain_position, created_at, id LIMIT 1;

-- query: next step of a task
SELECT * FROM steps WHERE task_id = :task AND finished IS NOT TRUE AND progress < 1
ORDER BY chain_position, created_at, id LIMIT 1;

-- query: next sub-task of a task
SELECT * FROM tasks WHERE parent_task_id = :parent AND finished IS NOT TRUE AND progress < 1
ORDER BY chain_position, created_at, id LIMIT 1;

-- query: circles of a project
SELECT from_ref FROM navigation_links WHERE project_id = :project AND closes_circle;

-- query: successor
SELECT to_ref, position FROM navigation_links WHERE project_id = :project AND from_ref = :reference;

-- query: predecessor
SELECT from_ref, position FROM navigation_links WHERE project_id = :project AND to_ref = :reference;

-- query: chain
WITH RECURSIVE chain (reference, depth) AS (
    VALUES (:reference, 0)
    UNION ALL
    SELECT link.to_ref, chain.depth + 1 FROM chain
    JOIN navigation_links link ON link.project_id = :project AND link.from_ref = chain.reference
    WHERE chain.depth < 100
)
SELECT reference, depth FROM chain;

-- query: links of a project in order
SELECT from_ref, to_ref, position FROM navigation_links
WHERE project_id = :project AND position > :position ORDER BY position LIMIT 100;

-- query: where an actor stands
SELECT current_task_id, current_step_id FROM navigation_cursors WHERE project_id = :project AND actor = :actor;

-- query: who stands at a step
SELECT actor FROM navigation_cursors WHERE project_id = :project AND current_step_id = :step;

-- query: tasks whose previous item is
SELECT id FROM tasks WHERE prev_id = :reference;

-- query: tasks whose next item is
SELECT id FROM tasks WHERE next_id = :reference;

-- query: steps whose previous item is
SELECT id FROM steps WHERE prev_id = :reference;

-- query: steps whose next item is
SELECT id FROM steps WHERE next_id = :reference;

-- query: latest assessments of a step
SELECT DISTINCT ON (agent) agent, iteration, level, score, confidence FROM complexity_assessments
WHERE project_id = :project AND step_id = :step ORDER BY agent DESC, iteration DESC;

-- query: latest agreement of a step
SELECT iteration, agreed, final_level, final_score, resolution FROM complexity_agreements
WHERE project_id = :project AND step_id = :step ORDER BY iteration DESC LIMIT 1;

-- query: latest runs
SELECT started_at, finished_at, steps_promoted, convergence_reason FROM complexity_runs
WHERE project_id = :project ORDER BY started_at DESC LIMIT 10;

-- query: latest thresholds
SELECT changed_at, old_threshold, new_threshold, changed_by FROM threshold_changes
WHERE project_id = :project ORDER BY changed_at DESC LIMIT 10;

-- query: what a step became
SELECT new_task_id, reason FROM step_promotions WHERE project_id = :project AND step_id = :promoted;

-- query: what a task was
SELECT step_title, reason, preserved_content FROM step_promotions
WHERE project_id = :project AND new_task_id = :task;

-- query: audit trail
SELECT * FROM entity_audit_trail('STEP', :step, 50);

-- query: recent activity
SELECT * FROM recent_activity(:small, 50, NULL);

-- query: activity since
SELECT * FROM recent_activity(:small, 50, :since);
