# Where the corpora are; sourced by local/data.sh.
# shellcheck shell=bash disable=SC2034

# Directory that holds dataset/ and audio/ of SLURP. What is missing in downloads/slurp is
# downloaded.
SLURP=${SLURP:-downloads/slurp}
