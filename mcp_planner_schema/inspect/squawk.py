"""A second opinion on the SQL of a revision: squawk, told the server's version and whether a transaction is open."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mcp_planner_schema.guard.findings import Broken
from mcp_planner_schema.inspect.statements import Sent

MISSING = (
    "note: squawk is not installed, so the SQL was judged by the guard's own rules alone. "
    "It comes with the development packages: make setup, or pip install squawk-cli"
)
# Rules that the guard has a finding of its own for, with the names to write: where it found one, squawk's says nothing new.
COVERED = {
    "adding-foreign-key-constraint": "foreign-key-blocking",
    "adding-required-field": "column-required",
    "adding-serial-primary-key-field": "primary-key-blocking",
    "ban-alter-generated-expression": "column-expression-changed",
    "ban-alter-identity": "column-expression-changed",
    "ban-alter-policy-condition": "access-narrowed",
    "ban-alter-policy-roles": "access-narrowed",
    "ban-alter-row-level-security": "access-narrowed",
    "ban-char-field": "column-char",
    "ban-concurrent-index-creation-in-transaction": "concurrently-in-transaction",
    "ban-create-policy": "access-narrowed",
    "ban-detach-inheritance": "inheritance-changed",
    "ban-disable-trigger": "trigger-disabled",
    "ban-drop-column": "column-dropped",
    "ban-drop-constraint": "constraint-dropped",
    "ban-drop-database": "schema-dropped",
    "ban-drop-default": "default-changed",
    "ban-drop-domain": "object-dropped",
    "ban-drop-extension": "object-dropped",
    "ban-drop-function": "object-dropped",
    "ban-drop-generated-expression": "column-expression-changed",
    "ban-drop-index": "index-drop-blocking",
    "ban-drop-not-null": "not-null-dropped",
    "ban-drop-policy": "access-narrowed",
    "ban-drop-schema": "schema-dropped",
    "ban-drop-sequence": "object-dropped",
    "ban-drop-table": "table-dropped",
    "ban-drop-trigger": "object-dropped",
    "ban-drop-type": "object-dropped",
    "ban-drop-view": "object-dropped",
    "ban-replica-identity": "replica-identity",
    "ban-revoke": "access-narrowed",
    "ban-set-default": "default-changed",
    "ban-set-schema": "table-renamed",
    "ban-truncate-cascade": "table-truncated",
    "changing-column-type": "column-type-changed",
    "constraint-missing-not-valid": "check-blocking",
    "disallowed-unique-constraint": "unique-blocking",
    "identifier-too-long": "identifier-too-long",
    "prefer-identity": "column-numbered",
    "prefer-repack": "table-rewritten",
    "prefer-timestamp-tz": "column-zoneless",
    "renaming-object": "object-renamed",
    "require-concurrent-index-creation": "index-blocking",
    "require-concurrent-index-deletion": "index-drop-blocking",
    "require-concurrent-partition-detach": "partition-detach-blocking",
    "require-concurrent-reindex": "reindex-blocking",
    "require-enum-value-ordering": "enum-value-unplaced",
}
# Rules that do not hold here, or that the guard judges closer, each with the reason.
LEFT_OUT = {
    "prefer-robust-stmts": "IF NOT EXISTS takes a thing with another definition for the right one; the guard's steps run once",
    "prefer-text-field": "to widen a varchar(n) writes nothing anew; what it costs is one brief lock",
    "require-lock-timeout": "the guard sets it for every step",
    "require-statement-timeout": "the guard sets it for every step",
    "require-timeout-settings": "the guard sets both for every step",
    "require-table-schema": "the session's search_path is the application's too",
    "ban-add-column": "adding a column is what expand is for",
    "ban-add-enum-value": "adding a value is what expand is for",
    "adding-not-nullable-field": "not-null-blocking knows which checks have proven the column before",
    "adding-field-with-default": "column-default-volatile knows the functions that are the same for all rows",
    "ban-alter-domain-with-add-constraint": "domain-constrained knows NOT VALID",
    "ban-create-domain-with-constraint": "a domain that is new is in no table yet",
    "transaction-nesting": "transaction-statement knows savepoints",
    "ban-uncommitted-transaction": "transaction-statement says so already at its BEGIN",
    "renaming-column": "column-renamed knows what is given up in a contract",
    "renaming-table": "table-renamed knows the view that keeps the other name",
    "prefer-bigint-over-int": "a number that is no key may be small: key-narrow",
    "prefer-bigint-over-smallint": "a number that is no key may be small: key-narrow",
}


@dataclass(frozen=True)
class Objection:
    """What squawk says of one statement."""

    sent: Sent
    rule: str
    message: str
    help: str


def program() -> str | None:
    """Where squawk is: beside this Python, or on the PATH. None where it is not installed."""
    beside = Path(sys.executable).parent / "squawk"
    return str(beside) if beside.exists() else shutil.which("squawk")


def objections(squawk: str, statements: Sequence[Sent], server: str) -> list[Objection]:
    """What it objects to, but for the rules that are left out. Statements of one transaction are judged together."""
    found = []
    runs: list[list[Sent]] = []
    for sent in statements:
        if runs and sent.transaction and runs[-1][0].transaction == sent.transaction:
            runs[-1].append(sent)
        else:
            runs.append([sent])
    for run in runs:
        found += _of_one(squawk, run, server)
    return found


def _of_one(squawk: str, run: Sequence[Sent], server: str) -> list[Objection]:
    text, begins = "", list[int]()
    for sent in run:
        begins.append(text.count("\n"))
        text += sent.text + ";\n"
    command = [squawk, "--reporter=json", f"--pg-version={server}"]
    command += ["--assume-in-transaction"] if run[0].transaction else []
    ended = subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=60)
    try:
        told = json.loads(ended.stdout)
        return [
            Objection(
                run[max(place for place, begin in enumerate(begins) if begin <= one["line"])],
                one["rule_name"], one["message"], one.get("help") or "another statement, or a waiver with the reason",
            )
            for one in told
            if one["rule_name"] not in LEFT_OUT
        ]  # fmt: skip
    except (ValueError, KeyError, TypeError):
        said = (ended.stderr or ended.stdout).strip().partition("\n")[0]
        raise Broken(f"squawk gave no answer: {said or 'nothing'}.", f"{squawk} --version   (2.70 or newer)") from None
