#!/usr/bin/env bash
# The seven stages of HJ-Pruning, shared by all recipes:
#   ./run.sh --stage 1 --stop_stage 7 --method macs --target_sparsity 0.4
# shellcheck disable=SC2154,SC2317 # options are set by their table, stages called by their number
set -euo pipefail

. utils/common.sh
. scripts/options.sh
. scripts/jobs.sh
. scripts/stamps.sh
. scripts/data.sh
. scripts/tokens.sh
. scripts/pruning.sh
. scripts/decoding.sh
. scripts/stages.sh
define_options "./run.sh [--stage 1..7] [--stop_stage 1..7] [--<option> <value> ...]" <<'END'
General
  --stage 1                   first stage
  --stop_stage 7              last stage: 1 data, 2 format and tokens, 3 fine-tuning, 4 gated
                              pruning, 5 compaction, 6 final fine-tuning, 7 decoding and scores
  --ngpu 0                    GPUs for training, 0 for the CPU
  --num_nodes 1               machines for training
  --nj ""                     parallel jobs of data preparation; empty: the cores, 4 at most
  --inference_nj ""           parallel jobs of decoding; empty: the cores, 4 at most
  --gpu_inference false       decode on GPUs
  --dumpdir dump              formatted data
  --expdir exp                experiments
  --python python3            Python that runs everything but local/data.sh
Data
  --task asr                  ESPnet task, and first part of experiment names
  --train_set ""              training set
  --valid_set ""              validation set
  --test_sets ""              test sets, separated by spaces
  --local_data_opts ""        options of local/data.sh
  --speed_perturb_factors ""  speeds of copies of the training set, such as "0.9 1.0 1.1"
  --audio_format flac         flac, wav or flac.ark
  --fs 16k                    sampling rate
  --min_wav_duration 0.1      shorter training utterances are left out, in seconds
  --max_wav_duration 30       longer training utterances are left out, in seconds
A small corpus and upstream that the recipe synthesises itself
  --mini false                use them instead of the real ones
  --mini_opts ""              options of the synthesis
  --mini_test_sets ""         test sets with --mini true, unless --test_sets comes later
  --mini_pretrain_epochs 0    epochs on the words of the corpus that make its upstream pre-trained
Tokens
  --lang en                   language, for names of directories
  --token_type char           char, bpe or word
  --nbpe 300                  pieces of bpe
  --bpemode unigram           unigram or bpe
Upstream and pruning; what is empty is as configured
  --upstream ""               name of an s3prl upstream; empty: wav2vec2_base_960, wav2vec2_mini
  --upstream_ckpt ""          its checkpoint, for names such as wav2vec2_local and hf_wavlm_custom; a
                              model directory for hj_prune_local
  --normalize_input ""        true or false: scale utterances to unit variance, or not; empty: as
                              the checkpoint says
  --init_ctc false            take over CTC layer and tokens of a fine-tuned Hugging Face checkpoint
  --trust_checkpoint false    read a checkpoint that holds more than data, which executes it
  --upstream_tag ""           how the upstream is called in experiment names
  --method ""                 macs, size, sepsize, transformer (size, with the CNN left alone),
                              latency (measured seconds, see --latency_table),
                              dense (nothing is removed: the control, trained for as long),
                              taylor or magnitude (gates are set once, by such scores of units), or
                              none (stages 4 to 6 do nothing, stage 7 scores the model of stage 3)
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
  --distill false             the unpruned model teaches in stages 4 and 6
  --seed ""                   seed of stages 4 and 6
  --compile false             train a compiled encoder in stages 3, 4 and 6
Training, decoding and scoring
  --config_dir ""             has the configurations; empty: conf/tuning, with --mini true conf/mini
  --train_config ""           stage 3; empty: train.yaml there
  --prune_config ""           stage 4; empty: prune.yaml
  --compact_config ""         stage 6; empty: finetune.yaml
  --train_args ""             options of ESPnet's training in stage 3, after the configuration
  --prune_args ""             the same in stage 4
  --compact_args ""           the same in stage 6
  --init_model ""             model of stage 3 that is pruned; empty: the best by its configuration
  --inference_asr_model ""    model that is decoded; empty: the best of stage 6, and so called in 3
  --decoder batched           batched, for CTC models and linear classifiers, or espnet
  --inference_config ""       options of decoding; empty: conf/decode_<decoder>.yaml
  --inference_args ""         more of them, after the configuration
  --score_types "wer cer"     what sclite counts; ter is added for bpe
  --metric wer                figure of the result table: wer or accuracy
  --results_copy ""           another file for the figures of stage 7, beside results.json
