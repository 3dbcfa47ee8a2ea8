-- The schema at revision 024, written by `make schema-sql` from alembic/catalog; a test fails when it is stale.
-- For readers and for diffs: sorted by kind and name, no script. Views, functions and expressions are as PostgreSQL shows them.

CREATE TYPE public.ai_agent AS ENUM ('SERVER_AI', 'CLIENT_AI');

CREATE TYPE public.audit_action AS ENUM ('CREATED', 'UPDATED', 'DELETED', 'PROMOTED', 'DISPUTED', 'RESOLVED', 'COMPLETED');

CREATE TYPE public.complexity_level AS ENUM ('LOW', 'MEDIUM', 'HIGH');

CREATE TYPE public.complexity_resolution AS ENUM ('CONSENSUS', 'WEIGHTED', 'ESCALATED');

CREATE TYPE public.dispute_status AS ENUM ('PENDING', 'RESOLVED');

CREATE TYPE public.entity_type AS ENUM ('PROJECT', 'TASK', 'STEP', 'DISPUTE');

CREATE TYPE public.resolution_type AS ENUM ('SERVER', 'CLIENT', 'CUSTOM', 'HYBRID');

CREATE TYPE public.step_status AS ENUM ('PENDING', 'SERVER_DRAFT', 'CLIENT_REVIEW', 'AGREED', 'DISPUTED', 'USER_RESOLUTION');

CREATE TABLE public.audit_logs (  -- partitioned by RANGE (occurred_at)
    id uuid not null default gen_random_uuid(),
    entity_type public.entity_type not null,  -- Kind of the row that changed.
    entity_id uuid not null,  -- Id of the row that changed; it may be gone by now.
    action public.audit_action not null,  -- What happened to it.
    old_values jsonb,  -- Values before; for an update only the columns that changed.
    new_values jsonb,  -- Values after; for an update only the columns that changed.
    metadata jsonb,  -- Context of the change beyond the row itself.
    user_id character varying(255),  -- User who acted, from the setting planner.user_id; system where no actor is set.
    ai_agent public.ai_agent,  -- Agent that acted, from the setting planner.ai_agent.
    occurred_at timestamp with time zone not null default now(),  -- Time of the change; partition key.
    project_id uuid,  -- Project of the row that changed; null in rows from before it was logged. No foreign key.
    CONSTRAINT pk_audit_logs PRIMARY KEY (occurred_at, id)
);
CREATE INDEX ix_audit_logs_entity_type_entity_id_occurred_at ON ONLY public.audit_logs USING btree (entity_type, entity_id, occurred_at);
CREATE INDEX ix_audit_logs_project_id_occurred_at ON ONLY public.audit_logs USING btree (project_id, occurred_at);
COMMENT ON TABLE public.audit_logs IS 'Every change of projects, tasks, steps and disputes; only grows, partitioned by month.';

CREATE TABLE public.audit_logs_default (  -- ordinary partition of public.audit_logs DEFAULT
    id uuid not null default gen_random_uuid() inherited,
    entity_type public.entity_type not null inherited,
    entity_id uuid not null inherited,
    action public.audit_action not null inherited,
    old_values jsonb inherited,
    new_values jsonb inherited,
    metadata jsonb inherited,
    user_id character varying(255) inherited,
    ai_agent public.ai_agent inherited,
    occurred_at timestamp with time zone not null default now() inherited,
    project_id uuid inherited
);
COMMENT ON TABLE public.audit_logs_default IS 'Catches what no monthly partition covers, so no write fails.';

CREATE TABLE public.complexity_agreements (  -- ordinary
    id uuid not null default gen_random_uuid(),
    project_id uuid not null,  -- Project of the agreement, always its step's.
    step_id uuid not null,  -- Step of the same project; one row per iteration.
    iteration integer not null,  -- Round of the negotiation; not negative.
    agreed boolean not null,  -- Whether the two assessments agreed.
    final_level public.complexity_level,  -- Level that holds from here on; null where none was found.
    final_score double precision,  -- Score that holds from here on, 0 to 1; null where none was found.
    should_promote boolean,  -- Whether the step is to become a task; null where undecided.
    resolution public.complexity_resolution not null,  -- How the outcome was reached.
    created_at timestamp with time zone not null default now(),
    CONSTRAINT ck_complexity_agreements_final_score_range CHECK (((final_score >= (0)::double precision) AND (final_score <= (1)::double precision))),
    CONSTRAINT ck_complexity_agreements_iteration_not_negative CHECK ((iteration >= 0)),
    CONSTRAINT fk_complexity_agreements_project_id_step_id_steps FOREIGN KEY (project_id, step_id) REFERENCES public.steps(project_id, id) ON DELETE CASCADE,
    CONSTRAINT pk_complexity_agreements PRIMARY KEY (id),
    CONSTRAINT uq_complexity_agreements_project_id_step_id_iteration UNIQUE (project_id, step_id, iteration)
);
CREATE TRIGGER complexity_agreements_10_fill_project_id BEFORE INSERT ON public.complexity_agreements FOR EACH ROW WHEN ((new.project_id IS NULL)) EXECUTE FUNCTION public.fill_project_id();
COMMENT ON TABLE public.complexity_agreements IS 'What the two assessments of a step and iteration came to.';
COMMENT ON TRIGGER complexity_agreements_10_fill_project_id on public.complexity_agreements IS 'Lets releases that know no project_id insert rows.';

CREATE TABLE public.complexity_assessments (  -- ordinary
    id uuid not null default gen_random_uuid(),
    project_id uuid not null,  -- Project of the assessment, always its step's.
    step_id uuid not null,  -- Step of the same project that was assessed.
    agent public.ai_agent not null,  -- Who judged; once per step and iteration.
    iteration integer not null,  -- Round of the negotiation; not negative.
    level public.complexity_level not null,  -- The judgement.
    score double precision not null,  -- The judgement as a number, 0 to 1.
    reasoning text,  -- Why the agent judges so.
    should_promote boolean not null default false,  -- Whether the agent would make the step a task.
    confidence double precision not null,  -- How sure the agent is, 0 to 1.
    suggested_breakdown jsonb not null default '[]'::jsonb,  -- Array of the parts the agent would split the step into.
    metrics jsonb not null default '{}'::jsonb,  -- Object of what was measured: content length, code blocks, list items and the like.
    assessed_at timestamp with time zone not null default now(),
    CONSTRAINT ck_complexity_assessments_confidence_range CHECK (((confidence >= (0)::double precision) AND (confidence <= (1)::double precision))),
    CONSTRAINT ck_complexity_assessments_iteration_not_negative CHECK ((iteration >= 0)),
    CONSTRAINT ck_complexity_assessments_metrics_is_object CHECK ((jsonb_typeof(metrics) = 'object'::text)),
    CONSTRAINT ck_complexity_assessments_score_range CHECK (((score >= (0)::double precision) AND (score <= (1)::double precision))),
    CONSTRAINT ck_complexity_assessments_suggested_breakdown_is_array CHECK ((jsonb_typeof(suggested_breakdown) = 'array'::text)),
    CONSTRAINT fk_complexity_assessments_project_id_step_id_steps FOREIGN KEY (project_id, step_id) REFERENCES public.steps(project_id, id) ON DELETE CASCADE,
    CONSTRAINT pk_complexity_assessments PRIMARY KEY (id),
    CONSTRAINT uq_complexity_assessments_project_id_step_id_agent_iteration UNIQUE (project_id, step_id, agent, iteration)
);
CREATE TRIGGER complexity_assessments_10_fill_project_id BEFORE INSERT ON public.complexity_assessments FOR EACH ROW WHEN ((new.project_id IS NULL)) EXECUTE FUNCTION public.fill_project_id();
COMMENT ON TABLE public.complexity_assessments IS 'How complex one agent judged a step in one iteration.';
COMMENT ON TRIGGER complexity_assessments_10_fill_project_id on public.complexity_assessments IS 'Lets releases that know no project_id insert rows.';

CREATE TABLE public.complexity_levels (  -- ordinary
    level public.complexity_level not null,  -- The level; one row each.
    lowest_score double precision not null,  -- Score, 0 to 1, from which the level holds, up to where the next begins.
    title character varying(255) not null,  -- What people call it; not blank.
    description text not null,  -- What it says about a step; not blank.
    CONSTRAINT ck_complexity_levels_description_not_blank CHECK (((description COLLATE "C") ~ '[^\s\u0085\u00a0\u1680\u180e\u2000-\u200f\u2028\u2029\u202f\u205f\u2060\u3000\ufeff]'::text)),
    CONSTRAINT ck_complexity_levels_lowest_score_range CHECK (((lowest_score >= (0)::double precision) AND (lowest_score <= (1)::double precision))),
    CONSTRAINT ck_complexity_levels_title_not_blank CHECK ((((title)::text COLLATE "C") ~ '[^\s\u0085\u00a0\u1680\u180e\u2000-\u200f\u2028\u2029\u202f\u205f\u2060\u3000\ufeff]'::text)),
    CONSTRAINT pk_complexity_levels PRIMARY KEY (level),
    CONSTRAINT uq_complexity_levels_lowest_score UNIQUE (lowest_score)
);
COMMENT ON TABLE public.complexity_levels IS 'Reference data: what each complexity level means. Filled by its revision, of no project.';

CREATE TABLE public.complexity_runs (  -- ordinary
    id uuid not null default gen_random_uuid(),
    project_id uuid not null,  -- Project that was optimised.
    threshold double precision not null,  -- complexity_threshold that the run used, 0 to 1.
    iterations_used integer not null default 0,  -- Passes made; not negative, at most iterations_allowed.
    steps_analysed integer not null default 0,  -- Steps looked at; not negative.
    steps_promoted integer not null default 0,  -- Steps made tasks; not negative.
    convergence_reason text,  -- Why the run stopped; null while it is under way.
    started_at timestamp with time zone not null default now(),
    finished_at timestamp with time zone,  -- Null while the run is under way.
    iterations_allowed integer not null,  -- Passes that were allowed; at least 1.
    CONSTRAINT ck_complexity_runs_iterations_allowed_positive CHECK ((iterations_allowed > 0)),
    CONSTRAINT ck_complexity_runs_iterations_used_not_negative CHECK ((iterations_used >= 0)),
    CONSTRAINT ck_complexity_runs_iterations_used_within_limit CHECK ((iterations_used <= iterations_allowed)),
    CONSTRAINT ck_complexity_runs_steps_analysed_not_negative CHECK ((steps_analysed >= 0)),
    CONSTRAINT ck_complexity_runs_steps_promoted_not_negative CHECK ((steps_promoted >= 0)),
    CONSTRAINT ck_complexity_runs_threshold_range CHECK (((threshold >= (0)::double precision) AND (threshold <= (1)::double precision))),
    CONSTRAINT fk_complexity_runs_project_id_projects FOREIGN KEY (project_id) REFERENCES public.projects(id) ON DELETE CASCADE,
    CONSTRAINT pk_complexity_runs PRIMARY KEY (id)
);
CREATE INDEX ix_complexity_runs_project_id_started_at ON public.complexity_runs USING btree (project_id, started_at);
COMMENT ON TABLE public.complexity_runs IS 'One optimisation of a project: what was allowed, what it did and why it stopped.';

CREATE TABLE public.disputes (  -- ordinary
    id uuid not null default gen_random_uuid(),
    project_id uuid not null,  -- Project of the dispute, always its step's; filled from the step when left out.
    step_id uuid not null,  -- Step of the same project; one PENDING dispute at a time.
    server_content text not null,  -- Version of the server AI; not blank.
    client_content text not null,  -- Version of the client AI; not blank.
    server_reasoning text not null,  -- Why the server AI insists; not blank.
    client_reasoning text not null,  -- Why the client AI insists; not blank.
    status public.dispute_status not null default 'PENDING'::public.dispute_status,  -- RESOLVED exactly when user_resolution, resolved_content and resolved_at are present.
    user_resolution public.resolution_type,  -- Whose version the user chose; present when RESOLVED only.
    resolved_content text,  -- What the user settled on, not blank; present when RESOLVED only.
    resolved_at timestamp with time zone,  -- When the user settled it; present when RESOLVED only.
    created_at timestamp with time zone not null default now(),
    updated_at timestamp with time zone not null default now(),  -- Time of the last change; kept by trigger.
    CONSTRAINT ck_disputes_client_content_not_blank CHECK (((client_content COLLATE "C") ~ '[^\s\u0085\u00a0\u1680\u180e\u2000-\u200f\u2028\u2029\u202f\u205f\u2060\u3000\ufeff]'::text)),
    CONSTRAINT ck_disputes_client_reasoning_not_blank CHECK (((client_reasoning COLLATE "C") ~ '[^\s\u0085\u00a0\u1680\u180e\u2000-\u200f\u2028\u2029\u202f\u205f\u2060\u3000\ufeff]'::text)),
    CONSTRAINT ck_disputes_resolution_when_resolved CHECK ((num_nonnulls(user_resolution, resolved_content, resolved_at) =
CASE status
    WHEN 'RESOLVED'::public.dispute_status THEN 3
    ELSE 0
END)),
    CONSTRAINT ck_disputes_resolved_content_not_blank CHECK (((resolved_content COLLATE "C") ~ '[^\s\u0085\u00a0\u1680\u180e\u2000-\u200f\u2028\u2029\u202f\u205f\u2060\u3000\ufeff]'::text)),
    CONSTRAINT ck_disputes_server_content_not_blank CHECK (((server_content COLLATE "C") ~ '[^\s\u0085\u00a0\u1680\u180e\u2000-\u200f\u2028\u2029\u202f\u205f\u2060\u3000\ufeff]'::text)),
    CONSTRAINT ck_disputes_server_reasoning_not_blank CHECK (((server_reasoning COLLATE "C") ~ '[^\s\u0085\u00a0\u1680\u180e\u2000-\u200f\u2028\u2029\u202f\u205f\u2060\u3000\ufeff]'::text)),
    CONSTRAINT fk_disputes_project_id_projects FOREIGN KEY (project_id) REFERENCES public.projects(id) ON DELETE CASCADE,
    CONSTRAINT fk_disputes_project_id_step_id_steps FOREIGN KEY (project_id, step_id) REFERENCES public.steps(project_id, id) ON DELETE CASCADE,
    CONSTRAINT pk_disputes PRIMARY KEY (id)
);
CREATE INDEX ix_disputes_created_at_id_pending ON public.disputes USING btree (created_at, id) WHERE (status = 'PENDING'::public.dispute_status);
CREATE INDEX ix_disputes_project_id_step_id ON public.disputes USING btree (project_id, step_id);
CREATE UNIQUE INDEX uq_disputes_project_id_step_id_pending ON public.disputes USING btree (project_id, step_id) WHERE (status = 'PENDING'::public.dispute_status);
CREATE TRIGGER disputes_10_fill_project_id BEFORE INSERT ON public.disputes FOR EACH ROW WHEN ((new.project_id IS NULL)) EXECUTE FUNCTION public.fill_project_id();
CREATE TRIGGER disputes_45_audit_delete AFTER DELETE ON public.disputes REFERENCING OLD TABLE AS before FOR EACH STATEMENT EXECUTE FUNCTION public.write_audit_log();
CREATE TRIGGER disputes_45_audit_insert AFTER INSERT ON public.disputes REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION public.write_audit_log();
CREATE TRIGGER disputes_45_audit_truncate BEFORE TRUNCATE ON public.disputes FOR EACH STATEMENT EXECUTE FUNCTION public.write_audit_log();
CREATE TRIGGER disputes_45_audit_update AFTER UPDATE ON public.disputes REFERENCING OLD TABLE AS before NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION public.write_audit_log();
CREATE TRIGGER disputes_90_touch_updated_at BEFORE UPDATE ON public.disputes FOR EACH ROW WHEN ((old.* IS DISTINCT FROM new.*)) EXECUTE FUNCTION public.touch_updated_at();
COMMENT ON TABLE public.disputes IS 'A step the two agents could not agree on, for a user to settle.';
COMMENT ON TRIGGER disputes_10_fill_project_id on public.disputes IS 'Lets releases that know no project_id insert rows.';
COMMENT ON TRIGGER disputes_45_audit_delete on public.disputes IS 'Each deleted row is logged with what it held.';
COMMENT ON TRIGGER disputes_45_audit_insert on public.disputes IS 'Each new row is logged.';
COMMENT ON TRIGGER disputes_45_audit_truncate on public.disputes IS 'Truncation logs each row as deleted; with CASCADE too.';
COMMENT ON TRIGGER disputes_45_audit_update on public.disputes IS 'Each row that changed is logged with what changed in it.';
COMMENT ON TRIGGER disputes_90_touch_updated_at on public.disputes IS 'Keeps updated_at; an update that changes nothing leaves it alone.';

CREATE TABLE public.navigation_cursors (  -- ordinary
    id uuid not null default gen_random_uuid(),
    project_id uuid not null,  -- Project of the current item.
    actor character varying(255) not null,  -- Agent or user; not blank, one cursor per project.
    current_task_id uuid,  -- Current item, if a task: exactly one of this and current_step_id.
    current_step_id uuid,  -- Current item, if a step: exactly one of this and current_task_id.
    updated_at timestamp with time zone not null default now(),  -- Time of the last change; kept by trigger.
    CONSTRAINT ck_navigation_cursors_actor_not_blank CHECK ((((actor)::text COLLATE "C") ~ '[^\s\u0085\u00a0\u1680\u180e\u2000-\u200f\u2028\u2029\u202f\u205f\u2060\u3000\ufeff]'::text)),
    CONSTRAINT ck_navigation_cursors_current_exactly_one CHECK ((num_nonnulls(current_task_id, current_step_id) = 1)),
    CONSTRAINT fk_navigation_cursors_project_id_current_step_id_steps FOREIGN KEY (project_id, current_step_id) REFERENCES public.steps(project_id, id) ON DELETE CASCADE,
    CONSTRAINT fk_navigation_cursors_project_id_current_task_id_tasks FOREIGN KEY (project_id, current_task_id) REFERENCES public.tasks(project_id, id) ON DELETE CASCADE,
    CONSTRAINT pk_navigation_cursors PRIMARY KEY (id),
    CONSTRAINT uq_navigation_cursors_project_id_actor UNIQUE (project_id, actor)
);
CREATE INDEX ix_navigation_cursors_project_id_current_step_id ON public.navigation_cursors USING btree (project_id, current_step_id) WHERE (current_step_id IS NOT NULL);
CREATE INDEX ix_navigation_cursors_project_id_current_task_id ON public.navigation_cursors USING btree (project_id, current_task_id) WHERE (current_task_id IS NOT NULL);
CREATE TRIGGER navigation_cursors_10_fill_project_id BEFORE INSERT ON public.navigation_cursors FOR EACH ROW WHEN ((new.project_id IS NULL)) EXECUTE FUNCTION public.fill_project_id();
CREATE TRIGGER navigation_cursors_90_touch_updated_at BEFORE UPDATE ON public.navigation_cursors FOR EACH ROW WHEN ((old.* IS DISTINCT FROM new.*)) EXECUTE FUNCTION public.touch_updated_at();
COMMENT ON TABLE public.navigation_cursors IS 'Where an agent or user stands in a project.';
COMMENT ON TRIGGER navigation_cursors_10_fill_project_id on public.navigation_cursors IS 'Lets releases that know no project_id insert rows.';
COMMENT ON TRIGGER navigation_cursors_90_touch_updated_at on public.navigation_cursors IS 'Keeps updated_at; an update that changes nothing leaves it alone.';

