"""The report of one run: what it tells, in every state that a run can be in, and that nothing in it is ever more than text."""

from __future__ import annotations

import datetime as dt
import itertools
import json
import os
import re
import stat
import subprocess
import sys
import threading
import tomllib
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config

from mcp_planner_schema import cli
from mcp_planner_schema.guard import deploy_lock
from mcp_planner_schema.guard.findings import Broken, GuardError
from mcp_planner_schema.telemetry import report
from mcp_planner_schema.telemetry.report import facts, gather, html, markdown, sections, timeline
from tests.conftest import ROOT, Database, Project
from tests.until import until

HOSTILE = "x|y`</td><script>alert(1)</script><img src=//evil.example/a onerror=b>&amp;\"'\u202e__p__ [l](x://evil.example)\n# h"
NO_CONTENT = {"meta", "rect"}


class Page(HTMLParser):
    """Every element of a page with its attributes, and the text of it; fails where the elements do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Remember it."""
        self.elements.append((tag, dict(attrs)))
        if tag not in NO_CONTENT:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """An element of SVG without content."""
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        """It closes what was opened last."""
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Text, but for the style."""
        self.text += data if self.open[-1:] != ["style"] else ""


def ask(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """The command's exit code, and what it says on stdout and stderr."""
    capsys.readouterr()
    code = cli.main(["migrate-report", *arguments])
    return code, *capsys.readouterr()


