"""TED-LIUM's test set: its files, the data directory made of them, and synthetic talks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from recipe_runs import copy_local, data_sh

from espnet_hjprune.corpora.stm import read_stm
from espnet_hjprune.corpora.tedlium import normalise, prepare
from espnet_hjprune.data.datadir import read_segments, read_table
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.synthetic import mini_librispeech
from espnet_hjprune.synthetic.grammar import Grammar
from espnet_hjprune.synthetic.mini_tedlium import MiniTedliumConfig, make_mini_tedlium

LINES = """\
;; LABEL "o" "Overall" "Overall results"
Ann_2009 1 Ann_2009 0.00 1.50 <o,f0,female> ignore_time_segment_in_scoring
Ann_2009 1 Ann_2009 1.50 2.25 <o,f0,female> i 'd like{SMACK} to say it 's(2) <sil> fine
Ann_2009 1 Ann_2009 3 3.5 <o,f0,female> <unk> [LAUGH]
Ann_2009 1 Ann_2009 3.5 4.111 <o,f0,female> we don 't <unk> know
"""


def make_release(directory: Path, lines: str = LINES, suffix: str = "sph") -> Path:
    """A test set with a talk of five seconds."""
    (directory / "stm").mkdir(parents=True)
    (directory / "sph").mkdir()
    (directory / "stm" / "Ann_2009.stm").write_text(lines)
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 5 * 16000)
    container = {"sph": "NIST"}.get(suffix, suffix.upper())
    soundfile.write(directory / "sph" / f"Ann_2009.{suffix}", samples, 16000, format=container)
    return directory


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("it 's a talk 's end", "IT'S A TALK'S END"),
        ("they 're sure we 'll won 't i 've i 'm he 'd", "THEY'RE SURE WE'LL WON'T I'VE I'M HE'D"),
        ("rock 'n roll 'em 'til", "ROCK 'N ROLL 'EM 'TIL"),
        ("y 'all ma 'am at two o 'clock", "Y'ALL MA'AM AT TWO O'CLOCK"),
        ("but 't was", "BUT 'T WAS"),
        ("{BREATH} one(2) <sil> two [COUGH] three", "ONE TWO THREE"),
        ("'s how", "'S HOW"),
        ("<unk>", ""),
    ],
)
def test_words_are_written_as_in_librispeech(words, expected):
    assert normalise(words) == expected


@pytest.mark.parametrize("place", ["test", "legacy/test", "TEDLIUM_release-3/legacy/test"])
@pytest.mark.parametrize("suffix", ["sph", "wav"])
def test_the_test_set_becomes_a_data_directory(tmp_path, caplog, place, suffix):
    make_release(tmp_path / "corpus" / place, suffix=suffix)
    prepare(tmp_path / "corpus", tmp_path / "data")
    assert "has 2 utterances, releases 2 and 3 of TED-LIUM have 1155" in caplog.text
    made = tmp_path / "data" / "test_tedlium"
    first, second = "Ann_2009-0000150-0000225", "Ann_2009-0000350-0000411"
    assert read_table(made / "text") == {
        first: "I'D LIKE TO SAY IT'S FINE",
        second: "WE DON'T KNOW",
    }
    segments = read_segments(made / "segments")
    assert (segments[second].start, segments[second].end) == (3.5, 4.111)
    audio = str(tmp_path / "corpus" / place / "sph" / f"Ann_2009.{suffix}")
    assert read_table(made / "wav.scp") == {"Ann_2009": audio}
    assert read_table(made / "utt2spk") == {first: "Ann_2009", second: "Ann_2009"}
    assert read_table(made / "spk2gender") == {"Ann_2009": "f"}


def test_labels_of_other_releases(tmp_path):
    path = tmp_path / "a.stm"
    path.write_text("a 1 b 0 1 <F0_M> yes\na 1 b 1 2 <NA> no\na 1 b 2 3 plain words\n")
    lines = list(read_stm(path))
    assert [normalise(line.words) for line in lines] == ["YES", "NO", "PLAIN WORDS"]
    assert [line.gender for line in lines] == ["m", None, None]


@pytest.mark.parametrize("label", ["<o,,unknown>", "<F0_M>", "<NA>", "<other> "])
def test_times_without_speech_are_left_out(tmp_path, label):
    gap = f"Ann_2009 1 inter_segment_gap 4.2 4.5 {label} ignore_time_segment_in_scoring\n"
    make_release(tmp_path / "test", LINES + gap)
    prepare(tmp_path, tmp_path / "data")
    assert len(read_table(tmp_path / "data/test_tedlium/text")) == 2


@pytest.mark.parametrize(
    "line",
    [
        "Ann 1 Ann 1.0",
        "Ann 1 Ann one two <o> words",
        "Ann 1 Ann 2 1 <o,f0,male> words",
        "Ann 1 Ann 2 inf <o,f0,male> words",
        "Ann 1 Ann nan 3 <o,f0,male> words",
    ],
)
def test_wrong_lines_are_named(tmp_path, line):
    make_release(tmp_path / "test", LINES + line + "\n")
    with pytest.raises(HJPruneError, match=r"Ann_2009\.stm:6 is no line 'talk channel"):
        prepare(tmp_path, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_incomplete_copies_are_named(tmp_path):
    with pytest.raises(HJPruneError, match=r"correct TEDLIUM in db\.sh"):
        prepare(tmp_path, tmp_path / "data")
    release = make_release(tmp_path / "test")
    (release / "sph" / "Ann_2009.sph").unlink()
    with pytest.raises(HJPruneError, match=r"Ann_2009\.sph does not exist"):
        prepare(tmp_path, tmp_path / "data")
    (release / "stm" / "Ann_2009.stm").write_text(LINES.splitlines()[1] + "\n")
    with pytest.raises(HJPruneError, match="no segments with speech"):
        prepare(tmp_path, tmp_path / "data")
    (release / "stm" / "Ann_2009.stm").write_bytes(
        "Ann 1 Ann 0 1 <o,f0,male> Andr\xe9\n".encode("latin1")
    )
    with pytest.raises(HJPruneError, match=r"Ann_2009\.stm:\d+ is no UTF-8 text"):
        prepare(tmp_path, tmp_path / "data")


def test_talks_are_of_flite_and_of_other_sentences(tmp_path):
    counts = {part: 2 for part in mini_librispeech.SUBSETS}
    taken = mini_librispeech.sentences(mini_librispeech.MiniLibriSpeechConfig(counts))
    assert len(taken) == 10
    assert make_mini_tedlium(tmp_path, MiniTedliumConfig(6), taken)
    prepare(tmp_path, tmp_path / "data", check_count=False)
    made = tmp_path / "data" / "test_tedlium"
    texts = read_table(made / "text")
    assert len(texts) == 6 and not set(texts.values()) & taken
    talks = read_table(made / "wav.scp")
    assert len(talks) == 4
    for talk, path in talks.items():
        samples, rate = soundfile.read(path)
        assert soundfile.info(path).format == "NIST" and rate == 16000
        spoken = np.zeros(len(samples), dtype=bool)
        for segment in read_segments(made / "segments").values():
            if segment.recording == talk:
                start, end = round(segment.start * rate), round(segment.end * rate)
                assert np.abs(samples[start:end]).max() > 0.25
                spoken[start:end] = True
        assert not samples[~spoken].any()
    assert not make_mini_tedlium(tmp_path, MiniTedliumConfig(6), taken)
    assert make_mini_tedlium(tmp_path, MiniTedliumConfig(6, seed=1), taken)
    assert set(read_table(made / "text").values()) == set(texts.values())
    more = taken | {next(iter(texts.values()))}
    assert make_mini_tedlium(tmp_path, MiniTedliumConfig(6), more)
    prepare(tmp_path, tmp_path / "data", check_count=False)
    assert not set(read_table(made / "text").values()) & more


def test_talks_need_sentences_that_are_left(tmp_path):
    grammar = Grammar((("A", "B"), ("C", "D")))
    with pytest.raises(HJPruneError, match="has only 3 sentences left for 4"):
        make_mini_tedlium(tmp_path, MiniTedliumConfig(4), {"A C"}, grammar=grammar)
    with pytest.raises(HJPruneError, match="at least one utterance in test_tedlium"):
        MiniTedliumConfig(0)
    assert not list(tmp_path.iterdir())


def test_data_sh_prepares_a_release_where_one_is_given(tmp_path):
    counts = {part: 1 for part in mini_librispeech.SUBSETS}
    mini_librispeech.make_mini_librispeech(tmp_path, mini_librispeech.MiniLibriSpeechConfig(counts))
    make_release(tmp_path / "test")
    recipe = copy_local(tmp_path / "asr1", "librispeech_100/asr1", f"LIBRISPEECH={tmp_path}\n")
    assert data_sh(recipe).returncode == 0
    assert not (recipe / "data/test_tedlium").exists()
    (recipe / "db.sh").write_text(f"LIBRISPEECH={tmp_path}\nTEDLIUM={tmp_path}\n")
    assert data_sh(recipe).returncode == 0
    assert len(read_table(recipe / "data/test_tedlium/text")) == 2
