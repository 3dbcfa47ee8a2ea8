"""The templates of deploy/: read by the tools that know their form, where those are here, and their commands really run."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import textwrap
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, Database
from tests.test_docs import clone  # noqa: F401  # fixture

DEPLOY = ROOT / "deploy"
ACTION, GITLAB, JOB = DEPLOY / "github-action.yml", DEPLOY / "gitlab-ci.yml", DEPLOY / "kubernetes-job.yaml"
PLAN = """[{"id": 1, "body": "hello"}, {"id": 7, "body": "<!-- migrate-plan -->\\nold"}]"""


def checked(*command: str, cwd: Path = ROOT) -> None:
    """Run a checker from the PATH; the test is skipped, with the reason, where it is not here."""
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not in the PATH (docs/7-testing.md says where it comes from)")
    ended = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


# --- their form -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", sorted(ROOT.glob("scripts/*.sh")), ids=lambda path: path.name)
def test_shellcheck_has_nothing_to_say(script: Path) -> None:
    """Each script passes shellcheck, at its strictest."""
    checked("shellcheck", "--severity=style", str(script))


def test_the_action_is_one(tmp_path: Path) -> None:
    """actionlint, with shellcheck inside, and GitHub's schema know every key, context and action of it."""
    workflows = tmp_path / ".github" / "workflows"
    workflows.mkdir(parents=True)
    shutil.copy(ACTION, workflows)
    checked("actionlint", str(workflows / ACTION.name), cwd=tmp_path)
    checked("check-jsonschema", "--builtin-schema", "vendor.github-workflows", str(ACTION))


def test_the_pipeline_is_one() -> None:
    """GitLab's schema knows every key of it."""
    checked("check-jsonschema", "--builtin-schema", "vendor.gitlab-ci", "--data-transform", "gitlab-ci", str(GITLAB))


def test_the_job_is_one(tmp_path: Path) -> None:
    """Kubernetes' own schema knows every field of it, and none is unknown. The checker knows no name that is generated."""
    named = tmp_path / JOB.name
    named.write_text(JOB.read_text().replace("generateName: planner-migrate-", "name: planner-migrate"))
    checked("kubernetes-validate", "--strict", str(named))


def test_what_a_template_may_do_is_the_least() -> None:
    """No permission by itself, one to read and one to comment, in jobs apart; every action by its major version."""
    text = ACTION.read_text()

    assert re.search(r"^permissions: \{\}$", text, re.MULTILINE)
    assert re.findall(r"^ +(contents|pull-requests|issues|id-token|actions): (\w+)$", text, re.MULTILINE) == [
        ("contents", "read"), ("pull-requests", "write"),
    ]  # fmt: skip
    assert re.findall(r"uses: (\S+)", text)
    assert [one for one in re.findall(r"uses: (\S+)", text) if not re.fullmatch(r"actions/[a-z-]+@v\d+", one)] == []


def test_the_job_stops_gently_and_is_not_killed_for_waiting() -> None:
    """A deadline, no liveness and no startup probe, a grace period longer than a rollback, and nothing run as root."""
    text = JOB.read_text()
    said = dict(re.findall(r"^ +(\w+): (\S+)$", text, re.MULTILINE))

    assert int(said["activeDeadlineSeconds"]) > int(said["terminationGracePeriodSeconds"]) >= 60
    assert not re.search(r"^ +(liveness|startup)Probe:", text, re.MULTILINE)
    assert re.search(r"^ +readinessProbe:\n +httpGet:\n +path: /healthz", text, re.MULTILINE)
    assert said["restartPolicy"] == "Never"
    assert (said["runAsNonRoot"], said["allowPrivilegeEscalation"], said["readOnlyRootFilesystem"]) == (
        "true", "false", "true",
    )  # fmt: skip
    assert re.search(r"values: \[1, 2, 3\]", text) and "75" not in re.findall(r"values: \[(.*)\]", text)[0]


# --- their commands ---------------------------------------------------------------------------------------------------


def scripts(file: Path) -> list[str]:
    """The commands of a workflow or pipeline, in their order: ``run:`` of GitHub, the items of ``script:`` of GitLab."""
    found, lines = [], file.read_text().splitlines()
    inside = file == ACTION
    for number, line in enumerate(lines):
        if file == GITLAB and re.match(r" {2}\w", line):
            inside = line.strip() in ("script:", "before_script:")
        begin = re.match(r" +(?:run: |- )(.*)" if file == GITLAB else r" +run: (.*)", line)
        if not inside or begin is None:
            continue
        if begin[1] != "|":
            found.append(begin[1].split(" # ")[0])
            continue
        indent = len(line) - len(line.lstrip()) + 2
        block = []
        for more in lines[number + 1 :]:
            if more.strip() and len(more) - len(more.lstrip()) < indent:
                break
            block.append(more)
        found.append(textwrap.dedent("\n".join(block)))
    return found