CREATE TABLE public.navigation_links (  -- ordinary
    id uuid not null default gen_random_uuid(),
    project_id uuid not null,  -- Project of both ends.
    from_task_id uuid,  -- Where the link starts, if a task: exactly one of this and from_step_id.
    from_step_id uuid,  -- Where the link starts, if a step: exactly one of this and from_task_id.
    to_task_id uuid,  -- Where the link leads, if to a task: exactly one of this and to_step_id.
    to_step_id uuid,  -- Where the link leads, if to a step: exactly one of this and to_task_id.
    from_ref text generated stored COALESCE(('task://'::text || (from_task_id)::text), ('step://'::text || (from_step_id)::text)),  -- Start as a reference; unique in the project: an item has at most one successor.
    to_ref text generated stored COALESCE(('task://'::text || (to_task_id)::text), ('step://'::text || (to_step_id)::text)),  -- Target as a reference; unique in the project: an item has at most one predecessor.
    "position" bigint not null default '-9223372036854775808'::bigint,  -- Order within the project; gaps are allowed.
    closes_circle boolean not null default false,  -- Whether the link leads back to the beginning of its chain; kept by trigger.
    CONSTRAINT ck_navigation_links_ends_differ CHECK ((from_ref <> to_ref)),
    CONSTRAINT ck_navigation_links_from_exactly_one CHECK ((num_nonnulls(from_task_id, from_step_id) = 1)),
    CONSTRAINT ck_navigation_links_to_exactly_one CHECK ((num_nonnulls(to_task_id, to_step_id) = 1)),
    CONSTRAINT fk_navigation_links_project_id_from_step_id_steps FOREIGN KEY (project_id, from_step_id) REFERENCES public.steps(project_id, id) ON DELETE CASCADE,
    CONSTRAINT fk_navigation_links_project_id_from_task_id_tasks FOREIGN KEY (project_id, from_task_id) REFERENCES public.tasks(project_id, id) ON DELETE CASCADE,
    CONSTRAINT fk_navigation_links_project_id_to_step_id_steps FOREIGN KEY (project_id, to_step_id) REFERENCES public.steps(project_id, id) ON DELETE CASCADE,
    CONSTRAINT fk_navigation_links_project_id_to_task_id_tasks FOREIGN KEY (project_id, to_task_id) REFERENCES public.tasks(project_id, id) ON DELETE CASCADE,
    CONSTRAINT pk_navigation_links PRIMARY KEY (id),
    CONSTRAINT uq_navigation_links_from_ref_project_id UNIQUE (from_ref, project_id),
    CONSTRAINT uq_navigation_links_to_ref_project_id UNIQUE (to_ref, project_id)
);
CREATE INDEX ix_navigation_links_project_id_closes_circle ON public.navigation_links USING btree (project_id) WHERE closes_circle;
CREATE INDEX ix_navigation_links_project_id_from_step_id ON public.navigation_links USING btree (project_id, from_step_id) WHERE (from_step_id IS NOT NULL);
CREATE INDEX ix_navigation_links_project_id_from_task_id ON public.navigation_links USING btree (project_id, from_task_id) WHERE (from_task_id IS NOT NULL);
CREATE INDEX ix_navigation_links_project_id_position ON public.navigation_links USING btree (project_id, "position");
CREATE INDEX ix_navigation_links_project_id_to_step_id ON public.navigation_links USING btree (project_id, to_step_id) WHERE (to_step_id IS NOT NULL);
CREATE INDEX ix_navigation_links_project_id_to_task_id ON public.navigation_links USING btree (project_id, to_task_id) WHERE (to_task_id IS NOT NULL);
CREATE TRIGGER navigation_links_04_lock_chains BEFORE INSERT OR DELETE OR UPDATE ON public.navigation_links FOR EACH STATEMENT WHEN ((pg_trigger_depth() = 0)) EXECUTE FUNCTION public.lock_chains();
CREATE TRIGGER navigation_links_10_fill_project_id BEFORE INSERT ON public.navigation_links FOR EACH ROW WHEN ((new.project_id IS NULL)) EXECUTE FUNCTION public.fill_project_id();
CREATE TRIGGER navigation_links_40_mirror_delete AFTER DELETE ON public.navigation_links REFERENCING OLD TABLE AS before FOR EACH STATEMENT EXECUTE FUNCTION public.mirror_links();
CREATE TRIGGER navigation_links_40_mirror_insert AFTER INSERT ON public.navigation_links REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION public.mirror_links();
CREATE TRIGGER navigation_links_40_mirror_truncate AFTER TRUNCATE ON public.navigation_links FOR EACH STATEMENT EXECUTE FUNCTION public.mirror_links();
CREATE TRIGGER navigation_links_40_mirror_update AFTER UPDATE ON public.navigation_links REFERENCING OLD TABLE AS before NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION public.mirror_links();
COMMENT ON TABLE public.navigation_links IS 'One hop of the prev/next chain, from a task or step to the next.';
COMMENT ON TRIGGER navigation_links_04_lock_chains on public.navigation_links IS 'Serialises changes of chains, before the first row is locked.';
COMMENT ON TRIGGER navigation_links_10_fill_project_id on public.navigation_links IS 'Lets releases that know no project_id insert rows.';
COMMENT ON TRIGGER navigation_links_40_mirror_delete on public.navigation_links IS 'A link that goes takes its two references along.';
COMMENT ON TRIGGER navigation_links_40_mirror_insert on public.navigation_links IS 'Both ends of a new link refer to each other.';
COMMENT ON TRIGGER navigation_links_40_mirror_truncate on public.navigation_links IS 'Without links there are no references.';
COMMENT ON TRIGGER navigation_links_40_mirror_update on public.navigation_links IS 'References follow the ends of a changed link.';

CREATE TABLE public.projects (  -- ordinary
    id uuid not null default gen_random_uuid(),
    name character varying(255) not null,  -- Not blank.
    description text not null,  -- Not blank.
    progress double precision not null default 0,  -- Share done, 0 to 1; mean over the root tasks.
    created_at timestamp with time zone not null default now(),
    updated_at timestamp with time zone not null default now(),  -- Time of the last change; kept by trigger.
    complexity_threshold double precision not null default 0.7,  -- Complexity score, 0 to 1, above which a step is promoted to a task.
    max_iterations integer not null default 3,  -- Rounds the two agents may take over a step; at least 1.
    child_count integer default 0,  -- Number of root tasks; kept by trigger, null until counted.
    child_progress numeric(38,15) default 0,  -- Sum of the progress of root tasks, each at 15 decimals; kept by trigger, null until counted.
    CONSTRAINT ck_projects_complexity_threshold_range CHECK (((complexity_threshold >= (0)::double precision) AND (complexity_threshold <= (1)::double precision))),
    CONSTRAINT ck_projects_description_not_blank CHECK (((description COLLATE "C") ~ '[^\s\u0085\u00a0\u1680\u180e\u2000-\u200f\u2028\u2029\u202f\u205f\u2060\u3000\ufeff]'::text)),
    CONSTRAINT ck_projects_max_iterations_positive CHECK ((max_iterations > 0)),
    CONSTRAINT ck_projects_name_not_blank CHECK ((((name)::text COLLATE "C") ~ '[^\s\u0085\u00a0\u1680\u180e\u2000-\u200f\u2028\u2029\u202f\u205f\u2060\u3000\ufeff]'::text)),
    CONSTRAINT ck_projects_progress_range CHECK (((progress >= (0)::double precision) AND (progress <= (1)::double precision))),
    CONSTRAINT pk_projects PRIMARY KEY (id)
);
CREATE INDEX ix_projects_updated_at_id ON public.projects USING btree (updated_at, id);
CREATE TRIGGER projects_45_audit_delete AFTER DELETE ON public.projects REFERENCING OLD TABLE AS before FOR EACH STATEMENT EXECUTE FUNCTION public.write_audit_log();
CREATE TRIGGER projects_45_audit_insert AFTER INSERT ON public.projects REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION public.write_audit_log();
CREATE TRIGGER projects_45_audit_truncate BEFORE TRUNCATE ON public.projects FOR EACH STATEMENT EXECUTE FUNCTION public.write_audit_log();
CREATE TRIGGER projects_45_audit_update AFTER UPDATE ON public.projects FOR EACH ROW EXECUTE FUNCTION public.write_audit_row();
CREATE TRIGGER projects_50_derive_progress_insert BEFORE INSERT ON public.projects FOR EACH ROW WHEN (((new.child_count IS DISTINCT FROM 0) OR (new.child_progress IS DISTINCT FROM (0)::numeric) OR (new.progress IS DISTINCT FROM (0)::double precision))) EXECUTE FUNCTION public.derive_progress();
CREATE TRIGGER projects_50_derive_progress_update BEFORE UPDATE OF child_count, child_progress, progress ON public.projects FOR EACH ROW EXECUTE FUNCTION public.derive_progress();
CREATE TRIGGER projects_80_record_threshold AFTER INSERT OR UPDATE OF complexity_threshold ON public.projects FOR EACH ROW EXECUTE FUNCTION public.record_threshold_change();
CREATE TRIGGER projects_90_touch_updated_at BEFORE UPDATE ON public.projects FOR EACH ROW WHEN ((new.updated_at <> now())) EXECUTE FUNCTION public.touch_updated_at();
COMMENT ON TABLE public.projects IS 'A project that agents break down into tasks and steps.';
COMMENT ON TRIGGER projects_45_audit_delete on public.projects IS 'Each deleted row is logged with what it held.';
COMMENT ON TRIGGER projects_45_audit_insert on public.projects IS 'Each new row is logged.';
COMMENT ON TRIGGER projects_45_audit_truncate on public.projects IS 'Truncation logs each row as deleted; with CASCADE too.';
COMMENT ON TRIGGER projects_45_audit_update on public.projects IS 'A row that changed is logged with what changed in it. For each row: transition tables would cost one row more than its log.';
COMMENT ON TRIGGER projects_50_derive_progress_insert on public.projects IS 'A new row has no children yet, whatever the statement says.';
COMMENT ON TRIGGER projects_50_derive_progress_update on public.projects IS 'Keeps progress equal to its counters; what an older release writes there has no effect.';
COMMENT ON TRIGGER projects_80_record_threshold on public.projects IS 'Writes threshold_changes.';
COMMENT ON TRIGGER projects_90_touch_updated_at on public.projects IS 'Keeps updated_at, unless it is the start of this transaction already; an update that changes nothing leaves it alone.';

CREATE TABLE public.step_promotions (  -- ordinary
    id uuid not null default gen_random_uuid(),
    project_id uuid not null,  -- Project of the step and of the task it became.
    step_id uuid not null,  -- Id the step had; kept after the step is gone. Promoted once.
    step_title character varying(255) not null,  -- Title the step had; not blank.
    new_task_id uuid not null,  -- Task of the same project that the step became.
    reason text not null,  -- Why it was promoted; not blank.
    complexity_score double precision,  -- Score that tipped it, 0 to 1; null where a user decided.
    preserved_content text,  -- What the step had to say when it was promoted.
    promoted_at timestamp with time zone not null default now(),
    CONSTRAINT ck_step_promotions_complexity_score_range CHECK (((complexity_score >= (0)::double precision) AND (complexity_score <= (1)::double precision))),
    CONSTRAINT ck_step_promotions_reason_not_blank CHECK (((reason COLLATE "C") ~ '[^\s\u0085\u00a0\u1680\u180e\u2000-\u200f\u2028\u2029\u202f\u205f\u2060\u3000\ufeff]'::text)),
    CONSTRAINT ck_step_promotions_step_title_not_blank CHECK ((((step_title)::text COLLATE "C") ~ '[^\s\u0085\u00a0\u1680\u180e\u2000-\u200f\u2028\u2029\u202f\u205f\u2060\u3000\ufeff]'::text)),
    CONSTRAINT fk_step_promotions_project_id_new_task_id_tasks FOREIGN KEY (project_id, new_task_id) REFERENCES public.tasks(project_id, id) ON DELETE CASCADE,
    CONSTRAINT pk_step_promotions PRIMARY KEY (id),
    CONSTRAINT uq_step_promotions_project_id_new_task_id UNIQUE (project_id, new_task_id),
    CONSTRAINT uq_step_promotions_project_id_step_id UNIQUE (project_id, step_id)
);
CREATE TRIGGER step_promotions_10_fill_project_id BEFORE INSERT ON public.step_promotions FOR EACH ROW WHEN ((new.project_id IS NULL)) EXECUTE FUNCTION public.fill_project_id();
COMMENT ON TABLE public.step_promotions IS 'A step that became a task of its own.';
COMMENT ON TRIGGER step_promotions_10_fill_project_id on public.step_promotions IS 'Lets releases that know no project_id insert rows.';

CREATE TABLE public.steps (  -- ordinary
    id uuid not null default gen_random_uuid(),
    project_id uuid not null,  -- Project of the step, always its task's; filled from the task when left out.
    task_id uuid not null,  -- Task of the same project that the step belongs to.
    title character varying(255) not null,  -- Not blank; unique among its siblings.
    prev_id character varying(50),  -- Reference to the previous item, task://<uuid> or step://<uuid>; kept equal to navigation_links.
    next_id character varying(50),  -- Reference to the next item, task://<uuid> or step://<uuid>; kept equal to navigation_links.
    progress double precision not null default 0,  -- Share done, 0 to 1; 1 once the step is agreed.
    server_content text,  -- Draft of the server AI.
    client_content text,  -- Version of the client AI.
    final_content text,  -- What was agreed; required, and not blank, when the status is AGREED.
    iteration_count integer not null default 0,  -- Rounds taken so far; not negative.
    max_iterations_reached boolean not null default false,  -- Whether the agents used up the project's max_iterations.
    status public.step_status not null default 'PENDING'::public.step_status,  -- Where the negotiation stands; AGREED requires final_content.
    server_ready boolean not null default false,  -- Whether the server AI considers its draft complete.
    client_approved boolean not null default false,  -- Whether the client AI accepts the draft.
    server_complexity public.complexity_level,  -- Latest judgement of the server AI.
    client_complexity public.complexity_level,  -- Latest judgement of the client AI.
    agreed_complexity public.complexity_level,  -- What both agents settled on.
    complexity_score double precision,  -- 0 to 1; null until assessed.
    should_promote boolean,  -- Whether the step should become a task; null until assessed.
    created_at timestamp with time zone not null default now(),
    updated_at timestamp with time zone not null default now(),  -- Time of the last change; kept by trigger.
    chain_position bigint,  -- Place in the chain, greater than that of the item before; kept by trigger, null outside of chains.
    finished boolean default false,  -- Whether progress is 1; kept by trigger, null until looked at.
    CONSTRAINT ck_steps_agreed_has_final_content CHECK (((status <> 'AGREED'::public.step_status) OR ((final_content IS NOT NULL) AND ((final_content COLLATE "C") ~ '[^\s\u0085\u00a0\u1680\u180e\u2000-\u200f\u2028\u2029\u202f\u205f\u2060\u3000\ufeff]'::text)))),
    CONSTRAINT ck_steps_complexity_score_range CHECK (((complexity_score >= (0)::double precision) AND (complexity_score <= (1)::double precision))),
    CONSTRAINT ck_steps_iteration_count_not_negative CHECK ((iteration_count >= 0)),
    CONSTRAINT ck_steps_next_id_form CHECK (((next_id)::text ~ '^(task|step)://[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'::text)),
    CONSTRAINT ck_steps_next_id_not_itself CHECK (((next_id)::text <> ('step://'::text || (id)::text))),
    CONSTRAINT ck_steps_prev_id_form CHECK (((prev_id)::text ~ '^(task|step)://[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'::text)),
    CONSTRAINT ck_steps_prev_id_not_itself CHECK (((prev_id)::text <> ('step://'::text || (id)::text))),
    CONSTRAINT ck_steps_progress_range CHECK (((progress >= (0)::double precision) AND (progress <= (1)::double precision))),
    CONSTRAINT ck_steps_title_not_blank CHECK ((((title)::text COLLATE "C") ~ '[^\s\u0085\u00a0\u1680\u180e\u2000-\u200f\u2028\u2029\u202f\u205f\u2060\u3000\ufeff]'::text)),
    CONSTRAINT fk_steps_project_id_task_id_tasks FOREIGN KEY (project_id, task_id) REFERENCES public.tasks(project_id, id) ON DELETE CASCADE,
    CONSTRAINT pk_steps PRIMARY KEY (id),
    CONSTRAINT uq_steps_project_id_id UNIQUE (project_id, id),
    CONSTRAINT uq_steps_project_id_task_id_title UNIQUE (project_id, task_id, title)
);
CREATE INDEX ix_steps_next_id ON public.steps USING btree (next_id) WHERE (next_id IS NOT NULL);
CREATE INDEX ix_steps_prev_id ON public.steps USING btree (prev_id) WHERE (prev_id IS NOT NULL);
CREATE INDEX ix_steps_project_id_complexity_score ON public.steps USING btree (project_id, complexity_score) WHERE (complexity_score IS NOT NULL);
CREATE INDEX ix_steps_project_id_status_created_at_id ON public.steps USING btree (project_id, status, created_at, id) WHERE (status <> 'AGREED'::public.step_status);
CREATE INDEX ix_steps_project_id_unfinished ON public.steps USING btree (project_id, chain_position, created_at, id) WHERE (finished IS NOT TRUE);
CREATE INDEX ix_steps_search ON public.steps USING gin (to_tsvector('english'::regconfig, (((title)::text || ' '::text) || "left"(COALESCE(final_content, ''::text), 50000))));
CREATE INDEX ix_steps_task_id_unfinished ON public.steps USING btree (task_id, chain_position, created_at, id) WHERE (finished IS NOT TRUE);
CREATE TRIGGER steps_04_lock_chains BEFORE DELETE OR UPDATE OF prev_id, next_id ON public.steps FOR EACH STATEMENT WHEN ((pg_trigger_depth() = 0)) EXECUTE FUNCTION public.lock_chains();
CREATE TRIGGER steps_10_fill_project_id BEFORE INSERT ON public.steps FOR EACH ROW WHEN ((new.project_id IS NULL)) EXECUTE FUNCTION public.fill_project_id();
CREATE TRIGGER steps_20_check_status BEFORE UPDATE OF status ON public.steps FOR EACH ROW WHEN ((old.status IS DISTINCT FROM new.status)) EXECUTE FUNCTION public.check_step_status();
CREATE TRIGGER steps_30_complete_agreed BEFORE INSERT OR UPDATE ON public.steps FOR EACH ROW WHEN ((new.status = 'AGREED'::public.step_status)) EXECUTE FUNCTION public.complete_agreed_step();
CREATE TRIGGER steps_40_link_insert AFTER INSERT ON public.steps REFERENCING NEW TABLE AS changed FOR EACH ROW WHEN (((new.prev_id IS NOT NULL) OR (new.next_id IS NOT NULL))) EXECUTE FUNCTION public.link_items();
CREATE TRIGGER steps_40_link_update AFTER UPDATE ON public.steps REFERENCING OLD TABLE AS before NEW TABLE AS changed FOR EACH ROW WHEN ((((old.prev_id)::text IS DISTINCT FROM (new.prev_id)::text) OR ((old.next_id)::text IS DISTINCT FROM (new.next_id)::text))) EXECUTE FUNCTION public.link_items();
CREATE TRIGGER steps_45_audit_delete AFTER DELETE ON public.steps REFERENCING OLD TABLE AS before FOR EACH STATEMENT EXECUTE FUNCTION public.write_audit_log();
CREATE TRIGGER steps_45_audit_insert AFTER INSERT ON public.steps REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION public.write_audit_log();
CREATE TRIGGER steps_45_audit_truncate BEFORE TRUNCATE ON public.steps FOR EACH STATEMENT EXECUTE FUNCTION public.write_audit_log();
CREATE TRIGGER steps_45_audit_update AFTER UPDATE ON public.steps REFERENCING OLD TABLE AS before NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION public.write_audit_log();
CREATE TRIGGER steps_50_recount_truncate AFTER TRUNCATE ON public.steps FOR EACH STATEMENT EXECUTE FUNCTION public.recount_progress();
CREATE TRIGGER steps_50_roll_up_delete AFTER DELETE ON public.steps REFERENCING OLD TABLE AS removed FOR EACH STATEMENT EXECUTE FUNCTION public.roll_up_steps();
CREATE TRIGGER steps_50_roll_up_insert AFTER INSERT ON public.steps REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION public.roll_up_steps();
CREATE TRIGGER steps_50_roll_up_update AFTER UPDATE ON public.steps REFERENCING OLD TABLE AS removed NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION public.roll_up_steps();
CREATE TRIGGER steps_60_derive_finished BEFORE INSERT OR UPDATE ON public.steps FOR EACH ROW WHEN ((new.finished IS DISTINCT FROM (new.progress >= '1'::double precision))) EXECUTE FUNCTION public.derive_finished();
CREATE TRIGGER steps_60_keep_place_insert BEFORE INSERT ON public.steps FOR EACH ROW WHEN ((new.chain_position IS NOT NULL)) EXECUTE FUNCTION public.keep_place();
CREATE TRIGGER steps_60_keep_place_update BEFORE UPDATE OF chain_position ON public.steps FOR EACH ROW WHEN ((old.chain_position IS DISTINCT FROM new.chain_position)) EXECUTE FUNCTION public.keep_place();
CREATE TRIGGER steps_90_touch_updated_at BEFORE UPDATE ON public.steps FOR EACH ROW WHEN ((new.updated_at <> now())) EXECUTE FUNCTION public.touch_updated_at();
COMMENT ON TABLE public.steps IS 'The smallest unit of work, negotiated between server AI and client AI.';
COMMENT ON TRIGGER steps_04_lock_chains on public.steps IS 'Serialises changes of chains, before the first row is locked.';
COMMENT ON TRIGGER steps_10_fill_project_id on public.steps IS 'Lets releases that know no project_id insert rows.';
COMMENT ON TRIGGER steps_20_check_status on public.steps IS 'Refuses illegal status moves; staying put is always allowed, and an insert may carry any status.';
COMMENT ON TRIGGER steps_30_complete_agreed on public.steps IS 'AGREED sets progress to 1.';
COMMENT ON TRIGGER steps_40_link_insert on public.steps IS 'Turns references of new rows into links. For each row only because WHEN then costs other rows nothing.';
COMMENT ON TRIGGER steps_40_link_update on public.steps IS 'Turns changed references into links. For each row only because WHEN then costs other rows nothing.';
COMMENT ON TRIGGER steps_45_audit_delete on public.steps IS 'Each deleted row is logged with what it held.';
COMMENT ON TRIGGER steps_45_audit_insert on public.steps IS 'Each new row is logged.';
COMMENT ON TRIGGER steps_45_audit_truncate on public.steps IS 'Truncation logs each row as deleted; with CASCADE too.';
COMMENT ON TRIGGER steps_45_audit_update on public.steps IS 'Each row that changed is logged with what changed in it.';
COMMENT ON TRIGGER steps_50_recount_truncate on public.steps IS 'A TRUNCATE names no rows: all that is left is counted anew.';
COMMENT ON TRIGGER steps_50_roll_up_delete on public.steps IS 'Progress flows up: once a statement, whatever its number of rows.';
COMMENT ON TRIGGER steps_50_roll_up_insert on public.steps IS 'Progress flows up: once a statement, whatever its number of rows.';
COMMENT ON TRIGGER steps_50_roll_up_update on public.steps IS 'Progress flows up: once a statement, whatever its number of rows.';
COMMENT ON TRIGGER steps_60_derive_finished on public.steps IS 'Follows progress, whatever a statement writes there.';
COMMENT ON TRIGGER steps_60_keep_place_insert on public.steps IS 'The place in the chain is not the application''s to write.';
COMMENT ON TRIGGER steps_60_keep_place_update on public.steps IS 'The place in the chain is not the application''s to write.';
COMMENT ON TRIGGER steps_90_touch_updated_at on public.steps IS 'Keeps updated_at, unless it is the start of this transaction already; an update that changes nothing leaves it alone.';

