"""Data as people have it: what stage 2 makes of odd tables, transcripts, names and audio."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from test_recipe_tokens import espnet_tokenizer

from espnet_hjprune.bin.recipe import check_dump, format_data, shapes, token_list
from espnet_hjprune.corpora import librispeech, slurp, stm
from espnet_hjprune.data import audio, datadir, tokens
from espnet_hjprune.data.ids import check_scored_ids
from espnet_hjprune.data.lines import read_lines
from espnet_hjprune.data.speed import perturb_speed
from espnet_hjprune.data.transcripts import plain_text
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.inference.audio import count_samples, read_samples
from espnet_hjprune.scoring.sclite import score_files, scoring_tokenizer

RATE = 16000
SECOND = 0.25 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data directory with the utterances a, b and c, of a second each."""
    directory = tmp_path / "data/train"
    directory.mkdir(parents=True)
    for utt_id in "abc":
        soundfile.write(tmp_path / f"{utt_id}.wav", SECOND, RATE)
    locations = {utt_id: str(tmp_path / f"{utt_id}.wav") for utt_id in "abc"}
    datadir.write_table(directory / "wav.scp", locations)
    datadir.write_table(directory / "text", {"a": "ONE", "b": "TWO", "c": "THREE"})
    datadir.write_table(directory / "utt2spk", dict.fromkeys("abc", "s"))
    return directory


def formatted(data: Path, *options: str) -> dict[str, str]:
    """The transcripts that are left after formatting, whose files are in data/../out."""
    output = data.parent / "out"
    format_data.main(["--in_dir", str(data), "--out_dir", str(output), "--nj", "1", *options])
    return datadir.read_table(output / "text")


def refusal(data: Path, *options: str) -> str:
    """The one sentence that formatting ends with, after which nothing is there."""
    with pytest.raises(HJPruneError) as caught:
        formatted(data, *options)
    assert "\n" not in str(caught.value)
    assert not (data.parent / "out").exists()
    return str(caught.value)


# Transcripts


def test_white_space_becomes_plain_and_is_counted(data: Path, caplog: pytest.LogCaptureFixture):
    lines = ["a ONE\u00a0TWO\u3000 THREE\u2028FOUR", "b A\tB\x00C\u200bD\ufeffE", "c A\u200dB"]
    (data / "text").write_text("\n".join(lines) + "\n", encoding="utf-8")
    text = formatted(data)
    assert text == {"a": "ONE TWO THREE FOUR", "b": "A B C DE", "c": "A\u200dB"}
    assert "2 of 3 transcripts, such as that of a, now have single plain spaces" in caplog.text
    assert "U+00A0 NO-BREAK SPACE" in caplog.text and "U+2028 LINE SEPARATOR" in caplog.text


