"""The application's queries on 100,000 steps: each uses the index that is meant for it, and no index is there for nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg2
import pytest

from mcp_planner_schema import example_data
from tests.conftest import ROOT, Database, _clone

EXAMPLES, STEPS = 100, 100_000
LARGE = "00000000-0000-4000-9000-000000000001"
"""One of the large projects, which have all the steps that the example projects leave of STEPS."""


@dataclass(frozen=True)
class Query:
    """A query of the application, the indexes it is to use, and what it may sort although an index could not help."""

    sql: str
    indexes: tuple[str, ...]
    sorts: str = ""


FOUND_IN_STEPS = "to_tsvector('english', (title || ' ') || left(coalesce(final_content, ''), 50000))"
FOUND_IN_TASKS = "to_tsvector('english', (title || ' ') || left(objective, 50000))"

QUERIES = {
    "dashboard": Query(
        """
        SELECT id, name, progress, updated_at, (
            SELECT count(*) FROM disputes WHERE disputes.project_id = projects.id AND disputes.status = 'PENDING'
        ) AS pending_disputes
        FROM projects ORDER BY updated_at DESC, id DESC LIMIT 20
        """,
        ("ix_projects_updated_at_id", "uq_disputes_project_id_step_id_pending"),
    ),
    "dashboard's next page": Query(
        """
        SELECT id, name, progress, updated_at FROM projects
        WHERE (updated_at, id) < (%(updated_at)s, %(small)s) ORDER BY updated_at DESC, id DESC LIMIT 20
        """,
        ("ix_projects_updated_at_id",),
    ),
    "work queue of the server AI": Query(
        """
        SELECT id, task_id, title, created_at FROM steps WHERE project_id = %(project)s AND status = 'PENDING'
        ORDER BY created_at, id LIMIT 20
        """,
        ("ix_steps_project_id_status_created_at_id",),
    ),
    "work queue of the client AI": Query(
        """
        SELECT id, task_id, title, server_content FROM steps WHERE project_id = %(project)s AND status = 'CLIENT_REVIEW'
        ORDER BY created_at, id LIMIT 20
        """,
        ("ix_steps_project_id_status_created_at_id",),
    ),
    "work queue of the user": Query(
        """
        SELECT id, task_id, title, status FROM steps
        WHERE project_id = %(project)s AND status IN ('DISPUTED', 'USER_RESOLUTION')
        ORDER BY created_at, id LIMIT 20
        """,
        ("ix_steps_project_id_status_created_at_id",),
        sorts="two statuses, each of which the index holds in order",
    ),
    "open steps by status": Query(
        """
        SELECT status, count(*), min(created_at) FROM steps WHERE project_id = %(project)s AND status <> 'AGREED'
        GROUP BY status
        """,
        ("ix_steps_project_id_status_created_at_id",),
    ),
    "steps above the threshold": Query(
        """
        SELECT id, task_id, title, complexity_score FROM steps
        WHERE project_id = %(project)s
            AND complexity_score > (SELECT complexity_threshold FROM projects WHERE id = %(project)s)
        ORDER BY complexity_score DESC LIMIT 20
        """,
        ("ix_steps_project_id_complexity_score", "pk_projects"),
    ),
    "pending disputes": Query(
        """
        SELECT disputes.id, disputes.step_id, disputes.created_at, projects.name
        FROM disputes JOIN projects ON projects.id = disputes.project_id
        WHERE disputes.status = 'PENDING' ORDER BY disputes.created_at, disputes.id LIMIT 20
        """,
        ("ix_disputes_created_at_id_pending", "pk_projects"),
    ),
    "pending disputes of a project": Query(
        """
        SELECT disputes.id, disputes.created_at, disputes.server_reasoning, disputes.client_reasoning, steps.title
        FROM disputes JOIN steps ON steps.project_id = disputes.project_id AND steps.id = disputes.step_id
        WHERE disputes.project_id = %(small)s AND disputes.status = 'PENDING'
        ORDER BY disputes.created_at, disputes.id LIMIT 20
        """,
        ("uq_disputes_project_id_step_id_pending",),
        sorts="the few that one project has; of one that has most of all, ix_disputes_created_at_id_pending gives them in order",
    ),
    "disputes of a step": Query(
        """
        SELECT id, status, user_resolution, resolved_content, created_at FROM disputes
        WHERE project_id = %(project)s AND step_id = %(disputed)s ORDER BY created_at
        """,
        ("ix_disputes_project_id_step_id",),
        sorts="the few that one step has",
    ),
    "search in steps": Query(
        f"""
        SELECT id, project_id, title FROM steps
        WHERE {FOUND_IN_STEPS} @@ websearch_to_tsquery('english', %(words)s)
        ORDER BY ts_rank({FOUND_IN_STEPS}, websearch_to_tsquery('english', %(words)s)) DESC LIMIT 20
        """,
        ("ix_steps_search",),
        sorts="by rank, which no index holds",
    ),
    "search in the steps of a project": Query(
        f"""
        SELECT id, task_id, title FROM steps
        WHERE project_id = %(project)s AND {FOUND_IN_STEPS} @@ websearch_to_tsquery('english', %(words)s)
        ORDER BY updated_at DESC LIMIT 20
        """,
        ("ix_steps_search",),
        sorts="by the time of the last change, which no index on steps holds",
    ),
    "search in tasks": Query(
        f"""
        SELECT id, project_id, title FROM tasks
        WHERE {FOUND_IN_TASKS} @@ websearch_to_tsquery('english', %(words)s)
        ORDER BY ts_rank({FOUND_IN_TASKS}, websearch_to_tsquery('english', %(words)s)) DESC LIMIT 20
        """,
        ("ix_tasks_search",),
        sorts="by rank, which no index holds",
    ),
    "root tasks": Query(
        """
        SELECT id, title, progress FROM tasks WHERE project_id = %(project)s AND parent_task_id IS NULL ORDER BY title
        """,
        ("uq_tasks_project_id_title_root",),
        sorts="the few that one project has, where reading them in the table's order is cheaper",
    ),
    "sub-tasks": Query(
        """
        SELECT id, title, progress FROM tasks WHERE project_id = %(project)s AND parent_task_id = %(parent)s ORDER BY title
        """,
        ("uq_tasks_project_id_parent_task_id_title",),
    ),
    "steps of a task": Query(
        "SELECT id, title, status, progress FROM steps WHERE project_id = %(project)s AND task_id = %(task)s ORDER BY title",
        ("uq_steps_project_id_task_id_title",),
        sorts="the steps of one task, where reading them in the table's order is cheaper",
    ),
    "next item": Query(
        """
        SELECT link.to_ref FROM navigation_cursors stands
        JOIN navigation_links link ON link.project_id = stands.project_id
            AND link.from_ref = coalesce('task://' || stands.current_task_id, 'step://' || stands.current_step_id)
        WHERE stands.project_id = %(project)s AND stands.actor = %(actor)s
        """,
        ("uq_navigation_cursors_project_id_actor", "uq_navigation_links_from_ref_project_id"),
    ),
    # What next_actionable_item asks, one by one.
    "next step to do": Query(
        """
        SELECT * FROM steps WHERE project_id = %(project)s AND finished IS NOT TRUE AND progress < 1
        ORDER BY chain_position, created_at, id LIMIT 1
        """,
        ("ix_steps_project_id_unfinished",),
    ),
    "next task to do": Query(
        """
        SELECT * FROM tasks WHERE project_id = %(project)s AND finished IS NOT TRUE AND progress < 1
        ORDER BY chain_position, created_at, id LIMIT 1
        """,
        ("ix_tasks_project_id_unfinished",),
    ),
    "next step of a task": Query(
        """
        SELECT * FROM steps WHERE task_id = %(task)s AND finished IS NOT TRUE AND progress < 1
        ORDER BY chain_position, created_at, id LIMIT 1
        """,
        ("ix_steps_task_id_unfinished",),
    ),
    "next sub-task of a task": Query(
        """
        SELECT * FROM tasks WHERE parent_task_id = %(parent)s AND finished IS NOT TRUE AND progress < 1
        ORDER BY chain_position, created_at, id LIMIT 1
        """,
        ("ix_tasks_parent_task_id_unfinished",),
    ),
    "circles of a project": Query(
        "SELECT from_ref FROM navigation_links WHERE project_id = %(project)s AND closes_circle",
        ("ix_navigation_links_project_id_closes_circle",),
    ),
    "successor": Query(
        "SELECT to_ref, position FROM navigation_links WHERE project_id = %(project)s AND from_ref = %(reference)s",
        ("uq_navigation_links_from_ref_project_id",),
    ),
    "predecessor": Query(
        "SELECT from_ref, position FROM navigation_links WHERE project_id = %(project)s AND to_ref = %(reference)s",
        ("uq_navigation_links_to_ref_project_id",),
    ),
    "chain": Query(
        """
        WITH RECURSIVE chain (reference, depth) AS (
            VALUES (%(reference)s, 0)
            UNION ALL
            SELECT link.to_ref, chain.depth + 1 FROM chain
            JOIN navigation_links link ON link.project_id = %(project)s AND link.from_ref = chain.reference
            WHERE chain.depth < 100
        )
        SELECT reference, depth FROM chain
        """,
        ("uq_navigation_links_from_ref_project_id",),
    ),
    "links of a project in order": Query(
        """
        SELECT from_ref, to_ref, position FROM navigation_links
        WHERE project_id = %(project)s AND position > %(position)s ORDER BY position LIMIT 100
        """,
        ("ix_navigation_links_project_id_position",),
    ),
    "where an actor stands": Query(
        "SELECT current_task_id, current_step_id FROM navigation_cursors WHERE project_id = %(project)s AND actor = %(actor)s",
        ("uq_navigation_cursors_project_id_actor",),
    ),
    "who stands at a step": Query(
        "SELECT actor FROM navigation_cursors WHERE project_id = %(project)s AND current_step_id = %(step)s",
        ("ix_navigation_cursors_project_id_current_step_id",),
    ),
    # Releases without navigation_links go along the chain by these.
    "tasks whose previous item is": Query("SELECT id FROM tasks WHERE prev_id = %(reference)s", ("ix_tasks_prev_id",)),
    "tasks whose next item is": Query("SELECT id FROM tasks WHERE next_id = %(reference)s", ("ix_tasks_next_id",)),
    "steps whose previous item is": Query("SELECT id FROM steps WHERE prev_id = %(reference)s", ("ix_steps_prev_id",)),
    "steps whose next item is": Query("SELECT id FROM steps WHERE next_id = %(reference)s", ("ix_steps_next_id",)),
    "latest assessments of a step": Query(
        """
        SELECT DISTINCT ON (agent) agent, iteration, level, score, confidence FROM complexity_assessments
        WHERE project_id = %(project)s AND step_id = %(step)s ORDER BY agent DESC, iteration DESC
        """,
        ("uq_complexity_assessments_project_id_step_id_agent_iteration",),
    ),
    "latest agreement of a step": Query(
        """
        SELECT iteration, agreed, final_level, final_score, resolution FROM complexity_agreements
        WHERE project_id = %(project)s AND step_id = %(step)s ORDER BY iteration DESC LIMIT 1
        """,
        ("uq_complexity_agreements_project_id_step_id_iteration",),
    ),
    "latest runs": Query(
        """
        SELECT started_at, finished_at, steps_promoted, convergence_reason FROM complexity_runs
        WHERE project_id = %(project)s ORDER BY started_at DESC LIMIT 10
        """,
        ("ix_complexity_runs_project_id_started_at",),
    ),
    "latest thresholds": Query(
        """
        SELECT changed_at, old_threshold, new_threshold, changed_by FROM threshold_changes
        WHERE project_id = %(project)s ORDER BY changed_at DESC LIMIT 10
        """,
        ("ix_threshold_changes_project_id_changed_at",),
    ),
    "what a step became": Query(
        "SELECT new_task_id, reason FROM step_promotions WHERE project_id = %(project)s AND step_id = %(promoted)s",
        ("uq_step_promotions_project_id_step_id",),
    ),
    "what a task was": Query(
        """
        SELECT step_title, reason, preserved_content FROM step_promotions
        WHERE project_id = %(project)s AND new_task_id = %(task)s
        """,
        ("uq_step_promotions_project_id_new_task_id",),
    ),
    # Functions are explained by their body.
    "audit trail": Query(
        "SELECT * FROM entity_audit_trail('STEP', %(step)s, 50)", ("ix_audit_logs_entity_type_entity_id_occurred_at",)
    ),
    "recent activity": Query(
        "SELECT * FROM recent_activity(%(small)s, 50, NULL)", ("ix_audit_logs_project_id_occurred_at",)
    ),
    "activity since": Query(
        "SELECT * FROM recent_activity(%(small)s, 50, %(since)s)", ("ix_audit_logs_project_id_occurred_at",)
    ),
}

# Each large project has 10,000 steps, numbered on, in 25 root tasks with three sub-tasks each; steps, disputes and judgements
# are copies of the examples'. Ids from numbers name the neighbours of an item without looking, and fill an index from one end.
# The rest are projects that nobody has begun.
LARGE_PROJECTS = """
CREATE FUNCTION pg_temp.id(number bigint) RETURNS uuid LANGUAGE sql IMMUTABLE
    RETURN ('00000000-0000-4000-9000-' || lpad(to_hex(number), 12, '0'))::uuid;
