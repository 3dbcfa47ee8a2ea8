"""The part of the catalogue that is about rows which are changed by batches."""

from __future__ import annotations

from mcp_planner_schema.guard.rule import Rule

BACKFILL_RULES = (
    Rule(
        "backfill-differs",
        "the backfill {name} of {target} was begun as another one",
        "some rows were written by the former text, and how far that has come says nothing about this one",
        "the former text again, until it is done (where=…, verify=… and batch=… may be changed); or another name=\"…\" for "
        "the new one, which then begins with the first row",
    ),
    Rule(
        "downgrade-interrupted",
        "the way back of revision {revision} was interrupted while its backfill {name} gave old values back",
        "some rows have their old values and the version says that all have the new ones: what comes after rests on those",
        "finish the way back (it goes on where it was), and then go up again: {command}",
    ),
    Rule(
        "backfill-row",
        "the backfill {name} cannot write the row {row} of {table}: {error}",
        "every batch with that row fails, and what comes after it is never written",
        "correct the row, or change where=… so that it leaves the row out; then the same command goes on from there",
    ),
    Rule(
        "backfill-function",
        "the function of the backfill {name} fails at {row} of {table}: {error}",
        "nothing of its batch is written, and what comes after it is never reached",
        "a function that gives, of the rows that it gets, those that are to be written: mappings of the key and of each of "
        "writes=[…]; then the same command goes on from there",
    ),
    Rule(
        "backfill-not-kept",
        "the values that the backfill {name} overwrites in {target} cannot be kept: {problem}",
        "the header says Reversible: stash, and the downgrade would have nothing to give back",
        "a primary key that it does not set (op.add_primary_key_concurrently); or Reversible: lossless, where nobody misses the "
        "old values",
    ),
    Rule(
        "backfill-unverified",
        "the backfill {name} has gone through all rows, and its verify=… still counts {count}",
        "a contract revision would take away what those rows need",
        "a trigger in the expand phase for rows that are written meanwhile, or a where=… and a verify=… that mean the same rows; "
        "then repeat",
    ),
    Rule(
        "contract-unverified",
        "the backfill {name} of revision {revision} is done, and its verify=… counts {count} again",
        "a contract revision would take away what those rows need; somebody writes them without the expand phase's trigger",
        "first the trigger or the release that writes them right; then fill them (down to before {revision} and up again does it "
        "by batches, or by hand), and the same command",
    ),
    Rule(
        "backfill-hidden-rows",
        "row level security hides rows of {target} from the role that runs the backfill {name}",
        "they would be left out, and nobody would see it",
        "the table's owner, without FORCE ROW LEVEL SECURITY; or a role with BYPASSRLS (ALTER ROLE … BYPASSRLS, as a superuser)",
    ),
    Rule(
        "backfill-of-key",
        "the backfill {name} sets {column}, which is in the key that {target} is gone through by",
        "a row that gets a greater key is met again further on, and written again, without an end",
        "a new column, filled with the new keys, which then takes the place of the old one (KIND=change_type, docs/cookbook.md); "
        "or one UPDATE for a small table",
    ),
    Rule(
        "backfill-keyless",
        "{target} has no key that tells its rows apart, and the backfill {name} does not say which rows are left to do",
        "its rows are taken by their places, and a row that is written gets another one: it would be written again",
        "set=… with a where=… that a written row does not meet; or a primary key (op.add_primary_key_concurrently)",
    ),
    Rule(
        "rows-inline",
        "Type is schema, and the body has written more than {limit} rows of tables that were there before: {tables}",
        "each stays locked until COMMIT, whoever wants to change one waits for all, and replicas lag behind",
        'a revision of its own with Type: data and Transaction: none: op.backfill("{table}", set=…, where=…)',
        waivable=True,
    ),
    Rule(
        "script-literal",
        "op.run_script does not say which file belongs to the revision: {problem}",
        "the checksum covers what the call names; any other file could be changed after it was run, and nobody would know",
        'op.run_script("025/merge_users.py", arguments=…) in revision 025, with the file in alembic/scripts/025/',
    ),
    Rule(
        "script-unusable",
        "scripts/{file} cannot be used: {problem}",
        "it is part of the revision: read before anything runs, and of the same text wherever that runs",
        "a .py with def run(connection, *, limit: int) -> None, or a .sql with :limit; or remove the file",
    ),
    Rule(
        "script-arguments",
        "scripts/{file} is not called as it declares: {problem}",
        "it would fail half-way, or take something else for what was meant",
        "the arguments that its run(connection, *, …), or its :names, declare",
    ),
    Rule(
        "script-in-schema",
        "Type is {type}, and the body runs scripts/{file}",
        "who plans a deployment goes by the type: what changes rows is run by itself, when there is time for it",
        "a revision of its own with Type: data",
    ),
    Rule(
        "script-differs",
        "scripts/{file} was begun as another one: {problem}",
        "a part of it was run by the former text and stays, and the rest may not fit",
        "the former text of what was run already; what is to be done differently stands in a file of its own, called after it",
    ),
)  # fmt: skip
