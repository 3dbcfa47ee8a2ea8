CREATE OR REPLACE FUNCTION public.complexity_summary(project uuid)
RETURNS TABLE (
    steps bigint, assessed_steps bigint, low bigint, medium bigint, high bigint, mean_score double precision,
    agreement_rate double precision, escalations bigint, promotions bigint, threshold double precision, steps_above_threshold bigint
)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
    WITH latest AS (
        SELECT DISTINCT ON (step_id) step_id, level, score FROM public.complexity_assessments
        WHERE project_id = $1 ORDER BY step_id, iteration DESC, assessed_at DESC, agent DESC
    ), settled AS (
        SELECT DISTINCT ON (step_id) step_id, final_level, final_score FROM public.complexity_agreements
        WHERE project_id = $1 AND agreed ORDER BY step_id, iteration DESC
    ), assessed AS (
        SELECT coalesce(settled.final_level, latest.level) AS level, coalesce(settled.final_score, latest.score) AS score
        FROM latest LEFT JOIN settled USING (step_id)
    ), distribution AS (
        SELECT count(*) AS steps, count(*) FILTER (WHERE level = 'LOW') AS low, count(*) FILTER (WHERE level = 'MEDIUM') AS medium,
            count(*) FILTER (WHERE level = 'HIGH') AS high,
            -- numeric: the sum of doubles would depend on the order of the rows
            avg(score::numeric)::double precision AS mean,
            count(*) FILTER (WHERE score > (SELECT complexity_threshold FROM public.projects WHERE id = $1)) AS above
        FROM assessed
    ), rounds AS (
        SELECT (count(*) FILTER (WHERE agreed))::double precision / nullif(count(*), 0) AS rate,
            count(*) FILTER (WHERE resolution = 'ESCALATED') AS escalated
        FROM public.complexity_agreements WHERE project_id = $1
    )
    SELECT (SELECT count(*) FROM public.steps WHERE project_id = $1), distribution.steps, distribution.low, distribution.medium,
        distribution.high, distribution.mean, rounds.rate, rounds.escalated,
        (SELECT count(*) FROM public.step_promotions WHERE project_id = $1), projects.complexity_threshold, distribution.above
    FROM public.projects, distribution, rounds
    WHERE projects.id = $1
$function$;

COMMENT ON FUNCTION public.complexity_summary(uuid) IS
'One row about a project, none for one that does not exist. Columns: steps (all of it), assessed_steps (with an assessment), low, medium, high (assessed steps by the level last agreed on, else the one last assessed), mean_score (of the same, null without any), agreement_rate (agreed rounds of all, 0 to 1, null without any), escalations (rounds), promotions, threshold, steps_above_threshold (assessed steps with a score above it).';
