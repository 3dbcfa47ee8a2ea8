CREATE SCHEMA shape;
CREATE TABLE shape.t (id int PRIMARY KEY, k varchar(9), c char(3), n numeric, a int[], j jsonb, ts timestamptz, d date, b boolean);
CREATE TABLE shape.u (id int PRIMARY KEY, t_id int REFERENCES shape.t, "T" text, k text);
CREATE TABLE shape."Odd.Name" ("select" int, "x y" varchar);
CREATE VIEW shape.v01 AS SELECT * FROM shape.t;
CREATE VIEW shape.v02 AS SELECT t.* FROM shape.t t;
CREATE VIEW shape.v03 AS SELECT t AS whole, t.id FROM shape.t;
CREATE VIEW shape.v04 AS SELECT "select", "x y" FROM shape."Odd.Name" WHERE "x y" IN ('a.b', 'c');
CREATE VIEW shape.v05 AS SELECT t.id FROM shape.t LEFT JOIN shape.u USING (id);
CREATE VIEW shape.v06 AS SELECT t.id, u.k FROM shape.t, shape.u WHERE t.id = u.t_id AND t.k = u.k AND t.b;
CREATE VIEW shape.v07 AS SELECT id FROM shape.t WHERE id IN (SELECT t_id FROM shape.u WHERE u.k = t.k);
CREATE VIEW shape.v08 AS SELECT id FROM shape.t WHERE EXISTS (SELECT 1 FROM shape.t t2 WHERE t2.id = t.id + 1) AND NOT b;
CREATE VIEW shape.v09 AS SELECT id, (SELECT max(u.id) FROM shape.u WHERE u.t_id = t.id) AS newest FROM shape.t;
CREATE VIEW shape.v10 AS SELECT id, lag(n) OVER w, sum(n) OVER (w ROWS BETWEEN UNBOUNDED PRECEDING AND 1 FOLLOWING) FROM shape.t
    WINDOW w AS (PARTITION BY k ORDER BY id);
CREATE VIEW shape.v11 AS SELECT k, count(*) FILTER (WHERE b AND n > 1 AND n < 9) FROM shape.t GROUP BY GROUPING SETS ((k), ());
CREATE VIEW shape.v12 AS SELECT DISTINCT ON (k) k, id FROM shape.t ORDER BY k, id DESC NULLS LAST;
CREATE VIEW shape.v13 AS SELECT id FROM shape.t UNION ALL (SELECT id FROM shape.u EXCEPT SELECT id FROM shape.t WHERE id > 3);
CREATE VIEW shape.v14 AS WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < 5) SELECT n FROM r;
CREATE VIEW shape.v15 AS WITH a AS MATERIALIZED (SELECT id FROM shape.t), b AS (SELECT id FROM a) SELECT b.id FROM b;
CREATE VIEW shape.v16 AS SELECT x.id, y FROM shape.t x, LATERAL unnest(x.a) AS y;
CREATE VIEW shape.v17 AS SELECT g FROM generate_series(1, 9) g WHERE g BETWEEN 2 AND 8 AND g <> 5;
CREATE VIEW shape.v18 AS SELECT f.a, f.ordinality FROM unnest(ARRAY[1, 2]) WITH ORDINALITY AS f(a, ordinality);
CREATE VIEW shape.v19 AS SELECT * FROM ROWS FROM (generate_series(1, 2), unnest(ARRAY['a', 'b'])) AS r(n, s);
CREATE VIEW shape.v20 AS SELECT s.a FROM jsonb_to_recordset('[{"a": 1}]') AS s(a int, b text);
CREATE VIEW shape.v21 AS SELECT v.a FROM (VALUES (1, 'x'), (2, 'y')) v(a, b) WHERE v.b IN ('x', 'y');
CREATE VIEW shape.v22 AS VALUES (1, 'one'), (2, 'two');
CREATE VIEW shape.v23 AS SELECT extract(year FROM ts) AS y, ts AT TIME ZONE 'UTC' AS z, substring(k FROM 2 FOR 3) AS s,
    trim(BOTH 'x' FROM k) AS m, position('a' IN k) AS p, overlay(k PLACING 'z' FROM 1) AS o FROM shape.t;
