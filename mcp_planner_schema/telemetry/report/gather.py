"""Reads one run out of the guard's tables: one moment of them, and nothing is written."""

from __future__ import annotations

import datetime as dt
import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard import connect, deploy_lock, stored_locks
from mcp_planner_schema.guard.findings import Broken, WrongUse
from mcp_planner_schema.inspect import route, status
from mcp_planner_schema.telemetry.report import following, recorded, schema
from mcp_planner_schema.telemetry.report.facts import (
    Backfill,
    Finding,
    Kept,
    Operation,
    Report,
    Run,
    Schema,
    Script,
    Step,
)
from mcp_planner_schema.telemetry.report.recorded import Event

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.script import ScriptDirectory
    from sqlalchemy import Connection

    from mcp_planner_schema.guard.settings import Settings

# Rows as JSON: a table that an earlier version has made lacks a column until the next run, and that is no error here.
_RUN = "SELECT pg_catalog.to_jsonb(r) FROM {schema}.run r WHERE id = %s"
_ROWS = {
    "history": "SELECT pg_catalog.to_jsonb(h) - 'source' FROM {schema}.history h WHERE run_id = %s ORDER BY id",
    "journal": "SELECT pg_catalog.to_jsonb(j) - 'detail' FROM {schema}.journal j WHERE run = %s ORDER BY begun_at, place",
    "event": "SELECT pg_catalog.to_jsonb(e) FROM {schema}.event e WHERE run_id = %s ORDER BY id",
    "backfill": """
SELECT pg_catalog.to_jsonb(b) - 'detail' || (
         SELECT pg_catalog.jsonb_build_object('rows', coalesce(pg_catalog.sum(p.rows_seen), 0)::bigint,
                'written', coalesce(pg_catalog.sum(p.rows_written), 0)::bigint)
         FROM {schema}.backfill_range p WHERE p.backfill = b.id)
FROM {schema}.backfill b WHERE run = %s ORDER BY id""",
    "stash": """
SELECT pg_catalog.to_jsonb(s) - 'written' - 'rights' - 'went' || pg_catalog.jsonb_build_object('objects', ARRAY(
         SELECT pg_catalog.to_jsonb(o) - 'definition' - 'structure' - 'left_as' - 'grants' FROM {schema}.stash_object o
         WHERE o.stash_id = s.id ORDER BY o.number))
FROM {schema}.stash s WHERE run_id = %s ORDER BY id""",
}

_SAME_CLOCK = dt.timedelta(seconds=1)
"""A run's row and its first event are written one after the other: what is more than this is the difference of two clocks."""


def read(config: Config, number: int | None) -> Report:
    """Run ``number``, or the newest. Raises :class:`WrongUse` where there is none, :class:`Broken` without the right to read."""
    from sqlalchemy.exc import ProgrammingError

    with status.connected(config) as (connection, given):
        try:
            return _read(config, connection, given, number)
        except ProgrammingError as error:
            if getattr(error.orig, "pgcode", "") != "42501":
                raise
            user = connection.engine.url.username or "(the system user)"
            raise Broken(
                f"The role {user} may not read what runs have written: {str(error.orig).strip()}.",
                f"GRANT USAGE ON SCHEMA {given.schema}, SELECT ON ALL TABLES IN SCHEMA {given.schema}   (in psql, as their "
                "owner; each as a GRANT of its own), then make migrate-report",
            ) from error


