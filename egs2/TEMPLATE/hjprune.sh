#!/usr/bin/env bash
# The seven stages of HJ-Pruning, shared by all recipes: data, formats and tokens, fine-tuning,
# gated pruning, compaction, final fine-tuning, decoding with scores and a report.
# shellcheck disable=SC2317 # stages are called by their number
set -euo pipefail

. utils/common.sh

# General
stage=1                 # first stage
stop_stage=7            # last stage
ngpu=0                  # GPUs for training, 0 for the CPU
num_nodes=1             # machines for training
nj=4                    # parallel jobs of data preparation
inference_nj=4          # parallel jobs of decoding
gpu_inference=false     # decode on GPUs
dumpdir=dump            # formatted data
expdir=exp              # experiments
python=python3          # Python that runs everything

# Data
task=asr                # ESPnet task, and first part of experiment names
train_set=              # training set
valid_set=              # validation set
test_sets=              # test sets, separated by spaces
local_data_opts=        # options of local/data.sh
mini=false              # synthesise a small corpus and upstream instead of the real ones
mini_opts=              # options of the synthesis
mini_pretrain_epochs=0  # epochs on the words of the mini corpus that make its upstream pre-trained
speed_perturb_factors=  # speeds of copies of the training set, such as "0.9 1.0 1.1"
audio_format=flac       # flac, wav or flac.ark
fs=16k                  # sampling rate
min_wav_duration=0.1    # shorter utterances are left out, in seconds
max_wav_duration=30     # longer training utterances are left out, in seconds

# Tokens
lang=en                 # language, for names of directories
token_type=char         # char, bpe or word
nbpe=300                # pieces of bpe
bpemode=unigram         # unigram or bpe

# Upstream and pruning
upstream=wav2vec2_base_960  # name of an s3prl upstream
upstream_ckpt=          # its checkpoint, for names such as wav2vec2_local and hf_wavlm_custom
upstream_tag=           # how the upstream is called in experiment names
criterion=macs          # macs, size or sepsize
target_sparsity=        # share to remove; "cnn=X transformer=Y" for sepsize; empty: as configured
units=                  # gated units, such as "head ffn hidden"; empty: as configured
ramp_epochs=5           # epochs over which the target rises
targets=                # rising targets, such as "0.2 0.3 0.4": one pruning gives a model for each;
                        # its epochs are then those of the next two options and ramp_epochs
hold_epochs=2           # epochs at each of them
rise_epochs=1           # epochs from one of them to the next
seed=                   # seed of stages 4 and 6; empty: as configured

# Training, decoding and scoring
finetune_config=conf/tuning/train_finetune.yaml     # stage 3
prune_config=           # stage 4; empty: conf/tuning/prune_<criterion>.yaml
compact_config=conf/tuning/finetune_compact.yaml    # stage 6
config_dir=conf/tuning  # where prune_config is looked for
finetune_args=          # options of ESPnet's training in stage 3, after the configuration
prune_args=             # the same in stage 4
compact_args=           # the same in stage 6
init_model=valid.loss.ave.pth           # model of stage 3 that is pruned
inference_asr_model=valid.loss.ave.pth  # model that is decoded
decoder=batched         # batched, for CTC models and linear classifiers, or espnet
inference_config=       # options of decoding; empty: conf/decode_<decoder>.yaml
inference_args=         # more of them, after the configuration
score_types="wer cer"   # what sclite counts; ter is added for bpe
metric=wer              # figure of the result table: wer or accuracy
results_copy=           # another file for the figures of stage 7, beside results.json

option_names=$(sed -n '/^# General/,/^option_names/s/^\([a-z_]*\)=.*/\1/p' "${BASH_SOURCE[0]}" |
    grep -v '^option_names$' | tr '\n' ' ')
help_message="Usage: $0 [--stage 1..7] [--stop_stage 1..7] [--<option> <value> ...]

$(sed -n '/^# General/,/^option_names/p' "${BASH_SOURCE[0]}" | grep -v '^option_names' |
    sed 's/^\([a-z_]*\)=/--\1  /')"
arguments=("$@")
parse_options "$@"

. ./path.sh
. ./cmd.sh