def test_espnet_takes_the_token_list_of_such_transcripts(data: Path):
    from espnet2.text.token_id_converter import TokenIDConverter

    odd = "".join(chr(code) for code in range(0x3100) if chr(code).isspace() and chr(code) != "\n")
    (data / "text").write_text(f"a A{odd.replace(chr(13), '')}B\nb B\u2028C\nc X\u00a0\n")
    formatted(data)
    path = data.parent / "tokens.txt"
    token_list.main(
        ["--text", f"{data.parent}/out/text", "--token_type", "char", "--output", str(path)]
    )
    converter = TokenIDConverter(str(path))
    assert converter.token_list == ["<blank>", "<unk>", "<space>", "B", "A", "C", "X", "<sos/eos>"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r\r\n", "\n\n\n", "\n \n\u3000\n", ""])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_marks_and_ends_of_lines_are_read(data: Path, end: str, mark: str):
    for name in ("text", "wav.scp", "utt2spk"):
        content = (data / name).read_text().removesuffix("\n")
        separator = end if "\r" in end else "\n"
        content = mark + content.replace("\n", separator) + end
        (data / name).write_bytes(content.encode())
    assert formatted(data) == {"a": "ONE", "b": "TWO", "c": "THREE"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a ONE\rb TWO\rc THREE\r", "text:1 has a carriage return within the line"),
        (b"a ONE\nb TWO\n\nc THREE\n", "text:3 is an empty line"),
        ("a ONE\nb TWO\n".encode("utf-16"), "is UTF-16 text; convert it by iconv"),
        (b"a ONE\nb TW\xd6\nc X\n", "text:2 is no UTF-8 text"),
        (b"a ONE\n\xef\xbb\xbfb TWO\nc X\n", r"utterance \ufeffb of .*text has a character that c"),
        (b"a \xc2\xa0\nb TWO\nc X\n", "utterance a has no transcript"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(data: Path, content: bytes, message: str):
    (data / "text").write_bytes(content)
    found = refusal(data)
    assert message.split(" of .*")[0] in found and message.split(".*")[-1] in found


def test_letters_that_look_alike_are_told_apart(data: Path):
    tables = {"wav.scp": "e\u0301", "text": "\u00e9", "utt2spk": "e\u0301"}
    for name, utt_id in tables.items():
        table = datadir.read_table(data / name)
        datadir.write_table(data / name, {utt_id: table["a"]})
    assert r"(it is there as '\xe9', not 'e\u0301')" in refusal(data)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_only_a_line_feed_ends_a_line(text: str):
    content = text.replace("\r", "")
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "x"
        path.write_bytes(f"{content}\nend\n\n".encode())
        assert read_lines(path) == [*content.removeprefix("\ufeff").split("\n"), "end"]


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_plain_text_is_what_everyone_splits_alike(text: str):
    plain = plain_text(text)
    assert plain == plain_text(plain) == " ".join(plain.split())
    assert plain.split() == plain.split(" ") or not plain
    # Nothing that has a glyph is lost.
    assert [c for c in plain if c.isprintable() and c != " "] == [
        c for c in text if c.isprintable() and c != " "
    ]


# Tokens


def make_list(directory: Path, texts: list[str], token_type: str, nbpe: int = 300) -> list[str]:
    """Make the token list and the shapes of transcripts of a second each."""
    table = {f"u{index}": text for index, text in enumerate(texts)}
    datadir.write_table(directory / "text", table)
    datadir.write_table(directory / "utt2num_samples", dict.fromkeys(table, RATE))
    path = directory / "tokens.txt"
    options = ["--token_type", token_type]
    token_list.main(
        [*options, "--text", f"{directory}/text", "--output", str(path), "--nbpe", str(nbpe)]
    )
    options += ["--bpemodel", str(directory / "bpe.model"), "--out_dir", str(directory / "stats")]
    shapes.main([*options, "--data_dir", str(directory), "--token_list", str(path)])
    return tokens.read_token_list(path)


def test_unk_as_a_word_is_one_token(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    vocabulary = make_list(tmp_path, ["A <unk> B", "<unk>"], "word")
    assert vocabulary == ["<blank>", "<unk>", "A", "B", "<sos/eos>"]
    assert "has <unk> 2 times as a word" in caplog.text


@pytest.mark.parametrize("word", ["<blank>", "<sos/eos>"])
def test_words_with_another_meaning_are_refused(tmp_path: Path, word: str):
    with pytest.raises(HJPruneError, match=rf"text has {word} 1 times as a word.*remove it"):
        make_list(tmp_path, [f"A {word} B"], "word")
    # As characters they are what they look like.
    assert "<" in make_list(tmp_path, [f"A {word} B"], "char")


def test_bpe_takes_characters_as_they_are(tmp_path: Path):
    texts = ["A½ ﬁ … HELLO", "WORD " * 2000 + "LONG", "<unk> <s> </s>", "e\u0301 é Ａ"]  # noqa: RUF001
    texts = [plain_text(text) for text in texts] * 3
    vocabulary = make_list(tmp_path, texts, "bpe", 28)
    model = tmp_path / "bpe.model"
    split, join = (f("bpe", model) for f in (tokens.build_tokenizer, tokens.build_detokenizer))
    for text in texts:
        assert join(split(text)) == text
        assert set(split(text)) <= set(vocabulary)
    assert len(set(vocabulary)) == len(vocabulary)


@pytest.mark.parametrize("mark", ["\u2581", "\u2585"])
def test_marks_of_sentencepiece_are_refused(tmp_path: Path, mark: str):
    with pytest.raises(HJPruneError, match=rf"has U\+{ord(mark):04X}, which sentencepiece needs"):
        make_list(tmp_path, [f"A B{mark}C"], "bpe")


def test_transcripts_that_ctc_cannot_align_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    # A second has 49 frames; two letters that are alike need one between them.
    make_list(tmp_path, ["AB" * 24 + "A", "AB" * 25, "A" * 25, "A" * 26, "X" * 300], "char")
    assert "3 of 5 transcripts need more frames than their audio has" in caplog.text
    assert "see to u1 (50 for 49), u3 (51 for 49), u4 (599 for 49)" in caplog.text


# Names


def rename(data: Path, names: dict[str, str]) -> None:
    """Give utterances of a data directory other names."""
    for name in ("wav.scp", "text", "utt2spk"):
        table = datadir.read_table(data / name)
        datadir.write_table(data / name, {names.get(key, key): v for key, v in table.items()})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("x" * 300, "xxx... of"),
        ("é" * 121, "has a name of 242 bytes, more than 240; rename it"),
        ("a/b", "utterance a/b of"),
        ("a\u200bb", r"utterance a\u200bb of"),
        ("a\x07", r"utterance a\x07 of"),
    ],
)
def test_names_that_no_file_can_have_are_one_sentence(data: Path, name: str, message: str):
    rename(data, {"a": name})
    assert message in refusal(data)
    with pytest.raises(HJPruneError, match="rename it"):
        perturb_speed(data, data.parent / "out", [0.9], nj=1)


def test_long_names_that_files_can_have_are_kept(data: Path):
    name = "é" * 100 + "x" * 40
    rename(data, {"a": name})
    soundfile.write(data.parent.parent / "a.wav", SECOND[::2], RATE // 2)
    assert name in formatted(data)
    perturb_speed(data, data.parent / "sp", [0.9], nj=1)
    assert f"sp0.9-{name}" in datadir.read_table(data.parent / "sp/wav.scp")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"a": "a(1)"}, r"utterance a(1) of"),
        ({"a": "B"}, "utterances B and b of"),
    ],
)
def test_names_that_sclite_cannot_hold_are_refused_in_stage_2(data: Path, names, message: str):
    rename(data, names)
    assert message in refusal(data, "--scored", "true")
    # Sets for training are not scored.
    assert len(formatted(data)) == 3


