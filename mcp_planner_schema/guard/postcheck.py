"""Post-checks: a revision's expectations as one DO block that raises, inside the step's transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlalchemy import Connection


@dataclass(frozen=True)
class Expectation:
    """One thing that is true after the upgrade and, if ``reversible``, no longer true after the downgrade.

    ``holds`` is a SQL expression of type boolean, ``found`` one of type text that tells what is there instead; both
    must be executable whether or not the object exists. ``catalog`` says that they read the catalog only. ``subject`` names
    the object and ``within`` the one it is part of, so that a later revision's word about it counts instead.
    """

    says: str
    holds: str
    found: str
    reversible: bool = True
    catalog: bool = True
    subject: str = ""
    within: str = ""
    absent: bool = False


def literal(text: str) -> str:
    """A SQL string literal that means ``text`` whatever standard_conforming_strings is set to."""
    if "\0" in text:
        raise ValueError("PostgreSQL has no text with a NUL byte")
    quoted = text.replace("'", "''")
    return "E'" + quoted.replace("\\", "\\\\") + "'" if "\\" in quoted else f"'{quoted}'"


def expectations(module: Any, *, upgrade: bool) -> list[Expectation]:
    """What to check after a step of ``module``: ``expectations``, or after a downgrade ``expectations_down`` where given.

    Without ``expectations_down``, each reversible expectation is turned around.
    """
    stated: Sequence[Expectation] = getattr(module, "expectations", ())
    if upgrade:
        return list(stated)
    if hasattr(module, "expectations_down"):
        return list(module.expectations_down)
    return [
        Expectation(f"no {one.says}", f"({one.holds}) IS NOT TRUE", one.found, catalog=one.catalog)
        for one in stated
        if one.reversible
    ]


def compile_block(revision: str, wanted: Sequence[Expectation], *, upgrade: bool) -> str:
    """One DO block that raises ``Migration failed: …`` (``Rollback failed: …``) naming all that does not hold.

    The same text is run online and written by ``--sql``. It reads only. ``search_path`` is the step's own.
    """
    failed = "Migration failed" if upgrade else "Rollback failed"
    checks = "\n".join(
        f"  IF ({one.holds}) IS NOT TRUE THEN\n"
        f"    problems := problems || (\n"
        f"      {literal('expected ' + one.says + ', found ')} || coalesce((\n"
        f"        {one.found}\n"
        f"      ), 'nothing'));\n"
        f"  END IF;"
        for one in wanted
    )
    body = (
        "\nDECLARE\n  problems text[] := '{}';\nBEGIN\n"
        f"{checks}\n"
        "  IF cardinality(problems) > 0 THEN\n"
        "    RAISE EXCEPTION USING ERRCODE = 'raise_exception', MESSAGE =\n"
        f"      {literal(f'{failed}: revision {revision}: ')} || array_to_string(problems, '; ');\n"
        "  END IF;\nEND\n"
    )
    tag = "check"
    while f"${tag}$" in body:
        tag += "_"
    return f"DO ${tag}${body}${tag}$"


def already_true(connection: Connection, wanted: Sequence[Expectation]) -> list[Expectation]:
    """The expectations that hold before the upgrade. Reads the catalog in the step's transaction, takes no lock."""
    asked = [one for one in wanted if one.catalog]
    if not asked:
        return []
    row = execute(connection, "SELECT " + ", ".join(f"({one.holds})" for one in asked)).one()
    return [one for one, holds in zip(asked, row, strict=True) if holds]


def execute(connection: Connection, sql: str) -> Any:
    """Run text as it is: no bind parameters, so that % and : in it mean themselves."""
    return connection.execution_options(no_parameters=True).exec_driver_sql(sql)