check_options() {
    [[ ${stage} =~ ^[1-7]$ && ${stop_stage} =~ ^[1-7]$ && ${stage} -le ${stop_stage} ]] ||
        status=2 die "--stage and --stop_stage are 1 to 7 in this order, not '${stage}' and" \
            "'${stop_stage}'"
    local name
    for name in ngpu ramp_epochs mini_pretrain_epochs ${seed:+seed}; do
        [[ ${!name} =~ ^[0-9]+$ ]] || status=2 die "--${name} is a whole number, not '${!name}'"
    done
    for name in num_nodes nj inference_nj nbpe hold_epochs rise_epochs; do
        [[ ${!name} =~ ^[1-9][0-9]*$ ]] ||
            status=2 die "--${name} is a whole number from 1, not '${!name}'"
    done
    for name in mini gpu_inference; do
        [[ ${!name} =~ ^(true|false)$ ]] || status=2 die "--${name} is true or false, not '${!name}'"
    done
    for name in train_set valid_set test_sets; do
        [ -n "${!name}" ] || status=2 die "--${name} is not given"
    done
    [[ ${fs} =~ ^(16k|16000)$ ]] ||
        status=2 die "--fs is ${fs}, but the upstreams take 16k; audio of other rates is resampled"
    [[ ${audio_format} =~ ^(flac|wav|flac\.ark)$ ]] ||
        status=2 die "--audio_format is flac, wav or flac.ark, not '${audio_format}'"
    [[ ${token_type} =~ ^(char|bpe|word)$ ]] ||
        status=2 die "--token_type is char, bpe or word, not '${token_type}'"
    [[ ${metric} =~ ^(wer|accuracy)$ ]] ||
        status=2 die "--metric is wer or accuracy, not '${metric}'"
    check_targets
    local unit
    for unit in ${units}; do
        [[ ${unit} =~ ^(conv|head|ffn|hidden)$ ]] ||
            status=2 die "--units takes conv, head, ffn and hidden, not '${unit}'"
    done
    if [ -z "${make_upstream}" ] && upstream_is_file; then
        [ -f "${upstream_ckpt}" ] || die "the upstream checkpoint ${upstream_ckpt} does not exist"
    fi
    for name in finetune_config prune_config compact_config inference_config; do
        need_config "${name}"
    done
}

need_config() {
    [ -f "${!1}" ] || die "the configuration ${!1} (--$1) does not exist"
}

