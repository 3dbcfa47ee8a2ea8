"""The planner's own tables: the four questions every history answers, and the rows that they refuse."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg2
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine

from mcp_planner_schema.models import metadata
from tests.catalog import Row, catalog, difference
from tests.conftest import ROOT, Database

SCRIPT = ScriptDirectory.from_config(Config(str(ROOT / "alembic.ini")))
REVISIONS = [one.revision for one in reversed(list(SCRIPT.walk_revisions()))]

PROJECT, TASK, STEP, OTHER = (f"00000000-0000-4000-8000-00000000000{n}" for n in range(4))
"""A project with one task and one step, and a second project without any."""

# One row in every table, at the revision that creates it.
ROWS = {
    "001": f"""
        INSERT INTO projects (id, name, description) VALUES ('{PROJECT}', 'one', 'first'), ('{OTHER}', 'other', 'second')
    """,
    "003": f"""
        INSERT INTO tasks (id, project_id, title, objective) VALUES ('{TASK}', '{PROJECT}', 'task', 'to do')
    """,
    "004": f"""
        INSERT INTO steps (id, project_id, task_id, title, prev_id)
        VALUES ('{STEP}', '{PROJECT}', '{TASK}', 'step', 'task://{TASK}')
    """,
    "005": f"""
        INSERT INTO disputes (project_id, step_id, server_content, client_content, server_reasoning, client_reasoning)
        VALUES ('{PROJECT}', '{STEP}', 'a', 'b', 'c', 'd')
    """,
    "006": f"""
        CREATE TABLE audit_logs_2026_01 PARTITION OF audit_logs FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
        INSERT INTO audit_logs (entity_type, entity_id, action, occurred_at)
        VALUES ('STEP', '{STEP}', 'CREATED', '2026-01-15'), ('STEP', '{STEP}', 'UPDATED', now())
    """,
    "007": f"""
        INSERT INTO complexity_assessments (project_id, step_id, agent, iteration, level, score, confidence)
        VALUES ('{PROJECT}', '{STEP}', 'SERVER_AI', 1, 'LOW', 0.2, 0.9);
        INSERT INTO complexity_agreements (project_id, step_id, iteration, agreed, resolution)
        VALUES ('{PROJECT}', '{STEP}', 1, true, 'CONSENSUS');
        INSERT INTO step_promotions (project_id, step_id, step_title, new_task_id, reason)
        VALUES ('{PROJECT}', gen_random_uuid(), 'was a step', '{TASK}', 'too large');
        INSERT INTO complexity_runs (project_id, threshold, max_iterations) VALUES ('{PROJECT}', 0.7, 3);
        INSERT INTO threshold_changes (project_id, new_threshold) VALUES ('{PROJECT}', 0.5)
    """,
    "008": f"""
        INSERT INTO navigation_links (project_id, from_task_id, to_step_id, position)
        VALUES ('{PROJECT}', '{TASK}', '{STEP}', 10) ON CONFLICT DO NOTHING;  -- at head the step's prev_id has made it
        INSERT INTO navigation_cursors (project_id, actor, current_step_id) VALUES ('{PROJECT}', 'SERVER_AI', '{STEP}')
    """,
}

ROWS_AT_HEAD = {
    revision: sql.replace("(project_id, threshold, max_iterations)", "(project_id, threshold, iterations_allowed)")
    for revision, sql in ROWS.items()
}
"""The same under the names that the columns have in the end."""

COLUMN_BACK = {
    one.revision: "public.complexity_runs"
    for one in SCRIPT.walk_revisions()
    if one.path.endswith("_drop_max_iterations.py")
}
"""Revisions whose downgrade brings back a column of this table: PostgreSQL puts it last, and knows no way to its old place."""


def test_there_is_one_head() -> None:
    """The history is one line: a single head, and each revision has exactly one parent."""
    heads = SCRIPT.get_heads()

    assert heads == [REVISIONS[-1]]
    assert [SCRIPT.get_revision(one).down_revision for one in REVISIONS] == [None, *REVISIONS[:-1]]


def test_files_have_the_names_the_team_uses() -> None:
    """The revisions that others refer to by name are there, in the order of SCHEMA.md."""
    names = [Path(SCRIPT.get_revision(one).path).stem for one in REVISIONS]

    assert names[:2] == ["001_create_projects_table", "002_add_complexity_fields"]
    assert "create_navigation_indexes" in [name.partition("_")[2] for name in names]
    order = ["projects", "complexity_fields", "tasks", "steps", "disputes", "audit_log", "complexity_tables",
             "navigation_tables", "navigation_indexes"]  # fmt: skip
    places = [next(n for n, name in enumerate(names) if word in name) for word in order]
    assert places == sorted(places)


def test_models_create_what_the_revisions_create(new_database: Callable[[], Database], database: Database) -> None:
    """create_all on an empty database and upgrade head leave the same catalog: columns in order, validity, comments, all.

    Functions and triggers are files that the models know nothing of.
    """
    created = new_database()
    engine = create_engine(created.url.replace("postgresql:", "postgresql+psycopg2:"))

    metadata.create_all(engine)
    engine.dispose()

    head = {row for row in catalog(database) if not {row[0], row[1].split()[0]} & {"function", "trigger"}}
    assert difference(catalog(created), head) == []
    assert len(head) > 300


@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        ("SELECT", 0, "No new upgrade operations detected"),
        ("ALTER TABLE projects ALTER max_iterations TYPE bigint", 255, "modify_type"),
        ("DROP INDEX ix_tasks_prev_id", 255, "ix_tasks_prev_id"),
    ],
)
def test_alembic_check_is_clean(database: Database, change: str, status: int, said: str) -> None:
    """``alembic check`` finds nothing to do between models and head, and would."""
    database.rows(change)

    checked = subprocess.run(
        [sys.executable, "-m", "alembic", "check"], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert checked.returncode == status, checked.stderr
    assert said in checked.stdout + checked.stderr


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ("SELECT", []),
        ("ALTER TABLE projects ALTER max_iterations TYPE bigint", ["modify_type"]),
        ("ALTER TABLE projects ALTER max_iterations SET DEFAULT 4", ["modify_default"]),
        ("ALTER TABLE projects ALTER max_iterations DROP NOT NULL", ["modify_nullable"]),
        ("COMMENT ON TABLE projects IS 'x'", ["add_table_comment"]),
    ],
)
def test_autogenerate_compares_types_and_defaults(database: Database, change: str, found: list[str]) -> None:
    """With types and server defaults compared, autogenerate finds nothing between models and head, and would."""
    database.rows(change)
    engine = create_engine(database.url.replace("postgresql:", "postgresql+psycopg2:"))
    options = {"compare_type": True, "compare_server_default": True, "include_name": _is_no_partition}

    with engine.connect() as connection:
        differences = compare_metadata(MigrationContext.configure(connection, opts=options), metadata)
    engine.dispose()

    assert [one[0][0] if isinstance(one, list) else one[0] for one in differences] == found


def _is_no_partition(name: str | None, kind: str, parents: object) -> bool:
    return not (kind == "table" and str(name).startswith("audit_logs_"))


@pytest.mark.long
def test_each_revision_goes_up_down_and_up_without_a_trace(empty: Database, planner: Config) -> None:
    """With rows in every table: down gives the catalog before it back, and up again the one after, and the rows."""
    states = [catalog(empty)]
    for revision in REVISIONS:
        before = states[-1]
        command.upgrade(planner, revision)
        after = catalog(empty)
        if revision in ROWS:
            empty.rows(ROWS[revision])

        command.downgrade(planner, "-1")
        restored = catalog(empty)
        if revision in COLUMN_BACK:
            before, restored = (
                _in_any_place(before, COLUMN_BACK[revision]),
                _in_any_place(restored, COLUMN_BACK[revision]),
            )
        assert (revision, difference(before, restored)) == (revision, [])

        command.upgrade(planner, revision)
        assert (revision, difference(after, catalog(empty))) == (revision, [])
        for table in re.findall(r"INSERT INTO (\w+)", ROWS.get(revision, "")):
            assert (table, empty.value(f"SELECT count(*) > 0 FROM {table}")) == (table, True)
        states.append(after)


def _in_any_place(rows: set[Row], table: str) -> set[Row]:
    """The catalog with the places of one table's columns left out."""
    return {
        (
            kind,
            name,
            definition.partition(" ")[2] if (kind, name.rpartition(".")[0]) == ("column", table) else definition,
        )
        for kind, name, definition in rows
    }


