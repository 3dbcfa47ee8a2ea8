"""`example_data`: the rows it makes, the rules they hold, and what happens when they cannot be written."""

import hashlib
import io
import tracemalloc
from collections.abc import Iterator
from typing import Any

import psycopg2
import pytest
from alembic.config import Config

from mcp_planner_schema import example_data, models
from mcp_planner_schema.example_data import COLUMNS, loading, rows
from mcp_planner_schema.guard.findings import Broken, Busy, WrongUse
from tests.conftest import Database

FILLED_BY_REVISIONS = {"complexity_levels"}
"""Reference data: the same rows everywhere, so none of a project."""

# Of 50 projects of seed 1, whatever the Python version. A new value means that everyone's example data changes.
CHECKSUM = "fe8bf44532bf5443761ecb1cbf361c4a8d5d35fa33f35144b9f62578ab740dfe"
LARGEST = 106  # the largest of seed 1's first 200 projects

# Each query finds what breaks a rule of SCHEMA.md, or of what the tables mean together.
ITEMS = """
    WITH items AS (
        SELECT project_id, 'task://' || id AS ref, prev_id, next_id FROM tasks
        UNION ALL SELECT project_id, 'step://' || id, prev_id, next_id FROM steps
    )
"""
RULES = {
    "task progress is the mean over steps and sub-tasks": """
        SELECT tasks.id FROM tasks LEFT JOIN LATERAL (
            SELECT avg(progress) AS mean FROM (
                SELECT progress FROM steps WHERE task_id = tasks.id
                UNION ALL SELECT progress FROM tasks child WHERE child.parent_task_id = tasks.id
            ) parts
        ) computed ON true
        WHERE abs(progress - coalesce(mean, 0)) > 1e-12""",
    "project progress is the mean over root tasks": """
        SELECT id FROM projects LEFT JOIN LATERAL (
            SELECT avg(progress) AS mean FROM tasks WHERE project_id = projects.id AND parent_task_id IS NULL
        ) computed ON true
        WHERE abs(progress - coalesce(mean, 0)) > 1e-12""",
    "progress 1 means AGREED and the reverse": "SELECT id FROM steps WHERE (status = 'AGREED') <> (progress = 1)",
    "a reference names an item of the same project": ITEMS
    + """
        SELECT items.ref FROM items CROSS JOIN LATERAL (VALUES (prev_id), (next_id)) AS named (ref)
        WHERE named.ref IS NOT NULL AND NOT EXISTS (
            SELECT FROM items other WHERE other.ref = named.ref AND other.project_id = items.project_id
        )""",
    "links say what next_id says": ITEMS
    + """
        SELECT items.ref FROM (SELECT * FROM items WHERE next_id IS NOT NULL) items
        FULL JOIN navigation_links ON from_ref = ref AND navigation_links.project_id = items.project_id
        WHERE to_ref IS DISTINCT FROM next_id""",
    "links say what prev_id says": ITEMS
    + """
        SELECT items.ref FROM (SELECT * FROM items WHERE prev_id IS NOT NULL) items
        FULL JOIN navigation_links ON to_ref = ref AND navigation_links.project_id = items.project_id
        WHERE from_ref IS DISTINCT FROM prev_id""",
    "positions rise along a chain, so no chain is a circle": """
        SELECT one.id FROM navigation_links one JOIN navigation_links next
            ON next.project_id = one.project_id AND next.from_ref = one.to_ref
        WHERE next.position <= one.position""",
    "trees are at most four deep and without cycles": """
        WITH RECURSIVE tree AS (
            SELECT id, 1 AS depth FROM tasks WHERE parent_task_id IS NULL
            UNION ALL SELECT tasks.id, depth + 1 FROM tasks JOIN tree ON parent_task_id = tree.id
        )
        SELECT id FROM tasks LEFT JOIN tree USING (id) WHERE depth IS NULL OR depth > 4""",
    "a disputed step has its one pending dispute, no other step has one": """
        SELECT steps.id FROM steps LEFT JOIN disputes ON step_id = steps.id AND disputes.status = 'PENDING'
        WHERE (steps.status = 'DISPUTED') <> (disputes.id IS NOT NULL)""",
    "a resolved dispute's step is with the user or agreed on what was resolved": """
        SELECT disputes.id FROM disputes JOIN steps ON steps.id = step_id WHERE disputes.status = 'RESOLVED'
            AND NOT (steps.status = 'USER_RESOLUTION' OR steps.status = 'AGREED' AND final_content = resolved_content)""",
    "contents come with the status": """
        SELECT id FROM steps WHERE CASE status
            WHEN 'PENDING' THEN num_nonnulls(server_content, client_content, final_content, complexity_score) <> 0
            WHEN 'SERVER_DRAFT' THEN server_content IS NULL OR num_nonnulls(client_content, final_content) <> 0
            ELSE num_nulls(server_content, client_content) <> 0 OR (final_content IS NULL) = (status = 'AGREED') END""",
    "iterations stay within the project's limit": """
        SELECT steps.id FROM steps JOIN projects ON projects.id = project_id
        WHERE iteration_count > max_iterations OR max_iterations_reached <> (iteration_count = max_iterations)""",
    "assessments belong to iterations of the step": """
        SELECT complexity_assessments.id FROM complexity_assessments JOIN steps ON steps.id = step_id
        WHERE iteration NOT BETWEEN 1 AND iteration_count""",
    "an agreement has both assessments": """
        SELECT id FROM complexity_agreements WHERE 2 <> (
            SELECT count(*) FROM complexity_assessments other
            WHERE other.step_id = complexity_agreements.step_id AND other.iteration = complexity_agreements.iteration
        )""",
    "a step is agreed exactly when its last agreement or the user says so": """
        SELECT steps.id FROM steps LEFT JOIN complexity_agreements agreement
            ON step_id = steps.id AND iteration = iteration_count
        WHERE (status = 'AGREED') <> (
            coalesce(agreed, false) OR (status = 'AGREED' AND EXISTS (SELECT FROM disputes WHERE step_id = steps.id))
        )""",
    "a level fits its score": """
        SELECT id FROM complexity_assessments
        WHERE level <> CASE WHEN score < 0.4 THEN 'LOW' WHEN score < 0.7 THEN 'MEDIUM' ELSE 'HIGH' END::complexity_level""",
    "a promoted step is gone and its task bears its title": """
        SELECT promotion.id FROM step_promotions promotion JOIN tasks ON tasks.id = new_task_id
        WHERE title <> step_title OR EXISTS (SELECT FROM steps WHERE steps.id = promotion.step_id)""",
    "runs count the promotions": """
        SELECT id FROM projects WHERE (SELECT count(*) FROM step_promotions WHERE project_id = projects.id)
            <> (SELECT coalesce(sum(steps_promoted), 0) FROM complexity_runs WHERE project_id = projects.id)""",
    "a run that is under way is the latest and has no reason yet": """
        SELECT id FROM complexity_runs run WHERE (finished_at IS NULL) <> (convergence_reason IS NULL)
            OR finished_at IS NULL AND EXISTS (
                SELECT FROM complexity_runs WHERE project_id = run.project_id AND started_at > run.started_at
            )""",
    "thresholds follow from one another": """
        SELECT id FROM (SELECT *, lag(new_threshold) OVER (PARTITION BY project_id ORDER BY changed_at) AS before
            FROM threshold_changes) history
        WHERE old_threshold IS DISTINCT FROM before""",
    "the last threshold is the project's": """
        SELECT id FROM projects WHERE complexity_threshold IS DISTINCT FROM (
            SELECT new_threshold FROM threshold_changes WHERE project_id = projects.id ORDER BY changed_at DESC LIMIT 1
        )""",
    "projects, tasks and steps were created once": """
        SELECT id FROM (
            SELECT id, 'PROJECT' AS kind FROM projects UNION ALL SELECT id, 'TASK' FROM tasks
            UNION ALL SELECT id, 'STEP' FROM steps
        ) entity WHERE 1 <> (SELECT count(*) FROM audit_logs
            WHERE entity_id = entity.id AND entity_type::text = kind AND action = 'CREATED')""",
    "disputes were raised once and resolved when they are": """
        SELECT id FROM disputes
        WHERE 1 <> (SELECT count(*) FROM audit_logs WHERE entity_id = disputes.id AND action = 'DISPUTED')
            OR (status = 'RESOLVED')::int <> (
                SELECT count(*) FROM audit_logs WHERE entity_id = disputes.id AND action = 'RESOLVED')""",
    "agreed steps were completed once, others never": """
        SELECT id FROM steps WHERE (status = 'AGREED')::int <> (
            SELECT count(*) FROM audit_logs WHERE entity_id = steps.id AND action = 'COMPLETED')""",
    "the log moves a step's status as the schema allows": """
        SELECT id FROM audit_logs WHERE entity_type = 'STEP' AND action IN ('UPDATED', 'COMPLETED')
            AND (old_values->>'status', new_values->>'status') NOT IN (
                ('PENDING', 'SERVER_DRAFT'), ('SERVER_DRAFT', 'CLIENT_REVIEW'), ('SERVER_DRAFT', 'DISPUTED'),
                ('CLIENT_REVIEW', 'AGREED'), ('CLIENT_REVIEW', 'SERVER_DRAFT'), ('CLIENT_REVIEW', 'DISPUTED'),
                ('DISPUTED', 'USER_RESOLUTION'), ('USER_RESOLUTION', 'AGREED'))""",
    "the log's moves join up and end at the step's status": """
        SELECT steps.id FROM steps CROSS JOIN LATERAL (
            SELECT bool_and(before IS NOT DISTINCT FROM was) AS joined, (array_agg(now ORDER BY occurred_at DESC))[1] AS last
            FROM (SELECT occurred_at, new_values->>'status' AS now, old_values->>'status' AS was,
                    lag(new_values->>'status') OVER (ORDER BY occurred_at) AS before
                FROM audit_logs WHERE entity_id = steps.id) moves
        ) log WHERE NOT joined OR last <> status::text""",
    "every audit row says who acted": "SELECT id FROM audit_logs WHERE num_nonnulls(user_id, ai_agent) = 0",
    "nothing changed before it was there": """
        SELECT id FROM projects WHERE updated_at < created_at
        UNION ALL SELECT id FROM tasks WHERE updated_at < created_at
        UNION ALL SELECT id FROM steps WHERE updated_at < created_at
        UNION ALL SELECT id FROM disputes WHERE updated_at < created_at OR resolved_at < created_at
        UNION ALL SELECT steps.id FROM steps JOIN tasks ON tasks.id = task_id WHERE steps.created_at < tasks.created_at
        UNION ALL SELECT tasks.id FROM tasks JOIN projects ON projects.id = project_id
            WHERE tasks.created_at < projects.created_at""",
}


