"""Data that others have prepared: Kaldi's data directories and ESPnet's dump/raw."""

from __future__ import annotations

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import kaldiio
import numpy as np
import pytest
import soundfile
from recipe_runs import ROOT, RecipeCopy, copy_recipe, read_text
from scipy.signal import resample_poly

from espnet_hjprune.bin.recipe import check_dump as check_dump_command
from espnet_hjprune.data import audio
from espnet_hjprune.data.check import check_dump
from espnet_hjprune.data.datadir import (
    Segment,
    Utterance,
    combine_data_dirs,
    read_segments,
    read_table,
    write_data_dir,
    write_table,
)
from espnet_hjprune.data.dump import AudioFormat, format_data
from espnet_hjprune.data.shapes import write_shapes
from espnet_hjprune.data.speed import perturb_speed
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.synthetic.mini_librispeech import MiniLibriSpeechConfig, make_mini_librispeech

RATE = 16000
# Parts of a recording of 2 s, in seconds; the last one lasts to its end.
PARTS = {"b-2": (0.5, 1.25), "a-1": (0.1, 0.6), "c_3.x": (1.5, -1.0)}


def noise(seconds: float, rate: int = RATE, seed: int = 0) -> np.ndarray:
    """Noise whose samples are exact in 16 bits."""
    values = np.random.default_rng(seed).integers(-8000, 8000, round(seconds * rate))
    return values.astype(np.int16)


def cut(samples: np.ndarray, utt_id: str, rate: int = RATE) -> np.ndarray:
    """The part of an utterance, as float32 in [-1, 1]."""
    start, end = PARTS[utt_id]
    stop = len(samples) if end == -1 else round(end * rate)
    return samples[round(start * rate) : stop].astype(np.float32) / 2**15


