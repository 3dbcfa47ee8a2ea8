CREATE SCHEMA app;
COMMENT ON SCHEMA app IS 'what this is about';
CREATE TYPE app.mood AS ENUM ('glad', 'so-so', 'o''clock');
CREATE TYPE app.pair AS (x int, y text);
CREATE TYPE app.span AS RANGE (subtype = float8, subtype_diff = float8mi);
CREATE DOMAIN app.email AS text COLLATE "C" DEFAULT 'nobody@example.org' NOT NULL CONSTRAINT has_at CHECK (VALUE ~ '@');
CREATE COLLATION app.plain (locale = 'C');
CREATE TABLE app.person (
    id      int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name    varchar(80) NOT NULL CHECK (name <> ''),
    mood    app.mood DEFAULT 'glad',
    mail    app.email,
    kind    varchar(20) DEFAULT 'guest' CHECK (kind IN ('guest', 'member', 'owner')),
    born    date DEFAULT '2000-01-31' CHECK (born BETWEEN '1900-01-01' AND '2100-01-01' AND born <> '1970-01-01'),
    since   timestamptz DEFAULT '2020-01-31 12:00:00+00',
    patience interval DEFAULT '1 day 02:00:00',
    picture bytea DEFAULT '\xdeadbeef',
    path    text DEFAULT 'C:\temp' COLLATE app.plain,
    ratio   float8 DEFAULT 0.1,
    "Odd Name" text,
    lower_name text GENERATED ALWAYS AS (lower(name)) STORED,
    gone    int,
    UNIQUE (name, mood)
);
ALTER TABLE app.person DROP COLUMN gone, ADD COLUMN numbers int[], ADD COLUMN place app.pair;
ALTER TABLE app.person ALTER path SET STORAGE EXTERNAL, ALTER ratio SET STATISTICS 200, SET (fillfactor = 70);
COMMENT ON TABLE app.person IS 'people';
COMMENT ON COLUMN app.person.name IS 'how they are called';
COMMENT ON CONSTRAINT person_pkey ON app.person IS 'the key';
CREATE TABLE app.task (
    id      serial PRIMARY KEY,
    person  int NOT NULL REFERENCES app.person ON DELETE CASCADE,
    during  int4range,
    title   text,
    EXCLUDE USING gist (during WITH &&)
);
ALTER TABLE app.task ADD CONSTRAINT other FOREIGN KEY (person) REFERENCES app.person DEFERRABLE INITIALLY DEFERRED;
ALTER TABLE app.task ADD CONSTRAINT titled CHECK (title IS NOT NULL) NOT VALID;
CREATE INDEX by_title ON app.task (lower(title) text_pattern_ops, person DESC) INCLUDE (during) WHERE title LIKE 'a%';
CREATE UNIQUE INDEX once ON app.task (person, title);
ALTER TABLE app.task REPLICA IDENTITY FULL;
CREATE STATISTICS app.together (dependencies) ON person, title FROM app.task;
CREATE UNLOGGED TABLE app.scratch (a int, b text) WITH (autovacuum_enabled = off, toast.autovacuum_enabled = off);
CREATE TABLE app.event (id bigint NOT NULL, at date NOT NULL, body text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE app.event_2026 PARTITION OF app.event FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
CREATE TABLE app.event_rest PARTITION OF app.event DEFAULT;
CREATE INDEX event_body ON app.event (body);
CREATE TABLE app.parent (a int, CHECK (a > 0));
CREATE TABLE app.child (b int) INHERITS (app.parent);
CREATE SEQUENCE app.number START 5 INCREMENT 5 MAXVALUE 500 CYCLE;
CREATE VIEW app.adults AS SELECT p.name, count(*) AS tasks, max(t.title) AS title FROM app.person p JOIN app.task t
    ON t.person = p.id AND t.title <> 'p.name' GROUP BY p.name HAVING count(*) > 0;
CREATE VIEW app.names AS SELECT name, kind, sum(ratio) OVER (PARTITION BY kind ORDER BY name ROWS BETWEEN 1 PRECEDING
    AND CURRENT ROW) FROM app.person WHERE kind IN ('guest', 'owner') AND born BETWEEN '1950-01-01' AND '2000-01-01'
    AND (id IS DISTINCT FROM 7 OR EXISTS (SELECT FROM app.task t WHERE t.person = person.id));
CREATE VIEW app.inner_names AS SELECT s.name FROM (SELECT name, id FROM app.person) s WHERE s.id > 0;
CREATE VIEW app.counted WITH (security_barrier) AS WITH all_of AS (SELECT kind FROM app.person) SELECT kind, count(*)
    FROM all_of GROUP BY kind ORDER BY kind LIMIT 3;
CREATE VIEW app.both_names AS SELECT name FROM app.person UNION SELECT title FROM app.task;
CREATE VIEW app.series AS SELECT g, g + 1 AS next FROM generate_series(1, 3) AS g;
CREATE VIEW app.sampled AS SELECT title FROM app.task TABLESAMPLE system (10);
CREATE VIEW app.constant AS SELECT 1 AS one;
CREATE MATERIALIZED VIEW app.kept AS SELECT kind, count(*) AS people FROM app.person GROUP BY kind;
CREATE INDEX by_kind ON app.kept (kind);
CREATE RULE no_delete AS ON DELETE TO app.adults DO INSTEAD NOTHING;
CREATE FUNCTION app.stamp() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- It's a 'quoted' word (and not "closed
    NEW.title := coalesce(NEW.title, 'none');
    RETURN NEW;
END
$$;
CREATE FUNCTION app.add(a int, b int DEFAULT 1) RETURNS int LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    BEGIN ATOMIC SELECT a + b WHERE a > 0 AND b > 0 AND a < 9; END;
CREATE FUNCTION app.same(text, text) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT lower($1) = lower($2)';
CREATE PROCEDURE app.tidy() LANGUAGE sql AS 'DELETE FROM app.scratch';
CREATE AGGREGATE app.total (int) (sfunc = int4pl, stype = int, initcond = '0');
CREATE OPERATOR app.=~= (leftarg = text, rightarg = text, function = app.same, commutator = OPERATOR(app.=~=));
CREATE CAST (app.pair AS text) WITH INOUT AS ASSIGNMENT;
CREATE TEXT SEARCH CONFIGURATION app.words (COPY = simple);
CREATE TRIGGER stamp BEFORE INSERT OR UPDATE OF title ON app.task FOR EACH ROW WHEN (NEW.person > 0 AND NEW.id > 0)
    EXECUTE FUNCTION app.stamp();
COMMENT ON FUNCTION app.stamp() IS 'a title at last';
COMMENT ON TRIGGER stamp ON app.task IS 'when it fires';
ALTER TABLE app.person ENABLE ROW LEVEL SECURITY;
CREATE POLICY members ON app.person FOR SELECT USING (kind IN ('member', 'owner'));
CREATE POLICY own ON app.person AS RESTRICTIVE FOR UPDATE TO PUBLIC USING (name = CURRENT_USER) WITH CHECK (ratio > 0);
CREATE PUBLICATION news FOR TABLE app.person, app.task WITH (publish = 'insert');
CREATE FUNCTION app.noticed() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
CREATE EVENT TRIGGER noticed ON ddl_command_end WHEN TAG IN ('DROP TABLE', 'CREATE CAST') EXECUTE FUNCTION app.noticed();
CREATE FOREIGN DATA WRAPPER nothing;
CREATE SERVER elsewhere FOREIGN DATA WRAPPER nothing OPTIONS (host 'other.example', password 'hush');
CREATE FOREIGN TABLE app.afar (a int OPTIONS (column_name 'b')) SERVER elsewhere OPTIONS (table_name 'x');
GRANT SELECT, UPDATE ON app.task TO PUBLIC;
GRANT UPDATE (title) ON app.task TO PUBLIC;
GRANT USAGE ON SCHEMA app TO PUBLIC;
REVOKE EXECUTE ON FUNCTION app.add(int, int) FROM PUBLIC;
ALTER DEFAULT PRIVILEGES IN SCHEMA app GRANT SELECT ON TABLES TO PUBLIC;
