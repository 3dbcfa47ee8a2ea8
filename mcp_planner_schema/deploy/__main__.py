"""``python -m mcp_planner_schema.deploy <verb> [NAME=value …]``: what scripts/production-migrate.sh asks for."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mcp_planner_schema.deploy import stages
from mcp_planner_schema.deploy.stages import CONTRACT, EXPAND, SCRIPT
from mcp_planner_schema.guard.findings import BUSY, DONE, GuardError, WrongUse

if TYPE_CHECKING:
    from collections.abc import Iterator

    from alembic.config import Config
    from sqlalchemy import Connection, Engine

    from mcp_planner_schema.guard.settings import Settings

Values = Mapping[str, str]


def main(arguments: Sequence[str]) -> int:
    """Run one verb and give its exit code."""
    from mcp_planner_schema.guard import interrupt

    repeat = os.environ.get("DEPLOY_AGAIN") or SCRIPT  # as the script was called
    try:
        if not arguments or arguments[0] not in VERBS:
            raise WrongUse(f"Known are: {', '.join(VERBS)}.", f"{SCRIPT} --help")
        values = dict(word.split("=", 1) for word in arguments[1:] if "=" in word)
        with interrupt.cancelling(lambda: None, last=True):
            VERBS[arguments[0]](_config(repeat), values)
    except GuardError as error:
        print(error.text(), file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        print(f"Stopped.\n\nnext: {repeat}", file=sys.stderr)
        return BUSY
    return DONE


def _stages(config: Config, values: Values) -> None:
    """One ``name value`` a line, for the shell; ``left`` says that a deploy is there which is not done."""
    asked = stages.ask(config, _kind(values))
    found = asked.stages
    with _opened(config) as (given, _, connection):
        from mcp_planner_schema.deploy import record

        left = record.unfinished(connection, given.schema, _kind(values), _applied(config))
        fresh = left is not None and left.since < given.rehearsal_age * 86_400
    lines = {
        "database": asked.database, "place": asked.place, "environment": asked.environment, "here": asked.here,
        "backup": asked.backup, "expand": found.expand, "data": found.data, "contract": found.contract,
        "last": found.last, "waits": ",".join(found.waits), "left": left.id if left else "",
        # What an unfinished deploy was begun for was rehearsed from where it began, and is not asked for in the middle.
        "begun": "yes" if left and fresh and asked.revisions.items() <= left.revisions.items() else "",
    }  # fmt: skip
    print("\n".join(f"{name} {value}" for name, value in lines.items()))


def _begin(config: Config, values: Values) -> None:
    """Write the deploy down, or go on with one that is not done: its number, and where the database was before it."""
    from pathlib import Path

    from mcp_planner_schema.deploy import record
    from mcp_planner_schema.guard import deploy_lock, history, saying, version_table

    repeat = str(config.attributes["repeat"])
    with _opened(config) as (given, engine, connection):
        lock = deploy_lock.of(connection, *version_table.of(config))
        # A killed deploy may have left a run that is still at work: where the database stands is known when that is over.
        with deploy_lock.held(engine, lock, given.deploy_lock_timeout, saying.say, repeat):
            record.prepare(connection, given.schema)
            applied = _applied(config)
            found = record.unfinished(connection, given.schema, _kind(values), applied)
            reason, revisions = values.get("REASON") or None, stages.ask(config, _kind(values)).revisions
            if found:
                record.resume(connection, given.schema, found.id, revisions, reason)
                print(f"deploy {found.id}\nstart {found.start}")
                saying.say(f"goes on with deploy {found.id}, which came to: {found.stage}")
                return
            start = applied[-1] if applied else "base"
            who = history.origin(Path(config.get_main_option("script_location") or "."))
            number = record.begin(connection, given.schema, _kind(values), start, revisions, reason, who)
            print(f"deploy {number}\nstart {start}")


def _end(config: Config, values: Values) -> None:
    from mcp_planner_schema.deploy import record

    with _opened(config) as (given, _, connection):
        number, applied = int(values["ID"]), _applied(config)
        record.at(connection, given.schema, number, values["STAGE"])
        record.end(connection, given.schema, number, applied[-1] if applied else "base", int(values["CODE"]))


def _backup(config: Config, values: Values) -> None:
    from mcp_planner_schema.deploy import backup, record
    from mcp_planner_schema.guard import saying

    with _opened(config) as (given, engine, connection):
        found = record.read(connection, given.schema, int(values["ID"]))
        record.at(connection, given.schema, found.id, "backup")
    applied = _applied(config)
    accepted, repeat = os.environ.get("PREFLIGHT_ACCEPT"), str(config.attributes["repeat"])
    for line in backup.make(given, engine, found, applied[-1] if applied else "base", accepted, repeat):
        saying.say(line)


def _backup_check(config: Config, values: Values) -> None:
    from mcp_planner_schema.deploy import backup

    with _opened(config) as (given, engine, _):
        print("\n".join(backup.told(given, engine)))


def _watch(config: Config, values: Values) -> None:
    from mcp_planner_schema.deploy import record, watch
    from mcp_planner_schema.guard import saying

    asked = watch.wanted()
    with _opened(config) as (given, engine, connection):
        record.at(connection, given.schema, int(values["ID"]), "watch")
        watch.watch(engine, asked, saying.say, str(config.attributes["repeat"]))


def _runs(config: Config, values: Values) -> None:
    from mcp_planner_schema.deploy import record

    with _opened(config) as (given, _, connection):
        record.at(connection, given.schema, int(values["ID"]), "report")
        print("\n".join(map(str, record.runs(connection, given.schema, int(values["ID"])))))


def _back(config: Config, values: Values) -> None:
    from mcp_planner_schema.deploy import back

    print("\n".join(back.words(config, values["START"], values.get("DATABASE", ""), _kind(values))), file=sys.stderr)


VERBS: dict[str, Callable[[Config, Values], None]] = {
    "stages": _stages,
    "begin": _begin,
    "end": _end,
    "backup": _backup,
    "backup-check": _backup_check,
    "watch": _watch,
    "runs": _runs,
    "back": _back,
}


def _kind(values: Values) -> str:
    return CONTRACT if values.get("CONTRACT") else EXPAND


@contextmanager
def _opened(config: Config) -> Iterator[tuple[Settings, Engine, Connection]]:
    from mcp_planner_schema.guard import connect, history, settings, version_table

    given = settings.load(config)
    engine = connect.engine(connect.url(given), "mcp-planner-guard deploy")
    with connect.opened(engine, autocommit=True) as connection:
        # Before anything of the guard's is read: a view in its place would run its maker's code as whoever deploys.
        history.refuse_foreign(connection, given.schema, version_table.of(config).sql, str(config.attributes["repeat"]))
        yield given, engine, connection


def _applied(config: Config) -> tuple[str, ...]:
    """The applied revisions in their order."""
    from mcp_planner_schema.inspect import route

    way = route.find(config, "base")
    return tuple(reversed(way.steps))


def _config(repeat: str) -> Config:
    from alembic.config import Config

    from mcp_planner_schema.cli.command import ROOT

    return Config(str(ROOT / "alembic.ini"), stdout=sys.stdout, attributes={"repeat": repeat})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
