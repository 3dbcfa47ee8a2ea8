# Everything a person types. `make help` lists it.
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
SHELL := /bin/sh

# The first Python that is new enough; PYTHON=… chooses another for a new .venv.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
PY := .venv/bin/python
# NAME=value given to make is handed on by name; the value itself goes through the environment. Neither make nor a shell
# reads it: what looks like a variable or a command in it ($(shell …), $5, `…`) arrives as it was typed.
GIVEN := $(foreach v,$(filter-out PYTHON PYTEST MAKEFLAGS SHELL,$(.VARIABLES)),$(if $(filter command,$(origin $(v))),$(v)))
$(foreach v,$(GIVEN),$(eval export override $(v) := $$(value $(v))))
# Not called RUN: that may be given, make migrate-report RUN=42.
COMMAND = @$(PY) -m mcp_planner_schema $@ $(GIVEN:%=--make=%)

TARGETS := help setup test test-all lint format lock bench bench-availability findings schema-doc schema-sql known-revisions init \
	migrate-create migrate-up migrate-down migrate-goto migrate-plan migrate-status migrate-force migrate-validate \
	migrate-preflight migrate-trace migrate-fingerprint migrate-verify migrate-drift migrate-doctor migrate-history \
	migrate-report \
	migrate-restore migrate-stash-list migrate-stash-show migrate-stash-verify migrate-stash-purge migrate-accept \
	migrate-recover migrate-rebase migrate-reset migrate-rehearsed staging-deploy config environment-set \
	backfill-pause backfill-resume backfill-stop db-start db-stop db-shell db-status example-data table-stats \
	migrate-export migrate-import migrate-adopt models-pull
.PHONY: $(TARGETS)

# Before anything runs: `make migrate-down 005` would go one step back first and complain about 005 afterwards.
$(foreach goal,$(MAKECMDGOALS),$(if $(filter $(goal),$(TARGETS) .venv/installed),,\
	$(error There is no target $(goal). A version is given by name: make migrate-down TO=005. next: make help)))

help: ## List the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':[^#]*## ' '{printf "  %-20s %s\n", $$1, $$2}'

.venv/installed: requirements.lock
	@$(or $(PYTHON),false) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "Python 3.11 or newer is needed; $(or $(PYTHON),none) is not it. next: make PYTHON=/path/to/python3.12 setup" >&2; exit 2; }
	@echo "setting up .venv with $(PYTHON) from requirements.lock (once, about a minute)" >&2
	@$(PYTHON) -m venv .venv || { echo "next: install your system's venv package (Debian: apt install python3-venv)" >&2; exit 2; }
	@$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@touch $@

setup: .venv/installed ## Make .venv from requirements.lock (every other target does it by itself)

init: setup ## A project of somebody's own under guard, laid into an empty folder: DIR=../notes
	$(COMMAND)

migrate-create: setup ## New revision with its header: NAME=add_x [TYPE=schema|data|function] [AUTO=1] [FORMAT=sql]; KIND=rename_column … writes a change of several
	$(COMMAND)

migrate-up: setup ## Migrate up, to head or TO=003; PHASE=expand stops before a contract; DRY_RUN=1 prints the SQL
	$(COMMAND)

migrate-down: setup ## Go back one step, STEPS=2 or TO=003; DRY_RUN=1 shows what would go; production: CONFIRM=<database>
	$(COMMAND)

migrate-goto: setup ## Go to VERSION=003, up or down
	$(COMMAND)

migrate-plan: setup ## What an upgrade would do, revision by revision: [TO=003] [FROM=002: without a database] [FULL=1] [FORMAT=markdown] [JSON=1]
	$(COMMAND)

migrate-status: setup ## Where the database stands and what is pending; JSON=1
	$(COMMAND)

migrate-force: setup ## Move only the version: VERSION=003 [REASON="why"], which staging and production demand; production: CONFIRM=<database>
	$(COMMAND)

migrate-accept: setup ## Let an edited applied revision stand as it is now: VERSION=003 REASON="why"
	$(COMMAND)

migrate-recover: setup ## Write the file of a revision that only the database has: VERSION=026 [DIR=/tmp/recovered]
	$(COMMAND)

migrate-rebase: setup ## Put a revision that nobody has applied after another: VERSION=026 [ONTO=025] [ALONG=1]
	$(COMMAND)

migrate-validate: setup ## Judge every revision file, and the SQL of those to be deployed; needs no database
	$(COMMAND)

migrate-preflight: setup ## Ask the server everything that a run would be refused for, and change nothing: [TO=003] [JSON=1]
	$(COMMAND)

migrate-trace: setup ## Run the pending revisions on a scratch database and store the locks they take: [VERSION=003|all]
	$(COMMAND)

migrate-fingerprint: setup ## Write what each new revision makes of the catalog, found on a scratch database: [VERSION=003|all]
	$(COMMAND)

migrate-verify: setup ## Run every expectation of the applied revisions
	$(COMMAND)

