"""The stages of a rehearsal, one for each line of ``scripts/staging-deploy.sh``. What one finds, the next reads from a file."""

from __future__ import annotations

import datetime as dt
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcp_planner_schema.guard import client, connect
from mcp_planner_schema.guard.client import Impossible
from mcp_planner_schema.guard.findings import Finding, GuardError, Refused, WrongUse
from mcp_planner_schema.guard.postcheck import execute
from mcp_planner_schema.guard.source import shown
from mcp_planner_schema.staging import copying, generated, impact, masks, pending, picture, place, queries
from mcp_planner_schema.staging.queries import Measured
from mcp_planner_schema.staging.rehearsal import Rehearsal

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection

SOURCES = ("DUMP", "SOURCE_URL", "GENERATE")
_PAUSES = (15.0, 15.0)
"""Seconds between two tries to measure what a busy machine leaves unclear."""
_MAY_CREATE = "SELECT rolcreatedb OR rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user"
_STEPS = """
SELECT revision, direction, outcome, duration_ms, lock_wait_ms, hold_ms, attempts, rows_touched
FROM {schema}.history WHERE id > %s AND direction IN ('upgrade', 'downgrade') ORDER BY id
"""


def begin(this: Rehearsal) -> None:
    """Ask for all that could be missing before anything is made: rights, files, and that nothing would be lost."""
    this.forget()
    kind = _source()
    if kind != "GENERATE":
        masks.read(this.file("MASKS", "scripts/staging-masks.toml"))
    queries.read(this.file("QUERIES", "scripts/application-queries.sql"))
    _runs()
    with place.server(this.target) as server:
        if not execute(server, _MAY_CREATE).scalar_one():
            raise copying.impossible("the role may not create a database", "ALTER ROLE … CREATEDB, as a superuser")
        place.refuse_what_is_not_ours(server, this.target, this.given, os.environ.get("CONFIRM", ""))
        if kind == "SOURCE_URL":
            _refuse_itself(this, server)
    at = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    this.keep("begin", {"at": at, "kind": kind, "began": time.time()})
    print(f"staging: {this.target.database} at {connect.place(this.target)}, from {kind}")


def copy(this: Rehearsal) -> None:
    """Make the copy, masked, in staging's place; nobody else may enter it before the report."""
    kind, began = _source(), time.monotonic()
    with _told(), place.server(this.target) as server:
        if kind == "GENERATE":
            told = _generated(this, server)
        else:
            rules = masks.read(this.file("MASKS", "scripts/staging-masks.toml"))
            with _archive(this, kind) as archive:
                programs = _programs(this, server)
                created, made = copying.like(programs, archive)
                with copying.closed(server, this.target, created) as name:
                    told = copying.fill(this.given, server, name, archive, programs, rules)
                    copying.put(server, this.target, this.given, name, f"of {archive.told}")
            told |= {"of": archive.told, "created": made}
    with this.connected() as connection:
        told |= {"kind": kind, "seconds": round(time.monotonic() - began, 1), "history": _newest(this, connection)}
    this.keep("copy", told)
    for one in told.get("rules_without_column", ()):
        print(f"note: this copy has no {one}, which has a rule")
    took = "".join(f", {name} in {seconds} s" for name, seconds in told.get("phases", {}).items())
    print(f"copied: {told['of']}, {len(told.get('masked', ()))} columns masked, {told['seconds']} s{took}")


def measure(this: Rehearsal, when: str) -> None:
    """Run the application's queries and keep how each went; afterwards, compare."""
    asked = queries.read(this.file("QUERIES", "scripts/application-queries.sql"))
    with this.connected(autocommit=True) as connection:
        execute(connection, "VACUUM (ANALYZE)")
    with this.connected() as connection:
        values = queries.values(connection, asked) if when == "before" else this.kept("measured-before")["values"]
        found = {one.name: queries.measure(connection, one, values, _runs()) for one in asked.queries}
        findings: list[Finding] = []
        notes: list[str] = []
        if when != "before":
            before = {name: queries.measured(one) for name, one in this.kept("measured-before")["queries"].items()}
            by_name = {one.name: one for one in asked.queries}
            _doubtful_again(before, found, lambda name: queries.measure(connection, by_name[name], values, 3 * _runs()))
            file, impacts = shown(asked.path), impact.compare(before, found)
            findings = [told for one in impacts if (told := one.finding(file))]
            notes = [said for one in impacts if (said := one.note())]
    kept = {
        "queries": {name: asdict(one) for name, one in found.items()},
        "findings": _as_json(findings),
        "notes": notes,
    }
    this.keep(f"measured-{when}", {**kept, "values": values})
    failed = sum(bool(one.error) for one in found.values())
    print(
        f"measured {when}: {len(found)} queries, {failed} failed, {sum(one.ms for one in found.values()):.1f} ms together"
    )
    for line in notes:
        print(f"note: {line}")
    _tell(findings)


