"""What Alembic's own commands see and write: autogenerate leaves the guard's tables alone, new revisions get a header."""

from __future__ import annotations

import functools
import os
import re
import subprocess
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard import committing
from mcp_planner_schema.guard.findings import WrongUse
from mcp_planner_schema.guard.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy import Connection

_PARTITIONS = """
SELECT n.nspname, c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relispartition AND c.relkind IN ('r', 'p')
"""
KINDS = ("schema", "data", "function")
_FORM = "make migrate-create NAME=add_complexity_analysis"

_MEANT = {
    "delete": "drop", "make": "create", "new": "add", "insert": "seed", "populate": "fill", "change": "alter", "update": "alter",
    "modify": "alter", "fix": "alter",
}  # fmt: skip

REVISERS: list[Callable[[Any, Any, list[Any]], None]] = []
"""What else has a say in a new revision, called as ``process_revision_directives`` is: the operations, once they are imported."""


def include_name(connection: Connection | None, schema: str, theirs: Any) -> Callable[..., bool]:
    """Alembic's ``include_name``: without the guard's schemas, other tools' tables and partitions, which are data, not schema."""
    left_out: set[tuple[str, str]] | None = None

    def included(name: str | None, kind: str, parents: dict[str, Any]) -> bool:
        nonlocal left_out
        if kind == "schema" and name is not None and name.startswith("migration"):
            return False
        if kind == "table" and connection is not None:
            if left_out is None:
                from mcp_planner_schema.guard.fingerprint import other_tools

                left_out = {(row[0], row[1]) for row in connection.exec_driver_sql(_PARTITIONS)}
                left_out |= other_tools.there(connection, schema)
            if (parents.get("schema_name") or "public", name) in left_out:
                return False
        return bool(theirs(name, kind, parents)) if theirs else True

    return included


def new_revision(
    context: Any, settings: Settings, options: dict[str, Any], say: Callable[[str], None]
) -> Callable[..., None]:
    """Alembic's ``process_revision_directives``: the next number, and what the template's header needs.

    Reads git's configuration; writes nothing. ``say`` is told what the author has to know of the header.
    Raises :class:`WrongUse` for a name that could not be a revision's.
    """
    theirs = options.get("process_revision_directives")

    def prepare(migration: Any, revision: Any, directives: list[Any]) -> None:
        if theirs:
            theirs(migration, revision, directives)
        for revise in REVISERS:
            revise(migration, revision, directives)
        config, arguments = context.config, migration.opts.get("template_args")
        if settings.headers != "required" or not directives or arguments is None or is_check(config, directives[0]):
            return
        script = directives[0]
        given = {**_asked(context), **config.attributes.get("new_revision", {})}
        kind = given.get("type") or "schema"
        if kind not in KINDS:
            raise WrongUse(f"TYPE is {kind!r}; a revision is one of {', '.join(KINDS)}.", f"{_FORM} TYPE=schema")
        number = next_number(migration.script)
        if getattr(config.cmd_opts, "rev_id", None) not in (None, number):
            raise WrongUse(f"The next revision is {number}, not {config.cmd_opts.rev_id}.", _FORM)
        _name(directives, number, settings)
        # A function or trigger is a file; what autogenerate has found is none.
        empty = all(found.is_empty() for found in script.upgrade_ops_list)
        files, rows = kind == "function" and empty, kind == "data" and empty
        transactions = {one.rev_id: "none" for one in directives if rows or _commits(one)}
        arguments.update(
            author=author(given.get("author", "")), kind=kind, files=files, rows=rows, transactions=transactions
        )
        if given.get("format") == "sql":
            arguments.update(files=False, rows=False, stem=functools.partial(_stem, migration.script))
            arguments["transactions"] = {}  # whether its SQL needs one is for who writes it
        elif not files and len(transactions) < len(directives):
            say(committing.EXPLAINED)
        for note in arguments.pop("notes", ()):
            say(f"{note} See the comments in the new revision.")

    return prepare


