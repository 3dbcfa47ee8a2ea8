"""Who is called with each step: what alembic.ini and the caller name, in the step's transaction and before it."""

from __future__ import annotations

from typing import Any

import pytest

from mcp_planner_schema.guard.findings import WrongUse
from tests.conftest import Database, Project


@pytest.mark.parametrize("name", ["nothing.at:all", "mcp_planner_schema.guard:nothing", "no_function"])
def test_a_name_that_cannot_be_called_is_told(name: str, project: Project, empty: Database) -> None:
    """It would be one that is never called: refused before a step begins, with the line to correct."""
    project.configure(on_version_apply=name)
    project.revision("001", "create_t1", "op.execute('CREATE TABLE t1 ()')", "op.drop_table('t1')")

    with pytest.raises(WrongUse, match=f"on_version_apply = {name}"):
        project.upgrade()

    assert empty.value("SELECT to_regclass('t1')") is None


class _Asked:
    """Notes what it is told; refuses a revision, before its step or with it."""

    def __init__(self, refuses: str, *, before: bool) -> None:
        self.refuses, self.early, self.seen = refuses, before, list[str]()

    def before(self, ctx: Any, beside: Any, step: Any) -> None:
        """Called when nothing of the step is done."""
        self.seen.append(f"before {step.info.up_revision_id}")
        if self.early and step.info.up_revision_id == self.refuses:
            raise WrongUse("not this one", "make help")

    def __call__(self, ctx: Any, step: Any, heads: Any, run_args: Any) -> None:
        """Called in the step's transaction."""
        self.seen.append(
            f"{step.up_revision_id} {ctx.connection.exec_driver_sql('SELECT count(*) FROM told').scalar()}"
        )
        ctx.connection.exec_driver_sql(f"INSERT INTO told VALUES ('{step.up_revision_id}')")
        if step.up_revision_id == self.refuses:
            raise WrongUse("not this one", "make help")


@pytest.mark.parametrize("early", [True, False])
def test_what_it_writes_is_the_steps_and_what_it_raises_undoes_it(
    early: bool, project: Project, empty: Database
) -> None:
    """In the transaction of each step; a refusal leaves neither the step nor what was written with it."""
    empty.rows("CREATE TABLE told (revision text)")
    for number in (1, 2):
        project.revision(f"{number:03}", f"create_t{number}", f'op.execute("CREATE TABLE t{number} ()")',
                         f'op.drop_table("t{number}")')  # fmt: skip
    asked = _Asked("002", before=early)

    with pytest.raises(WrongUse, match="not this one"):
        project.upgrade(on_version_apply=asked)

    assert asked.seen == ["before 001", "001 0", "before 002", *([] if early else ["002 1"])]
    assert empty.rows("SELECT revision FROM told") == [("001",)]
    assert empty.value("SELECT version_num FROM alembic_version") == "001"
    assert empty.value("SELECT to_regclass('t2')") is None
