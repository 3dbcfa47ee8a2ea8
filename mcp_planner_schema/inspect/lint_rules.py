"""Which findings a statement earns. Each rule looks at one action and at what its transaction has done before it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from mcp_planner_schema.inspect import column_rules
from mcp_planner_schema.inspect.column_rules import Hit
from mcp_planner_schema.inspect.past import Past
from mcp_planner_schema.inspect.sql_reader import Action
from mcp_planner_schema.inspect.statements import Sent

_GOES = ("table dropped", "object dropped", "column dropped", "constraint dropped", "truncate", "index dropped")


def judge(action: Action, sent: Sent, past: Past) -> Iterator[Hit]:
    """The findings of one action, before :meth:`Past.note`."""
    for code, values in _hits(action, sent, past):
        yield code, {
            "table": action.table, "name": action.name, "statement": sent.shown(),
            "columns": ", ".join(f'"{column}"' for column in action.columns) if code in _LISTED else ", ".join(action.columns),
            **values,
        }  # fmt: skip


_LISTED = ("index-blocking", "unique-blocking", "primary-key-blocking", "foreign-key-blocking")


def _hits(action: Action, sent: Sent, past: Past) -> Iterator[Hit]:
    yield from _anywhere(action, sent)
    rule = _ON_TABLES.get(action.kind)
    if rule and past.used(action.table):
        yield from rule(action, past)
    if action.kind in _BY_THEMSELVES and not (sent.operation and action.kind in ("timeout", "transaction")):
        yield _BY_THEMSELVES[action.kind], {}
    if action.kind in ("policy", "revoke") and not past.contract and past.used(action.table or action.name):
        yield "access-narrowed", {}
    if action.kind == "domain constrained" and past.used(action.name) and not action.says("NOT", "VALID"):
        yield "domain-constrained", {}
    if action.kind == "object dropped" and not past.contract and past.used(action.name):
        yield "object-dropped", {"what": action.rest[0].text}
    if action.kind == "object renamed" and past.used(action.table or action.name):
        yield "object-renamed", {"what": action.rest[0].text}
    if action.kind == "index dropped" and "CONCURRENTLY" not in action.words:
        yield "index-drop-blocking", {}


def _anywhere(action: Action, sent: Sent) -> Iterator[Hit]:
    """What is wrong on any table, a new one too."""
    alone = "CONCURRENTLY" in action.words or (action.kind == "detach" and action.says("CONCURRENTLY"))
    if alone and sent.transaction and action.kind != "refresh":
        yield "concurrently-in-transaction", {}
    if "EXISTS" in action.words and action.kind in ("table", "index", "created"):
        yield "if-not-exists", {}
    if action.kind in _GOES and action.says("CASCADE"):
        yield "dropped-cascade", {}
    for token in sent.tokens:
        if len(token.text.strip('"').encode()) > 63 and (token.word[:1].isalpha() or token.text[:1] == '"'):
            yield "identifier-too-long", {"name": token.text}
            break
    if action.kind == "table":
        yield from column_rules.narrow_key(action)
    if action.kind in ("column added", "column created"):
        yield from column_rules.weak(action)
    if action.kind == "index" and "UNIQUE" not in action.words and len(action.columns) > 3:
        yield "index-wide", {"count": str(len(action.columns))}
    if action.kind == "enum value added" and not any(action.says(word) for word in ("BEFORE", "AFTER")):
        yield "enum-value-unplaced", {}


# --- on tables that are in use --------------------------------------------------------------------------------------


def _index(action: Action, past: Past) -> Iterator[Hit]:
    if "CONCURRENTLY" not in action.words and "ONLY" not in action.words:
        yield "index-blocking", {"name": action.name or f"ix_{action.table}_{'_'.join(action.columns)}"}


def _unique(action: Action, past: Past) -> Iterator[Hit]:
    if not action.says("USING", "INDEX"):
        yield "unique-blocking", {"name": action.name or f"uq_{action.table}_{'_'.join(action.columns)}"}


def _primary_key(action: Action, past: Past) -> Iterator[Hit]:
    if not action.says("USING", "INDEX"):
        yield "primary-key-blocking", {"name": action.name or f"pk_{action.table}"}
    elif not any(table == action.table for table, _ in past.proven):
        yield "primary-key-nullable", {"name": action.name or f"pk_{action.table}"}


def _foreign_key(action: Action, past: Past) -> Iterator[Hit]:
    other = referred(action)
    if not action.says("NOT", "VALID"):
        yield (
            "foreign-key-blocking",
            {"other": other, "name": action.name or f"fk_{action.table}_{'_'.join(action.columns)}"},
        )
    if action.columns and (action.table, action.columns[0]) in past.added - past.indexed:
        yield "foreign-key-unindexed", {"other": other, "columns": action.columns[0]}


def referred(action: Action) -> str:
    """The table that a foreign key refers to."""
    words = [token.word for token in action.rest]
    at = words.index("REFERENCES") + 1 if "REFERENCES" in words else len(words)
    parts = []
    for token in action.rest[at:]:
        if token.word == "(":
            break
        parts.append(token.text)
        if not (token.word == "." or len(parts) % 2):
            break
    return "".join(part.strip('"') for part in parts[: 3 if "." in parts[1:2] else 1]).removeprefix("public.")


def _check(action: Action, past: Past) -> Iterator[Hit]:
    if not action.says("NOT", "VALID"):
        yield "check-blocking", {"name": action.name or f"ck_{action.table}_…"}


def _not_null(action: Action, past: Past) -> Iterator[Hit]:
    if (action.table, action.columns[0]) not in past.proven and not action.says("NOT", "VALID"):
        yield "not-null-blocking", {}


def _added(action: Action, past: Past) -> Iterator[Hit]:
    yield from column_rules.added(action)


def _validate(action: Action, past: Past) -> Iterator[Hit]:
    if past.transaction and action.table in past.strong:
        yield "validate-in-transaction", {}


def _attach(action: Action, past: Past) -> Iterator[Hit]:
    if "NEW" in action.words or action.name not in past.fresh | past.validated:
        yield "partition-attach-blocking", {}


def _detach(action: Action, past: Past) -> Iterator[Hit]:
    if not action.says("CONCURRENTLY") and not action.says("FINALIZE"):
        yield "partition-detach-blocking", {}


def _renamed(action: Action, past: Past) -> Iterator[Hit]:
    if not _given_up(action, past):
        yield "column-renamed", {}


def _table_renamed(action: Action, past: Past) -> Iterator[Hit]:
    """A view under the old name, or one that had the new name until now, lets both releases go on."""
    if not (_given_up(action, past) or action.table in past.later or (past.contract and action.name in past.gone)):
        yield "table-renamed", {}


def _given_up(action: Action, past: Past) -> bool:
    """Whether it is the first half of a drop, which can still be undone: the thing waits under another name."""
    return past.contract and action.name.startswith("dropped_")


def _rewrite(action: Action, past: Past) -> Iterator[Hit]:
    yield "table-rewritten", {"what": action.name.upper()}


def _reindex(action: Action, past: Past) -> Iterator[Hit]:
    if "CONCURRENTLY" not in action.words:
        yield "reindex-blocking", {}


def _refresh(action: Action, past: Past) -> Iterator[Hit]:
    if "CONCURRENTLY" not in action.words:
        yield "view-refresh-blocking", {}


def _bulk(action: Action, past: Past) -> Iterator[Hit]:
    if not action.says("WHERE"):
        yield "rows-in-bulk", {"what": action.kind.upper()}


def _always(code: str) -> Callable[[Action, Past], Iterator[Hit]]:
    def rule(action: Action, past: Past) -> Iterator[Hit]:
        yield code, {}

    return rule


def _in_contract(code: str) -> Callable[[Action, Past], Iterator[Hit]]:
    def rule(action: Action, past: Past) -> Iterator[Hit]:
        if not past.contract:
            yield code, {}

    return rule


_ON_TABLES: dict[str, Callable[[Action, Past], Iterator[Hit]]] = {
    "index": _index,
    "unique": _unique,
    "primary key": _primary_key,
    "exclude": _always("exclusion-blocking"),
    "foreign key": _foreign_key,
    "check": _check,
    "not null": _not_null,
    "null": _always("not-null-dropped"),
    "validate": _validate,
    "constraint dropped": _in_contract("constraint-dropped"),
    "column added": _added,
    "type": _always("column-type-changed"),
    "column renamed": _renamed,
    "column dropped": _in_contract("column-dropped"),
    "default": _always("default-changed"),
    "expression": _always("column-expression-changed"),
    "table renamed": _table_renamed,
    "table dropped": _in_contract("table-dropped"),
    "truncate": _always("table-truncated"),
    "rewrite": _rewrite,
    "lock": _always("table-locked"),
    "trigger switched": _always("trigger-disabled"),
    "replica identity": _always("replica-identity"),
    "attach": _attach,
    "detach": _detach,
    "inherit": _always("inheritance-changed"),
    "refresh": _refresh,
    "reindex": _reindex,
    "update": _bulk,
    "delete": _bulk,
}
_BY_THEMSELVES = {
    "enum value renamed": "enum-value-renamed",
    "type changed": "type-changed",
    "transaction": "transaction-statement",
    "timeout": "timeout-changed",
    "schema dropped": "schema-dropped",
}
