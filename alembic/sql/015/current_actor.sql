CREATE OR REPLACE FUNCTION public.current_actor(OUT user_id varchar, OUT agent public.ai_agent, OUT metadata jsonb)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_variable
DECLARE
    who varchar := left(nullif(current_setting('planner.user_id', true), ''), 255);
    said text := nullif(current_setting('planner.ai_agent', true), '');
BEGIN
    -- Whatever somebody has put into the settings: a change is never refused because of who made it.
    IF said IS NULL THEN  -- asked first: = ANY makes the list of agents
        current_actor.user_id := coalesce(who, 'system');
    ELSIF said = ANY (enum_range(NULL::public.ai_agent)::text[]) THEN
        current_actor.user_id := who;
        current_actor.agent := said::public.ai_agent;
    ELSE
        current_actor.user_id := coalesce(who, 'system');
        current_actor.metadata := jsonb_build_object('unknown_ai_agent', left(said, 255));
    END IF;
END
$function$;

COMMENT ON FUNCTION public.current_actor() IS
'One row: user_id, agent, metadata. Who acts, from planner.user_id and planner.ai_agent; user_id is system where neither is set. An agent that is none comes back in metadata.';
