"""The catalogue of findings, and the errors that carry them out.

Every refusal and warning of the guard is one :class:`Rule`, here or in one of the modules named findings_….
Messages, ``docs/findings.md`` and the tests' list of bad examples all come from this table, so a rule cannot exist without
its explanation.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from alembic.util import CommandError

from mcp_planner_schema.guard.findings_backfill import BACKFILL_RULES
from mcp_planner_schema.guard.findings_catalog import CATALOG_RULES
from mcp_planner_schema.guard.findings_environment import ENVIRONMENT_RULES
from mcp_planner_schema.guard.findings_lint import LINT_RULES
from mcp_planner_schema.guard.findings_preflight import PREFLIGHT_RULES
from mcp_planner_schema.guard.findings_sql import SQL_RULES
from mcp_planner_schema.guard.findings_staging import STAGING_RULES
from mcp_planner_schema.guard.findings_versions import VERSION_RULES
from mcp_planner_schema.guard.rule import Rule as Rule

DONE, BROKEN, WRONG_USE, REFUSED, BUSY = 0, 1, 2, 3, 75


@dataclass(frozen=True)
class Finding:
    """A rule that was broken at one place. ``where`` is ``file:line``, or the name of a database object."""

    code: str
    where: str
    revision: str = ""
    values: dict[str, str] = field(default_factory=dict)

    @property
    def rule(self) -> Rule:
        """The catalogue's entry."""
        return RULES[self.code]

    def text(self) -> str:
        """What a person reads: place and code, then what, why and what to write."""
        lines = [f"{self.where}: {self.code}"]
        for label, template in (
            ("what", self.rule.happens),
            ("why", self.rule.hurts),
            ("write", self.rule.instead),
        ):
            lines.append(f"  {label:<5} " + template.format_map(self.values).replace("\n", "\n        "))
        if self.rule.waivable and "Waive:" not in self.rule.instead:
            lines.append(f"  or    in the revision's header: Waive: {self.code} | why | YYYY-MM-DD")
        if self.rule.acceptable:
            lines.append(f'  or    for one run: PREFLIGHT_ACCEPT={self.code} REASON="why" make …')
            lines.append(f'        (alembic -x preflight_accept={self.code} -x reason="why" …)')
        return "\n".join(lines)


class GuardError(CommandError):
    """Something ended the run. ``code`` is the process's exit code, ``next_command`` the one thing to type next."""

    code = BROKEN
    heard = False
    """Whether the run's events have said so already."""
    form = "text"
    """In which form it is to be told: as everything else of the run."""

    def __init__(self, message: str, next_command: str) -> None:
        super().__init__(message)
        self.message = message
        self.next_command = next_command

    def text(self) -> str:
        """What a person reads, with the command to type next at its end."""
        return f"{self.message}\n\nnext: {self.next_command}"


class Broken(GuardError):
    """A step failed, or the database cannot be reached."""


class WrongUse(GuardError):
    """An argument or a setting is missing, unknown or dangerous."""

    code = WRONG_USE


class Busy(GuardError):
    """Someone else is in the way; the same command works later."""

    code = BUSY


class Refused(GuardError):
    """Findings stand against the run; ``left`` says what it has changed before."""

    code = REFUSED

    def __init__(self, findings: Sequence[Finding], next_command: str, left: str = "nothing was changed") -> None:
        count = f"{len(findings)} finding" + ("s" if len(findings) != 1 else "")
        texts = "\n\n".join(finding.text() for finding in findings)
        super().__init__(f"refused: {count}, {left}\n\n{texts}", next_command)
        self.findings = tuple(findings)
        self.left = left


def refuse(findings: Iterable[Finding], next_command: str) -> None:
    """Raise :class:`Refused` if any of the findings refuses."""
    standing = [finding for finding in findings if finding.rule.refuses]
    if standing:
        raise Refused(standing, next_command)


