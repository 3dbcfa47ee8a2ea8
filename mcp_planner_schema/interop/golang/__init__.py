"""golang-migrate: its folders in and out, its row in ``schema_migrations``, and a database that it has migrated so far.

What it does, as of v4: a folder holds ``{version}_{title}.up.sql`` and ``.down.sql``, ordered by the number. A whole file is
sent as one query. One row says the version that is being gone to, and ``dirty`` from before a file until after it.
"""