def _read(config: Config, connection: Connection, given: Settings, number: int | None) -> Report:
    number, newest = _wanted(connection, given.schema, number)
    # A run writes how it ended before it lets go of its lock: where it still says running after the lock was seen to be free,
    # nobody runs it.
    alive = _alive(connection, _row(connection, given.schema, number))
    connection.rollback()
    connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    row = _row(connection, given.schema, number)
    found = {name: _rows(connection, given.schema, name, number) for name in _ROWS}
    now = connection.exec_driver_sql("SELECT pg_catalog.clock_timestamp()").scalar_one()
    connection.rollback()

    clean = functools.partial(connect.masked, target=connection.engine.url)
    events = _events(found["event"], row)
    run = _run(row, connection, given, events, newest, now, clean, alive=alive)
    steps = [_step(one, events, clean) for one in found["history"]]
    steps += _unfinished(run, steps, events, clean)
    run, steps, shown = _folder(config, given, run, steps)
    backfills = tuple(_backfill(one, run, clean) for one in found["backfill"])
    kept = tuple(_kept(one, clean) for one in found["stash"])
    return Report(
        run, following.of(run, steps, backfills, kept, _told_next(events, clean)), tuple(steps), recorded.waits(events, clean),
        (*_accepted(row.get("preflight"), clean), *_waived(steps), *recorded.findings(events)),
        tuple(_operation(one) for one in found["journal"]), backfills, kept, shown, bool(events),
    )  # fmt: skip


def _wanted(connection: Connection, schema: str, number: int | None) -> tuple[int, int]:
    """The number of the run, and of the newest."""
    newest = None
    if _there(connection, f"{schema}.run"):
        newest = connection.exec_driver_sql(f"SELECT pg_catalog.max(id) FROM {schema}.run").scalar()
    if newest is None:
        raise WrongUse(
            f"No run is recorded in this database: the guard has never written into its schema {schema} here.",
            "make migrate-status",
        )
    asked = newest if number is None else number
    there = connection.exec_driver_sql(f"SELECT EXISTS (SELECT FROM {schema}.run WHERE id = %s)", (asked,)).scalar_one()
    if not there:
        raise WrongUse(f"There is no run {asked}; the newest is {newest}.", f"make migrate-report RUN={newest}")
    return int(asked), int(newest)


def _there(connection: Connection, table: str) -> bool:
    return connection.exec_driver_sql("SELECT pg_catalog.to_regclass(%s) IS NOT NULL", (table,)).scalar_one() is True


def _row(connection: Connection, schema: str, number: int) -> dict[str, Any]:
    return dict(connection.exec_driver_sql(_RUN.format(schema=schema), (number,)).scalar_one())


def _rows(connection: Connection, schema: str, table: str, number: int) -> list[dict[str, Any]]:
    if not _there(connection, f"{schema}.{table}"):
        return []
    return [dict(one) for one in connection.exec_driver_sql(_ROWS[table].format(schema=schema), (number,)).scalars()]


def _alive(connection: Connection, row: dict[str, Any]) -> bool:
    """Whether the run is at work: it says so, and the lock of its version table is held."""
    if row["state"] != "running":
        return False
    own, _, table = str(row.get("version_table") or "alembic_version").rpartition(".")
    return deploy_lock.taken(connection, deploy_lock.of(connection, table, own or None))


def _run(
    row: dict[str, Any], connection: Connection, given: Settings, events: Sequence[Event], newest: int, now: dt.datetime,
    clean: Callable[[str], str], *, alive: bool,
) -> Run:  # fmt: skip
    url = connection.engine.url
    state = "killed" if row["state"] == "running" and not alive else row["state"]
    began, ended = recorded.last(events, "run-started"), recorded.last(events, "run-ended")
    code = ended.number("exit") if ended else None
    return Run(
        id=row["id"], state=state, command=clean(row["command"]),
        database=f"{url.database} at {connect.place(url)}",
        environment=(began.text("environment") if began else "") or given.environment,
        who=row["who"], db_user=row["db_user"], host=row["host"], pid=row["pid"], commit=row.get("git_commit") or "",
        tool_version=row["tool_version"], version_table=row.get("version_table") or "alembic_version",
        heads_before=tuple(row["from_heads"]), heads_after=tuple(row.get("to_heads") or ()), planned=row["planned"],
        started=_moment(row["started_at"]), ended=_moment(row["finished_at"]) if row.get("finished_at") else None,
        read_at=now.astimezone(dt.UTC), error=clean(row.get("error") or ""), exit_code=None if code is None else int(code),
        newest=newest,
    )  # fmt: skip