@pytest.fixture
def branch(clone: Path, empty: Database) -> Iterator[tuple[Path, dict[str, str]]]:  # noqa: F811
    """A clone whose last commit brings a revision, as a pull request does; and what a runner sets."""
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org"]

    def run(*command: str) -> str:
        return subprocess.run(command, cwd=clone, capture_output=True, text=True, check=True).stdout.strip()

    run("git", "init", "-q", "-b", "main")
    (clone / ".git" / "info" / "exclude").write_text(".venv\n")  # a link here, a folder on a runner
    run("git", "add", "-A")
    run(*git, "commit", "-qm", "before")
    base = run("git", "rev-parse", "HEAD")
    number = max(path.name for path in (clone / "alembic" / "versions").glob("*.py"))[:3]
    new = f"{int(number) + 1:03}"
    (clone / "alembic" / "versions" / f"{new}_create_ci_notes.py").write_text(REVISION.format(new=new, old=number))
    run(*git, "add", "-A")
    run(*git, "commit", "-qm", "a revision")
    temporary = clone.parent / f"{clone.name}-runner"
    temporary.mkdir()
    given = {
        **os.environ, "BASE": base, "CI_MERGE_REQUEST_DIFF_BASE_SHA": base, "RUNNER_TEMP": str(temporary),
        "GITHUB_OUTPUT": str(temporary / "output"), "GITHUB_STEP_SUMMARY": str(temporary / "summary"),
        "DATABASE_URL": empty.url, "PLANNER_ENV": "development",
    }  # fmt: skip
    try:
        yield clone, given
    finally:
        shutil.rmtree(temporary)
        shutil.rmtree(f"{clone}.base", ignore_errors=True)


REVISION = '''"""Create ci_notes.

Version: {new}
Description: A table that a pull request brings, for a test
Author: A Tester <tester@example.org>
Date: 2026-01-31
Dependencies: {old}
Type: schema
Phase: expand
Transaction: single
Reversible: stash
"""

import sqlalchemy as sa
from alembic import op

from mcp_planner_schema.operations import expect

revision = "{new}"
down_revision = "{old}"
branch_labels = None
depends_on = None

expectations = [expect.table("ci_notes")]


def upgrade() -> None:
    op.create_table("ci_notes", sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True))


def downgrade() -> None:
    op.drop_table("ci_notes")
'''


