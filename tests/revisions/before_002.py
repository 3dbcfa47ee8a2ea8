"""Create the tables that the revisions 002 here change.

Version: 001
Description: Tables, types and views for the tests
Author: A Tester <tester@example.org>
Date: 2026-01-31
Dependencies: None
Type: schema
Phase: expand
Transaction: single
Reversible: stash
"""

from alembic import op

from mcp_planner_schema.operations import expect

revision = "001"
down_revision = None
branch_labels = None
depends_on = None

expectations = [
    expect.table("thing"),
]


def upgrade() -> None:
    op.execute("CREATE TABLE parent (id bigint PRIMARY KEY)")
    op.execute(
        "CREATE TABLE thing (id bigint PRIMARY KEY, parent_id bigint, name text, size int NOT NULL,"
        " twice bigint GENERATED ALWAYS AS (size * 2) STORED, note text CONSTRAINT ck_thing_note CHECK (note <> ''))"
    )
    op.execute("ALTER TABLE thing ADD CONSTRAINT ck_thing_ready CHECK (size >= 0) NOT VALID")
    op.execute("CREATE INDEX ix_thing_name ON thing (name)")
    op.execute("CREATE UNIQUE INDEX uq_thing_name ON thing (name)")
    op.execute("CREATE TABLE loose (id bigint)")
    op.execute("CREATE UNIQUE INDEX uq_loose_id ON loose (id)")
    op.execute("CREATE TABLE ancestor (id bigint)")
    op.execute("CREATE TABLE heir () INHERITS (ancestor)")
    op.execute("CREATE TABLE parts (id bigint) PARTITION BY RANGE (id)")
    op.execute("CREATE TABLE part PARTITION OF parts FOR VALUES FROM (0) TO (10)")
    op.execute("CREATE VIEW things AS SELECT id FROM thing")
    op.execute("CREATE MATERIALIZED VIEW counts AS SELECT count(*) AS n FROM parent")
    op.execute("CREATE UNIQUE INDEX uq_counts ON counts (n)")
    op.execute("CREATE TYPE mood AS ENUM ('sad', 'so so')")
    op.execute("CREATE TYPE shape AS (width int)")
    op.execute("CREATE DOMAIN amount AS int")
    op.execute("CREATE SCHEMA extra")
    op.execute("CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END'")
    op.execute("CREATE FUNCTION idle() RETURNS int LANGUAGE sql RETURN 1")
    op.execute("CREATE TRIGGER thing_touch BEFORE UPDATE ON thing FOR EACH ROW EXECUTE FUNCTION touch()")


def downgrade() -> None:
    op.execute("DROP SCHEMA extra")
    op.execute("DROP DOMAIN amount")
    op.execute("DROP TYPE shape, mood")
    op.execute("DROP MATERIALIZED VIEW counts")
    op.execute("DROP VIEW things")
    op.execute("DROP TABLE parts, loose, thing, parent, heir, ancestor")
    op.execute("DROP FUNCTION touch(), idle()")