CREATE TABLE public.tasks (  -- ordinary
    id uuid not null default gen_random_uuid(),
    project_id uuid not null,  -- Project of the task; filled from the parent task when left out.
    parent_task_id uuid,  -- Parent task of the same project, never the task itself; null for a root task.
    title character varying(255) not null,  -- Not blank; unique among its siblings.
    objective text not null,  -- Not blank.
    progress double precision not null default 0,  -- Share done, 0 to 1; mean over direct steps and sub-tasks.
    prev_id character varying(50),  -- Reference to the previous item, task://<uuid> or step://<uuid>; kept equal to navigation_links.
    next_id character varying(50),  -- Reference to the next item, task://<uuid> or step://<uuid>; kept equal to navigation_links.
    created_at timestamp with time zone not null default now(),
    updated_at timestamp with time zone not null default now(),  -- Time of the last change; kept by trigger.
    child_count integer default 0,  -- Number of direct steps and sub-tasks; kept by trigger, null until counted.
    child_progress numeric(38,15) default 0,  -- Sum of the progress of direct steps and sub-tasks, each at 15 decimals; kept by trigger, null until counted.
    chain_position bigint,  -- Place in the chain, greater than that of the item before; kept by trigger, null outside of chains.
    finished boolean default false,  -- Whether progress is 1; kept by trigger, null until looked at.
    CONSTRAINT ck_tasks_next_id_form CHECK (((next_id)::text ~ '^(task|step)://[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'::text)),
    CONSTRAINT ck_tasks_next_id_not_itself CHECK (((next_id)::text <> ('task://'::text || (id)::text))),
    CONSTRAINT ck_tasks_objective_not_blank CHECK (((objective COLLATE "C") ~ '[^\s\u0085\u00a0\u1680\u180e\u2000-\u200f\u2028\u2029\u202f\u205f\u2060\u3000\ufeff]'::text)),
    CONSTRAINT ck_tasks_parent_task_id_not_itself CHECK ((parent_task_id <> id)),
    CONSTRAINT ck_tasks_prev_id_form CHECK (((prev_id)::text ~ '^(task|step)://[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'::text)),
    CONSTRAINT ck_tasks_prev_id_not_itself CHECK (((prev_id)::text <> ('task://'::text || (id)::text))),
    CONSTRAINT ck_tasks_progress_range CHECK (((progress >= (0)::double precision) AND (progress <= (1)::double precision))),
    CONSTRAINT ck_tasks_title_not_blank CHECK ((((title)::text COLLATE "C") ~ '[^\s\u0085\u00a0\u1680\u180e\u2000-\u200f\u2028\u2029\u202f\u205f\u2060\u3000\ufeff]'::text)),
    CONSTRAINT fk_tasks_project_id_parent_task_id_tasks FOREIGN KEY (project_id, parent_task_id) REFERENCES public.tasks(project_id, id) ON DELETE CASCADE,
    CONSTRAINT fk_tasks_project_id_projects FOREIGN KEY (project_id) REFERENCES public.projects(id) ON DELETE CASCADE,
    CONSTRAINT pk_tasks PRIMARY KEY (id),
    CONSTRAINT uq_tasks_project_id_id UNIQUE (project_id, id)
);
CREATE INDEX ix_tasks_next_id ON public.tasks USING btree (next_id) WHERE (next_id IS NOT NULL);
CREATE INDEX ix_tasks_parent_task_id_unfinished ON public.tasks USING btree (parent_task_id, chain_position, created_at, id) WHERE (finished IS NOT TRUE);
CREATE INDEX ix_tasks_prev_id ON public.tasks USING btree (prev_id) WHERE (prev_id IS NOT NULL);
CREATE INDEX ix_tasks_project_id_unfinished ON public.tasks USING btree (project_id, chain_position, created_at, id) WHERE (finished IS NOT TRUE);
CREATE INDEX ix_tasks_search ON public.tasks USING gin (to_tsvector('english'::regconfig, (((title)::text || ' '::text) || "left"(objective, 50000))));
CREATE UNIQUE INDEX uq_tasks_project_id_parent_task_id_title ON public.tasks USING btree (project_id, parent_task_id, title) WHERE (parent_task_id IS NOT NULL);
CREATE UNIQUE INDEX uq_tasks_project_id_title_root ON public.tasks USING btree (project_id, title) WHERE (parent_task_id IS NULL);
CREATE TRIGGER tasks_04_lock_chains BEFORE DELETE OR UPDATE OF prev_id, next_id ON public.tasks FOR EACH STATEMENT WHEN ((pg_trigger_depth() = 0)) EXECUTE FUNCTION public.lock_chains();
CREATE TRIGGER tasks_05_lock_tree BEFORE UPDATE OF parent_task_id, project_id ON public.tasks FOR EACH STATEMENT EXECUTE FUNCTION public.lock_task_tree();
CREATE TRIGGER tasks_10_fill_project_id BEFORE INSERT ON public.tasks FOR EACH ROW WHEN ((new.project_id IS NULL)) EXECUTE FUNCTION public.fill_project_id();
CREATE TRIGGER tasks_40_check_move AFTER UPDATE OF parent_task_id ON public.tasks FOR EACH ROW WHEN (((old.parent_task_id IS DISTINCT FROM new.parent_task_id) AND (new.parent_task_id IS NOT NULL))) EXECUTE FUNCTION public.check_moved_task();
CREATE TRIGGER tasks_40_check_new AFTER INSERT ON public.tasks REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION public.check_new_tasks();
CREATE TRIGGER tasks_40_link_insert AFTER INSERT ON public.tasks REFERENCING NEW TABLE AS changed FOR EACH ROW WHEN (((new.prev_id IS NOT NULL) OR (new.next_id IS NOT NULL))) EXECUTE FUNCTION public.link_items();
CREATE TRIGGER tasks_40_link_update AFTER UPDATE ON public.tasks REFERENCING OLD TABLE AS before NEW TABLE AS changed FOR EACH ROW WHEN ((((old.prev_id)::text IS DISTINCT FROM (new.prev_id)::text) OR ((old.next_id)::text IS DISTINCT FROM (new.next_id)::text))) EXECUTE FUNCTION public.link_items();
CREATE TRIGGER tasks_45_audit_delete AFTER DELETE ON public.tasks REFERENCING OLD TABLE AS before FOR EACH STATEMENT EXECUTE FUNCTION public.write_audit_log();
CREATE TRIGGER tasks_45_audit_insert AFTER INSERT ON public.tasks REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION public.write_audit_log();
CREATE TRIGGER tasks_45_audit_truncate BEFORE TRUNCATE ON public.tasks FOR EACH STATEMENT EXECUTE FUNCTION public.write_audit_log();
CREATE TRIGGER tasks_45_audit_update AFTER UPDATE ON public.tasks FOR EACH ROW EXECUTE FUNCTION public.write_audit_row();
CREATE TRIGGER tasks_50_derive_progress_insert BEFORE INSERT ON public.tasks FOR EACH ROW WHEN (((new.child_count IS DISTINCT FROM 0) OR (new.child_progress IS DISTINCT FROM (0)::numeric) OR (new.progress IS DISTINCT FROM (0)::double precision))) EXECUTE FUNCTION public.derive_progress();
CREATE TRIGGER tasks_50_derive_progress_update BEFORE UPDATE OF child_count, child_progress, progress ON public.tasks FOR EACH ROW EXECUTE FUNCTION public.derive_progress();
CREATE TRIGGER tasks_50_recount_truncate AFTER TRUNCATE ON public.tasks FOR EACH STATEMENT EXECUTE FUNCTION public.recount_progress();
CREATE TRIGGER tasks_50_roll_up_delete AFTER DELETE ON public.tasks REFERENCING OLD TABLE AS removed FOR EACH STATEMENT EXECUTE FUNCTION public.roll_up_tasks();
CREATE TRIGGER tasks_50_roll_up_insert AFTER INSERT ON public.tasks REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION public.roll_up_tasks();
CREATE TRIGGER tasks_50_roll_up_update AFTER UPDATE ON public.tasks REFERENCING OLD TABLE AS removed NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION public.roll_up_tasks();
CREATE TRIGGER tasks_60_derive_finished BEFORE INSERT OR UPDATE ON public.tasks FOR EACH ROW WHEN ((new.finished IS DISTINCT FROM (new.progress >= '1'::double precision))) EXECUTE FUNCTION public.derive_finished();
CREATE TRIGGER tasks_60_keep_place_insert BEFORE INSERT ON public.tasks FOR EACH ROW WHEN ((new.chain_position IS NOT NULL)) EXECUTE FUNCTION public.keep_place();
CREATE TRIGGER tasks_60_keep_place_update BEFORE UPDATE OF chain_position ON public.tasks FOR EACH ROW WHEN ((old.chain_position IS DISTINCT FROM new.chain_position)) EXECUTE FUNCTION public.keep_place();
CREATE TRIGGER tasks_90_touch_updated_at BEFORE UPDATE ON public.tasks FOR EACH ROW WHEN ((new.updated_at <> now())) EXECUTE FUNCTION public.touch_updated_at();
COMMENT ON TABLE public.tasks IS 'A unit of work; tasks form a tree below their project.';
COMMENT ON TRIGGER tasks_04_lock_chains on public.tasks IS 'Serialises changes of chains, before the first row is locked; before tasks_05_lock_tree, so that the two are taken in one order.';
COMMENT ON TRIGGER tasks_05_lock_tree on public.tasks IS 'Serialises re-parenting, so that two moves which are harmless alone cannot make a circle together.';
COMMENT ON TRIGGER tasks_10_fill_project_id on public.tasks IS 'Lets releases that know no project_id insert rows.';
COMMENT ON TRIGGER tasks_40_check_move on public.tasks IS 'The tree stays a tree, at most 100 deep.';
COMMENT ON TRIGGER tasks_40_check_new on public.tasks IS 'The tree stays a tree, at most 100 deep.';
COMMENT ON TRIGGER tasks_40_link_insert on public.tasks IS 'Turns references of new rows into links. For each row only because WHEN then costs other rows nothing.';
COMMENT ON TRIGGER tasks_40_link_update on public.tasks IS 'Turns changed references into links. For each row only because WHEN then costs other rows nothing.';
COMMENT ON TRIGGER tasks_45_audit_delete on public.tasks IS 'Each deleted row is logged with what it held.';
COMMENT ON TRIGGER tasks_45_audit_insert on public.tasks IS 'Each new row is logged.';
COMMENT ON TRIGGER tasks_45_audit_truncate on public.tasks IS 'Truncation logs each row as deleted; with CASCADE too.';
COMMENT ON TRIGGER tasks_45_audit_update on public.tasks IS 'A row that changed is logged with what changed in it. For each row: transition tables would cost one row more than its log.';
COMMENT ON TRIGGER tasks_50_derive_progress_insert on public.tasks IS 'A new row has no children yet, whatever the statement says.';
COMMENT ON TRIGGER tasks_50_derive_progress_update on public.tasks IS 'Keeps progress equal to its counters; what an older release writes there has no effect.';
COMMENT ON TRIGGER tasks_50_recount_truncate on public.tasks IS 'A TRUNCATE names no rows: all that is left is counted anew.';
COMMENT ON TRIGGER tasks_50_roll_up_delete on public.tasks IS 'Progress flows up: once a statement, whatever its number of rows.';
COMMENT ON TRIGGER tasks_50_roll_up_insert on public.tasks IS 'Progress flows up: once a statement, whatever its number of rows.';
COMMENT ON TRIGGER tasks_50_roll_up_update on public.tasks IS 'Progress flows up: once a statement, whatever its number of rows.';
COMMENT ON TRIGGER tasks_60_derive_finished on public.tasks IS 'Follows progress, whatever a statement writes there.';
COMMENT ON TRIGGER tasks_60_keep_place_insert on public.tasks IS 'The place in the chain is not the application''s to write.';
COMMENT ON TRIGGER tasks_60_keep_place_update on public.tasks IS 'The place in the chain is not the application''s to write.';
COMMENT ON TRIGGER tasks_90_touch_updated_at on public.tasks IS 'Keeps updated_at, unless it is the start of this transaction already; an update that changes nothing leaves it alone.';

CREATE TABLE public.threshold_changes (  -- ordinary
    id uuid not null default gen_random_uuid(),
    project_id uuid not null,  -- Project whose complexity_threshold changed.
    old_threshold double precision,  -- Value before, 0 to 1; null for the first one.
    new_threshold double precision not null,  -- Value after, 0 to 1.
    changed_by character varying(255) not null default 'system'::character varying,  -- User or agent who changed it; system where no actor is set.
    changed_at timestamp with time zone not null default now(),
    CONSTRAINT ck_threshold_changes_new_threshold_range CHECK (((new_threshold >= (0)::double precision) AND (new_threshold <= (1)::double precision))),
    CONSTRAINT ck_threshold_changes_old_threshold_range CHECK (((old_threshold >= (0)::double precision) AND (old_threshold <= (1)::double precision))),
    CONSTRAINT fk_threshold_changes_project_id_projects FOREIGN KEY (project_id) REFERENCES public.projects(id) ON DELETE CASCADE,
    CONSTRAINT pk_threshold_changes PRIMARY KEY (id)
);
CREATE INDEX ix_threshold_changes_project_id_changed_at ON public.threshold_changes USING btree (project_id, changed_at);
COMMENT ON TABLE public.threshold_changes IS 'History of each project''s complexity_threshold; written by trigger.';

CREATE OR REPLACE FUNCTION public.audit_partitions()
 RETURNS TABLE(partition_name regclass, starts_at timestamp with time zone, ends_at timestamp with time zone)
 LANGUAGE sql
 STABLE
 SET search_path TO 'pg_catalog', 'pg_temp'
 SET "TimeZone" TO 'UTC'
 SET "DateStyle" TO 'ISO, YMD'
AS $function$
    -- The catalog shows bounds only as text, and MINVALUE and MAXVALUE without quotes.
    SELECT oid::regclass, coalesce(substring(bounds FROM 'FROM \(''([^'']+)''\)')::timestamptz, '-infinity'),
        coalesce(substring(bounds FROM 'TO \(''([^'']+)''\)')::timestamptz, 'infinity')
    FROM (
        SELECT partition.oid, pg_get_expr(partition.relpartbound, partition.oid) AS bounds
        FROM pg_inherits JOIN pg_class partition ON partition.oid = pg_inherits.inhrelid
        WHERE pg_inherits.inhparent = 'public.audit_logs'::regclass
    ) partitions
    WHERE bounds <> 'DEFAULT'
    ORDER BY 2
$function$;
COMMENT ON FUNCTION public.audit_partitions() IS 'Partitions of audit_logs in order of time, whoever made them, without audit_logs_default. Columns: partition_name, starts_at (inclusive), ends_at (exclusive); -infinity and infinity where there is no bound.';

CREATE OR REPLACE FUNCTION public.audit_statistics(since timestamp with time zone)
 RETURNS TABLE(entity_type public.entity_type, action public.audit_action, changes bigint, entities bigint, first_at timestamp with time zone, last_at timestamp with time zone)
 LANGUAGE sql
 STABLE
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
    SELECT log.entity_type, log.action, count(*), count(DISTINCT log.entity_id), min(log.occurred_at), max(log.occurred_at)
    FROM public.audit_logs log
    WHERE log.occurred_at >= coalesce($1, '-infinity')
    GROUP BY log.entity_type, log.action
    ORDER BY log.entity_type, log.action
$function$;
COMMENT ON FUNCTION PUBLIC.AUDIT_STATISTICS(TIMESTAMP WITH TIME zone) IS 'Audit rows since a time (NULL: all there are), one row for each kind and action that occurs. Columns: entity_type, action, changes (rows), entities (different items), first_at, last_at. Reads every row since then.';

COMMENT ON FUNCTION public.calculate_project_progress(pg_catalog.uuid) IS 'Progress of a project as it must be, counted from its steps; null for an unknown project. Reads all of the project.';

CREATE OR REPLACE FUNCTION public.calculate_project_progress(project uuid)
 RETURNS double precision
 LANGUAGE sql
 STABLE
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
    SELECT public.mean_progress(count(root.progress)::integer, sum(round(root.progress::numeric, 15)))
    FROM public.projects
    LEFT JOIN public.progress_tree(ARRAY(
        SELECT id FROM public.tasks
        WHERE project_id = calculate_project_progress.project AND parent_task_id IS NULL
    )) root ON root.height = 1
    WHERE projects.id = calculate_project_progress.project
    GROUP BY projects.id
$function$;

COMMENT ON FUNCTION public.calculate_task_progress(pg_catalog.uuid) IS 'Progress of a task as it must be, counted from the steps below it; null for an unknown task. Reads all below.';

CREATE OR REPLACE FUNCTION public.calculate_task_progress(task uuid)
 RETURNS double precision
 LANGUAGE sql
 STABLE
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
    SELECT progress FROM public.progress_tree(ARRAY[calculate_task_progress.task]) WHERE task_id = calculate_task_progress.task
    LIMIT 1
$function$;

COMMENT ON FUNCTION public.chain_position(pg_catalog.text) IS 'Place of an item in its chain; null for one that is in none, or does not exist.';

