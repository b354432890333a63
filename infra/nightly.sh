#!/bin/sh
# One night of one collection, for cron and the Kubernetes CronJob: plan, embed, load, audit; with M3_NEXT_CONFIG also
# build, quality gate, promote. Ends with 0, or with the exit code of the step that ended it (infra/RUNBOOK.md).
#   M3              the command (m3)                M3_CONFIG       configuration of the live generation (./m3.toml)
#   M3_NEXT_CONFIG  of a generation to promote      M3_GATE         its questions (gate.jsonl), {"query", "relevant"} a line
#   M3_LEAST        what is asked (ndcg@10=0.60)    M3_GATE_AS      whose search it is (default:everyone)
#   M3_TRIES, M3_WAIT   how often, and after how many seconds, a step is tried again while a store is down (12, 900)
#   M3_STRICT=1     new dead letters make the night end with 3; else they are only told
set -u
m3=${M3:-m3}
config=${M3_CONFIG:-m3.toml}
next=${M3_NEXT_CONFIG:-}
tries=${M3_TRIES:-12}
pause=${M3_WAIT:-900}
gate=${M3_GATE:-gate.jsonl}
least=${M3_LEAST:-ndcg@10=0.60}
gate_as=${M3_GATE_AS:-default:everyone}
child=
worst=0

tell() { printf 'nightly: %s\n' "$1" >&2; }

# m3 finishes its unit, commits, and exits with 143.
trap '[ -z "$child" ] || kill -TERM "$child" 2>/dev/null' TERM INT

run() { # words of m3; its exit code in $code
    code=0
    "$@" &
    child=$!
    wait "$child" || code=$?
    # A signal ends `wait`, not the command.
    while kill -0 "$child" 2>/dev/null; do
        code=0
        wait "$child" || code=$?
    done
    child=
}

step() { # words of m3; returns only if the night goes on
    try=1
    while :; do
        tell "m3 $*"
        run "$m3" "$@"
        case $code in
        0) return ;;
        3)
            tell "new dead letters: m3 dead-letters list"
            worst=3
            return
            ;;
        4 | 6 | 7)
            # Another run at the start of the night is nobody's fault; later, or again and again, it is.
            if [ "$code" -eq 6 ] && [ "$1" = embed ]; then
                tell "another run writes; this night is skipped"
                exit 0
            fi
            [ "$try" -lt "$tries" ] || { tell "exit code $code after $try tries" && exit "$code"; }
            tell "exit code $code; again in $pause s ($try of $tries)"
            try=$((try + 1))
            run sleep "$pause"
            [ "$code" -eq 0 ] || exit "$code"
            ;;
        *)
            tell "exit code $code: the night ends here"
            exit "$code"
            ;;
        esac
    done
}

step plan -c "$config"
step embed -c "$config"
step load -c "$config"
step audit -c "$config"
if [ -n "$next" ]; then
    step generations build -c "$next"
    step generations promote --dry-run --queries "$gate" --min "$least" --as "$gate_as" -c "$next"
    step generations promote --queries "$gate" --min "$least" --as "$gate_as" -c "$next"
fi
if [ "$worst" -ne 0 ] && [ "${M3_STRICT:-}" = 1 ]; then exit "$worst"; fi
tell "done"
