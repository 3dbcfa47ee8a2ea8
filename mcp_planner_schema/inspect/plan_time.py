"""How long a revision takes, as far as that can be told from the sizes of the tables and from what it took before.

What PostgreSQL does once per row has a speed; what changes the catalog only takes a moment; of everything else nobody knows,
and that is said. The speeds are measured (docs/lint-trace-phases.md, "Plan", says on what); a slow disk, many indexes or a busy
server may make it :data:`SLOWER` times slower, and the longer time is the one that counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from mcp_planner_schema.backfill.progress import lasting
from mcp_planner_schema.guard import budget
from mcp_planner_schema.inspect import column_rules, ddl, lint_rules
from mcp_planner_schema.inspect.past import Past
from mcp_planner_schema.inspect.planned import Estimate
from mcp_planner_schema.inspect.sql_reader import Action
from mcp_planner_schema.inspect.statements import Captured, Sent
from mcp_planner_schema.inspect.table_sizes import Size

SPEEDS = {"read": 700, "index": 160, "rewrite": 60}
"""Megabytes a second: of the table without its indexes to read it or to build an index, with them to write it anew."""

SLOWER = 10

_WORDS = {"read": "reading", "index": "an index on", "rewrite": "writing anew"}
_BUILDS = ("index", "unique", "primary key", "exclude", "reindex")
_READS = ("check", "foreign key", "validate", "not null", "attach")
_MAY_REWRITE = ("type", "column added", "rewrite", "expression", "altered")
# What changes the catalog and looks at no row, unless it says so above; the rest may run for any time.
_MOMENT = {
    "CREATE", "ALTER", "DROP", "COMMENT", "GRANT", "REVOKE", "SET", "RESET", "LOCK", "TRUNCATE", "BEGIN", "COMMIT", "SECURITY",
    "SAVEPOINT", "RELEASE", "ROLLBACK",
}  # fmt: skip
_ROWS_FROM = ("SELECT", "WITH", "EXECUTE", "TABLE", "VALUES")


@dataclass(frozen=True)
class Work:
    """What one statement does once per row of a table (``public.steps``)."""

    kind: str
    table: str


@dataclass
class Deploy:
    """The pending revisions so far, in their order: what they have made, and what they have renamed to what."""

    past: Past = field(default_factory=Past)
    renamed: dict[str, str] = field(default_factory=dict)

    def new(self, table: str) -> bool:
        """Whether one of them has made it."""
        return short(table) in self.past.fresh

    def now(self, table: str) -> str:
        """What the database calls it, before they run."""
        return self.renamed.get(table, table)


def full(name: str) -> str:
    """With its schema, as the stored locks have it."""
    return name if "." in name else f"public.{name}"


def short(name: str) -> str:
    """Without ``public.``, as people and the lint call it."""
    return name.removeprefix("public.")


def reckon(
    captured: Captured, deploy: Deploy, rewritten: Sequence[str] | None, sizes: Mapping[str, Size], *, single: bool
) -> Estimate:
    """One revision's time, onto tables of these sizes, after those that ``deploy`` has seen; it has seen this one then too.

    ``rewritten`` is None where nobody has traced it; ``single``: all of it is one transaction. How long it holds locks is the
    longest transaction, or statement that is none of :func:`.budget.online`, whether or not it needs any.
    """
    parts, unknown, least = [], list[str](), 0.0
    groups: dict[int, float | None] = {}
    for place, (sent, works, open_end) in enumerate(_works(captured, deploy, rewritten)):
        seconds: float | None = None if open_end else 0.0
        unknown += [open_end] if open_end else []
        for work in works:
            size = _size(work, sizes.get(deploy.now(work.table)))
            said = f"{_WORDS[work.kind]} {short(work.table)}"
            if size is None:
                unknown.append(f"{said}: its size is not known")
                seconds = None
                continue
            fast = size / SPEEDS[work.kind] / 1e6
            least += fast
            seconds = seconds + fast * SLOWER if seconds is not None else None
            parts.append(f"{said}: {between(fast, fast * SLOWER)}")
        group = sent.transaction or -place - 1
        if not (sent.transaction == 0 and (budget.online(sent.text) or _batches(sent))):
            before = groups.get(group, 0.0)
            groups[group] = before + seconds if before is not None and seconds is not None else None
    if captured.problem:
        unknown.append(f"what comes after a question to the database ({captured.problem})")
        groups |= {0: None} if single else {}
    held = None if None in groups.values() else max((one for one in groups.values() if one is not None), default=0.0)
    return Estimate(least, None if unknown else least * SLOWER, held, tuple(parts), tuple(dict.fromkeys(unknown)))


def between(least: float, most: float) -> str:
    """A time for people."""
    if most < 0.05:
        return "a moment"
    return f"about {lasting(least)} to {lasting(most)}" if least >= 0.05 else f"up to about {lasting(most)}"


def _size(work: Work, size: Size | None) -> int | None:
    if size is None:
        return None
    return size.bytes if work.kind == "rewrite" or size.own is None else size.own


def _works(
    captured: Captured, deploy: Deploy, rewritten: Sequence[str] | None
) -> Iterator[tuple[Sent, list[Work], str]]:
    past = deploy.past
    past.transaction = -1  # numbered anew in each revision
    left = set(rewritten or ())
    last = captured.statements[-1] if captured.statements else None
    for sent in captured.statements:
        past.begin(sent)
        found = []
        for action in ddl.actions(sent.tokens):
            if past.used(action.table):
                found += _of_rows(action, past)
                table = full(action.table)
                if action.kind in _MAY_REWRITE and (table in left if rewritten is not None else _rewrites(action)):
                    left.discard(table)
                    found.append(Work("rewrite", table))
            _rename(action, deploy)
            past.note(action)
        if sent is last:  # a rewrite that no statement tells of by itself: a function has done it
            found += [Work("rewrite", table) for table in sorted(left)]
        yield sent, found, "" if found else _open_end(sent)


def _of_rows(action: Action, past: Past) -> list[Work]:
    if action.says("NOT", "VALID") or action.says("USING", "INDEX"):
        return []
    table = full(action.table)
    if action.kind in _BUILDS:
        return [Work("index", table)]
    if action.kind == "not null" and (action.table, action.columns[0]) in past.proven:
        return []
    if action.kind == "attach":
        proven = past.fresh | past.validated
        return [] if action.name in proven or "NEW" in action.words else [Work("read", full(action.name))]
    if action.kind == "foreign key":
        return [Work("read", table), Work("read", full(lint_rules.referred(action)))]
    return [Work("read", table)] if action.kind in _READS else []


def _rewrites(action: Action) -> bool:
    return action.kind in ("type", "rewrite") or (action.kind == "column added" and column_rules.rewrites(action))


def _rename(action: Action, deploy: Deploy) -> None:
    if action.kind == "table renamed" and action.name and deploy.past.used(action.table):
        deploy.renamed[full(action.name)] = deploy.now(full(action.table))


def _batches(sent: Sent) -> bool:
    """A backfill, written down: it commits after each batch, and is told with its counts."""
    return sent.operation and sent.tokens[0].word == "DO"


def _open_end(sent: Sent) -> str:
    """Why nobody can say how long it takes; empty where that is known."""
    words = [token.word for token in sent.tokens]
    if sent.operation and (words[0] == "DO" or words[0] in _MOMENT):
        return "" if sent.transaction or words[0] != "DO" else "its backfill"
    if words[0] == "INSERT" and "VALUES" in words and not {"SELECT", "WITH"} & set(words):
        return ""
    makes_rows = words[0] == "CREATE" and ("TABLE" in words[:4] or "MATERIALIZED" in words[:4]) and _as_query(words)
    return "" if words[0] in _MOMENT and not makes_rows else f"what {sent.shown()} does"


def _as_query(words: Sequence[str]) -> bool:
    """Whether a query follows after AS, outside of any parentheses: there it says how a column is generated."""
    depth = 0
    for word, after in pairwise(words):
        depth += {"(": 1, ")": -1}.get(word, 0)
        if not depth and word == "AS" and after in (*_ROWS_FROM, "("):
            return True
    return False
