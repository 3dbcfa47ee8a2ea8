"""Every rule about revision files, each with a revision that breaks it and one that does not; no database, no import."""

from __future__ import annotations

import datetime as dt
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory

from mcp_planner_schema.guard import graph, judge, settings
from mcp_planner_schema.guard.findings import RULES, Finding, WrongUse
from mcp_planner_schema.guard.findings_preflight import LEVELS
from mcp_planner_schema.guard.settings import Settings
from mcp_planner_schema.inspect import lint, table_stats
from tests.conftest import ROOT, Project

REVISIONS = ROOT / "tests" / "revisions"
TODAY = dt.date(2026, 2, 15)
BAD = sorted(REVISIONS.glob("bad_*"))
GOOD = sorted(REVISIONS.glob("good_*"))
PLAIN = (REVISIONS / "good_plain.py").read_text()
SECOND = "002_alter_thing.py"

# Rules whose bad example is no file of its own: what git would change on the way, and what only a database can show.
BROKEN_ELSEWHERE = {
    "database-ahead": "test_ahead.py::test_no_command_says_only_that_it_cannot_locate_a_revision",
    "recover-impossible": "test_ahead.py::test_no_link_is_followed",
    "rebase-impossible": "test_rebase.py::test_what_a_database_has_applied_stays",
    "stamp-unexplained": "test_forced.py::test_without_a_reason_the_version_stays",
    "stamp-differs": "test_forced.py::test_a_database_that_is_another_takes_a_reason",
    "adopted-otherwise": "test_prisma_adopt.py::test_another_text_than_the_one_that_was_applied_takes_a_reason",
    "catalog-differs": "test_catalog_change.py::test_a_step_that_does_something_else_here_is_undone",
    "fingerprint-missing": "test_catalog_change.py::test_what_is_not_stored_is_refused_where_it_matters",
    "source-line-endings": "test_source.py::test_line_endings_are_a_finding_at_the_first_of_them",
    "source-unreadable": "test_source.py::test_what_cannot_be_opened_is_a_finding",
    "source-too-large": "test_source.py::test_ten_megabytes_are_a_finding_and_cost_nothing",
    "source-link": "test_source.py::test_what_is_no_ordinary_file_is_a_finding",
    "stash-damaged": "test_stashes.py::test_a_damaged_stash_is_found_and_not_given_back",
    "stash-retained": "test_stashes.py::test_a_purge_is_refused_within_the_retention_and_for_the_newest",
    "restore-impossible": "test_stashes.py::test_what_cannot_go_back_is_refused",
    "stash-not-let-in": "test_restore_others.py::test_a_role_without_temporary_tables_is_told_before_anything_is_done",
    "pooled-connection": "test_findings.py::test_a_pooler_is_refused",
    "external-transaction": "test_findings.py::test_a_connection_in_a_transaction_is_refused",
    "archive-impossible": "test_archive.py::test_without_a_pg_dump_that_fits_nothing_is_archived",
    "operation-differs": "test_index_operations.py::test_another_thing_of_that_name_is_refused",
    "operation-missing": "test_index_operations.py::test_an_index_that_was_never_there_is_not_gone_already",
    "operation-rows": "test_index_operations.py::test_duplicates_are_shown_before_anything_begins",
    "operation-unsupported": "test_index_operations.py::test_what_cannot_be_replaced_is_refused",
    "deadline-missed": "test_deadline.py::test_a_step_that_holds_too_long_is_rolled_back_and_refused",
    "hold-limit": "test_deadline.py::test_a_downgrade_that_takes_longer_than_allowed_is_refused_beforehand",
    "backfill-differs": "test_backfill.py::test_another_text_under_the_same_name_is_refused",
    "backfill-of-key": "test_backfill.py::test_a_key_is_not_set_by_what_goes_along_it",
    "downgrade-interrupted": "test_backfill_back.py::test_an_interrupted_way_back_is_finished_before_it_goes_up_again",
    "backfill-row": "test_backfill.py::test_a_row_that_cannot_be_written_is_named",
    "backfill-function": "test_backfill_rows.py::test_where_the_function_fails_is_named",
    "backfill-not-kept": "test_backfill_back.py::test_what_cannot_be_kept_is_refused_beforehand",
    "backfill-unverified": "test_backfill.py::test_what_is_not_verified_does_not_move_the_version",
    "contract-unverified": "test_backfill.py::test_a_contract_waits_for_rows_that_were_written_without_their_value",
    "backfill-hidden-rows": "test_backfill.py::test_row_level_security_hides_no_row",
    "backfill-keyless": "test_backfill.py::test_a_table_without_key_wants_to_know_what_is_left",
    "rows-inline": "test_inline_rows.py::test_more_rows_than_allowed_are_undone_and_refused",
    "script-literal": "test_scripts.py::test_which_file_is_meant_is_beyond_doubt",
    "script-unusable": "test_scripts.py::test_what_is_refused_before_anything_runs",
    "script-arguments": "test_scripts.py::test_what_is_refused_before_anything_runs",
    "script-in-schema": "test_scripts.py::test_which_file_is_meant_is_beyond_doubt",
    "script-differs": "test_scripts.py::test_what_was_run_cannot_be_changed_under_way",
    "sql-body-literal": "test_plain_sql.py::test_which_file_is_the_body_is_beyond_doubt",
    "sql-body-unusable": "test_plain_sql.py::test_what_is_no_body_is_refused_by_name",
    "sql-body-unrepeatable": "test_plain_sql.py::test_what_its_transaction_does_not_allow",
    "sql-body-differs": "test_plain_sql.py::test_what_was_done_cannot_be_changed_under_way",
    "contract-held": "test_phases.py::test_a_named_target_behind_a_contract_is_refused",
    "not-rehearsed": "test_staging.py::test_what_was_not_rehearsed_is_refused",
    "staging-misplaced": "test_staging.py::test_what_is_no_copy_is_not_replaced",
    "copy-impossible": "test_staging.py::test_what_is_no_archive_makes_no_copy",
    "mask-unusable": "test_staging.py::test_a_rule_that_cannot_be_in_force_is_refused",
    "mask-undecided": "test_staging.py::test_a_column_that_nobody_has_decided_is_refused",
    "mask-leaves": "test_staging.py::test_what_was_masked_here_and_stands_there_is_found",
    "rehearsal-failed": "test_staging_deploy.py::test_each_step_fails_and_the_next_run_is_as_if_nothing_had_been",
    "rehearsal-differs": "test_staging_deploy.py::test_a_way_back_that_does_not_lead_back_is_found",
    "performance-impact": "test_staging.py::test_a_slower_query_is_a_finding",
    "performance-unclear": "test_staging.py::test_a_machine_that_is_not_what_it_was_proves_nothing",
    "query-broken": "test_staging.py::test_a_query_that_fails_afterwards_is_a_finding",
    "environment-differs": "test_environment.py::test_a_copy_of_production_is_found_out",
    "environment-unsaid": "test_environment.py::test_production_that_nobody_has_marked_is_not_taken_for_another",
    "unconfirmed": "test_environment.py::test_production_is_not_left_or_stamped_without_its_name",
    "squawk-objects": "test_lint.py::test_squawk_is_asked_about_what_no_rule_of_ours_knows",
    **{code: f"test_preflight.py::test_{code.replace('-', '_')}" for code in LEVELS},
    **{
        code: f"test_preflight_servers.py::test_{code.replace('-', '_')}"
        for code in ("replica-behind", "replica-missing", "vacuum-running", "wraparound-near", "wraparound-vacuum")
    },
}
KEPT_ELSEWHERE = {
    code: f"test_findings.py::test_{name}"
    for code, name in {
        "applied-edited": "comments_and_header_may_change_after_the_revision_was_applied",
        "reversible-false": "the_good_example_goes_up_and_down_without_a_word",
        "downgrade-untried": "the_good_example_goes_up_and_down_without_a_word",
        "keys-renumbered": "keys_that_stay_and_rows_that_go_or_come_are_let_through",
        "stash-impossible": "what_lies_elsewhere_may_be_read",
        "stash-keyless": "the_good_example_goes_up_and_down_without_a_word",
        "expectation-empty": "the_good_example_goes_up_and_down_without_a_word",
        "offline-impossible": "the_good_example_can_be_written_as_sql",
        "pooled-connection": "the_good_example_goes_up_and_down_without_a_word",
        "external-transaction": "a_connection_of_the_callers_own_is_used",
    }.items()
} | {
    "archive-impossible": "test_archive.py::test_an_archive_holds_what_it_says",
    "operation-differs": "test_index_operations.py::test_whatever_op_create_index_can_say",
    "operation-missing": "test_index_operations.py::test_an_index_comes_and_goes_and_comes_again",
    "operation-rows": "test_index_operations.py::test_duplicates_are_shown_before_anything_begins",
    "operation-unsupported": "test_index_operations.py::test_there_is_a_valid_index_all_the_time",
    "deadline-missed": "test_deadline.py::test_a_revision_has_a_deadline_of_its_own",
    "hold-limit": "test_deadline.py::test_a_downgrade_that_takes_longer_than_allowed_is_refused_beforehand",
    "backfill-differs": "test_backfill.py::test_killed_at_random_each_row_is_written_once",
    "backfill-of-key": "test_backfill.py::test_a_key_is_not_set_by_what_goes_along_it",
    "downgrade-interrupted": "test_backfill_back.py::test_an_interrupted_way_back_is_finished_before_it_goes_up_again",
    "backfill-row": "test_backfill.py::test_a_row_that_cannot_be_written_is_named",
    "backfill-function": "test_backfill_rows.py::test_every_value_comes_back_as_it_was",
    "backfill-not-kept": "test_backfill_back.py::test_there_and_back_and_there_again_nothing_is_lost",
    "backfill-unverified": "test_backfill.py::test_rows_that_come_meanwhile_are_taken_by_another_pass",
    "contract-unverified": "test_backfill.py::test_a_contract_waits_for_rows_that_were_written_without_their_value",
    "backfill-hidden-rows": "test_backfill.py::test_row_level_security_hides_no_row",
    "backfill-keyless": "test_backfill.py::test_every_row_is_written_once_whatever_the_key",
    "rows-inline": "test_inline_rows.py::test_what_does_not_count",
    "script-literal": "test_scripts.py::test_the_good_example_is_left_alone",
    "script-unusable": "test_scripts.py::test_the_good_example_is_left_alone",
    "script-arguments": "test_scripts.py::test_the_good_example_is_left_alone",
    "script-in-schema": "test_scripts.py::test_the_good_example_is_left_alone",
    "script-differs": "test_scripts.py::test_a_finished_script_is_not_run_again",
    "sql-body-literal": "test_plain_sql.py::test_it_goes_up_and_down_and_up_as_any_other",
    "sql-body-unusable": "test_plain_sql.py::test_it_goes_up_and_down_and_up_as_any_other",
    "sql-body-unrepeatable": "test_plain_sql.py::test_each_statement_commits_by_itself",
    "sql-body-differs": "test_plain_sql.py::test_an_interrupted_body_goes_on_with_its_next_statement",
    "contract-held": "test_phases.py::test_a_target_before_the_contract_is_reached",
    "not-rehearsed": "test_staging.py::test_what_was_rehearsed_may_run",
    "staging-misplaced": "test_staging.py::test_what_is_no_copy_is_not_replaced",
    "copy-impossible": "test_staging_deploy.py::test_a_rehearsal_from_one_server_to_another",
    "mask-unusable": "test_staging.py::test_no_value_of_a_masked_column_is_left",
    "mask-undecided": "test_staging.py::test_the_project_has_decided_every_column",
    "mask-leaves": "test_staging.py::test_no_value_of_a_masked_column_is_left",
    "rehearsal-failed": "test_staging_deploy.py::test_a_rehearsal_from_one_server_to_another",
    "rehearsal-differs": "test_staging.py::test_what_a_revision_fills_may_be_filled_otherwise",
    "performance-impact": "test_staging.py::test_noise_is_no_finding",
    "performance-unclear": "test_staging.py::test_noise_is_no_finding",
    "query-broken": "test_staging_deploy.py::test_a_rehearsal_from_one_server_to_another",
    "environment-differs": "test_environment.py::test_a_copy_becomes_staging",
    "environment-unsaid": "test_environment.py::test_what_is_nobodys_production_needs_no_marker",
    "unconfirmed": "test_environment.py::test_with_the_name_it_goes",
    "squawk-objects": "test_lint.py::test_squawk_leaves_alone_what_is_in_order",
    "stash-damaged": "test_stashes.py::test_verify_reads_every_kept_row",
    "stash-retained": "test_stashes.py::test_a_purge_deletes_the_rows_and_keeps_the_manifest",
    "stash-not-let-in": "test_restore_others.py::test_whole_tables_need_no_temporary_ones",
    "restore-impossible": "test_stashes.py::test_a_stash_comes_back_into_a_schema_that_is_there",
    "database-ahead": "test_ahead.py::test_an_older_build_deploys_where_nothing_was_taken_away",
    "recover-impossible": "test_ahead.py::test_a_missing_file_comes_back_to_the_letter",
    "rebase-impossible": "test_rebase.py::test_two_heads_become_one_line",
    "stamp-unexplained": "test_forced.py::test_with_a_reason_it_is_moved_and_the_reason_kept",
    "stamp-differs": "test_forced.py::test_a_database_that_matches_takes_no_reason",
    "adopted-otherwise": "test_prisma_adopt.py::test_a_database_is_adopted_where_its_rows_say",
    "catalog-differs": "test_catalog_change.py::test_a_waiver_lets_it_through_and_is_told",
    "fingerprint-missing": "test_catalog_change.py::test_development_stores_what_a_new_revision_changes",
    **dict.fromkeys(LEVELS, "test_preflight.py::test_what_is_in_order_is_left_alone"),
}