CREATE OR REPLACE FUNCTION public.chain_position(reference text)
 RETURNS bigint
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'pg_catalog', 'pg_temp'
 SET enable_seqscan TO 'off'
AS $function$
#variable_conflict use_variable
BEGIN
    IF reference LIKE 'task://%' THEN
        RETURN (SELECT chain_position FROM public.tasks WHERE id = substr(reference, 8)::uuid);
    END IF;
    RETURN (SELECT chain_position FROM public.steps WHERE id = substr(reference, 8)::uuid);
END
$function$;

COMMENT ON FUNCTION public.change_links(pg_catalog.uuid,pg_catalog.text[],pg_catalog.text[]) IS 'Makes links from froms[n] to tos[n]; where one of the two is null, the other end loses its link. Links in the way go. SQLSTATE MP005 where the arrays name an end twice. For triggers, which hold the lock of lock_chains.';

CREATE OR REPLACE FUNCTION public.change_links(project uuid, froms text[], tos text[])
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
 SET enable_seqscan TO 'off'
AS $function$
#variable_conflict use_variable
DECLARE
    contested record;
    gone_froms text[];
    gone_tos text[];
BEGIN
    SELECT * INTO contested FROM (
        SELECT asked.from_ref AS item, 'successor' AS what, string_agg(coalesce(asked.to_ref, 'none'), ' and ') AS ends
        FROM unnest(froms, tos) AS asked (from_ref, to_ref) WHERE asked.from_ref IS NOT NULL
        GROUP BY asked.from_ref HAVING count(*) > 1
        UNION ALL
        SELECT asked.to_ref, 'predecessor', string_agg(coalesce(asked.from_ref, 'none'), ' and ')
        FROM unnest(froms, tos) AS asked (from_ref, to_ref) WHERE asked.to_ref IS NOT NULL
        GROUP BY asked.to_ref HAVING count(*) > 1
    ) twice LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION USING
            ERRCODE = 'MP005', SCHEMA = 'public', TABLE = 'navigation_links',
            MESSAGE = format('%s would have more than one %s: %s', contested.item, contested.what, contested.ends),
            DETAIL = format('Project %s; prev_id and next_id of one statement contradict each other.', project),
            HINT = 'Let the next_id of an item and the prev_id of its successor say the same, or write only one of them.';
    END IF;
    PERFORM set_config('planner.linking', 'on', true);
    -- LATERAL with LIMIT, and the settings of this function: one look into the index for each, whatever the planner thought of
    -- the table when it made the plan that the session keeps. Nor is project_id asked: other indexes begin with it, and look as
    -- good on a table that was empty then. A reference is of one project only.
    WITH gone AS (
        DELETE FROM public.navigation_links WHERE id IN (
            SELECT link.id FROM unnest(froms, tos) AS asked (from_ref, to_ref) CROSS JOIN LATERAL (
                SELECT one.id, one.to_ref FROM public.navigation_links one
                WHERE one.from_ref = asked.from_ref LIMIT 1
            ) link WHERE link.to_ref IS DISTINCT FROM asked.to_ref
            UNION
            SELECT link.id FROM unnest(froms, tos) AS asked (from_ref, to_ref) CROSS JOIN LATERAL (
                SELECT one.id, one.from_ref FROM public.navigation_links one
                WHERE one.to_ref = asked.to_ref LIMIT 1
            ) link WHERE link.from_ref IS DISTINCT FROM asked.from_ref
        )
        RETURNING from_ref, to_ref
    )
    SELECT array_agg(from_ref), array_agg(to_ref) INTO gone_froms, gone_tos FROM gone;
    INSERT INTO public.navigation_links (project_id, from_task_id, from_step_id, to_task_id, to_step_id, position)
    SELECT change_links.project,
        CASE WHEN asked.from_ref LIKE 'task://%' THEN substr(asked.from_ref, 8)::uuid END,
        CASE WHEN asked.from_ref LIKE 'step://%' THEN substr(asked.from_ref, 8)::uuid END,
        CASE WHEN asked.to_ref LIKE 'task://%' THEN substr(asked.to_ref, 8)::uuid END,
        CASE WHEN asked.to_ref LIKE 'step://%' THEN substr(asked.to_ref, 8)::uuid END,
        coalesce(CASE WHEN asked.to_ref LIKE 'task://%'
            THEN (SELECT chain_position FROM public.tasks WHERE id = substr(asked.to_ref, 8)::uuid)
            ELSE (SELECT chain_position FROM public.steps WHERE id = substr(asked.to_ref, 8)::uuid) END,
            '-9223372036854775808')  -- not placed yet, see place_items
    FROM unnest(froms, tos) AS asked (from_ref, to_ref)
    WHERE asked.from_ref IS NOT NULL AND asked.to_ref IS NOT NULL AND asked.to_ref IS DISTINCT FROM (
        SELECT link.to_ref FROM public.navigation_links link
        WHERE link.from_ref = asked.from_ref
    );
    PERFORM public.mirror_references(froms || gone_froms, tos || gone_tos);
    PERFORM public.place_items(project, ARRAY(
        SELECT asked.from_ref FROM unnest(froms, tos) AS asked (from_ref, to_ref) WHERE asked.to_ref IS NOT NULL
    ), gone_froms IS NOT NULL);
    PERFORM set_config('planner.linking', '', true);
END
$function$;

CREATE OR REPLACE FUNCTION public.check_moved_task()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
#variable_conflict use_variable
DECLARE
    at uuid := NEW.parent_task_id;
    depth integer := 1;
    below integer;
BEGIN
    -- Other moves wait for tasks_05_lock_tree, inserts below for this row: nothing above or below changes meanwhile.
    WHILE at IS NOT NULL LOOP
        IF at = NEW.id THEN
            RAISE EXCEPTION USING
                ERRCODE = 'MP003', SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME, COLUMN = 'parent_task_id',
                MESSAGE = format('task %s would be its own ancestor below task %s', NEW.id, NEW.parent_task_id),
                DETAIL = format('"%s" of project %s.', NEW.title, NEW.project_id),
                HINT = 'Move the parent out of this task''s sub-tasks first, or choose another parent.';
        END IF;
        depth := depth + 1;
        EXIT WHEN depth > 100;  -- too deep, or a circle further up, of which another of the moved rows is part
        SELECT parent_task_id INTO at FROM public.tasks WHERE id = at;
    END LOOP;
    WITH RECURSIVE down AS (
        SELECT NEW.id AS at, 0 AS more
        UNION ALL
        SELECT tasks.id, down.more + 1 FROM down JOIN public.tasks ON tasks.parent_task_id = down.at
            AND tasks.project_id = NEW.project_id
        WHERE down.more <= 100 - depth
    )
    SELECT max(more) INTO below FROM down;
    IF depth + below > 100 THEN
        RAISE EXCEPTION USING
            ERRCODE = 'MP004', SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME, COLUMN = 'parent_task_id',
            MESSAGE = format('task %s%s would be more than 100 tasks deep', NEW.id, CASE WHEN below > 0 THEN ' or one below it' END),
            DETAIL = format('"%s" of project %s.', NEW.title, NEW.project_id),
            HINT = 'Choose a parent closer to the root; a root task has depth 1.';
    END IF;
    RETURN NULL;
END
$function$;
COMMENT ON FUNCTION public.check_moved_task() IS 'Trigger: a moved task gets into no circle (SQLSTATE MP003), and neither it nor what is below it is more than 100 deep (MP004).';

CREATE OR REPLACE FUNCTION public.check_new_tasks()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
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
COMMENT ON FUNCTION public.check_new_tasks() IS 'Trigger: new tasks make no circle (SQLSTATE MP003) and are at most 100 deep (MP004). Locks the tasks above them.';

CREATE OR REPLACE FUNCTION public.check_step_status()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
#variable_conflict use_variable
DECLARE
    allowed text[] := CASE OLD.status
        WHEN 'PENDING' THEN ARRAY['SERVER_DRAFT']
        WHEN 'SERVER_DRAFT' THEN ARRAY['CLIENT_REVIEW', 'DISPUTED']
        WHEN 'CLIENT_REVIEW' THEN ARRAY['AGREED', 'SERVER_DRAFT', 'DISPUTED']
        WHEN 'DISPUTED' THEN ARRAY['USER_RESOLUTION']
        WHEN 'USER_RESOLUTION' THEN ARRAY['AGREED']
        ELSE ARRAY[]::text[]
    END;
BEGIN
    IF NEW.status::text <> ALL (allowed) THEN
        RAISE EXCEPTION USING
            ERRCODE = 'MP001', SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME, COLUMN = 'status',
            MESSAGE = format('step %s cannot move from %s to %s', OLD.id, OLD.status, NEW.status),
            DETAIL = format('Step "%s" of task %s.', OLD.title, OLD.task_id),
            HINT = CASE WHEN allowed = '{}' THEN format('%s is final.', OLD.status)
                        ELSE format('From %s it moves to %s.', OLD.status, array_to_string(allowed, ' or ')) END;
    END IF;
    RETURN NEW;
END
$function$;
COMMENT ON FUNCTION public.check_step_status() IS 'Trigger: refuses a status move that the negotiation does not know, SQLSTATE MP001. AGREED is final.';

CREATE OR REPLACE FUNCTION public.cleanup_orphans()
 RETURNS TABLE(table_name text, removed bigint)
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
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
-- grants on function public.cleanup_orphans(): nobody
COMMENT ON FUNCTION public.cleanup_orphans() IS 'Deletes rows whose parent is gone, and what hangs on them; foreign keys let none come about, unless they were bypassed (session_replication_role, a restore with disabled triggers). One row for each table with removals: table_name, removed. A promotion without its step and a run without an end are no orphans. Writers wait while it runs; busy tables give SQLSTATE MP006. Only for the owner.';

CREATE OR REPLACE FUNCTION public.complete_agreed_step()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
#variable_conflict use_variable
BEGIN
    NEW.progress := 1;
    RETURN NEW;
END
$function$;
COMMENT ON FUNCTION public.complete_agreed_step() IS 'Trigger: an agreed step is done, whatever progress the statement gives it.';

COMMENT ON FUNCTION public.complexity_summary(pg_catalog.uuid) IS 'One row about a project, none for one that does not exist. Columns: steps (all of it), assessed_steps (with an assessment), low, medium, high (assessed steps by the level last agreed on, else the one last assessed), mean_score (of the same, null without any), agreement_rate (agreed rounds of all, 0 to 1, null without any), escalations (rounds), promotions, threshold, steps_above_threshold (assessed steps with a score above it).';

CREATE OR REPLACE FUNCTION public.complexity_summary(project uuid)
 RETURNS TABLE(steps bigint, assessed_steps bigint, low bigint, medium bigint, high bigint, mean_score double precision, agreement_rate double precision, escalations bigint, promotions bigint, threshold double precision, steps_above_threshold bigint)
 LANGUAGE sql
 STABLE
 SET search_path TO 'pg_catalog', 'pg_temp'
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

CREATE OR REPLACE FUNCTION public.create_audit_partition(month timestamp with time zone)
 RETURNS regclass
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
 SET "TimeZone" TO 'UTC'
 SET "DateStyle" TO 'ISO, YMD'
AS $function$
#variable_conflict use_variable
DECLARE
    name CONSTANT text := to_char(month, '"audit_logs_"YYYY_MM');
    made regclass := to_regclass(format('public.%I', name));
    held record;
BEGIN
    IF made IS NOT NULL OR to_regtype(format('public.%I', name)) IS NOT NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'MP007', SCHEMA = 'public', TABLE = name,
            MESSAGE = format('the name %s is taken by something else than the partition of that month', name),
            DETAIL = format('audit_logs has no partition for the month that begins at %s; nothing was changed.', month),
            HINT = format('Rename it (ALTER TABLE public.%1$I RENAME TO …), or attach it if it is that month: '
                'ALTER TABLE public.audit_logs ATTACH PARTITION public.%1$I FOR VALUES FROM (%2$L) TO (%3$L).',
                name, month, month + interval '1 month');
    END IF;
    -- Apart from audit_logs, with its indexes, so that attaching builds none; the check spares it reading the rows.
    EXECUTE format('CREATE TABLE public.%I (LIKE public.audit_logs INCLUDING ALL, '
        'CONSTRAINT maintenance_bounds CHECK (occurred_at >= %L AND occurred_at < %L))', name, month, month + interval '1 month');
    made := format('public.%I', name)::regclass;
    EXECUTE format('COMMENT ON TABLE %s IS %L', made, format('Audit rows of %s (UTC).', to_char(month, 'YYYY-MM')));
    SELECT pg_get_userbyid(parent.relowner) AS owner, parent.relowner = child.relowner AS same INTO held
    FROM pg_class parent, pg_class child WHERE parent.oid = 'public.audit_logs'::regclass AND child.oid = made;
    IF NOT held.same THEN
        EXECUTE format('ALTER TABLE %s OWNER TO %I', made, held.owner);
    END IF;
    -- Default privileges may have given more than the log's readers have.
    FOR held IN
        SELECT DISTINCT CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END AS grantee
        FROM pg_class CROSS JOIN aclexplode(relacl) acl WHERE oid = made AND acl.grantee <> relowner
    LOOP
        EXECUTE format('REVOKE ALL ON %s FROM %s', made, held.grantee);
    END LOOP;
    FOR held IN
        SELECT CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END AS grantee,
            string_agg(privilege_type, ', ') AS privileges, CASE WHEN is_grantable THEN ' WITH GRANT OPTION' ELSE '' END AS more
        FROM pg_class CROSS JOIN aclexplode(relacl) acl
        WHERE oid = 'public.audit_logs'::regclass AND acl.grantee <> relowner
        GROUP BY acl.grantee, is_grantable
    LOOP
        EXECUTE format('GRANT %s ON %s TO %s%s', held.privileges, made, held.grantee, held.more);
    END LOOP;
    RETURN made;
END
$function$;
-- grants on function public.create_audit_partition(timestamp with time zone): nobody
COMMENT ON FUNCTION PUBLIC.CREATE_AUDIT_PARTITION(TIMESTAMP WITH TIME zone) IS 'Makes the table audit_logs_YYYY_MM for the month that begins then in UTC, like audit_logs in columns, indexes, owner and privileges, not attached yet. A name that is taken is refused (SQLSTATE MP007). For maintain_audit_partitions.';

CREATE OR REPLACE FUNCTION public.current_actor(OUT user_id character varying, OUT agent public.ai_agent, OUT metadata jsonb)
 RETURNS record
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'pg_catalog', 'pg_temp'
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
COMMENT ON FUNCTION public.current_actor() IS 'One row: user_id, agent, metadata. Who acts, from planner.user_id and planner.ai_agent; user_id is system where neither is set. An agent that is none comes back in metadata.';

CREATE OR REPLACE FUNCTION public.derive_finished()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
#variable_conflict use_variable
BEGIN
    NEW.finished := NEW.progress >= 1;
    RETURN NEW;
END
$function$;
COMMENT ON FUNCTION public.derive_finished() IS 'Trigger: finished says whether progress is 1. A column of its own, because an index on progress would be written at every change of it.';

CREATE OR REPLACE FUNCTION public.derive_progress()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
#variable_conflict use_variable
BEGIN
    IF TG_OP = 'INSERT' THEN
        NEW.child_count := 0;
        NEW.child_progress := 0;
        NEW.progress := 0;
        RETURN NEW;
    END IF;
    -- Statements of the application are one trigger deep, the roll-up is deeper; recalculation says who it is.
    IF pg_trigger_depth() = 1 AND current_setting('planner.recalculating', true) IS DISTINCT FROM 'on' THEN
        NEW.child_count := OLD.child_count;
        NEW.child_progress := OLD.child_progress;
    END IF;
    -- Few expressions: each is prepared anew in each transaction. As mean_progress, written out: its call would cost as much as
    -- all the rest here.
    NEW.progress := CASE
        WHEN NEW.child_count IS NULL OR NEW.child_progress IS NULL THEN NEW.progress
        WHEN NEW.child_count > 0 THEN
            least(1, greatest(0, round(NEW.child_progress / NEW.child_count, 20)))::double precision
        ELSE 0 END;
    -- Spares the call of touch_updated_at.
    NEW.updated_at := CASE WHEN NEW.progress <> OLD.progress THEN now() ELSE NEW.updated_at END;
    RETURN NEW;
END
$function$;
COMMENT ON FUNCTION public.derive_progress() IS 'Trigger: progress follows from the counters, and the counters from the children, whatever a statement writes into them. A new row starts at 0; one whose counters are null (older than they are) keeps what it is given.';

COMMENT ON FUNCTION public.entity_audit_trail(public.entity_type,pg_catalog.uuid,integer) IS 'What happened to one item, latest first, at most "limit" rows (NULL: all). Columns: id, occurred_at, action, old_values, new_values, metadata, user_id, ai_agent, project_id (null in rows from before it was logged).';

CREATE OR REPLACE FUNCTION public.entity_audit_trail(entity public.entity_type, entity_id uuid, "limit" integer DEFAULT 100)
 RETURNS TABLE(id uuid, occurred_at timestamp with time zone, action public.audit_action, old_values jsonb, new_values jsonb, metadata jsonb, user_id character varying, ai_agent public.ai_agent, project_id uuid)
 LANGUAGE sql
 STABLE
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
    SELECT log.id, log.occurred_at, log.action, log.old_values, log.new_values, log.metadata, log.user_id, log.ai_agent, log.project_id
    FROM public.audit_logs log
    WHERE log.entity_type = $1 AND log.entity_id = $2
    ORDER BY log.occurred_at DESC, log.id DESC
    LIMIT $3
$function$;

CREATE OR REPLACE FUNCTION public.fill_project_id()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
#variable_conflict use_variable
BEGIN
    -- Only the branch that is taken is resolved, so each may name columns that the other tables lack.
    CASE TG_TABLE_NAME
        WHEN 'tasks' THEN
            SELECT project_id INTO NEW.project_id FROM public.tasks WHERE id = NEW.parent_task_id;
        WHEN 'steps' THEN
            SELECT project_id INTO NEW.project_id FROM public.tasks WHERE id = NEW.task_id;
        WHEN 'step_promotions' THEN
            SELECT project_id INTO NEW.project_id FROM public.tasks WHERE id = NEW.new_task_id;
        WHEN 'navigation_links' THEN
            SELECT project_id INTO NEW.project_id FROM public.tasks WHERE id = NEW.from_task_id;
            IF NOT FOUND THEN
                SELECT project_id INTO NEW.project_id FROM public.steps WHERE id = NEW.from_step_id;
            END IF;
        WHEN 'navigation_cursors' THEN
            SELECT project_id INTO NEW.project_id FROM public.tasks WHERE id = NEW.current_task_id;
            IF NOT FOUND THEN
                SELECT project_id INTO NEW.project_id FROM public.steps WHERE id = NEW.current_step_id;
            END IF;
        ELSE  -- disputes, complexity_assessments, complexity_agreements
            SELECT project_id INTO NEW.project_id FROM public.steps WHERE id = NEW.step_id;
    END CASE;
    IF NEW.project_id IS NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'foreign_key_violation', SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME, COLUMN = 'project_id',
            MESSAGE = format('row %s of %s has no project: none is given, and the item it belongs to does not exist',
                             NEW.id, TG_TABLE_NAME),
            HINT = 'Give project_id, or insert the parent first; it may have been deleted meanwhile.';
    END IF;
    RETURN NEW;
END
$function$;
COMMENT ON FUNCTION public.fill_project_id() IS 'Trigger: takes project_id from the row''s parent where an insert leaves it out. Without a parent: SQLSTATE 23503.';

COMMENT ON FUNCTION public.item_exists(pg_catalog.uuid,pg_catalog.text) IS 'Whether a reference points at an item of the project.';

CREATE OR REPLACE FUNCTION public.item_exists(project uuid, reference text)
 RETURNS boolean
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'pg_catalog', 'pg_temp'
 SET enable_seqscan TO 'off'
AS $function$
#variable_conflict use_variable
BEGIN
    -- task://<uuid> or step://<uuid>: check constraints see to the form of what is stored.
    IF reference LIKE 'task://%' THEN
        RETURN (SELECT project_id FROM public.tasks WHERE id = substr(reference, 8)::uuid) IS NOT DISTINCT FROM project;
    END IF;
    RETURN (SELECT project_id FROM public.steps WHERE id = substr(reference, 8)::uuid) IS NOT DISTINCT FROM project;