CREATE TEMP TABLE copied AS
    SELECT row_number() OVER () + 9999 AS number, example.* FROM generate_series(1, 100), (
        SELECT title, progress, left(final_content, 100) AS final_content, status, complexity_score, created_at FROM steps
    ) example
    LIMIT %(steps)s - (SELECT count(*) FROM steps);
ALTER TABLE copied ADD id uuid GENERATED ALWAYS AS (pg_temp.id(number)) STORED,
    ADD project uuid GENERATED ALWAYS AS (pg_temp.id(number / 10000)) STORED;
INSERT INTO projects (id, name, description, updated_at)
    SELECT pg_temp.id(n), 'Project ' || n, 'Large, or not begun.', now() - n * interval '1 hour' FROM generate_series(1, 3000) n;
INSERT INTO tasks (id, project_id, parent_task_id, title, objective)
    SELECT pg_temp.id(n), pg_temp.id(n / 100), CASE WHEN n %% 4 > 0 THEN pg_temp.id(n - n %% 4) END, 'Part ' || n, objective
    FROM (SELECT row_number() OVER () + 99 AS n, objective FROM tasks LIMIT 1000) example;
INSERT INTO steps (id, project_id, task_id, title, prev_id, next_id,
        progress, final_content, status, complexity_score, created_at, chain_position, finished)
    SELECT id, project, pg_temp.id(number / 10000 * 100 + number %% 100), title || ' ' || number,
        CASE WHEN number %% 10000 > 0 THEN 'step://' || pg_temp.id(number - 1) END,
        CASE WHEN number %% 10000 < 9999 THEN 'step://' || pg_temp.id(number + 1) END,
        progress, final_content, status, complexity_score, created_at, number * 1000, progress >= 1
    FROM copied;