def install(project: Project, fixture: Path) -> None:
    """Put a fixture into the project: a folder as it is, its SQL files beside; a file as revision 001, or as 002 after
    one that is applied where the tables are large.
    """
    if installed_as(fixture) == SECOND:
        shutil.copy(REVISIONS / "before_002.py", project.versions / "001_create_tables.py")
        shutil.copy(REVISIONS / "before_002.json", project.folder / "alembic" / "table-stats.json")
        shutil.copy(fixture, project.versions / SECOND)
    elif fixture.is_dir():
        shutil.copytree(fixture, project.versions, dirs_exist_ok=True, ignore=shutil.ignore_patterns("sql"))
        if (fixture / "sql").is_dir():
            shutil.copytree(fixture / "sql", project.folder / "alembic" / "sql", dirs_exist_ok=True, symlinks=True)
    else:
        shutil.copy(fixture, project.versions / "001_create_thing.py")


def installed_as(fixture: Path) -> str:
    """The name a fixture of one file gets in the project."""
    second = fixture.is_file() and b'\nrevision = "002"\ndown_revision = "001"\n' in fixture.read_bytes()
    return SECOND if second and b"A change of tables that are in use" in fixture.read_bytes() else "001_create_thing.py"


def found(project: Project) -> list[Finding]:
    """What migrate-validate would find; the SQL is judged where the project says how large its tables are."""
    config = project.config()
    read, script = settings.load(config, {}), ScriptDirectory.from_config(config)
    judged = judge.judge_all(script, read, TODAY)
    findings = [finding for one in judged for finding in one.findings]
    findings += [one for one in graph.problems(script, read) if one.code == "graph-broken"]
    if not findings and table_stats.place(script.dir).exists():
        sql = lint.lint(config, script, judged, TODAY)
        findings += [*sql.findings, *sql.warnings]
    return findings


