"""migrate-doctor finds what interrupted work leaves and what no revision explains, and names a cure that cures it."""

from __future__ import annotations

import json
import shlex
import threading
from collections.abc import Iterator

import psycopg2
import pytest
from alembic.config import Config

from mcp_planner_schema import cli
from mcp_planner_schema.guard.findings import DONE, REFUSED
from mcp_planner_schema.guard.fingerprint import stored
from mcp_planner_schema.inspect import doctor
from tests.conftest import ROOT, Database, Project
from tests.test_schema import REVISIONS
from tests.until import until

ONWARD = "make migrate-up TO=023"
BROKEN = """
ALTER TABLE projects ADD CONSTRAINT longer CHECK (length(name) > 1) NOT VALID;
ALTER TABLE tasks ADD COLUMN extra int;
DROP FUNCTION public.audit_partitions() CASCADE;
INSERT INTO migration.run (command, state, from_heads, planned, who, host, pid, tool_version)
    VALUES ('upgrade head', 'running', '{023}', 1, 'somebody', 'here', 1, '0');
UPDATE migration.journal SET state = 'begun' WHERE revision = '023' AND place = 1;
INSERT INTO migration.journal (version_table, revision, direction, place, operation, target, state, run)
    VALUES ('alembic_version', '024', 'downgrade', 1, 'create_index_concurrently', 'ix_gone', 'done', 1);
INSERT INTO migration.backfill (version_table, revision, direction, name, target, digest, run)
    VALUES ('alembic_version', '023', 'upgrade', 'steps.title', 'public.steps', 'x', 1);
CREATE TABLE migration."guard:sample" (a int);
CREATE SCHEMA migration_stash_7;
INSERT INTO migration.stash (run_id, version_table, revision, kept_in, state, keep_until, who, archive)
    SELECT id, 'alembic_version', '003', 'migration_stash_8', 'kept', now(), 'somebody', 'a b.dump' FROM migration.run LIMIT 1;
INSERT INTO migration.stash_object (stash_id, number, kind, object_schema, object_name, relation)
    SELECT id, 1, 'table', 'public', 'gone', 'gone' FROM migration.stash;
"""


@pytest.fixture
def broken(database: Database) -> Iterator[Database]:
    """A database at head in which everything is wrong that the doctor knows."""
    database.rows(BROKEN)
    database.rows("INSERT INTO projects (name, description) VALUES ('one', 'same'), ('two', 'same')")
    with pytest.raises(psycopg2.errors.UniqueViolation):
        database.rows("CREATE UNIQUE INDEX CONCURRENTLY half ON projects (description)")
    database.rows("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'ix_steps_search'::regclass")
    yield database