END
$function$;

CREATE OR REPLACE FUNCTION public.keep_place()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
#variable_conflict use_variable
BEGIN
    IF current_setting('planner.linking', true) IS DISTINCT FROM 'on' THEN
        NEW.chain_position := OLD.chain_position;  -- of a new row: none
    END IF;
    RETURN NEW;
END
$function$;
COMMENT ON FUNCTION public.keep_place() IS 'Trigger: chain_position follows from the links, whatever a statement writes there.';

CREATE OR REPLACE FUNCTION public.link_items()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
 SET enable_seqscan TO 'off'
AS $function$
#variable_conflict use_variable
DECLARE
    kind CONSTANT text := CASE TG_TABLE_NAME WHEN 'tasks' THEN 'task://' ELSE 'step://' END;
    here CONSTANT text := kind || NEW.id;
    owners uuid[];
    froms text[];  -- one entry for each end that the statement has changed; a null in tos: this one has no successor
    tos text[];
    owner uuid;
    broken record;
BEGIN
    IF current_setting('planner.linking', true) = 'on' THEN
        RETURN NULL;  -- a reference that follows a link
    END IF;
    -- The first row of a statement sees to all its rows; the others find their links as they want them.
    IF (NEW.next_id IS NOT DISTINCT FROM OLD.next_id OR NEW.next_id IS NOT DISTINCT FROM (
            SELECT to_ref FROM public.navigation_links WHERE from_ref = here))
        AND (NEW.prev_id IS NOT DISTINCT FROM OLD.prev_id OR NEW.prev_id IS NOT DISTINCT FROM (
            SELECT from_ref FROM public.navigation_links WHERE to_ref = here))
    THEN
        RETURN NULL;
    END IF;
    -- UNION: both ends of one link may say the same. No join of the two tables, so the kept plan fits any number of rows.
    IF TG_OP = 'INSERT' THEN
        SELECT array_agg(asked.project_id), array_agg(asked.from_ref), array_agg(asked.to_ref) INTO owners, froms, tos
        FROM (
            SELECT project_id, kind || id AS from_ref, next_id::text AS to_ref FROM changed WHERE next_id IS NOT NULL
            UNION
            SELECT project_id, prev_id, kind || id FROM changed WHERE prev_id IS NOT NULL
        ) asked;
    ELSE
        SELECT array_agg(asked.project_id), array_agg(asked.from_ref), array_agg(asked.to_ref) INTO owners, froms, tos
        FROM (
            SELECT project_id, kind || id AS from_ref, next_id::text AS to_ref FROM (
                SELECT project_id, id, next_id FROM changed EXCEPT SELECT project_id, id, next_id FROM before
            ) next
            UNION
            SELECT project_id, prev_id, kind || id FROM (
                SELECT project_id, id, prev_id FROM changed EXCEPT SELECT project_id, id, prev_id FROM before
            ) prev
        ) asked;
    END IF;
    SELECT asked.project_id, asked.to_exists,
        CASE WHEN asked.to_exists THEN asked.to_ref ELSE asked.from_ref END AS item,
        CASE WHEN asked.to_exists THEN asked.from_ref ELSE asked.to_ref END AS reference
    INTO broken
    FROM (
        SELECT ends.*, public.item_exists(ends.project_id, ends.from_ref) AS from_exists,
            public.item_exists(ends.project_id, ends.to_ref) AS to_exists
        FROM unnest(owners, froms, tos) AS ends (project_id, from_ref, to_ref)
        WHERE ends.from_ref IS NOT NULL AND ends.to_ref IS NOT NULL
    ) asked
    WHERE NOT (asked.from_exists AND asked.to_exists) LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION USING
            ERRCODE = 'MP002', SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME,
            COLUMN = CASE WHEN broken.to_exists THEN 'prev_id' ELSE 'next_id' END,
            MESSAGE = format('%s %s refers to %s, which is no item of its project',
                             rtrim(TG_TABLE_NAME, 's'), substr(broken.item, 8), broken.reference),
            DETAIL = format('%s of project %s.', coalesce((SELECT format('"%s"', title) FROM changed
                            WHERE id = substr(broken.item, 8)::uuid), broken.item), broken.project_id),
            HINT = 'Insert the item first, in the same project, and set the reference afterwards or in the same statement.';
    END IF;
    PERFORM pg_advisory_xact_lock(1296256073, 2);  -- see lock_chains; an insert comes here without it
    FOR owner IN SELECT DISTINCT unnest(owners) LOOP
        PERFORM public.change_links(owner, array_agg(asked.from_ref), array_agg(asked.to_ref))
        FROM unnest(owners, froms, tos) AS asked (project_id, from_ref, to_ref) WHERE asked.project_id = owner;
    END LOOP;
    RETURN NULL;
END
$function$;
COMMENT ON FUNCTION public.link_items() IS 'Trigger: navigation_links follow prev_id and next_id, for all rows of a statement at once; each must point at an item of the same project, or SQLSTATE MP002. The last word counts: an item that is given another neighbour leaves the one it had.';

COMMENT ON FUNCTION public.lock_ancestors(pg_catalog.uuid[]) IS 'Locks tasks and all above them, FOR NO KEY UPDATE, deepest first; for triggers that change rows up the tree. No project. For several tasks it waits for moves of tasks that are under way.';

CREATE OR REPLACE FUNCTION public.lock_ancestors(tasks uuid[])
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
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

CREATE OR REPLACE FUNCTION public.lock_chains()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
#variable_conflict use_variable
BEGIN
    -- Before the first row is locked, and so before the project is known: whoever changes a chain holds the item it was told to
    -- change and needs the neighbours; two of them side by side would deadlock under any lock taken later.
    PERFORM pg_advisory_xact_lock(1296256073, 2);  -- 'MCPI', chains
    RETURN NULL;
END
$function$;
COMMENT ON FUNCTION public.lock_chains() IS 'Trigger: one transaction at a time changes chains; the advisory lock (1296256073, 2) is held to its end.';

COMMENT ON FUNCTION public.lock_for_maintenance(pg_catalog.regclass[],pg_catalog.text,pg_catalog.text) IS 'Locks tables in a mode to the end of the transaction, or gives up after a time (as lock_timeout has it) with SQLSTATE MP006, which names who holds them. Writers that come meanwhile wait behind it no longer than that.';

CREATE OR REPLACE FUNCTION public.lock_for_maintenance(relations regclass[], mode text, patience text)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
 SET lock_timeout TO '2s'
AS $function$
#variable_conflict use_variable
DECLARE
    holders text;
BEGIN
    -- Local to this function, which sets lock_timeout itself: the caller's own comes back at its end, after an error too.
    PERFORM set_config('lock_timeout', patience, true);
    EXECUTE format('LOCK TABLE %s IN %s MODE', (
        SELECT string_agg(format('ONLY %s', relation), ', ' ORDER BY place)
        FROM unnest(relations) WITH ORDINALITY AS wanted (relation, place)), mode);
EXCEPTION WHEN lock_not_available THEN
    SELECT string_agg(DISTINCT pid::text, ', ') INTO holders FROM pg_locks
    WHERE locktype = 'relation' AND relation = ANY (relations) AND granted AND pid <> pg_backend_pid()
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database());
    RAISE EXCEPTION USING
        ERRCODE = 'MP006',
        MESSAGE = format('%s could not be locked for maintenance within %s', array_to_string(relations, ', '), patience),
        DETAIL = format('Locks are held by process %s; nothing was changed.', coalesce(holders, '(gone by now)')),
        HINT = 'Call it again when that transaction has ended; pg_stat_activity shows what it does.';
END
$function$;
-- grants on function public.lock_for_maintenance(regclass[],text,text): nobody

CREATE OR REPLACE FUNCTION public.lock_task_tree()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
#variable_conflict use_variable
BEGIN
    -- Before the first row is locked, and so before the project is known: two sessions that re-parent each hold a task
    -- which the other's change of progress needs, and would deadlock under any lock taken later.
    PERFORM pg_advisory_xact_lock(1296256073, 1);  -- 'MCPI', task tree
    RETURN NULL;
END
$function$;
COMMENT ON FUNCTION public.lock_task_tree() IS 'Trigger: one transaction at a time moves tasks below other tasks; the advisory lock (1296256073, 1) is held to its end.';

CREATE OR REPLACE FUNCTION public.maintain_audit_partitions(months_ahead integer DEFAULT 3)
 RETURNS TABLE(partition_name text, action text, row_count bigint)
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
 SET "TimeZone" TO 'UTC'
 SET "DateStyle" TO 'ISO, YMD'
AS $function$
#variable_conflict use_variable
DECLARE
    log CONSTANT regclass := 'public.audit_logs';
    caught CONSTANT regclass := 'public.audit_logs_default';
    move text;
    month record;
    made regclass[] := '{}';
    starts timestamptz[] := '{}';
    moved bigint[] := '{}';
    late bigint;
BEGIN
    IF months_ahead IS NULL OR months_ahead NOT BETWEEN 0 AND 120 THEN
        RAISE EXCEPTION USING
            ERRCODE = 'MP008', MESSAGE = format('partitions are made 0 to 120 months ahead, not %s', coalesce(months_ahead::text, 'NULL')),
            HINT = 'SELECT * FROM maintain_audit_partitions(3);';
    ELSIF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION USING
            ERRCODE = 'MP008', MESSAGE = format('partitions are not maintained in a %s transaction', current_setting('transaction_isolation')),
            DETAIL = 'It would not see the rows that were written since it began, and could not move them.',
            HINT = 'Call it by itself, or after BEGIN ISOLATION LEVEL READ COMMITTED.';
    END IF;
    -- Lets everybody read and write, and is the queue of those that change the partitions: the other one waits, then finds
    -- nothing to do.
    PERFORM public.lock_for_maintenance(ARRAY[log], 'SHARE UPDATE EXCLUSIVE', '60s');
    SELECT format('WITH gone AS (DELETE FROM %1$s WHERE occurred_at >= $1 AND occurred_at < $1 + interval ''1 month'' RETURNING %2$s) '
        'INSERT INTO %%s (%2$s) SELECT %2$s FROM gone', caught, string_agg(quote_ident(attname), ', ' ORDER BY attnum))
    INTO move
    FROM pg_attribute WHERE attrelid = log AND attnum > 0 AND NOT attisdropped AND attgenerated = '';

    -- First what takes long: the rows go to tables that nobody sees before COMMIT, and writers go on.
    FOR month IN
        SELECT wanted.starts_at, sum(wanted.rows) AS rows, (
            SELECT string_agg(other.partition_name::text, ', ') FROM public.audit_partitions() other
            WHERE other.starts_at < wanted.starts_at + interval '1 month' AND other.ends_at > wanted.starts_at
        ) AS overlapping
        FROM (
            SELECT date_trunc('month', now()) + make_interval(months => n) AS starts_at, 0::bigint AS rows
            FROM generate_series(0, months_ahead) n
            UNION ALL
            SELECT date_trunc('month', occurred_at), count(*) FROM public.audit_logs_default
            WHERE occurred_at >= '0001-01-01' AND occurred_at < '9999-12-01' GROUP BY 1
        ) wanted
        GROUP BY wanted.starts_at
        ORDER BY wanted.starts_at
    LOOP
        IF month.overlapping IS NULL THEN
            made := made || public.create_audit_partition(month.starts_at);
            EXECUTE format(move, made[cardinality(made)]) USING month.starts_at;
            GET DIAGNOSTICS late = ROW_COUNT;
            starts := starts || month.starts_at;
            moved := moved || late;
        ELSIF month.rows > 0 THEN
            partition_name := to_char(month.starts_at, '"audit_logs_"YYYY_MM');
            action := format('skipped, overlaps %s', month.overlapping);
            row_count := month.rows;
            RETURN NEXT;
        END IF;
    END LOOP;
    IF made = '{}' THEN
        RETURN;
    END IF;

    -- From here to COMMIT others wait. Whoever is about to write into a month that gets its partition, or to read one whose rows
    -- move, has to wait for audit_logs itself: having chosen audit_logs_default already, it would fail there, or find no row.
    IF starts[1] < now() + interval '1 day' OR 0 < ANY (moved) THEN
        PERFORM public.lock_for_maintenance(ARRAY[log, caught], 'ACCESS EXCLUSIVE', '2s');
        FOR n IN 1..cardinality(made) LOOP
            EXECUTE format(move, made[n]) USING starts[n];  -- what was written meanwhile
            GET DIAGNOSTICS late = ROW_COUNT;
            moved[n] := moved[n] + late;
        END LOOP;
    ELSE
        PERFORM public.lock_for_maintenance(ARRAY[caught], 'ACCESS EXCLUSIVE', '2s');
    END IF;
    -- Attaching reads audit_logs_default for rows of the month, unless a check says that there are none: one look for all.
    EXECUTE format('ALTER TABLE %s ADD CONSTRAINT maintenance_rest CHECK (%s)', caught, (
        SELECT string_agg(format('(occurred_at < %L OR occurred_at >= %L)', at, at + interval '1 month'), ' AND ')
        FROM unnest(starts) AS at));
    FOR n IN 1..cardinality(made) LOOP
        EXECUTE format('ALTER TABLE %s ATTACH PARTITION %s FOR VALUES FROM (%L) TO (%L)',
            log, made[n], starts[n], starts[n] + interval '1 month');
        EXECUTE format('ALTER TABLE %s DROP CONSTRAINT maintenance_bounds', made[n]);
        partition_name := to_char(starts[n], '"audit_logs_"YYYY_MM');
        action := 'created';
        row_count := moved[n];
        RETURN NEXT;
    END LOOP;
    EXECUTE format('ALTER TABLE %s DROP CONSTRAINT maintenance_rest', caught);
END
$function$;
-- grants on function public.maintain_audit_partitions(integer): nobody
COMMENT ON FUNCTION public.maintain_audit_partitions(integer) IS 'Makes a partition of audit_logs for this month, for as many months ahead and for every month of which audit_logs_default has rows, and moves these there; months are those of UTC. One row for each thing done, none where all is done: partition_name, action (created; or skipped, with the partition that already has part of the month), row_count (moved, or left in audit_logs_default). Only for the owner of audit_logs, in a transaction of its own; see SQLSTATE MP006 (busy), MP007 (name taken), MP008 (not possible).';

CREATE OR REPLACE FUNCTION public.mean_progress(child_count integer, child_progress numeric)
 RETURNS double precision
 LANGUAGE plpgsql
 IMMUTABLE PARALLEL SAFE
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
#variable_conflict use_variable
BEGIN
    -- Numeric to the last step: the result depends on no order of adding up. Always 20 decimals, whatever the operands;
    -- the bounds only matter for counters that somebody has written by hand.
    RETURN CASE WHEN mean_progress.child_count > 0 THEN
        least(1, greatest(0, round(mean_progress.child_progress / mean_progress.child_count, 20)))::double precision
    ELSE 0 END;
END
$function$;
COMMENT ON FUNCTION public.mean_progress(integer,numeric) IS 'Progress that follows from the counters of a task or project: child_progress / child_count, or 0 without children.';

CREATE OR REPLACE FUNCTION public.mirror_links()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
#variable_conflict use_variable
DECLARE
    unplaced CONSTANT bigint := '-9223372036854775808';
    most CONSTANT bigint := 1::bigint << 62;
    owners uuid[];
    froms text[];
    tos text[];
    places bigint[];  -- the place that the statement gives the item in tos, where it gives one
    owner uuid;
BEGIN
    IF current_setting('planner.linking', true) = 'on' THEN
        RETURN NULL;  -- a link that follows a reference
    END IF;
    CASE TG_OP
        WHEN 'INSERT' THEN
            SELECT array_agg(project_id), array_agg(from_ref), array_agg(to_ref), array_agg(position)
            INTO owners, froms, tos, places FROM changed;
        WHEN 'DELETE' THEN
            SELECT array_agg(project_id), array_agg(from_ref), array_agg(to_ref), array_agg(NULL::bigint)
            INTO owners, froms, tos, places FROM before;
        WHEN 'UPDATE' THEN
            SELECT array_agg(project_id), array_agg(from_ref), array_agg(to_ref), array_agg(place)
            INTO owners, froms, tos, places FROM (
                (SELECT project_id, from_ref, to_ref, position AS place FROM changed
                 EXCEPT SELECT project_id, from_ref, to_ref, position FROM before)
                UNION ALL
                (SELECT project_id, from_ref, to_ref, NULL::bigint FROM before
                 EXCEPT SELECT project_id, from_ref, to_ref, NULL::bigint FROM changed)
            ) ends;
        ELSE
            PERFORM set_config('planner.linking', 'on', true);
            UPDATE public.steps SET prev_id = NULL, next_id = NULL, chain_position = NULL
            WHERE num_nonnulls(prev_id, next_id, chain_position) > 0;
            UPDATE public.tasks SET prev_id = NULL, next_id = NULL, chain_position = NULL
            WHERE num_nonnulls(prev_id, next_id, chain_position) > 0;
            PERFORM set_config('planner.linking', '', true);
    END CASE;
    IF owners IS NULL THEN
        RETURN NULL;
    END IF;
    IF EXISTS (SELECT FROM unnest(places) place WHERE place > most OR place < -most AND place <> unplaced) THEN
        RAISE EXCEPTION USING
            ERRCODE = 'numeric_value_out_of_range', SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME, COLUMN = 'position',
            MESSAGE = format('a position lies beyond %s, where none could follow it', most),
            HINT = 'Leave position out: the link gets one.';
    END IF;
    PERFORM set_config('planner.linking', 'on', true);
    FOR owner IN SELECT DISTINCT unnest(owners) LOOP
        PERFORM public.mirror_references(array_agg(ends.from_ref), array_agg(ends.to_ref))
        FROM unnest(owners, froms, tos) AS ends (project_id, from_ref, to_ref) WHERE ends.project_id = owner;
        IF TG_OP <> 'DELETE' THEN
            PERFORM public.set_places(array_agg(ends.to_ref), array_agg(ends.place))
            FROM unnest(owners, tos, places) AS ends (project_id, to_ref, place)
            WHERE ends.project_id = owner AND ends.place <> unplaced;
        END IF;
        PERFORM public.place_items(owner, array_agg(ends.from_ref) || array_agg(ends.to_ref), TG_OP <> 'INSERT')
        FROM unnest(owners, froms, tos) AS ends (project_id, from_ref, to_ref)
        WHERE ends.project_id = owner AND TG_OP <> 'DELETE';
    END LOOP;
    PERFORM set_config('planner.linking', '', true);
    RETURN NULL;
END
$function$;
COMMENT ON FUNCTION public.mirror_links() IS 'Trigger: prev_id and next_id follow navigation_links. A position that fits between those of the neighbours is kept, any other replaced.';

COMMENT ON FUNCTION public.mirror_references(pg_catalog.text[],pg_catalog.text[]) IS 'Sets next_id of the items in froms and prev_id of those in tos to what the links say, and takes the place in the chain from items without any link. For triggers.';

CREATE OR REPLACE FUNCTION public.mirror_references(froms text[], tos text[])
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
 SET enable_seqscan TO 'off'
AS $function$
#variable_conflict use_variable
DECLARE
    ids uuid[];