def declared(fixture: Path, mark: str) -> list[tuple[str, str]]:
    """What the comments at the top of a fixture's files say: (code, file:line)."""
    files = sorted(fixture.glob("*.py")) if fixture.is_dir() else [fixture]
    return [
        (match[1], f"{file.name if fixture.is_dir() else installed_as(fixture)}:{match[2]}")
        for file in files
        for match in re.finditer(mark, file.read_text(errors="replace"), re.MULTILINE)
    ]


def broken_rules(fixture: Path) -> list[tuple[str, str]]:
    """The findings a bad fixture says it has."""
    return declared(fixture, r"^# ([a-z]+-[a-z-]+): (\d+)$")


LIVE = {fixture for fixture in BAD if not broken_rules(fixture)}


def code_of(fixture: Path) -> str:
    """The rule a fixture is named after."""
    name = fixture.stem.removeprefix("bad_").replace("_", "-")
    return max((code for code in RULES if name == code or name.startswith(code + "-")), key=len)


def test_every_rule_has_a_bad_example() -> None:
    """A rule in the catalogue without a fixture named after it, or a test that is named here, is an untested rule."""
    shown = {code_of(fixture) for fixture in BAD} | BROKEN_ELSEWHERE.keys()

    assert shown == set(RULES)


def test_every_rule_has_a_good_example() -> None:
    """A rule in the catalogue that no good example speaks of may refuse everything."""
    left_alone = {code for fixture in GOOD for code, _ in declared(fixture, r"^# leaves alone: ([a-z-]+)()$")}

    assert left_alone | KEPT_ELSEWHERE.keys() == set(RULES)


