"""The catalogue: every rule explains itself, the page says what the tool says, and what only a database shows is shown."""

from __future__ import annotations

import dataclasses
import io
import re
import string
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg2
import pytest
import sqlalchemy as sa
from alembic import command
from alembic.util import CommandError

from mcp_planner_schema.guard import connect, findings
from mcp_planner_schema.guard.findings import RULES, Broken, Busy, Finding, GuardError, Refused, Rule, WrongUse
from mcp_planner_schema.guard.findings_lint import LINT_RULES
from mcp_planner_schema.inspect import catalogue
from tests.catalog import kept
from tests.conftest import ROOT, Database, Project
from tests.test_judge import install

REVISIONS = ROOT / "tests" / "revisions"


def names(rule: Rule) -> set[str]:
    """The names a rule's texts want filled in."""
    texts = (rule.happens, rule.hurts, rule.instead)
    return {name for text in texts for _, name, _, _ in string.Formatter().parse(text) if name}


def test_the_page_says_what_the_tool_says() -> None:
    """docs/findings.md is what ``make findings`` writes today."""
    assert (ROOT / "docs" / "findings.md").read_text() == catalogue.markdown()


def test_the_page_has_no_holes() -> None:
    """No brace is left, outside code no <name> that a browser would swallow, every rule has its row and its section."""
    page = catalogue.markdown()
    prose = re.sub(r"```\n.*?```", "", page, flags=re.DOTALL)

    assert "{" not in page.replace('budgets = {"lock_timeout": "500ms", "statement_timeout": "5min"}', "")
    assert "<" not in prose
    for code in RULES:
        assert page.count(f"| [{code}](#{code}) |") == 1
        assert page.count(f"\n## {code}\n") == 1
    assert all(line.replace("\\|", "").count("|") == 4 for line in page.splitlines() if line.startswith("| "))


@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
def test_every_rule_explains_itself(rule: Rule) -> None:
    """A code in lower case; what, why and what to write, each without a full stop of its own; filled in, nothing is left."""
    finding = Finding(rule.code, "file.py:1", "001", {name: f"<{name}>" for name in names(rule)})

    text = finding.text()

    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", rule.code)
    for part in (rule.happens, rule.hurts, rule.instead):
        assert part
        assert part == part.strip()
        assert not part.endswith(".")
    assert not re.search(r"\{\w*(!r)?\}", text)
    assert text.startswith(f"file.py:1: {rule.code}\n  what  ")


def test_a_name_with_braces_is_printed_as_it_is() -> None:
    """What an author wrote is never taken for a name to be filled in."""
    finding = Finding("file-name", "x.py:1", "001", {"name": "{0}{rule!r}%s"})

    assert "the file is named {0}{rule!r}%s" in finding.text()


@pytest.mark.parametrize(("error", "code"), [(Broken, 1), (WrongUse, 2), (Refused, 3), (Busy, 75), (GuardError, 1)])
def test_exit_codes(error: type[GuardError], code: int) -> None:
    """0 done, 1 broken, 2 wrong use, 3 refused, 75 busy; each error is one that Alembic's callers already catch."""
    assert error.code == code
    assert issubclass(error, CommandError)
    assert findings.DONE == 0


def test_every_error_ends_with_the_next_command() -> None:
    """What a person reads ends with the one thing to type next, and says that nothing was changed."""
    refused = Refused([Finding("file-name", "x.py:1", "", {"name": "x"})] * 2, "make migrate-validate")

    assert refused.text().startswith("refused: 2 findings, nothing was changed\n\n")
    assert refused.text().endswith("\n\nnext: make migrate-validate")


def test_a_warning_does_not_refuse() -> None:
    """Only rules that refuse end a run."""
    warning = Finding("expectation-empty", "001", "001", {"says": "table x"})

    findings.refuse([warning], "make migrate-up")
    findings.refuse([], "make migrate-up")

    warnings = {rule.code for rule in RULES.values() if not rule.refuses}
    assert warnings - {rule.code for rule in LINT_RULES} == {"expectation-empty"}
    findings.refuse([Finding(code, "001") for code in warnings], "make migrate-up")