BEGIN
    -- Locked by a statement of its own first: after a wait, the next one sees what the other session has made of the row and of
    -- its links. Each row is written once, and only where something differs. The other reference of an item stays as it is:
    -- before the links were filled, it may be the only one that knows. IF: a statement that meets no row would call the triggers.
    ids := ARRAY(SELECT substr(ref, 8)::uuid FROM unnest(froms || tos) ref WHERE ref LIKE 'step://%');
    IF ids <> '{}' THEN
        PERFORM FROM public.steps WHERE id = ANY (ids) ORDER BY id FOR NO KEY UPDATE;
        UPDATE public.steps step SET
            prev_id = CASE WHEN item.arriving THEN item.prev_id ELSE step.prev_id END,
            next_id = CASE WHEN item.leaving THEN item.next_id ELSE step.next_id END,
            chain_position = CASE WHEN item.prev_id IS NOT NULL OR item.next_id IS NOT NULL THEN step.chain_position END
        FROM (
            SELECT substr(end_of.ref, 8)::uuid AS id, end_of.leaving, end_of.arriving,
                (SELECT link.from_ref FROM public.navigation_links link WHERE link.to_ref = end_of.ref) AS prev_id,
                (SELECT link.to_ref FROM public.navigation_links link WHERE link.from_ref = end_of.ref) AS next_id
            FROM (
                SELECT ref, bool_or(leaving) AS leaving, bool_or(NOT leaving) AS arriving
                FROM (SELECT unnest(froms) AS ref, true AS leaving UNION ALL SELECT unnest(tos), false) both_sides
                WHERE ref LIKE 'step://%' GROUP BY ref
            ) end_of
        ) item
        WHERE step.id = item.id AND (
            item.arriving AND step.prev_id IS DISTINCT FROM item.prev_id
            OR item.leaving AND step.next_id IS DISTINCT FROM item.next_id
            OR step.chain_position IS NOT NULL AND item.prev_id IS NULL AND item.next_id IS NULL
        );
    END IF;
    ids := ARRAY(SELECT substr(ref, 8)::uuid FROM unnest(froms || tos) ref WHERE ref LIKE 'task://%');
    IF ids <> '{}' THEN
        PERFORM FROM public.tasks WHERE id = ANY (ids) ORDER BY id FOR NO KEY UPDATE;
        UPDATE public.tasks task SET
            prev_id = CASE WHEN item.arriving THEN item.prev_id ELSE task.prev_id END,
            next_id = CASE WHEN item.leaving THEN item.next_id ELSE task.next_id END,
            chain_position = CASE WHEN item.prev_id IS NOT NULL OR item.next_id IS NOT NULL THEN task.chain_position END
        FROM (
            SELECT substr(end_of.ref, 8)::uuid AS id, end_of.leaving, end_of.arriving,
                (SELECT link.from_ref FROM public.navigation_links link WHERE link.to_ref = end_of.ref) AS prev_id,
                (SELECT link.to_ref FROM public.navigation_links link WHERE link.from_ref = end_of.ref) AS next_id
            FROM (
                SELECT ref, bool_or(leaving) AS leaving, bool_or(NOT leaving) AS arriving
                FROM (SELECT unnest(froms) AS ref, true AS leaving UNION ALL SELECT unnest(tos), false) both_sides
                WHERE ref LIKE 'task://%' GROUP BY ref
            ) end_of
        ) item
        WHERE task.id = item.id AND (
            item.arriving AND task.prev_id IS DISTINCT FROM item.prev_id
            OR item.leaving AND task.next_id IS DISTINCT FROM item.next_id
            OR task.chain_position IS NOT NULL AND item.prev_id IS NULL AND item.next_id IS NULL
        );
    END IF;
END
$function$;

COMMENT ON FUNCTION public.navigation_chain(pg_catalog.text,integer) IS 'The items from a reference on, in chain order, at most max_depth. Columns: depth (1 for the first), reference, entity_type (TASK or STEP), id, title, progress, problem (null, or in the last row why the chain cannot be followed: broken, one-sided, circle, cut). Only a last row without problem is the end of the chain.';

CREATE OR REPLACE FUNCTION public.navigation_chain(start text, max_depth integer DEFAULT 1000)
 RETURNS TABLE(depth integer, reference text, entity_type public.entity_type, id uuid, title character varying, progress double precision, problem text)
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
#variable_conflict use_variable
DECLARE
    item record;
    linked text;
BEGIN
    depth := 0;
    reference := start;
    LOOP
        EXIT WHEN depth >= max_depth;
        depth := depth + 1;
        SELECT * INTO item FROM public.resolve_reference(navigation_chain.reference);
        IF NOT FOUND THEN
            entity_type := NULL;
            id := NULL;
            title := NULL;
            progress := NULL;
            problem := CASE WHEN reference ~ '^(task|step)://[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' THEN 'broken: no such item'
                ELSE 'no reference: task://<uuid> or step://<uuid> is one' END;
            RETURN NEXT;
            RETURN;
        END IF;
        entity_type := item.entity_type;
        id := item.id;
        title := item.title;
        progress := item.progress;
        SELECT to_ref INTO linked FROM public.navigation_links
        WHERE from_ref = navigation_chain.reference;
        -- Only along links, of which an item has one at each end: then the first item that comes twice is the start.
        problem := CASE
            WHEN item.next_id IS NOT DISTINCT FROM linked AND linked = start THEN 'circle: the next item is ' || start || ' again'
            WHEN item.next_id IS NOT DISTINCT FROM linked AND depth = max_depth THEN 'cut: max_depth, next is ' || linked
            WHEN item.next_id IS NOT DISTINCT FROM linked THEN NULL
            WHEN linked IS NOT NULL THEN 'one-sided: linked to ' || linked || ', but next_id is ' || coalesce(item.next_id, 'null')
            WHEN public.item_exists(item.project_id, item.next_id)
                THEN 'one-sided: next_id is ' || item.next_id || ', but there is no such link'
            ELSE 'broken: next_id is ' || item.next_id || ', which is no item of the project'
        END;
        RETURN NEXT;
        EXIT WHEN problem IS NOT NULL OR linked IS NULL;
        reference := linked;
    END LOOP;
END
$function$;

COMMENT ON FUNCTION public.next_actionable_item(pg_catalog.uuid) IS 'What is to be done next in a project, one row; none where all is finished or the project is unknown. Unfinished items in chain order, those in no chain last by (created_at, id); in place of a task first what is unfinished in it. Columns: entity_type (TASK or STEP), id, reference, task_id (of a task its parent), title, progress, status (of a step).';

CREATE OR REPLACE FUNCTION public.next_actionable_item(project uuid)
 RETURNS TABLE(entity_type public.entity_type, id uuid, reference text, task_id uuid, title character varying, progress double precision, status public.step_status)
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
#variable_conflict use_variable
DECLARE
    last CONSTANT bigint := 9223372036854775807;
    step record;
    task record;
BEGIN
    -- The indexes hold unfinished items only, in this order: one lookup each, however much is done. Rows from before finished
    -- have null there until they are filled, so progress is asked as well.
    SELECT * INTO step FROM public.steps one
    WHERE one.project_id = next_actionable_item.project AND one.finished IS NOT TRUE AND one.progress < 1
    ORDER BY one.chain_position, one.created_at, one.id LIMIT 1;
    SELECT * INTO task FROM public.tasks one
    WHERE one.project_id = next_actionable_item.project AND one.finished IS NOT TRUE AND one.progress < 1
    ORDER BY one.chain_position, one.created_at, one.id LIMIT 1;
    WHILE task.id IS NOT NULL AND (step.id IS NULL OR (coalesce(task.chain_position, last), task.created_at, task.id)
        < (coalesce(step.chain_position, last), step.created_at, step.id))
    LOOP
        -- A task's turn is that of what is unfinished in it, first its own next; a task without anything in it is to be done itself.
        entity_type := 'TASK';
        id := task.id;
        task_id := task.parent_task_id;
        title := task.title;
        progress := task.progress;
        SELECT * INTO step FROM public.steps one
        WHERE one.task_id = next_actionable_item.id AND one.finished IS NOT TRUE AND one.progress < 1
        ORDER BY one.chain_position, one.created_at, one.id LIMIT 1;
        SELECT * INTO task FROM public.tasks one
        WHERE one.parent_task_id = next_actionable_item.id AND one.finished IS NOT TRUE AND one.progress < 1
        ORDER BY one.chain_position, one.created_at, one.id LIMIT 1;
    END LOOP;
    IF step.id IS NOT NULL THEN
        entity_type := 'STEP';
        id := step.id;
        task_id := step.task_id;
        title := step.title;
        progress := step.progress;
        status := step.status;
    END IF;
    IF id IS NOT NULL THEN
        reference := lower(entity_type::text) || '://' || id;
        RETURN NEXT;
    END IF;
END
$function$;

COMMENT ON FUNCTION public.place_items(pg_catalog.uuid,pg_catalog.text[],boolean) IS 'Gives items a place in their chain, so that it grows from each to the next, beginning with the items given; opened: whether links have gone. Others are moved only where no room is left. Cost: the items passed, most often one or none. For triggers.';

CREATE OR REPLACE FUNCTION public.place_items(project uuid, starts text[], opened boolean)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
 SET enable_seqscan TO 'off'
AS $function$
#variable_conflict use_variable
DECLARE
    unplaced CONSTANT bigint := '-9223372036854775808';
    apart CONSTANT bigint := 1::bigint << 32;  -- from one item to the next that is appended
    apart_chains CONSTANT bigint := 1::bigint << 40;
    room CONSTANT bigint := 1 << 8;  -- see below
    start text;
    here bigint;
    last text;
    next text;
    there bigint;
    run text[];
    new integer;  -- how many at the beginning of the run have no place yet
    spacing bigint;
BEGIN
    IF opened AND EXISTS (SELECT FROM public.navigation_links WHERE project_id = place_items.project AND closes_circle) THEN
        -- Where another link of the circle has gone, this one is an ordinary one now, and leads to a lesser place.
        WITH no_longer AS (
            UPDATE public.navigation_links SET closes_circle = false
            WHERE project_id = place_items.project AND closes_circle RETURNING from_ref
        )
        SELECT starts || array_agg(from_ref) INTO starts FROM no_longer;
    END IF;
    -- Along a chain places grow. From each start the items behind it are passed until one stands far enough ahead, and those
    -- passed are placed between. The last start first: what is moved behind it is then not moved again. Of items that have
    -- no place yet, first those that nothing leads to.
    FOREACH start IN ARRAY ARRAY(
        SELECT item.ref FROM (SELECT DISTINCT unnest(starts) AS ref) item
        WHERE item.ref IS NOT NULL
        ORDER BY public.chain_position(item.ref) DESC NULLS LAST, (
            SELECT link.id FROM public.navigation_links link WHERE link.to_ref = item.ref
        ) IS NOT NULL, item.ref
    ) LOOP
        here := public.chain_position(start);
        last := start;
        run := '{}';
        new := 0;
        LOOP
            SELECT to_ref, position INTO next, there FROM public.navigation_links
            WHERE from_ref = last;
            EXIT WHEN NOT FOUND;
            IF next = start THEN
                -- A circle: one of its links leads back, whatever the places. What has one stays.
                run := run[:new];
                next := NULL;
                UPDATE public.navigation_links SET closes_circle = true
                WHERE from_ref = coalesce(run[new], start);
                EXIT;
            END IF;
            -- The more items are passed, the more room they get, so that the next ones that come here pass few. numeric: the
            -- difference of two bigints may be none.
            EXIT WHEN there <> unplaced AND (here IS NULL OR there::numeric - here
                > CASE run WHEN '{}' THEN 0 ELSE room * (cardinality(run) + 1) ^ 2 END);
            new := new + (there = unplaced AND new = cardinality(run))::integer;
            run := run || next;
            last := next;
        END LOOP;
        CONTINUE WHEN run = '{}' AND (here IS NOT NULL OR next IS NULL);
        spacing := apart;
        IF here IS NULL THEN
            run := start || run;
            here := CASE WHEN next IS NOT NULL THEN there - (cardinality(run) + 1) * apart ELSE (
                SELECT greatest(max(position), 0) FROM public.navigation_links WHERE project_id = place_items.project
            ) + apart_chains END;
        ELSIF next IS NOT NULL THEN
            spacing := least(apart, div(there::numeric - here, cardinality(run) + 1));
        END IF;
        PERFORM public.set_places(array_agg(item.ref), array_agg(here + item.place * spacing))
        FROM unnest(run) WITH ORDINALITY AS item (ref, place);
    END LOOP;
END
$function$;

COMMENT ON FUNCTION public.progress_tree(pg_catalog.uuid[]) IS 'What the counters of these tasks and all below must be, counted from the steps, level by level; stored counters and task progress are not looked at. One row a task: task_id, parent_id, height (1 for a task it begins with), child_count, child_progress, progress.';

CREATE OR REPLACE FUNCTION public.progress_tree(start uuid[])
 RETURNS TABLE(task_id uuid, parent_id uuid, height integer, child_count integer, child_progress numeric, progress double precision)
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
#variable_conflict use_variable
DECLARE
    ids uuid[];
    tasks uuid[];
    depths integer[];
    level uuid[];
    below uuid[];  -- parents of the level below, one entry for each of its tasks
    done double precision[];  -- and their progress
    counts integer[];
    sums numeric[];
BEGIN
    -- A circle that is older than the checks must not keep this going for ever.
    WITH RECURSIVE down AS (
        SELECT id, project_id, 1 AS depth FROM public.tasks WHERE id = ANY (progress_tree.start)
        UNION ALL
        SELECT child.id, child.project_id, down.depth + 1 FROM down
        JOIN public.tasks child ON child.project_id = down.project_id AND child.parent_task_id = down.id
        WHERE down.depth < 200
    )
    SELECT array_agg(id), array_agg(depth) INTO tasks, depths FROM down;
    FOR at IN REVERSE coalesce((SELECT max(depth) FROM unnest(depths) AS depth), 0)..1 LOOP
        level := ARRAY(SELECT task.id FROM unnest(tasks, depths) AS task (id, depth) WHERE task.depth = at);
        -- EXECUTE: levels differ in size, and so do the best plans.
        EXECUTE $query$
            SELECT array_agg(task.id), array_agg(task.parent_task_id), array_agg(task.n), array_agg(task.s)
            FROM (
                SELECT task.id, task.parent_task_id, coalesce(sum(child.n), 0)::integer AS n, coalesce(sum(child.s), 0) AS s
                FROM public.tasks task LEFT JOIN (
                    SELECT step.task_id AS parent, count(*) AS n, sum(round(step.progress::numeric, 15)) AS s
                    FROM public.steps step
                    WHERE step.task_id = ANY ($1) AND step.project_id = ANY (ARRAY(
                        SELECT DISTINCT project_id FROM public.tasks WHERE id = ANY ($1)))
                    GROUP BY step.task_id
                    UNION ALL
                    SELECT sub.parent, count(*), sum(round(sub.progress::numeric, 15))
                    FROM unnest($2, $3) AS sub (parent, progress) GROUP BY sub.parent
                ) child ON child.parent = task.id
                WHERE task.id = ANY ($1)
                GROUP BY task.id
            ) task
        $query$ USING level, below, done INTO ids, below, counts, sums;
        done := ARRAY(SELECT public.mean_progress(one.n, one.s)
                      FROM unnest(counts, sums) WITH ORDINALITY AS one (n, s, place) ORDER BY one.place);
        RETURN QUERY SELECT one.id, one.parent, at, one.n, one.s, one.done
            FROM unnest(ids, below, counts, sums, done) AS one (id, parent, n, s, done);
    END LOOP;
END
$function$;

COMMENT ON FUNCTION public.project_statistics(pg_catalog.uuid) IS 'One row on a project, none for an unknown one: tasks, root_tasks, max_depth (1 for a root task, 0 without tasks), steps; steps by status: pending, server_draft, client_review, agreed, disputed, user_resolution; completed_steps (progress 1), exhausted_steps (max_iterations_reached), progress (the project''s, stored), mean_step_progress (over all steps alike, 0 without any), pending_disputes, promoted_steps. Reads all of the project.';

CREATE OR REPLACE FUNCTION public.project_statistics(project uuid)
 RETURNS TABLE(tasks bigint, root_tasks bigint, max_depth integer, steps bigint, pending bigint, server_draft bigint, client_review bigint, agreed bigint, disputed bigint, user_resolution bigint, completed_steps bigint, exhausted_steps bigint, progress double precision, mean_step_progress double precision, pending_disputes bigint, promoted_steps bigint)
 LANGUAGE sql
 STABLE
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
    WITH RECURSIVE down AS (
        SELECT root.id, 1 AS depth FROM public.tasks root
        WHERE root.project_id = project_statistics.project AND root.parent_task_id IS NULL
        UNION ALL
        SELECT child.id, down.depth + 1 FROM down
        JOIN public.tasks child ON child.project_id = project_statistics.project AND child.parent_task_id = down.id
    )
    SELECT (SELECT count(*) FROM public.tasks task WHERE task.project_id = owner.id), tree.roots, tree.deepest, step.*,
        owner.progress, mean.step_progress,
        (SELECT count(*) FROM public.disputes dispute WHERE dispute.project_id = owner.id AND dispute.status = 'PENDING'),
        (SELECT count(*) FROM public.step_promotions promotion WHERE promotion.project_id = owner.id)
    FROM public.projects owner
    CROSS JOIN (SELECT count(*) FILTER (WHERE depth = 1) AS roots, coalesce(max(depth), 0) AS deepest FROM down) tree
    CROSS JOIN LATERAL (
        SELECT count(*), count(*) FILTER (WHERE status = 'PENDING'), count(*) FILTER (WHERE status = 'SERVER_DRAFT'),
            count(*) FILTER (WHERE status = 'CLIENT_REVIEW'), count(*) FILTER (WHERE status = 'AGREED'),
            count(*) FILTER (WHERE status = 'DISPUTED'), count(*) FILTER (WHERE status = 'USER_RESOLUTION'),
            count(*) FILTER (WHERE one.progress = 1), count(*) FILTER (WHERE max_iterations_reached)
        FROM public.steps one WHERE one.project_id = owner.id
    ) step
    CROSS JOIN LATERAL (
        SELECT coalesce(round(avg(round(one.progress::numeric, 15)), 20), 0)::double precision AS step_progress
        FROM public.steps one WHERE one.project_id = owner.id
    ) mean
    WHERE owner.id = project_statistics.project
$function$;

COMMENT ON FUNCTION public.recalculate_project_progress(pg_catalog.uuid) IS 'Counts progress and counters of a project anew, level by level, and gives the number of tasks that were wrong, plus 1 if the project was; null for an unknown project. Writers of the project wait to the end of the transaction, and so does every move of a task.';

CREATE OR REPLACE FUNCTION public.recalculate_project_progress(project uuid)
 RETURNS integer
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
#variable_conflict use_variable
DECLARE
    tasks uuid[];
    depths integer[];
    level uuid[];
    rows integer;
    changed integer := 0;
BEGIN
    -- First nobody moves tasks, then the tasks are locked as the triggers do it, deepest first, then the project. Whoever
    -- changes a child now waits with adding it up until this transaction ends, and then adds to what is counted here.
    PERFORM pg_advisory_xact_lock(1296256073, 1);  -- see lock_task_tree
    WITH RECURSIVE down AS (
        SELECT id, 1 AS depth FROM public.tasks
        WHERE project_id = recalculate_project_progress.project AND parent_task_id IS NULL
        UNION ALL
        SELECT child.id, down.depth + 1 FROM down
        JOIN public.tasks child ON child.project_id = recalculate_project_progress.project
            AND child.parent_task_id = down.id
    )
    SELECT array_agg(id), array_agg(depth) INTO tasks, depths FROM down;
    PERFORM FROM public.tasks task JOIN unnest(tasks, depths) AS locked (id, depth) ON locked.id = task.id
    ORDER BY locked.depth DESC, task.id FOR NO KEY UPDATE OF task;
    PERFORM FROM public.projects WHERE id = recalculate_project_progress.project FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    -- For derive_progress, and to the end of this call only: an error takes it back with everything else. Not a SET clause of
    -- the function: for a setting that no module knows, only a superuser may write one.
    PERFORM set_config('planner.recalculating', 'on', true);
    -- A task that came after the first look has the triggers' counters, and is not touched: it is not locked.
    FOR at IN REVERSE coalesce((SELECT max(depth) FROM unnest(depths) AS depth), 0)..1 LOOP
        level := ARRAY(SELECT task.id FROM unnest(tasks, depths) AS task (id, depth) WHERE task.depth = at);
        EXECUTE $query$
            UPDATE public.tasks SET child_count = counted.n, child_progress = counted.s,
                progress = public.mean_progress(counted.n, counted.s)
            FROM (
                SELECT task.id, coalesce(sum(child.n), 0)::integer AS n, coalesce(sum(child.s), 0) AS s
                FROM unnest($2) AS task (id) LEFT JOIN (
                    SELECT step.task_id AS parent, count(*) AS n, sum(round(step.progress::numeric, 15)) AS s
                    FROM public.steps step WHERE step.project_id = $1 AND step.task_id = ANY ($2) GROUP BY step.task_id
                    UNION ALL
                    SELECT sub.parent_task_id, count(*), sum(round(sub.progress::numeric, 15))
                    FROM public.tasks sub WHERE sub.project_id = $1 AND sub.parent_task_id = ANY ($2)
                    GROUP BY sub.parent_task_id
                ) child ON child.parent = task.id
                GROUP BY task.id
            ) counted
            WHERE tasks.id = counted.id AND (tasks.child_count, tasks.child_progress, tasks.progress)
                IS DISTINCT FROM (counted.n, counted.s, public.mean_progress(counted.n, counted.s))
        $query$ USING recalculate_project_progress.project, level;
        GET DIAGNOSTICS rows = ROW_COUNT;
        changed := changed + rows;
    END LOOP;
    UPDATE public.projects SET child_count = counted.n, child_progress = counted.s,
        progress = public.mean_progress(counted.n, counted.s)
    FROM (
        SELECT count(*)::integer AS n, coalesce(sum(round(root.progress::numeric, 15)), 0) AS s
        FROM public.tasks root
        WHERE root.project_id = recalculate_project_progress.project AND root.parent_task_id IS NULL
    ) counted
    WHERE projects.id = recalculate_project_progress.project
        AND (projects.child_count, projects.child_progress, projects.progress)
            IS DISTINCT FROM (counted.n, counted.s, public.mean_progress(counted.n, counted.s));
    GET DIAGNOSTICS rows = ROW_COUNT;
    PERFORM set_config('planner.recalculating', '', true);
    RETURN changed + rows;