def test_names_of_sclite_are_speaker_and_utterance():
    with pytest.raises(HJPruneError, match=r"b-c and c of x are one to sclite"):
        check_scored_ids({"b-c": "a", "c": "a-b"}, "x")
    check_scored_ids({"é": "s", "É": "s", "a_b": "s", "a-b": "s"}, "x")


def test_speakers_are_single_words(data: Path):
    (data / "utt2spk").write_text("a s\nb s t\nc s\n")
    assert "utterance b of" in refusal(data) and "not one word" in refusal(data)


# Audio


CONTAINERS = [
    ("wav", "WAV"),
    ("wav", "WAVEX"),
    ("wav", "RF64"),
    ("w64", "W64"),
    ("aiff", "AIFF"),
    ("au", "AU"),
    ("sph", "NIST"),
    ("flac", "FLAC"),
    ("mp3", "MP3"),
]


@pytest.mark.parametrize(("suffix", "form"), CONTAINERS)
def test_cut_audio_is_named(tmp_path: Path, suffix: str, form: str):
    path = tmp_path / f"x.{suffix}"
    soundfile.write(path, SECOND, RATE, format=form)
    assert abs(audio.probe(path).frames - RATE) < 1200  # MP3 pads
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(audio.AudioError, match=r"is truncated|is unreadable"):
        audio.probe(path)
    # The same through a command.
    with pytest.raises(audio.AudioError, match=r"output of the command 'cat .*\|' is (trunc|unr)"):
        audio.probe(f"cat {path} |")


