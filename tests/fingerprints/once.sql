CREATE SCHEMA way;
CREATE TYPE way.size AS ENUM ('small', 'middle', 'large');
CREATE TABLE way.parent (a int CONSTRAINT other_pkey PRIMARY KEY);
CREATE TABLE way.thing (
    id int PRIMARY KEY, kind text DEFAULT 'b' CONSTRAINT kinds CHECK (kind IN ('a', 'b')), place text, price numeric(10, 2),
    parent int CONSTRAINT parents REFERENCES way.parent
) WITH (fillfactor = 50);
CREATE VIEW way.shown AS SELECT id, kind FROM way.thing WHERE id > 1;
CREATE FUNCTION way.f() RETURNS int LANGUAGE sql AS 'SELECT 1';
COMMENT ON TABLE way.thing IS 'a thing';