def bash(text: str, folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """As a runner does it."""
    return subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", text], cwd=folder, env=environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("file", [ACTION, GITLAB], ids=["github", "gitlab"])
def test_a_pull_request_is_linted_planned_and_rehearsed(file: Path, branch: tuple[Path, dict[str, str]]) -> None:
    """Every command of the job that has the code is run, in its order; models that lack the new table end it at the check."""
    folder, environment = branch
    ran = []

    for text in scripts(file):
        if "apt-get" in text:
            continue  # the image's
        ended = bash(text, folder, environment)
        ran.append((text.split()[0], ended.returncode))
        if "alembic check" in text:
            assert "ci_notes" in ended.stderr + ended.stdout  # a table that no model has
            break
        assert ended.returncode == 0, f"{text}\n{ended.stdout}{ended.stderr}"

    plan = (folder / "plan.md").read_text()
    assert len(ran) >= 5
    assert "ci_notes" in plan
    assert plan.count("<summary>") == 1  # what the target branch has is not planned again
    number = "0" if file == ACTION else (folder / "plan.code").read_text().strip()
    assert number in ("0", "4")


def test_githubs_comment_is_updated_and_not_repeated(tmp_path: Path) -> None:
    """With no comment of ours one is posted; with one, that is patched; a plan that is refused ends red."""
    write, judge = scripts(ACTION)[-2:]
    gh = tmp_path / "gh"
    gh.write_text('#!/bin/sh\necho "$*" >>"$CALLS"\ncase "$*" in *--paginate*) cat "$THERE";; esac\n')
    gh.chmod(0o755)
    (tmp_path / "plan.md").write_text("<!-- migrate-plan -->\nnew")
    calls = tmp_path / "calls"
    environment = {
        **os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "CALLS": str(calls), "THERE": str(tmp_path / "there"),
        "GITHUB_REPOSITORY": "o/r", "NUMBER": "5",
    }  # fmt: skip
    told = {}
    for there in ("", "71\n72\n"):
        calls.unlink(missing_ok=True)
        (tmp_path / "there").write_text(there)
        assert bash(write, tmp_path, environment).returncode == 0
        told[there] = calls.read_text().splitlines()[-1]
    codes = [bash(judge, tmp_path, {**environment, "REFUSED": code}).returncode for code in ("0", "4", "3", "1")]

    assert told[""] == "api --method POST repos/o/r/issues/5/comments -F body=@plan.md --silent"
    assert told["71\n72\n"] == "api --method PATCH repos/o/r/issues/comments/71 -F body=@plan.md --silent"
    assert codes == [0, 0, 3, 1]


class _Notes(BaseHTTPRequestHandler):
    """GitLab's notes of one merge request, as far as the template asks for them."""

    there: str = "[]"
    asked: list[tuple[str, str, str, str]] = []  # noqa: RUF012

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        type(self).asked.append((self.command, self.path, str(self.headers["PRIVATE-TOKEN"]), body))
        self.send_response(200)
        self.end_headers()
        self.wfile.write((self.there if self.command == "GET" else "{}").encode())

    do_GET = do_POST = do_PUT = _answer

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing."""


def test_gitlabs_note_is_updated_and_not_repeated(tmp_path: Path) -> None:
    """The note with our mark is put, else one is posted; the token is in a header and on no command line."""
    (tmp_path / "plan.md").write_text("the plan")
    (tmp_path / "plan.code").write_text("0\n")
    shutil.copytree(DEPLOY, tmp_path / "deploy")
    server = HTTPServer(("127.0.0.1", 0), _Notes)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    environment = {
        **os.environ, "CI_API_V4_URL": f"http://127.0.0.1:{server.server_port}/api/v4", "CI_PROJECT_ID": "3",
        "CI_MERGE_REQUEST_IID": "5", "PLANNER_COMMENT_TOKEN": "t0ken", "no_proxy": "*",
    }  # fmt: skip
    write, judge = scripts(GITLAB)[-2:]
    done = {}
    try:
        for there in ("[]", PLAN):
            _Notes.there, _Notes.asked = there, []
            assert bash(write, tmp_path, environment).returncode == 0
            done[there] = _Notes.asked[-1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

    notes = "/api/v4/projects/3/merge_requests/5/notes"
    assert done["[]"][:3] == ("POST", notes, "t0ken")
    assert done[PLAN][:3] == ("PUT", f"{notes}/7", "t0ken")
    assert json.loads(done[PLAN][3])["body"] == "<!-- migrate-plan -->\nthe plan"
    assert "t0ken" not in write
    assert bash(judge, tmp_path, environment).returncode == 0


# --- pre-commit -------------------------------------------------------------------------------------------------------

HOOKS = ROOT / ".pre-commit-hooks.yaml"


def test_the_hooks_entry_is_a_target() -> None:
    """What pre-commit would run is a target of make, and takes no file names."""
    text = HOOKS.read_text()
    (entry,) = re.findall(r"^  entry: make (\S+)$", text, re.MULTILINE)

    assert re.search(rf"^{entry}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert "pass_filenames: false" in text


@pytest.mark.long
def test_pre_commit_runs_the_hook(branch: tuple[Path, dict[str, str]]) -> None:
    """pre-commit itself takes the hook from the repository and judges; a revision without a header ends it."""
    folder, environment = branch
    if shutil.which("pre-commit") is None:
        pytest.skip("pre-commit is not in the PATH (docs/7-testing.md says where it comes from)")
    runner = Path(environment["RUNNER_TEMP"])
    tried = ["pre-commit", "try-repo", str(folder), "migrate-validate", "--all-files"]
    environment["PRE_COMMIT_HOME"] = str(runner / "home")

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(tried, cwd=folder, env=environment, capture_output=True, text=True, check=False)

    good = run()
    file = next(folder.glob("alembic/versions/*_create_ci_notes.py"))
    file.write_text(file.read_text().replace("Reversible: stash\n", ""))
    bad = run()

    assert good.returncode == 0, good.stdout + good.stderr
    assert bad.returncode != 0
    assert "header-field-missing" in bad.stdout