def test_what_is_behind_the_samples_does_not_matter(tmp_path: Path):
    path = tmp_path / "x.wav"
    with soundfile.SoundFile(path, "w", RATE, 1, "PCM_16") as file:
        file.write(SECOND)
        file.title = "a title " * 20
    content = path.read_bytes()
    for changed in (content[:-20], content + b"rest"):
        path.write_bytes(changed)
        assert audio.probe(path).frames == RATE


def test_a_cut_wav_is_left_out_and_counted(data: Path, caplog: pytest.LogCaptureFixture):
    path = data.parent.parent / "b.wav"
    path.write_bytes(path.read_bytes()[:9999])
    assert list(formatted(data)) == ["a", "c"]
    assert f"utterance b is left out: audio file {path} is truncated" in caplog.text
    assert "1 of 3 utterances are left out because their audio is unusable" in caplog.text


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_no_numbers(data: Path, value: float, caplog: pytest.LogCaptureFixture):
    path, samples = data.parent.parent / "b.wav", SECOND.copy()
    samples[77] = value
    soundfile.write(path, samples, RATE, subtype="FLOAT")
    assert list(formatted(data)) == ["a", "c"]
    assert f"b is left out: audio file {path} has NaN or infinite samples" in caplog.text
    assert perturb_speed(data, data.parent / "sp", [0.9], nj=1) == 2


def test_clipping_is_counted(data: Path, caplog: pytest.LogCaptureFixture):
    root = data.parent.parent
    soundfile.write(root / "b.wav", SECOND * 2**15, RATE, subtype="FLOAT")
    soundfile.write(root / "c.wav", SECOND, RATE, subtype="FLOAT")
    formatted(data)
    assert "1 of 3 utterances are clipped" in caplog.text
    assert "those of b reach 8192" in caplog.text
    perturb_speed(data, data.parent / "sp", [0.9], nj=1)
    assert "1 of 3 utterances of speed 0.9 are clipped" in caplog.text


def test_commands_are_run_and_counted(data: Path, caplog: pytest.LogCaptureFixture):
    root = data.parent.parent
    stereo = np.stack([SECOND, -SECOND], axis=1)
    soundfile.write(root / "two words.flac", stereo, RATE, subtype="PCM_16")
    locations = {
        "a": f"sox '{root}/two words.flac' -t wav - remix 2 |",
        "b": f"flac -c -d -s '{root}/two words.flac' | sox -t wav - -r 8000 -t flac - |",
        "c": f"cat '{root}/c.wav'|",
    }
    datadir.write_table(data / "wav.scp", locations)
    assert list(formatted(data)) == ["a", "b", "c"]
    assert "the audio of 3 recordings is the output of commands, which are run" in caplog.text
    assert "1 of 3 utterances are resampled" in caplog.text
    written = datadir.read_table(data.parent / "out/wav.scp")
    a, c = (soundfile.read(written[utt_id])[0] for utt_id in "ac")
    np.testing.assert_allclose(a, -SECOND, atol=1.1 / 2**15)
    np.testing.assert_allclose(c, SECOND, atol=1.1 / 2**15)
    check_dump.main(["--audio_format", "flac", "--train_dir", str(data.parent / "out")])


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("no_such_program x.sph |", "no_such_program: command not found"),
        ("false | cat |", "it ended with status 1"),
        ("true |", "it ended with status 0"),
        ("cat |", "it ended with status 0"),  # there is nothing to read from
        ("echo no audio |", "is unreadable"),
        ("echo first >&2; echo last >&2; exit 3 |", "(last)"),
    ],
)
def test_commands_that_fail_are_named(
    data: Path, command: str, reason: str, caplog: pytest.LogCaptureFixture
):
    table = datadir.read_table(data / "wav.scp") | {"b": command}
    datadir.write_table(data / "wav.scp", table)
    assert list(formatted(data)) == ["a", "c"]
    message = next(m for m in caplog.messages if m.startswith("utterance b is left out: the "))
    assert command in message and reason in message and "\n" not in message