UPDATE tasks SET finished = progress >= 1;
INSERT INTO navigation_links (project_id, from_step_id, to_step_id, position)
    SELECT project, id, pg_temp.id(number + 1), (number + 1) * 1000 FROM copied WHERE number %% 10000 < 9999;
INSERT INTO navigation_cursors (project_id, actor, current_step_id)
    SELECT project, 'actor ' || number, id FROM copied WHERE number %% 50 = 0;
INSERT INTO disputes (project_id, step_id, server_content, client_content, server_reasoning, client_reasoning, created_at)
    SELECT project, id, 'a', 'b', 'c', 'd', created_at FROM copied WHERE status = 'DISPUTED';
INSERT INTO complexity_assessments (project_id, step_id, agent, iteration, level, score, confidence)
    SELECT project, id, 'SERVER_AI', 1, 'LOW', 0.2, 0.9 FROM copied WHERE status <> 'PENDING';
INSERT INTO complexity_agreements (project_id, step_id, iteration, agreed, resolution)
    SELECT project, id, 1, true, 'CONSENSUS' FROM copied WHERE status <> 'PENDING';
INSERT INTO step_promotions (project_id, step_id, step_title, new_task_id, reason)
    SELECT pg_temp.id(n / 100), gen_random_uuid(), 'was a step', pg_temp.id(n), 'too large' FROM generate_series(100, 1099) n;
