-- Several schemas: the same name in two of them, keys and types across, and one that Prisma is not shown.
CREATE SCHEMA app;
CREATE SCHEMA "odd ""schema";
CREATE SCHEMA nothing_in_it;
CREATE SCHEMA migration;
CREATE TYPE app.state AS ENUM ('on', 'off');
CREATE TYPE public.state AS ENUM ('here');
CREATE TABLE public.users (id int PRIMARY KEY);
CREATE TABLE app.users (id int PRIMARY KEY, other int REFERENCES public.users, state app.state DEFAULT 'on', here public.state);
CREATE TABLE app.only_here (id serial PRIMARY KEY, at uuid DEFAULT gen_random_uuid());
CREATE TABLE "odd ""schema"."t" (id int PRIMARY KEY REFERENCES app.users);
CREATE TABLE migration.history (id int PRIMARY KEY);
CREATE FUNCTION app.f(int) RETURNS int LANGUAGE sql RETURN $1;
CREATE VIEW app.seen AS SELECT id FROM app.users;
CREATE TABLE app.computed (id int PRIMARY KEY, a int DEFAULT app.f(1));