def _name(scripts: Sequence[Any], number: str, settings: Settings) -> None:
    """Numbers and names; each revision follows the one before it."""
    for place, script in enumerate(scripts):
        script.rev_id = f"{int(number) + place:0{len(number)}}"
        script.message = _title(script.message, script.rev_id, settings)
        if place:
            script.head = scripts[place - 1].rev_id


def _commits(script: Any) -> bool:
    containers = (*script.upgrade_ops_list, *script.downgrade_ops_list)
    return any(committing.commits(one) for container in containers for one in container.ops)


def _stem(script: Any, number: str, message: str, date: Any) -> str:
    """What Alembic calls the file of a new revision, without its ending."""
    path = script._rev_path("", number, message, date)  # nobody else knows file_template; a test holds it to this
    return str(path).removesuffix(".py")


def in_docstring(text: str) -> str:
    """``text`` written so that Python reads it back from a docstring in three double quotes, on one line."""
    line = " ".join(text.split()).encode("utf-8", "replace").decode()
    return line.replace("\\", "\\\\").replace('"""', r"\"\"\"")


def _title(message: str | None, number: str, settings: Settings) -> str:
    """The name as a sentence. Raises :class:`WrongUse` where the file could not be named after it."""
    from mcp_planner_schema.guard import judge

    words = " ".join((message or "").replace("_", " ").split())
    slug = "_".join(re.findall(r"[^\W_]+", words)).lower()  # as Alembic makes it
    match = judge.FILE_NAME.fullmatch(f"{number}_{slug}.py")
    if match is None or not words[0].isalpha():
        raise WrongUse(
            f"The name {message or '(none)'!r} is not a word for the kind of change and at least one more, a to z and digits.",
            _FORM,
        )
    if match["word"] not in settings.type_words:
        raise WrongUse(
            f"The name {message!r} does not begin with a type word, so nobody reading the folder could tell what kind of "
            f"change it is. Known are: {', '.join(settings.type_words)}.",
            f"make migrate-create NAME={_with_type_word(slug, settings.type_words)}",
        )
    return words[0].upper() + words[1:]


def _with_type_word(slug: str, known: Sequence[str]) -> str:
    """One's own name with a fitting type word before it, or in the place of one that means the same."""
    first, _, rest = slug.partition("_")
    word = _MEANT.get(first)
    if rest and word in known:
        return f"{word}_{rest}"
    return f"{'add' if 'add' in known else known[0]}_{slug}"


def next_number(script: Any) -> str:
    """The number after the greatest one in the folder, told by the file names."""
    from mcp_planner_schema.guard import judge

    numbers = [match[0] for path in judge.files(script) if (match := re.match(r"\d+", path.name))]
    width = max((len(number) for number in numbers), default=3)
    return f"{max(map(int, numbers), default=0) + 1:0{max(width, 3)}}"


def author(given: str = "") -> str:
    """``Name <address>`` from git, else ``given``, else ``AUTHOR``, else user@host."""
    found = [_git("user.name"), _git("user.email")]
    if all(found):
        return f"{found[0]} <{found[1]}>"
    given = given.strip() or os.environ.get("AUTHOR", "").strip()
    if given:
        return given
    from pathlib import Path

    from mcp_planner_schema.guard import history

    origin = history.origin(Path.cwd())
    return f"{origin.who}@{origin.host}"


def _git(name: str) -> str:
    try:
        found = subprocess.run(["git", "config", name], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return found.stdout.strip()


def is_check(config: Any, script: Any) -> bool:
    """``alembic check`` makes a revision that is never written; called from code, only the missing name tells."""
    command = getattr(config.cmd_opts, "cmd", None)
    return script.message is None if command is None else command[0].__name__ == "check"


def _asked(context: Any) -> dict[str, str]:
    given: dict[str, str] = context.get_x_argument(as_dictionary=True)
    unknown = set(given) - {"type", "author"}
    if unknown:
        raise WrongUse(f"-x {sorted(unknown)[0]} is not known; a new revision takes -x type= and -x author=.",
                       "alembic -x type=schema revision -m add_complexity_analysis")  # fmt: skip
    return given