def _doubtful_again(
    before: Mapping[str, Measured], found: dict[str, Measured], measure: Callable[[str], Measured]
) -> None:
    """Measure once more, and longer, what only the clock speaks against; and again while the machine is not what it was."""
    for pause in (0.0, *_PAUSES):
        again = [one for one in impact.compare(before, found) if one.doubtful and not (pause and one.believed)]
        if not again:
            return
        if pause:
            print(f"measures again in {pause:g} s, for the machine does something else: {len(again)} queries")
            time.sleep(pause)
        for one in again:
            both = queries.together if one.believed else queries.instead
            found[one.query] = both(one.after, measure(one.query))


def up(this: Rehearsal) -> None:
    """Migrate as production will."""
    from alembic import command

    before, phase = pending.read(this.config), os.environ.get("PHASE", "").strip() or "contract"
    planned = before.until_contract() if phase == "expand" else before.revisions
    told = {"heads": list(before.heads), "server": before.server, "revisions": [asdict(one) for one in planned]}
    this.keep("start", told)
    this.config.attributes["phase"] = phase
    command.upgrade(this.config, "head")
    after = pending.read(this.config)
    left = {one.id for one in after.revisions}
    ran = [asdict(one) for one in before.revisions if one.id not in left]
    this.keep("up", {"heads": list(after.heads), "revisions": ran})


def back(this: Rehearsal) -> None:
    """Go back to where production stands; where a revision has no way back, to that one."""
    from alembic import command

    start, ran = this.kept("start"), this.kept("up")["revisions"]
    one_way = [one for one in ran if one["one_way"]]
    to = one_way[-1]["id"] if one_way else ", ".join(start["heads"]) or "base"
    notes = [f"no way back before {one['id']}: {one['one_way']}" for one in one_way]
    this.keep("back", {"to": to, "whole": not one_way, "notes": notes})
    for line in notes:
        print(f"note: {line}")
    if [to] != this.kept("up")["heads"] and ran:
        command.downgrade(this.config, to)


def forth(this: Rehearsal) -> None:
    """Go there once more: what was kept is given back."""
    from alembic import command

    this.config.attributes["phase"] = os.environ.get("PHASE", "").strip() or "contract"
    command.upgrade(this.config, "head")


def look(this: Rehearsal, when: str) -> None:
    """Keep what schema and rows are like; after the way back and the way there again, compare with what they were."""
    first = this.kept("look-before") if when != "before" else None
    with this.connected() as connection:
        seen = picture.take(connection, this.given.schema, first)
    findings: list[Finding] = []
    notes: list[str] = []
    against = {"back": "before", "forth": "up"}.get(when)
    if against and (when != "back" or this.kept("back")["whole"]):
        counts, notes = picture.differences(this.kept(f"look-{against}"), seen)
        after = "after the way back" if when == "back" else "after the way back and there again"
        if counts:
            values = {"after": after, "differences": picture.shortened(counts)}
            findings = [Finding("rehearsal-differs", "staging", "", values)]
    this.keep(f"look-{when}", {**seen, "findings": _as_json(findings), "notes": notes})
    print(
        f"looked {when}: {seen['fingerprint']}, {len(seen['tables'])} tables"
        + (f", {len(notes)} notes" if notes else "")
    )
    _tell(findings)


def failed(this: Rehearsal, error: GuardError) -> None:
    """Keep why a stage has ended, for the report."""
    findings = error.findings if isinstance(error, Refused) else ()
    said = (
        f"refused ({', '.join(one.code for one in findings)}), {error.left}"
        if isinstance(error, Refused)
        else error.message
    )
    this.keep("failed", {"error": said, "findings": _as_json(findings)})