@pytest.mark.parametrize("name", sorted({*BROKEN_ELSEWHERE.values(), *KEPT_ELSEWHERE.values()}))
def test_examples_elsewhere_exist(name: str) -> None:
    """A test that stands for an example is really there."""
    file, _, function = name.partition("::")

    assert f"def {function}(" in (ROOT / "tests" / file).read_text()


@pytest.mark.parametrize("fixture", [one for one in BAD if one not in LIVE], ids=lambda path: path.stem)
def test_bad_revision_has_exactly_its_findings(project: Project, fixture: Path) -> None:
    """Each bad example is refused for what it is named after, at the right line, and for nothing else."""
    install(project, fixture)

    findings = found(project)

    # The parents that a single file names are in no file here.
    findings = [one for one in findings if fixture.is_dir() or one.code != "graph-broken"]
    got = [(one.code, Path(one.where).name) for one in findings]
    assert sorted(got) == sorted(broken_rules(fixture))
    assert code_of(fixture) in {one.code for one in findings}


@pytest.mark.parametrize("fixture", [*GOOD, *sorted(LIVE)], ids=lambda path: path.stem)
def test_good_revision_is_left_alone(project: Project, fixture: Path) -> None:
    """No rule objects to a good example, nor to one whose fault only a database can show."""
    install(project, fixture)

    assert [one.text() for one in found(project)] == []