migrate-drift: setup ## Whether the database is what its revisions have made of it; JSON=1; EXIT_CODE=1 ends as prisma migrate diff does
	$(COMMAND)

migrate-doctor: setup ## What interrupted work has left, and what no revision explains, each with its cure; JSON=1
	$(COMMAND)

migrate-history: setup ## What was run, when, by whom; JSON=1
	$(COMMAND)

migrate-report: setup ## What happened in one run, the newest or RUN=42: [FORMAT=markdown|html] [OUT=report.html] [JSON=1]
	$(COMMAND)

migrate-restore: setup ## Give back what a downgrade of VERSION=003 kept: [ID=3] [ARCHIVE=file.dump] [DRY_RUN=1]
	$(COMMAND)

migrate-stash-list: setup ## What downgrades have kept; JSON=1
	$(COMMAND)

migrate-stash-show: setup ## Everything about one stash: ID=3 [JSON=1]
	$(COMMAND)

migrate-stash-verify: setup ## Read the kept rows again, compare with the manifest: [ID=3]
	$(COMMAND)

migrate-stash-purge: setup ## Delete kept rows for good: ID=3 CONFIRM=migration_stash_3; production: CONFIRM=<database>.migration_stash_3
	$(COMMAND)

migrate-reset: setup ## Development only: drop everything and build it again
	$(COMMAND)

migrate-rehearsed: setup ## Whether what is pending was rehearsed on staging: [REHEARSAL=file] [PHASE=expand]
	$(COMMAND)

staging-deploy: setup ## Rehearse what is pending on a masked copy: DUMP=file, SOURCE_URL=… or GENERATE=1 (docs/staging.md)
	@scripts/staging-deploy.sh

migrate-export: setup ## Write for another tool: FORMAT=golang-migrate DIR=migrations [TO=003], FORMAT=prisma [DIR=prisma]
	$(COMMAND)

migrate-import: setup ## Revisions from another tool's folder: FROM=golang-migrate|prisma DIR=migrations [AUTHOR=…]
	$(COMMAND)

migrate-adopt: setup ## Take a database over from another tool: FROM=golang-migrate|prisma [TABLE=…] [AT=003] [KEEP=1] [REASON="why"]
	$(COMMAND)

models-pull: setup ## SQLAlchemy models of a live database: OUT=models.py [SCHEMA=public,app]
	$(COMMAND)

config: setup ## The value of each setting, and from where it is; JSON=1
	$(COMMAND)

environment-set: setup ## Say to a database what it is from now on, as to a copy: ENV=staging CONFIRM=<its name> [REASON="why"]
	$(COMMAND)

backfill-pause: setup ## Let a running backfill wait, until it is resumed: [NAME=steps.title_length] [REVISION=031]
	$(COMMAND)

backfill-resume: setup ## Let a paused backfill go on: [NAME=…] [REVISION=031]
	$(COMMAND)

backfill-stop: setup ## End a running backfill after its batch; migrate-up goes on there: [NAME=…] [REVISION=031]
	$(COMMAND)

table-stats: setup ## Write the sizes of the tables, which migrate-validate goes by, from DATABASE_URL
	$(COMMAND)

example-data: setup ## Fill every table with believable rows: PROJECTS=100 [SEED=1]
	$(COMMAND)

db-start: setup ## Start the embedded PostgreSQL
	$(COMMAND)

db-stop: setup ## Stop the embedded PostgreSQL
	$(COMMAND)

db-shell: setup ## psql on the embedded PostgreSQL
	$(COMMAND)

db-status: setup ## Whether the embedded PostgreSQL runs, and where
	$(COMMAND)

test: setup ## The whole suite but the long tests
	@$(PY) -m pytest -n 2 $(PYTEST)

test-all: setup ## The suite with the long tests
	@$(PY) -m pytest -n 2 -m "long or not long" $(PYTEST)

lint: setup ## ruff and mypy
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy

format: setup ## Let ruff put the code in shape
	@$(PY) -m ruff format .
	@$(PY) -m ruff check --fix .

findings: setup ## Write docs/findings.md from the catalogue
	$(COMMAND)

schema-doc: setup ## Write docs/schema.md, tables and diagram, from the models
	$(COMMAND)

schema-sql: setup ## Write alembic/schema.sql, the whole schema to read, from alembic/catalog
	$(COMMAND)

known-revisions: setup ## Write what the package knows of its revisions, for check_compatible
	$(COMMAND)

lock: setup ## Write requirements.lock from pyproject.toml
	@.venv/bin/uv pip compile --quiet pyproject.toml --extra dev --universal --python-version 3.11 --upgrade \
		--generate-hashes --no-emit-index-url --no-header --no-annotate -o requirements.lock

bench: setup ## Measure, side by side with what there is to beat
	@$(PY) -m bench

bench-availability: setup ## What readers and writers feel of each change, about 40 minutes: [ROWS=200000] [CHANGES='check,reindex']
	@$(PY) -m bench.availability