def _events(rows: Sequence[dict[str, Any]], run: dict[str, Any]) -> list[Event]:
    """Events have the clock of the machine that migrated, all else has the server's: where they differ, the server's counts."""
    begun = next((_moment(one["at"]) for one in rows if one["kind"] == "run-started"), None)
    ahead = _moment(run["started_at"]) - begun if begun else dt.timedelta()
    ahead = ahead if abs(ahead) > _SAME_CLOCK else dt.timedelta()
    return [
        Event(
            one["kind"],
            _moment(one["at"]) + ahead,
            one.get("revision") or "",
            one["data"] if isinstance(one["data"], dict) else {},
        )
        for one in rows
    ]


def _step(row: dict[str, Any], events: Sequence[Event], clean: Callable[[str], str]) -> Step:
    ended = recorded.last(events, "step-done", row["revision"]) or recorded.last(events, "step-failed", row["revision"])
    held, begun = recorded.locks(ended), recorded.last(events, "step-started", row["revision"])
    parts = begun is not None and begun.text("transaction") == "none"
    measured = not parts or (ended is not None and "parts" in ended.data)  # older runs have all of its time there
    return Step(
        revision=row["revision"], direction=row["direction"], outcome=row["outcome"],
        description=clean(row.get("description") or ""), author=row.get("author") or "", started=_moment(row["started_at"]),
        ended=_moment(row["finished_at"]), duration=row["duration_ms"], waited=row["lock_wait_ms"],
        held=row["hold_ms"] if measured else 0.0,
        attempts=row["attempts"], rows=row.get("rows_touched"), error=clean(row.get("error") or ""),
        sqlstate=ended.text("sqlstate") if ended else "", waivers=tuple(map(clean, row.get("waivers") or ())),
        notes=tuple(map(clean, ended.texts("notes"))) if ended else (),
        scripts=tuple(_script(one, clean) for one in row.get("scripts") or () if isinstance(one, dict)),
        locks=held, locks_from="seen in this run" if held else "",
        parts=parts,
    )  # fmt: skip


def _script(one: dict[str, Any], clean: Callable[[str], str]) -> Script:
    arguments = clean(json.dumps(one.get("arguments") or {}, ensure_ascii=False))
    seconds = one.get("seconds")
    return Script(str(one.get("script") or ""), arguments, seconds if isinstance(seconds, int | float) else None)


def _unfinished(
    run: Run, steps: Sequence[Step], events: Sequence[Event], clean: Callable[[str], str]
) -> list[Step]:  # fmt: skip
    """The step that a run is at, or was when it was killed: begun, and in no row of the history."""
    begun = recorded.last(events, "step-started")
    if begun is None or run.state not in ("running", "killed", "interrupted"):
        return []
    if any(one.revision == begun.revision and one.ended >= begun.at for one in steps):
        return []
    # The end of one that was killed is written by the run that finds it, maybe hours later.
    own = [one for one in events if one.revision == begun.revision and one.at >= begun.at]
    until = run.read_at if run.state == "running" else own[-1].at
    tries = [one for one in own if one.kind == "try-failed"]
    return [
        Step(
            revision=begun.revision, direction=begun.text("direction"), author="",
            outcome="running" if run.state == "running" else "cut off", description=clean(begun.text("description")),
            started=begun.at, ended=until, duration=(until - begun.at).total_seconds() * 1000,
            waited=sum(one.number("waited_ms") or 0 for one in tries), held=0.0, attempts=len(tries) + 1, rows=None,
        )
    ]  # fmt: skip


def _folder(config: Config, given: Settings, run: Run, steps: list[Step]) -> tuple[Run, list[Step], Schema]:
    """What the revisions' files add: the locks that were traced, the schema, and where a run that was cut off has come to.

    Imports the revisions, as Alembic does; where they cannot be read, or are others by now, that is said.
    """
    from alembic.util import CommandError

    try:
        with route.history(config, given, ()) as script:
            steps = [_traced(script.dir, one) for one in steps]
            if run.state not in ("done", "failed"):  # nobody has written where it ended
                run = replace(run, heads_after=_reached(script, run, steps))
            return run, steps, schema.read(script, run.heads_before, steps)
    except CommandError as error:  # a revision that is being written must not hide what another one has done
        return run, steps, Schema(unknown=str(error))