# Whether upstream_ckpt names a file: no URL, and no directory or hub name of Hugging Face.
upstream_is_file() {
    [ -n "${upstream_ckpt}" ] && [[ ${upstream_ckpt} != *://* && ${upstream} != hf_* ]]
}

# Check the targets and set target_args, the options of the training that state them.
check_targets() {
    target_args=()
    local target last=0
    for target in ${targets}; do
        check_fraction "${target}" targets
        awk -v a="${last}" -v b="${target}" 'BEGIN { exit !(b > a) }' ||
            status=2 die "--targets '${targets}' do not rise"
        last=${target}
    done
    if [ -n "${targets}" ]; then
        [ "${criterion}" != sepsize ] ||
            status=2 die "--targets are single numbers, for --criterion macs and size"
        target_args=(--frontend_conf "pruning.target_sparsity=${last}")
        target=${targets% *}
        if [ "${target}" != "${targets}" ]; then
            target_args+=(--frontend_conf "pruning.earlier_targets=[${target// /,}]")
        fi
        return
    fi
    if [ "${criterion}" = sepsize ]; then
        local part pairs=" ${target_sparsity} "
        for part in cnn transformer; do
            [[ $(wc -w <<<"${pairs}") -eq 2 && ${pairs} =~ " ${part}="([^ ]+)" " ]] ||
                status=2 die "--target_sparsity is \"cnn=X transformer=Y\" when the criterion is" \
                    "sepsize, not '${target_sparsity}'"
            check_fraction "${BASH_REMATCH[1]}" target_sparsity
            target_args+=(--frontend_conf "pruning.target_sparsity.${part}=${BASH_REMATCH[1]}")
        done
    else
        check_fraction "${target_sparsity}" target_sparsity
        target_args+=(--frontend_conf "pruning.target_sparsity=${target_sparsity}")
    fi
}

check_fraction() {
    if ! is_number "$1" || ! awk -v x="$1" 'BEGIN { exit !(x > 0 && x < 1) }'; then
        status=2 die "--$2 is '$1', but it must lie between 0 and 1"
    fi
}

# Before what is found by its name.
[[ ${decoder} =~ ^(batched|espnet)$ ]] ||
    status=2 die "--decoder is batched or espnet, not '${decoder}'"
[[ ${decoder} = espnet || ${task} =~ ^(asr|slu)$ ]] ||
    status=2 die "--decoder batched is for --task asr and slu; give --decoder espnet"
inference_config=${inference_config:-conf/decode_${decoder}.yaml}
[[ ${criterion} =~ ^(macs|size|sepsize)$ ]] ||
    status=2 die "--criterion is macs, size or sepsize, not '${criterion}'"
if [ -z "${prune_config}" ]; then
    prune_config=${config_dir}/prune_${criterion}.yaml
fi
targets=$(xargs <<<"${targets}")
[ -z "${targets}" ] || [ -z "${target_sparsity}" ] ||
    status=2 die "--targets and --target_sparsity are both given; give one"
if [ -z "${target_sparsity}${targets}" ]; then
    need_config prune_config
    configured=$(${python} -m espnet_hjprune.bin.recipe.show_option --config "${prune_config}" \
        --option frontend_conf.pruning.criterion)
    [ "${configured}" = "${criterion}" ] ||
        status=2 die "${prune_config} is for --criterion ${configured}; give it, or with" \
            "--criterion ${criterion} a --target_sparsity"
    target_sparsity=$(${python} -m espnet_hjprune.bin.recipe.show_option --config "${prune_config}" \
        --option frontend_conf.pruning.target_sparsity)
fi
if [ "${mini}" = true ] && [ -z "${upstream_ckpt}" ] && [[ ${upstream} == *_mini ]]; then
    # The upstream is made in stage 1 from its family and size, such as wav2vec2_mini.
    upstream_ckpt=downloads/mini/${upstream}.pt
    make_upstream=${upstream}
    upstream_tag=${upstream_tag:-${upstream}}
    upstream=${upstream%_*}_local
else
    make_upstream=
    upstream_tag=${upstream_tag:-${upstream}}
fi
if [ "${mini_pretrain_epochs}" != 0 ] && [ -z "${make_upstream}" ]; then
    status=2 die "--mini_pretrain_epochs needs --mini true and a mini upstream such as wav2vec2_mini"
fi
check_options
if [ "${token_type}" = bpe ] && [[ " ${score_types} " != *" ter "* ]]; then
    score_types+=" ter"
fi

# Names of what the stages make
dataset_tag=raw_${lang}_${token_type}
if [ -n "${speed_perturb_factors}" ]; then
    dataset_tag+=_sp
    train_set+=_sp
fi
if [ "${token_type}" = bpe ]; then
    dataset_tag+=${nbpe}
fi
if ${mini}; then
    dataset_tag+=_mini
    dumpdir+=/mini
fi
raw_dir=${dumpdir}/raw
token_dir=${dumpdir}/token_list/${dataset_tag}
token_list=${token_dir}/tokens.txt
bpemodel=none
if [ "${token_type}" = bpe ]; then
    bpemodel=${token_dir}/bpe.model
fi
stats_dir=${expdir}/${task}_stats_${dataset_tag}
name_of() {
    basename "$1" .yaml
}
method=$(name_of "${prune_config}")
method=${method#prune_}_${target_sparsity//[= ]/_}${targets:+to_${targets// /_}}
if [ -n "${units}" ]; then
    method=${units// /_}_${method}
fi
seed_args=()
if [ -n "${seed}" ]; then
    method=${method}_seed${seed}
    seed_args=(--seed "${seed}")
fi
finetune_exp=${expdir}/${task}_$(name_of "${finetune_config}")_${upstream_tag}_${dataset_tag}
prune_exp=${expdir}/${task}_prune_${method}_${upstream_tag}_${dataset_tag}
# One for each target
compact_dirs=("${prune_exp}/compact")
compact_exps=("${expdir}/${task}_compact_${method}_${upstream_tag}_${dataset_tag}")
if [ -n "${targets}" ]; then
    compact_dirs=()
    compact_exps=()
    for target in ${targets}; do
        compact_dirs+=("${prune_exp}/compact_${target}")
        compact_exps+=("${expdir}/${task}_compact_${method}_at_${target}_${upstream_tag}_${dataset_tag}")
    done
fi
results_exp=${compact_exps[-1]}
decode_tag=$(name_of "${inference_config}")_${inference_asr_model%.pth}

# What ESPnet's decoding calls the options of the model
case "${task}" in
    asr_transducer) model_option=asr ;;
    *) model_option=${task} ;;
esac

# Which kind of file ESPnet reads from wav.scp
audio_type=sound
if [ "${audio_format}" = flac.ark ]; then
    audio_type=kaldi_ark
fi

# ---- Stamps: skip finished work, start over what other options made ----

# unfinished DIR OPTION...: true if DIR must still be made. What other options made is set aside.
unfinished() {
    local dir=$1 options aside
    shift
    options=$(printf '%s\n' "$@")
    stop_leftover "${dir}"
    if [ -e "${dir}/.options" ] && [ "$(cat "${dir}/.options")" != "${options}" ]; then
        aside=$(dirname "${dir}")/.replaced/$(basename "${dir}").$(date '+%Y%m%d-%H%M%S')
        log "${dir} was made with other options or inputs; moving it to ${aside} and starting over"
        mkdir -p "$(dirname "${aside}")"
        mv "${dir}" "${aside}"
    fi
    if [ -e "${dir}/.done" ]; then
        log "${dir} is finished already; skipping (remove ${dir}/.done to repeat it)"
        return 1
    fi
    mkdir -p "${dir}"
    printf '%s\n' "${options}" >"${dir}/.options"
}

finish() {
    date '+%s%N' >"$1/.done"
}

# checksum FILE...: changes when a file does.
checksum() {
    cat "$@" | cksum
}

# data_checksum DIR: changes when a data directory does, or audio that it lists.
data_checksum() {
    local file
    {
        for file in wav.scp segments text utt2spk; do
            [ ! -e "$1/${file}" ] || cat "$1/${file}"
        done
        # What is missing is reported where it is read.
        sed 's/^[^[:space:]]*[[:space:]]*//' "$1/wav.scp" |
            xargs -d '\n' stat -L -c '%s %.Y %n' 2>/dev/null || true
    } | cksum
}

# ---- Jobs ----

job_group=
stop_job() {
    if [ -n "${job_group}" ]; then
        kill -- "-${job_group}" 2>/dev/null || true
    fi
}
trap stop_job EXIT
trap 'exit 130' INT TERM

# start_job DIR COMMAND...: start a job in a process group of its own, noted in DIR.
start_job() {
    local dir=$1
    shift
    setsid "$@" &
    job_group=$!
    echo "${job_group} $$" >"${dir}/.running"
}

# wait_job DIR OPTION...: show the progress (options of bin.watch), return the job's status.
wait_job() {
    local dir=$1 status=0
    shift
    # In the background, so that a signal to this script is handled at once.
    ${python} -m espnet_hjprune.bin.recipe.watch --pid "${job_group}" "$@" &
    wait $! || true
    wait "${job_group}" || status=$?
    job_group=
    rm -f "${dir}/.running"
    return "${status}"
}

# A killed run cannot stop its jobs; they would write beside those of the next run.
stop_leftover() {
    local file=$1/.running group script
    [ -e "${file}" ] || return 0
    read -r group script <"${file}" || true
    if [ -n "${script}" ] && [ "${script}" != $$ ] &&
        ps -p "${script}" -o args= 2>/dev/null | grep -q 'hjprune\.sh'; then
        die "another run (process ${script}) is at work in $1; wait for it or stop it"
    fi
    if [ -n "${group}" ] && pgrep -g "${group}" -f "$1" >/dev/null; then
        log "Stopping the job that an interrupted run left behind in $1"
        kill -9 -- "-${group}" 2>/dev/null || true
        sleep 1
    fi
    rm -f "${file}"
}

# train TITLE EXP CONFIG ARGUMENT...: train with ESPnet in EXP, resuming what was interrupted.
train() {
    local title=$1 exp=$2 config=$3
    shift 3
    # assigns batches_per_epoch, steps_per_epoch, max_epoch and total_steps
    local plan batches_per_epoch steps_per_epoch max_epoch total_steps
    plan=$(${python} -m espnet_hjprune.bin.recipe.plan --train_config "${config}" \
        --shape_dir "${stats_dir}/train" --token_type "${token_type}" \
        --ngpu "${ngpu}" --num_nodes "${num_nodes}" -- "$@")
    eval "${plan}"
    local ramp_args=()
    if [ "${exp}" = "${prune_exp}" ]; then
        [ $((ramp_epochs * steps_per_epoch)) -lt "${total_steps}" ] ||
            die "--ramp_epochs ${ramp_epochs} does not end before the ${max_epoch} epochs of" \
                "stage 4; lower it or train longer"
        ramp_args=(--frontend_conf "pruning.ramp_steps=$((ramp_epochs * steps_per_epoch))")
        if [ -n "${targets}" ]; then
            ramp_args+=(
                --frontend_conf "pruning.hold_steps=$((hold_epochs * steps_per_epoch))"
                --frontend_conf "pruning.rise_steps=$((rise_epochs * steps_per_epoch))"
            )
        fi
    fi
    local text_shape=text_shape.${token_type} command
    # shellcheck disable=SC2206 # python is a command with options
    command=(
        ${python} -m espnet_hjprune.bin.run -m "espnet2.bin.${task}_train"
        --use_preprocessor true --bpemodel "${bpemodel}" --token_type "${token_type}"
        --token_list "${token_list}"
        --train_data_path_and_name_and_type "${raw_dir}/${train_set}/wav.scp,speech,${audio_type}"
        --train_data_path_and_name_and_type "${raw_dir}/${train_set}/text,text,text"
        --train_shape_file "${stats_dir}/train/speech_shape"
        --train_shape_file "${stats_dir}/train/${text_shape}"
        --valid_data_path_and_name_and_type "${raw_dir}/${valid_set}/wav.scp,speech,${audio_type}"
        --valid_data_path_and_name_and_type "${raw_dir}/${valid_set}/text,text,text"
        --valid_shape_file "${stats_dir}/valid/speech_shape"
        --valid_shape_file "${stats_dir}/valid/${text_shape}"
        --resume true --config "${config}" --output_dir "${exp}" --ngpu "${ngpu}"
        --scheduler_conf "total_steps=${total_steps}"
        ${ramp_args[@]+"${ramp_args[@]}"} "$@"
    )
    log "${title}: the log is ${exp}/train.log"
    rotate_log "${exp}/train.log"
    local job
    if [ "${ngpu}" -gt 1 ] || [ "${num_nodes}" -gt 1 ]; then
        # shellcheck disable=SC2206 # python is a command with options
        job=(
            ${python} -m espnet2.bin.launch --cmd "${cuda_cmd} --name $(basename "${exp}")"
            --log "${exp}/train.log" --ngpu "${ngpu}" --num_nodes "${num_nodes}"
            --init_file_prefix "${exp}/.dist_init_" --multiprocessing_distributed true --
            "${command[@]}"
        )
    else
        local cmd=${cuda_cmd}
        if [ "${ngpu}" -eq 0 ]; then
            cmd=${train_cmd}
        fi
        # shellcheck disable=SC2206 # cmd is a command with options
        job=(${cmd} --gpu "${ngpu}" "${exp}/train.log" "${command[@]}")
    fi
    start_job "${exp}" "${job[@]}"
    wait_job "${exp}" --title "${title}" --log "${exp}/train.log" --max_epoch "${max_epoch}" \
        --batches_per_epoch "${batches_per_epoch}" || explain_failure "${exp}/train.log"
}

# Keep the log of an interrupted run as train.1.log, older ones as train.2.log and so on.
rotate_log() {
    local log=$1 number
    [ -e "${log}" ] || return 0
    for ((number = $(find "$(dirname "${log}")" -maxdepth 1 -name 'train.*.log' | wc -l); \
        number > 0; number--)); do
        mv "${log%.log}.${number}.log" "${log%.log}.$((number + 1)).log"
    done
    mv "${log}" "${log%.log}.1.log"
}

# Show the reason at the end of a log, then end.
explain_failure() {
    local reason
    # Processes of several GPUs end with a traceback, whose last line has the sentence.
    reason=$(grep -aE '^(error|espnet_hjprune\.errors\.HJPruneError): ' "$1" | tail -n 1 |
        sed 's/^[^:]*: //') || true
    if [ -z "${reason}" ]; then
        grep -avE '^# Ended' "$1" | tail -n 15 >&2
        reason="the job ended without saying why"
    fi
    die "${reason} (log: $1)"
}

# decoded_dir EXP SET: where results of a model on a test set go.
decoded_dir() {
    echo "$1/${decode_tag}/$2"
}

# undecoded EXP SET: true if the set must still be decoded with the model.
undecoded() {
    local data=${raw_dir}/$2
    need "$1/${inference_asr_model}" "choose another --inference_asr_model"
    need "${data}/wav.scp" "run stage 2 first"
    # Language models and lexicons may change under the same names.
    local inputs=("${inference_config}" "$1/.done" "${data}/wav.scp" "${data}/text") word
    for word in ${inference_args} $(sed -n 's/^ *\(ngram\|lexicon\): *//p' "${inference_config}"); do
        if [ -f "${word}" ]; then
            inputs+=("${word}")
        fi
    done
    unfinished "$(decoded_dir "$1" "$2")" "${decoder} ${inference_args}" "${score_types}" \
        "$(checksum "${inputs[@]}")"
}

# decode_jobs SET...: parallel jobs, of which each gets an utterance of every set.
decode_jobs() {
    local set jobs=${inference_nj} utterances
    for set in "$@"; do
        utterances=$(wc -l <"${raw_dir}/${set}/wav.scp")
        if [ "${jobs}" -gt "${utterances}" ]; then
            jobs=${utterances}
        fi
    done
    echo "${jobs}"
}

# split_keys DIR SET JOBS: divide the utterances of a set among jobs, in a fresh DIR/logdir.
split_keys() {
    local logdir=$1/logdir job part
    rm -rf "${logdir}"
    mkdir -p "${logdir}"
    split --number="r/$3" --numeric-suffixes=1 --suffix-length=6 "${raw_dir}/$2/wav.scp" \
        "${logdir}/part."
    for ((job = 1; job <= $3; job++)); do
        printf -v part '%06d' "${job}"
        mv "${logdir}/part.${part}" "${logdir}/keys.${job}.scp"
    done
}

# start_decoding DIR LOGDIR JOBS COMMAND...: start the jobs, whose number COMMAND has as JOB.
start_decoding() {
    local dir=$1 logdir=$2 jobs=$3 gpus=0 cmd=${decode_cmd}
    shift 3
    if ${gpu_inference}; then
        gpus=1
        cmd=${cuda_cmd}
    fi
    # One thread a job: the jobs run side by side, and would fight for the cores.
    # shellcheck disable=SC2086 # a command with options
    start_job "${dir}" ${cmd} --gpu "${gpus}" JOB=1:"${jobs}" "${logdir}/decode.JOB.log" \
        env OMP_NUM_THREADS=1 "$@" --ngpu "${gpus}" --config "${inference_config}" ${inference_args}
}

# wait_decoding DIR LOGDIR JOBS UTTERANCES TITLE
wait_decoding() {
    local log
    wait_job "$1" --title "$5" --decode_logs "$2" --jobs "$3" --utterances "$4" && return
    for log in "$2"/decode.*.log; do
        if ! grep -qa '^# Ended with status 0' "${log}"; then
            explain_failure "${log}"
        fi
    done
    die "$5 failed (logs: $2)"
}

# decode_with_espnet EXP SET: decode a test set with ESPnet's own program.
decode_with_espnet() {
    local exp=$1 set=$2 dir logdir jobs
    dir=$(decoded_dir "${exp}" "${set}")
    logdir=${dir}/logdir
    jobs=$(decode_jobs "${set}")
    split_keys "${dir}" "${set}" "${jobs}"
    log "Decoding ${set} with ${exp}: the logs are ${logdir}/decode.*.log"
    # shellcheck disable=SC2086 # python is a command with options
    start_decoding "${dir}" "${logdir}" "${jobs}" \
        ${python} -m espnet_hjprune.bin.run -m "espnet2.bin.${task}_inference" \
        --batch_size 1 \
        --data_path_and_name_and_type "${raw_dir}/${set}/wav.scp,speech,${audio_type}" \
        --key_file "${logdir}/keys.JOB.scp" \
        --"${model_option}_train_config" "${exp}/config.yaml" \
        --"${model_option}_model_file" "${exp}/${inference_asr_model}" \
        --output_dir "${logdir}/output.JOB"
    wait_decoding "${dir}" "${logdir}" "${jobs}" "$(wc -l <"${raw_dir}/${set}/wav.scp")" \
        "decoding ${set}"
}

# decode_in_batches EXP SET [EXP SET]...: decode without ESPnet, all in the same few processes.
decode_in_batches() {
    local exps=() sets=() configs=() models=() tables=() keys=() outputs=() dir
    while [ $# -gt 0 ]; do
        exps+=("$1")
        sets+=("$2")
        shift 2
    done
    local jobs index total=0 logdir=${results_exp}/${decode_tag}/logdir
    jobs=$(decode_jobs "${sets[@]}")
    for index in "${!exps[@]}"; do
        dir=$(decoded_dir "${exps[index]}" "${sets[index]}")
        split_keys "${dir}" "${sets[index]}" "${jobs}"
        configs+=("${exps[index]}/config.yaml")
        models+=("${exps[index]}/${inference_asr_model}")
        tables+=("${raw_dir}/${sets[index]}/wav.scp")
        keys+=("${dir}/logdir/keys.JOB.scp")
        outputs+=("${dir}/logdir/output.JOB")
        total=$((total + $(wc -l <"${tables[index]}")))
    done
    rm -rf "${logdir}"
    mkdir -p "${logdir}"
    log "Decoding ${sets[*]}: the logs are ${logdir}/decode.*.log"
    # shellcheck disable=SC2086 # python is a command with options
    start_decoding "${logdir}" "${logdir}" "${jobs}" \
        ${python} -m espnet_hjprune.bin.decode --audio_type "${audio_type}" \
        --train_config "${configs[@]}" --model_file "${models[@]}" --wav_scp "${tables[@]}" \
        --key_file "${keys[@]}" --output_dir "${outputs[@]}"
    # Other runs of stage 7, for other targets too, must keep off all sets.
    for index in "${!exps[@]}"; do
        cp "${logdir}/.running" "$(decoded_dir "${exps[index]}" "${sets[index]}")"
    done
    wait_decoding "${logdir}" "${logdir}" "${jobs}" "${total}" "decoding"
    for index in "${!exps[@]}"; do
        rm -f "$(decoded_dir "${exps[index]}" "${sets[index]}")/.running"
    done
}

# score_decoded EXP SET: join the results of the jobs and let sclite count the errors.
score_decoded() {
    local data=${raw_dir}/$2 dir file type ter_args=()
    dir=$(decoded_dir "$1" "$2")
    for file in text token token_int score; do
        if [ -e "${dir}/logdir/output.1/1best_recog/${file}" ]; then
            cat "${dir}"/logdir/output.*/1best_recog/"${file}" | LC_ALL=C sort >"${dir}/${file}"
        fi
    done
    for type in ${score_types}; do
        if [ "${type}" = ter ]; then
            ter_args=(--token_type "${token_type}")
            if [ "${token_type}" = bpe ]; then
                ter_args+=(--bpemodel "${bpemodel}")
            fi
        fi
        ${python} -m espnet_hjprune.bin.recipe.score --ref "${data}/text" --hyp "${dir}/text" \
            --utt2spk "${data}/utt2spk" --type "${type}" --out_dir "${dir}/score_${type}" \
            ${ter_args[@]+"${ter_args[@]}"}
    done
    finish "${dir}"
}

# ---- Stages ----

stage_1() {
    mkdir -p data
    local names places
    names=$(sed -n 's/^\([A-Z_0-9]*\)=.*/\1/p' db.sh | paste -sd '|')
    places=$(. ./db.sh && set | grep -E "^(${names})=")
    if unfinished data/.stage1 "${mini}" "${mini_opts}" "${local_data_opts}" "${places}" \
        "$(checksum local/*)"; then
        local opts=(--mini "${mini}")
        if [ -n "${mini_opts}" ]; then
            opts+=(--mini_opts "${mini_opts}")
        fi
        # shellcheck disable=SC2086 # options that the user gives as words
        local/data.sh "${opts[@]}" ${local_data_opts}
        finish data/.stage1
    fi
    if [ -n "${make_upstream}" ]; then
        make_mini_upstream
    fi
}

upstream_stamp() {
    echo "$(dirname "${upstream_ckpt}")/.$(basename "${upstream_ckpt}" .pt)"
}

make_mini_upstream() {
    local stamp data=data/${train_set%_sp} random=${upstream_ckpt}
    local words=${data}/transcript
    stamp=$(upstream_stamp)
    [ -e "${upstream_ckpt}" ] || rm -f "${stamp}/.done"
    local inputs=("${mini_pretrain_epochs}")
    if [ "${mini_pretrain_epochs}" -gt 0 ]; then
        need "${words}" "the mini upstream is trained on it; use --mini_pretrain_epochs 0"
        inputs+=("$(checksum "${words}")" "$(data_checksum "${data}")")
        random=${stamp}/random.pt
    fi
    unfinished "${stamp}" "${inputs[@]}" || return 0
    ${python} -m espnet_hjprune.bin.recipe.random_upstream --family "${make_upstream%_*}" \
        --size "${make_upstream##*_}" --output "${random}"
    if [ "${mini_pretrain_epochs}" -gt 0 ]; then
        ${python} -m espnet_hjprune.bin.recipe.pretrain_upstream --upstream "${upstream}" \
            --checkpoint "${random}" --data_dir "${data}" \
            --epochs "${mini_pretrain_epochs}" --output "${upstream_ckpt}"
    fi
    finish "${stamp}"
}

stage_2() {
    local set duration=() made_with=data/.stage1/.options original=${train_set%_sp}
    if [ -e "${made_with}" ] && [ "$(head -n 1 "${made_with}")" != "${mini}" ]; then
        die "data/ was made with --mini $(head -n 1 "${made_with}"); run stage 1 with --mini ${mini}"
    fi
    if [ -n "${speed_perturb_factors}" ]; then
        need "data/${original}/wav.scp" "run stage 1 first"
        if unfinished "data/.${train_set}" "${speed_perturb_factors}" \
            "$(data_checksum "data/${original}")"; then
            # shellcheck disable=SC2086 # factors are words
            ${python} -m espnet_hjprune.bin.recipe.perturb_speed --in_dir "data/${original}" \
                --out_dir "data/${train_set}" --factors ${speed_perturb_factors} --nj "${nj}"
            finish "data/.${train_set}"
        fi
    fi
    for set in ${train_set} ${valid_set} ${test_sets}; do
        need "data/${set}/wav.scp" "run stage 1 first"
        unfinished "${raw_dir}/.${set}" "${audio_format}" "${fs}" "${min_wav_duration}" \
            "${max_wav_duration}" "$(data_checksum "data/${set}")" || continue
        duration=(--min_wav_duration "${min_wav_duration}")
        if [ "${set}" = "${train_set}" ] || [ "${set}" = "${valid_set}" ]; then
            duration+=(--max_wav_duration "${max_wav_duration}")
        fi
        ${python} -m espnet_hjprune.bin.recipe.format_data --in_dir "data/${set}" \
            --out_dir "${raw_dir}/${set}" --audio_format "${audio_format}" --fs "${fs}" \
            --nj "${nj}" "${duration[@]}"
        finish "${raw_dir}/.${set}"
    done
    local bpe_args=() model_args=()
    if [ "${token_type}" = bpe ]; then
        bpe_args=(--nbpe "${nbpe}" --bpemodel_prefix "${bpemodel%.model}" --bpemode "${bpemode}")
        model_args=(--bpemodel "${bpemodel}")
    fi
    if unfinished "${token_dir}" "${token_type}" "${bpe_args[*]}" \
        "$(checksum "${raw_dir}/${train_set}/text")"; then
        ${python} -m espnet_hjprune.bin.recipe.token_list --text "${raw_dir}/${train_set}/text" \
            --token_type "${token_type}" --output "${token_list}" \
            ${bpe_args[@]+"${bpe_args[@]}"}
        finish "${token_dir}"
    fi
    local part
    for part in train valid; do
        set=${train_set}
        if [ "${part}" = valid ]; then
            set=${valid_set}
        fi
        if unfinished "${stats_dir}/${part}" \
            "$(checksum "${token_list}" "${raw_dir}/.${set}/.done")"; then
            ${python} -m espnet_hjprune.bin.recipe.shapes --data_dir "${raw_dir}/${set}" \
                --token_list "${token_list}" --token_type "${token_type}" \
                --out_dir "${stats_dir}/${part}" ${model_args[@]+"${model_args[@]}"}
            finish "${stats_dir}/${part}"
        fi
    done
}

need_stage_2() {
    need "${stats_dir}/train/.done" "run stage 2 first"
    need "${stats_dir}/valid/.done" "run stage 2 first"
}

stage_3() {
    need_stage_2
    local upstream_args=(--frontend_conf "frontend_conf.upstream=${upstream}")
    if upstream_is_file; then
        need "${upstream_ckpt}" "run stage 1 first"
    fi
    if [ -n "${upstream_ckpt}" ]; then
        upstream_args+=(--frontend_conf "frontend_conf.path_or_url=${upstream_ckpt}")
    fi
    # shellcheck disable=SC2206 # options that the user gives as words
    local args=("${upstream_args[@]}" ${finetune_args})
    local inputs=("${finetune_config}" "${stats_dir}/train/.done" "${stats_dir}/valid/.done")
    if [ -n "${make_upstream}" ]; then
        inputs+=("$(upstream_stamp)/.done")
        need "${inputs[-1]}" "run stage 1 first"
    fi
    if unfinished "${finetune_exp}" "${args[*]}" "$(checksum "${inputs[@]}")"; then
        train "stage 3: fine-tuning" "${finetune_exp}" "${finetune_config}" "${args[@]}"
        finish "${finetune_exp}"
    fi
}

# What happens in a training step: doc/espnet_integration.md
stage_4() {
    need "${finetune_exp}/.done" "run stage 3 first"
    need "${finetune_exp}/${init_model}" "choose another --init_model"
    local args=(
        --frontend_conf "frontend_conf.upstream=${upstream}"
        --frontend_conf "pruning.criterion=${criterion}" "${target_args[@]}"
        --init_param "${finetune_exp}/${init_model}"
    )
    if [ -n "${upstream_ckpt}" ]; then
        args+=(--frontend_conf "frontend_conf.path_or_url=${upstream_ckpt}")
    fi
    if [ -n "${units}" ]; then
        args+=(--frontend_conf "pruning.units=[${units// /, }]")
    fi
    # shellcheck disable=SC2206 # options that the user gives as words
    args+=(${seed_args[@]+"${seed_args[@]}"} ${prune_args})
    if [ -n "${targets}" ]; then
        # The model at every target is kept, and the last target needs a learning rate too.
        local last
        last=$(last_epoch_of "$((${#compact_dirs[@]} - 1))")
        args+=(
            --max_epoch "${last}" --keep_nbest_models "${last}" --patience none
            --scheduler_conf pruning_schedule=constant
        )
    fi
    if unfinished "${prune_exp}" "${args[*]}" "${ramp_epochs}" ${targets:+"${rise_epochs}"} \
        "$(checksum "${prune_config}" "${finetune_exp}/.done")"; then
        train "stage 4: gated pruning" "${prune_exp}" "${prune_config}" "${args[@]}"
        finish "${prune_exp}"
    fi
}

# last_epoch_of INDEX: the epoch at whose end the model of this target is taken.
last_epoch_of() {
    echo $((ramp_epochs + hold_epochs + $1 * (rise_epochs + hold_epochs)))
}

stage_5() {
    need "${prune_exp}/.done" "run stage 4 first"
    local index compact_dir epoch
    for index in "${!compact_dirs[@]}"; do
        compact_dir=${compact_dirs[index]}
        unfinished "${compact_dir}" "$(checksum "${compact_config}" "${prune_exp}/.done")" ||
            continue
        local wav_args=()
        if [[ ${audio_format} != *.ark ]]; then
            # The gated and the compact model are compared on a few real utterances.
            mapfile -t wav_args < <(head -n 4 "${raw_dir}/${valid_set}/wav.scp" | cut -d ' ' -f 2-)
            wav_args=(--wav "${wav_args[@]}")
        fi
        if [ -n "${targets}" ]; then
            epoch=${prune_exp}/$(last_epoch_of "${index}")epoch.pth
        else
            # The last one is on target; better-scoring ones may be pruned less.
            epoch=$(find "${prune_exp}" -maxdepth 1 -name '*epoch.pth' | sort -V | tail -n 1)
        fi
        ${python} -m espnet_hjprune.bin.compact --task "${task}" \
            --train_config "${prune_exp}/config.yaml" --model_file "${epoch}" \
            --output_dir "${compact_dir}" --finetune_config "${compact_config}" \
            ${wav_args[@]+"${wav_args[@]}"}
        finish "${compact_dir}"
    done
}

stage_6() {
    local index compact_dir compact_exp title
    for index in "${!compact_dirs[@]}"; do
        compact_dir=${compact_dirs[index]}
        compact_exp=${compact_exps[index]}
        need "${compact_dir}/.done" "run stage 5 first"
        # shellcheck disable=SC2206 # options that the user gives as words
        local args=(--init_param "${compact_dir}/model.pth" ${seed_args[@]+"${seed_args[@]}"}
            ${compact_args})
        unfinished "${compact_exp}" "${args[*]}" \
            "$(checksum "${compact_dir}/finetune.yaml" "${compact_dir}/.done")" || continue
        title="stage 6: final fine-tuning"
        if [ -n "${targets}" ]; then
            title+=" $((index + 1)) of ${#compact_dirs[@]}"
        fi
        train "${title}" "${compact_exp}" "${compact_dir}/finetune.yaml" "${args[@]}"
        finish "${compact_exp}"
    done
}

stage_7() {
    need "${finetune_exp}/.done" "run stage 3 first"
    local set exp index left=() compared=()
    for index in "${!compact_exps[@]}"; do
        need "${compact_exps[index]}/.done" "run stage 6 first"
        compared+=(
            --prune_exp "${prune_exp}" --summary "${compact_dirs[index]}/summary.json"
            --model "auto=${compact_exps[index]}"
        )
    done
    stop_leftover "${results_exp}/${decode_tag}/logdir"
    for exp in "${finetune_exp}" "${compact_exps[@]}"; do
        for set in ${test_sets}; do
            undecoded "${exp}" "${set}" || continue
            if [ "${decoder}" = espnet ]; then
                decode_with_espnet "${exp}" "${set}"
                score_decoded "${exp}" "${set}"
            else
                left+=("${exp}" "${set}")
            fi
        done
    done
    if [ ${#left[@]} -gt 0 ]; then
        decode_in_batches "${left[@]}"
        set -- "${left[@]}"
        while [ $# -gt 0 ]; do
            score_decoded "$1" "$2"
            shift 2
        done
    fi
    # shellcheck disable=SC2086 # test sets are words
    ${python} -m espnet_hjprune.bin.recipe.report --output "${results_exp}/RESULTS.md" \
        --json "${results_exp}/results.json" ${results_copy:+"${results_copy}"} \
        --model "unpruned=${finetune_exp}" "${compared[@]}" \
        --decode_tag "${decode_tag}" --test_sets ${test_sets} --metric "${metric}" \
        --data_dir "${raw_dir}" \
        --title "$(basename "$(dirname "${PWD}")"): HJ-Pruning of ${upstream_tag}"
    log "The results are ${results_exp}/RESULTS.md, figures are in ${prune_exp}/images"
}

titles=(
    "" "Data preparation" "Audio format, token list and shapes" "Fine-tuning" "Gated pruning"
    "Compaction" "Final fine-tuning" "Decoding, scoring and report"
)
# One block that ends with exit: the shell has read all of it before the file can change.
{
    log "Options: ${arguments[*]}"
    for ((number = stage; number <= stop_stage; number++)); do
        log "Stage ${number}: ${titles[number]}"
        started=${SECONDS}
        "stage_${number}"
        log "Stage ${number}: finished in $((SECONDS - started)) s"
    done
    log "Successfully finished. [elapsed=${SECONDS}s]"
    exit 0
}