@pytest.mark.parametrize("fixture", [one for one in BAD if one not in LIVE], ids=lambda path: path.stem)
def test_every_message_is_whole(project: Project, fixture: Path) -> None:
    """A message has its place, what, why and what to write, and no name that was never filled in."""
    install(project, fixture)

    for finding in found(project):
        text = finding.text()
        assert re.match(r"\S+\.py:[1-9]\d*: [a-z-]+\n  what  \S.*\n  why   \S.*\n  write \S", text)
        assert not re.search(r"\{[a-z_]*(![a-z])?\}", text)
        assert "_NOT_WRITTEN" not in text and "object at 0x" not in text


REPLACED = ("header_field_invalid_type", "header_field_invalid_phase", "header_field_invalid_transaction",
            "header_field_invalid_reversible", "header_field_invalid_description_empty", "header_field_invalid_type_empty",
            "header_field_invalid_author_empty", "header_field_invalid_environments_unknown",
            "header_field_invalid_environments_schema", "header_field_invalid_version_empty",
            "header_field_invalid_dependencies_empty", "header_date_impossible", "header_date_future",
            "header_dependencies_unsaid", "header_dependencies_invented", "header_dependencies_depends_on",
            "reversible_undecided", "revision_missing_computed", "expectation_missing_empty",
            "expectation_missing_down", "budget_invalid_zero", "waiver_incomplete_code")  # fmt: skip
