"""Post-checks: a revision's expectations as one DO block that raises, inside the step's transaction."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlalchemy import Connection

CATALOG_PATH = "pg_catalog, public, pg_temp"
"""The search_path for questions to the catalog: types and defaults are shown the same whatever a session's own path is."""

SYSTEM_PATH = "pg_catalog, pg_temp"
"""The search_path where only the catalog is meant. Left out, pg_temp would come first, with a revision's temporary pg_class."""

_PINNED = "mcp_planner_guard.pinned"
"""Where the settings of :func:`pinned` stand in ``connection.info`` meanwhile."""

# SQLSTATEs that are no answer to a query: a lock that was not granted (lock_not_available, deadlock_detected: the step is
# tried again), and the classes of an end by somebody's word, statement_timeout too, and of a connection that is gone.
_NO_LOCK = ("55P03", "40P01")
_ENDED = ("57", "08", "")


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


def identifier(name: str) -> str:
    """A quoted SQL identifier. To be sent by :func:`execute`: a percent sign in it is not doubled."""
    return '"' + name.replace('"', '""') + '"'


def expectations(module: Any, *, upgrade: bool) -> list[Expectation]:
    """What to check after a step of ``module``: ``expectations``, or after a downgrade ``expectations_down`` where given.

    Without ``expectations_down``, each reversible expectation is turned around.
    """
    stated: Sequence[Expectation] = getattr(module, "expectations", ())
    if upgrade:
        return list(stated)
    if hasattr(module, "expectations_down"):
        return list(module.expectations_down)
    return [opposite(one) for one in stated if one.reversible]


def opposite(one: Expectation) -> Expectation:
    """The expectation that holds exactly when ``one`` does not."""
    says = one.says.removeprefix("no ") if one.absent else f"no {one.says}"
    return dataclasses.replace(one, says=says, holds=f"({one.holds}) IS NOT TRUE", absent=not one.absent)


def compile_block(revision: str, wanted: Sequence[Expectation], *, upgrade: bool) -> str:
    """One DO block that raises ``Migration failed: …`` (``Rollback failed: …``) naming all that does not hold.

    The same text is run online and written by ``--sql``. It reads only. The catalog is asked under a search_path of its
    own, a query under the step's; the step's is in force again at the end.
    """
    failed = "Migration failed" if upgrade else "Rollback failed"
    catalog = "".join(_check(one) for one in wanted if one.catalog)
    queries = "".join(_asked(one) for one in wanted if not one.catalog)
    body = (
        # Columns of the author's queries may be named like the variables here.
        "\n#variable_conflict use_column\n"
        "DECLARE\n  problems pg_catalog.text[] := '{}';\n"
        "  own_path pg_catalog.text := pg_catalog.current_setting('search_path');\nBEGIN\n"
        f"  PERFORM pg_catalog.set_config('search_path', '{CATALOG_PATH}', true);\n"
        f"{catalog}"
        "  PERFORM pg_catalog.set_config('search_path', own_path, true);\n"
        f"{queries}"
        "  IF pg_catalog.cardinality(problems) > 0 THEN\n"
        "    RAISE EXCEPTION USING ERRCODE = 'raise_exception', MESSAGE =\n"
        f"      {literal(f'{failed}: revision {revision}: ')} || pg_catalog.array_to_string(problems, '; ');\n"
        "  END IF;\nEND\n"
    )
    return do_block(body)


def do_block(body: str) -> str:
    """``DO`` with a dollar quote that nothing inside can end."""
    tag = "check"
    while f"${tag}$" in body:
        tag += "_"
    return f"DO ${tag}${body}${tag}$"


def _check(one: Expectation) -> str:
    return (
        f"  IF ({one.holds}) IS NOT TRUE THEN\n"
        f"    problems := pg_catalog.array_append(problems, {literal('expected ' + one.says + ', found ')} || coalesce((\n"
        f"      {one.found}\n"
        f"    ), 'nothing'));\n"
        f"  END IF;\n"
    )


