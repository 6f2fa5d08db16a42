# Jobs: trainings and decodings run in process groups of their own, with their progress shown.
# To be sourced after utils/common.sh. The array python and the commands of cmd.sh must be set.
# shellcheck shell=bash disable=SC2154

job_group=
stop_job() {
    if [ -n "${job_group}" ]; then
        kill -- "-${job_group}" 2>/dev/null || true
    fi
}
trap stop_job EXIT
trap 'exit 130' INT TERM

# start_job DIR... -- COMMAND...: start a job, which notes itself in the directories. It holds a
# lock on its notes for as long as any of its processes lives.
start_job() {
    local notes=()
    while [ "$1" != -- ]; do
        notes+=("$1/.running")
        shift
    done
    shift
    # The job writes the notes, so that they are there even if this script is killed here.
    # shellcheck disable=SC2016 # the inner shell expands
    setsid bash -c '
        script=$1 count=$2
        shift 2
        for ((; count > 0; count--)); do
            exec {lock}>"$1"
            flock "${lock}"
            echo "$$ ${script}" >&"${lock}"
            shift
        done
        exec "$@"' job "$$" "${#notes[@]}" "${notes[@]}" "$@" &
    job_group=$!
    job_notes=("${notes[@]}")
}

# run_job DIR COMMAND...: run a job to its end and return its status.
run_job() {
    local status=0
    start_job "$1" -- "${@:2}"
    wait "${job_group}" || status=$?
    end_job
    # All other jobs say why themselves.
    [ "${status}" -ne 137 ] ||
        die "the system killed the job of $1, as it does where memory runs out"
    return "${status}"
}

end_job() {
    job_group=
    rm -f "${job_notes[@]}"
}

# wait_job OPTION...: show the progress (options of recipe.watch), return the job's status.
wait_job() {
    local status=0
    # In the background, so that a signal to this script is handled at once.
    "${python[@]}" -m espnet_hjprune.bin.recipe.watch --pid "${job_group}" "$@" &
    wait $! || true
    wait "${job_group}" || status=$?
    end_job
    return "${status}"
}

# stop_leftover DIR: a killed run cannot stop its job, which would write beside the next one.
stop_leftover() {
    local file=$1/.running group script
    [ -e "${file}" ] || return 0
    if ! flock --nonblock "${file}" true; then
        read -r group script <"${file}" || true
        if [ "${script}" != $$ ] &&
            ps -ww -p "${script}" -o args= 2>/dev/null | grep -qE '(hjprune|unlabelled)\.sh'; then
            die "another run (process ${script}) is at work in $1; wait for it or stop it"
        fi
        log "Stopping the job that an interrupted run left behind in $1"
        kill -9 -- "-${group}" 2>/dev/null || true
        flock --timeout 60 "${file}" true ||
            die "a job of an interrupted run (process group ${group}) goes on in $1; stop it"
    fi
    rm -f "${file}"
}

# run_training TITLE EXP COMMAND...: run a training, which logs to EXP/train.log and makes the
# steps of EXP/steps.json; on one GPU or none by itself, on more by ESPnet's launcher.
run_training() {
    local title=$1 exp=$2 job log=$2/train.log
    shift 2
    if [ "${ngpu}" -gt 1 ] || [ "${num_nodes}" -gt 1 ]; then
        job=(
            "${python[@]}" -m espnet2.bin.launch --cmd "${cuda_cmd} --name $(basename "${exp}")"
            --log "${log}" --ngpu "${ngpu}" --num_nodes "${num_nodes}"
            --init_file_prefix "${exp}/.dist_init_" --multiprocessing_distributed true -- "$@"
        )
    elif [ "${ngpu}" -eq 1 ]; then
        # shellcheck disable=SC2206 # a command with options
        job=(${cuda_cmd} --gpu 1 "${log}" "$@")
    else
        # shellcheck disable=SC2206 # a command with options
        job=(${train_cmd} --gpu 0 "${log}" "$@")
    fi
    log "${title}: the log is ${log}"
    rotate_log "${log}"
    start_job "${exp}" -- "${job[@]}"
    wait_job --title "${title}" --log "${log}" --steps "${exp}/steps.json" ||
        die_with_log "${log}" $?
}

# rotate_log LOG: keep the log of an interrupted run as train.1.log, older ones as train.2.log, ...
rotate_log() {
    local log=$1 number
    [ -e "${log}" ] || return 0
    for ((number = 1; ; number++)); do
        [ -e "${log%.log}.${number}.log" ] || break
    done
    for (( ; number > 1; number--)); do
        mv "${log%.log}.$((number - 1)).log" "${log%.log}.${number}.log"
    done
    mv "${log}" "${log%.log}.1.log"
}

# die_with_log LOG [STATUS]: show the reason at the end of a log, then end; STATUS is the job's.
die_with_log() {
    local reason
    reason=$(reason_in "$1") || true
    # As utils/run_local.sh and Kaldi's scripts note it, unless they were killed with the job.
    if [ "${2:-}" = 137 ] || grep -qasE '^# Ended .*(status 137|code 137|signal 9)\b' "$1"; then
        reason="the system killed the job, as it does where memory runs out; make batches smaller"
        reason+=" or run fewer jobs at once"
    elif [ -z "${reason}" ]; then
        grep -asvE '^# Ended' "$1" | tail -n 15 >&2 || true
        reason="the job ended without saying why"
    fi
    die "${reason} (log: $1)"
}

# reason_in LOG: the last sentence of an error in it, or exception that a traceback ends with.
reason_in() {
    awk '
        # So processes of several GPUs mark their tracebacks.
        { sub(/^\[rank[0-9]+\]: ?/, "") }
        /^# / { frames = message = 0; next }
        /Traceback \(most recent call last\):/ { frames = 1; message = 0; next }
        # Sentences of ours, also at the end of a traceback, and those about wrong arguments.
        /^(error|espnet_hjprune\.errors\.[A-Za-z]+|[^ ]+: error): / {
            frames = message = 0
            sub(/^([^ ]+: error|[^:]*): /, "")
            reason = $0
            next
        }
        # Frames are indented; more of a message is too, or follows a colon.
        frames && /^[A-Za-z_][A-Za-z0-9_.]*(:.*)?$/ {
            frames = 0
            message = 1
            reason = "the job ended with " $0
            next
        }
        message && (/^[ \t]+[^ \t]/ || reason ~ /: *$/) {
            gsub(/^[ \t]+|[ \t]+$/, "")
            sub(/ +$/, "", reason)
            if ($0 != "") reason = reason " " $0
            next
        }
        { message = 0 }
        END {
            if (length(reason) > 300) reason = substr(reason, 1, 300) "..."
            print reason
        }
    ' "$1" 2>/dev/null
}
