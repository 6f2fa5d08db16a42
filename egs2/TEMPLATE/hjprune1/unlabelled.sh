#!/usr/bin/env bash
# The seven stages of HJ-Pruning without labels: the dense upstream teaches the pruned one, and the
# result is an upstream for any task.
#   ./run.sh --stage 1 --stop_stage 7 --method macs --target_sparsity 0.4
# shellcheck disable=SC2154,SC2317 # options are set by their table, stages called by their number
set -euo pipefail

. utils/common.sh
. scripts/options.sh
. scripts/jobs.sh
. scripts/stamps.sh
. scripts/data.sh
. scripts/pruning.sh
. scripts/stages.sh
define_options "./run.sh [--stage 1..7] [--stop_stage 1..7] [--<option> <value> ...]" <<'END'
General
  --stage 1                   first stage
  --stop_stage 7              last stage: 1 data, 2 format and lengths, 3 the teacher, 4 gated
                              pruning, 5 compaction, 6 second distillation, 7 distances
  --ngpu 0                    GPUs for training, 0 for the CPU
  --num_nodes 1               machines for training
  --nj ""                     parallel jobs of data preparation; empty: the cores, 4 at most
  --dumpdir dump              formatted data
  --expdir exp                experiments
  --python python3            Python that runs everything but local/data.sh
Data, of which the audio is used
  --train_set ""              training set
  --valid_set ""              validation set
  --test_sets ""              sets on which student and teacher are compared, separated by spaces
  --local_data_opts ""        options of local/data.sh
  --audio_format flac         flac, wav or flac.ark
  --fs 16k                    sampling rate
  --min_wav_duration 0.1      shorter training utterances are left out, in seconds
  --max_wav_duration 30       longer training utterances are left out, in seconds
A small corpus and upstream that the recipe synthesises itself
  --mini false                use them instead of the real ones
  --mini_opts ""              options of the synthesis
  --mini_test_sets ""         test sets with --mini true, unless --test_sets comes later
  --mini_pretrain_epochs 0    epochs on the words of the corpus that make its upstream pre-trained
Upstream and pruning; what is empty is as configured
  --upstream ""               name of an s3prl upstream; empty: wav2vec2_base_960, wav2vec2_mini
  --upstream_ckpt ""          its checkpoint, for names such as wav2vec2_local and hf_wavlm_custom; a
                              model directory for hj_prune_local
  --normalize_input ""        true or false: scale utterances to unit variance, or not; empty: as
                              the checkpoint says
  --trust_checkpoint false    read a checkpoint that holds more than data, which executes it
  --upstream_tag ""           how the upstream is called in experiment names
  --method ""                 macs, size, sepsize, transformer (size, with the CNN left alone),
                              latency (measured seconds, see --latency_table),
                              dense (nothing is removed) or magnitude (gates are set once, by such
                              scores of units)
  --target_sparsity ""        share to remove; "cnn=X transformer=Y" for sepsize
  --targets ""                rising ones, such as "0.2 0.3 0.4": one pruning gives a model for each
  --latency_table ""          of hjprune measure, or the name of one of the package: what the method
                              latency needs, and how stage 5 times the models of any method
  --ramp_epochs ""            epochs over which the target rises; empty: 5, with --mini true 4
  --hold_epochs 2             epochs at each of several targets
  --rise_epochs 1             epochs from one of them to the next
  --units ""                  gated units, such as "head ffn hidden"
  --uniform false             keep all layers alike, so that Hugging Face's own classes hold them
  --allow_off_target false    prune and compact also if the gates do not come to the target
  --seed ""                   seed of stages 4 and 6
  --compile false             train a compiled encoder in stages 4 and 6
Training and comparison
  --config_dir ""             has the configurations; empty: conf/tuning, with --mini true conf/mini
  --prune_config ""           stage 4; empty: prune.yaml there
  --compact_config ""         stage 6; empty: finetune.yaml
  --prune_args ""             options of ESPnet's training in stage 4, after the configuration
  --compact_args ""           the same in stage 6
  --compact_model ""          model of stage 6 that is compared; empty: the best by its configuration
  --num_compared 200          utterances of each set that are compared, evenly spread
  --results_copy ""           another file for the figures of stage 7, beside results.json
END
parse_options "$@"
arguments=("$@")

. ./path.sh
. ./cmd.sh

if [ "${mini}" = true ] && given_after mini_test_sets test_sets; then
    test_sets=${mini_test_sets}
fi
split_words python
complete_options "${python[@]}" -m espnet_hjprune.bin.recipe.check_options
split_words local_data_opts test_sets targets target_epochs prune_args \
    compact_args

# Names of what the stages make
task=ssl
speed_perturb_factors=()
use_audio_alone
raw_dir=${dumpdir}/raw
stats_dir=${expdir}/${task}_stats_${dataset_tag}
data_stamps=("${stats_dir}/"{train,valid}/.done)
teacher_exp=${expdir}/${task}_teacher_${upstream_tag}
teacher=${teacher_exp}/model
prune_exp=${expdir}/${task}_prune_${method_tag}_${upstream_tag}_${dataset_tag}
name_compact_models

# What stages 4 and 6 run: the completion of their configuration, and ESPnet's training
configure=(
    "${python[@]}" -m espnet_hjprune.bin.recipe.configure --shape_dir "${stats_dir}/train"
    --ngpu "${ngpu}" --num_nodes "${num_nodes}" --compile "${compile}"
)
espnet_train=(
    "${python[@]}" -m espnet_hjprune.bin.recipe.unlabelled_train --resume true --ngpu "${ngpu}"
    --train_data_path_and_name_and_type "${raw_dir}/${train_set}/wav.scp,speech,${audio_type}"
    --train_shape_file "${stats_dir}/train/speech_shape"
    --valid_data_path_and_name_and_type "${raw_dir}/${valid_set}/wav.scp,speech,${audio_type}"
    --valid_shape_file "${stats_dir}/valid/speech_shape"
)