INSERT INTO complexity_runs (project_id, threshold, iterations_allowed, started_at)
    SELECT pg_temp.id(n / 100), 0.7, 3, now() - n * interval '1 hour' FROM generate_series(100, 1099) n;
INSERT INTO threshold_changes (project_id, new_threshold, changed_at)
    SELECT pg_temp.id(n / 100), 0.7, now() - n * interval '1 hour' FROM generate_series(100, 1099) n;
INSERT INTO audit_logs (entity_type, entity_id, project_id, action, occurred_at)
    SELECT 'STEP', id, project, 'CREATED', created_at FROM copied
"""

# Every index of the schema but the primary keys; one of a partition counts as the one it belongs to.
INDEXES = """
SELECT class.relname, i.indisunique OR i.indisexclusion AS is_rule
FROM pg_index i JOIN pg_class class ON class.oid = i.indexrelid
WHERE class.relnamespace = 'public'::regnamespace AND NOT class.relispartition AND NOT i.indisprimary
ORDER BY 1
"""
PARENTS = """
WITH RECURSIVE up AS (
    SELECT inhrelid AS index, inhparent AS parent FROM pg_inherits JOIN pg_index ON indexrelid = inhrelid
    UNION ALL
    SELECT up.index, above.inhparent FROM up JOIN pg_inherits above ON above.inhrelid = up.parent
)
SELECT index::regclass::text, parent::regclass::text FROM up
WHERE NOT EXISTS (SELECT FROM pg_inherits WHERE inhrelid = parent)
"""
# What a foreign key asks when a parent goes.
FOREIGN_KEYS = """
SELECT conname, format('DELETE FROM ONLY %s WHERE %s', conrelid::regclass, (
    SELECT string_agg(format('$%s = %I', place, attname), ' AND ')
    FROM unnest(conkey) WITH ORDINALITY AS key (attnum, place) JOIN pg_attribute USING (attnum) WHERE attrelid = conrelid
)) FROM pg_constraint WHERE contype = 'f' AND conparentid = 0 AND connamespace = 'public'::regnamespace
"""
# A partial index counts where its predicate is only that a column of the key is not null, as in all rows that are looked for.
UNCOVERED = """
SELECT conname FROM pg_constraint k
WHERE contype = 'f' AND conparentid = 0 AND connamespace = 'public'::regnamespace AND NOT EXISTS (
    SELECT FROM pg_index i JOIN pg_class class ON class.oid = i.indexrelid JOIN pg_am am ON am.oid = class.relam
    WHERE i.indrelid = k.conrelid AND i.indisvalid AND amname = 'btree' AND i.indnkeyatts >= cardinality(k.conkey)
        AND (i.indkey::int2[])[0:cardinality(k.conkey) - 1] @> k.conkey
        AND (i.indpred IS NULL OR pg_get_expr(i.indpred, i.indrelid) IN (
            SELECT format('(%I IS NOT NULL)', attname) FROM pg_attribute WHERE attrelid = k.conrelid AND attnum = ANY (k.conkey)
        ))
)
"""
# Columns with all that orders them; a unique index is a rule, whatever it begins.
PREFIXES = """
WITH described AS (
    SELECT i.indexrelid::regclass::text AS name, indrelid, indisunique, relam, pg_get_expr(indpred, indrelid) AS predicate, ARRAY(
        SELECT concat_ws(' ', pg_get_indexdef(indexrelid, n, true), indclass[n - 1], indcollation[n - 1], indoption[n - 1])
        FROM generate_series(1, indnkeyatts) n
    ) AS columns
    FROM pg_index i JOIN pg_class class ON class.oid = i.indexrelid
    WHERE class.relnamespace = 'public'::regnamespace AND NOT class.relispartition
)
SELECT short.name, long.name FROM described short JOIN described long USING (indrelid, relam)
WHERE short.name <> long.name AND NOT short.indisunique AND short.predicate IS NOT DISTINCT FROM long.predicate
    AND long.columns[1:cardinality(short.columns)] = short.columns
