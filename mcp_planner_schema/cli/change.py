"""Changing the database: up, down, to a version, and the version alone."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from mcp_planner_schema.cli.command import ALLOWED, ROOT, Command, Values, allow, form, typed
from mcp_planner_schema.guard.findings import DONE, WrongUse

if TYPE_CHECKING:
    from alembic.config import Config

    from mcp_planner_schema.inspect.route import Route


def _create(config: Config, values: Values) -> int:
    from alembic import command

    if values.get("KIND"):
        return _generate(config, values)
    given = sorted(values.keys() - {"NAME", "TYPE", "AUTO", "AUTHOR", "FORMAT"})
    if given or not values.get("NAME"):
        said = f"{given[0]} goes with KIND." if given else "migrate-create needs NAME."
        raise WrongUse(said, form("migrate-create", COMMANDS["migrate-create"]))
    if values.get("FORMAT", "sql") != "sql" or ("FORMAT" in values and "AUTO" in values):
        said = f"FORMAT is {values['FORMAT']!r}; it is sql, or left out." if values["FORMAT"] != "sql" else _BY_HAND
        raise WrongUse(said, "make migrate-create NAME=add_complexity_analysis FORMAT=sql")
    config.attributes["new_revision"] = {
        key: values[name]
        for key, name in (("type", "TYPE"), ("author", "AUTHOR"), ("format", "FORMAT"))
        if values.get(name)
    }
    made = command.revision(config, message=values["NAME"], autogenerate=values.get("AUTO") == "1")
    if "FORMAT" in values:
        from mcp_planner_schema.generate import sql_body
        from mcp_planner_schema.guard.source import shown

        for path in sql_body.write(Path(made.path)):  # type: ignore[union-attr]  # one revision, for AUTO is refused
            print(shown(path))
    print("next: fill it in, then make migrate-validate", file=sys.stderr)
    return DONE


_BY_HAND = "AUTO=1 writes operations in Python; what stands in a SQL file is written by hand."


def _generate(config: Config, values: Values) -> int:
    from mcp_planner_schema import generate
    from mcp_planner_schema.guard.source import shown

    given = {name: value for name, value in values.items() if value.strip()}
    for path in generate.write(config, given, lambda note: print(f"note: {note}", file=sys.stderr)):
        print(shown(path))
    models = ROOT / "mcp_planner_schema" / "models"
    first = f"read them, change {models.relative_to(ROOT)}/ as they do" if models.is_dir() else "read them"
    print(f"next: {first}, then make migrate-validate", file=sys.stderr)
    return DONE


def _up(config: Config, values: Values) -> int:
    from mcp_planner_schema.inspect import route

    allow(config, values)
    if not values.get("DRY_RUN") and not values.get("TO"):
        _go(config, "head", back=False)
        return _keep_known(config)
    wanted = values.get("TO") or "head"
    way = route.find(config, wanted)
    if way.back:
        print(
            f"nothing to do: {way.there} lies behind {way.here}; to go back: make migrate-down TO={way.there}",
            file=sys.stderr,
        )
        return DONE
    target = "head" if wanted == "head" else way.there
    return _show_sql(config, way, target) if values.get("DRY_RUN") else _go(config, target, back=False)


def _keep_known(config: Config, *, renamed: bool = False) -> int:
    """What the package says of its revisions follows their files; in staging and production nothing is written.

    A file that is missing here may be another branch's, so that by itself takes no revision out of the package.
    """
    from mcp_planner_schema.guard import settings
    from mcp_planner_schema.inspect import known

    if settings.load(config).rules.stored:
        return DONE
    lost = known.lost(ROOT) if not renamed else []
    if lost:
        where = known.place(ROOT).relative_to(ROOT)
        print(f"note: {where} names {', '.join(lost)}, of which no file is here; a file of what was applied: "
              f"make migrate-recover VERSION={lost[-1]}; gone for good: make known-revisions",
              file=sys.stderr)  # fmt: skip
    elif known.write(ROOT):
        print(f"wrote {known.place(ROOT).relative_to(ROOT)}: commit it with the revision", file=sys.stderr)
    return DONE


def _down(config: Config, values: Values) -> int:
    from mcp_planner_schema.inspect import route

    if values.get("TO") and values.get("STEPS"):
        raise WrongUse("STEPS and TO both say how far to go back.", "make migrate-down STEPS=1")
    steps = values.get("STEPS") or "1"
    if not steps.isdigit() or int(steps) == 0:
        raise WrongUse(f"STEPS is {steps!r}; it is a number of steps, 1 or more.", "make migrate-down STEPS=1")
    way = route.find(config, values.get("TO") or f"-{int(steps)}")
    if not way.back and way.here != way.there:
        raise WrongUse(f"{way.there} lies ahead of {way.here}.", f"make migrate-up TO={way.there}")
    dry = bool(values.get("DRY_RUN"))
    # A step that is named cannot be counted twice, neither by a second deployer nor by who repeats the command.
    again = {"TO": way.there} | {name: values[name] for name in ("DRY_RUN", "CONFIRM") if name in values}
    config.attributes["repeat"] = typed("migrate-down", again, config.attributes.get("settings", {}))
    config.attributes["dry_run"] = dry
    allow(config, values)
    return _go(config, way.there, back=True)


def _go(config: Config, target: str, *, back: bool) -> int:
    from alembic import command

    (command.downgrade if back else command.upgrade)(config, target)
    return DONE


def _show_sql(config: Config, way: Route, target: str) -> int:
    """Print the SQL of the steps from where the database is to ``target``, and what their backfills have before them, beside
    it; change nothing."""
    from alembic import command

    from mcp_planner_schema.inspect import ahead

    if not way.steps:
        print(f"-- nothing to do: the database is at {way.here}")
        return DONE
    print(f"up from {way.here} to {way.there}: {', '.join(way.steps)}", file=sys.stderr)
    for line in ahead.lines(config, way.steps):
        print(line, file=sys.stderr)
    config.attributes["only_shown"] = True
    command.upgrade(config, f"{way.here}:{target}", sql=True)
    return DONE


def _goto(config: Config, values: Values) -> int:
    from mcp_planner_schema.inspect import route

    allow(config, values)
    way = route.find(config, values["VERSION"])
    return _go(config, "head" if values["VERSION"] == "head" else way.there, back=way.back)


def _force(config: Config, values: Values) -> int:
    from alembic import command

    allow(config, values)
    command.stamp(config, values["VERSION"])
    return DONE


def _accept(config: Config, values: Values) -> int:
    from mcp_planner_schema.guard import accept

    print("\n".join(accept.accept(config, values["VERSION"], values["REASON"])))
    return DONE


def _recover(config: Config, values: Values) -> int:
    from mcp_planner_schema.guard import recover

    folder = Path(values["DIR"]).expanduser().absolute() if "DIR" in values else None
    print("\n".join(recover.recover(config, values["VERSION"], folder)))
    return DONE


def _rebase(config: Config, values: Values) -> int:
    from mcp_planner_schema.guard import rebase, settings

    urls = settings.load(config).known_urls
    along = bool(values.get("ALONG"))
    print("\n".join(rebase.rebase(config, values["VERSION"], values.get("ONTO"), urls, along=along)))
    print("next: make migrate-validate", file=sys.stderr)
    return _keep_known(config, renamed=True)


def _reset(config: Config, values: Values) -> int:
    from alembic import command

    from mcp_planner_schema import reset

    reset.refuse_what_cannot_be_built(config)
    reset.drop_everything(config)
    command.upgrade(config, "head")
    return DONE


def _wanted(action: str) -> Callable[[Config, Values], int]:
    def does(config: Config, values: Values) -> int:
        from mcp_planner_schema.backfill import control

        print(control.ask(config, action, values.get("NAME"), values.get("REVISION")))
        return DONE

    return does


# What the kinds of migrate-create take; each says itself which of them (mcp_planner_schema/generate/kinds.py).
_OF_KINDS = (
    "AFTER", "BACKWARD", "BEFORE", "ENUM", "FILL", "FORWARD", "FROM", "LABELS", "MAP", "ON", "TABLE", "TO", "TO_TABLE",
    "TO_TYPE", "VALUE",
)  # fmt: skip

COMMANDS: dict[str, Command] = {
    "migrate-create": Command(
        _create,
        (),
        ("NAME", "TYPE", "AUTO", "AUTHOR", "FORMAT", "KIND", *_OF_KINDS),
        "NAME=add_complexity_analysis [TYPE=schema|data|function] [AUTO=1] [FORMAT=sql]",
    ),
    "migrate-up": Command(
        _up, (), ("TO", "DRY_RUN", "REASON", *ALLOWED), "[TO=003] [PHASE=expand|contract] [DRY_RUN=1]"
    ),
    "migrate-down": Command(
        _down,
        (),
        ("STEPS", "TO", "DRY_RUN", "REASON", "CONFIRM", *ALLOWED[1:]),
        '[STEPS=1] [TO=003] [DRY_RUN=1] [REASON="why"] [CONFIRM=mcp_task_prod]',
    ),
    "migrate-goto": Command(
        _goto, ("VERSION",), ("REASON", "CONFIRM", *ALLOWED), "VERSION=003 [PHASE=expand|contract]"
    ),
    "migrate-force": Command(
        _force, ("VERSION",), ("REASON", "CONFIRM"), 'VERSION=003 [REASON="why"] [CONFIRM=mcp_task_prod]'
    ),
    "migrate-accept": Command(_accept, ("VERSION", "REASON"), (), 'VERSION=003 REASON="why"'),
    "migrate-recover": Command(_recover, ("VERSION",), ("DIR",), "VERSION=026 [DIR=/tmp/recovered]"),
    "migrate-rebase": Command(_rebase, ("VERSION",), ("ONTO", "ALONG"), "VERSION=026 [ONTO=025] [ALONG=1]"),
    "migrate-reset": Command(_reset),
    "backfill-pause": Command(_wanted("pause"), (), ("NAME", "REVISION"), "[NAME=steps.title_length] [REVISION=031]"),
    "backfill-resume": Command(_wanted("resume"), (), ("NAME", "REVISION"), "[NAME=steps.title_length] [REVISION=031]"),
    "backfill-stop": Command(_wanted("stop"), (), ("NAME", "REVISION"), "[NAME=steps.title_length] [REVISION=031]"),
}