END
renamed_options=([criterion]=method [finetune_config]=train_config [finetune_args]=train_args)
parse_options "$@"
arguments=("$@")

. ./path.sh
. ./cmd.sh

if [ "${mini}" = true ] && given_after mini_test_sets test_sets; then
    test_sets=${mini_test_sets}
fi
split_words python
complete_options "${python[@]}" -m espnet_hjprune.bin.recipe.check_options
split_words local_data_opts speed_perturb_factors test_sets targets target_epochs train_args \
    prune_args compact_args inference_args score_types

# Names of what the stages make
raw_dir=${dumpdir}/raw
token_dir=${dumpdir}/token_list/${dataset_tag}
token_list=${token_dir}/tokens.txt
bpemodel=none
[ "${token_type}" != bpe ] || bpemodel=${token_dir}/bpe.model
stats_dir=${expdir}/${task}_stats_${dataset_tag}
data_stamps=("${stats_dir}/"{train,valid}/.done)
train_exp=${expdir}/${task}_$(basename "${train_config}" .yaml)_${upstream_tag}_${dataset_tag}
prune_exp=${expdir}/${task}_prune_${method_tag}_${upstream_tag}_${dataset_tag}
name_compact_models
[ "${method}" != none ] || { compact_exps=() results_exp=${train_exp}; }
decode_tag=$(basename "${inference_config}" .yaml)_${inference_asr_model%.pth}
teacher=
! ${distill} || teacher=${train_exp}/${init_model}

# What stages 3, 4 and 6 run: the completion of their configuration, and ESPnet's training
configure=(
    "${python[@]}" -m espnet_hjprune.bin.recipe.configure --shape_dir "${stats_dir}/train"
    --token_type "${token_type}" --ngpu "${ngpu}" --num_nodes "${num_nodes}" --compile "${compile}"
    --trust_checkpoint "${trust_checkpoint}"
)
source_args=(--upstream "${source_upstream}" --upstream_ckpt "${upstream_ckpt}")
source_args+=(${normalize_input:+--normalize_input "${normalize_input}"})
espnet_train=(
    "${python[@]}" -m espnet_hjprune.bin.run -m "espnet2.bin.${task}_train"
    --use_preprocessor true --bpemodel "${bpemodel}" --token_type "${token_type}"
    --token_list "${token_list}" --resume true --ngpu "${ngpu}"
    --train_data_path_and_name_and_type "${raw_dir}/${train_set}/wav.scp,speech,${audio_type}"
    --train_data_path_and_name_and_type "${raw_dir}/${train_set}/text,text,text"
    --train_shape_file "${stats_dir}/train/speech_shape"
    --train_shape_file "${stats_dir}/train/text_shape.${token_type}"
    --valid_data_path_and_name_and_type "${raw_dir}/${valid_set}/wav.scp,speech,${audio_type}"
    --valid_data_path_and_name_and_type "${raw_dir}/${valid_set}/text,text,text"
    --valid_shape_file "${stats_dir}/valid/speech_shape"
    --valid_shape_file "${stats_dir}/valid/text_shape.${token_type}"
)

# Data preparation
stage_1() {
    prepare_data
}

# Audio format, token list and shapes
stage_2() {
    format_sets
    prepare_tokens
}

# nothing_is_pruned: true, and a line in the log, for --method none.
nothing_is_pruned() {
    [ "${method}" = none ] || return 1
    log "Nothing is pruned (--method none)"
}

# Fine-tuning
stage_3() {
    local options=("${source_args[@]}")
    ! ${init_ctc} || options+=(--init_ctc true)
    ((stage < 3)) || prepare_tokens # stage 2 did it
    [ -z "${make_upstream}" ] || need "${upstream_ckpt}" "run stage 1 first"
    if unfinished_training "${train_exp}" "${train_max_epoch}" "${options[*]}" "${train_args[*]}" \
        "$(file_stamp "${upstream_ckpt}")" \
        "$(settings_checksum "${train_config}" "${data_stamps[@]}")"; then
        "${configure[@]}" --config "${train_config}" --output_dir "${train_exp}" \
            --max_epoch "${train_max_epoch}" "${options[@]}" -- "${train_args[@]}"
        run_training "stage 3: fine-tuning" "${train_exp}" "${espnet_train[@]}" \
            --config "${train_exp}/training.yaml" --output_dir "${train_exp}" "${train_args[@]}"
        finish "${train_exp}"
    fi
}

