"""The part of the catalogue that is about the SQL of a revision: what it would do to people who use the tables meanwhile."""

from __future__ import annotations

from mcp_planner_schema.guard.rule import Rule

SIZED = frozenset(
    {
        "index-blocking", "index-drop-blocking", "reindex-blocking", "unique-blocking", "primary-key-blocking",
        "exclusion-blocking", "foreign-key-blocking", "check-blocking", "not-null-blocking", "validate-in-transaction",
        "column-default-volatile", "column-generated", "column-numbered", "column-constrained", "column-type-changed",
        "partition-attach-blocking", "partition-detach-blocking", "table-rewritten", "rows-in-bulk", "domain-constrained",
        "scans-repeated",
    }
)  # fmt: skip
"""What hurts by its length: on a small table, these only warn."""

CONTRACTS = frozenset({"column-dropped", "table-dropped", "object-dropped", "constraint-dropped", "access-narrowed"})
"""What a revision of Phase: contract is for."""


def _rule(code: str, happens: str, hurts: str, instead: str, *, refuses: bool = True) -> Rule:
    return Rule(code, happens, hurts, instead, waivable=True, refuses=refuses)


_AGAIN = "then write to both, fill the old rows in batches, switch the readers, and drop the old one in Phase: contract"

LINT_RULES = (
    Rule(
        "contract-held",
        "revision {revision} is of phase contract, and runs in {environment} only when asked for",
        "it takes away what an older release may still use; deployed too early, that release fails at once",
        "when no older release runs any more: {command}",
    ),
    # --- indexes ------------------------------------------------------------------------------------------------
    _rule(
        "index-blocking",
        "CREATE INDEX on {table} without CONCURRENTLY",
        "every writer of the table waits until the index is built (SHARE lock)",
        'op.create_index_concurrently("{name}", "{table}", [{columns}])\n(with Transaction: none in the header)',
    ),
    _rule(
        "index-drop-blocking",
        "DROP INDEX {name} without CONCURRENTLY",
        "it waits for the last reader of the table, and everyone who comes after waits behind it (ACCESS EXCLUSIVE lock)",
        'op.drop_index_concurrently("{name}", "<its table>")\n(with Transaction: none in the header)',
    ),
    _rule(
        "reindex-blocking",
        "REINDEX of {table} without CONCURRENTLY",
        "writers wait until the index is built again, and so do readers whose plan would use it",
        'op.reindex_concurrently("{table}")\n(with Transaction: none in the header)',
    ),
    _rule(
        "concurrently-in-transaction",
        "{statement} runs inside a transaction",
        "PostgreSQL refuses it there, and the step fails where it is deployed",
        "Transaction: none in the header, and the operation instead of the SQL: it commits by itself\n"
        "op.create_index_concurrently, op.drop_index_concurrently, op.reindex_concurrently, op.detach_partition",
    ),
    _rule(
        "index-wide",
        "the index {name} on {table} has {count} columns and is not unique",
        "more than three columns rarely narrow a search down further, and every write pays for them",
        "begin with the columns that narrow down most, leave out the rest: op.create_index_concurrently(…)",
        refuses=False,
    ),
    # --- constraints --------------------------------------------------------------------------------------------
    _rule(
        "unique-blocking",
        "ADD UNIQUE on {table} builds its index under the lock",
        "nobody reads or writes the table until the index is built (ACCESS EXCLUSIVE lock)",
        'op.add_unique_concurrently("{name}", "{table}", [{columns}])',
    ),
    _rule(
        "primary-key-blocking",
        "ADD PRIMARY KEY on {table} builds its index and checks for nulls under the lock",
        "nobody reads or writes the table until both are done (ACCESS EXCLUSIVE lock)",
        'op.add_primary_key_concurrently("{name}", "{table}", [{columns}])',
    ),
    _rule(
        "primary-key-nullable",
        "ADD PRIMARY KEY USING INDEX on {table}, and nothing before it makes the columns NOT NULL",
        "where one of them may be null PostgreSQL reads the whole table under the lock to set NOT NULL",
        'op.add_primary_key_concurrently("{name}", "{table}", […])\n(it proves NOT NULL first)',
        refuses=False,
    ),
    _rule(
        "exclusion-blocking",
        "ADD EXCLUDE on {table} builds its index under the lock",
        "nobody reads or writes the table until it is built, and PostgreSQL has no way to build it beforehand",
        "a new table with the constraint, op.sync_columns between the two, and the old one dropped in Phase: contract",
    ),
    _rule(
        "foreign-key-blocking",
        "a foreign key on {table} is checked while it is added",
        "writers of {table} and of {other} wait until every row is looked up (SHARE ROW EXCLUSIVE lock on both)",
        'op.add_foreign_key_concurrently("{name}", "{table}", "{other}", [{columns}], […])',
    ),
    _rule(
        "foreign-key-unindexed",
        "the foreign key on {table} ({columns}) comes with a new column, and nothing here makes an index on it",
        "deleting a row of {other} reads all of {table}, each time",
        'op.create_index_concurrently("ix_{table}_{columns}", "{table}", ["{columns}"])',
        refuses=False,
    ),
    _rule(
        "check-blocking",
        "a check on {table} reads every row while it is added",
        "nobody reads or writes the table meanwhile (ACCESS EXCLUSIVE lock)",
        'op.add_check_concurrently("{name}", "{table}", "…")',
    ),
    _rule(
        "not-null-blocking",
        "SET NOT NULL on {table}.{columns} reads every row",
        "nobody reads or writes the table meanwhile (ACCESS EXCLUSIVE lock)",
        'op.set_not_null_concurrently("{table}", "{columns}")',
    ),
    _rule(
        "not-null-dropped",
        "{table}.{columns} may be null from now on",
        "a release that has never met a null there reads one as soon as the next one writes it",
        "let the application expect null first, deployed everywhere; then waive this",
        refuses=False,
    ),
    _rule(
        "validate-in-transaction",
        "VALIDATE CONSTRAINT on {table} runs in one transaction with what has locked the table before",
        "the scan is long and the lock is held to COMMIT: NOT VALID has spared nothing",
        'op.validate_constraint("{name}", "{table}")\n(in a revision of its own, or with Transaction: none)',
    ),
    _rule(
        "constraint-dropped",
        "the constraint {name} of {table} goes",
        "a release that relies on it (ON CONFLICT, an error it expects) still runs",
        "drop it in a revision of Phase: contract",
        refuses=False,
    ),
    _rule(
        "domain-constrained",
        "the domain {name} gets a constraint",
        "every table with a column of it is read under a lock, and a check can never be changed without that",
        "ALTER DOMAIN {name} ADD CONSTRAINT … NOT VALID, or a check on each table: op.add_check_concurrently(…)",
    ),
    # --- columns ------------------------------------------------------------------------------------------------
    _rule(
        "column-required",
        "{table}.{columns} is added NOT NULL and without a default",
        "it fails on a table with rows, and a release that does not know the column can insert none from then on",
        'op.add_column_with_default("{table}", "{columns}", "<type>", "<default>")',
    ),
    _rule(
        "column-default-volatile",
        "{table}.{columns} is added with a default that each row has its own value of",
        "the whole table is written anew while nobody reads or writes it (ACCESS EXCLUSIVE lock)",
        'op.add_column_with_default("{table}", "{columns}", "<type>", "<default>")',
    ),
    _rule(
        "column-generated",
        "{table}.{columns} is added as a stored generated column",
        "the whole table is written anew while nobody reads or writes it (ACCESS EXCLUSIVE lock)",
        "a plain column, kept by op.sync_columns, filled in batches; or GENERATED … VIRTUAL on PostgreSQL 18",
    ),
    _rule(
        "column-numbered",
        "{table}.{columns} is added as serial or identity",
        "the whole table is written anew to number its rows, while nobody reads or writes it",
        'op.add_column_with_default("{table}", "{columns}", "bigint", "nextval(…)")',
    ),
    _rule(
        "column-constrained",
        "{table}.{columns} is added with {what} in the same statement",
        "index or scan are done under the lock of ADD COLUMN, while nobody reads or writes the table",
        'op.add_column("{table}", …) without it, then {operation}',
    ),
    _rule(
        "column-type-changed",
        "the type of {table}.{columns} changes",
        "most changes write table and indexes anew under the lock, and the release that runs may not know the new type",
        f'op.sync_columns("{{table}}", "{{columns}}", "{{columns}}_new") with a column of the new type;\n{_AGAIN}',
    ),
    _rule(
        "column-renamed",
        "{table}.{columns} is renamed",
        "the release that runs asks for the old name and fails at once",
        f'op.sync_columns("{{table}}", "{{columns}}", "{{name}}") with a new column;\n{_AGAIN}',
    ),
    _rule(
        "column-dropped",
        "{table}.{columns} is dropped, and the revision is not of Phase: contract",
        "the release that runs still reads and writes the column",
        "take it out of the application, deploy that everywhere, then drop it in a revision of Phase: contract",
    ),
    _rule(
        "default-changed",
        "the default of {table}.{columns} changes",
        "rows that the running release inserts without the column get the new value from now on",
        "make sure that it can live with the new default; a client that caches defaults writes the old one",
        refuses=False,
    ),
    _rule(
        "column-expression-changed",
        "generation or identity of {table}.{columns} changes",
        "the table may be written anew, and inserts that worked until now are refused, or others accepted",
        f'op.sync_columns("{{table}}", "{{columns}}", "{{columns}}_new") with a new column;\n{_AGAIN}',
    ),
    _rule(
        "column-json",
        "{table}.{columns} is of type json",
        "json has no equality: SELECT DISTINCT, GROUP BY and UNION over the table fail from then on",
        "jsonb",
    ),
    _rule(
        "column-char",
        "{table}.{columns} is of type char(n)",
        "it is filled up with spaces, and to widen it writes the whole table anew",
        "text, with a check on its length",
        refuses=False,
    ),
    _rule(
        "column-zoneless",
        "{table}.{columns} is a timestamp without time zone",
        "the same value is another moment for every session with another TimeZone",
        "timestamp with time zone: sa.DateTime(timezone=True)",
        refuses=False,
    ),
    _rule(
        "key-narrow",
        "the key {table}.{columns} counts with fewer than 64 bits",
        "it is full one day, and to widen it writes the whole table and every table that refers to it anew",
        "bigint GENERATED ALWAYS AS IDENTITY: sa.BigInteger(), sa.Identity(always=True)",
        refuses=False,
    ),
    # --- tables -------------------------------------------------------------------------------------------------
    _rule(
        "table-renamed",
        "{table} is renamed, or moved into another schema",
        "the release that runs asks for the old name and fails at once",
        "a new table and op.sync_columns between the two, or a view under the other name in the same transaction;\n"
        "the old name goes in Phase: contract",
    ),
    _rule(
        "table-dropped",
        "{table} is dropped, and the revision is not of Phase: contract",
        "the release that runs still uses the table",
        "take it out of the application, deploy that everywhere, then drop it in a revision of Phase: contract",
    ),
    _rule(
        "object-dropped",
        "{what} {name} is dropped, and the revision is not of Phase: contract",
        "the release that runs, or a view or trigger of somebody else, may still use it",
        "drop it in a revision of Phase: contract",
        refuses=False,
    ),
    _rule(
        "object-renamed",
        "{what} {name} is renamed, or moved into another schema",
        "the release that runs asks for the old name and fails at once",
        "make a second one under the new name, and drop the old one in a revision of Phase: contract",
    ),
    _rule(
        "dropped-cascade",
        "{statement}: CASCADE",
        "it drops whatever depends on it on that database, which nobody has reviewed and no stash may keep",
        "name each thing that is to go, without CASCADE",
    ),
    _rule(
        "schema-dropped",
        "{statement}",
        "everything in it goes at once; no revision is for that",
        "drop the tables one by one, each in a revision of Phase: contract",
    ),
    _rule(
        "table-truncated",
        "TRUNCATE of {table}",
        "nobody reads or writes the table, or any that CASCADE finds, and every row is gone for those who run",
        "delete in batches what is to go, in a revision of Type: data",
    ),
    _rule(
        "table-rewritten",
        "{table} is written anew: {what}",
        "nobody reads or writes the table until that is done (ACCESS EXCLUSIVE lock)",
        "pg_repack, or a new table with op.sync_columns between the two; not in a revision",
    ),
    _rule(
        "table-locked",
        "LOCK TABLE {table} with no statement that needs it",
        "everyone waits for the whole step, not only for the part that must not be disturbed",
        "leave it out: each statement takes the lock it needs, and the guard takes those of a step in a fixed order",
    ),
    _rule(
        "trigger-disabled",
        "triggers of {table} are switched off or on",
        "what other sessions write meanwhile is not checked, counted or logged, foreign keys included",
        "SET LOCAL session_replication_role = replica, which holds for this session alone; or do it row by row",
    ),
    _rule(
        "replica-identity",
        "REPLICA IDENTITY of {table} changes",
        "subscribers and the amount of WAL change with it; it takes an ACCESS EXCLUSIVE lock",
        "in a revision of its own, after those who read the replication have agreed",
        refuses=False,
    ),
    _rule(
        "partition-attach-blocking",
        "{name} becomes a partition of {table} and is read meanwhile",
        "its rows, and those of a default partition, are checked under an ACCESS EXCLUSIVE lock",
        'op.attach_partition("{table}", "{name}", "FOR VALUES …")\n(a validated check spares the scan)',
    ),
    _rule(
        "partition-detach-blocking",
        "DETACH PARTITION {name} from {table} without CONCURRENTLY",
        "nobody reads or writes any partition until the last reader of the whole table is done",
        'op.detach_partition("{table}", "{name}")',
    ),
    _rule(
        "inheritance-changed",
        "{table} gets another parent, or none",
        "queries of the running release on the parent see rows appear or vanish",
        "let the application name both tables first; then waive this",
        refuses=False,
    ),
    _rule(
        "view-refresh-blocking",
        "REFRESH MATERIALIZED VIEW {table} without CONCURRENTLY",
        "nobody reads the view until it is filled again",
        "REFRESH MATERIALIZED VIEW CONCURRENTLY {table}   (it needs a unique index)",
    ),
    _rule(
        "if-not-exists",
        "{statement} says IF NOT EXISTS",
        "a thing of that name with another definition is taken for the right one, and databases differ for ever",
        "leave it out: a step is run once, and the operations of mcp_planner_schema compare definitions",
        refuses=False,
    ),
    _rule(
        "identifier-too-long",
        "the name {name} has more than 63 bytes",
        "PostgreSQL cuts it off, and two names that differ at their end become one",
        "a shorter name",
    ),
    # --- types, rows, transactions ------------------------------------------------------------------------------
    _rule(
        "enum-value-unplaced",
        "{name} gets a value without BEFORE or AFTER",
        "enums sort by the order of their values, not by the alphabet; at the end is a place too, but a chosen one",
        'op.add_enum_value("{name}", "…", after="…")',
        refuses=False,
    ),
    _rule(
        "enum-value-renamed",
        "a value of {name} is renamed",
        "the release that runs writes and compares the old one, and fails at once",
        'op.add_enum_value("{name}", "…") and, when nobody writes the old one, make migrate-create KIND=replace_enum',
    ),
    _rule(
        "type-changed",
        "the type {name} changes its attributes",
        "every table with a column of it is read or written anew, and the running release knows the old shape",
        "a new type, a new column, op.sync_columns between the two",
    ),
    _rule(
        "rows-in-bulk",
        "{what} changes all rows it finds in {table} at once",
        "each row stays locked until COMMIT, the table grows by as much, and replicas lag behind",
        "a revision of Type: data that goes in batches, each a transaction of its own; or op.add_column_with_default",
    ),
    _rule(
        "transaction-statement",
        "{statement} begins or ends a transaction",
        "the step is no longer whole: what comes before it stays when what comes after it fails",
        "leave it to the guard; Transaction: none and the operations, where a step cannot be one transaction",
    ),
    _rule(
        "timeout-changed",
        "{statement} changes a timeout",
        "the guard's own is no longer in force, and one waiting statement holds up everybody behind it",
        "lock_timeout and statement_timeout among the budgets of the revision",
    ),
    _rule(
        "scans-repeated",
        "{table} is read or written anew by {count} statements of one transaction",
        "each of them costs as much as the first, under the same lock",
        "one ALTER TABLE {table} with all actions, separated by commas; or the operations, each by itself",
    ),
    _rule(
        "locks-several",
        "one transaction holds strong locks on {count} tables that are in use: {tables}",
        "each is held until the last is had: who uses two of them in the other order deadlocks with the step",
        "a revision for each table; only what has to change at the same moment belongs together",
        refuses=False,
    ),
    _rule(
        "access-narrowed",
        "{statement} takes rights away or hides rows",
        "the release that runs is refused, or finds less, from one moment to the next",
        "in a revision of Phase: contract, when no release needs them any more",
        refuses=False,
    ),
    _rule(
        "squawk-objects",
        "squawk objects to {statement}: {rule}: {message}",
        "a second opinion finds what the guard's own rules do not look for",
        "{help}",
    ),
)