"""


@pytest.fixture(scope="module")
def planner_at_work(head_template: Any) -> Iterator[Database]:
    """A database of the planner with STEPS steps: EXAMPLES example projects, and large projects for the rest."""
    with _clone(head_template) as cloned:
        for month in (1, 2):
            cloned.rows(
                f"CREATE TABLE audit_logs_2026_0{month} PARTITION OF audit_logs "
                f"FOR VALUES FROM ('2026-0{month}-01') TO ('2026-0{month + 1}-01')"
            )
        with cloned.connect() as connection, connection.cursor() as cursor:
            # No triggers, those of foreign keys included: the rows are right, and only plans are looked at.
            cursor.execute("SET session_replication_role = replica")
            example_data.load(connection, projects=EXAMPLES)
            cursor.execute(LARGE_PROJECTS, {"steps": STEPS})
            cursor.execute("VACUUM ANALYZE")
        yield cloned


@pytest.fixture
def cursor(planner_at_work: Database) -> Iterator[Any]:
    """A session in a transaction that is rolled back: an index dropped in it is there for the next test."""
    with planner_at_work.connect(autocommit=False) as connection, connection.cursor() as opened:
        yield opened
        connection.rollback()


@pytest.fixture
def values(planner_at_work: Database) -> dict[str, Any]:
    """What the application asks about: a large project and things in it, and one of the small projects."""
    one = planner_at_work.value
    step = one("SELECT current_step_id FROM navigation_cursors WHERE project_id = %s AND actor = 'actor 15000'", LARGE)
    small = one("SELECT project_id FROM disputes WHERE status = 'PENDING' AND project_id <> %s LIMIT 1", LARGE)
    return {
        "project": LARGE,
        "small": small,
        "since": one("SELECT to_timestamp(avg(extract(epoch FROM occurred_at))) FROM audit_logs WHERE project_id = %s", small),
        "task": one("SELECT task_id FROM steps WHERE id = %s", step),
        "parent": one("SELECT parent_task_id FROM tasks WHERE project_id = %s AND parent_task_id IS NOT NULL LIMIT 1", LARGE),
        "step": step,
        "disputed": one("SELECT step_id FROM disputes WHERE project_id = %s LIMIT 1", LARGE),
        "promoted": one("SELECT step_id FROM step_promotions WHERE project_id = %s LIMIT 1", LARGE),
        "reference": f"step://{step}",
        "actor": "actor 15000",
        "position": 15_000_000,
        "updated_at": one("SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY updated_at) FROM projects"),
        "words": "retry timeout",
    }  # fmt: skip


def explain(cursor: Any, sql: str, values: dict[str, Any]) -> dict[str, Any]:
    """The plan of a query; of one that only calls a function, the plan of the function's body.

    EXPLAIN shows nothing within a function that has a SET clause. A body that names its arguments $1, $2 can be prepared.
    """
    called = re.fullmatch(r"SELECT \* FROM (\w+)\((.*)\)", sql)
    if called:
        cursor.execute(
            "SELECT prosrc, array_to_string(proargtypes::regtype[], ', ') FROM pg_proc WHERE oid = to_regproc(%s)",
            (called[1],),
        )
        body, types = cursor.fetchone()
        cursor.execute(f"PREPARE body ({types}) AS {body}")
        sql = f"EXECUTE body ({called[2]})"
    cursor.execute(f"EXPLAIN (FORMAT JSON) {sql}", values)
    plan: dict[str, Any] = cursor.fetchone()[0][0]["Plan"]
    if called:
        cursor.execute("DEALLOCATE body")
    return plan


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The plan's nodes, from the top."""
    yield plan
    for below in plan.get("Plans", []):
        yield from nodes(below)