# Gated pruning; what happens in a training step: doc/espnet_integration.md
stage_4() {
    local options=(
        "${source_args[@]}" --seed "${seed}"
        --init_param "${train_exp}/${init_model}" --teacher "${teacher}" --method "${method}"
        --target_sparsity "${target_sparsity}" --targets "${targets[*]}" --units "${units}"
        --ramp_epochs "${ramp_epochs}" --hold_epochs "${hold_epochs}" --rise_epochs "${rise_epochs}"
    )
    ! ${uniform} || options+=(--uniform true)
    options+=(${latency_table:+--latency_table "${latency_table}"})
    ! nothing_is_pruned || return 0
    need "${train_exp}/.done" "run stage 3 first"
    need "${train_exp}/${init_model}" "choose another --init_model"
    train_gates "${train_exp}/.done" "${options[@]}"
}

# Compaction
stage_5() {
    ! nothing_is_pruned || return 0
    compact_models
}

# Final fine-tuning
stage_6() {
    ! nothing_is_pruned || return 0
    train_compact_models "final fine-tuning" --teacher "${teacher}" --seed "${seed}"
}

# Decoding, scoring and report
stage_7() {
    local index exp compared=() part=${task/asr_transducer/asr} name=unpruned
    [ "${method}" != none ] || name=fine-tuned # perhaps of an upstream that was pruned before
    need "${train_exp}/.done" "run stage 3 first"
    for index in "${!compact_exps[@]}"; do
        need "${compact_exps[index]}/.done" "run stage 6 first"
        compared+=(--prune_exp "${prune_exp}" --summary "${compact_dirs[index]}/summary.json"
            --model "auto=${compact_exps[index]}")
    done
    list_undecoded "${train_exp}" "${compact_exps[@]}"
    if [ "${decoder}" = batched ] && [ ${#decode_dirs[@]} -gt 0 ]; then
        run_decoding "${results_exp}/${decode_tag}/logdir" "${!decode_dirs[@]}" -- \
            "${python[@]}" -m espnet_hjprune.bin.decode --audio_type "${audio_type}" \
            --train_config "${decode_exps[@]/%//config.yaml}" \
            --model_file "${decode_exps[@]/%//${inference_asr_model}}" \
            --wav_scp "${decode_data[@]/%//wav.scp}" \
            --key_file "${decode_dirs[@]/%//logdir/keys.JOB.scp}" \
            --output_dir "${decode_dirs[@]/%//logdir/output.JOB}"
    fi
    for index in "${!decode_dirs[@]}"; do
        exp=${decode_exps[index]}
        if [ "${decoder}" = espnet ]; then
            run_decoding "${decode_dirs[index]}/logdir" "${index}" -- \
                "${python[@]}" -m espnet_hjprune.bin.run -m "espnet2.bin.${task}_inference" \
                --batch_size 1 --key_file "${decode_dirs[index]}/logdir/keys.JOB.scp" \
                --data_path_and_name_and_type "${decode_data[index]}/wav.scp,speech,${audio_type}" \
                "--${part}_train_config" "${exp}/config.yaml" \
                "--${part}_model_file" "${exp}/${inference_asr_model}" \
                --output_dir "${decode_dirs[index]}/logdir/output.JOB"
        fi
        run_job "${decode_dirs[index]}" "${python[@]}" -m espnet_hjprune.bin.recipe.score \
            --data_dir "${decode_data[index]}" --decode_dir "${decode_dirs[index]}" \
            --type "${score_types[@]}" --token_type "${token_type}" --bpemodel "${bpemodel}"
        finish "${decode_dirs[index]}"
    done
    "${python[@]}" -m espnet_hjprune.bin.recipe.report --output "${results_exp}/RESULTS.md" \
        --json "${results_exp}/results.json" ${results_copy:+"${results_copy}"} \
        --model "${name}=${train_exp}" "${compared[@]}" --decode_tag "${decode_tag}" \
        --test_sets "${test_sets[@]}" --metric "${metric}" --data_dir "${raw_dir}" \
        --title "$(basename "$(dirname "${PWD}")"): HJ-Pruning of ${upstream_tag}"
    log "The results are ${results_exp}/RESULTS.md, with figures"
}

titles=("" "Data preparation" "Audio format, token list and shapes" "Fine-tuning" "Gated pruning"
    "Compaction" "Final fine-tuning" "Decoding, scoring and report")
# One line that ends with exit: the shell has read all of it before the file can change.
{ run_stages "${arguments[@]}"; exit 0; }