def test_decoding_runs_commands_and_takes_empty_files(data: Path):
    root = data.parent.parent
    soundfile.write(root / "b.wav", SECOND[:0], RATE)
    table = {"a": f"sox {root}/a.wav -t flac - |", "b": f"{root}/b.wav", "c": f"{root}/c.wav"}
    assert count_samples(table, data, is_ark=False) == {"a": RATE, "b": 0, "c": RATE}
    for utt_id, location in table.items():
        wave = read_samples(location, is_ark=False)
        np.testing.assert_allclose(wave, SECOND[: 0 if utt_id == "b" else RATE], atol=1.1 / 2**15)


def test_a_recording_of_many_segments_is_made_once(data: Path):
    root = data.parent.parent
    command = f"echo x >>{root}/count; cat {root}/a.wav |"
    datadir.write_table(data / "wav.scp", {"rec": command})
    spans = {"a": "rec 0 0.2", "b": "rec 0.2 0.5", "c": "rec 0.5 -1"}
    datadir.write_table(data / "segments", spans)
    formatted(data)
    assert (root / "count").read_text() == "x\n"
    found = datadir.read_table(data.parent / "out/utt2num_samples")
    assert found == {"a": "3200", "b": "4800", "c": "8000"}


def test_short_utterances_of_test_sets_count(data: Path, caplog: pytest.LogCaptureFixture):
    root = data.parent.parent
    soundfile.write(root / "a.wav", SECOND[:100], RATE)
    soundfile.write(root / "b.wav", SECOND[:0], RATE)
    assert list(formatted(data, "--scored", "true")) == ["a", "b", "c"]
    # What has no samples is no audio to ESPnet.
    assert list(datadir.read_table(data.parent / "out/wav.scp")) == ["a", "c"]
    assert "1 of 3 utterances are without a single sample, such as b" in caplog.text
    options = ["--audio_format", "flac", "--train_dir", str(data.parent / "out")]
    with pytest.raises(HJPruneError, match="utterance b is not in"):
        check_dump.main(options)
    other = data.parent / "other"
    format_data.main(["--in_dir", str(data), "--out_dir", str(other), "--nj", "1"])
    assert list(datadir.read_table(other / "text")) == ["a", "c"]
    options = ["--audio_format", "flac", "--train_dir", str(other)]
    check_dump.main([*options, "--test_dir", str(data.parent / "out")])


# Data that others have formatted


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("text", "\ufeffa ONE\nb TWO\nc X\n", "text has a byte-order mark, which ESPnet does not"),
        ("text", "a ONE\r\nb TWO\r\nc X\r\n", "text has carriage returns"),
        ("wav.scp", None, "wav.scp has an empty line"),
        ("text", "a ONE\u00a0X\nb TWO\nc X\n", "the transcript of a in .*text has U\\+00A0"),
    ],
)
def test_dumps_that_espnet_reads_otherwise(data: Path, name: str, content, message: str):
    formatted(data)
    path = data.parent / "out" / name
    path.write_text(content or path.read_text() + " \n", encoding="utf-8", newline="")
    with pytest.raises(HJPruneError, match=f"{message}.*make the data by stage 2"):
        check_dump.main(["--audio_format", "flac", "--train_dir", str(path.parent)])


# Corpora


