# How jobs are run, in all recipes that link this file; sourced by hjprune.sh and unlabelled.sh.
# shellcheck shell=bash disable=SC2034

# A job script is called as "SCRIPT [--gpu N] [JOB=1:N] LOG COMMAND...". Kaldi's queue.pl and
# slurm.pl are called alike and can be named here with their options.
train_cmd=utils/run_local.sh
cuda_cmd=utils/run_local.sh
decode_cmd=utils/run_local.sh