def write_lines(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def kaldi_dir(directory: Path, location: str) -> Path:
    """A data directory with segments of one recording, unsorted, with files nobody asks for."""
    write_lines(directory / "wav.scp", ["unused /no/such.wav", f"rec {location}"])
    lines = [f"{utt_id} rec {start:.2f} {end:g}" for utt_id, (start, end) in PARTS.items()]
    write_lines(directory / "segments", lines)
    write_lines(directory / "text", [f"{utt_id} WORD {utt_id}" for utt_id in sorted(PARTS)])
    # One speaker behind a tab, one utterance more than there is.
    write_lines(directory / "utt2spk", ["a-1\ta", "b-2 b", "c_3.x c", "gone b"])
    for name in ("feats.scp", "cmvn.scp", "utt2dur", "reco2file_and_channel", "spk2utt"):
        write_lines(directory / name, ["nonsense"])
    write_lines(directory / "frame_shift", ["0.01"])
    return directory


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data directory with segments of a wave file of 2 s."""
    soundfile.write(tmp_path / "rec.wav", noise(2), RATE)
    return kaldi_dir(tmp_path / "data" / "train", str(tmp_path / "rec.wav"))


def write_archive(path: Path, samples: np.ndarray, form: str, rate: int = RATE) -> str:
    """Write an archive of two recordings, and return the position of the second."""
    more = {"write_function": "soundfile", "write_kwargs": {"format": form}} if form else {}
    scp = path.with_suffix(".scp")
    recordings = {"first": (rate, noise(0.3)), "second": (rate, samples)}
    kaldiio.save_ark(str(path), recordings, scp=str(scp), **more)
    return read_table(scp)["second"]


# Segments


def test_a_segment_may_last_to_the_end(data: Path, tmp_path: Path):
    segments = read_segments(data / "segments")
    assert segments["c_3.x"] == Segment("rec", 1.5, None)
    write_lines(data / "segments", ["a-1 rec 1.5 -2"])
    with pytest.raises(HJPruneError, match=r"segment from 1.5 to -2 s"):
        read_segments(data / "segments")
    utterances = [Utterance("u", "s", "rec.wav", "A", Segment("rec", 1.5, None))]
    write_data_dir(tmp_path / "again", utterances)
    assert (tmp_path / "again/segments").read_text() == "u rec 1.500 -1\n"
    assert read_segments(tmp_path / "again/segments")["u"].end is None


@pytest.mark.parametrize("name", ["flac", "wav", "flac.ark"])
def test_a_kaldi_directory_is_formatted(data: Path, tmp_path: Path, name: str):
    output = tmp_path / "dump"
    assert format_data(data, output, AudioFormat(name), nj=1) == 3
    wav_scp, lengths = read_table(output / "wav.scp"), read_table(output / "utt2num_samples")
    assert list(wav_scp) == sorted(PARTS)
    for utt_id, location in wav_scp.items():
        expected = cut(noise(2), utt_id)
        np.testing.assert_array_equal(audio.read_mono(location, RATE), expected)
        assert int(lengths[utt_id]) == len(expected)
    assert read_table(output / "spk2utt") == {"a": "a-1", "b": "b-2", "c": "c_3.x"}
    check_dump(output, name)
    check_dump(output, name, trains=False)


@pytest.mark.parametrize(("start", "end"), [(0, -1), (0, 2), (0.25, -1)])
def test_only_a_whole_file_is_referred_to(data: Path, tmp_path: Path, start: float, end: float):
    write_lines(data / "segments", [f"a-1 rec {start} {end}"])
    write_lines(data / "text", ["a-1 A"])
    format_data(data, tmp_path / "dump", AudioFormat("wav"), nj=1)
    (location,) = read_table(tmp_path / "dump/wav.scp").values()
    assert (location == str(tmp_path / "rec.wav")) == (start == 0 and end == -1)
    np.testing.assert_array_equal(
        soundfile.read(location, dtype="int16")[0], noise(2)[-len(soundfile.read(location)[0]) :]
    )
    assert soundfile.info(location).frames == (2 - start) * RATE


@pytest.mark.parametrize(
    ("table", "lines", "message"),
    [
        ("text", ["a-1 A", "b-2 B"], r"utterance c_3.x has no transcript in .*text; add it"),
        ("text", ["a-1", "b-2 B", "c_3.x C"], "utterance a-1 has no transcript"),
        ("segments", ["a-1 rec 0 1"], r"utterance b-2 of .*text has no audio in .*segments"),
        ("segments", ["a-1 rec 0 1 2"], "has for a-1 no 'recording start end'"),
        ("wav.scp", ["other x.wav"], r"rec of .*segments has no audio in .*wav.scp"),
        ("utt2spk", ["a-1 a"], r"utterance b-2 has no speaker in .*utt2spk"),
    ],
)
def test_tables_that_do_not_fit_are_named(data: Path, tmp_path: Path, table, lines, message):
    write_lines(data / table, lines)
    for make in (
        lambda output: format_data(data, output, AudioFormat(), nj=1),
        lambda output: perturb_speed(data, output, [0.9], nj=1),
    ):
        with pytest.raises(HJPruneError, match=message):
            make(tmp_path / "out")
        assert not (tmp_path / "out").exists()


# Archives


@pytest.mark.parametrize("form", ["flac", "wav", ""])
@pytest.mark.parametrize("rate", [RATE, 8000])
def test_archives_are_read(tmp_path: Path, form: str, rate: int):
    """As ESPnet writes them, and with "" as Kaldi does."""
    samples = noise(2, rate)
    position = write_archive(tmp_path / "x.ark", samples, form, rate)
    assert audio.is_ark_position(position) and not audio.is_ark_position(f"{tmp_path}/x.ark")
    assert audio.probe(position).frames == 2 * rate
    data = kaldi_dir(tmp_path / "train", position)
    format_data(data, tmp_path / "dump", AudioFormat("wav"), nj=1)
    for utt_id, location in read_table(tmp_path / "dump/wav.scp").items():
        found, found_rate = soundfile.read(location, dtype="float32")
        assert found_rate == RATE
        expected = cut(samples, utt_id, rate)
        if rate != RATE:
            expected = resample_poly(expected, 2, 1)
        np.testing.assert_allclose(found, expected, atol=1e-4 if rate != RATE else 0)
    (data / "segments").unlink()
    write_lines(data / "wav.scp", [f"a-1 {position}"])
    write_lines(data / "text", ["a-1 A"])
    format_data(data, tmp_path / "dump", AudioFormat("wav"), nj=1)
    assert read_table(tmp_path / "dump/utt2num_samples") == {"a-1": str(2 * RATE)}


def test_a_changed_archive_is_noticed(tmp_path: Path):
    position = write_archive(tmp_path / "x.ark", noise(1), "flac")
    kaldi_dir(tmp_path / "train", position)
    stamps = ROOT / "egs2/TEMPLATE/hjprune1/scripts/stamps.sh"
    command = ["bash", "-c", f". {stamps}; data_checksum {tmp_path}/train"]
    sums = []
    for seed in (0, 0, 1):
        if seed:
            write_archive(tmp_path / "x.ark", noise(1, seed=seed), "flac")
        sums.append(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert sums[0] == sums[1] != sums[2]


def test_wrong_positions_are_named(tmp_path: Path):
    position = write_archive(tmp_path / "x.ark", noise(1), "flac")
    for offset, message in ((2, "no audio at .*x.ark:2, neither"), (10**6, "no audio at")):
        with pytest.raises(audio.AudioError, match=message):
            audio.probe(f"{tmp_path}/x.ark:{offset}")
    with pytest.raises(audio.AudioError, match=r"none.ark:3 does not exist"):
        audio.probe(f"{tmp_path}/none.ark:3")
    ark = (tmp_path / "x.ark").read_bytes()
    (tmp_path / "x.ark").write_bytes(ark[: int(position.rpartition(":")[2]) + 20])
    with pytest.raises(audio.AudioError, match="is unreadable"):
        audio.probe(position)
    (tmp_path / "x.ark").write_bytes(ark[: int(position.rpartition(":")[2]) + 6])
    with pytest.raises(audio.AudioError, match="no audio at"):
        audio.read_mono(position, RATE)


# Speed perturbation and joining


def test_segments_are_perturbed(data: Path, tmp_path: Path):
    output = tmp_path / "data/train_sp"
    assert perturb_speed(data, output, [0.9, 1.0, 1.1], nj=1) == 9
    segments = read_table(output / "segments")
    text, utt2spk = read_table(output / "text"), read_table(output / "utt2spk")
    assert text.keys() == utt2spk.keys() == segments.keys()
    for utt_id, line in read_table(data / "segments").items():
        assert segments[utt_id] == line and utt2spk[utt_id] == utt_id[0]
        for factor, up, down in ((0.9, 10, 9), (1.1, 10, 11)):
            name = f"sp{factor}-{utt_id}"
            assert text[name] == f"WORD {utt_id}" and utt2spk[name] == f"sp{factor}-{utt_id[0]}"
            found, rate = soundfile.read(read_table(output / "wav.scp")[name], dtype="float32")
            assert rate == RATE
            expected = resample_poly(cut(noise(2), utt_id), up, down)
            np.testing.assert_allclose(found, expected, atol=1 / 2**15)
    # What comes next finds the originals as parts, and the copies as files.
    assert format_data(output, tmp_path / "dump", AudioFormat(), nj=1) == 9
    locations = read_table(tmp_path / "dump/wav.scp")
    for utt_id in PARTS:
        np.testing.assert_array_equal(
            audio.read_mono(locations[utt_id], RATE), cut(noise(2), utt_id)
        )
        assert locations[f"sp0.9-{utt_id}"] == f"{output}/wav/sp0.9/{utt_id}.flac"


def test_without_originals_there_are_no_segments(data: Path, tmp_path: Path):
    assert perturb_speed(data, tmp_path / "out", [0.9], nj=1) == 3
    assert not (tmp_path / "out/segments").exists()
    assert len(read_table(tmp_path / "out/wav.scp")) == 3


def test_data_with_copies_are_not_copied_again(data: Path, tmp_path: Path):
    perturb_speed(data, tmp_path / "once", [0.9, 1.0], nj=1)
    with pytest.raises(HJPruneError, match=r"copies of other speeds already, such as sp0.9-"):
        perturb_speed(tmp_path / "once", tmp_path / "twice", [0.9, 1.0], nj=1)
    assert not (tmp_path / "twice").exists()


def test_directories_with_and_without_segments_are_joined(data: Path, tmp_path: Path):
    soundfile.write(tmp_path / "x.wav", noise(1, seed=1), RATE)
    whole = tmp_path / "data/whole"
    for name, line in (("wav.scp", f"x {tmp_path}/x.wav"), ("text", "x X"), ("utt2spk", "x s")):
        write_lines(whole / name, [line])
    write_lines(whole / "spk2gender", ["s f"])
    assert combine_data_dirs([data, whole], tmp_path / "all") == 4
    assert read_table(tmp_path / "all/segments")["x"] == "x 0 -1"
    assert read_table(tmp_path / "all/segments")["b-2"] == "rec 0.50 1.25"
    assert not (tmp_path / "all/spk2gender").exists()
    assert format_data(tmp_path / "all", tmp_path / "dump", AudioFormat("wav"), nj=1) == 4
    locations = read_table(tmp_path / "dump/wav.scp")
    assert locations["x"] == f"{tmp_path}/x.wav"
    np.testing.assert_array_equal(audio.read_mono(locations["a-1"], RATE), cut(noise(2), "a-1"))
    with pytest.raises(HJPruneError, match="utterance x occurs twice, the second time in"):
        combine_data_dirs([whole, whole], tmp_path / "all")
    write_lines(whole / "wav.scp", ["x x.wav", "rec y.wav"])
    write_lines(whole / "segments", ["x rec 0 1"])
    with pytest.raises(HJPruneError, match=r"rec of .*whole/wav.scp is another recording"):
        combine_data_dirs([data, whole], tmp_path / "all")
    write_lines(whole / "text", ["y Y"])
    with pytest.raises(HJPruneError, match=r"utterance x is not in .*whole/text"):
        combine_data_dirs([whole], tmp_path / "all")
    assert len(read_table(tmp_path / "all/text")) == 4


# ESPnet's dump/raw


def espnet_dump(directory: Path, audio_format: str, utterances: dict[str, tuple]) -> None:
    """Write what ESPnet's stages leave of utterances, ``{id: (samples, speaker, words)}``.

    The audio is in ``<dump>/raw/org``, and utt2num_samples still has an utterance without words.
    """
    store = directory.parent / "org" / directory.name / "data/format.1"
    store.mkdir(parents=True)
    directory.mkdir(parents=True)
    if audio_format.endswith("ark"):
        form = audio_format.split(".")[0]
        kaldiio.save_ark(
            str(store / "data_wav.ark"),
            {utt_id: (samples, RATE) for utt_id, (samples, _, _) in utterances.items()},
            scp=str(directory / "wav.scp"),
            write_function="soundfile",
            write_kwargs={"format": form, "subtype": None},
        )
    else:
        for utt_id, (samples, _, _) in utterances.items():
            soundfile.write(store / f"{utt_id}.{audio_format}", samples, RATE)
        write_table(directory / "wav.scp", {u: f"{store}/{u}.{audio_format}" for u in utterances})
    write_table(directory / "text", {utt_id: row[2] for utt_id, row in utterances.items()})
    write_table(directory / "utt2spk", {utt_id: row[1] for utt_id, row in utterances.items()})
    speakers = sorted({row[1] for row in utterances.values()})
    lines = {s: " ".join(sorted(u for u, r in utterances.items() if r[1] == s)) for s in speakers}
    write_table(directory / "spk2utt", lines)
    lengths = {utt_id: len(row[0]) for utt_id, row in utterances.items()}
    write_table(directory / "utt2num_samples", lengths | {"zz-silent": 16000})
    write_lines(directory / "feats_type", ["raw"])
    write_lines(directory / "audio_format", [audio_format])
    (directory / ".backup").mkdir()


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    """A set of two utterances in files."""
    directory = tmp_path / "dump/raw/train"
    rows = {"s1-a": (noise(0.5), "s1", "AB A"), "s1-b": (noise(0.75), "s1", "B")}
    espnet_dump(directory, "flac", rows)
    return directory


def make_shapes(dump: Path) -> dict[str, str]:
    """The lengths that training gets to see."""
    write_lines(dump.parent / "tokens.txt", ["<blank>", "<unk>", "A", "B", "<space>", "<sos/eos>"])
    output = dump.parent / "stats"
    write_shapes(dump, dump.parent / "tokens.txt", "char", output)
    assert read_table(output / "text_shape.char") == {"s1-a": "4,6", "s1-b": "1,6"}
    return read_table(output / "speech_shape")


@pytest.mark.parametrize(
    "lengths", [["s1-a 8000", "s1-b 12000", "zz 1"], ["s1-a 8000"], ["s1-a", "s1-b 0.75"], None]
)
def test_lengths_are_those_of_the_transcribed(dump: Path, lengths: list[str] | None):
    if lengths is None:
        (dump / "utt2num_samples").unlink()
    else:
        write_lines(dump / "utt2num_samples", lengths)
    assert make_shapes(dump) == {"s1-a": "8000", "s1-b": "12000"}


def test_lengths_come_from_archives_too(tmp_path: Path):
    dump = tmp_path / "dump/raw/train"
    rows = {"s1-a": (noise(0.5), "s1", "AB A"), "s1-b": (noise(0.75), "s1", "B")}
    espnet_dump(dump, "flac.ark", rows)
    (dump / "utt2num_samples").unlink()
    check_dump(dump, "flac.ark")
    assert make_shapes(dump) == {"s1-a": "8000", "s1-b": "12000"}
    with pytest.raises(HJPruneError, match=r"s1-a is in an archive .*--audio_format flac.ark"):
        check_dump(dump, "flac")


def test_a_length_without_audio_is_refused(dump: Path):
    write_lines(dump / "utt2num_samples", ["s1-a 8000"])
    write_lines(dump / "wav.scp", ["s1-a a.flac"])
    with pytest.raises(HJPruneError, match=r"utterance s1-b of .*text has no audio in .*wav.scp"):
        make_shapes(dump)


@pytest.mark.parametrize(
    ("table", "content", "message"),
    [
        ("feats_type", "fbank_pitch\n", "feats_type is 'fbank_pitch', but the upstreams take"),
        ("audio_format", "multi_flac\n", "audio_format is 'multi_flac', several files"),
        ("wav.scp", None, "wav.scp is missing; run stage 2 first"),
        ("wav.scp", "", "wav.scp is empty"),
        ("wav.scp", "s1-a sox a.wav - |\ns1-b b.wav\n", "s1-a of .*wav.scp is a command"),
        ("wav.scp", "s1-a a.wav\ns1-b x.ark:7\n", "s1-b is in an archive .x.ark:7. by .*wav.scp"),
        ("wav.scp", "s1-a a.wav\ns1-b b.wav\n", "audio file a.wav does not exist; correct .*from"),
        ("wav.scp", "s1-a a.wav\n", "s1-b is not in .*wav.scp; add it"),
        ("text", "s1-a A\n", "s1-b is not in .*text; add it"),
        ("text", None, "text does not exist"),
    ],
)
def test_a_dump_that_training_cannot_read(dump: Path, table: str, content, message: str):
    check_dump(dump, "wav")
    (dump / table).unlink()
    if content is not None:
        (dump / table).write_text(content)
    with pytest.raises(HJPruneError, match=message):
        check_dump(dump, "wav")


@pytest.mark.parametrize("name", ["audio_format", "feats_type", "utt2num_samples", "spk2utt"])
def test_what_a_dump_may_lack(dump: Path, name: str):
    (dump / name).unlink()
    check_dump(dump, "flac")


def test_files_are_no_archives(dump: Path):
    with pytest.raises(HJPruneError, match=r"s1-a is a file .*give --audio_format flac$"):
        check_dump(dump, "flac.ark")


@pytest.mark.parametrize(
    ("samples", "rate", "message"),
    [
        (noise(1), 8000, r"has 8000 Hz and 1 channels, but .* 16000 Hz and one"),
        (noise(2).reshape(-1, 2), RATE, r"has 16000 Hz and 2 channels"),
    ],
)
def test_rate_and_channels_of_a_dump(dump: Path, samples: np.ndarray, rate: int, message: str):
    soundfile.write(list(read_table(dump / "wav.scp").values())[1], samples, rate)
    with pytest.raises(HJPruneError, match=message):
        check_dump(dump, "flac")


def test_linked_data_are_never_replaced(data: Path, dump: Path, tmp_path: Path):
    for name, target in (("dump/raw/linked", dump), ("data/train_sp", data)):
        (tmp_path / name).symlink_to(target)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(HJPruneError, match="linked is a link and would be replaced; remove it"):
        format_data(data, tmp_path / "dump/raw/linked", AudioFormat(), nj=1)
    with pytest.raises(HJPruneError, match="train_sp is a link"):
        perturb_speed(data, tmp_path / "data/train_sp", [0.9], nj=1)
    assert sorted(tmp_path.rglob("*")) == before


def test_test_sets_may_lack_audio_but_no_speakers(dump: Path, tmp_path: Path):
    write_lines(dump / "text", ["s1-a A", "s1-b", "s1-c C"])
    write_lines(dump / "utt2spk", ["s1-a s1", "s1-b s1", "s1-c s1"])
    check_dump(dump, "flac", trains=False)
    with pytest.raises(HJPruneError, match="s1-c is not in"):
        check_dump(dump, "flac")
    options = ["--audio_format", "flac", "--train_dir", str(dump)]
    write_lines(dump / "utt2spk", ["s1-a s1"])
    with pytest.raises(HJPruneError, match=r"utterance s1-b has no speaker in .*utt2spk"):
        check_dump(dump, "flac", trains=False)
    write_lines(dump / "utt2spk", ["s1-a s1", "s1-b s(1)", "s1-c s1"])
    with pytest.raises(HJPruneError, match=r"s1-b of .* has a parenthesis"):
        check_dump(dump, "flac", trains=False)
    write_lines(dump / "utt2spk", ["s1-a s1"])
    write_lines(dump / "text", ["s1-a A", "s1-b B"])
    check_dump_command.main([*options, "--test_dir", str(tmp_path / "not_there_yet")])
    with pytest.raises(HJPruneError, match="has no speaker"):
        check_dump_command.main([*options, "--test_dir", str(dump)])


# The recipe

SETTINGS = [
    "--train_set", "train", "--valid_set", "dev", "--test_sets", "eval",
    "--config_dir", "conf/mini", "--upstream", "wav2vec2_local", "--upstream_ckpt", "upstream.pt", 
    "--ramp_epochs", "1", "--speed_perturb_factors", "1.0 1.1", "--nj", "2", "--inference_nj", "1",
    "--allow_off_target", "true",
    "--train_args", "--max_epoch 1 --num_workers 0",
    "--prune_args", "--max_epoch 2 --num_workers 0",
    "--compact_args", "--max_epoch 1 --num_workers 0",
]  # fmt: skip
COUNTS = {"train-clean-100": 16, "dev-clean": 4, "dev-other": 1, "test-clean": 4, "test-other": 1}
PARTS_OF_SETS = {"train": "train-clean-100", "dev": "dev-clean", "eval": "test-clean"}


def spoken(corpus: Path) -> dict[str, tuple[np.ndarray, str, str]]:
    """Utterances of a part of the corpus, ``{id: (samples, speaker, words)}``."""
    rows = {}
    for transcripts in sorted(corpus.rglob("*.trans.txt")):
        for utt_id, words in read_text(transcripts).items():
            samples, _ = soundfile.read(transcripts.parent / f"{utt_id}.flac", dtype="int16")
            rows[utt_id] = (samples, utt_id.split("-")[0], words)
    return rows


def lay_out(directory: Path, rows: dict[str, tuple[np.ndarray, str, str]], place: Path) -> None:
    """Write a data directory of Kaldi, with a long recording for every speaker."""
    place.mkdir(exist_ok=True)
    tables: dict[str, list[str]] = {name: [] for name in ("wav.scp", "segments", "text", "utt2spk")}
    for speaker in sorted({row[1] for row in rows.values()}):
        pieces, position = [], 0
        for utt_id, (samples, owner, words) in rows.items():
            if owner == speaker:
                start, end = position / RATE, (position + len(samples)) / RATE
                pieces += [samples, np.zeros(800, np.int16)]
                position += len(samples) + 800
                tables["segments"].append(f"{utt_id} rec-{speaker} {start:.4f} {end:.4f}")
                tables["text"].append(f"{utt_id} {words}")
                tables["utt2spk"].append(f"{utt_id} {speaker}")
        pieces.pop()
        tables["segments"][-1] = " ".join([*tables["segments"][-1].split(" ")[:3], "-1"])
        soundfile.write(place / f"{speaker}.wav", np.concatenate(pieces), RATE)
        tables["wav.scp"].append(f"rec-{speaker} {place / speaker}.wav")
    for name, lines in tables.items():
        write_lines(directory / name, lines)
    write_lines(directory / "reco2file_and_channel", ["nonsense"])


@pytest.mark.slow
def test_the_recipe_takes_data_of_others(tmp_path: Path):
    recipe = copy_recipe(tmp_path, "librispeech_100/asr1", *SETTINGS)
    make_mini_librispeech(tmp_path / "mini", MiniLibriSpeechConfig(COUNTS), nj=2)
    corpus = tmp_path / "mini/LibriSpeech"
    sets = {name: spoken(corpus / part) for name, part in PARTS_OF_SETS.items()}
    options = ["--name", "wav2vec2_mini", "--output", "upstream.pt"]
    recipe.run_module("espnet_hjprune.bin.recipe.mini_upstream", *options)

    # ESPnet's own dump, in archives, for training and pruning.
    for name, theirs in {"train": "train_sp", "dev": "dev", "eval": "other"}.items():
        espnet_dump(recipe.directory / "espnet/raw" / theirs, "flac.ark", sets[name])
    given = ["--dumpdir", "espnet", "--test_sets", "other"]
    training = ["--stage", "3", "--stop_stage", "4", "--expdir", "exp_espnet"]
    result = recipe.fail(*given, *training)
    assert "in an archive" in result.stderr and len(result.stderr.strip().split("\n")) == 1
    assert not (recipe.directory / "exp_espnet").exists()
    given += ["--audio_format", "flac.ark"]
    # Beside it, as starting ESPnet takes most of the time, data directories of Kaldi.
    for name, rows in sets.items():
        lay_out(recipe.directory / "data" / name, rows, tmp_path / "recordings")
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(recipe.run, *given, *training)
        recipe.run("--stage", "2", "--stop_stage", "7")
        other.result()

    shapes = read_table(recipe.only("exp_espnet/asr_stats_*") / "train/speech_shape")
    assert shapes == {utt_id: str(len(row[0])) for utt_id, row in sets["train"].items()}
    assert recipe.only("exp_espnet/asr_prune_*/.done").exists()
    raw = recipe.directory / "dump/raw"
    assert len(read_table(raw / "train_sp/text")) == 2 * COUNTS["train-clean-100"]
    for utt_id, (samples, _, words) in sets["train"].items():
        location = recipe.directory / read_table(raw / "train_sp/wav.scp")[utt_id]
        np.testing.assert_array_equal(soundfile.read(location, dtype="int16")[0], samples)
        assert read_table(raw / "train_sp/text")[utt_id] == words
    check_results(recipe, "eval", sets["eval"])

    # A test set of ESPnet's dump is decoded as the same utterances of ours.
    recipe.run(*given, "--stage", "7", "--stop_stage", "7")
    check_results(recipe, "other", sets["eval"])
    for name in ("text", "token_int"):
        ours, others = (
            recipe.only(f"exp/asr_compact_*/decode_*/{test_set}/{name}").read_text()
            for test_set in ("eval", "other")
        )
        assert ours == others


def check_results(recipe: RecipeCopy, name: str, rows: dict) -> None:
    """A test set is decoded, scored and reported."""
    exp = recipe.only("exp/asr_compact_*")
    assert f"/{name}|{len(rows)}|" in (exp / "RESULTS.md").read_text()
    models = json.loads((exp / "results.json").read_text())["models"]
    assert all(model["values"][name] > 0 for model in models) and len(models) == 2
