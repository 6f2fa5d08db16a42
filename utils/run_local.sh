#!/usr/bin/env bash
# Run a command on this machine with its output in a log file; it is called as cluster job
# scripts are, which may stand in its place in cmd.sh:
#   run_local.sh [--gpu N] [--mem SIZE] [--num_threads N] [--name NAME] [JOB=1:N] LOG COMMAND...
# With JOB=1:N, N commands run at once with JOB replaced by the number in LOG and COMMAND.
set -euo pipefail

first=1
last=1
name=
while [ $# -gt 0 ]; do
    case "$1" in
        --*)
            # Resources mean nothing on one's own machine.
            [ $# -ge 2 ] || { echo "error: run_local.sh: the option $1 needs a value" >&2; exit 2; }
            shift 2
            ;;
        *=*:*)
            name=${1%%=*}
            range=${1#*=}
            first=${range%%:*}
            last=${range##*:}
            shift
            ;;
        *) break ;;
    esac
done
[ $# -ge 2 ] || { echo "error: run_local.sh: a log file and a command are needed" >&2; exit 2; }

run_job() {
    local job=$1 log=$2
    shift 2
    if [ -n "${name}" ]; then
        log=${log//"${name}"/"${job}"}
        set -- "${@//"${name}"/"${job}"}"
    fi
    mkdir -p "$(dirname "${log}")"
    {
        echo "# $*"
        echo "# Started at $(date)"
    } >"${log}"
    local status=0
    "$@" >>"${log}" 2>&1 </dev/null || status=$?
    echo "# Ended with status ${status} at $(date)" >>"${log}"
    return "${status}"
}

pids=()
trap 'kill "${pids[@]}" 2>/dev/null; exit 143' TERM INT
for ((job = first; job <= last; job++)); do
    run_job "${job}" "$@" &
    pids+=($!)
done
failed=0
for pid in "${pids[@]}"; do
    wait "${pid}" || failed=$((failed + 1))
done
[ "${failed}" -eq 0 ] || exit 1