CREATE VIEW shape.v24 AS SELECT CASE WHEN k IN ('a', 'b') THEN 1 WHEN n BETWEEN 1 AND 2 OR n BETWEEN 5 AND 6 THEN 2 END FROM shape.t;
CREATE VIEW shape.v25 AS SELECT coalesce(k, 'none') AS k, nullif(n, 0) AS n, greatest(id, 1) AS g, k || '.' || c AS q FROM shape.t;
CREATE VIEW shape.v26 AS SELECT j ->> 'a' AS a, j #> '{b,c}' AS b, a[1:2] AS s, a[1] AS f, (ROW(id, k)).f1 AS r FROM shape.t;
CREATE VIEW shape.v27 AS SELECT k LIKE 'a%' AS l, k SIMILAR TO 'a|b' AS s, k ~ '^t\.k' AS m, c IN ('a', 'b') AS i FROM shape.t;
CREATE VIEW shape.v28 AS SELECT (d, d + 1) OVERLAPS (DATE '2020-01-01', DATE '2020-02-01') AS o, b IS NOT TRUE AS n FROM shape.t;
CREATE VIEW shape.v29 AS SELECT id FROM shape.t ORDER BY id FETCH FIRST 3 ROWS WITH TIES;

CREATE VIEW shape.v30 AS SELECT o.id FROM (SELECT i.id FROM (SELECT t.id FROM shape.t WHERE t.k IN ('p', 'q')) i) o;
CREATE VIEW shape.v31 AS SELECT t.id FROM (shape.t JOIN shape.u ON t.id = u.t_id AND (t.b OR u.k IS NULL) AND t.n > 0);
CREATE VIEW shape.v32 AS SELECT id, k FROM ONLY shape.t shape WHERE shape.id > 1;
CREATE VIEW shape.v33 AS SELECT string_agg(k, ', ' ORDER BY k DESC) AS s, array_agg(DISTINCT id) AS a,
    percentile_cont(0.5) WITHIN GROUP (ORDER BY n) AS m FROM shape.t HAVING count(*) > 1;
CREATE VIEW shape.v34 AS SELECT current_date AS d, current_user AS u FROM shape.t;
CREATE VIEW shape.v35 AS SELECT x.k, y.k AS other FROM shape.v04 z, shape.t x FULL JOIN shape.u y ON x.id = y.id;
CREATE VIEW shape.v36 AS SELECT id FROM shape.t WHERE k = ANY (ARRAY['a', 'b']::varchar[]) AND k <> ALL (ARRAY['c']::text[]);
CREATE VIEW shape.v37 AS SELECT count(*) FROM shape.t TABLESAMPLE bernoulli (5) REPEATABLE (7);
CREATE VIEW shape.v38 AS SELECT id FROM shape.t WHERE id NOT IN (1, 2) AND NOT (b AND n > 0 AND n < 3) AND (k, c) = ('a', 'b');
CREATE VIEW shape.v39 AS SELECT p.id FROM shape.v02 AS p (id) WHERE (p.id > 1 AND p.id < 5) OR (p.id > 7 AND (p.id < 9 AND p.k = 'a'));
CREATE VIEW shape.v40 WITH (check_option = cascaded) AS SELECT id, k FROM shape.t WHERE n > 0;
ALTER TABLE shape.t ADD CHECK (k IN ('a', 'b''c') OR k LIKE '_(x AND y)%'), ADD CHECK (n BETWEEN 0 AND 1 AND id BETWEEN 2 AND 3),
    ADD CHECK (((b OR n > 1) OR id > 2) AND (k <> 'x' AND (c = 'y' AND d > '2020-01-01'))), ADD CHECK (k NOT IN ('q', 'r')),
    ADD CHECK (CASE WHEN b THEN k IN ('a') ELSE n BETWEEN 1 AND 2 AND id > 0 END), ADD CHECK (c IN ('abc', 'def')),
    ADD CHECK (k::text = ANY (ARRAY[k, c]::text[]) OR a @> ARRAY[1, 2]);
CREATE INDEX ON shape.t ((lower(k)), (n + 1)) WHERE k IN ('a', 'b') AND n BETWEEN 1 AND 5;
CREATE INDEX ON shape.t (coalesce(k, 'x'::varchar) COLLATE "C");
CREATE FUNCTION shape.f(x varchar DEFAULT 'a', y int[] DEFAULT ARRAY[1, 2], VARIADIC z text[] DEFAULT '{}') RETURNS SETOF shape.t
    LANGUAGE sql STABLE BEGIN ATOMIC SELECT * FROM shape.t WHERE k IN ('a', x) AND n BETWEEN 1 AND 2; END;
ALTER TABLE shape.u ALTER k SET DEFAULT coalesce(CASE WHEN now() BETWEEN '2020-01-01' AND '2021-01-01' THEN 'a'::varchar END, 'b');