def test_head_to_base_and_back_leaves_no_trace(database: Database, planner: Config) -> None:
    """With rows in every table, head to base leaves an empty schema, and base to head what was there before."""
    head = catalog(database)
    for sql in ROWS_AT_HEAD.values():
        database.rows(sql)

    command.downgrade(planner, "base")

    assert {row[:2] for row in catalog(database)} <= {("schema", "public"), ("comment", "schema public")}
    assert database.rows("SELECT * FROM alembic_version") == []

    command.upgrade(planner, "head")

    assert difference(head, catalog(database)) == []


def test_a_downgrade_of_everything_keeps_every_row(database: Database, planner: Config) -> None:
    """Head to base with rows in every table: the stash holds as many rows of each table as the table held."""
    for sql in ROWS_AT_HEAD.values():
        database.rows(sql)
    tables = [row[0] for row in database.rows("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")]
    partitions = [
        row[0] for row in database.rows("SELECT relname FROM pg_class WHERE relispartition AND relkind = 'r'")
    ]
    counted = {
        f"public.{table}": database.value(f"SELECT count(*) FROM {table}")
        for table in [*tables, "audit_logs"]
        if table not in ("alembic_version", *partitions)
    }

    command.downgrade(planner, "base")

    kept = dict(
        database.rows(
            "SELECT object_schema || '.' || object_name, row_count FROM migration.stash_object WHERE kind = 'table'"
        )
    )
    assert kept == counted
    assert all(counted.values())
    assert sorted(
        database.rows(
            "SELECT object_schema || '.' || object_name, columns FROM migration.stash_object WHERE kind = 'columns'"
        )
    ) == [
        ("public.audit_logs", ["id", "occurred_at", "project_id"]),
        ("public.complexity_runs", ["id", "iterations_allowed"]),
        ("public.navigation_links", ["id", "closes_circle"]),
        ("public.projects", ["id", "child_count", "child_progress"]),
        ("public.projects", ["id", "complexity_threshold", "max_iterations"]),
        ("public.steps", ["id", "chain_position", "finished"]),
        ("public.tasks", ["id", "chain_position", "finished"]),
        ("public.tasks", ["id", "child_count", "child_progress"]),
    ]