def test_hidden_files_are_no_part_of_librispeech(tmp_path: Path):
    chapter = tmp_path / "test-clean/1/2"
    chapter.mkdir(parents=True)
    (tmp_path / "SPEAKERS.TXT").write_bytes("\ufeff; comment\r\n1 | M | x\u2028y |\r\n\n".encode())
    (chapter / "1-2.trans.txt").write_bytes(b"1-2-0000 ONE\r\n\r\n")
    soundfile.write(chapter / "1-2-0000.flac", SECOND, RATE)
    for path in ("._1-2-0000.flac", ".DS_Store", ".ipynb_checkpoints/1-2-0000.flac"):
        (chapter / path).parent.mkdir(exist_ok=True)
        (chapter / path).write_bytes(b"nothing")
    for path in ("test-clean/.ipynb_checkpoints/2", "test-clean/1/.ipynb_checkpoints"):
        (tmp_path / path).mkdir(parents=True)
    (utterance,) = librispeech.read_subset(tmp_path, "test-clean")
    assert (utterance.utt_id, utterance.text) == ("1-2-0000", "ONE")
    assert librispeech.read_genders(tmp_path / "SPEAKERS.TXT") == {"1": "m"}


def test_slurp_has_separators_in_sentences(tmp_path: Path):
    path = slurp.annotation_path(tmp_path, "test")
    path.parent.mkdir(parents=True)
    prompt = '{"scenario": "a", "action": "b", "sentence": "x\u2028y\\u00a0 z", "recordings": []}'
    listed = prompt.replace("[]", '[{"file": "f.flac"}]')
    path.write_text(f"\ufeff{prompt}\n{listed}\n\n", encoding="utf-8")
    (recording,) = slurp.read_recordings(tmp_path, "test")
    assert recording == slurp.SlurpRecording("f.flac", "a_b", "x y z")


def test_stm_files_of_windows_are_read(tmp_path: Path):
    path = tmp_path / "t.stm"
    path.write_bytes("\ufefft 1 s 0 1 <o,f0,male> one\u2028two\r\n\r\n".encode())
    (line,) = stm.read_stm(path)
    assert (line.talk, line.words, line.gender) == ("t", "one two", "m")


# All of stage 2, with anything


LETTERS = st.sampled_from([*"ABab é½ﬁ…日'-@{};*\\()", "e\u0301", "\u200d", " ", " "])
SPACES = st.sampled_from(["\u00a0", "\u3000", "\u2028", "\x85", "\x00", "\t", "\u200b", "\ufeff"])
WORDS = st.lists(st.one_of(LETTERS, LETTERS, LETTERS, SPACES), max_size=12).map("".join)
NAMES = st.sampled_from(["u1", "u2", "u3", "u4", "é", ".hidden", "..", "*;", "x" * 240])
SOUNDS = st.sampled_from(
    ["good"] * 5 + ["short", "one", "stereo", "slow", "float", "double", "loud", "pipe", "ogg"]
)
# What most data have none of; an example has at most two kinds of it.
ODD = {
    "words": st.sampled_from(
        ["", "A\rB", "\u2581A", "\u2585", " <unk> ", " <blank> ", " <sos/eos> ", "<s>", "|"]
    ),
    "names": st.one_of(
        st.sampled_from(["U1", "a(1)", "a/b", "x" * 300, "u\ufeff1", "e\u0301", "a\u00a0b"]),
        st.text(st.characters(exclude_categories=["Cs", "Z", "Cc"]), min_size=1, max_size=6),
    ),
    "sounds": st.sampled_from(["empty", "cut", "nan", "garbage", "missing", "bad_pipe"]),
    "encodings": st.sampled_from(["utf-8-sig", "utf-16", "latin-1"]),
    "ends": st.sampled_from(["\r\n", "\r", "\n\n"]),
}


