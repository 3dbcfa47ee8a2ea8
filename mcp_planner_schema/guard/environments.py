"""Development, staging, production: what differs between them, in one table, and which of them a database counts as."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

ENVIRONMENTS = ("development", "staging", "production")


def _row(what: str, yes: str, no: str) -> Any:
    """One row of the table: what it is about, and what stands there for a yes and for a no."""
    return field(metadata={"what": what, "words": {True: yes, False: no}})


@dataclass(frozen=True)
class Environment:
    """What differs from one environment to the next. What preflight weighs stands in :mod:`.findings_preflight`."""

    contract_waits: bool = _row(
        "a revision of `Phase: contract`", "waits until it is asked for: `PHASE=contract`", "runs with the others"
    )
    archives: bool = _row(
        "what a downgrade destroys", "is kept in the stash, and in an archive that is proven", "is kept in the stash"
    )
    confirms: bool = _row("what destroys or forgets", "needs `CONFIRM=<database name>`", "runs")
    shows: bool = _row("the first line of a command", "says host, database, size and environment", "is its own")
    marks: bool = _row(
        "the marker", "is written by the first run, which says so", "is written where the environment is said"
    )
    resets: bool = _row("`migrate-reset`, `example-data`", "work, where that was said", "do not exist")
    explains: bool = _row(
        "`migrate-force` to what nothing proves", "needs a `REASON`, or stored fingerprints that agree", "goes, and is recorded"
    )  # fmt: skip
    stored: bool = _row(
        "a new revision whose fingerprint is not stored", "is refused", "runs; what it changes is written down"
    )


_OF = {
    "development": Environment(
        contract_waits=False,
        archives=False,
        confirms=False,
        shows=False,
        marks=False,
        resets=True,
        explains=False,
        stored=False,
    ),
    "staging": Environment(
        contract_waits=True,
        archives=True,
        confirms=False,
        shows=False,
        marks=True,
        resets=False,
        explains=True,
        stored=True,
    ),
    "production": Environment(
        contract_waits=True,
        archives=True,
        confirms=True,
        shows=True,
        marks=True,
        resets=False,
        explains=True,
        stored=True,
    ),
}


def of(name: str) -> Environment:
    """What holds in the environment of this name."""
    return _OF[name]


def table() -> str:
    """The same as Markdown; docs/environments.md shows it."""
    lines = [f"| | {' | '.join(ENVIRONMENTS)} |", f"|---|{'---|' * len(ENVIRONMENTS)}"]
    for one in fields(Environment):
        words = (one.metadata["words"][getattr(_OF[name], one.name)] for name in ENVIRONMENTS)
        lines.append(f"| {one.metadata['what']} | {' | '.join(words)} |")
    return "\n".join(lines) + "\n"


def guess(url: str | None, variables: Mapping[str, str]) -> tuple[str, str]:
    """The environment where nobody says which, and why: production wherever libpq would go to another machine.

    ``variables`` are libpq's own; ``url`` is None where the embedded server is used.
    """
    if url is None:
        return "development", "it is the embedded server"
    elsewhere = [host for host in _hosts(variables, url) if not is_local(host)]
    if elsewhere:
        return "production", f"{elsewhere[0]} is not this machine"
    return "development", "the server is on this machine"


def _hosts(variables: Mapping[str, str], url: str) -> list[str]:
    """Every host libpq would try: those of the URL, else those of its own variables. Empty means the local socket."""
    from mcp_planner_schema.guard import address

    try:
        made = address.parse(url)
    except ValueError:
        return ["what the URL names"]
    query = made.normalized_query
    hosts = [*filter(None, [made.host]), *query.get("host", ()), *query.get("hostaddr", ())]
    hosts = hosts or [value for name in ("PGHOST", "PGHOSTADDR") if (value := variables.get(name))]
    if "service" in query or variables.get("PGSERVICE"):
        hosts.append("what a service file names")
    return [host.strip() for names in hosts for host in names.split(",")]


def is_local(host: str) -> bool:
    """Whether this host is this machine, as far as its name says."""
    # A path, or @ and a name, is a socket of this machine.
    return re.fullmatch(r"|localhost|\[?::1\]?|127(\.[0-9]+){3}|[/@].*", host, re.IGNORECASE) is not None