INSERTED = ("header_missing", "header_field_missing_version", "header_field_missing_date", "revision_missing",
            "header_field_missing_dependencies", "header_field_missing_type", "header_field_missing_reversible",
            "header_field_missing_author", "expectation_missing", "revision_missing_down_revision")  # fmt: skip


@pytest.mark.parametrize("name", REPLACED + INSERTED)
def test_what_a_message_says_to_write_is_right(project: Project, name: str) -> None:
    """The line to write, pasted in place of the line that was named (or below it, where one is missing), cures it."""
    install(project, REVISIONS / f"bad_{name}.py")
    file = project.versions / "001_create_thing.py"
    before = next(one for one in found(project) if one.code == code_of(REVISIONS / f"bad_{name}.py"))
    number = int(before.where.rpartition(":")[2])
    cure = before.rule.instead.format_map(before.values).split("\n(")[0].split(", each greater")[0]
    cure = cure.removeprefix("begin the file with\n").replace('expect.table("…")', 'expect.table("thing")')
    cure = cure.replace("CODE", "import-application")
    lines = file.read_text().split("\n")

    lines[number - 1 if name in REPLACED or name == "header_missing" else number : number] = cure.split("\n")
    file.write_text("\n".join(lines))

    left = [one.text() for one in found(project) if one.code == before.code]
    assert left == []


def test_all_findings_of_a_file_are_told_at_once(project: Project) -> None:
    """A header out of order hides nothing that is wrong in the body, and line endings hide neither."""
    text = PLAIN.replace("Type: schema", "Type: shema").replace('    op.drop_table("thing")', "    pass")
    text = text.replace("from alembic", "import myapp\nfrom alembic").replace("Date: 2026-01-31", "Date: tomorrow")
    (project.versions / "001_create_thing.py").write_bytes(text.replace("\n", "\r\n").encode())

    codes = [one.code for one in found(project)]

    assert codes == [
        "source-line-endings", "header-date", "header-field-invalid", "import-application", "downgrade-missing",
    ]  # fmt: skip


def test_several_waivers_each_count_and_end_on_their_day(project: Project) -> None:
    """A waiver holds up to and on its last day, for its own code only."""
    install(project, REVISIONS / "good_waivers.py")
    file = project.versions / "001_create_thing.py"

    file.write_text(file.read_text().replace("2026-12-31", "2026-02-14"))

    assert [one.code for one in found(project)] == ["waiver-expired", "settings-read"]


@pytest.mark.parametrize(
    "text", ["", "# only a comment\n", "\n\n", "'Add x.'\n", "f'''Version: 001'''\n", "b'Version: 001'\n"]
)
def test_file_without_docstring_has_no_header(project: Project, text: str) -> None:
    """An empty file, a comment, a string of another kind: each is told what a header looks like."""
    project.write("001_create_thing.py", text)

    assert [(one.code, Path(one.where).name) for one in found(project)] == [
        ("header-missing", "001_create_thing.py:1")
    ]  # fmt: skip