def write_sound(path: Path, kind: str) -> str:
    """Write an audio file of a kind and return its entry in wav.scp."""
    samples, rate, options = SECOND[:8000], RATE, {}
    if kind in ("short", "one", "empty"):
        samples = samples[: {"short": 399, "one": 1, "empty": 0}[kind]]
    elif kind == "stereo":
        samples = np.stack([samples, samples], axis=1)
    elif kind == "slow":
        rate = 11025
    elif kind == "ogg":
        options = {"format": "OGG"}
    elif kind in ("float", "loud", "nan", "double"):
        options = {"subtype": "DOUBLE" if kind == "double" else "FLOAT"}
        samples = samples * {"loud": 2**15, "nan": np.nan}.get(kind, 1)
    if kind != "missing":
        soundfile.write(path, samples, rate, **({"format": "WAV"} | options))
    if kind == "cut":
        path.write_bytes(path.read_bytes()[:5000])
    elif kind == "garbage":
        path.write_bytes(b"RIFF no audio at all")
    return {"pipe": f"cat {path} |", "bad_pipe": "exit 1 |"}.get(kind, str(path))


@contextmanager
def logged() -> Iterator[list[str]]:
    """The warnings of a block."""
    messages: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger().addHandler(handler)
    try:
        yield messages
    finally:
        logging.getLogger().removeHandler(handler)


