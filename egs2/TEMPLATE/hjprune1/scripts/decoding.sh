# Decoding: which sets are left, and parallel jobs over them.
# To be sourced after utils/common.sh, scripts/jobs.sh and scripts/stamps.sh; the options of
# hjprune.sh and the names that it makes must be set.
# shellcheck shell=bash disable=SC2154

# list_undecoded EXP...: fill the arrays decode_exps, decode_data and decode_dirs, one element
# for every model and test set that must still be decoded.
list_undecoded() {
    local exp set word inputs
    decode_exps=()
    decode_data=()
    decode_dirs=()
    for exp in "$@"; do
        need "${exp}/${inference_asr_model}" "choose another --inference_asr_model"
        for set in "${test_sets[@]}"; do
            need "${raw_dir}/${set}/wav.scp" "run stage 2 first"
            inputs=("${inference_config}" "${exp}/.done")
            # Language models and lexicons may change under the same names.
            for word in "${inference_args[@]}" $(tr "\"':,[]{}" ' ' <"${inference_config}"); do
                [ ! -f "${word#*=}" ] || inputs+=("${word#*=}")
            done
            if unfinished "${exp}/${decode_tag}/${set}" "${decoder} ${inference_args[*]}" \
                "${score_types[*]}" "$(checksum "${inputs[@]}")" \
                "$(data_checksum "${raw_dir}/${set}")"; then
                decode_exps+=("${exp}")
                decode_data+=("${raw_dir}/${set}")
                decode_dirs+=("${exp}/${decode_tag}/${set}")
            fi
        done
    done
}

# run_decoding LOGDIR INDEX... -- COMMAND...: decode elements of these arrays by parallel jobs,
# each of which gets some utterances of every set. COMMAND has JOB in the place of their numbers.
run_decoding() {
    local logdir=$1 index jobs=${inference_nj} total=0 utterances gpus=0 cmd=${decode_cmd}
    local indices=() dirs=() log
    shift
    while [ "$1" != -- ]; do
        indices+=("$1")
        dirs+=("${decode_dirs[$1]}")
        utterances=$(wc -l <"${decode_data[$1]}/wav.scp")
        total=$((total + utterances))
        jobs=$((utterances < jobs ? utterances : jobs))
        shift
    done
    shift
    rm -rf "${logdir}"
    mkdir -p "${logdir}"
    for index in "${indices[@]}"; do
        split_keys "${decode_data[index]}/wav.scp" "${decode_dirs[index]}/logdir" "${jobs}"
    done
    if ${gpu_inference}; then
        gpus=1
        cmd=${cuda_cmd}
    fi
    log "Decoding ${dirs[*]}: the logs are ${logdir}/decode.*.log"
    # One thread a job: the jobs run side by side, and would fight for the cores.
    # shellcheck disable=SC2086 # a command with options
    start_job "${dirs[@]}" -- ${cmd} --gpu "${gpus}" JOB=1:"${jobs}" "${logdir}/decode.JOB.log" \
        env OMP_NUM_THREADS=1 "$@" --ngpu "${gpus}" --config "${inference_config}" \
        "${inference_args[@]}"
    wait_job --title decoding --decode_logs "${logdir}" --jobs "${jobs}" \
        --utterances "${total}" && return
    for log in "${logdir}"/decode.*.log; do
        grep -qas '^# Ended with status 0' "${log}" || die_with_log "${log}"
    done
    die "decoding failed (logs: ${logdir})"
}

# split_keys WAV_SCP LOGDIR JOBS: deal the utterances out to LOGDIR/keys.<job>.scp.
split_keys() {
    local job part
    rm -rf "$2"
    mkdir -p "$2"
    split --number="r/$3" --numeric-suffixes=1 --suffix-length=6 "$1" "$2/part."
    for ((job = 1; job <= $3; job++)); do
        printf -v part '%06d' "${job}"
        mv "$2/part.${part}" "$2/keys.${job}.scp"
    done
}