def plans(cursor: Any, values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The plan of every query and of every foreign key's lookup, by name."""
    found = {name: explain(cursor, query.sql, values) for name, query in QUERIES.items()}
    cursor.execute(FOREIGN_KEYS)
    for name, sql in cursor.fetchall():
        # The server keeps one plan for any value of the key.
        cursor.execute(f"EXPLAIN (GENERIC_PLAN, FORMAT JSON) {sql}")
        found[name] = cursor.fetchone()[0][0]["Plan"]
    return found


def without_rule(cursor: Any) -> list[str]:
    """The indexes that are there for queries only: they keep nothing unique."""
    cursor.execute(INDEXES)
    return [name for name, is_rule in cursor.fetchall() if not is_rule]


def used_indexes(cursor: Any, plan: dict[str, Any]) -> set[str]:
    """The indexes of a plan, those of partitions by the name of the index that they are part of."""
    cursor.execute(PARENTS)
    parents = dict(cursor.fetchall())
    names = {node["Index Name"] for node in nodes(plan) if "Index Name" in node}
    return {parents.get(name, name) for name in names}


def slow(cursor: Any, found: dict[str, dict[str, Any]]) -> list[str]:
    """What is wrong with the plans: an index that is not used, a table that is read whole, a sort that an index could spare."""
    wrong = []
    for name, plan in found.items():
        query, used = QUERIES.get(name), used_indexes(cursor, plan)
        if query:
            wrong += [f"{name}: {index} is not used" for index in query.indexes if index not in used]
        for node in nodes(plan):
            if node["Node Type"] == "Seq Scan":
                wrong.append(f"{name}: {node['Relation Name']} is read whole")
            if not query and "Filter" in node:
                wrong.append(f"{name}: the index finds more than the key's rows")
            if node["Node Type"] == "Sort" and not (query and query.sorts):
                wrong.append(f"{name}: sorts by {', '.join(node['Sort Key'])}")
    return wrong


def unused(cursor: Any, found: dict[str, dict[str, Any]]) -> list[str]:
    """Indexes that keep no rule and that no plan uses."""
    used = set().union(*(used_indexes(cursor, plan) for plan in found.values()))
    return [name for name in without_rule(cursor) if name not in used]


@pytest.mark.long
def test_each_query_uses_its_index(cursor: Any, values: dict[str, Any]) -> None:
    """On 100,000 steps every query uses the index meant for it, reads no table whole and sorts only what no index orders."""
    cursor.execute("SELECT count(*) FROM steps")
    counted = cursor.fetchone()

    wrong = slow(cursor, plans(cursor, values))

    assert (counted, wrong) == ((STEPS,), [])


@pytest.mark.long
def test_no_index_is_unused(cursor: Any, values: dict[str, Any]) -> None:
    """Every index is used by a query or a foreign key, or keeps a rule; one more than that is found."""
    found = plans(cursor, values)
    assert unused(cursor, found) == []

    cursor.execute("CREATE INDEX ix_too_many ON steps (iteration_count)")

    assert unused(cursor, plans(cursor, values)) == ["ix_too_many"]


@pytest.mark.long
def test_each_index_is_needed(cursor: Any, values: dict[str, Any]) -> None:
    """Without an index the checks have something to say, and some query or deletion costs the planner at least twice as much."""
    before = plans(cursor, values)
    dispensable, unnoticed = {}, []

    for index in without_rule(cursor):
        cursor.execute(f"SAVEPOINT dropped; DROP INDEX {index}")
        after = plans(cursor, values)
        factor = max(after[name]["Total Cost"] / before[name]["Total Cost"] for name in before)
        if factor < 2:
            dispensable[index] = factor
        if not slow(cursor, after):
            unnoticed.append(index)
        cursor.execute("ROLLBACK TO SAVEPOINT dropped")

    assert (dispensable, unnoticed) == ({}, [])


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ("", []),
        ("DROP INDEX ix_disputes_project_id_step_id",
         ["fk_disputes_project_id_projects", "fk_disputes_project_id_step_id_steps"]),
        ("DROP INDEX ix_navigation_links_project_id_to_step_id", ["fk_navigation_links_project_id_to_step_id_steps"]),
        (
            "DROP INDEX ix_complexity_runs_project_id_started_at;"
            "CREATE INDEX ix_partial ON complexity_runs (project_id) WHERE finished_at IS NULL",
            ["fk_complexity_runs_project_id_projects"],
        ),
    ],
)  # fmt: skip
def test_every_foreign_key_is_covered(database: Database, change: str, found: list[str]) -> None:
    """Each foreign key's columns lead an index that holds all rows it looks for; a missing or a partial one is reported."""
    database.rows(change or "SELECT")

    uncovered = sorted(name for (name,) in database.rows(UNCOVERED))

    assert uncovered == found


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ("", []),
        ("CREATE INDEX ix_short ON steps (project_id, task_id)", [("ix_short", "uq_steps_project_id_task_id_title")]),
        ("CREATE INDEX ix_other ON steps (project_id, task_id DESC)", []),
        ("CREATE INDEX ix_same ON tasks (prev_id) WHERE prev_id IS NOT NULL",
         [("ix_same", "ix_tasks_prev_id"), ("ix_tasks_prev_id", "ix_same")]),
    ],
)  # fmt: skip
def test_no_index_begins_another(database: Database, change: str, found: list[tuple[str, str]]) -> None:
    """No index is the beginning of another on the same rows; one that is, or is the same, is found."""
    database.rows(change or "SELECT")

    prefixes = sorted(database.rows(PREFIXES))

    assert prefixes == found