def _traced(folder: str, one: Step) -> Step:
    if one.locks or one.direction not in ("upgrade", "downgrade") or one.outcome == "skipped":
        return one
    known = stored_locks.locks(folder, one.revision, one.direction)
    return replace(one, locks=tuple(sorted(known.items())), locks_from="traced when it was written") if known else one


def _reached(script: ScriptDirectory, run: Run, steps: Sequence[Step]) -> tuple[str, ...]:
    """Where the steps that are final have brought the version."""
    from alembic.util import to_tuple

    heads = set(run.heads_before)
    for one in steps:
        if one.outcome not in ("done", "skipped") or one.direction not in ("upgrade", "downgrade"):
            continue
        below = set(to_tuple(script.get_revision(one.revision).down_revision, default=()))
        heads = (heads - below) | {one.revision} if one.direction == "upgrade" else (heads - {one.revision}) | below
    return tuple(sorted(heads))


def _accepted(preflight: Any, clean: Callable[[str], str]) -> list[Finding]:
    if not isinstance(preflight, dict):
        return []
    reason = clean(str(preflight.get("reason") or ""))
    return [Finding("accepted", clean(str(one)), reason) for one in preflight.get("accepted") or ()]


def _waived(steps: Sequence[Step]) -> list[Finding]:
    """``code | why | YYYY-MM-DD`` of a header; ``what is bypassed | why`` of a backfill."""
    found = []
    for one in steps:
        for waiver in one.waivers:
            said, _, rest = waiver.partition(" | ")
            reason, _, until = rest.rpartition(" | ") if " | " in rest else (rest, "", "")
            found.append(Finding("waived" if until else "silenced", said, reason, one.revision, until))
    return found


def _operation(row: dict[str, Any]) -> Operation:
    done = row.get("done_at")
    return Operation(
        row["revision"], row["direction"], row["place"], row["operation"], row["target"], row["state"],
        _moment(row["begun_at"]), _moment(done) if done else None,
    )  # fmt: skip


def _backfill(row: dict[str, Any], run: Run, clean: Callable[[str], str]) -> Backfill:
    begun, done = _moment(row["begun_at"]), row.get("done_at")
    state = row["state"]
    if state != "done":
        paused = row.get("wanted") == "pause"
        state = "paused" if paused else "running" if run.state == "running" else "interrupted"
    return Backfill(
        row["name"], row["revision"], row["direction"], row["target"], state, row["rows"], row["written"],
        row.get("rows_expected") or 0,
        (_moment(done) - begun).total_seconds() if done else None,
        clean(row.get("waits_for") or "") if run.state == "running" else "",
    )  # fmt: skip


def _kept(row: dict[str, Any], clean: Callable[[str], str]) -> Kept:
    return Kept(
        row["id"], row["revision"], row.get("direction") or "downgrade", row["state"], row["kept_in"],
        _moment(row["keep_until"]), clean(row.get("why") or ""), row.get("archive") or "",
        tuple(map(_object, row["objects"])),
    )  # fmt: skip


def _object(row: dict[str, Any]) -> tuple[str, int | None, int | None, bool]:
    from mcp_planner_schema.guard.manifest import Object

    shown = Object(
        row["number"], row["kind"], row["object_schema"], row["object_name"], lost=tuple(row.get("lost_columns") or ())
    ).shown
    return shown, row.get("row_count"), row.get("bytes"), bool(row.get("moved"))


def _told_next(events: Sequence[Event], clean: Callable[[str], str]) -> str:
    ended = recorded.last(events, "run-ended")
    return clean(ended.text("next")) if ended else ""


def _moment(text: str) -> dt.datetime:
    """A time as jsonb has it: ISO 8601, in the session's time zone."""
    return dt.datetime.fromisoformat(text).astimezone(dt.UTC)
