#!/usr/bin/env bash
# One production deploy of the schema, from the first question to the report. `--help` says how it is called.
#
# A sequence to be read: each step is one command of the project, the first that refuses ends the deploy with its own exit code, and
# at every end the commands to go back are printed. Whatever has to be remembered stands in the database (migration.deploy): a
# deploy that was killed goes on when it is called again, here or on another machine.
set -euo pipefail
cd "$(dirname "$0")/.."

help() {
    cat <<'HELP'
scripts/production-migrate.sh [--contract] [--reason TEXT] [--without-rehearsal] [--dry-run] [--yes]

  (nothing)             preflight, rehearsal asked for, backup, expand, watch, verify, data, report
  --contract            a later run: takes away what older releases used. Needs --reason: how it is known that none runs any more
  --reason TEXT         is written down (REASON in the environment does the same)
  --without-rehearsal   go on without a green rehearsal in staging, for the reason that --reason says
  --dry-run             ask and show; change nothing
  --yes                 the database is the right one: nobody is asked. CONFIRM=<its name> says the same, and says which

  DATABASE_URL          the database; its password may stand in PGPASSFILE, PGPASSWORD or a service file instead
  PLANNER_ENV           production, unless it says otherwise
  WATCH_COMMAND         the application's health, run without a shell: 'curl -fsS --max-time 5 https://planner.example/healthz'
  WATCH_SECONDS=60      for how long it is watched after a change, and WATCH_EVERY=5 how often it is asked
  WATCH_TIMEOUT=10      seconds that one answer may take; WATCH_FAILURES=0 how many may fail in a row
  WATCH_ROLLBACKS=5     percent of the database's transactions that may be rolled back meanwhile
  BACKUP_COMMAND        makes a backup first, where backup_check (alembic.ini) knows the backups; run without a shell
  REPORT_DIR            where each run's report is written as HTML too; as Markdown it goes to stdout
  PREFLIGHT_ACCEPT, HOLD_LIMIT, WORKERS, CANCEL_BLOCKERS: as for make migrate-up
  PYTHON                the interpreter; .venv/bin/python by itself

Exit codes: 0 done (also where there is nothing to do), 1 broken, 2 wrong use, 3 refused, 75 stopped or busy: call it again.
Safe to call twice, and after it was killed at any point.
HELP
}

wrong() {
    printf '%s\n\nnext: %s\n' "$1" "${2:-scripts/production-migrate.sh --help}" >&2
    exit 2
}

quoted() { # a word as it can be typed
    local mark="'" written="'\\''"
    case $1 in
        '' | *[!A-Za-z0-9_./:@%+=,-]*) printf "'%s'" "${1//$mark/$written}" ;;
        *) printf '%s' "$1" ;;
    esac
}
again=scripts/production-migrate.sh # this call once more, for whoever reads what is printed
for word in "$@"; do again+=" $(quoted "$word")"; done
export DEPLOY_AGAIN=$again

contract='' reason=${REASON:-} without='' dry='' yes=''
while [ $# -gt 0 ]; do
    case $1 in
        --contract) contract=1 ;;
        --reason) [ $# -gt 1 ] || wrong '--reason needs a text.'; reason=$2; shift ;;
        --reason=*) reason=${1#*=} ;;
        --without-rehearsal) without=1 ;;
        --dry-run) dry=1 ;;
        --yes) yes=1 ;;
        --help | -h) help; exit 0 ;;
        *) wrong "There is no option $1." ;;
    esac
    shift
done
[ -z "$contract" ] || [ -n "$reason" ] || wrong \
    'A contract takes away what older releases use: --reason says how it is known that none runs any more.' \
    "scripts/production-migrate.sh --contract --reason 'no pod of release 41 since 14:00, seen in the dashboard'"
[ -z "$without" ] || [ -n "$reason" ] || wrong '--without-rehearsal needs --reason, which is written down.'

export PLANNER_ENV=${PLANNER_ENV:-production} REASON=$reason
[ -n "$reason" ] || unset REASON
unset PHASE # each step below says its own
phase='expand'
[ -z "$contract" ] || phase=contract
python=${PYTHON:-.venv/bin/python}
command -v "$python" >/dev/null || wrong "There is no $python." 'make setup'

# --- a command, a step, an end ----------------------------------------------------------------------------------------

child='' signalled='' stopping=''
pass_on() { # a signal goes to the command that runs, which rolls back what is not final; its end is waited for
    signalled=1 stopping=1
    [ -z "$child" ] || kill -TERM "$child" 2>/dev/null || true
}
trap pass_on TERM INT HUP

run() {
    [ -z "$stopping" ] || return 75
    local code=0
    "$@" &
    child=$!
    wait "$child" || code=$?
    while [ -n "$signalled" ]; do # wait was cut short by the signal, not by the command's end
        signalled='' code=0
        wait "$child" || code=$?
    done
    child=''
    [ "$code" -le 128 ] || code=1 # killed from outside
    [ -z "$stopping" ] || code=75
    return "$code"
}

planner() { run "$python" -m mcp_planner_schema "$@"; }
tell() { "$python" -m mcp_planner_schema.deploy "$@" ${contract:+CONTRACT=1}; } # at the end: no signal cuts it off
deploy() { run "$python" -m mcp_planner_schema.deploy "$@" ${contract:+CONTRACT=1}; }

stage=begin id='' start='' database=''
step() {
    stage=$1
    printf '\n== %s\n' "$stage" >&2
}

