"""The tables of the manifest, see :mod:`.manifest`: ``stash`` and ``stash_object``, made where they are missing."""

from __future__ import annotations

TABLES = """
CREATE TABLE IF NOT EXISTS {schema}.stash (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run_id         bigint NOT NULL REFERENCES {schema}.run,
    version_table  text NOT NULL,
    revision       text NOT NULL,
    kept_in        text NOT NULL,
    state          text NOT NULL CHECK (state IN ('kept', 'restored', 'partly restored', 'purged')),
    server_version text NOT NULL DEFAULT pg_catalog.current_setting('server_version'),
    kept_at        timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    keep_until     timestamptz NOT NULL,
    who            text NOT NULL,
    why            text,
    archive        text,
    archive_sha256 text,
    xid            text NOT NULL DEFAULT pg_catalog.pg_current_xact_id()::text,
    written        jsonb NOT NULL DEFAULT '[]',
    ended_at       timestamptz,
    ended_by       text
);
ALTER TABLE {schema}.stash ADD COLUMN IF NOT EXISTS direction text NOT NULL DEFAULT 'downgrade'
    CHECK (direction IN ('upgrade', 'downgrade'));
ALTER TABLE {schema}.stash ADD COLUMN IF NOT EXISTS rights jsonb NOT NULL DEFAULT '[]';
ALTER TABLE {schema}.stash ADD COLUMN IF NOT EXISTS went jsonb NOT NULL DEFAULT '[]';
CREATE INDEX IF NOT EXISTS stash_revision ON {schema}.stash (revision, id);
CREATE INDEX IF NOT EXISTS stash_run ON {schema}.stash (run_id);
COMMENT ON TABLE {schema}.stash IS 'One row for each downgrade that would have destroyed something; kept_in is its schema';
COMMENT ON COLUMN {schema}.stash.direction IS 'upgrade: what a backfill has overwritten; the downgrade itself gives it back';
COMMENT ON COLUMN {schema}.stash.rights IS 'On what went beside the kept tables: sequences, views, routines, types, schemas';
COMMENT ON COLUMN {schema}.stash.went IS 'The catalog''s lines of all else that went: definitions and comments, for people';
COMMENT ON COLUMN {schema}.stash.keep_until IS 'migrate-stash-purge deletes nothing before this time';

COMMENT ON COLUMN {schema}.stash.xid IS
    'The downgrade''s transaction, the oldest that ran beside it, and where this table was';
COMMENT ON COLUMN {schema}.stash.written IS 'Tables that the downgrade put rows into: what it moved there may change';

CREATE TABLE IF NOT EXISTS {schema}.stash_object (
    stash_id      bigint NOT NULL REFERENCES {schema}.stash,
    number        integer NOT NULL,
    kind          text NOT NULL CHECK (kind IN ('table', 'columns', 'rows', 'sequence', 'definition')),
    object_schema text NOT NULL,
    object_name   text NOT NULL,
    relation      text,
    moved         boolean NOT NULL DEFAULT false,
    key_columns   text[] NOT NULL DEFAULT '{{}}',
    columns       text[] NOT NULL DEFAULT '{{}}',
    types         text[] NOT NULL DEFAULT '{{}}',
    lost_columns  text[] NOT NULL DEFAULT '{{}}',
    row_count     bigint,
    bytes         bigint,
    sum_0         numeric,
    sum_1         numeric,
    algorithm     text,
    last_value    bigint,
    is_called     boolean,
    grants        jsonb NOT NULL DEFAULT '[]',
    definition    text,
    left_as       jsonb,
    structure     jsonb,
    restored_rows bigint,
    left_rows     bigint,
    PRIMARY KEY (stash_id, number)
);
ALTER TABLE {schema}.stash_object ADD COLUMN IF NOT EXISTS body_read boolean NOT NULL DEFAULT true;
COMMENT ON TABLE {schema}.stash_object IS 'What a stash holds: kept tables, columns, changed rows, sequences, definitions';
COMMENT ON COLUMN {schema}.stash_object.relation IS 'The table in the stash''s schema that holds the rows';
COMMENT ON COLUMN {schema}.stash_object.lost_columns IS 'Columns that went; the others of columns are the key, or changed rows';
COMMENT ON COLUMN {schema}.stash_object.sum_0 IS 'Sum over the rows'' hashes, with seed 0; columns in the order of their names';
COMMENT ON COLUMN {schema}.stash_object.sum_1 IS 'The same with seed 1';
COMMENT ON COLUMN {schema}.stash_object.left_as IS 'What the table and its columns were called after the downgrade';
COMMENT ON COLUMN {schema}.stash_object.structure IS 'Of a moved table: what it must be like again to be moved back';
COMMENT ON COLUMN {schema}.stash_object.body_read IS 'false: the downgrade has moved nothing of it elsewhere';
COMMENT ON COLUMN {schema}.stash_object.left_rows IS 'Rows that did not go back: newer ones stand in their place';
"""