BLANK = "chr(160) || chr(8203) || E' \\t'"
BAD_ROWS = [
    ("projects", "name = ''", "ck_projects_name_not_blank"),
    ("projects", f"name = {BLANK}", "ck_projects_name_not_blank"),
    ("projects", "description = E'\\n'", "ck_projects_description_not_blank"),
    ("projects", "progress = 1.01", "ck_projects_progress_range"),
    ("projects", "progress = 'NaN'", "ck_projects_progress_range"),
    ("projects", "complexity_threshold = -0.1", "ck_projects_complexity_threshold_range"),
    ("projects", "max_iterations = 0", "ck_projects_max_iterations_positive"),
    ("tasks", f"title = {BLANK}", "ck_tasks_title_not_blank"),
    ("tasks", "objective = ''", "ck_tasks_objective_not_blank"),
    ("tasks", "progress = 2", "ck_tasks_progress_range"),
    ("tasks", "parent_task_id = id", "ck_tasks_parent_task_id_not_itself"),
    ("tasks", "prev_id = 'tasks://' || id", "ck_tasks_prev_id_form"),
    ("tasks", "next_id = 'task://' || upper(gen_random_uuid()::text) || 'A'", "ck_tasks_next_id_form"),
    ("tasks", "prev_id = 'task://' || id", "ck_tasks_prev_id_not_itself"),
    ("tasks", "next_id = 'task://' || id", "ck_tasks_next_id_not_itself"),
    ("tasks", "parent_task_id = gen_random_uuid()", "fk_tasks_project_id_parent_task_id_tasks"),
    ("tasks", "INSERT INTO tasks (project_id, title, objective) VALUES (gen_random_uuid(), 'a', 'b')",
     "fk_tasks_project_id_projects"),
    ("tasks", f"INSERT INTO tasks (project_id, parent_task_id, title, objective) VALUES ('{OTHER}', '{TASK}', 'a', 'b')",
     "fk_tasks_project_id_parent_task_id_tasks"),
    ("steps", f"INSERT INTO steps (project_id, task_id, title) VALUES ('{OTHER}', '{TASK}', 'a')",
     "fk_steps_project_id_task_id_tasks"),
    ("steps", "title = ''", "ck_steps_title_not_blank"),
    ("steps", "prev_id = 'step://x'", "ck_steps_prev_id_form"),
    ("steps", "next_id = ''", "ck_steps_next_id_form"),
    ("steps", "prev_id = 'step://' || id", "ck_steps_prev_id_not_itself"),
    ("steps", "next_id = 'step://' || id", "ck_steps_next_id_not_itself"),
    ("steps", "progress = -1", "ck_steps_progress_range"),
    ("steps", "iteration_count = -1", "ck_steps_iteration_count_not_negative"),
    ("steps", "complexity_score = 1.5", "ck_steps_complexity_score_range"),
    ("steps", f"INSERT INTO steps (task_id, title, status) VALUES ('{TASK}', 'a', 'AGREED')",
     "ck_steps_agreed_has_final_content"),
    ("steps", f"INSERT INTO steps (task_id, title, status, final_content) VALUES ('{TASK}', 'a', 'AGREED', ' ')",
     "ck_steps_agreed_has_final_content"),
    ("disputes", "server_content = ''", "ck_disputes_server_content_not_blank"),
    ("disputes", "client_content = ''", "ck_disputes_client_content_not_blank"),
    ("disputes", "server_reasoning = ''", "ck_disputes_server_reasoning_not_blank"),
    ("disputes", "client_reasoning = ''", "ck_disputes_client_reasoning_not_blank"),
    ("disputes", "status = 'RESOLVED'", "ck_disputes_resolution_when_resolved"),
    ("disputes", "resolved_at = now()", "ck_disputes_resolution_when_resolved"),
    ("disputes", "status = 'RESOLVED', user_resolution = 'SERVER', resolved_at = now()", "ck_disputes_resolution_when_resolved"),
    ("disputes", "status = 'RESOLVED', user_resolution = 'SERVER', resolved_at = now(), resolved_content = ' '",
     "ck_disputes_resolved_content_not_blank"),
    ("disputes", f"project_id = '{OTHER}'", "fk_disputes_project_id_step_id_steps"),
    ("complexity_assessments", "iteration = -1", "ck_complexity_assessments_iteration_not_negative"),
    ("complexity_assessments", "score = 1.1", "ck_complexity_assessments_score_range"),
    ("complexity_assessments", "confidence = 'NaN'", "ck_complexity_assessments_confidence_range"),
    ("complexity_assessments", "suggested_breakdown = '{}'", "ck_complexity_assessments_suggested_breakdown_is_array"),
    ("complexity_assessments", "metrics = '[]'", "ck_complexity_assessments_metrics_is_object"),
    ("complexity_agreements", "iteration = -1", "ck_complexity_agreements_iteration_not_negative"),
    ("complexity_agreements", "final_score = 2", "ck_complexity_agreements_final_score_range"),
    ("step_promotions", "step_title = ''", "ck_step_promotions_step_title_not_blank"),
    ("step_promotions", "reason = ''", "ck_step_promotions_reason_not_blank"),
    ("step_promotions", "complexity_score = 2", "ck_step_promotions_complexity_score_range"),
    ("step_promotions", "new_task_id = gen_random_uuid()", "fk_step_promotions_project_id_new_task_id_tasks"),
    ("complexity_levels", "lowest_score = 'NaN'", "ck_complexity_levels_lowest_score_range"),
    ("complexity_levels", "lowest_score = 0.1", "uq_complexity_levels_lowest_score"),
    ("complexity_levels", "title = ''", "ck_complexity_levels_title_not_blank"),
    ("complexity_levels", f"description = {BLANK}", "ck_complexity_levels_description_not_blank"),
    ("complexity_levels", "INSERT INTO complexity_levels SELECT level, 0.9, title, description FROM complexity_levels",
     "pk_complexity_levels"),
    ("complexity_runs", "threshold = 1.1", "ck_complexity_runs_threshold_range"),
    ("complexity_runs", "iterations_used = -1", "ck_complexity_runs_iterations_used_not_negative"),
    ("complexity_runs", "iterations_allowed = 0", "ck_complexity_runs_iterations_allowed_positive"),
    ("complexity_runs", "iterations_used = 4", "ck_complexity_runs_iterations_used_within_limit"),
    ("complexity_runs", "steps_analysed = -1", "ck_complexity_runs_steps_analysed_not_negative"),
    ("complexity_runs", "steps_promoted = -1", "ck_complexity_runs_steps_promoted_not_negative"),
    ("threshold_changes", "old_threshold = -1", "ck_threshold_changes_old_threshold_range"),
    ("threshold_changes", "new_threshold = 7", "ck_threshold_changes_new_threshold_range"),
    ("navigation_links", f"from_step_id = '{STEP}'", "ck_navigation_links_from_exactly_one"),
    ("navigation_links", "from_task_id = NULL", "ck_navigation_links_from_exactly_one"),
    ("navigation_links", "to_task_id = gen_random_uuid()", "ck_navigation_links_to_exactly_one"),
    ("navigation_links", f"to_step_id = NULL, to_task_id = '{TASK}'", "ck_navigation_links_ends_differ"),
    ("navigation_links", "to_step_id = gen_random_uuid()", "fk_navigation_links_project_id_to_step_id_steps"),
    ("navigation_links", f"project_id = '{OTHER}'", "fk_navigation_links_project_id_"),
    ("navigation_cursors", "actor = ''", "ck_navigation_cursors_actor_not_blank"),
    ("navigation_cursors", f"current_task_id = '{TASK}'", "ck_navigation_cursors_current_exactly_one"),
    ("navigation_cursors", f"project_id = '{OTHER}'", "fk_navigation_cursors_project_id_current_step_id_steps"),
]  # fmt: skip
TWICE = {
    "tasks": "uq_tasks_project_id_title_root",
    "steps": "uq_steps_project_id_task_id_title",
    "disputes": "uq_disputes_project_id_step_id_pending",
    "complexity_assessments": "uq_complexity_assessments_project_id_step_id_agent_iteration",
    "complexity_agreements": "uq_complexity_agreements_project_id_step_id_iteration",
    "step_promotions": "uq_step_promotions_project_id_step_id",
    "navigation_links": "uq_navigation_links_from_ref_project_id",
    "navigation_cursors": "uq_navigation_cursors_project_id_actor",
}