@pytest.fixture(autouse=True)
def _development(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANNER_ENV", "development")


def stored(database: Database) -> dict[str, list[bytes]]:
    """What the database gives back as COPY text, sorted."""
    found: dict[str, list[bytes]] = {}
    with database.connect() as connection, connection.cursor() as cursor:
        cursor.execute("SET TimeZone = 'UTC'")
        for table, columns in COLUMNS.items():
            text = io.BytesIO()
            cursor.copy_expert(f"COPY (SELECT {columns} FROM {table}) TO STDOUT", text)
            found[table] = sorted(text.getvalue().split(b"\n")[:-1])
    return found


def made(seed: int, first: int, count: int) -> dict[str, list[bytes]]:
    """The same of the generator alone."""
    lines: dict[str, list[bytes]] = {table: [] for table in COLUMNS}
    for project in rows(seed, first, count):
        for table, text in project.items():
            lines[table] += text.split(b"\n")[:-1]
    return {table: sorted(every) for table, every in lines.items()}


def count_rows(database: Database) -> dict[str, int]:
    """Rows by table."""
    return {table: database.value(f"SELECT count(*) FROM {table}") for table in COLUMNS}


def test_fill_writes_every_table(database: Database, planner: Config) -> None:
    """Even one project puts rows into each of the tables, and the summary counts them."""
    text = example_data.fill(planner, projects=1)

    counts = count_rows(database)
    assert set(counts) == set(models.metadata.tables) - FILLED_BY_REVISIONS
    assert all(counts.values()), counts
    assert f"1 projects (number 1 to 1): {sum(counts.values()):,} rows in 12 tables" in text


def test_every_column_is_written() -> None:
    """The rows fill all columns the tables have, but those PostgreSQL computes itself."""
    of_models = {
        name: {column.name for column in table.columns if column.computed is None}
        for name, table in models.metadata.tables.items()
        if name not in FILLED_BY_REVISIONS
    }

    assert {table: set(columns.split(", ")) for table, columns in COLUMNS.items()} == of_models


def test_the_database_gives_back_what_was_made(database: Database) -> None:
    """Every byte survives the way in and out: escapes, JSON, times, floats and all."""
    with database.connect() as connection:
        example_data.load(connection, projects=20)

    assert stored(database) == made(1, 0, 20)


def test_rows_are_the_same_everywhere() -> None:
    """Python versions, machines and days agree on the bytes."""
    digest = hashlib.sha256()

    for project in rows(1, 0, 50):
        for table, text in project.items():
            digest.update(table.encode() + b"\n" + text)

    assert digest.hexdigest() == CHECKSUM


def test_a_project_does_not_depend_on_the_others() -> None:
    """Project 7 is the same in a run of 8, in a run of 40 and alone."""
    alone = list(rows(1, 7, 1))

    assert list(rows(1, 0, 8))[7:] == alone
    assert list(rows(1, 0, 40))[7:8] == alone


def test_another_seed_makes_other_rows() -> None:
    """No row of one seed occurs in another, so two seeds fit into one database."""
    one, other = made(1, 0, 5), made(2, 0, 5)

    assert all(set(one[table]).isdisjoint(other[table]) for table in COLUMNS)


def test_texts_hold_what_breaks_careless_loaders() -> None:
    """Tabs, newlines, backslashes, quotes, accents, CJK and emoji all occur in step contents."""
    text = b"\n".join(made(1, 0, 20)["steps"]).decode()

    assert all(character in text for character in ("\\t", "\\n", "\\\\", '"', "'", "é", "ü", "范", "テ", "🚀"))


def test_sizes_vary() -> None:
    """About 12 tasks and 80 steps a project, some of several hundred, and some that are only begun."""
    steps = [project.get("steps", b"").count(b"\n") for project in rows(1, 0, 200)]
    tasks = [project.get("tasks", b"").count(b"\n") for project in rows(1, 0, 200)]

    assert 9 <= sum(tasks) / 200 <= 16
    assert 60 <= sum(steps) / 200 <= 110
    assert max(steps) > 400
    assert min(steps) == 0


@pytest.mark.long
def test_every_rule_of_the_schema_holds(database: Database) -> None:
    """No row breaks a rule, whether a constraint, a trigger or nobody watches over it."""
    with database.connect() as connection:
        example_data.load(connection, projects=100)
        connection.cursor().execute("CREATE INDEX ON audit_logs (entity_id); ANALYZE")  # the rules ask for each row

    broken = {rule: database.value(f"SELECT count(*) FROM ({query}) broken") for rule, query in RULES.items()}

    assert broken == dict.fromkeys(RULES, 0)


def test_every_label_occurs(database: Database) -> None:
    """100 projects use each label of each enum column that it can have, and the log spreads over a year."""
    with database.connect() as connection:
        example_data.load(connection, projects=100)

    columns = database.rows(
        """
        SELECT attrelid::regclass::text, attname, atttypid::regtype::text
        FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid JOIN pg_type ON pg_type.oid = atttypid
        WHERE typtype = 'e' AND relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition
        """
    )
    missing = [
        (table, column, label)
        for table, column, type_ in columns
        for (label,) in database.rows(
            f"SELECT label::text FROM unnest(enum_range(NULL::{type_})) label EXCEPT SELECT {column}::text FROM {table}"
        )
    ]
    assert columns
    assert missing == []
    assert database.value("SELECT count(DISTINCT date_trunc('month', occurred_at)) FROM audit_logs") >= 12


def test_a_second_run_goes_on(database: Database, planner: Config) -> None:
    """6 projects and 4 more are the same rows as 10 at once."""
    first = example_data.fill(planner, projects=6)
    second = example_data.fill(planner, projects=4)

    assert first.startswith("6 projects (number 1 to 6)")
    assert second.startswith("4 projects (number 7 to 10)")
    assert stored(database) == made(1, 0, 10)


def test_a_log_that_outlived_its_project_is_named(database: Database, planner: Config) -> None:
    """Where the last projects were deleted, their log stands in the way: another seed is proposed and nothing written."""
    example_data.fill(planner, projects=2)
    with database.connect() as connection, connection.cursor() as cursor:
        cursor.execute("DELETE FROM projects WHERE id = %s", (example_data.project_id(1, 1),))
    before = count_rows(database)

    with pytest.raises(Broken, match="rows of seed 1 are there already") as error:
        example_data.fill(planner, projects=3)

    assert count_rows(database) == before
    assert error.value.next_command == "make example-data PROJECTS=3 SEED=2"
    assert example_data.fill(planner, projects=3, seed=2).startswith("3 projects (number 1 to 3)")


def test_a_missing_table_is_named(database: Database, planner: Config) -> None:
    """A database that is not at head is told apart from a broken one."""
    database.rows("DROP TABLE navigation_cursors; UPDATE alembic_version SET version_num = '023'")

    with pytest.raises(Broken, match="The database has no table navigation_cursors") as error:
        example_data.fill(planner, projects=1)

    assert error.value.next_command == "make migrate-up"


def test_a_missing_column_is_named(database: Database, planner: Config) -> None:
    """The same for a table that is older than head."""
    database.rows("ALTER TABLE navigation_links DROP COLUMN position; UPDATE alembic_version SET version_num = '023'")

    with pytest.raises(Broken, match=r'not at head: column "position" .* does not exist') as error:
        example_data.fill(planner, projects=1)

    assert error.value.next_command == "make migrate-up"
    assert database.value("SELECT count(*) FROM projects") == 0


def test_at_head_it_is_the_models_that_differ(database: Database, planner: Config) -> None:
    """Where every revision is applied, migrate-up would help nobody: the package does not know of the change."""
    database.rows("ALTER TABLE disputes RENAME COLUMN server_reasoning TO reasoning")

    with pytest.raises(
        Broken, match=r'^Column "server_reasoning" .* is at [0-9]+, the newest .*: the models are not what'
    ) as error:
        example_data.fill(planner, projects=1)

    assert "not at head" not in error.value.message
    assert error.value.next_command.startswith("change mcp_planner_schema/models/")


@pytest.mark.parametrize("environment", ["staging", "production"])
def test_only_development_is_filled(
    database: Database, planner: Config, monkeypatch: pytest.MonkeyPatch, environment: str
) -> None:
    """Example data never reaches a database that counts as anything else."""
    monkeypatch.setenv("PLANNER_ENV", environment)

    with pytest.raises(WrongUse, match=f"counts as {environment}"):
        example_data.fill(planner, projects=1)

    assert not any(count_rows(database).values())


def test_impossible_numbers_are_refused(database: Database, planner: Config) -> None:
    """No projects at all, or a negative seed, is a mistake and not a success."""
    with pytest.raises(WrongUse, match="0 projects"):
        example_data.fill(planner, projects=0)
    with pytest.raises(WrongUse, match="seed -1"):
        example_data.fill(planner, projects=1, seed=-1)


def test_an_unreachable_server_is_one_sentence(planner: Config, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is not there is said so, with what to do."""
    monkeypatch.setenv("DATABASE_URL", f"postgresql://postgres@/nowhere?host={tmp_path}")

    with pytest.raises(Broken, match="Nothing listens"):
        example_data.fill(planner, projects=1)


def test_nothing_half_written(database: Database, planner: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that is refused after several batches takes all others back with it."""

    def spoilt(seed: int, first: int, count: int) -> Iterator[dict[str, bytes]]:
        for number, project in enumerate(rows(seed, first, count)):
            if number == 30:
                project["navigation_links"] = project["navigation_links"].replace(b"\n", b"x\n")
            yield project

    monkeypatch.setattr(loading, "rows", spoilt)
    monkeypatch.setattr(loading, "BATCH", 1 << 20)

    with pytest.raises(Broken, match="refused the rows, nothing was written"):
        example_data.fill(planner, projects=40)

    assert not any(count_rows(database).values())


def test_load_joins_the_callers_transaction(database: Database) -> None:
    """On a connection that is not in autocommit mode the caller decides, under the settings there were."""
    settings = "SELECT current_setting('lock_timeout'), current_setting('enable_seqscan')"
    with database.connect(autocommit=False) as connection, connection.cursor() as cursor:
        cursor.execute("SET LOCAL lock_timeout = '7s'")
        loaded = example_data.load(connection, projects=2)
        cursor.execute(settings)
        after = cursor.fetchone()
        connection.rollback()

    assert after == ("7s", "on")
    assert loaded.rows["projects"] == 2
    assert not any(count_rows(database).values())


def test_triggers_rest_while_rows_are_loaded(database: Database) -> None:
    """The tables' own triggers see no example row and work again, each in its own mode, when load() is done."""
    with database.connect() as connection, connection.cursor() as cursor:
        cursor.execute(
            """
            CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'refused'; END $$;
            CREATE TRIGGER "It's Mine" BEFORE INSERT ON steps FOR EACH ROW EXECUTE FUNCTION refuse();
            CREATE TRIGGER always AFTER INSERT ON tasks EXECUTE FUNCTION refuse();
            ALTER TABLE tasks ENABLE ALWAYS TRIGGER always;
            CREATE TRIGGER never AFTER DELETE ON tasks EXECUTE FUNCTION refuse();
            ALTER TABLE tasks DISABLE TRIGGER never;
            """
        )

        example_data.load(connection, projects=1)

        modes = dict(
            database.rows(
                "SELECT tgname, tgenabled::text FROM pg_trigger WHERE tgname IN ('It''s Mine', 'always', 'never')"
            )
        )
        assert modes == {"It's Mine": "O", "always": "A", "never": "D"}
        with pytest.raises(psycopg2.errors.RaiseException, match="refused"):
            cursor.execute("INSERT INTO steps SELECT * FROM steps LIMIT 1")


def test_foreign_keys_are_checked_by_index(database: Database) -> None:
    """Also where statistics say that the tables have one page: a plan made then would read them all for each row."""
    with database.connect() as connection, connection.cursor() as cursor:
        example_data.load(connection, projects=1)
        cursor.execute("ANALYZE")

    with database.connect(autocommit=False) as connection, connection.cursor() as cursor:
        example_data.load(connection, projects=5)
        cursor.execute("SELECT relname, seq_scan FROM pg_stat_xact_user_tables WHERE seq_scan > 0")

        assert cursor.fetchall() == []


def test_another_writer_is_waited_for_only_so_long(
    database: Database, planner: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While another session holds uncommitted rows, the load gives up and says so."""
    monkeypatch.setattr(loading, "LOCK_TIMEOUT", "100ms")
    with database.connect(autocommit=False) as other, other.cursor() as cursor:
        cursor.execute("INSERT INTO projects (name, description) VALUES ('mine', 'mine')")

        with pytest.raises(Busy, match="Other sessions are writing"):
            example_data.fill(planner, projects=1)


def test_progress_is_told(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks hears how many projects and rows are written, in rising numbers."""
    monkeypatch.setattr(loading, "PATIENCE", 0.0)
    monkeypatch.setattr(loading, "BATCH", 64 << 10)
    heard: list[tuple[int, int, int, float]] = []

    with database.connect() as connection:
        example_data.load(connection, projects=30, say=lambda *told: heard.append(told))

    assert heard
    assert heard == sorted(heard)
    assert all(done <= projects == 30 and written > 0 and seconds > 0 for done, projects, written, seconds in heard)


@pytest.mark.long
def test_memory_depends_on_the_largest_project_only(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """200 projects take no more memory than those 20 of them that hold the largest."""

    def peak(first: int, count: int) -> int:
        monkeypatch.setattr(loading, "rows", lambda seed, _, count: rows(seed, first, count))
        with database.connect(autocommit=False) as connection:
            tracemalloc.start()
            try:
                example_data.load(connection, projects=count)
                return tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
                connection.rollback()

    few = peak(LARGEST - 10, 20)
    many = peak(0, 200)

    assert many < 1.25 * few