# Data preparation
stage_1() {
    prepare_data
}

# Audio format and lengths
stage_2() {
    format_sets
    prepare_lengths
}

# prepare_lengths: check the formatted data and write the lengths of the audio.
prepare_lengths() {
    check_dumps "${audio_only[@]}"
    write_shapes "" "${audio_only[@]}"
}

# The teacher: the dense upstream as a model directory, from which the student starts
stage_3() {
    local options=(--upstream "${source_upstream}" --upstream_ckpt "${upstream_ckpt}"
        --normalize_input "${normalize_input}")
    ((stage < 3)) || prepare_lengths # stage 2 did it
    [ -z "${make_upstream}" ] || need "${upstream_ckpt}" "run stage 1 first"
    if unfinished "${teacher_exp}" "${options[*]}" "$(file_stamp "${upstream_ckpt}")"; then
        run_job "${teacher_exp}" "${python[@]}" -m espnet_hjprune.bin.recipe.save_upstream \
            "${options[@]}" --trust_checkpoint "${trust_checkpoint}" --output_dir "${teacher}"
        finish "${teacher_exp}"
    fi
}

# Gated pruning; what happens in a training step: doc/espnet_integration.md
stage_4() {
    local options=(
        --upstream hj_prune_local --upstream_ckpt "${teacher}" --teacher "${teacher}"
        --seed "${seed}" --method "${method}" --target_sparsity "${target_sparsity}"
        --targets "${targets[*]}" --units "${units}" --ramp_epochs "${ramp_epochs}"
        --hold_epochs "${hold_epochs}" --rise_epochs "${rise_epochs}" --uniform "${uniform}"
    )
    options+=(${latency_table:+--latency_table "${latency_table}"})
    need "${teacher_exp}/.done" "run stage 3 first"
    train_gates "${teacher_exp}/.done" "${options[@]}"
}

# Compaction
stage_5() {
    compact_models
}

# Second distillation
stage_6() {
    train_compact_models "second distillation" --teacher "${teacher}" --seed "${seed}"
}

# Distances from the teacher, and report
stage_7() {
    local index exp set sets=() compared=()
    need "${teacher_exp}/.done" "run stage 3 first"
    for set in "${train_set}" "${test_sets[@]}"; do
        need "${raw_dir}/${set}/wav.scp" "run stage 2 first"
        sets+=("${set}=${raw_dir}/${set}/wav.scp")
    done
    for index in "${!compact_exps[@]}"; do
        exp=${compact_exps[index]}
        need "${exp}/.done" "run stage 6 first"
        need "${exp}/${compact_model}" "choose another --compact_model"
        compared+=(--prune_exp "${prune_exp}" --summary "${compact_dirs[index]}/summary.json"
            --distances "${exp}/distances/distances.json")
        [ -e "${exp}/distances/distances.json" ] || rm -f "${exp}/distances/.done"
        if unfinished "${exp}/distances" "${compact_model} ${num_compared}" "${sets[*]}" \
            "$(checksum "${exp}/.done" "${compact_dirs[index]}/.done" "${teacher_exp}/.done")" \
            "$(for set in "${sets[@]}"; do data_checksum "$(dirname "${set#*=}")"; done)"; then
            run_job "${exp}/distances" "${python[@]}" -m \
                espnet_hjprune.bin.recipe.save_upstream --model_file "${exp}/${compact_model}" \
                --output_dir "${exp}/upstream"
            measure_distances "${compact_dirs[index]}/model.pth" "${exp}"
            finish "${exp}/distances"
        fi
    done
    "${python[@]}" -m espnet_hjprune.bin.recipe.unlabelled_report \
        --output "${results_exp}/RESULTS.md" "${compared[@]}" \
        --json "${results_exp}/results.json" ${results_copy:+"${results_copy}"} \
        --title "$(basename "$(dirname "${PWD}")"): HJ-Pruning of ${upstream_tag} without labels"
    log "The results are ${results_exp}/RESULTS.md, with figures"
    for exp in "${compact_exps[@]}"; do
        log "An upstream for any task: --upstream hj_prune_local" \
            "--upstream_ckpt $(realpath "${exp}/upstream")"
    done
}

# measure_distances COMPACTED EXP: compare the model after compaction, and what EXP made of it, with
# the teacher. The training set is what linear maps are fitted to.
measure_distances() {
    local log=$2/distances/measure.log job=()
    if [ "${ngpu}" -gt 0 ]; then
        # shellcheck disable=SC2206 # a command with options
        job=(${cuda_cmd} --gpu 1 "${log}")
    fi
    log "Comparing hidden states with the teacher's"
    run_job "$2/distances" "${job[@]}" "${python[@]}" -m \
        espnet_hjprune.bin.recipe.measure_states --teacher "${teacher}" \
        --model "compacted=$1" --model "distilled=$2/${compact_model}" \
        --fit_on "${sets[0]}" --sets "${sets[@]:1}" --num_utterances "${num_compared}" \
        --device "$([ "${ngpu}" -gt 0 ] && echo cuda || echo cpu)" \
        --output "$2/distances/distances.json" && return
    [ "${ngpu}" -eq 0 ] || die_with_log "${log}"
    exit 1
}

titles=("" "Data preparation" "Audio format and lengths" "The teacher" "Gated pruning"
    "Compaction" "Second distillation" "Distances and report")
# One line that ends with exit: the shell has read all of it before the file can change.
{ run_stages "${arguments[@]}"; exit 0; }