def _asked(one: Expectation) -> str:
    # A query may fail of itself, because its table is missing; that must not hide what else is wrong. A lock that was not
    # granted is another matter: the step is tried again.
    return (
        f"  BEGIN\n{_check(one)}"
        "  EXCEPTION\n"
        "    WHEN lock_not_available OR deadlock_detected THEN RAISE;\n"
        "    WHEN OTHERS THEN problems := pg_catalog.array_append(problems,\n"
        f"      {literal('expected ' + one.says + ', found an error: ')} || SQLERRM);\n"
        "  END;\n"
    )


def unmet(connection: Connection, wanted: Sequence[Expectation]) -> list[tuple[Expectation, str]]:
    """The expectations that do not hold, each with what was found. A query's own error is an answer like any other.

    Each is asked in a savepoint, which is rolled back. A lock that was not granted, and the end of the query or of the
    connection by somebody's word, are raised.
    """
    from sqlalchemy.exc import DBAPIError

    found = []
    for one in wanted:
        execute(connection, "SAVEPOINT guard_asked")
        asked = f"SELECT CASE WHEN ({one.holds}) IS NOT TRUE THEN coalesce((\n{one.found}\n), 'nothing') END"
        try:
            answer = execute(connection, asked).scalar_one()
        except DBAPIError as error:
            code = getattr(error.orig, "pgcode", None) or ""
            if code in _NO_LOCK or code[:2] in _ENDED:
                raise
            answer = f"an error: {error.orig.diag.message_primary}"  # type: ignore[union-attr]  # it has a SQLSTATE
        execute(connection, "ROLLBACK TO SAVEPOINT guard_asked; RELEASE SAVEPOINT guard_asked")
        if answer is not None:
            found.append((one, answer))
    return found


def already_true(connection: Connection, wanted: Sequence[Expectation]) -> list[Expectation]:
    """The expectations that hold before the upgrade. Reads the catalog in the step's transaction, takes no lock."""
    asked = [one for one in wanted if one.catalog]
    if not asked:
        return []
    with pinned(connection, search_path=CATALOG_PATH):
        row = execute(connection, "SELECT " + ", ".join(f"({one.holds})" for one in asked)).one()
    return [one for one, holds in zip(asked, row, strict=True) if holds]


@contextmanager
def pinned(connection: Connection, **settings: str) -> Iterator[None]:
    """Settings for a part of the running transaction; the former values come back at its end.

    After an exception they do not: the transaction, or the savepoint around this, is rolled back then. What stands as it should
    by a :func:`pinned` around this one is not sent again; nothing of a revision's may run inside.
    """
    around: dict[str, str] = connection.info.get(_PINNED, {})
    settings = {name: value for name, value in settings.items() if around.get(name) != value}
    if not settings:
        yield
        return
    names = list(settings)
    asked = ", ".join(f"pg_catalog.current_setting(%s) AS s{place}" for place in range(len(names)))
    setting = ", ".join(["pg_catalog.set_config(%s, %s, true)"] * len(names))
    before = connection.exec_driver_sql(  # in one, it is done often; MATERIALIZED: all are read before the first is set
        f"WITH before AS MATERIALIZED (SELECT {asked}) SELECT before.*, {setting} FROM before",
        (*names, *(part for pair in settings.items() for part in pair)),
    ).one()[: len(names)]
    info = connection.info  # asked now: a connection that is gone has none
    info[_PINNED] = around | settings
    try:
        yield
    finally:
        info[_PINNED] = around
    connection.exec_driver_sql(
        f"SELECT {setting}", tuple(part for pair in zip(names, before, strict=True) for part in pair)
    )


def execute(connection: Connection, sql: str) -> Any:
    """Run text as it is: no bind parameters, so that % and : in it mean themselves."""
    # For this statement only: Connection.execution_options() would change the connection, and every % after it be doubled.
    return connection.exec_driver_sql(sql, execution_options={"no_parameters": True})