def steps(this: Rehearsal) -> list[dict[str, Any]]:
    """Each step that the copy has taken: how long it took, waited and held its locks."""
    copied = this.left("copy")
    if not copied:
        return []
    with this.connected() as connection:
        rows = connection.exec_driver_sql(_STEPS.format(schema=this.given.schema), (copied["history"],)).mappings()
        return [dict(row) for row in rows]


def sizes(this: Rehearsal) -> dict[str, dict[str, int | None]]:
    """Rows and bytes of each table of the copy, as far as they are known."""
    from mcp_planner_schema.inspect import table_sizes

    if not this.left("copy"):
        return {}
    with this.connected() as connection:
        return {name: {"rows": one.rows, "bytes": one.bytes} for name, one in table_sizes.read(connection).items()}


def _source() -> str:
    given = [name for name in SOURCES if os.environ.get(name, "").strip()]
    if len(given) != 1:
        said = f"{' and '.join(given)} are given" if given else "nothing says what the copy is made of"
        raise WrongUse(f"One of {', '.join(SOURCES)} is needed; {said}.", f"DUMP=production.dump {place.AGAIN}")
    return given[0]


def _runs() -> int:
    given = os.environ.get("RUNS", "").strip() or "7"
    if not given.isdigit() or not 1 <= int(given) <= 1000:
        raise WrongUse(f"RUNS is {given!r}; it is how often each query is run, 1 to 1000.", f"RUNS=7 {place.AGAIN}")
    return int(given)


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except Impossible as error:
        raise copying.impossible(error.problem, error.instead) from None


def _source_url(this: Rehearsal) -> URL:
    from mcp_planner_schema.guard import address

    try:
        return address.parse(os.environ["SOURCE_URL"].strip()).set(drivername="postgresql+psycopg2")
    except ValueError:
        raise WrongUse("SOURCE_URL is no database URL (it is not shown: it may hold a password).",
                       f"SOURCE_URL=postgresql://user@host:5432/database {place.AGAIN}") from None  # fmt: skip


def _refuse_itself(this: Rehearsal, server: Connection) -> None:
    """Raise :class:`Refused` where the source is the database that the copy would take the place of, by whatever name."""
    engine = connect.engine(_source_url(this), "mcp-planner staging copy")
    try:
        with connect.opened(engine) as source:
            cluster, name = place.which(source)
    finally:
        engine.dispose()
    if name == this.target.database and cluster == place.which(server)[0]:
        raise place.misplaced(this.target, "it is the source itself", "correct DATABASE_URL: name staging's database")


@contextmanager
def _archive(this: Rehearsal, kind: str) -> Iterator[copying.Archive]:
    if kind == "DUMP":
        with copying.of_file(Path(os.environ["DUMP"].strip()).expanduser()) as archive:
            yield archive
    else:
        with copying.of_source(this.given, _source_url(this), Path(this.given.archive_dir)) as archive:
            yield archive


def _programs(this: Rehearsal, server: Connection) -> client.Programs:
    major = int(execute(server, "SHOW server_version_num").scalar_one()) // 10000
    return client.find(this.given.pg_bin, major)


def _generated(this: Rehearsal, server: Connection) -> dict[str, Any]:
    wanted = generated.stats(this.config, os.environ.get("STATS", "").strip())
    of = f"example data, as many rows as {sum(wanted.rows.values()):,} of {', '.join(wanted.heads) or 'base'}"
    with copying.closed(server, this.target, generated.CREATED) as name:
        copying.put(server, this.target, this.given, name, of)
    return {**generated.fill(this.config, this.given, wanted, this.target), "of": of, "created": ""}


def _newest(this: Rehearsal, connection: Connection) -> int:
    there = connection.exec_driver_sql(
        "SELECT pg_catalog.to_regclass(%s) IS NOT NULL", (f"{this.given.schema}.history",)
    )
    if not there.scalar_one():
        return 0
    return int(connection.exec_driver_sql(f"SELECT coalesce(max(id), 0) FROM {this.given.schema}.history").scalar_one())


def _as_json(findings: Sequence[Finding]) -> list[dict[str, str]]:
    return [{"code": one.code, "where": one.where, "revision": one.revision, "text": one.text()} for one in findings]


def _tell(findings: Sequence[Finding]) -> None:
    for one in findings:
        print(f"\n{one.text()}\n")