ONE_STEP = """
INSERT INTO projects (name, description) VALUES ('p', 'd');
INSERT INTO tasks (project_id, title, objective) SELECT id, 't', 'o' FROM projects;
INSERT INTO steps (task_id, title) SELECT id, 's' FROM tasks
"""


@pytest.mark.parametrize(
    ("change", "hot"),
    [
        ("progress = 0.5", {"steps": 1, "tasks": 1}),
        ("server_content = 'draft', iteration_count = 1, server_ready = true", {"steps": 1, "tasks": 0}),
        ("status = 'SERVER_DRAFT'", {"steps": 0, "tasks": 0}),
    ],
)
def test_frequent_updates_touch_no_index(database: Database, change: str, hot: dict[str, int]) -> None:
    """Progress and drafts change steps and tasks in place (HOT), though updated_at changes too; a new status cannot."""
    database.rows(ONE_STEP)

    with database.connect(autocommit=False) as connection, connection.cursor() as cursor:
        cursor.execute(f"UPDATE steps SET {change}")
        cursor.execute(
            "SELECT relname, pg_stat_get_xact_tuples_hot_updated(oid) FROM pg_class "
            "WHERE oid IN ('steps'::regclass, 'tasks'::regclass)"
        )
        counted = dict(cursor.fetchall())

    assert counted == hot