_RULES = (
    # --- the file -----------------------------------------------------------------------------------------------
    Rule(
        "source-encoding",
        "the file is not plain UTF-8: {problem}",
        "Python, editors and reviewers would each read something else, so what was reviewed is not what runs",
        "save it as UTF-8 without mark, coding line or NUL: {instead}",
    ),
    Rule(
        "source-line-endings",
        "line {line} ends in CR or CRLF",
        "checksums and diffs change with the editor that saved the file, and SQL strings carry the extra character",
        "save it with LF line endings: perl -0pi -e 's/\\r\\n?/\\n/g' {file}",
    ),
    Rule(
        "source-unreadable",
        "the file cannot be opened: {problem}",
        "a revision nobody can read is one nobody can judge or run",
        "chmod u+r {file}, or remove it",
    ),
    Rule(
        "source-too-large",
        "the file has {size} bytes; a revision may have {limit}",
        "data in a revision is read on every run of every command, by everyone, for ever",
        "keep the data in a file of its own and load it in a revision of Type: data",
    ),
    Rule(
        "source-link",
        "the file is a symbolic link or no ordinary file",
        "what it points to is not in this repository's history and can change after the review",
        "let an ordinary file stand here: {instead}",
    ),
    Rule(
        "source-syntax",
        "Python cannot read it: {problem}",
        "one unreadable revision stops every command on the whole history",
        "correct the line; python -m py_compile {file} shows it",
    ),
    Rule(
        "file-name",
        "the file is named {name}",
        "the name is what people sort and search by; it must say number, kind of change and object",
        "number, kind and object in lower case, a to z, like 007_add_complexity_fields.py",
    ),
    Rule(
        "type-word",
        "the name's first word is {word!r}",
        "a reader of the folder cannot tell what kind of change it is",
        "begin with one of: {words} (the list is type_words in alembic.ini)",
    ),
    Rule(
        "numbering-duplicate",
        "number {version} is taken by {others} too",
        "Alembic keeps one of the two and forgets the other; two databases may end with different schemas",
        "give the younger one the next free number, {free}: file name, Version and revision",
    ),
    Rule(
        "numbering-gap",
        "number {missing} is missing before {version}",
        "a missing number looks like a revision that was lost in a merge",
        "renumber this revision to {missing}, or add the missing one",
    ),
    # --- the header ---------------------------------------------------------------------------------------------
    Rule(
        "header-missing",
        "the revision has no header",
        "without one the guard cannot know what a downgrade costs, nor in which phase the step may run",
        "begin the file with\n{template}",
    ),
    Rule(
        "header-field-missing",
        "the header has no {field}",
        "every field decides something the guard does; a guess would be made at the worst moment",
        "{field}: {example}{others}",
    ),
    Rule(
        "header-field-repeated",
        "{field} stands in the header twice",
        "one of the two is wrong and nobody can tell which",
        "keep one of the two lines",
    ),
    Rule(
        "header-field-unknown",
        "the header has a line {line!r} that is none of the known fields",
        "a misspelt field is a field that is not there",
        "one of: {fields}; free text goes below the header, after an empty line",
    ),
    Rule(
        "header-field-apart",
        "the line {line!r} stands below the header, after an empty line",
        "it is not read there, and its author believes it is in force",
        "move it up to line {line_number}, to the other fields",
    ),
    Rule(
        "header-field-invalid",
        "{field} is {value!r}: {problem}",
        "a value the guard cannot read is a decision it cannot follow",
        "{field}: {example}{others}",
    ),
    Rule(
        "header-version",
        "Version is {version!r}, revision is {revision!r}, the file name begins with {number!r}",
        "three names for one step: status, history and file would each point at another",
        "use one number in all three: Version: {number}, revision = {number!r}, {number}_….py",
    ),
    Rule(
        "header-date",
        "Date is {value!r}: {problem}",
        "the history is read by date when something went wrong",
        "Date: {today}",
    ),
    Rule(
        "header-dependencies",
        "Dependencies is {value!r}, but down_revision and depends_on say {real!r}",
        "a reviewer reads the header, Alembic follows the code",
        "Dependencies: {real}",
    ),
    Rule(
        "reversible-undecided",
        "Reversible is undecided",
        "what a downgrade destroys must be known before the upgrade, not at night",
        "Reversible: stash\n(rows or values go and are kept; or lossless: none go; or forward-only: REASON)",
    ),
    Rule(
        "waiver-incomplete",
        "the waiver {value!r} is not CODE | reason | YYYY-MM-DD",
        "a waiver without reason or end is a rule that was switched off",
        "Waive: CODE | why it is safe here | {later}",
    ),
    Rule(
        "waiver-unknown",
        "the waiver names {waived!r}, which {problem}",
        "it lifts nothing, and its author believes it does",
        "one of: {codes}; otherwise change the revision",
    ),
    Rule(
        "waiver-expired",
        "the waiver of {waived} ended on {value}",
        "the reason was good until that day; somebody has to look again",
        "change the revision so that {waived} no longer applies, or write a new reason and a new date",
    ),
    # --- the body -----------------------------------------------------------------------------------------------
    Rule(
        "revision-missing",
        "the file has no line {name} = … with the value written out",
        "Alembic cannot place the file in the history",
        "{name} = {example}",
    ),
    Rule(
        "upgrade-missing",
        "there is no upgrade(), or it does nothing",
        "a revision that changes nothing hides one that was forgotten",
        'def upgrade() -> None:\n    op.execute("…")',
    ),
    Rule(
        "downgrade-missing",
        "there is no downgrade(), or it does nothing",
        "the way back ends here, and the person who needs it finds out at night",
        "the reverse of upgrade() in downgrade(), or in the header\nReversible: forward-only: why it cannot be undone",
    ),
    Rule(
        "expectation-missing",
        "{name} is missing, empty or not a list",
        "nothing would prove that the step did what it says",
        '{name} = [\n    expect.table("…"),\n]',
    ),
    Rule(
        "order-of-parts",
        "{second} stands above {first}",
        "every revision is read in one order: header, expectations, upgrade(), downgrade()",
        "move {second} below {first}",
    ),
    Rule(
        "import-application",
        "it imports {module}",
        "application code changes later, and then this old revision does something else or stops working",
        "write down the values it needs, here in the revision; allowed: the standard library, {allowed}",
        waivable=True,
    ),
    Rule(
        "settings-read",
        "it reads {name}",
        "the same revision would do different things on different machines",
        "write the value into the revision, or make it a column or row of the database",
        waivable=True,
    ),
    Rule(
        "budget-invalid",
        "budgets has {name} = {value!r}: {problem}",
        "without a limit one waiting statement holds up every query behind it",
        'budgets = {{"lock_timeout": "500ms", "statement_timeout": "5min"}}, each greater than 0',
    ),
    Rule(
        "deadline-missed",
        "it held {lock} and needed more than {limit} to its end, {tries} times, with nobody in the way",
        "every query that needs the table waits as long, and those behind it",
        "what does it online (docs/5-zero-downtime.md), or a smaller step; for an hour in which nobody works a longer deadline "
        "among the revision's budgets (while no other session is in the database there is none)",
    ),
    Rule(
        "hold-limit",
        "keeping or giving back rows ({copied}) takes {needs}, and {limit} are allowed",
        "the table is locked meanwhile: who writes to it waits, and in the end who reads it too",
        "an hour in which nobody works, and: alembic -x hold_limit=5min … (HOLD_LIMIT=5min make …, up or down); or hold_limit in "
        "alembic.ini",
    ),
    Rule(
        "transaction-mismatch",
        "Transaction is single, but the body uses {what}, which commits by itself",
        "a step that commits in the middle cannot be rolled back whole or tried again",
        "Transaction: none, with nothing in the body but what may run twice",
    ),
    Rule(
        "sql-files-literal",
        "sql_files does not say which SQL files belong to the revision: {problem}",
        "the checksum covers what the list names; any other file could be changed after it was run, and nobody would know",
        'sql_files = [\n    "{number}/touch_updated_at.sql",\n]\nwith sql.apply(sql_files) and sql.revert(sql_files)',
    ),
    Rule(
        "sql-file-unusable",
        "sql/{file} cannot be used: {problem}",
        "a file holds one object, so that it can be replaced, compared and taken back by its name alone",
        "CREATE OR REPLACE FUNCTION, PROCEDURE or TRIGGER, then COMMENT ON it, UTF-8, named in sql_files; or remove the file",
    ),
    # --- the database -------------------------------------------------------------------------------------------
    Rule(
        "applied-edited",
        "{what} was changed after it was applied on {applied}:{changed}",
        "this database was built by the old text; others will be built by the new one",
        "bring the old text back (it is kept, SQL files as comments at its end: SELECT source FROM {schema}.history "
        "WHERE id = {history}) and put the change into a new revision; a function or trigger into a new file. Where both texts "
        'do the same to this database: make migrate-accept VERSION={revision} REASON="…"',
        waivable=True,
    ),
    Rule(
        "forward-only",
        "revision {revision} cannot be undone: {reason}",
        "its author has decided that going back would leave a broken database",
        "go forward with a new revision, or restore a backup; stop above it: alembic downgrade {above}",
    ),
    Rule(
        "reversible-false",
        "the header says lossless, but the downgrade would destroy {objects}",
        "who decides to go back reads the header",
        "Reversible: stash",
    ),
    Rule(
        "downgrade-untried",
        "the downgrade cannot be tried before it runs: {problem}",
        "what it would destroy is found by a trial that is rolled back; without one nothing can be kept",
        "make downgrade() run inside one transaction (no COMMIT, no CONCURRENTLY), or write\n"
        "Reversible: forward-only: why it cannot be undone",
    ),
    Rule(
        "rows-not-kept",
        "the downgrade changes {objects}, where there is no primary key",
        "without a key nobody can tell which row a changed row was, so its old values could not be put back",
        "give the table a primary key first, or leave its rows alone; or in the header\n"
        "Waive: rows-not-kept | why nothing is lost | {later}",
        waivable=True,
    ),
    Rule(
        "keys-renumbered",
        "the downgrade gives rows of {table} another primary key ({key})",
        "the kept values are put back by that key, and would come to other rows than they belong to",
        "keep the keys as they are in this downgrade; give new ones in a revision of its own",
    ),
    Rule(
        "stash-damaged",
        "what an earlier downgrade kept is not as it was: {problem}",
        "what comes back would not be what went away, and nobody would notice",
        "find out who has written to {place}. An archive, if there is one, has them: make migrate-restore VERSION=… ARCHIVE=…\n"
        "To go on, leave the stash where it is, and give it back when it is repaired (make migrate-restore VERSION=…):\n"
        "UPDATE migration.stash SET state = 'partly restored' WHERE id = {stash}",
    ),
    Rule(
        "stash-not-let-in",
        "the role {role} may not make temporary tables in the database {database}",
        "the kept rows that nobody has written to since are listed in one while they come back; without that list newer values "
        "could be overwritten",
        "GRANT TEMPORARY ON DATABASE {database} TO {role}",
    ),
    Rule(
        "stash-retained",
        "stash {stash} is not purged: {problem}",
        "its rows are nowhere else, and no upgrade can give them back afterwards",
        "{instead}",
    ),
    Rule(
        "restore-impossible",
        "nothing of revision {revision} is given back: {problem}",
        "rows go back only into the schema they came from, out of a stash or an archive that still holds them",
        "{instead}",
    ),
    Rule(
        "stash-impossible",
        "the downgrade destroys what cannot be kept: {problem}",
        "it lies outside the tables of this database, so no copy of it would come back with the upgrade",
        "copy it away first and take it out of downgrade(), or write\nReversible: forward-only: why it cannot be undone",
    ),
    Rule(
        "stash-keyless",
        "the downgrade drops columns of {table}, which has no primary key",
        "the kept values could never be put back to the rows they belong to",
        "give {table} a primary key first, or copy the values away in a revision of their own",
    ),
    Rule(
        "archive-impossible",
        "there is no archive to rely on: {problem}",
        "what a downgrade destroys in staging or production is kept twice, and a file that was never restored is no backup",
        "{instead}",
    ),
    Rule(
        "expectation-empty",
        "this holds already before the upgrade: {says}",
        "an expectation that was true before proves nothing about this step; or the version was moved by hand",
        "expect something that only this revision makes true; if the version is wrong: make migrate-verify",
        refuses=False,
    ),
    Rule(
        "pooled-connection",
        "the connection goes through a pooler that refuses or drops session settings: {problem}",
        "timeouts and the deployers' lock belong to a session; a pooler hands them to somebody else",
        "set DATABASE_URL to the server itself, not to the pooler (often port 5432 instead of 6432)",
    ),
    Rule(
        "external-transaction",
        "the connection given to the guard is already in a transaction",
        "Alembic would run everything inside it, report success, and lose it all when the connection closes",
        "commit or roll back before calling run(); issue no statement on the connection before",
    ),
    Rule(
        "offline-impossible",
        "revision {revision} cannot be written as SQL: {problem}",
        "it asks the database and acts on the answer, and in a file there is no answer",
        "run it online: alembic {command}; or give --sql the range without it",
    ),
    Rule(
        "graph-broken",
        "the history cannot be put in order: {problem}",
        "Alembic cannot tell which revisions are to run, and would stop in the middle or skip some",
        "one file for each id, a file for each parent, one head: {instead}",
    ),
    # --- operations ---------------------------------------------------------------------------------------------
    Rule(
        "operation-differs",
        "the {what} is to be made, and there is {found}",
        "to leave it would be taken for a success, and queries and rules would rest on something else than was reviewed",
        "give the new one another name, or put it in the old one's place: op.replace_index_concurrently(…), "
        "op.drop_constraint_concurrently(…)",
    ),
    Rule(
        "operation-missing",
        "there is no {what}",
        "the revision was written for another schema than this one, and so was whatever follows",
        "correct the name or schema=…; make migrate-verify shows what else is missing",
    ),
    Rule(
        "operation-rows",
        "{count} of {table} stand against {rule}; {sample}",
        "the work would fail at its end, after minutes or hours, and leave an invalid object behind",
        "repair the rows in a data revision before this one",
    ),
    Rule(
        "operation-unsupported",
        "the {what} cannot be changed this way: {problem}",
        "PostgreSQL would refuse it half-way, or do it under a lock that everybody waits behind",
        "change what it depends on instead, or do it in a revision of its own while nobody works",
    ),
)

RULES = {
    rule.code: rule
    for rule in (
        *_RULES, *LINT_RULES, *BACKFILL_RULES, *CATALOG_RULES, *PREFLIGHT_RULES, *VERSION_RULES, *STAGING_RULES,
        *SQL_RULES, *ENVIRONMENT_RULES,
    )
}  # fmt: skip