def test_a_healthy_database_has_nothing(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """At head, after an ordinary run, nothing is found and the exit code is 0."""
    code = cli.main(["migrate-doctor"])

    assert capsys.readouterr().out == "nothing found\n"
    assert code == DONE


def test_neither_an_empty_database_nor_a_foreign_history_is_ill(
    empty: Database, project: Project, planner: Config
) -> None:
    """Before the first revision nothing is found, and a history that has no fingerprints is not asked for them."""
    before = doctor.examine(planner)
    project.revision("001", "create_a", 'op.execute("CREATE TABLE a (id int)")', 'op.execute("DROP TABLE a")')
    project.upgrade()

    after = doctor.examine(project.config())

    assert before == after == []


def test_everything_that_is_wrong_is_found(broken: Database, planner: Config) -> None:
    """Each kind of leftover by its name, and what no revision explains, in the order in which it would be cured."""
    found = doctor.examine(planner)

    assert [
        (one.kind, one.what.partition("\n")[0].partition(", by")[0], one.cure.partition("   ")[0]) for one in found
    ] == [
        ("run", "run 2 (upgrade head", "make migrate-up"),
        (
            "operation",
            "the upgrade of revision 023 was interrupted: validate_constraint "
            "complexity_runs.ck_complexity_runs_iterations_allowed_positive",
            ONWARD,
        ),
        (
            "operation",
            "the downgrade of revision 024 was interrupted: create_index_concurrently ix_gone",
            "make migrate-down",
        ),
        ("backfill", "backfill steps.title of 023: interrupted, 0 rows; make migrate-up goes on there", ONWARD),
        (
            "index",
            "index public.half of public.projects is not valid: no query uses it, it costs every write, and no applied "
            "revision makes it",
            ONWARD,
        ),
        (
            "index",
            "index public.ix_steps_search of public.steps is not valid: no query uses it, and it costs every write",
            """psql "$DATABASE_URL" -c 'REINDEX INDEX CONCURRENTLY public.ix_steps_search'""",
        ),
        (
            "constraint",
            "constraint longer of public.projects was never validated: rows from before it may break it",
            """psql "$DATABASE_URL" -c 'ALTER TABLE public.projects VALIDATE CONSTRAINT longer'""",
        ),
        (
            "table",
            'table migration."guard:sample" was made for a part of a step, and outlived it',
            """psql "$DATABASE_URL" -c 'DROP TABLE migration."guard:sample"'""",
        ),
        (
            "stash",
            "schema migration_stash_7 holds what a downgrade has kept, and the manifest knows nothing of it",
            """psql "$DATABASE_URL" -c '\\dt migration_stash_7.*'""",
        ),
        (
            "stash",
            "stash 1 of revision 003 is to be given back, and its schema migration_stash_8 is gone",
            "make migrate-restore VERSION=003 ID=1 ARCHIVE='a b.dump'",
        ),
        ("drift", "function public.audit_partitions() is missing; no applied revision says so", ONWARD),
        (
            "drift",
            "table public.projects: constraint longer is unexpected (CHECK ((length((name)::text) > 1)) NOT VALID); no applied "
            "revision says so",
            ONWARD,
        ),
        ("drift", "table public.tasks: column extra is unexpected (integer); no applied revision says so", ONWARD),
    ]


def test_exit_code_and_json(broken: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """Something found is exit code 3; JSON=1 gives the same as a list, each with its cure."""
    code = cli.main(["migrate-doctor", "JSON=1"])

    found = json.loads(capsys.readouterr().out)
    assert code == REFUSED
    assert {tuple(one) for one in found} == {("kind", "what", "cure")}
    assert all(one["cure"] for one in found)


def test_the_cures_cure(database: Database, planner: Config) -> None:
    """What psql is told to run leaves nothing of a half-built index, an unvalidated constraint and a forgotten table."""
    database.rows(
        "ALTER TABLE tasks DROP CONSTRAINT ck_tasks_title_not_blank;"
        'CREATE TABLE migration."guard:it\'s" (a int); UPDATE pg_index SET indisvalid = false '
        "WHERE indexrelid = 'ix_steps_search'::regclass"
    )
    definition = next(
        line.definition
        for line in stored.expected(ROOT / "alembic", REVISIONS)
        if line.identity == "public.tasks.ck_tasks_title_not_blank"
    )
    database.rows(f"ALTER TABLE tasks ADD CONSTRAINT ck_tasks_title_not_blank {definition} NOT VALID")
    before = doctor.examine(planner)

    for one in before:
        _, _, _, sql = shlex.split(one.cure)
        database.rows(sql)

    assert [one.kind for one in before] == ["index", "constraint", "table"]
    assert doctor.examine(planner) == []


def test_a_run_that_is_alive_leaves_nothing(broken: Database, planner: Config) -> None:
    """While somebody holds the deployers' lock, what is half done is his work, and no leftover."""
    from mcp_planner_schema.guard import deploy_lock

    with broken.connect() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s)", (deploy_lock.key("alembic_version", None),))
        found = doctor.examine(planner)

    assert {"run", "operation", "backfill", "table"} & {one.kind for one in found} == set()
    assert {"index", "constraint", "stash", "drift"} <= {one.kind for one in found}


def test_rows_that_were_put_aside_are_no_leftover(database: Database, planner: Config) -> None:
    """What gave way to kept rows is nowhere else: nobody is told to drop that."""
    database.rows('CREATE SCHEMA migration_stash_9; CREATE TABLE migration_stash_9."guard:aside_1" AS SELECT 1 AS a')

    found = doctor.examine(planner)

    assert [one.kind for one in found] == ["stash"]  # the schema, of which the manifest knows nothing


def test_an_index_that_somebody_else_builds_is_no_leftover(
    database: Database, planner: Config, application: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose progress the role may not see: to drop the index would wait for its end, and then drop a good one."""
    database.rows(f"GRANT USAGE ON SCHEMA migration TO {application}; CREATE TABLE big (id int)")
    database.rows(f"GRANT SELECT ON ALL TABLES IN SCHEMA public, migration TO {application}")
    monkeypatch.setenv("DATABASE_URL", database.url.replace("postgres@", f"{application}@"))
    build = "CREATE INDEX CONCURRENTLY being_built ON big (id)"
    with database.connect(autocommit=False) as writes, writes.cursor() as cursor:
        cursor.execute("INSERT INTO big VALUES (1)")
        other = threading.Thread(target=database.rows, args=(build,))
        other.start()
        until(lambda: database.value("SELECT count(*) FROM pg_index WHERE indexrelid = to_regclass('being_built')"))

        found = doctor.examine(planner)

        writes.rollback()
    other.join()
    assert [one for one in found if one.kind == "index"] == []
    assert database.value("SELECT indisvalid FROM pg_index WHERE indexrelid = 'being_built'::regclass")