END
$function$;

COMMENT ON FUNCTION PUBLIC.RECENT_ACTIVITY(PG_CATALOG.UUID,INTEGER,TIMESTAMP WITH TIME zone) IS 'What happened in a project, latest first, at most "limit" rows (NULL: all), from since on where given. Columns: id, occurred_at, entity_type, entity_id, action, old_values, new_values, metadata, user_id, ai_agent.';

CREATE OR REPLACE FUNCTION public.recent_activity(project uuid, "limit" integer DEFAULT 50, since timestamp with time zone DEFAULT NULL::timestamp with time zone)
 RETURNS TABLE(id uuid, occurred_at timestamp with time zone, entity_type public.entity_type, entity_id uuid, action public.audit_action, old_values jsonb, new_values jsonb, metadata jsonb, user_id character varying, ai_agent public.ai_agent)
 LANGUAGE sql
 STABLE
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
    -- Not "since IS NULL OR": a plain comparison leaves out the partitions of older months.
    SELECT log.id, log.occurred_at, log.entity_type, log.entity_id, log.action, log.old_values, log.new_values, log.metadata,
        log.user_id, log.ai_agent
    FROM public.audit_logs log
    WHERE log.project_id = $1 AND log.occurred_at >= coalesce($3, '-infinity')
    ORDER BY log.occurred_at DESC, log.id DESC
    LIMIT $2
$function$;

CREATE OR REPLACE FUNCTION public.record_threshold_change()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
#variable_conflict use_variable
DECLARE
    actor record;
BEGIN
    IF TG_OP = 'UPDATE' AND OLD.complexity_threshold = NEW.complexity_threshold THEN
        RETURN NULL;
    END IF;
    SELECT * INTO actor FROM public.current_actor();
    INSERT INTO public.threshold_changes (project_id, old_threshold, new_threshold, changed_by, changed_at)
    VALUES (NEW.id, CASE TG_OP WHEN 'UPDATE' THEN OLD.complexity_threshold END, NEW.complexity_threshold,
            coalesce(actor.user_id, actor.agent::text), clock_timestamp());
    RETURN NULL;
END
$function$;
-- grants on function public.record_threshold_change(): nobody
COMMENT ON FUNCTION public.record_threshold_change() IS 'Trigger: keeps the history of a project''s complexity_threshold, the first one with no old value. Acts as its owner.';

CREATE OR REPLACE FUNCTION public.recount_progress()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
#variable_conflict use_variable
BEGIN
    PERFORM public.recalculate_project_progress(id) FROM public.projects ORDER BY id;
    RETURN NULL;
END
$function$;
COMMENT ON FUNCTION public.recount_progress() IS 'Trigger: recalculates the progress of every project after a TRUNCATE.';

COMMENT ON FUNCTION public.resolve_reference(pg_catalog.text) IS 'The item that task://<uuid> or step://<uuid> names, one row; none where the text is no reference or the item does not exist. Columns: entity_type (TASK or STEP), id, project_id, parent_task_id (of a step the task it belongs to), title, progress, prev_id, next_id.';

CREATE OR REPLACE FUNCTION public.resolve_reference(reference text)
 RETURNS TABLE(entity_type public.entity_type, id uuid, project_id uuid, parent_task_id uuid, title character varying, progress double precision, prev_id character varying, next_id character varying)
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
#variable_conflict use_variable
DECLARE
    item uuid;
BEGIN
    IF reference !~ '^(task|step)://[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' THEN
        RETURN;
    END IF;
    item := substr(reference, 8)::uuid;
    IF reference LIKE 'task://%' THEN
        RETURN QUERY SELECT 'TASK'::public.entity_type, task.id, task.project_id, task.parent_task_id, task.title, task.progress,
            task.prev_id, task.next_id
        FROM public.tasks task WHERE task.id = item;
    ELSE
        RETURN QUERY SELECT 'STEP'::public.entity_type, step.id, step.project_id, step.task_id, step.title, step.progress,
            step.prev_id, step.next_id
        FROM public.steps step WHERE step.id = item;
    END IF;
END
$function$;

CREATE OR REPLACE FUNCTION public.retire_audit_partitions(keep interval, drop_rows boolean DEFAULT false)
 RETURNS TABLE(partition_name text, action text, row_count bigint)
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
 SET "TimeZone" TO 'UTC'
 SET "DateStyle" TO 'ISO, YMD'
AS $function$
#variable_conflict use_variable
DECLARE
    old regclass[];
    counts bigint[] := '{}';
    name text;
    n bigint;
BEGIN
    IF keep IS NULL OR keep < interval '1 month' OR drop_rows IS NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'MP008', MESSAGE = format('audit rows are kept one month at least, not %s', coalesce(keep::text, 'NULL')),
            HINT = 'SELECT * FROM retire_audit_partitions(''2 years'');';
    END IF;
    PERFORM public.lock_for_maintenance(ARRAY['public.audit_logs'::regclass], 'SHARE UPDATE EXCLUSIVE', '60s');
    SELECT array_agg(past.partition_name ORDER BY past.starts_at) INTO old
    FROM public.audit_partitions() past WHERE past.ends_at <= now() - keep;
    IF old IS NULL THEN
        RETURN;
    END IF;
    IF NOT drop_rows AND to_regnamespace('migration_retired') IS NULL THEN
        CREATE SCHEMA migration_retired;
    END IF;
    FOR at IN 1..cardinality(old) LOOP
        SELECT relname INTO name FROM pg_class WHERE oid = old[at];
        IF NOT drop_rows AND to_regclass(format('migration_retired.%I', name)) IS NOT NULL THEN
            RAISE EXCEPTION USING
                ERRCODE = 'MP007', SCHEMA = 'migration_retired', TABLE = name,
                MESSAGE = format('migration_retired.%I is there already', name),
                DETAIL = format('%s has later rows of the same month; nothing was changed.', old[at]),
                HINT = 'Save the table that was detached before and drop it, then call it again.';
        END IF;
        EXECUTE format('SELECT count(*) FROM %s', old[at]) INTO n;  -- before others have to wait
        counts := counts || n;
    END LOOP;
    -- What DETACH PARTITION locks; CONCURRENTLY cannot be run in a function.
    PERFORM public.lock_for_maintenance(ARRAY['public.audit_logs', 'public.audit_logs_default']::regclass[] || old, 'ACCESS EXCLUSIVE', '2s');
    FOR at IN 1..cardinality(old) LOOP
        partition_name := (SELECT relname FROM pg_class WHERE oid = old[at]);
        action := CASE WHEN drop_rows THEN 'dropped' ELSE 'detached' END;
        row_count := counts[at];
        EXECUTE format('ALTER TABLE public.audit_logs DETACH PARTITION %s', old[at]);
        EXECUTE format(CASE WHEN drop_rows THEN 'DROP TABLE %s' ELSE 'ALTER TABLE %s SET SCHEMA migration_retired' END, old[at]);
        RETURN NEXT;
    END LOOP;
END
$function$;
-- grants on function public.retire_audit_partitions(interval,boolean): nobody
COMMENT ON FUNCTION public.retire_audit_partitions(interval,boolean) IS 'Takes the partitions of audit_logs that end before now - keep (one month at least) out of it, whoever made them, never audit_logs_default: into the schema migration_retired, or, with drop_rows, away with their rows. One row for each: partition_name, action (detached or dropped), row_count. Only for the owner of audit_logs, in a transaction of its own; see SQLSTATE MP006 (busy), MP007 (detached before), MP008 (keep too short).';

CREATE OR REPLACE FUNCTION public.roll_up_steps()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
#variable_conflict use_variable
DECLARE
    single boolean;  -- null for no row
    parent uuid;  -- one parent and its change, then those of several
    more integer;
    gain numeric;
    parents uuid[];
    owners uuid[];
    counts integer[];
    sums numeric[];
BEGIN
    -- Only the branch that is taken is planned: each operation has its own transition tables. No join on a column, so the kept
    -- plan fits any number of rows. One row alone needs no sums, whose plans cost more to start than all the rest.
    IF TG_OP = 'UPDATE' THEN
        SELECT n.task_id = o.task_id AND NOT EXISTS (SELECT FROM added OFFSET 1),
            n.task_id, 0, round(n.progress::numeric, 15) - round(o.progress::numeric, 15)
        INTO single, parent, more, gain FROM added n, removed o LIMIT 1;
    ELSIF TG_OP = 'INSERT' THEN
        SELECT NOT EXISTS (SELECT FROM added OFFSET 1), task_id, 1, round(progress::numeric, 15)
        INTO single, parent, more, gain FROM added LIMIT 1;
    ELSE
        SELECT NOT EXISTS (SELECT FROM removed OFFSET 1), task_id, -1, -round(progress::numeric, 15)
        INTO single, parent, more, gain FROM removed LIMIT 1;
    END IF;
    IF NOT single THEN
        CASE TG_OP
            WHEN 'INSERT' THEN
                SELECT array_agg(change.task_id), array_agg(change.project_id), array_agg(change.n), array_agg(change.s)
                INTO parents, owners, counts, sums
                FROM (
                    SELECT project_id, task_id, count(*) AS n, sum(round(progress::numeric, 15)) AS s
                    FROM added GROUP BY project_id, task_id
                ) change;
            WHEN 'DELETE' THEN
                SELECT array_agg(change.task_id), array_agg(change.project_id), array_agg(change.n), array_agg(change.s)
                INTO parents, owners, counts, sums
                FROM (
                    SELECT project_id, task_id, -count(*) AS n, -sum(round(progress::numeric, 15)) AS s
                    FROM removed GROUP BY project_id, task_id
                ) change;
            ELSE
                SELECT array_agg(change.task_id), array_agg(change.project_id), array_agg(change.n), array_agg(change.s)
                INTO parents, owners, counts, sums
                FROM (
                    SELECT project_id, task_id, sum(each.n) AS n, sum(each.s) AS s
                    FROM (
                        SELECT project_id, task_id, 1 AS n, round(progress::numeric, 15) AS s FROM added
                        UNION ALL
                        SELECT project_id, task_id, -1, -round(progress::numeric, 15) FROM removed
                    ) each
                    GROUP BY project_id, task_id HAVING sum(each.n) <> 0 OR sum(each.s) <> 0
                ) change;
        END CASE;
        IF cardinality(parents) > 1 THEN
            PERFORM public.lock_ancestors(parents);
            IF owners[1] <> ANY (owners) THEN  -- several projects
                PERFORM FROM public.projects WHERE id = ANY (owners) ORDER BY id FOR NO KEY UPDATE;
            END IF;
            EXECUTE $query$
                UPDATE public.tasks SET child_count = tasks.child_count + change.n,
                    child_progress = tasks.child_progress + change.s
                FROM unnest($1, $2, $3) AS change (id, n, s) WHERE tasks.id = change.id
            $query$ USING parents, counts, sums;
            RETURN NULL;
        END IF;
        parent := parents[1];
        more := counts[1];
        gain := sums[1];
    END IF;
    IF more <> 0 OR gain <> 0 THEN
        -- One task and what is above it are changed, and so locked, in the order of lock_ancestors anyway.
        UPDATE public.tasks SET child_count = child_count + more, child_progress = child_progress + gain WHERE id = parent;
    END IF;
    RETURN NULL;
END
$function$;
COMMENT ON FUNCTION public.roll_up_steps() IS 'Trigger: adds what a statement changed of steps to the counters of their tasks, once a task. Locks the tasks above, deepest first, then, where they are of several projects, those by id.';

CREATE OR REPLACE FUNCTION public.roll_up_tasks()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
#variable_conflict use_variable
DECLARE
    single boolean;  -- null for no row
    parent uuid;  -- null for the project itself
    owner uuid;
    more integer;
    gain numeric;
    parents uuid[];
    owners uuid[];
    counts integer[];
    sums numeric[];
BEGIN
    -- As in roll_up_steps.
    IF TG_OP = 'UPDATE' THEN
        SELECT (n.project_id, n.parent_task_id) IS NOT DISTINCT FROM (o.project_id, o.parent_task_id)
                AND NOT EXISTS (SELECT FROM added OFFSET 1),
            n.parent_task_id, n.project_id, 0, round(n.progress::numeric, 15) - round(o.progress::numeric, 15)
        INTO single, parent, owner, more, gain FROM added n, removed o LIMIT 1;
    ELSIF TG_OP = 'INSERT' THEN
        SELECT NOT EXISTS (SELECT FROM added OFFSET 1), parent_task_id, project_id, 1, round(progress::numeric, 15)
        INTO single, parent, owner, more, gain FROM added LIMIT 1;
    ELSE
        SELECT NOT EXISTS (SELECT FROM removed OFFSET 1), parent_task_id, project_id, -1, -round(progress::numeric, 15)
        INTO single, parent, owner, more, gain FROM removed LIMIT 1;
    END IF;
    IF NOT single THEN
        CASE TG_OP
            WHEN 'INSERT' THEN
                SELECT array_agg(change.parent_task_id), array_agg(change.project_id), array_agg(change.n), array_agg(change.s)
                INTO parents, owners, counts, sums
                FROM (
                    SELECT project_id, parent_task_id, count(*) AS n, sum(round(progress::numeric, 15)) AS s
                    FROM added GROUP BY project_id, parent_task_id
                ) change;
            WHEN 'DELETE' THEN
                SELECT array_agg(change.parent_task_id), array_agg(change.project_id), array_agg(change.n), array_agg(change.s)
                INTO parents, owners, counts, sums
                FROM (
                    SELECT project_id, parent_task_id, -count(*) AS n, -sum(round(progress::numeric, 15)) AS s
                    FROM removed GROUP BY project_id, parent_task_id
                ) change;
            ELSE
                SELECT array_agg(change.parent_task_id), array_agg(change.project_id), array_agg(change.n), array_agg(change.s)
                INTO parents, owners, counts, sums
                FROM (
                    SELECT project_id, parent_task_id, sum(each.n) AS n, sum(each.s) AS s
                    FROM (
                        SELECT project_id, parent_task_id, 1 AS n, round(progress::numeric, 15) AS s FROM added
                        UNION ALL
                        SELECT project_id, parent_task_id, -1, -round(progress::numeric, 15) FROM removed
                    ) each
                    GROUP BY project_id, parent_task_id HAVING sum(each.n) <> 0 OR sum(each.s) <> 0
                ) change;
        END CASE;
        IF cardinality(parents) > 1 THEN
            -- An update from within a trigger is this roll-up one level further down, which has locked all it will need.
            IF TG_OP <> 'UPDATE' OR pg_trigger_depth() = 1 THEN
                PERFORM public.lock_ancestors(array_remove(parents, NULL));
                PERFORM FROM public.projects WHERE id = ANY (owners) ORDER BY id FOR NO KEY UPDATE;
            END IF;
            EXECUTE $query$
                UPDATE public.tasks SET child_count = tasks.child_count + change.n,
                    child_progress = tasks.child_progress + change.s
                FROM unnest($1, $2, $3) AS change (id, n, s) WHERE tasks.id = change.id
            $query$ USING parents, counts, sums;
            EXECUTE $query$
                UPDATE public.projects SET child_count = projects.child_count + change.n,
                    child_progress = projects.child_progress + change.s
                FROM unnest($1, $2, $3, $4) AS change (parent, id, n, s) WHERE change.parent IS NULL AND projects.id = change.id
            $query$ USING parents, owners, counts, sums;
            RETURN NULL;
        END IF;
        parent := parents[1];
        owner := owners[1];
        more := counts[1];
        gain := sums[1];
    END IF;
    IF more <> 0 OR gain <> 0 THEN
        IF parent IS NULL THEN
            UPDATE public.projects SET child_count = child_count + more, child_progress = child_progress + gain
            WHERE id = owner;
        ELSE
            UPDATE public.tasks SET child_count = child_count + more, child_progress = child_progress + gain WHERE id = parent;
        END IF;
    END IF;
    RETURN NULL;
END
$function$;
COMMENT ON FUNCTION public.roll_up_tasks() IS 'Trigger: adds what a statement changed of tasks to the counters of the tasks above, and of the project for root tasks; its own update goes on upwards, and ends where no progress changes. Locks tasks deepest first, then projects by id.';

COMMENT ON FUNCTION public.set_places(pg_catalog.text[],bigint[]) IS 'Writes the place of items in their chain: chain_position, and position of the link that leads there. For triggers.';

CREATE OR REPLACE FUNCTION public.set_places(refs text[], places bigint[])
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
 SET enable_seqscan TO 'off'
AS $function$
#variable_conflict use_variable
BEGIN
    UPDATE public.navigation_links link SET position = item.place
    FROM (
        SELECT there.id, item.place FROM unnest(refs, places) AS item (ref, place) CROSS JOIN LATERAL (
            SELECT one.id, one.position FROM public.navigation_links one
            WHERE one.to_ref = item.ref LIMIT 1
        ) there WHERE there.position <> item.place
    ) item
    WHERE link.id = item.id;
    -- A statement that meets no row would call the triggers of its table all the same.
    IF EXISTS (SELECT FROM unnest(refs) ref WHERE ref LIKE 'step://%') THEN
        UPDATE public.steps step SET chain_position = item.place
        FROM unnest(refs, places) AS item (ref, place)
        WHERE item.ref LIKE 'step://%' AND step.id = substr(item.ref, 8)::uuid
            AND step.chain_position IS DISTINCT FROM item.place;
    END IF;
    IF EXISTS (SELECT FROM unnest(refs) ref WHERE ref LIKE 'task://%') THEN
        UPDATE public.tasks task SET chain_position = item.place
        FROM unnest(refs, places) AS item (ref, place)
        WHERE item.ref LIKE 'task://%' AND task.id = substr(item.ref, 8)::uuid
            AND task.chain_position IS DISTINCT FROM item.place;
    END IF;
END
$function$;

CREATE OR REPLACE FUNCTION public.touch_updated_at()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
#variable_conflict use_variable
BEGIN
    IF TG_TABLE_NAME = 'steps' THEN
        IF NEW.progress <> OLD.progress THEN  -- what changes most often, and is a change of its own, is asked first
            NEW.updated_at := now();
            RETURN NEW;
        END IF;
    END IF;
    -- Here and not in the triggers' WHEN: columns that a WHEN lists could no longer change their type.
    IF TG_TABLE_NAME IN ('projects', 'tasks') THEN
        OLD.child_count := NEW.child_count;
        OLD.child_progress := NEW.child_progress;
    END IF;
    IF TG_TABLE_NAME IN ('tasks', 'steps') THEN
        OLD.chain_position := NEW.chain_position;
        OLD.finished := NEW.finished;
    END IF;
    IF OLD IS DISTINCT FROM NEW THEN
        NEW.updated_at := now();
    END IF;
    RETURN NEW;
