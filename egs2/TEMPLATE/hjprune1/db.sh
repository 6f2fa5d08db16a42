# Where the corpus is; sourced by local/data.sh.
# shellcheck shell=bash disable=SC2034

CORPUS=${CORPUS:-downloads/corpus}