@pytest.mark.parametrize(
    "word", ["substr(md5(n::text), 1, 8)", "chr(x'4e00'::int + n % 20000) || '-' || chr(x'4e00'::int + n / 9)"]
)
def test_no_text_is_too_long_for_the_search(database: Database, word: str) -> None:
    """A text whose words make more than a tsvector holds is stored; whoever indexed all of it would have it refused."""
    database.rows(ONE_STEP)
    database.rows(f"CREATE TABLE long AS SELECT string_agg({word}, ' ') AS text FROM generate_series(1, 150000) n")
    with pytest.raises(psycopg2.errors.ProgramLimitExceeded):
        database.rows("SELECT to_tsvector('english', text) FROM long")

    database.rows("UPDATE steps SET final_content = text FROM long; UPDATE tasks SET objective = text FROM long")

    assert database.value("SELECT final_content = text AND objective = text FROM steps, tasks, long") is True


def test_the_page_lists_every_index(database: Database) -> None:
    """docs/3 names each index but the primary keys, and each query that is to use it."""
    page = (ROOT / "docs" / "3-indexes-and-constraints.md").read_text(encoding="utf-8")

    listed = dict(re.findall(r"^\| `(ix_\w+|uq_\w+)` \|.*\| (.+) \|$", page, re.MULTILINE))

    there = {
        name: ", ".join(query for query in QUERIES if name in QUERIES[query].indexes)
        or ("rule" if is_rule else "foreign key")
        for name, is_rule in database.rows(INDEXES)
    }
    assert listed == there