@pytest.fixture(scope="module")
def filled(head_template: object) -> Iterator[psycopg2.extensions.connection]:
    """A transaction in a database at head with a row in every table: each bad row is tried in a savepoint."""
    from tests.conftest import _clone

    with _clone(head_template) as cloned, cloned.connect(autocommit=False) as connection, connection.cursor() as cursor:
        for sql in ROWS_AT_HEAD.values():
            cursor.execute(sql)
        for table in ("projects", "tasks"):  # what the constraint refuses, this trigger would put right before
            cursor.execute(f"ALTER TABLE {table} DISABLE TRIGGER {table}_50_derive_progress_update")
        yield connection
        connection.rollback()


def _refused(connection: psycopg2.extensions.connection, sql: str) -> str:
    with connection.cursor() as cursor:
        cursor.execute("SAVEPOINT bad")
        try:
            cursor.execute(sql)
            # A foreign key is looked at when the statement ends, the rest before: nothing is deferred.
            return ""
        except psycopg2.IntegrityError as error:
            return str(error.diag.constraint_name)
        finally:
            cursor.execute("ROLLBACK TO SAVEPOINT bad")


@pytest.mark.parametrize(("table", "change", "constraint"), BAD_ROWS, ids=[f"{row[0]}: {row[1]}" for row in BAD_ROWS])
def test_a_bad_row_is_refused(filled: psycopg2.extensions.connection, table: str, change: str, constraint: str) -> None:
    """Each rule is kept by the constraint that is named for it."""
    where = f" WHERE id = '{PROJECT}'" if table == "projects" else ""

    refused = _refused(filled, change if change.startswith("INSERT") else f"UPDATE {table} SET {change}{where}")

    assert refused.startswith(constraint)