STOCK = '''"""add accounts

Revision ID: {0}
Revises: {1}
Create Date: 2024-05-06 10:11:12.131415

Author: somebody
Version: 1.2 of the API
"""
from typing import Sequence, Union

from alembic import op
import myapp

revision: str = "{0}"
down_revision: Union[str, None] = {2}


def upgrade() -> None:
    pass


def downgrade() -> None:
    pass
'''


def stock(project: Project, revision: str, parent: str | None, name: str = "add_accounts") -> Path:
    """A revision as Alembic's own template writes it."""
    return project.write(f"{revision}_{name}.py", STOCK.format(revision, parent or "", repr(parent)))


def test_optional_headers_leave_stock_revisions_alone(project: Project) -> None:
    """With headers = optional nothing is said about Alembic's own template, CRLF and byte order mark included."""
    project.configure(headers="optional")
    stock(project, "ae1027a6acf", None)
    windows = stock(project, "27c6a30d7c24", "ae1027a6acf")
    windows.write_bytes(b"\xef\xbb\xbf" + windows.read_bytes().replace(b"\n", b"\r\n"))

    assert found(project) == []


def test_optional_headers_are_judged_where_there_is_one(project: Project) -> None:
    """With headers = optional a header that is there must still be right; its file may be named as Alembic names it."""
    project.configure(headers="optional")
    stock(project, "ae1027a6acf", None)
    text = PLAIN.replace("001", "27c6a30d7c24").replace("None", "ae1027a6acf", 1)
    text = text.replace("down_revision = None", 'down_revision = "ae1027a6acf"')
    project.write("2024_05_06-27c6a30d7c24_add_thing.py", text)
    before = found(project)

    project.write("2024_05_06-27c6a30d7c24_add_thing.py", text.replace("Type: schema", "Type: table"))

    assert before == []
    assert [one.code for one in found(project)] == ["header-field-invalid"]


@pytest.mark.parametrize("mode", ["optional", "required"])
def test_headers_are_required_from_a_revision_on(project: Project, mode: str) -> None:
    """headers_from asks for a header from that revision on, by descent and not by name, whatever headers says."""
    project.configure(headers=mode, headers_from="bbb")
    stock(project, "ccc", None)
    stock(project, "bbb", "ccc")
    stock(project, "aaa", "bbb")

    findings = found(project)

    assert {one.revision for one in findings} == {"bbb", "aaa"}
    assert {one.values["field"] for one in findings if one.code == "header-field-missing"} >= {"Reversible", "Phase"}


def test_headers_from_a_revision_that_is_nowhere_is_wrong_use(project: Project) -> None:
    """A misspelt headers_from would require nothing at all, so it is refused."""
    project.configure(headers="optional", headers_from="bb")
    stock(project, "bbb", None)

    with pytest.raises(WrongUse, match="headers_from = bb: no file here has this revision") as caught:
        found(project)

    assert caught.value.code == 2
    assert caught.value.next_command


def test_only_pending_revisions_are_judged(project: Project) -> None:
    """An applied revision whose waiver has ended since does not stop the next upgrade."""
    install(project, REVISIONS / "good_numbers")
    first = project.versions / "001_create_a.py"
    first.write_text(first.read_text().replace("Type: schema", "Type: wrong"))
    config = project.config()

    judged = judge.judge_pending(
        ScriptDirectory.from_config(config),
        [str(project.versions / "002_add_b.py"), str(project.versions / "003_rename_c.py")],
        settings.load(config, {}),
        TODAY,
    )

    assert [(one.path.name, one.findings) for one in judged] == [("002_add_b.py", ()), ("003_rename_c.py", ())]


def test_what_alembic_ignores_is_ignored(project: Project) -> None:
    """Lock files of editors, packages' own files and everything that is no .py are no revisions."""
    install(project, REVISIONS / "good_plain.py")
    for name in ("__init__.py", "__init__old.py", ".#001_create_thing.py", "001_create_thing.py~", "notes.txt"):
        project.write(name, "not a revision (\n")
    (project.versions / "__pycache__").mkdir()

    assert found(project) == []


