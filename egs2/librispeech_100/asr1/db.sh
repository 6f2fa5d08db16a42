# Where the corpora are; sourced by local/data.sh.
# shellcheck shell=bash disable=SC2034

# Directory that holds LibriSpeech/. With "downloads", what is missing is downloaded.
LIBRISPEECH=${LIBRISPEECH:-downloads}