@pytest.mark.parametrize(("table", "constraint"), TWICE.items())
def test_a_second_row_is_refused(filled: psycopg2.extensions.connection, table: str, constraint: str) -> None:
    """The same row under another id breaks the unique key that is named for it."""
    with filled.cursor() as cursor:
        cursor.execute(
            "SELECT string_agg(quote_ident(attname), ', ') FROM pg_attribute "
            "WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = '' AND attname <> 'id'",
            (table,),
        )
        columns = cursor.fetchone()[0]

    refused = _refused(filled, f"INSERT INTO {table} ({columns}) SELECT {columns} FROM {table}")

    assert refused == constraint


def test_a_title_is_unique_below_its_parent(filled: psycopg2.extensions.connection) -> None:
    """Two sub-tasks of one parent cannot share a title, a root task and a sub-task can."""
    child = (
        f"INSERT INTO tasks (project_id, parent_task_id, title, objective) VALUES ('{PROJECT}', '{TASK}', 'task', 'x')"
    )

    once, twice = _refused(filled, child), _refused(filled, f"{child}; {child}")

    assert (once, twice) == ("", "uq_tasks_project_id_parent_task_id_title")


@pytest.mark.parametrize("table", sorted(set(metadata.tables) - {"projects", "audit_logs", "complexity_levels"}))
def test_a_project_takes_its_rows_along(filled: psycopg2.extensions.connection, table: str) -> None:
    """Deleting a project deletes its rows everywhere but in the audit log; reference data is of no project."""
    with filled.cursor() as cursor:
        cursor.execute("SAVEPOINT deletion")

        cursor.execute("DELETE FROM projects WHERE id = %s", (PROJECT,))
        cursor.execute(f"SELECT count(*) FROM {table} WHERE project_id = %s", (PROJECT,))
        left = cursor.fetchone()[0]
        cursor.execute("SELECT count(*) FROM audit_logs")
        logged = cursor.fetchone()[0]
        cursor.execute("ROLLBACK TO SAVEPOINT deletion")

    assert (left, logged > 0) == (0, True)