END
$function$;
COMMENT ON FUNCTION public.touch_updated_at() IS 'Trigger: updated_at is the start of the transaction that last changed the row. An update that changes nothing leaves it alone; what other triggers derive (progress counters, chain_position, finished) does not count alone.';

COMMENT ON FUNCTION public.validate_navigation(pg_catalog.uuid) IS 'What is wrong with the chains of a project, no row where nothing is. Columns: problem (broken: a reference to nothing, or a link of nothing; one-sided: a reference without its link, or a link without its reference; circle; order), reference (the item), other (what it refers to), detail. Reads all of the project.';

CREATE OR REPLACE FUNCTION public.validate_navigation(project uuid)
 RETURNS TABLE(problem text, reference text, other text, detail text)
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
#variable_conflict use_variable
DECLARE
    back record;
    at text;
    least_ref text;
    members integer;
    reported text[] := '{}';
BEGIN
    RETURN QUERY
    WITH ends AS (
        SELECT 'task://' || task.id AS item, task.prev_id::text AS prev, task.next_id::text AS next,
            task.chain_position AS place
        FROM public.tasks task WHERE task.project_id = validate_navigation.project
        UNION ALL
        SELECT 'step://' || step.id, step.prev_id, step.next_id, step.chain_position
        FROM public.steps step WHERE step.project_id = validate_navigation.project
    ), said AS (
        SELECT ends.item, ends.next AS ref, 'next_id' AS name, ends.item AS from_ref, ends.next AS to_ref
        FROM ends WHERE ends.next IS NOT NULL
        UNION ALL
        SELECT ends.item, ends.prev, 'prev_id', ends.prev, ends.item FROM ends WHERE ends.prev IS NOT NULL
    ), links AS (
        SELECT link.from_ref, link.to_ref, link.position FROM public.navigation_links link
        WHERE link.project_id = validate_navigation.project
    ), heard AS (
        SELECT 'next_id' AS name, links.from_ref AS item, links.to_ref AS ref FROM links
        UNION ALL
        SELECT 'prev_id', links.to_ref, links.from_ref FROM links
    )
    SELECT CASE WHEN target.item IS NULL THEN 'broken' ELSE 'one-sided' END, said.item, said.ref,
        said.name || CASE WHEN target.item IS NULL THEN ' points at no item of the project' ELSE ' has no link' END
    FROM said LEFT JOIN ends target ON target.item = said.ref
    WHERE NOT EXISTS (SELECT FROM links WHERE links.from_ref = said.from_ref AND links.to_ref = said.to_ref)
    UNION ALL
    SELECT CASE WHEN heard_of.item IS NULL THEN 'broken' ELSE 'one-sided' END, heard.item, heard.ref,
        CASE WHEN heard_of.item IS NULL THEN 'there is a link of this item, which does not exist: see cleanup_orphans()'
            ELSE 'there is a link, but ' || heard.name || ' does not say so' END
    FROM heard LEFT JOIN ends heard_of ON heard_of.item = heard.item
    WHERE NOT EXISTS (SELECT FROM said WHERE said.item = heard.item AND said.ref = heard.ref AND said.name = heard.name)
    UNION ALL
    SELECT 'order', ends.item, links.from_ref, 'chain_position is not what the link says'
    FROM ends LEFT JOIN links ON links.to_ref = ends.item
    WHERE ends.place IS DISTINCT FROM links.position AND (links.to_ref IS NOT NULL OR NOT EXISTS (
        SELECT FROM links WHERE links.from_ref = ends.item))
    ORDER BY 1, 2, 4;
    -- Round a circle places cannot grow all the way: it has a link to a place that is not greater.
    FOR back IN
        SELECT link.from_ref, link.to_ref FROM public.navigation_links link
        LEFT JOIN public.navigation_links before ON before.to_ref = link.from_ref
        WHERE link.project_id = validate_navigation.project
            AND (link.position > coalesce(before.position, public.chain_position(link.from_ref))) IS NOT TRUE
        ORDER BY link.from_ref
    LOOP
        at := back.to_ref;
        least_ref := back.to_ref;
        members := 1;
        WHILE at IS NOT NULL AND at <> back.from_ref LOOP
            SELECT link.to_ref INTO at FROM public.navigation_links link
            WHERE link.from_ref = at;
            least_ref := least(least_ref, at);
            members := members + 1;
        END LOOP;
        IF at = back.from_ref THEN
            CONTINUE WHEN least_ref = ANY (reported);
            reported := reported || least_ref;
            problem := 'circle';
            detail := format('%s items that lead back to the first', members);
        ELSE
            problem := 'order';
            detail := 'the place of the second is not behind that of the first';
        END IF;
        reference := back.from_ref;
        other := back.to_ref;
        RETURN NEXT;
    END LOOP;
END
$function$;

COMMENT ON FUNCTION public.validate_progress(pg_catalog.uuid) IS 'Rows of a project whose stored progress or counters are not what its steps give, no row where all is right or the project is unknown: entity_type (PROJECT or TASK), id, stored and computed (progress), stored_child_count, computed_child_count, stored_child_progress, computed_child_progress. Computed is null for a task that hangs below no root.';

CREATE OR REPLACE FUNCTION public.validate_progress(project uuid)
 RETURNS TABLE(entity_type public.entity_type, id uuid, stored double precision, computed double precision, stored_child_count integer, computed_child_count integer, stored_child_progress numeric, computed_child_progress numeric)
 LANGUAGE sql
 STABLE
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
    WITH tree AS MATERIALIZED (
        SELECT * FROM public.progress_tree(ARRAY(
            SELECT task.id FROM public.tasks task
            WHERE task.project_id = validate_progress.project AND task.parent_task_id IS NULL
        ))
    ), compared AS (
        SELECT 'TASK'::public.entity_type AS kind, task.id, task.progress, tree.progress AS right_progress, task.child_count,
            tree.child_count AS right_count, task.child_progress, tree.child_progress AS right_sum
        FROM public.tasks task LEFT JOIN tree ON tree.task_id = task.id
        WHERE task.project_id = validate_progress.project
        UNION ALL
        SELECT 'PROJECT', owner.id, owner.progress, public.mean_progress(root.n, root.s), owner.child_count, root.n,
            owner.child_progress, root.s
        FROM public.projects owner
        CROSS JOIN (
            SELECT count(*)::integer AS n, coalesce(sum(round(tree.progress::numeric, 15)), 0) AS s FROM tree WHERE height = 1
        ) root
        WHERE owner.id = validate_progress.project
    )
    SELECT * FROM compared
    WHERE (progress, child_count, child_progress) IS DISTINCT FROM (right_progress, right_count, right_sum)
    ORDER BY kind, id
$function$;

CREATE OR REPLACE FUNCTION public.write_audit_log()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
 SET extra_float_digits TO '1'
AS $function$
#variable_conflict use_variable
DECLARE
    -- What triggers derive from other rows is no change of this one; a column that a table lacks does no harm here.
    unlogged CONSTANT text[] := ARRAY['updated_at', 'child_count', 'child_progress', 'chain_position', 'finished'];
    -- As current_actor, which is asked only where an agent acts: its call costs a row alone as much as reading it.
    user_id varchar := coalesce(left(nullif(current_setting('planner.user_id', true), ''), 255), 'system');
    agent public.ai_agent;
    metadata jsonb;
    first record;  -- the statement's first row, before and after, and whether there is no second; null for no row
    old_one record;
    new_one record;
    was double precision;  -- its progress before
    entity public.entity_type;
    old_row jsonb;
    new_row jsonb;
    differing text[];
    differs text;
    old_values text;
    new_values text;
BEGIN
    IF current_setting('planner.ai_agent', true) <> '' THEN
        SELECT * INTO user_id, agent, metadata FROM public.current_actor();
    END IF;
    IF TG_OP = 'UPDATE' THEN
        SELECT whole_old_row AS old_one, whole_new_row AS new_one, NOT EXISTS (SELECT FROM changed OFFSET 1) AS alone INTO first
        FROM before whole_old_row, changed whole_new_row LIMIT 1;
        IF first.alone AND TG_TABLE_NAME = 'steps' THEN
            -- Progress changes most often, by statements of one row: it is logged without making JSON of the rows, which costs
            -- more than the write itself, and with few expressions: each is prepared anew in each transaction.
            old_one := first.old_one;
            new_one := first.new_one;
            was := old_one.progress;
            old_one.progress := new_one.progress;
            old_one.updated_at := new_one.updated_at;
            old_one.finished := new_one.finished;
            IF old_one IS NOT DISTINCT FROM new_one THEN
                IF was <> new_one.progress THEN
                    INSERT INTO public.audit_logs
                        (entity_type, entity_id, project_id, action, old_values, new_values, metadata, user_id, ai_agent,
                         occurred_at)
                    VALUES ('STEP', new_one.id, new_one.project_id, 'UPDATED',
                        jsonb_build_object('progress', was), jsonb_build_object('progress', new_one.progress),
                        metadata, user_id, agent, clock_timestamp());
                END IF;
                RETURN NULL;
            END IF;
        END IF;
        IF first.alone THEN
            old_row := to_jsonb(first.old_one) - unlogged;
            new_row := to_jsonb(first.new_one) - unlogged;
        END IF;
        IF first.alone IS NULL OR old_row = new_row THEN
            RETURN NULL;
        END IF;
    END IF;
    entity := upper(left(TG_TABLE_NAME, -1));
    -- Static where no transition tables are joined: the plan is kept, and fits any number of rows. Columns that only some
    -- of the tables have are read from the row as JSON, which OFFSET 0 has made once; with it EXISTS looks up each row, and
    -- no plan that is kept reads all promotions for one.
    IF TG_OP = 'INSERT' THEN
        INSERT INTO public.audit_logs
            (entity_type, entity_id, project_id, action, new_values, metadata, user_id, ai_agent, occurred_at)
        SELECT entity, n.id, coalesce(n.held ->> 'project_id', n.held ->> 'id')::uuid,
            CASE entity WHEN 'DISPUTE' THEN 'DISPUTED' ELSE 'CREATED' END::public.audit_action,
            n.held, metadata, user_id, agent, clock_timestamp()
        FROM (SELECT id, to_jsonb(changed.*) - unlogged AS held FROM changed OFFSET 0) n;
    ELSIF TG_OP = 'DELETE' THEN
        INSERT INTO public.audit_logs
            (entity_type, entity_id, project_id, action, old_values, metadata, user_id, ai_agent, occurred_at)
        SELECT entity, o.id, coalesce(o.held ->> 'project_id', o.held ->> 'id')::uuid,
            CASE WHEN entity = 'STEP' AND EXISTS (
                SELECT FROM public.step_promotions promotion
                WHERE promotion.project_id = (o.held ->> 'project_id')::uuid AND promotion.step_id = o.id OFFSET 0
            ) THEN 'PROMOTED' ELSE 'DELETED' END::public.audit_action,
            o.held, metadata, user_id, agent, clock_timestamp()
        FROM (SELECT id, to_jsonb(before.*) - unlogged AS held FROM before OFFSET 0) o;
    ELSIF TG_OP = 'TRUNCATE' THEN
        -- Before it, the table itself holds what is about to go.
        EXECUTE format($query$
            INSERT INTO public.audit_logs
                (entity_type, entity_id, project_id, action, old_values, metadata, user_id, ai_agent, occurred_at)
            SELECT $1, o.id, coalesce(o.held ->> 'project_id', o.held ->> 'id')::uuid,
                CASE WHEN $1 = 'STEP' AND EXISTS (
                    SELECT FROM public.step_promotions promotion
                    WHERE promotion.project_id = (o.held ->> 'project_id')::uuid AND promotion.step_id = o.id OFFSET 0
                ) THEN 'PROMOTED' ELSE 'DELETED' END::public.audit_action,
                o.held, $3, $4, $5, clock_timestamp()
            FROM (SELECT id, to_jsonb(gone.*) - $2 AS held FROM %s gone OFFSET 0) o
            $query$, TG_RELID::regclass)
        USING entity, unlogged, metadata, user_id, agent;
    ELSIF first.alone AND new_row -> 'id' = old_row -> 'id' THEN
        INSERT INTO public.audit_logs
            (entity_type, entity_id, project_id, action, old_values, new_values, metadata, user_id, ai_agent, occurred_at)
        SELECT entity, (new_row ->> 'id')::uuid, coalesce(new_row ->> 'project_id', new_row ->> 'id')::uuid,
            CASE
                WHEN entity = 'STEP' AND new_row ->> 'status' = 'AGREED' AND old_row ->> 'status' <> 'AGREED' THEN 'COMPLETED'
                WHEN entity = 'DISPUTE' AND new_row ->> 'status' = 'RESOLVED' AND old_row ->> 'status' <> 'RESOLVED'
                    THEN 'RESOLVED'
                ELSE 'UPDATED' END::public.audit_action,
            jsonb_object_agg(key, old_row -> key), jsonb_object_agg(key, value),
            metadata, user_id, agent, clock_timestamp()
        FROM jsonb_each(new_row) WHERE value <> old_row -> key;
    ELSE
        -- The columns that the statement changed in any row at all: most change one to three of twenty, and only these are
        -- made JSON. EXECUTE: a plan kept from a statement of two rows would join ten thousand the wrong way.
        SELECT string_agg(format('CASE WHEN bool_or(o.%1$I IS DISTINCT FROM n.%1$I) THEN %1$L END', attname), ', ')
        INTO differs
        FROM pg_attribute
        WHERE attrelid = TG_RELID AND attnum > 0 AND NOT attisdropped AND attname <> ALL (unlogged);
        EXECUTE format('SELECT array_remove(ARRAY[%s]::text[], NULL) FROM before o FULL JOIN changed n ON n.id = o.id', differs)
        INTO differing;
        SELECT string_agg(differ, ' OR '),
            string_agg(format('CASE WHEN %s THEN jsonb_build_object(%L, o.%I) ELSE ''{}'' END', differ, name, name), ' || '),
            string_agg(format('CASE WHEN %s THEN jsonb_build_object(%L, n.%I) ELSE ''{}'' END', differ, name, name), ' || ')
        INTO differs, old_values, new_values
        FROM unnest(differing) name, format('o.%1$I IS DISTINCT FROM n.%1$I', name) differ;
        IF differs IS NULL THEN
            RETURN NULL;
        END IF;
        -- An id that changes is one row gone and another come: nothing tells which became which.
        EXECUTE format($query$
            INSERT INTO public.audit_logs
                (entity_type, entity_id, project_id, action, old_values, new_values, metadata, user_id, ai_agent, occurred_at)
            SELECT $1, coalesce(n.id, o.id), CASE WHEN n.id IS NULL THEN o.%1$I ELSE n.%1$I END,
                CASE WHEN n.id IS NULL THEN 'DELETED' WHEN o.id IS NULL THEN 'CREATED' WHEN %2$s
                    ELSE 'UPDATED' END::public.audit_action,
                CASE WHEN n.id IS NULL THEN to_jsonb(o.*) - $2 WHEN o.id IS NOT NULL THEN %3$s END,
                CASE WHEN o.id IS NULL THEN to_jsonb(n.*) - $2 WHEN n.id IS NOT NULL THEN %4$s END,
                $3, $4, $5, clock_timestamp()
            FROM before o FULL JOIN changed n ON n.id = o.id
            WHERE %5$s
            $query$,
            CASE entity WHEN 'PROJECT' THEN 'id' ELSE 'project_id' END,
            CASE entity
                WHEN 'STEP' THEN $when$n.status = 'AGREED' AND o.status <> 'AGREED' THEN 'COMPLETED'$when$
                WHEN 'DISPUTE' THEN $when$n.status = 'RESOLVED' AND o.status <> 'RESOLVED' THEN 'RESOLVED'$when$
                ELSE $when$false THEN ''$when$ END,
            old_values, new_values, differs)
        USING entity, unlogged, metadata, user_id, agent;
    END IF;
    RETURN NULL;
END
$function$;
-- grants on function public.write_audit_log(): nobody
COMMENT ON FUNCTION public.write_audit_log() IS 'Trigger: one row in audit_logs for each row of the statement that changed; of an update only the changed columns. Acts as its owner, so that the application needs no right to write the log. What other triggers derive (updated_at, child_count, child_progress, chain_position, finished) is no change.';

CREATE OR REPLACE FUNCTION public.write_audit_row()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
 SET extra_float_digits TO '1'
AS $function$
#variable_conflict use_variable
DECLARE
    was CONSTANT double precision := OLD.progress;
    -- As current_actor, which is asked only where an agent acts: its call costs a row alone as much as all the rest here.
    user_id varchar := coalesce(left(nullif(current_setting('planner.user_id', true), ''), 255), 'system');
    agent public.ai_agent;
    metadata jsonb;
    entity public.entity_type;
    old_row jsonb;
    new_row jsonb;
BEGIN
    IF current_setting('planner.ai_agent', true) <> '' THEN
        SELECT * INTO user_id, agent, metadata FROM public.current_actor();
    END IF;
    -- Progress changes most often, with a step's that of its task and project: it is logged without making JSON of the rows,
    -- which costs more than the write itself, and with few expressions: each is prepared anew in each transaction.
    OLD.progress := NEW.progress;
    OLD.updated_at := NEW.updated_at;
    OLD.child_count := NEW.child_count;
    OLD.child_progress := NEW.child_progress;
    IF OLD IS NOT DISTINCT FROM NEW THEN
        IF was = NEW.progress THEN
            RETURN NULL;
        ELSIF TG_TABLE_NAME = 'tasks' THEN
            INSERT INTO public.audit_logs
                (entity_type, entity_id, project_id, action, old_values, new_values, metadata, user_id, ai_agent, occurred_at)
            VALUES ('TASK', NEW.id, NEW.project_id, 'UPDATED',
                jsonb_build_object('progress', was), jsonb_build_object('progress', NEW.progress),
                metadata, user_id, agent, clock_timestamp());
        ELSE
            INSERT INTO public.audit_logs
                (entity_type, entity_id, project_id, action, old_values, new_values, metadata, user_id, ai_agent, occurred_at)
            VALUES ('PROJECT', NEW.id, NEW.id, 'UPDATED',
                jsonb_build_object('progress', was), jsonb_build_object('progress', NEW.progress),
                metadata, user_id, agent, clock_timestamp());
        END IF;
        RETURN NULL;
    END IF;
    OLD.progress := was;
    -- What triggers derive from other rows is no change of this one; a column that a table lacks does no harm here.
    old_row := to_jsonb(OLD) - '{updated_at,child_count,child_progress,chain_position,finished}'::text[];
    new_row := to_jsonb(NEW) - '{updated_at,child_count,child_progress,chain_position,finished}'::text[];
    IF old_row = new_row THEN
        RETURN NULL;
    END IF;
    entity := upper(left(TG_TABLE_NAME, -1));
    IF NEW.id = OLD.id THEN
        INSERT INTO public.audit_logs
            (entity_type, entity_id, project_id, action, old_values, new_values, metadata, user_id, ai_agent, occurred_at)
        SELECT entity, NEW.id, coalesce(new_row ->> 'project_id', new_row ->> 'id')::uuid, 'UPDATED',
            jsonb_object_agg(key, old_row -> key), jsonb_object_agg(key, value),
            metadata, user_id, agent, clock_timestamp()
        FROM jsonb_each(new_row) WHERE value <> old_row -> key;
    ELSE
        -- One row gone and another come, as among many, where nothing tells which became which.
        INSERT INTO public.audit_logs
            (entity_type, entity_id, project_id, action, old_values, new_values, metadata, user_id, ai_agent, occurred_at)
        SELECT entity, (held.value ->> 'id')::uuid, coalesce(held.value ->> 'project_id', held.value ->> 'id')::uuid, held.action,
            CASE held.action WHEN 'DELETED' THEN held.value END, CASE held.action WHEN 'CREATED' THEN held.value END,
            metadata, user_id, agent, clock_timestamp()
        FROM (VALUES ('DELETED'::public.audit_action, old_row), ('CREATED', new_row)) AS held (action, value);
    END IF;
    RETURN NULL;
END
$function$;
-- grants on function public.write_audit_row(): nobody
COMMENT ON FUNCTION public.write_audit_row() IS 'Trigger: logs an update of projects and tasks as write_audit_log does, row by row: there are few of them, and a row alone costs less so. Acts as its owner, too.';
