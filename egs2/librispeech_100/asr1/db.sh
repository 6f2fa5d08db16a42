# Where the corpora are; sourced by local/data.sh.
# shellcheck shell=bash disable=SC2034

# Directory that holds LibriSpeech/. With "downloads", what is missing is downloaded.
LIBRISPEECH=${LIBRISPEECH:-downloads}

# A release of TED-LIUM, 2 or 3, unpacked from openslr.org/19 or openslr.org/51. Where it is given,
# its test set is the test set test_tedlium, which is out of LibriSpeech's domain.
TEDLIUM=${TEDLIUM:-}