def test_every_table_has_a_comment_and_every_key_an_index(database: Database) -> None:
    """Each table is described, and each foreign key's columns lead an index, so that deleting a parent reads no table whole."""
    silent = database.rows(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') "
        "AND relname <> 'alembic_version' AND obj_description(oid, 'pg_class') IS NULL"
    )
    slow = database.rows(
        "SELECT conname FROM pg_constraint k WHERE contype = 'f' AND connamespace = 'public'::regnamespace AND NOT EXISTS ("
        " SELECT FROM pg_index i WHERE i.indrelid = k.conrelid AND i.indisvalid"
        " AND (i.indkey::int2[])[0:cardinality(k.conkey) - 1] @> k.conkey)"
    )

    assert (silent, slow) == ([], [])


def test_trouble_is_told_apart(new_database: Callable[[], Database]) -> None:
    """The comparison these tests rest on sees what autogenerate does not: an INVALID index, a NOT VALID check, a comment."""
    database = new_database()
    database.rows("CREATE TABLE t (a int, b int); INSERT INTO t VALUES (1, 1), (1, 2); COMMENT ON COLUMN t.a IS 'x'")
    before = catalog(database)

    with pytest.raises(psycopg2.errors.UniqueViolation):
        database.rows("CREATE UNIQUE INDEX CONCURRENTLY t_a ON t (a)")
    database.rows("ALTER TABLE t ADD CONSTRAINT t_b CHECK (b > 0) NOT VALID; COMMENT ON COLUMN t.a IS 'y'")

    found = difference(before, catalog(database))
    assert [line.partition(":")[0] for line in found] == [
        "- comment table column public.t.a",
        "+ comment table column public.t.a",
        "+ constraint public.t.t_b",
        "+ index public.t_a",
        "+ relation public.t_a",
    ]
    assert found[3].endswith("(a) INVALID")