@pytest.fixture
def three(
    empty: Database, project: Project, built: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> Database:  # fmt: skip
    """Three revisions, of which two were applied in run 1, and the second taken back in run 2; the third fails."""
    monkeypatch.setattr("mcp_planner_schema.cli.ROOT", project.folder)
    project.revision(
        "001", "create_a", """op.execute("CREATE TABLE a (id int PRIMARY KEY); INSERT INTO a VALUES (1), (2)")""",
        'op.execute("DROP TABLE a")',
    )  # fmt: skip
    project.revision(
        "002", "alter_a", """op.execute("ALTER TABLE a ADD b text; UPDATE a SET b = 'b'")""",
        'op.execute("ALTER TABLE a DROP b")', extra="Waive: column-default-volatile | it is empty | 2999-12-31",
    )  # fmt: skip

    def build(database: Database) -> None:
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("DATABASE_URL", database.url)
            project.upgrade()
            project.downgrade("001")

    built(empty, "three_revisions", build)
    project.revision("003", "create_c", 'op.execute("SELECT 1 / 0")', 'op.execute("DROP TABLE c")')
    return empty


def read(project: Project, number: int | None = None) -> facts.Report:
    """The report of a run, as values."""
    return gather.read(project.config(), number)


def test_the_three_forms_tell_the_same_run(
    three: Database, project: Project, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Markdown is what is printed; the name of a file says which form; RUN= says which run; the newest is the one meant."""
    file = tmp_path / "report.html"

    printed = ask(capsys, "RUN=1")
    written = ask(capsys, "RUN=1", f"OUT={file}")
    values = json.loads(ask(capsys, "RUN=1", "JSON=1")[1])
    newest = ask(capsys)

    assert printed[0] == written[0] == newest[0] == 0
    assert printed[1].startswith("# Run 1 is done\n")
    assert newest[1].startswith("# Run 2 is done\n")
    assert written[1:] == ("", f"wrote {file}\n")
    page = Page(file.read_text(encoding="utf-8"))
    for told in ("Run 1 is done", "It went up from base to 002: 2 of 2 steps done.", "make migrate-verify"):
        assert told in page.text
    assert [one["revision"] for one in values["steps"]] == ["001", "002"]
    assert (values["format"], values["run"]["heads_after"], values["steps"][1]["rows"]) == (1, ["002"], 2)
    assert dt.datetime.fromisoformat(values["run"]["started"]).tzinfo is not None


def test_a_report_is_for_its_owner_only(three: Database, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Errors in it may quote rows: mode 0600, also where an open file stood there before. What is no file is written to."""
    file, pipe = tmp_path / "report.md", tmp_path / "pipe"
    file.touch(0o644)
    os.mkfifo(pipe)
    read: list[str] = []
    reading = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reading.start()

    codes = [ask(capsys, "RUN=1", f"OUT={one}")[0] for one in (file, pipe)]
    reading.join(10)

    assert codes == [0, 0]
    assert file.stat().st_mode & 0o777 == 0o600
    written = [re.sub(r"(?m)^Read \S+ \S+ UTC", "Read then", text) for text in (*read, file.read_text())]
    assert written[0] == written[1] != file.read_text()  # of the same run; each says to the second when it was read
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_what_the_guide_shows_does_what_it_says(
    three: Database, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """Every command of docs/report.md ends well, and the one that names a file writes it."""
    monkeypatch.chdir(tmp_path)
    guide = (ROOT / "docs" / "report.md").read_text(encoding="utf-8")
    commands = [line.split("#")[0].split()[2:] for line in guide.splitlines() if line.startswith("make migrate-report")]

    codes = [ask(capsys, *(one.replace("RUN=42", "RUN=1") for one in given))[0] for given in commands]

    assert codes == [0, 0, 0]
    assert (tmp_path / "report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_make_hands_over_the_run(database: Database) -> None:
    """RUN= is a value like another one, and not the recipe's own."""
    done = subprocess.run(["make", "migrate-report", "RUN=1"], cwd=ROOT, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("# Run 1 is done\n")


def test_status_points_to_the_report_of_a_run_that_did_not_end_well(
    three: Database, project: Project, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    """Behind the line of the newest run, and only where it failed or was killed."""
    cli.main(["migrate-status"])
    well = capsys.readouterr().out
    with pytest.raises(Broken):
        project.upgrade()
    capsys.readouterr()
    cli.main(["migrate-status"])

    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("run ")]
    assert "migrate-report" not in well
    assert lines[0].endswith("; what happened: make migrate-report RUN=3")
    assert [line for line in lines[1:] if "migrate-report" in line] == []


def test_a_version_that_was_only_moved_is_told_as_that(three: Database, project: Project) -> None:
    """To the base too, which is no version: the report says from where, and asks for the drift."""
    command.stamp(project.config(reason="a try"), "base")

    found = read(project)

    assert (found.run.heads_before, found.run.heads_after) == (("001",), ())
    assert "Only the version was moved, from 001 to base: 1 of 1 step done." in markdown.markdown(sections.page(found))
    assert found.next.command == "make migrate-drift"


def test_it_reads_only(three: Database, project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    """A role that may read the guard's schema and nothing else is told all of it; one that may not is told what it lacks."""
    reader = f"reader_{three.name}"
    three.rows(f"CREATE ROLE {reader} LOGIN")
    before = three.rows("SELECT * FROM migration.run ORDER BY id")
    try:
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("DATABASE_URL", three.url.replace("postgres@", f"{reader}@"))
            denied, _, said = ask(capsys)
            three.rows(
                f"GRANT USAGE ON SCHEMA migration TO {reader}; GRANT SELECT ON ALL TABLES IN SCHEMA migration TO {reader}"
            )
            code, text, _ = ask(capsys)
    finally:
        three.rows(f"DROP OWNED BY {reader}; DROP ROLE {reader}")

    assert (denied, code) == (1, 0)
    assert "may not read what runs have written" in said and "GRANT USAGE ON SCHEMA migration" in said
    assert "# Run 2 is done" in text
    assert three.rows("SELECT * FROM migration.run ORDER BY id") == before


def test_a_run_that_failed_says_what_and_where(three: Database, project: Project) -> None:
    """The error stands above the command that follows; the step that failed has its SQLSTATE; what was final stays."""
    with pytest.raises(Broken):
        project.upgrade()

    found = read(project)

    assert (found.run.state, found.run.heads_after) == ("failed", ("002",))
    assert [(one.revision, one.outcome) for one in found.steps] == [("002", "done"), ("003", "failed")]
    assert found.steps[1].sqlstate == "22012"
    assert "division by zero" in found.run.error
    text = Page(html.html(sections.page(found))).text
    assert "It went up from 001 to 002: 1 of 2 steps done." in text
    assert found.next.command.startswith("correct ") and found.next.command.endswith(", then the same call again")
    assert text.index("division by zero") < text.index(found.next.command, text.index("What it said"))


def test_a_run_is_told_from_one_that_was_killed(three: Database, project: Project) -> None:
    """What says running is running where the deployers' lock is held, else it was killed; the step that it was at is named."""
    three.rows(
        "UPDATE migration.run SET state = 'running', finished_at = NULL, to_heads = NULL WHERE id = 2;"
        "DELETE FROM migration.history WHERE run_id = 2;"
        "DELETE FROM migration.event WHERE run_id = 2 AND kind IN ('step-done', 'run-ended')"
    )

    killed = read(project, 2)
    with three.connect() as holder, holder.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s)", (deploy_lock.key("alembic_version", None),))
        running = read(project, 2)
    three.rows("UPDATE migration.run SET state = 'interrupted' WHERE id = 2")
    interrupted = read(project, 2)

    assert [one.run.state for one in (killed, running, interrupted)] == ["killed", "running", "interrupted"]
    assert [one.steps[0].outcome for one in (killed, running, interrupted)] == ["cut off", "running", "cut off"]
    assert running.next.command == "make migrate-status"
    assert killed.next.command == interrupted.next.command == killed.run.command
    assert killed.run.heads_after == ("002",)
    for one in (killed, running, interrupted):
        assert f"Run 2 {sections._SAYS[one.run.state]}" in Page(html.html(sections.page(one))).text
        assert markdown.markdown(sections.page(one)).count("\n## ") >= 6


def test_a_run_of_an_older_version_is_told_as_far_as_it_goes(three: Database, project: Project) -> None:
    """Without events, and without the columns that came later, everything else is there, and it is said what is not known."""
    three.rows(
        "DROP TABLE migration.event; ALTER TABLE migration.run DROP preflight, DROP sequences;"
        "ALTER TABLE migration.history DROP scripts; UPDATE migration.history SET lock_wait_ms = 70; DROP TABLE migration.journal"
    )

    found = read(project, 1)

    assert (found.events, len(found.steps)) == (False, 2)
    assert "it was one of an older version" in markdown.markdown(sections.page(found))


def test_no_run_is_one_sentence(empty: Database, three: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """Without the guard's tables, for a number that is none, and for a run that is not there: exit code 2 and what to type."""
    assert "There is no run 9; the newest is 2.\n\nnext: make migrate-report RUN=2\n" in ask(capsys, "RUN=9")[2]
    assert "RUN is 'x'; it is the number of a run." in ask(capsys, "RUN=x")[2]
    assert "FORMAT is 'pdf'" in ask(capsys, "FORMAT=pdf")[2]
    assert "cannot be written" in ask(capsys, "OUT=/nowhere/at/all.html")[2]
    three.rows("DROP SCHEMA migration CASCADE")

    code, out, said = ask(capsys)

    assert (code, out) == (2, "")
    assert "No run is recorded in this database" in said and said.endswith("next: make migrate-status\n")


def test_what_a_downgrade_kept_is_in_its_report(three: Database, project: Project) -> None:
    """The stash, what it holds with rows, and the command that shows it; the waiver of the header with its reason."""
    three.rows(
        """UPDATE migration.run SET preflight = '{"reason": "of tonight", "accepted": ["backup-old: 31 h"]}' WHERE id = 2"""
    )

    found = read(project, 2)

    assert found.findings[0] == facts.Finding("accepted", "backup-old: 31 h", "of tonight")
    assert [(what, rows) for what, rows, _, _ in found.kept[0].objects] == [("column a.b", 2)]
    assert found.next.command == "make migrate-stash-show ID=1"
    assert facts.Finding("waived", "column-default-volatile", "it is empty", "002", "2999-12-31") in found.findings
    assert "migration_stash_1" in Page(html.html(sections.page(found))).text


def test_who_was_in_the_way_is_told_with_each_try(
    three: Database, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A try that met a lock: who held it, for how long, and on what; the step's locks are those that were seen."""
    project.configure(lock_attempts="2")

    with three.connect(autocommit=False) as holder, holder.cursor() as cursor:
        cursor.execute("SELECT 'a secret' FROM a")
        with pytest.raises(GuardError):
            project.upgrade("002")
        pid = holder.info.backend_pid
    found = read(project)

    assert [(one.attempt, one.sqlstate) for one in found.waits if not one.last] == [(1, "55P03")]
    assert 0 < sum(one.waited or 0 for one in found.waits) <= found.steps[-1].waited + 1
    blocker = found.waits[0].blockers[0]
    assert (blocker.pid, blocker.application, blocker.user, blocker.holds) == (pid, "the test", "postgres", "a")
    assert blocker.state == "idle in transaction" and blocker.age is not None
    page = sections.page(found)
    for text in (Page(html.html(page)).text, markdown.markdown(page).replace("&#95;", "_")):
        assert str(pid) in text and "idle in transaction" in text
        assert "secret" not in text


@pytest.mark.long
def test_a_run_is_looked_at_while_it_waits_and_after_it_was_killed(three: Database, project: Project) -> None:
    """The run's own process: at its step and behind its blocker while it lives; killed, and standing where it was, afterwards."""
    project.configure(lock_attempts="40")

    with three.connect(autocommit=False) as holder, holder.cursor() as cursor:
        cursor.execute("SELECT FROM a")
        shell = subprocess.Popen(
            [sys.executable, "-m", "alembic", "upgrade", "002"], cwd=project.folder, stderr=subprocess.DEVNULL
        )
        until(lambda: three.value("SELECT count(*) FROM migration.event WHERE kind = 'try-failed'") >= 2)
        alive = read(project)
        shell.kill()
        shell.wait()
        lock = deploy_lock.key("alembic_version", None)
        until(lambda: three.rows("SELECT pg_try_advisory_xact_lock(%s)", lock) == [(True,)])
        dead = read(project)
    project.upgrade("002")
    found = read(project, dead.run.id)
    _, total, _ = timeline.rows(found)

    assert (alive.run.state, alive.steps[-1].revision, alive.steps[-1].outcome) == ("running", "002", "running")
    assert alive.waits[0].blockers[0].application == "the test"
    assert (dead.run.state, dead.steps[-1].outcome, dead.run.heads_after) == ("killed", "cut off", ("001",))
    assert dead.next.command == "alembic upgrade 002"
    assert (found.run.state, found.steps, found.next.command) == (
        "interrupted",
        dead.steps,
        "make migrate-report RUN=4",
    )
    assert total < (found.run.ended - found.run.started).total_seconds() * 1000 - 100
    assert "Found dead" in Page(html.html(sections.page(found))).text


@pytest.mark.long
def test_scripts_backfills_and_operations_are_in_the_report(empty: Database, project: Project) -> None:
    """What a data revision runs: its script with masked arguments, its backfill with rows, its operations with their time."""
    project.revision(
        "001", "create_t",
        """op.execute("CREATE TABLE t (id int PRIMARY KEY, n int); INSERT INTO t SELECT generate_series(1, 500)")""",
        'op.execute("DROP TABLE t")',
    )  # fmt: skip
    script = project.folder / "alembic" / "scripts" / "002" / "fill.sql"
    script.parent.mkdir(parents=True)
    script.write_text("UPDATE t SET n = :token::int WHERE id = 1;\n")
    project.revision(
        "002", "fill_t", 'op.run_script("002/fill.sql", arguments={"token": 7})\n'
        'op.backfill("t", set={"n": "filled.id"}, where="filled.n IS NULL")', 'op.execute("SELECT 1")', type="data",
        transaction="none", reversible="lossless",
    )  # fmt: skip
    project.upgrade()

    found = read(project)
    text = Page(html.html(sections.page(found))).text

    assert found.steps[1].parts
    assert [(one.name, one.state, one.rows, one.written) for one in found.backfills] == [("t.n", "done", 500, 499)]
    assert [one.name for one in found.steps[1].scripts] == ["scripts/002/fill.sql"]
    assert "7" not in found.steps[1].scripts[0].arguments
    for told in ("002/fill.sql", "t.n", "in parts"):
        assert told in text


def test_the_schema_before_and_after_is_told_object_by_object(database: Database, planner: Config) -> None:
    """The planner's whole history in one run: fourteen tables came, with their columns; a run back says that they went."""
    found = gather.read(planner, None)

    assert ("table", 0, 14) in found.schema.counts
    steps = next(one for one in found.schema.changes if (one.kind, one.name) == ("table", "public.steps"))
    assert steps.how == "came"
    assert "column title  character varying(255) not null" in steps.parts
    assert {one.how for one in found.schema.changes} == {"came"}
    back = gather.schema.read(_script(planner), ("018",), [_back(found.steps[17])])
    went = {(one.how, one.kind) for one in back.changes if "navigation_chain" in one.name}
    assert went == {("went", "function")}


def _script(config: Config) -> Any:
    from alembic.script import ScriptDirectory

    return ScriptDirectory.from_config(config)


def _back(step: facts.Step) -> facts.Step:
    import dataclasses

    return dataclasses.replace(step, direction="downgrade")


@pytest.fixture
def hostile(three: Database, project: Project) -> facts.Report:
    """Run 2 with everything that somebody else can name made to say what a page must not do."""
    line = f"pid 7 ({HOSTILE}, user {HOSTILE.replace(',', '')}, active, in its transaction for 3 s) holds {HOSTILE}"
    event = {
        "attempt": 1, "waited_ms": 5, "held_ms": 5, "sqlstate": HOSTILE, "blockers": [line, HOSTILE], "notes": [HOSTILE],
        "locks": {HOSTILE: HOSTILE}, "code": HOSTILE, "where": HOSTILE, "weight": HOSTILE, "reason": HOSTILE,
    }  # fmt: skip
    with three.connect() as connection, connection.cursor() as cursor:
        cursor.execute("DELETE FROM migration.event WHERE run_id = 2 AND kind <> 'run-started'")
        for kind in ("finding", "try-failed", "waiting", "step-failed", "step-done", "something-new"):
            cursor.execute(
                "INSERT INTO migration.event (run_id, at, kind, revision, data) VALUES (2, clock_timestamp(), %s, '002', %s)",
                (kind, json.dumps(event)),
            )
        cursor.execute(
            "UPDATE migration.run SET command = %(x)s, who = %(x)s, host = %(x)s, git_commit = %(x)s, error = %(x)s,"
            "state = 'failed', preflight = jsonb_build_object('reason', %(x)s::text, 'accepted',"
            "jsonb_build_array(%(x)s::text)) WHERE id = 2",
            {"x": HOSTILE},
        )
        cursor.execute(
            "UPDATE migration.history SET description = %(x)s, author = %(x)s, error = %(x)s, waivers = ARRAY[%(x)s],"
            "scripts = jsonb_build_array(jsonb_build_object('script', %(x)s::text, 'arguments',"
            "jsonb_build_object(%(x)s::text, 1))) WHERE run_id = 2",
            {"x": HOSTILE},
        )
        cursor.execute("UPDATE migration.stash SET why = %(x)s, archive = %(x)s", {"x": HOSTILE})
        cursor.execute("UPDATE migration.stash_object SET object_name = %s", (HOSTILE,))
        cursor.execute(
            "INSERT INTO migration.journal (version_table, revision, direction, place, operation, target, state, run)"
            " VALUES ('alembic_version', '002', 'downgrade', 1, %(x)s, %(x)s, 'begun', 2)",
            {"x": HOSTILE},
        )
        cursor.execute(
            "INSERT INTO migration.backfill (version_table, revision, direction, name, target, digest, run)"
            " VALUES ('alembic_version', '002', 'downgrade', %(x)s, %(x)s, '', 2)",
            {"x": HOSTILE},
        )
    found = read(project, 2)
    change = facts.Change("came", HOSTILE, HOSTILE, (HOSTILE, "```"))
    return facts.Report(
        **{
            **vars(found),
            "schema": facts.Schema((("table", 0, 1),), (change, facts.Change("went", "table", HOSTILE, ()))),
        }
    )


def test_nothing_in_a_page_is_more_than_text(hostile: facts.Report) -> None:
    """No element, attribute or address comes from what somebody else has named; all of it is there to be read."""
    written = html.html(sections.page(hostile))

    page = Page(written)

    allowed = {
        "html", "head", "meta", "title", "style", "body", "a", "header", "p", "h1", "dl", "div", "dt", "dd", "nav", "ul", "li",
        "main", "section", "h2", "pre", "code", "table", "caption", "thead", "tbody", "tr", "th", "td", "figure", "figcaption",
        "span",
        "ol", "svg", "rect", "details", "summary", "b", "footer",
    }  # fmt: skip
    assert {tag for tag, _ in page.elements} <= allowed
    assert {
        tag for tag, found in page.elements if {"src", "style", "onerror", "onclick", "srcset"} & found.keys()
    } == set()
    assert {found["href"] for tag, found in page.elements if tag == "a"} <= {
        f"#{found.get('id')}" for _, found in page.elements
    }
    assert written.count("evil.example") >= 40
    assert "\u202e" not in written and "\\u202e" in page.text
    assert page.text.count("<script>alert(1)</script>") >= 20


def test_nothing_in_markdown_is_more_than_text(hostile: facts.Report) -> None:
    """Outside of fences no name begins a tag, a link, a heading or a cell; a fence is not closed by what is in it."""
    written = markdown.markdown(sections.page(hostile))

    outside, fence = [], ""
    for line in written.split("\n"):
        opened = re.match("(`{3,})", line)
        if fence:
            fence = "" if line == fence else fence
        elif opened:
            fence = opened[1]
        else:
            outside.append(line)
    assert fence == ""
    assert {
        line for line in outside if "<" in line and not re.fullmatch("</?details>|<summary>[^<]*</summary>", line)
    } == set()
    assert [line for line in outside if "](" in line or "evil.example" in line or "# h" in line.lstrip("#")] == []
    tables = [list(lines) for is_row, lines in itertools.groupby(outside, lambda line: line.startswith("|")) if is_row]
    assert len(tables) > 5
    assert [rows for rows in tables if len({row.count("|") for row in rows}) > 1] == []


def test_a_password_is_in_no_form(three: Database, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither that of the connection, nor one that stands in a command, an error or an argument."""
    monkeypatch.setenv("DATABASE_URL", three.url.replace("postgres@", "postgres:hunter%402@"))
    with three.connect() as connection, connection.cursor() as cursor:
        cursor.execute(
            "UPDATE migration.run SET command = 'alembic -x url=postgresql://u:s3cret@h/d',"
            "error = 'as hunter@2: password=s3cret no'"
        )
        cursor.execute("UPDATE migration.history SET error = 'hunter%402 and postgresql://u:s3cret@h/d'")

    forms = [report.write(project.config(), 1, form) for form in ("markdown", "html", "json")]

    assert [form for form in forms if "s3cret" in form or "hunter" in form] == []


def test_the_page_is_in_order_for_who_does_not_see_it(three: Database, project: Project) -> None:
    """Headings go down by one, every id is there once, every table has a caption, scopes, and a box that can be focused."""
    page = Page(report.write(project.config(), 2, "html"))

    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    ids = [found["id"] for _, found in page.elements if "id" in found]
    labels = [found["aria-labelledby"] for _, found in page.elements if "aria-labelledby" in found]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert len(ids) == len(set(ids))
    assert set(labels) <= set(ids)
    tags = [tag for tag, _ in page.elements]
    assert tags.count("table") == tags.count("caption") == tags.count("thead") > 2
    assert all("scope" in found for tag, found in page.elements if tag == "th")
    assert {tag for tag in ("header", "nav", "main", "footer") if tags.count(tag) == 1} == {
        "header",
        "nav",
        "main",
        "footer",
    }
    assert all(found.get("aria-hidden") == "true" for tag, found in page.elements if tag == "svg")


def test_the_policy_names_the_style_and_lets_nothing_else_in(three: Database, project: Project) -> None:
    """A strict Content-Security-Policy before anything that it holds for; no address in the page or its style."""
    written = report.write(project.config(), 2, "html")

    page = Page(written)

    policy = next(
        found["content"] for tag, found in page.elements if found.get("http-equiv") == "Content-Security-Policy"
    )
    style = re.search("<style>(.*?)</style>", written, re.DOTALL)
    assert style is not None and policy == html.policy(style[1])
    assert policy is not None and policy.startswith("default-src 'none'; style-src 'sha256-")
    assert [tag for tag, _ in page.elements].index("style") > 2
    assert re.findall(r"https?:|url\(|@import|//", written) == []


def test_what_is_no_python_is_named_for_the_wheel() -> None:
    """Template and style are installed with the package: every file of it that is no Python is."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    named = project["tool"]["setuptools"]["package-data"]["mcp_planner_schema"]
    package = ROOT / "mcp_planner_schema"

    others = {path for path in package.rglob("*.*") if path.suffix not in (".py", ".pyc")}

    assert {path for glob in named for path in package.glob(glob)} == others
    assert {path.suffix for path in others} >= {".mako", ".css"}
