"""Prisma: its folder of migrations in, a database that it has migrated so far, and the schema written for it.

What Prisma Migrate does, as of 6 and 7: a folder holds ``{name}/migration.sql``, in the order of the names. A whole file is sent
as one query; through a driver adapter it is cut at each semicolon. ``_prisma_migrations`` has a row for each attempt.
"""
