#!/usr/bin/env bash
# Rehearses what is pending on a copy of production: masked, migrated, measured before and after, back and there again. The
# record that it writes is what production asks for (make migrate-rehearsed). docs/staging.md tells all of it.
#
#   DATABASE_URL=postgresql://…/planner_staging PLANNER_ENV=staging DUMP=production.dump scripts/staging-deploy.sh
#
# DATABASE_URL     staging's database: the copy takes its place. One that holds tables and is no copy needs CONFIRM=<its name>.
# PLANNER_ENV      staging or development; it has to be said. Production's databases are never replaced.
# One of these says what the copy is made of:
#   DUMP           a file of pg_dump --format=custom
#   SOURCE_URL     a database to take it from now; it is only read
#   GENERATE=1     example data, as many rows as alembic/table-stats.json says (STATS=file names another)
# MASKS            what becomes of each column that can hold people's data (scripts/staging-masks.toml)
# QUERIES          what the application asks (scripts/application-queries.sql); RUNS how often each is timed (7)
# PHASE=expand     rehearse only what comes before the first contract revision
# PLANNER_REHEARSAL_DIR   where the record and its page are written (rehearsals/)
# PLANNER_ARCHIVE_DIR     the disk that SOURCE_URL's rows pass through, in a file without a name (backups/)
# PLANNER_MASK_SALT       the same masked values in every copy; without it, a salt that nobody knows
# PYTHON           another Python than .venv/bin/python
#
# Exit codes: 0 green, 1 broken, 2 wrong use, 3 refused or not green, 75 busy. Safe to run again, after being killed too.
set -euo pipefail
cd "$(dirname "$0")/.."

if [[ "${1:-}" == "--help" || "${1:-}" == "-h" ]]; then
    sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"
    exit 0
fi
if [[ $# -gt 0 ]]; then
    echo "staging-deploy takes no arguments but --help: everything is said by variables." >&2
    exit 2
fi

# The script itself is what two runs of this folder would both hold; what a killed run has left at work holds it still.
exec 9<"scripts/staging-deploy.sh"
if command -v flock >/dev/null && ! flock -n 9; then
    printf 'Another rehearsal is at work in this folder.\n\nnext: scripts/staging-deploy.sh   (when it is done)\n' >&2
    exit 75
fi

python=${PYTHON:-.venv/bin/python}
step=begin
child=

stage() {
    step=$1
    "$python" -m mcp_planner_schema.staging "$@" &
    child=$!
    wait "$child"
}

stopped() { # the stage is told, and has its time to roll back
    trap '' INT TERM HUP
    kill -TERM "$child" 2>/dev/null && wait "$child" || true
    exit 75
}

finish() { # whatever has happened, the record says how far it came
    local code=$? told=0
    trap - EXIT
    if [[ $step != begin ]]; then
        "$python" -m mcp_planner_schema.staging report "$step" "$code" || told=$?
    fi
    [[ $code -ne 0 ]] || code=$told
    exit "$code"
}

trap stopped INT TERM HUP
trap finish EXIT

stage begin
stage copy
stage look-before
stage measure-before
stage up
stage measure-after
stage look-up
stage back
stage look-back
stage forth
stage look-forth