def test_type_words_come_from_the_settings(project: Project) -> None:
    """A word that alembic.ini does not list is refused, one that it does is not."""
    project.configure(type_words="make, mend")
    shutil.copy(REVISIONS / "good_plain.py", project.versions / "001_make_thing.py")
    before = found(project)
    (project.versions / "001_make_thing.py").rename(project.versions / "001_create_thing.py")

    after = found(project)

    assert before == []
    assert [one.values["words"] for one in after] == ["make, mend"]


def test_allowed_imports_come_from_the_settings(project: Project) -> None:
    """A package named in allowed_imports may be imported, its namesakes may not."""
    project.configure(allowed_imports="geoalchemy2")
    text = PLAIN.replace("from alembic", "import geoalchemy2.types\nimport geoalchemy2x\nfrom alembic")
    project.write("001_create_thing.py", text)

    assert [one.values["module"] for one in found(project)] == ["geoalchemy2x"]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of this repository's code, for a command that works on its own alembic.ini."""
    shutil.copytree(
        ROOT / "mcp_planner_schema", tmp_path / "mcp_planner_schema", ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copytree(ROOT / "alembic", tmp_path / "alembic", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "alembic.ini", tmp_path)
    return tmp_path


def validate(folder: Path) -> subprocess.CompletedProcess[str]:
    """``make migrate-validate`` as the Makefile calls it, with a database that does not exist."""
    return subprocess.run(
        [sys.executable, "-m", "mcp_planner_schema", "migrate-validate"],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "DATABASE_URL": "postgresql://nobody:secret@203.0.113.1:1/none"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_validate_is_content_with_this_repository(copy: Path) -> None:
    """The revisions that are delivered have no findings, which is said without a database and with exit code 0."""
    result = validate(copy)

    assert (result.returncode, result.stderr) == (0, "")
    assert re.fullmatch(r"\d+ revisions judged, no findings\n", result.stdout)


def test_validate_reports_everything_and_runs_nothing(copy: Path) -> None:
    """All findings of all files at once, exit 3, the next command at the end, and not a line of any revision executed."""
    versions = copy / "alembic" / "versions"
    shutil.rmtree(versions)
    versions.mkdir()
    (versions / "001_create_thing.py").write_text(
        PLAIN.replace("revision =", 'open("ran", "w").write("ran")\nrevision =', 1).replace(
            "Phase: expand", "Phase: now"
        )
    )
    (versions / "002_drop_thing.py").write_text("def upgrade(:\n")
    (versions / "004_add_other.py").write_text("'''No header.'''\n")
    (versions / "005_add_link.py").symlink_to("/nowhere")

    result = validate(copy)

    assert result.returncode == 3
    assert not (copy / "ran").exists()
    assert "Traceback" not in result.stderr + result.stdout
    assert "secret" not in result.stderr + result.stdout
    for expected in (
        f"alembic/versions/001_create_thing.py:{PLAIN.splitlines().index('Phase: expand') + 1}: header-field-invalid",
        "alembic/versions/002_drop_thing.py:1: source-syntax",
        "alembic/versions/004_add_other.py:1: header-missing",
        "alembic/versions/004_add_other.py:1: numbering-gap",
        "alembic/versions/005_add_link.py:1: source-link",
    ):
        assert expected in result.stdout
    assert "4 revisions judged, 5 findings" in result.stdout
    assert result.stderr.startswith("\nnext: ")


def test_settings_of_this_repository_require_headers() -> None:
    """Here, every revision has a header, and the type words are those of alembic.ini."""
    read: Settings = settings.load(Config(str(ROOT / "alembic.ini")), {})

    assert read.headers == "required"
    assert {"create", "add", "alter", "drop", "rename", "move", "fill", "seed", "merge"} <= set(read.type_words)