def test_findings_are_values() -> None:
    """A rule or a finding cannot be changed after the fact."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        RULES["file-name"].waivable = True  # type: ignore[misc]


# --- what only a database shows ---------------------------------------------------------------------------------------


@contextmanager
def refused(code: str) -> Iterator[None]:
    """A refusal for this one reason, with every name filled in."""
    with pytest.raises(Refused) as caught:
        yield
    assert [one.code for one in caught.value.findings] == [code]
    assert not re.search(r"\{\w*(!r)?\}", caught.value.text())
    assert caught.value.next_command


LIVE = [
    "reversible-false", "downgrade-untried", "stash-keyless", "forward-only", "rows-not-kept", "keys-renumbered",
    "stash-impossible",
]  # fmt: skip


@pytest.mark.parametrize("code", LIVE)
def test_a_downgrade_that_would_lose_something_is_refused(empty: Database, project: Project, code: str) -> None:
    """The bad example goes up, its way down is refused for its own reason, and everything is still there."""
    install(project, REVISIONS / f"bad_{code.replace('-', '_')}.py")
    project.upgrade()

    with refused(code):
        project.downgrade("base")

    assert empty.value("SELECT version_num FROM alembic_version") == "001"
    assert empty.value("SELECT to_regclass('thing') IS NOT NULL")


def test_rows_that_a_waiver_gives_up_are_given_up(empty: Database, project: Project) -> None:
    """With a reason and a date in the header, the downgrade may change rows of a table without primary key."""
    install(project, REVISIONS / "good_rows_waived.py")
    project.upgrade()

    project.downgrade("base")

    assert empty.rows("SELECT id FROM thing") == [(2,)]
    assert empty.rows(f"SELECT id FROM {kept(empty)['thing']}") == [(1,)]


GUARDED = {
    "another key": ("UPDATE t SET id = id + 1000", "t"),
    "keys exchanged for new ones": ("UPDATE t SET id = 9 - id", "t"),
    "together with a column": ("UPDATE t SET id = id + 1000; ALTER TABLE t DROP v", "t"),
    "a column first": ("ALTER TABLE t DROP v; UPDATE t SET id = id + 1000", "t"),
    "by its type": ("ALTER TABLE t ALTER id TYPE bigint USING id + 1000", "t"),
    "one of two columns": ("UPDATE two SET b = 'x'", "two"),
    "one row, and one deleted": ("UPDATE t SET id = 9 WHERE id = 1; DELETE FROM t WHERE id = 2", "t"),
    "in a partition": ("UPDATE p SET id = id + 1000", "p"),
}
KEYS = (
    "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c'); "
    "CREATE TABLE two (a int, b text, PRIMARY KEY (a, b)); INSERT INTO two VALUES (1, 'a'), (2, 'b'); "
    "CREATE TABLE p (id int PRIMARY KEY) PARTITION BY LIST (id); CREATE TABLE p1 PARTITION OF p DEFAULT; INSERT INTO p VALUES (1)"
)


@pytest.mark.parametrize("what", GUARDED)
def test_new_keys_for_old_rows_are_refused(empty: Database, project: Project, what: str) -> None:
    """However a row gets another primary key, the refusal names table and key, and nothing was changed."""
    body, table = GUARDED[what]
    project.revision("001", "create_things", f"op.execute({KEYS!r})", f"op.execute({body!r})")
    project.upgrade()
    everything = "SELECT t::text FROM t UNION ALL SELECT two::text FROM two UNION ALL SELECT p::text FROM p"
    before = empty.rows(everything)

    with pytest.raises(Refused) as caught:
        project.downgrade("base")

    (found,) = caught.value.findings
    assert (found.code, found.values["table"], found.revision) == ("keys-renumbered", table, "001")
    assert empty.rows(everything) == before
    assert kept(empty) == {}


@pytest.mark.parametrize(
    "body",
    [
        "DELETE FROM t WHERE id = 1; INSERT INTO t VALUES (9, 'a')",
        "TRUNCATE t; INSERT INTO t VALUES (7, 'x')",
        "UPDATE t SET v = 'x'; DELETE FROM t WHERE id = 2",
        "UPDATE t SET id = id",
        "ALTER TABLE t ALTER id TYPE bigint",
    ],
)
def test_keys_that_stay_and_rows_that_go_or_come_are_let_through(empty: Database, project: Project, body: str) -> None:
    """Deleted and inserted rows, and keys that are the same afterwards, are no new keys."""
    project.revision("001", "create_things", f"op.execute({KEYS!r})", f"op.execute({body!r})")
    project.upgrade()

    project.downgrade("base")

    assert empty.rows("SELECT * FROM alembic_version") == []


ELSEWHERE = (
    "CREATE TABLE t (scan oid PRIMARY KEY); INSERT INTO t VALUES (lo_from_bytea(0, 'a scan'))",
    "CREATE TABLE there (id int); INSERT INTO there VALUES (1)",
)
IMPOSSIBLE = {
    "lo_unlink": ("SELECT lo_unlink(scan) FROM t", "it deletes 1 large object"),
    "lo_unlink by a trigger": ("DELETE FROM t", "it deletes 1 large object"),
    "lo_put": ("SELECT lo_put(scan, 0, 'x') FROM t", "it writes into large objects"),
    "lowrite": ("SELECT lowrite(lo_open(scan, 131072), 'x') FROM t", "it writes into large objects"),
    "lo_truncate": ("SELECT lo_truncate(lo_open(scan, 131072), 0) FROM t", "it writes into large objects"),
    "DELETE elsewhere": ("DELETE FROM far", "it writes to the foreign table public.far"),
    "UPDATE elsewhere": ("UPDATE far SET id = 2", "it writes to the foreign table public.far"),
    "DELETE elsewhere, and gone": (
        "DELETE FROM far; DROP FOREIGN TABLE far",
        "it writes to the foreign table public.far",
    ),
    "TRUNCATE elsewhere": ("TRUNCATE far", "it writes to the foreign table public.far"),
    "lo_unlink and lo_create": ("SELECT lo_unlink(scan), lo_create(scan) FROM t", "it writes into large objects"),
}


@pytest.fixture
def beyond(empty: Database) -> Database:
    """A database with a large object that a row owns, and a foreign table that shows a table of the same database."""
    empty.rows("CREATE EXTENSION postgres_fdw; CREATE EXTENSION lo")
    for one in ELSEWHERE:
        empty.rows(one)
    empty.rows("CREATE TRIGGER scan BEFORE DELETE ON t FOR EACH ROW EXECUTE FUNCTION lo_manage(scan)")
    empty.rows(
        f"CREATE SERVER itself FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '{empty.host}', port '{empty.port}', "
        f"dbname '{empty.name}'); CREATE USER MAPPING FOR postgres SERVER itself OPTIONS (user 'postgres'); "
        "CREATE FOREIGN TABLE far (id int) SERVER itself OPTIONS (table_name 'there'); "
        "CREATE TABLE p (id int) PARTITION BY LIST (id); CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1); "
        "CREATE FOREIGN TABLE p_default PARTITION OF p DEFAULT SERVER itself OPTIONS (table_name 'there')"
    )
    return empty


@pytest.mark.parametrize("what", IMPOSSIBLE)
def test_what_no_copy_could_hold_is_refused(beyond: Database, project: Project, what: str) -> None:
    """Large objects and rows of another server lie outside every table: what destroys them is refused, and they are there."""
    body, said = IMPOSSIBLE[what]
    project.revision("001", "create_x", 'op.execute("CREATE TABLE x ()")', f'op.execute({body!r})\nop.drop_table("x")')
    project.upgrade()

    with pytest.raises(Refused) as caught:
        project.downgrade("base")

    assert [(one.code, one.values["problem"]) for one in caught.value.findings] == [("stash-impossible", said)]
    assert beyond.rows("SELECT encode(lo_get(scan), 'escape'), id FROM t, there") == [("a scan", 1)]
    assert beyond.value("SELECT version_num FROM alembic_version") == "001"


@pytest.mark.parametrize(
    "body",
    [
        "ALTER FOREIGN TABLE far ADD v text",
        "DROP FOREIGN TABLE far",
        "SELECT lo_get(scan), lo_create(0) FROM t",
        "ALTER TABLE p DETACH PARTITION p1",
        "DROP SERVER itself CASCADE",
    ],
)
def test_what_leaves_the_rows_elsewhere_is_let_through(beyond: Database, project: Project, body: str) -> None:
    """To alter a foreign table, or to read a large object and make another one, destroys nothing."""
    project.revision("001", "create_x", 'op.execute("CREATE TABLE x ()")', f'op.execute({body!r})\nop.drop_table("x")')
    project.upgrade()

    project.downgrade("base")

    assert beyond.rows("SELECT encode(lo_get(scan), 'escape'), id FROM t, there") == [("a scan", 1)]


def test_what_lies_elsewhere_may_be_read(beyond: Database, project: Project) -> None:
    """A downgrade that only looks at large objects and foreign tables passes."""
    body = "CREATE TABLE seen AS SELECT encode(lo_get(scan), 'escape'), id FROM t, far"
    project.revision("001", "create_x", 'op.execute("CREATE TABLE x ()")', f'op.execute({body!r})\nop.drop_table("x")')
    project.upgrade()

    project.downgrade("base")

    assert beyond.rows("SELECT * FROM seen") == [("a scan", 1)]


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE {place} SET id = 3 WHERE id = 1",
        "DELETE FROM {place} WHERE id = 1",
        "INSERT INTO {place} VALUES (3)",
        "DROP TABLE {place}",
        "ALTER TABLE {place} DROP id",
        "DROP SCHEMA migration_stash_1 CASCADE",
    ],
)
def test_a_stash_that_somebody_wrote_to_is_refused(empty: Database, project: Project, damage: str) -> None:
    """What is not as it was kept does not come back; as it was, it does."""
    install(project, REVISIONS / "good_plain.py")
    project.upgrade()
    empty.rows("INSERT INTO thing VALUES (1), (2)")
    project.downgrade("base")
    place = kept(empty)["thing"]
    with empty.connect(autocommit=False) as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE TABLE spare AS SELECT * FROM {place}")
        cursor.execute(damage.format(place=place))
        connection.commit()

    with refused("stash-damaged"):
        project.upgrade()

    assert empty.rows("SELECT to_regclass('thing'), state FROM migration.stash") == [(None, "kept")]

    empty.rows(f"CREATE SCHEMA IF NOT EXISTS migration_stash_1; DROP TABLE IF EXISTS {place}")
    empty.rows(f"CREATE TABLE {place} AS SELECT * FROM spare")
    project.upgrade()

    assert empty.rows("SELECT id FROM thing ORDER BY id") == [(1,), (2,)]


def test_an_expectation_that_proves_nothing_is_a_warning(
    empty: Database, project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    """What holds before the upgrade is told, and the upgrade goes on."""
    install(project, REVISIONS / "bad_expectation_empty.py")

    project.upgrade()

    said = capsys.readouterr().err
    assert "warning: " in said
    assert ":1: expectation-empty" in said
    assert empty.value("SELECT version_num FROM alembic_version") == "001"


def test_what_asks_the_database_cannot_be_written_as_sql(project: Project) -> None:
    """A revision that acts on an answer is refused offline by name, and not a line is written."""
    install(project, REVISIONS / "bad_offline_impossible.py")
    config = project.config()
    config.output_buffer = io.StringIO()

    with refused("offline-impossible"):
        command.upgrade(config, "head", sql=True)

    assert config.output_buffer.getvalue() == ""


def test_the_good_example_can_be_written_as_sql(project: Project) -> None:
    """A plain revision is written out."""
    install(project, REVISIONS / "good_plain.py")
    config = project.config()
    config.output_buffer = io.StringIO()

    command.upgrade(config, "head", sql=True)

    assert "CREATE TABLE thing (id int PRIMARY KEY);" in config.output_buffer.getvalue()


def test_the_good_example_goes_up_and_down_without_a_word(
    empty: Database, project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    """A revision that keeps the rules meets none of them, up, down and up again."""
    install(project, REVISIONS / "good_plain.py")

    for _ in range(2):
        project.upgrade()
        project.downgrade("base")

    said = capsys.readouterr().err
    assert "warning" not in said
    assert not any(f": {code}" in said for code in RULES)
    assert empty.value("SELECT to_regclass('thing') IS NULL")


def test_comments_and_header_may_change_after_the_revision_was_applied(empty: Database, project: Project) -> None:
    """A corrected description is no edit of what was run."""
    install(project, REVISIONS / "good_plain.py")
    project.upgrade()
    file = project.versions / "001_create_thing.py"
    file.write_text(file.read_text().replace("A thing for the tests", "A thing") + "\n# the end\n")
    project.revision("002", "create_other", 'op.execute("CREATE TABLE other ()")', 'op.drop_table("other")')

    project.upgrade()

    assert empty.value("SELECT version_num FROM alembic_version") == "002"


def test_a_connection_in_a_transaction_is_refused(empty: Database, project: Project) -> None:
    """A caller who has begun a transaction is told so before Alembic would lose everything in it."""
    install(project, REVISIONS / "good_plain.py")
    engine = sa.create_engine(empty.url.replace("postgresql:", "postgresql+psycopg2:"), poolclass=sa.NullPool)

    with engine.connect() as connection:
        connection.exec_driver_sql("SELECT 1")
        with refused("external-transaction"):
            command.upgrade(project.config(connection=connection), "head")

    engine.dispose()


def test_a_connection_of_the_callers_own_is_used(empty: Database, project: Project) -> None:
    """A connection without a transaction is as good as one of the guard's own."""
    install(project, REVISIONS / "good_plain.py")
    engine = sa.create_engine(empty.url.replace("postgresql:", "postgresql+psycopg2:"), poolclass=sa.NullPool)

    with engine.connect() as connection:
        command.upgrade(project.config(connection=connection), "head")

    engine.dispose()
    assert empty.value("SELECT version_num FROM alembic_version") == "001"


def test_a_pooler_is_refused(empty: Database) -> None:
    """What pgbouncer answers to session settings becomes a finding, without the password."""
    said = psycopg2.OperationalError("FATAL:  unsupported startup parameter in options: lock_timeout")
    error = sa.exc.OperationalError("connect", None, said)

    failure = connect.failure(error, sa.make_url("postgresql://u:secret@h:6432/d"))

    assert isinstance(failure, Refused)
    assert [one.code for one in failure.findings] == ["pooled-connection"]
    assert "secret" not in failure.text()