ended() {
    local code=$?
    trap '' TERM INT HUP # the end is short, and is said whole
    trap - EXIT
    rm -f "$answer"
    if [ -n "$id" ]; then
        tell end ID="$id" STAGE="$stage" CODE="$code" || printf 'note: how it ended could not be written down\n' >&2
    fi
    if [ -n "$start" ]; then
        printf '\n' >&2
        [ "$code" -eq 0 ] || printf 'stopped at: %s, with exit code %s\n' "$stage" "$code" >&2
        tell back START="$start" DATABASE="$database" || true
        [ "$code" -eq 0 ] || printf 'to go on, when that is seen to: %s\n' "$again" >&2
    fi
    exit "$code"
}
answer=$(mktemp) # not $( ), which no signal would be passed on from
trap ended EXIT

# --- what is there to do ----------------------------------------------------------------------------------------------

place='' environment='' here='' backup='' expand='' data='' last='' waits='' left='' begun=''
deploy stages >"$answer"
while read -r name value; do
    case $name in
        database) database=$value ;; place) place=$value ;; environment) environment=$value ;; here) here=$value ;;
        backup) backup=$value ;; expand) expand=$value ;; data) data=$value ;; last) last=$value ;;
        waits) waits=$value ;; left) left=$value ;; begun) begun=$value ;;
    esac
done <"$answer"
printf 'database %s at %s (%s), at revision %s\n' "$database" "$place" "$environment" "$here" >&2
[ -z "$waits" ] || printf 'waits for a later run: %s\n' "$waits" >&2
if [ -z "$last$left" ]; then
    printf 'nothing to do\n' >&2
    exit 0
fi
start=$here

confirm() {
    [ -z "$yes" ] || CONFIRM=$database
    if [ -z "${CONFIRM:-}" ] && [ -t 0 ]; then
        read -r -p "Type the database's name to go on: " CONFIRM
    fi
    [ "${CONFIRM:-}" = "$database" ] || wrong "CONFIRM is ${CONFIRM:-not set}, and the database is $database. Nothing was changed." \
        "CONFIRM=$(quoted "$database") $again"
    export CONFIRM
}

plan() {
    local code=0
    planner migrate-plan TO="$last" PHASE="$phase" || code=$?
    [ "$code" -ne 4 ] || code=0 # somebody should look, and does
    return "$code"
}

# The backup comes after preflight, so preflight is not to miss it; nothing else is accepted here.
preflight() {
    if [ "$backup" = archive ]; then
        PREFLIGHT_ACCEPT=${PREFLIGHT_ACCEPT:+$PREFLIGHT_ACCEPT,}backup-missing,backup-old \
            planner migrate-preflight ${last:+TO="$last"} ${contract:+PHASE=contract} \
            REASON="${reason:-the backup is the next step of the deploy}"
    else
        planner migrate-preflight ${last:+TO="$last"} ${contract:+PHASE=contract}
    fi
}

rehearsed() {
    local code=0 more=''
    [ -n "$reason" ] || more=' --reason TEXT'
    if [ -n "$contract" ]; then planner migrate-rehearsed; else planner migrate-rehearsed PHASE=expand; fi || code=$?
    [ "$code" -ne 3 ] || [ -n "$without" ] ||
        printf 'or, for a reason that is written down: %s --without-rehearsal%s\n' "$again" "$more" >&2
    [ "$code" -eq 3 ] && [ -n "$without" ] || return "$code"
    printf 'accepted, without a rehearsal: %s\n' "$reason" >&2
}

saved() {
    set -f # words, as backup_check has them, and no patterns of files
    # shellcheck disable=SC2086
    [ -z "${BACKUP_COMMAND:-}" ] || run $BACKUP_COMMAND
    set +f
    deploy backup ID="$id"
    if [ "$backup" = archive ]; then # preflight, which every run asks once more, knows the file by this
        PLANNER_BACKUP_CHECK="$(printf %q "$python") -m mcp_planner_schema.deploy backup-check"
        export PLANNER_BACKUP_CHECK
    fi
}

verified() {
    planner migrate-verify
    planner migrate-drift
}

report() {
    local one
    deploy runs ID="$id" >"$answer"
    while read -r one; do
        planner migrate-report RUN="$one"
        [ -z "${REPORT_DIR:-}" ] || planner migrate-report RUN="$one" OUT="$REPORT_DIR/run-$one.html"
    done <"$answer"
}

# --- the sequence -----------------------------------------------------------------------------------------------------

step preflight
[ -z "$last" ] || preflight
step rehearsal
[ -z "$last" ] || [ -n "$begun" ] || rehearsed # asked once: of a deploy that goes on, it was at its beginning
if [ -n "$dry" ]; then
    step plan
    [ -z "$last" ] || plan
    printf '\ndry run: nothing was changed\n' >&2
    start=''
    exit 0
fi
confirm

deploy begin ${reason:+REASON="$reason"} >"$answer"
while read -r name value; do
    case $name in deploy) id=$value ;; start) start=$value ;; esac
done <"$answer"

if [ -n "$last" ]; then
    step backup
    saved
fi
if [ -n "$contract" ]; then
    step contract
    [ -z "$last" ] || planner migrate-up PHASE=contract TO="$last"
else
    step expand
    [ -z "$expand" ] || planner migrate-up PHASE=expand TO="$expand"
fi
step watch
deploy watch ID="$id"
step verify
verified
if [ -n "$data" ]; then
    step data
    planner migrate-up PHASE=expand TO="$data"
    step verify
    verified
fi
step report
report
stage='done'
