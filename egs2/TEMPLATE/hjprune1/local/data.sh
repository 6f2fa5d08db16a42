#!/usr/bin/env bash
# Data directories data/{train,dev,test} from ${CORPUS}/{train,dev,test}.tsv, whose lines are
# "audio file<TAB>speaker<TAB>transcript". Change it to read your corpus as it is laid out: what
# counts are wav.scp, text and utt2spk (and segments, if a file has several utterances). Without labels
# wav.scp is enough, and a line may be the audio file alone.
set -euo pipefail

. utils/common.sh
. ./path.sh
. ./db.sh

[ $# -eq 0 ] || die_of_usage "this local/data.sh has no options such as $1"
labels=true
! grep -q '^exec \./unlabelled\.sh' run.sh || labels=false
for set in train dev test; do
    table=${CORPUS}/${set}.tsv
    need "${table}" "correct CORPUS in db.sh, or change local/data.sh"
    [ -s "${table}" ] || die "${table} is empty; write its utterances"
    mkdir -p "data/${set}"
    rm -f "data/${set}/"{wav.scp,text,utt2spk}
    # An utterance is called after its speaker and file, so that a speaker's stand together.
    sort -u "${table}" | awk -F '\t' -v corpus="${CORPUS}" -v dir="data/${set}" \
        -v table="${table}" -v labels="${labels}" '
        {
            name = $1; gsub(/\.[^.\/]*$/, "", name); gsub(/[\/ ]/, "_", name)
            audio = ($1 ~ /^\// ? $1 : corpus "/" $1)
        }
        NF == 1 && labels == "false" {
            print name, audio > (dir "/wav.scp")
            next
        }
        NF != 3 {
            print "error: " table " has a line other than audio, speaker, transcript: " $0
            exit 1
        }
        {
            utterance = $2 "-" name; gsub(/[\/ ]/, "_", utterance); gsub(/ /, "_", $2)
            print utterance, audio > (dir "/wav.scp")
            print utterance, $3 > (dir "/text")
            print utterance, $2 > (dir "/utt2spk")
        }' >&2
    for file in wav.scp text utt2spk; do
        [ ! -e "data/${set}/${file}" ] || sort -o "data/${set}/${file}" "data/${set}/${file}"
    done
    log "data/${set}: $(wc -l <"data/${set}/wav.scp") utterances of ${table}"
done
