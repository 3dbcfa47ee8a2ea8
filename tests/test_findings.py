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
from mcp_planner_schema.inspect import catalogue
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

    assert [rule.code for rule in RULES.values() if not rule.refuses] == ["expectation-empty"]


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


@pytest.mark.parametrize(
    "code", ["reversible-false", "downgrade-untried", "stash-keyless", "forward-only", "rows-not-kept"]
)
def test_a_downgrade_that_would_lose_something_is_refused(empty: Database, project: Project, code: str) -> None:
    """The bad example goes up, its way down is refused for its own reason, and everything is still there."""
    install(project, REVISIONS / f"bad_{code.replace('-', '_')}.py")
    project.upgrade()

    with refused(code):
        project.downgrade("base")

    assert empty.value("SELECT version_num FROM alembic_version") == "001"
    assert empty.value("SELECT to_regclass('thing') IS NOT NULL")


def test_rows_that_a_waiver_gives_up_are_given_up(empty: Database, project: Project) -> None:
    """With a reason and a date in the header, the downgrade may delete rows of a table that stays."""
    install(project, REVISIONS / "good_rows_waived.py")
    project.upgrade()

    project.downgrade("base")

    assert empty.value("SELECT count(*) FROM thing") == 0


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
