"""The commands behind ``make migrate-…``: ``python -m mcp_planner_schema <command> [NAME=value …]``.

Each prepares what Alembic needs and calls Alembic, or asks ``inspect`` and prints. Exit codes: 0 done, 1 broken, 2 wrong
use, 3 refused, 75 busy.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard.findings import BROKEN, BUSY, DONE, REFUSED, WRONG_USE, Broken, GuardError, WrongUse

if TYPE_CHECKING:
    from alembic.config import Config

    from mcp_planner_schema.inspect.route import Route

ROOT = Path(__file__).resolve().parent.parent
Values = Mapping[str, str]
ALLOWED = ("PHASE", "HOLD_LIMIT", "CANCEL_BLOCKERS", "WORKERS", "PROGRESS", "PREFLIGHT_ACCEPT")
"""What whoever runs it allows for once; the guard reads them from ``config.attributes``, or from ``-x`` of ``alembic``."""


@dataclass(frozen=True)
class Command:
    """One command: what it does, which ``NAME=value`` it needs and takes, and an example of its right form."""

    does: Callable[[Config, Values], int]
    needs: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()
    form: str = ""


def main(arguments: Sequence[str]) -> int:
    """Run one command and give its exit code. Errors are printed to stderr, each with the command to type next."""
    from alembic.util import CommandError

    command = None
    try:
        name, command, values = _parse(arguments)
        return command.does(_config(_typed(name, values)), values)
    except GuardError as error:
        print(error.text(), file=sys.stderr)
        return error.code
    except CommandError as error:  # Alembic's own word, outside env.py
        print(f"{error}\n\nnext: make migrate-status", file=sys.stderr)
        return WRONG_USE
    except KeyboardInterrupt as stop:
        again = _typed(name, values) if command else "make help"
        print(f"{str(stop) or 'Stopped.'}\n\nnext: {again}", file=sys.stderr)
        return BUSY
    except BrokenPipeError:  # … | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN


def _parse(arguments: Sequence[str]) -> tuple[str, Command, Values]:
    if not arguments or arguments[0] not in COMMANDS:
        known = "\n".join(f"  {_form(name)}" for name in COMMANDS)
        said = f"There is no command {arguments[0]!r}." if arguments else "Which command?"
        raise WrongUse(f"{said} Known are:\n{known}", "make help")
    name, command = arguments[0], COMMANDS[arguments[0]]
    values: dict[str, str] = {}
    for argument in arguments[1:]:
        if argument.startswith(
            "--make="
        ):  # make hands over the name; the value is in the environment, read by no shell
            key = argument.removeprefix("--make=")
            value = os.environ.get(key, "")
        else:
            key, equals, value = argument.partition("=")
            if not equals:
                raise WrongUse(f"{argument!r} is not of the form NAME=value.", _form(name))
        if key not in command.needs + command.takes:
            raise WrongUse(f"{name} knows no {key}.", _form(name))
        if not value.strip() and key not in command.needs:
            raise WrongUse(f"{key} is empty. Leave it out, or say which is meant.", _form(name))
        values[key] = value
    for key in ALLOWED:  # also before the command: PHASE=expand make migrate-up
        if key in command.takes and os.environ.get(key, "").strip():
            values.setdefault(key, os.environ[key].strip())
    if "PREFLIGHT_ACCEPT" in values and "REASON" in command.takes and os.environ.get("REASON", "").strip():
        values.setdefault("REASON", os.environ["REASON"].strip())
    for key in command.needs:
        if not values.get(key):
            raise WrongUse(f"{name} needs {key}.", _form(name))
    for key in ("DRY_RUN", "JSON", "AUTO", "ALONG"):
        if values.get(key, "1") != "1":
            raise WrongUse(f"{key} is {values[key]!r}; it is 1 or left out.", _form(name))
    return name, command, values


def _form(name: str) -> str:
    return f"make {name} {COMMANDS[name].form}".rstrip()


def _typed(name: str, values: Values) -> str:
    return " ".join([f"make {name}", *(f"{key}={value}" for key, value in values.items() if key != "REASON")])


def _config(repeat: str) -> Config:
    from alembic.config import Config

    return Config(str(ROOT / "alembic.ini"), stdout=sys.stdout, attributes={"repeat": repeat})


# --- changing the database --------------------------------------------------------------------------------------------


def _create(config: Config, values: Values) -> int:
    from alembic import command

    if values.get("KIND"):
        return _generate(config, values)
    given = sorted(values.keys() - {"NAME", "TYPE", "AUTO", "AUTHOR"})
    if given or not values.get("NAME"):
        said = f"{given[0]} goes with KIND." if given else "migrate-create needs NAME."
        raise WrongUse(said, _form("migrate-create"))
    config.attributes["new_revision"] = {
        key: values[name] for key, name in (("type", "TYPE"), ("author", "AUTHOR")) if values.get(name)
    }
    command.revision(config, message=values["NAME"], autogenerate=values.get("AUTO") == "1")
    print("next: fill it in, then make migrate-validate", file=sys.stderr)
    return DONE


def _generate(config: Config, values: Values) -> int:
    from mcp_planner_schema import generate
    from mcp_planner_schema.guard.source import shown

    given = {name: value for name, value in values.items() if value.strip()}
    for path in generate.write(config, given, lambda note: print(f"note: {note}", file=sys.stderr)):
        print(shown(path))
    print("next: read them, then make migrate-validate", file=sys.stderr)
    return DONE


def _up(config: Config, values: Values) -> int:
    from mcp_planner_schema.inspect import route

    _allow(config, values)
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


def _keep_known(config: Config) -> int:
    """What the package says of its revisions follows their files; in staging and production nothing is written."""
    from mcp_planner_schema.guard import settings
    from mcp_planner_schema.inspect import known

    if settings.load(config).environment == "development" and known.write(ROOT):
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
    config.attributes["repeat"] = f"make migrate-down TO={way.there}{' DRY_RUN=1' if dry else ''}"
    config.attributes["dry_run"] = dry
    _allow(config, values)
    return _go(config, way.there, back=True)


def _allow(config: Config, values: Values) -> None:
    for key in ALLOWED:
        config.attributes[key.lower()] = values.get(key)
    config.attributes["reason"] = values.get("REASON")


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

    _allow(config, values)
    way = route.find(config, values["VERSION"])
    return _go(config, "head" if values["VERSION"] == "head" else way.there, back=way.back)


def _force(config: Config, values: Values) -> int:
    from alembic import command

    config.attributes["reason"] = values.get("REASON")
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
    from mcp_planner_schema.guard import rebase

    urls = os.environ.get("PLANNER_KNOWN_URLS", "")
    along = bool(values.get("ALONG"))
    print("\n".join(rebase.rebase(config, values["VERSION"], values.get("ONTO"), urls, along=along)))
    print("next: make migrate-validate", file=sys.stderr)
    return _keep_known(config)


def _reset(config: Config, values: Values) -> int:
    from alembic import command

    from mcp_planner_schema import reset

    reset.refuse_what_cannot_be_built(config)
    reset.drop_everything(config)
    command.upgrade(config, "head")
    return DONE


def _restore(config: Config, values: Values) -> int:
    from mcp_planner_schema.guard import restore_later

    dry = bool(values.get("DRY_RUN"))
    number = _number(values, "make migrate-restore VERSION=003 ID=3")
    file = Path(values["ARCHIVE"]).expanduser().absolute() if "ARCHIVE" in values else None
    lines = restore_later.give_back(config, values["VERSION"], number, file, dry=dry)
    if dry:
        print("dry run: it was done and rolled back, nothing was changed. For real it says:")
    print("\n".join(lines))
    return DONE


def _stash_purge(config: Config, values: Values) -> int:
    from mcp_planner_schema.guard import purge

    number = _number(values, "make migrate-stash-purge ID=3 CONFIRM=migration_stash_3")
    assert number is not None
    print("\n".join(purge.purge(config, number, values["CONFIRM"])))
    return DONE


def _number(values: Values, form: str) -> int | None:
    """The stash that ID names; None where it was left out."""
    given = values.get("ID")
    if given is None:
        return None
    if not re.fullmatch("[1-9][0-9]{0,17}", given):
        raise WrongUse(
            f"ID is {given!r}; it is the number of a stash.", f"{form}   (make migrate-stash-list shows them)"
        )
    return int(given)


# --- asking -----------------------------------------------------------------------------------------------------------


def _status(config: Config, values: Values) -> int:
    from mcp_planner_schema.inspect import status

    found = status.read(config)
    print(json.dumps(found.as_json(), indent=2) if values.get("JSON") else found.text())
    return DONE


def _history(config: Config, values: Values) -> int:
    from mcp_planner_schema.inspect import status

    rows = status.history(config)
    print(json.dumps(rows, indent=2) if values.get("JSON") else status.history_text(rows))
    return DONE


def _stash_list(config: Config, values: Values) -> int:
    from mcp_planner_schema.inspect import stashes

    rows = stashes.listed(config)
    print(json.dumps(rows, indent=2) if values.get("JSON") else stashes.listed_text(rows))
    return DONE


def _stash_show(config: Config, values: Values) -> int:
    from mcp_planner_schema.inspect import stashes

    number = _number(values, "make migrate-stash-show ID=3")
    assert number is not None
    found = stashes.shown(config, number)
    print(json.dumps(found, indent=2) if values.get("JSON") else stashes.shown_text(found))
    return DONE


def _stash_verify(config: Config, values: Values) -> int:
    from mcp_planner_schema.guard import recheck

    report = recheck.recheck(config, _number(values, "make migrate-stash-verify ID=3"))
    print("\n".join([*report.lines, *report.wrong]) or "no stash: nothing to read")
    if report.wrong:
        raise Broken(
            "What was kept is not as it was: an upgrade or migrate-restore refuses to give it back.",
            f"make migrate-stash-show ID={report.wrong[0].split(':')[0].removeprefix('stash ')}",
        )
    return DONE


def _wanted(action: str) -> Callable[[Config, Values], int]:
    def does(config: Config, values: Values) -> int:
        from mcp_planner_schema.backfill import control

        print(control.ask(config, action, values.get("NAME"), values.get("REVISION")))
        return DONE

    return does


def _validate(config: Config, values: Values) -> int:
    from alembic.script import ScriptDirectory

    from mcp_planner_schema.guard import graph, judge, settings

    read = settings.load(config)
    script = ScriptDirectory.from_config(config)
    judged = judge.judge_all(script, read)
    findings = [finding for one in judged for finding in one.findings]
    findings += [finding for finding in graph.problems(script, read) if finding.code == "graph-broken"]
    told = []
    if not findings:  # what cannot be read or put in order is not run, not even offline
        from mcp_planner_schema.inspect import lint

        found = lint.lint(config, script, judged)
        findings += found.findings
        for warning in found.warnings:
            print(f"warning: {warning.text()}\n")
        for warning in found.back:
            print(f"warning, of the downgrade: {warning.text()}\n")
        told = [
            *found.notes,
            *([f"{found.judged} of them are pending: their SQL was judged too"] if found.judged else []),
        ]
    for finding in findings:
        print(finding.text() + "\n")
    print(f"{len(judged)} revisions judged, {len(findings) or 'no'} finding{'' if len(findings) == 1 else 's'}")
    for line in told:
        print(line)
    if any(finding.rule.refuses for finding in findings):
        print("\nnext: correct the first one above, then make migrate-validate", file=sys.stderr)
        return REFUSED
    return DONE


def _verify(config: Config, values: Values) -> int:
    from mcp_planner_schema.inspect import verify

    report = verify.verify(config)
    for line in report.failures:
        print(line)
    print(f"{report.checked} expectations of {report.revisions} applied revisions, {len(report.failures)} not met")
    if report.failures:
        raise Broken(
            "The database is not what its revisions made of it.", "make migrate-history   (who changed it last)"
        )
    return DONE


def _preflight(config: Config, values: Values) -> int:
    from mcp_planner_schema.inspect import preflight

    found = preflight.ask(
        config,
        values.get("TO") or "head",
        contract=values.get("PHASE") == "contract",
        accepted=values.get("PREFLIGHT_ACCEPT"),
    )
    print(json.dumps(found.as_json(), indent=2) if values.get("JSON") else found.text())
    if found.refused:
        print("\nnext: correct the first one above, then make migrate-preflight", file=sys.stderr)
        return REFUSED
    return DONE


def _trace(config: Config, values: Values) -> int:
    from alembic.script import ScriptDirectory

    from mcp_planner_schema.inspect import trace

    traced = trace.trace(config, values.get("VERSION"))
    for one in traced:
        print(one.text() + "\n")
    stored = trace.store(ScriptDirectory.from_config(config), traced)
    print(f"{len(stored)} revisions traced, stored in alembic/locks" if stored else "nothing is pending")
    return DONE


def _fingerprint(config: Config, values: Values) -> int:
    from mcp_planner_schema.inspect import fingerprints

    found, written = fingerprints.store(config, values.get("VERSION"))
    for revision, (fingerprint, _) in found.items():
        print(f"{revision} {fingerprint}")
    what = f"{len(written)} file{'' if len(written) == 1 else 's'} written" if written else "nothing has changed"
    print(f"{len(found)} revisions run, {what}" if found else "every revision has its fingerprint", file=sys.stderr)
    return DONE


def _plan(config: Config, values: Values) -> int:
    from mcp_planner_schema.inspect import plan, plan_told

    tell = plan_told.form(values.get("JSON"), values.get("FORMAT"))
    found = plan.read(config, to=values.get("TO") or "head", start=values.get("FROM"), phase=values.get("PHASE"))
    print(tell(found))
    return found.code


def _table_stats(config: Config, values: Values) -> int:
    from mcp_planner_schema.inspect import table_stats

    stats = table_stats.measure(config)
    table_stats.place(ROOT / "alembic").write_text(table_stats.text(stats), encoding="utf-8")
    print(f"{len(stats.bytes)} tables at {', '.join(stats.heads) or 'base'}, written to alembic/table-stats.json")
    return DONE


def _drift(config: Config, values: Values) -> int:
    from mcp_planner_schema.inspect import drift

    found = drift.read_drift(config)
    print(json.dumps(found.as_json(), indent=2) if values.get("JSON") else found.text())
    if found.structure:
        print("\nnext: make migrate-doctor   (what to do about each)", file=sys.stderr)
    return REFUSED if found.structure else DONE


def _doctor(config: Config, values: Values) -> int:
    from mcp_planner_schema.inspect import doctor

    found = doctor.examine(config)
    print(json.dumps([one._asdict() for one in found], indent=2) if values.get("JSON") else doctor.text(found))
    return REFUSED if found else DONE


def _schema_sql(config: Config, values: Values) -> int:
    from mcp_planner_schema.inspect import schema_sql

    schema_sql.place(ROOT / "alembic").write_text(schema_sql.text(config), encoding="utf-8")
    return DONE


def _findings(config: Config, values: Values) -> int:
    from mcp_planner_schema.inspect import catalogue

    Path(ROOT / "docs" / "findings.md").write_text(catalogue.markdown(), encoding="utf-8")
    return DONE


def _known_revisions(config: Config, values: Values) -> int:
    from mcp_planner_schema.inspect import known

    known.write(ROOT)
    return DONE


def _schema_doc(config: Config, values: Values) -> int:
    from mcp_planner_schema.inspect import schema_page

    Path(ROOT / "docs" / "schema.md").write_text(schema_page.markdown(), encoding="utf-8")
    return DONE


# --- the embedded server, example data --------------------------------------------------------------------------------


def _embedded(action: str) -> Callable[[Config, Values], int]:
    def does(config: Config, values: Values) -> int:
        from mcp_planner_schema import embedded

        if os.environ.get("DATABASE_URL"):
            raise WrongUse(
                "DATABASE_URL is set, so that server is used and no other; this command is for the embedded one.",
                f"env -u DATABASE_URL make db-{action}",
            )
        try:
            if action == "start":
                server = embedded.start(ROOT)
                print(server.url())
            elif action == "stop":
                print("stopped" if embedded.stop(ROOT) else "it was not running")
            elif action == "shell":
                embedded.shell(ROOT)
            else:
                found = embedded.status(ROOT)
                told = {**vars(found), "size": f"{found.size:,} bytes" if found.size else None}
                print("\n".join(f"{key:<9} {value}" for key, value in told.items() if value is not None))
        except embedded.EmbeddedError as error:
            raise Broken(str(error), "make db-status") from error
        return DONE

    return does


def _example_data(config: Config, values: Values) -> int:
    from mcp_planner_schema import example_data

    numbers: dict[str, Any] = {}
    for key in ("PROJECTS", "SEED"):
        given = values.get(key, "1")
        if not given.isdigit() or (key == "PROJECTS" and int(given) == 0):
            raise WrongUse(f"{key} is {given!r}; it is a number.", "make example-data PROJECTS=100")
        numbers[key.lower()] = int(given)
    print(example_data.fill(config, **numbers))
    return DONE


# What the kinds of migrate-create take; each says itself which of them (mcp_planner_schema/generate/kinds.py).
_OF_KINDS = (
    "AFTER", "BACKWARD", "BEFORE", "ENUM", "FILL", "FORWARD", "FROM", "LABELS", "MAP", "ON", "TABLE", "TO", "TO_TABLE",
    "TO_TYPE", "VALUE",
)  # fmt: skip

COMMANDS: dict[str, Command] = {
    "migrate-create": Command(
        _create,
        (),
        ("NAME", "TYPE", "AUTO", "AUTHOR", "KIND", *_OF_KINDS),
        "NAME=add_complexity_analysis [TYPE=schema|data|function] [AUTO=1]",
    ),
    "migrate-up": Command(
        _up, (), ("TO", "DRY_RUN", "REASON", *ALLOWED), "[TO=003] [PHASE=expand|contract] [DRY_RUN=1]"
    ),
    "migrate-down": Command(
        _down, (), ("STEPS", "TO", "DRY_RUN", "REASON", *ALLOWED[1:]), '[STEPS=1] [TO=003] [DRY_RUN=1] [REASON="why"]'
    ),
    "migrate-goto": Command(_goto, ("VERSION",), ("REASON", *ALLOWED), "VERSION=003 [PHASE=expand|contract]"),
    "migrate-status": Command(_status, (), ("JSON",), "[JSON=1]"),
    "migrate-force": Command(_force, ("VERSION",), ("REASON",), 'VERSION=003 [REASON="why"]'),
    "migrate-plan": Command(
        _plan,
        (),
        ("TO", "FROM", "JSON", "FORMAT", "PHASE"),
        "[TO=024] [FROM=023] [JSON=1] [FORMAT=markdown] [PHASE=contract]",
    ),
    "migrate-accept": Command(_accept, ("VERSION", "REASON"), (), 'VERSION=003 REASON="why"'),
    "migrate-recover": Command(_recover, ("VERSION",), ("DIR",), "VERSION=026 [DIR=/tmp/recovered]"),
    "migrate-rebase": Command(_rebase, ("VERSION",), ("ONTO", "ALONG"), "VERSION=026 [ONTO=025] [ALONG=1]"),
    "migrate-validate": Command(_validate),
    "migrate-preflight": Command(
        _preflight,
        (),
        ("TO", "PHASE", "JSON", "PREFLIGHT_ACCEPT", "REASON"),
        "[TO=003] [PHASE=contract] [JSON=1] [PREFLIGHT_ACCEPT=backup-old]",
    ),
    "migrate-trace": Command(_trace, (), ("VERSION",), "[VERSION=003|all]"),
    "migrate-fingerprint": Command(_fingerprint, (), ("VERSION",), "[VERSION=003|all]"),
    "table-stats": Command(_table_stats),
    "migrate-verify": Command(_verify),
    "migrate-drift": Command(_drift, (), ("JSON",), "[JSON=1]"),
    "migrate-doctor": Command(_doctor, (), ("JSON",), "[JSON=1]"),
    "migrate-history": Command(_history, (), ("JSON",), "[JSON=1]"),
    "migrate-restore": Command(
        _restore, ("VERSION",), ("ID", "ARCHIVE", "DRY_RUN"), "VERSION=003 [ID=3] [ARCHIVE=file.dump] [DRY_RUN=1]"
    ),
    "migrate-stash-list": Command(_stash_list, (), ("JSON",), "[JSON=1]"),
    "migrate-stash-show": Command(_stash_show, ("ID",), ("JSON",), "ID=3 [JSON=1]"),
    "migrate-stash-verify": Command(_stash_verify, (), ("ID",), "[ID=3]"),
    "migrate-stash-purge": Command(_stash_purge, ("ID", "CONFIRM"), (), "ID=3 CONFIRM=migration_stash_3"),
    "migrate-reset": Command(_reset),
    "backfill-pause": Command(_wanted("pause"), (), ("NAME", "REVISION"), "[NAME=steps.title_length] [REVISION=031]"),
    "backfill-resume": Command(_wanted("resume"), (), ("NAME", "REVISION"), "[NAME=steps.title_length] [REVISION=031]"),
    "backfill-stop": Command(_wanted("stop"), (), ("NAME", "REVISION"), "[NAME=steps.title_length] [REVISION=031]"),
    "db-start": Command(_embedded("start")),
    "db-stop": Command(_embedded("stop")),
    "db-shell": Command(_embedded("shell")),
    "db-status": Command(_embedded("status")),
    "example-data": Command(_example_data, ("PROJECTS",), ("SEED",), "PROJECTS=100 [SEED=1]"),
    "findings": Command(_findings),
    "schema-doc": Command(_schema_doc),
    "schema-sql": Command(_schema_sql),
    "known-revisions": Command(_known_revisions),
}