@st.composite
def data_directories(draw: st.DrawFn) -> dict[str, Any]:
    """What a data directory is made of."""
    odd = draw(st.sets(st.sampled_from(sorted(ODD)), max_size=2))

    def one_of(kind: str, usual: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        return st.one_of(usual, ODD[kind]) if kind in odd else usual

    utterance = st.tuples(
        one_of("names", NAMES),
        st.tuples(WORDS, one_of("words", st.just("A"))).map("".join),
        one_of("sounds", SOUNDS),
    )
    return {
        "utterances": draw(
            st.lists(utterance, min_size=1, max_size=4, unique_by=lambda values: values[0])
        ),
        "encodings": draw(st.tuples(*[one_of("encodings", st.just("utf-8"))] * 3)),
        "ends": draw(st.tuples(*[one_of("ends", st.just("\n"))] * 3)),
        "token_type": draw(st.sampled_from(tokens.TOKEN_TYPES)),
        "audio_format": draw(st.sampled_from(["flac", "wav", "flac.ark"])),
        "scored": draw(st.sampled_from(["true", "false"])),
    }


def write_untidy(directory: Path, given_data: dict[str, Any]) -> None:
    """Write the data directory."""
    wav_scp, text, utt2spk = "", "", ""
    end_wav, end_text, end_spk = given_data["ends"]
    for index, (name, words, sound) in enumerate(given_data["utterances"]):
        wav_scp += f"{name} {write_sound(directory / f'sound{index}', sound)}{end_wav}"
        text += f"{name} {words}{end_text}"
        utt2spk += f"{name} s{end_spk}"
    for name, content, encoding in zip(
        ("wav.scp", "text", "utt2spk"),
        (wav_scp, text, utt2spk),
        given_data["encodings"],
        strict=True,
    ):
        (directory / name).write_bytes(encoded(content, encoding))


def encoded(content: str, encoding: str) -> bytes:
    """The content in an encoding, or in UTF-8 where that cannot be told from the other one."""
    try:
        data = content.encode(encoding)
        return data if data.decode("utf-8") == content else content.encode()
    except UnicodeEncodeError:
        return content.encode()
    except UnicodeDecodeError:
        return data


def run_stage_2(root: Path, given_data: dict[str, Any]) -> list[str]:
    """Do what stage 2 does with a set for training that is scored, too; return the warnings."""
    source, output = root / "data", root / "dump"
    kind, form = given_data["token_type"], given_data["audio_format"]
    # All letters, sentencepiece's space and three marks: as many as any text allows for.
    letters = {c for _, words, _ in given_data["utterances"] for c in plain_text(words)} - {" "}
    model = ["--token_type", kind, "--nbpe", str(len(letters) + 4)]
    model += ["--bpemodel_prefix", f"{root}/bpe"]
    with logged() as warnings:
        options = ["--in_dir", str(source), "--out_dir", str(output), "--audio_format", form]
        format_data.main([*options, "--nj", "1", "--scored", given_data["scored"]])
        sets = ["--test_dir", str(output)] if given_data["scored"] == "true" else []
        # A test set may have utterances without audio.
        if given_data["scored"] == "false":
            check_dump.main(["--audio_format", form, "--train_dir", str(output)])
        else:
            check_dump.main(["--audio_format", form, "--train_dir", *sets[1:], *sets])
        token_list.main(["--text", f"{output}/text", "--output", f"{root}/tokens.txt", *model])
        options = ["--data_dir", str(output), "--token_list", f"{root}/tokens.txt"]
        options += ["--token_type", kind, "--bpemodel", f"{root}/bpe.model"]
        shapes.main([*options, "--out_dir", str(root / "stats")])
    return warnings


def check_stage_2(given_data: dict[str, Any]) -> None:
    """Stage 2 makes what ESPnet and sclite take, or ends with one sentence."""
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        (root / "data").mkdir()
        write_untidy(root / "data", given_data)
        try:
            warnings = run_stage_2(root, given_data)
        except HJPruneError as error:
            assert "\n" not in str(error)
            assert len(str(error)) < 1000
            return
        check_result(root, given_data, warnings)


def check_result(root: Path, given_data: dict[str, Any], warnings: list[str]) -> None:
    """What stage 2 has made is what ESPnet, sclite and people take it for."""
    from espnet2.fileio.read_text import read_2columns_text
    from espnet2.text.token_id_converter import TokenIDConverter

    dump, said = root / "dump", "\n".join(warnings)
    text = datadir.read_table(dump / "text")
    for name in ("wav.scp", "text", "utt2spk"):
        assert read_2columns_text(dump / name) == datadir.read_table(dump / name)
    # No utterance is lost without a word, and no word changed.
    given_text = {name: words for name, words, _ in given_data["utterances"]}
    lost = given_text.keys() - text.keys()
    assert not lost or "left out" in said
    for utt_id, words in text.items():
        assert words == plain_text(given_text[utt_id])
        assert words == given_text[utt_id].strip() or "now have single plain spaces" in said
    # ESPnet takes the tokens.
    kind = given_data["token_type"]
    vocabulary = tokens.read_token_list(root / "tokens.txt")
    assert TokenIDConverter(str(root / "tokens.txt")).token_list == vocabulary
    assert len(set(vocabulary)) == len(vocabulary)
    split = espnet_tokenizer(kind, root / "bpe.model")
    for words in text.values():
        assert set(split.text2tokens(words)) <= set(vocabulary)
        assert not {"<blank>", "<sos/eos>"} & set(split.text2tokens(words))
        if kind != "word":
            assert split.tokens2text(split.text2tokens(words)) == words
    # The audio is what was recorded.
    for location in datadir.read_table(dump / "wav.scp").values():
        samples = audio.read_mono(location, RATE)
        assert len(samples) and np.isfinite(samples).all()
        assert np.abs(samples).max() < 0.9 or "are clipped" in said
    # A perfect hypothesis has no errors.
    if given_data["scored"] == "true":
        split_words = scoring_tokenizer("wer")
        counts, missing = score_files(
            dump / "text", dump / "text", dump / "utt2spk", split_words, root / "score"
        )
        assert (counts.errors, counts.sentences, missing) == (0, len(text), 0)


PLAIN = {
    "encodings": ("utf-8",) * 3,
    "ends": ("\n",) * 3,
    "audio_format": "flac",
    "scored": "true",
}


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None
)
@example(PLAIN | {"utterances": [("u1", "<unk> A", "good")], "token_type": "word"})
@example(PLAIN | {"utterances": [("u1", "AB" * 20, "loud")], "token_type": "char"})
@given(data_directories())
def test_stage_2_takes_anything(given_data: dict[str, Any]) -> None:
    check_stage_2(given_data)


@pytest.mark.slow
@settings(max_examples=5000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data_directories())
def test_stage_2_takes_anything_at_length(given_data: dict[str, Any]) -> None:
    check_stage_2(given_data)
