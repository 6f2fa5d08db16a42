"""Data preparation: data directories, LibriSpeech's layout, the mini corpus, audio formats."""

from __future__ import annotations

import functools
import hashlib
import shutil
import tarfile
from pathlib import Path
from random import Random

import kaldiio
import numpy as np
import pytest
import soundfile
from recipe_runs import copy_local, data_sh
from servers import serve

from espnet_hjprune.atomic import replaced_directory
from espnet_hjprune.bin.recipe import check_dump as check_dump_command
from espnet_hjprune.bin.recipe import format_data as format_data_command
from espnet_hjprune.bin.recipe import shapes as shapes_command
from espnet_hjprune.constants import AUDIO_FORMATS
from espnet_hjprune.corpora import librispeech
from espnet_hjprune.data import audio, datadir
from espnet_hjprune.data.dump import AudioFormat, format_data
from espnet_hjprune.errors import HJPruneError, UsageError
from espnet_hjprune.synthetic import voices as synthesis
from espnet_hjprune.synthetic.grammar import COMMANDS, Grammar
from espnet_hjprune.synthetic.mini_librispeech import MiniLibriSpeechConfig, make_mini_librispeech

ROOT = Path(__file__).parents[1]
LOCAL = ROOT / "egs2/librispeech_100/asr1/local"
COUNTS = {
    "train-clean-100": 6,
    "dev-clean": 2,
    "dev-other": 2,
    "test-clean": 2,
    "test-other": 2,
}


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory LibriSpeech of a tiny synthetic corpus; copy it before changing it."""
    directory = tmp_path_factory.mktemp("mini")
    assert make_mini_librispeech(directory, MiniLibriSpeechConfig(COUNTS))
    return directory / "LibriSpeech"


@pytest.fixture
def corpus(mini: Path, tmp_path: Path) -> Path:
    """A copy of the tiny corpus."""
    return Path(shutil.copytree(mini, tmp_path / "LibriSpeech"))


@pytest.fixture
def data(mini: Path, tmp_path: Path) -> Path:
    """Data directories of the tiny corpus."""
    librispeech.prepare(mini, tmp_path / "data", list(COUNTS), check_counts=False)
    return tmp_path / "data"


def digests(directory: Path) -> dict[str, str]:
    """The MD5 sum of every file."""
    return {
        str(path.relative_to(directory)): hashlib.md5(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


# Tables and directories


def test_table_round_trip_is_sorted(tmp_path: Path) -> None:
    datadir.write_table(tmp_path / "text", {"b": "TWO  WORDS", "a-1": "X", "a": ""})
    assert (tmp_path / "text").read_text() == "a \na-1 X\nb TWO  WORDS\n"
    assert datadir.read_table(tmp_path / "text") == {"a": "", "a-1": "X", "b": "TWO  WORDS"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a 1\na 2\n", "text:2 has 'a' a second time"),
        (b"a 1\n\nb 2\n", "text:2 is an empty line"),
        (b"a \xff\n", "UTF-8"),
    ],
)
def test_bad_table_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "text").write_bytes(content)
    with pytest.raises(HJPruneError, match=message):
        datadir.read_table(tmp_path / "text")


def test_replaced_directory_keeps_the_old_one_after_an_error(tmp_path: Path) -> None:
    target = tmp_path / "x"
    target.mkdir()
    (target / "old").touch()
    with pytest.raises(RuntimeError), replaced_directory(target) as directory:
        (directory / "new").touch()
        raise RuntimeError
    assert [path.name for path in tmp_path.rglob("*")] == ["x", "old"]
    with replaced_directory(target) as directory:
        (directory / "new").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["x", "new"]


# Grammar and mini corpus


def test_grammar_enumerates_every_sentence_once() -> None:
    grammar = Grammar((("A", "B"), ("C", "D", "E")))
    sentences = [grammar.sentence(index) for index in range(grammar.size)]
    assert sentences == ["A C", "A D", "A E", "B C", "B D", "B E"]
    assert sorted(grammar.sample(6, Random(0))) == sentences
    with pytest.raises(HJPruneError, match="6 sentences only"):
        grammar.sample(7, Random(0))
    assert len(set(COMMANDS.sample(500, Random(1)))) == 500


def test_mini_corpus_is_like_librispeech(mini: Path) -> None:
    genders = librispeech.read_genders(mini / "SPEAKERS.TXT")
    readers: set[str] = set()
    texts: list[str] = []
    for part, count in COUNTS.items():
        utterances = librispeech.read_subset(mini, part)
        assert len(utterances) == count
        part_readers = {utterance.speaker for utterance in utterances}
        assert not readers & part_readers
        assert {genders[reader] for reader in part_readers} == {"f", "m"} or part.startswith("tr")
        readers |= part_readers
        texts += [utterance.text for utterance in utterances]
        for utterance in utterances:
            samples, rate = soundfile.read(utterance.audio)
            assert rate == 16000
            assert samples.ndim == 1
            assert 1.0 < len(samples) / rate < 4.0
            assert 0.29 < np.abs(samples).max() < 0.81
            assert np.sqrt(np.mean(samples**2)) > 0.02
            assert len(utterance.text.split()) == 6
            assert utterance.text == utterance.text.upper()
    assert readers == genders.keys()
    assert len(set(texts)) == len(texts)


def test_mini_corpus_depends_on_the_seed_only(mini: Path, tmp_path: Path) -> None:
    assert make_mini_librispeech(tmp_path / "same", MiniLibriSpeechConfig(COUNTS), nj=1)
    assert digests(tmp_path / "same/LibriSpeech") == digests(mini)
    assert not make_mini_librispeech(tmp_path / "same", MiniLibriSpeechConfig(COUNTS))
    assert make_mini_librispeech(tmp_path / "same", MiniLibriSpeechConfig(COUNTS, seed=1))
    changed = digests(tmp_path / "same/LibriSpeech")
    assert changed.keys() == digests(mini).keys()
    assert not set(changed.values()) & set(digests(mini).values())


def test_mini_corpus_never_replaces_another_corpus(corpus: Path) -> None:
    (corpus / "mini.json").unlink()
    with pytest.raises(HJPruneError, match="no synthetic corpus"):
        make_mini_librispeech(corpus.parent, MiniLibriSpeechConfig(COUNTS))


@pytest.mark.parametrize(
    "voice", [synthesis.EspeakVoice("en-us+f2", "f"), synthesis.FliteVoice("slt", "f", 1.1, 180)]
)
def test_recordings_are_noisy_when_asked(voice: synthesis.Voice, tmp_path: Path) -> None:
    clean, noisy = tmp_path / "clean/a.wav", tmp_path / "noisy/a.wav"
    recordings = [
        synthesis.SyntheticRecording(clean, "turn the lights off", voice),
        synthesis.SyntheticRecording(noisy, "turn the lights off", voice, snr_db=5.0),
    ]
    seconds = synthesis.record_all(recordings, rate=16000, nj=1)
    first, second = (soundfile.read(path)[0] for path in (clean, noisy))
    assert seconds == [len(first) / 16000, len(second) / 16000]
    scale = np.dot(first, second) / np.dot(first, first)
    snr = np.sum((scale * first) ** 2) / np.sum((second - scale * first) ** 2)
    assert 10 * np.log10(snr) == pytest.approx(5.0, abs=0.5)


def test_unknown_voice_and_missing_synthesiser_are_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording = synthesis.SyntheticRecording(
        tmp_path / "a.wav", "x", synthesis.EspeakVoice("none", "f")
    )
    with pytest.raises(HJPruneError, match="espeak-ng -v none"):
        synthesis.record_all([recording], nj=1)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HJPruneError, match=r"espeak-ng is not installed; run tools/setup\.sh"):
        synthesis.record_all([recording], nj=1)


# LibriSpeech


def test_prepare_writes_consistent_directories(data: Path) -> None:
    for name in ("train_clean_100", "dev_clean", "dev_other", "test_clean", "test_other", "dev"):
        wav_scp, text, utt2spk, spk2utt, genders = (
            datadir.read_table(data / name / table)
            for table in ("wav.scp", "text", "utt2spk", "spk2utt", "spk2gender")
        )
        assert wav_scp.keys() == text.keys() == utt2spk.keys()
        assert list(wav_scp) == sorted(wav_scp)
        assert all(
            Path(path).suffix == ".flac" and Path(path).exists() for path in wav_scp.values()
        )
        assert {u: s for s, us in spk2utt.items() for u in us.split()} == utt2spk
        assert genders.keys() == spk2utt.keys()
        assert set(genders.values()) <= {"f", "m"}
    both = [datadir.read_table(data / name / "text") for name in ("dev_clean", "dev_other")]
    assert datadir.read_table(data / "dev/text") == both[0] | both[1]


def test_prepare_reads_names_with_separators(tmp_path: Path) -> None:
    path = tmp_path / "SPEAKERS.TXT"
    path.write_text(";ID |SEX| ...\n60   | M | train-clean-100  | 20.18 | |CBW|Simon\n")
    assert librispeech.read_genders(path) == {"60": "m"}
    path.write_text("60   | X | train-clean-100  | 20.18 | Somebody\n")
    with pytest.raises(HJPruneError, match=r"SPEAKERS\.TXT:1"):
        librispeech.read_genders(path)


def first_chapter(corpus: Path) -> tuple[Path, Path]:
    """The transcripts of a chapter and its first audio file."""
    transcripts = sorted((corpus / "dev-clean").rglob("*.trans.txt"))[0]
    return transcripts, sorted(transcripts.parent.glob("*.flac"))[0]


def test_prepare_names_audio_without_transcript(corpus: Path, tmp_path: Path) -> None:
    transcripts, audio_file = first_chapter(corpus)
    transcripts.write_text("")
    with pytest.raises(HJPruneError, match=f"{audio_file.stem} has audio but no transcript"):
        librispeech.prepare(corpus, tmp_path / "data", ["dev-clean"])
    assert not list((tmp_path / "data").glob("*"))


def test_prepare_names_transcript_without_audio(corpus: Path, tmp_path: Path) -> None:
    _, audio_file = first_chapter(corpus)
    audio_file.unlink()
    with pytest.raises(HJPruneError, match=f"{audio_file.stem} of .* has no audio"):
        librispeech.prepare(corpus, tmp_path / "data", ["dev-clean"])


def test_prepare_names_what_is_missing(corpus: Path, tmp_path: Path) -> None:
    prepare = functools.partial(librispeech.prepare, corpus, tmp_path / "data")
    first_chapter(corpus)[0].unlink()
    with pytest.raises(HJPruneError, match=r"trans\.txt does not exist"):
        prepare(["dev-clean"])
    shutil.rmtree(corpus / "dev-clean")
    with pytest.raises(HJPruneError, match="dev-clean does not exist; correct LIBRISPEECH"):
        prepare(["dev-clean"])
    (corpus / "SPEAKERS.TXT").write_text("1 | F | dev-other | 8.1 | Nobody\n")
    with pytest.raises(HJPruneError, match=r"reader 10.. of .* is not in"):
        prepare(["dev-other"])
    (corpus / "SPEAKERS.TXT").unlink()
    with pytest.raises(HJPruneError, match=r"LIBRISPEECH in db\.sh"):
        prepare(["dev-other"])


def test_incomplete_part_is_mentioned(
    mini: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    librispeech.prepare(mini, tmp_path / "data", ["test-clean"])
    assert "has 2 utterances, LibriSpeech has 2620" in caplog.text


# Download


@pytest.fixture
def server(mini: Path, tmp_path: Path):
    """The address of a server with one archive, its handler class and the catalogue."""
    directory = tmp_path / "server"
    directory.mkdir()
    archive = directory / "dev-clean.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for name in ("SPEAKERS.TXT", "dev-clean"):
            tar.add(mini / name, f"LibriSpeech/{name}")
    md5 = hashlib.md5(archive.read_bytes()).hexdigest()
    catalogue = {"dev-clean": librispeech.Archive(archive.stat().st_size, md5, 2)}
    with serve(directory, archive.name) as (url, handler):
        yield url, handler, catalogue


def test_download_resumes_checks_and_unpacks(server, mini: Path, tmp_path: Path) -> None:
    url, handler, catalogue = server
    target = tmp_path / "downloads"
    librispeech.download(target, ["dev-clean"], url, catalogue)
    size = catalogue["dev-clean"].bytes
    assert handler.requests == [None, f"bytes={size // 2}-"]
    assert digests(target / "LibriSpeech/dev-clean") == digests(mini / "dev-clean")
    assert (target / "LibriSpeech/SPEAKERS.TXT").exists()
    assert sorted(path.name for path in target.iterdir()) == ["LibriSpeech", "dev-clean.tar.gz"]
    librispeech.download(target, ["dev-clean"], url, catalogue)
    assert len(handler.requests) == 2


def test_download_refuses_what_is_not_the_file(server, tmp_path: Path) -> None:
    url, _, catalogue = server
    wrong = {"dev-clean": librispeech.Archive(catalogue["dev-clean"].bytes, "0" * 32, 2)}
    with pytest.raises(HJPruneError, match="has not the checksum md5:0000"):
        librispeech.download(tmp_path / "a", ["dev-clean"], url, wrong)
    assert not list((tmp_path / "a").iterdir())
    with pytest.raises(HJPruneError, match=r"cannot be downloaded .*404"):
        librispeech.download(tmp_path / "b", ["dev-clean"], f"{url}/no", catalogue)


# Audio formats


@pytest.mark.parametrize(("text", "rate"), [("16k", 16000), ("8000", 8000), ("22.05k", 22050)])
def test_parse_rate(text: str, rate: int) -> None:
    assert audio.parse_rate(text) == rate


@pytest.mark.parametrize("text", ["", "k", "0", "-16k", "16 kHz"])
def test_parse_rate_refuses(text: str) -> None:
    with pytest.raises(HJPruneError, match="no sampling rate"):
        audio.parse_rate(text)


@pytest.mark.parametrize("name", AUDIO_FORMATS)
def test_every_format_gives_espnet_the_same_samples(name: str, data: Path, tmp_path: Path) -> None:
    from espnet2.train.dataset import ESPnetDataset

    source, output = data / "train_clean_100", tmp_path / "dump" / name
    assert format_data(source, output, AudioFormat(name), nj=2) == COUNTS["train-clean-100"]
    loader = "kaldi_ark" if name.endswith("ark") else "sound"
    dataset = ESPnetDataset([(str(output / "wav.scp"), "speech", loader)], float_dtype="float32")
    lengths = datadir.read_table(output / "utt2num_samples")
    paths = datadir.read_table(source / "wav.scp")
    assert lengths.keys() == paths.keys()
    for utt_id, path in paths.items():
        expected = soundfile.read(path, dtype="float32")[0]
        np.testing.assert_array_equal(dataset[utt_id][1]["speech"], expected)
        assert int(lengths[utt_id]) == len(expected)
    assert (output / "feats_type").read_text() == "raw\n"
    assert (output / "audio_format").read_text() == f"{name}\n"
    for table in ("text", "utt2spk", "spk2utt"):
        assert (output / table).read_text() == (source / table).read_text()
    # A flac that fits is referred to.
    assert (datadir.read_table(output / "wav.scp") == paths) == (name == "flac")
    assert (output / "data").exists() == (name != "flac")


def make_data_dir(directory: Path, files: dict[str, tuple[np.ndarray, int]]) -> Path:
    """A data directory of wave files."""
    utterances = []
    for utt_id, (samples, rate) in files.items():
        path = directory / f"{utt_id}.wav"
        directory.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, samples, rate)
        utterances.append(datadir.Utterance(utt_id, "s", str(path), "HELLO"))
    datadir.write_data_dir(directory / "data", utterances, {"s": "f"})
    return directory / "data"


def tone(seconds: float, rate: int) -> np.ndarray:
    """A sine of 440 Hz."""
    return 0.5 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)


def test_other_rates_and_channels_are_converted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stereo = np.stack([tone(1.0, 16000), np.zeros(16000)], axis=1)
    source = make_data_dir(
        tmp_path / "in", {"high": (tone(1.0, 44100), 44100), "stereo": (stereo, 16000)}
    )
    format_data(source, tmp_path / "out", AudioFormat(), nj=1)
    for utt_id, path in datadir.read_table(tmp_path / "out/wav.scp").items():
        samples, rate = soundfile.read(path)
        assert (rate, samples.shape) == (16000, (16000,)), utt_id
        # The ends of a resampled tone differ from the tone.
        np.testing.assert_allclose(samples[100:-100], tone(1.0, 16000)[100:-100], atol=2e-3)
    assert "1 of 2 utterances are resampled to 16000 Hz" in caplog.text
    assert "1 of 2 utterances are reduced to their first channel" in caplog.text


def test_unusable_audio_is_named_left_out_and_counted(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = data / "train_clean_100"
    wav_scp = datadir.read_table(source / "wav.scp")
    empty, truncated, text, missing, *good = wav_scp
    contents = {
        empty: b"",
        truncated: Path(wav_scp[truncated]).read_bytes()[:9000],
        text: b"this is no audio",
    }
    for utt_id, content in contents.items():
        wav_scp[utt_id] = str(tmp_path / f"{utt_id}.flac")
        Path(wav_scp[utt_id]).write_bytes(content)
    wav_scp[missing] = str(tmp_path / "nowhere.flac")
    datadir.write_table(source / "wav.scp", wav_scp)
    assert format_data(source, tmp_path / "out", AudioFormat(), nj=1) == len(good)
    for table in ("wav.scp", "text", "utt2spk", "utt2num_samples"):
        assert list(datadir.read_table(tmp_path / "out" / table)) == good
    for utt_id in (empty, truncated, text, missing):
        assert f"utterance {utt_id} is left out: audio file {wav_scp[utt_id]}" in caplog.text
    assert "4 of 6 utterances are left out because their audio is unusable" in caplog.text


def test_no_usable_audio_is_fatal_and_leaves_nothing(tmp_path: Path) -> None:
    source = make_data_dir(tmp_path / "in", {"a": (np.zeros(0), 16000)})
    with pytest.raises(HJPruneError, match=r"all 1 have unusable audio .*a\.wav is empty"):
        format_data(source, tmp_path / "out/x", AudioFormat(), nj=1)
    assert not list((tmp_path / "out").iterdir())


def test_length_limits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rate = 8000
    files = {
        name: (tone(seconds, rate), rate)
        for name, seconds in zip("abc", (0.1, 0.5, 2.0), strict=True)
    }
    source = make_data_dir(tmp_path / "in", files)
    target = AudioFormat("wav", rate, min_seconds=0.2, max_seconds=1.0)
    assert format_data(source, tmp_path / "out", target, nj=1) == 1
    assert list(datadir.read_table(tmp_path / "out/text")) == ["b"]
    assert "2 of 3 utterances are left out because they are not 0.2 to 1 s long" in caplog.text


def test_audio_alone_needs_no_other_table(tmp_path: Path) -> None:
    source = make_data_dir(tmp_path / "in", {name: (tone(0.5, 16000), 16000) for name in "ab"})
    for table in ("text", "utt2spk"):
        (source / table).unlink()
    dump, output = tmp_path / "out", tmp_path / "shapes"
    options = ["--audio_only", "true"]
    format_data_command.main(
        ["--in_dir", str(source), "--out_dir", str(dump), "--nj", "1", *options]
    )
    assert sorted(path.name for path in dump.iterdir() if path.is_file()) == [
        "audio_format", "feats_type", "utt2num_samples", "wav.scp",
    ]  # fmt: skip
    check_dump_command.main(["--audio_format", "flac", "--train_dir", str(dump), *options])
    (dump / "utt2num_samples").unlink()
    shapes_command.main(["--data_dir", str(dump), "--out_dir", str(output), *options])
    assert (output / "speech_shape").read_text() == "a 8000\nb 8000\n"
    with pytest.raises(HJPruneError, match="text does not exist"):
        check_dump_command.main(["--audio_format", "flac", "--train_dir", str(dump)])
    with pytest.raises(HJPruneError, match=r"--audio_format flac\.ark does not read"):
        check_dump_command.main(["--audio_format", "flac.ark", "--train_dir", str(dump), *options])
    with pytest.raises(UsageError, match="or give --audio_only true"):
        shapes_command.main(["--data_dir", str(dump), "--out_dir", str(output)])
    (source / "wav.scp").write_text("")
    with pytest.raises(HJPruneError, match=r"wav.scp is empty"):
        format_data(source, dump, AudioFormat(audio_only=True), nj=1)


@pytest.mark.parametrize(
    ("table", "content", "message"),
    [
        ("text", "a \nb HELLO\n", "utterance a has no transcript in"),
        ("text", "b HELLO\n", "utterance a has no transcript in"),
        ("text", "a A\nb B\nc C\n", "utterance c of .* has no audio in"),
        ("utt2spk", "a s\n", "utterance b has no speaker in"),
        ("wav.scp", "", "wav.scp is empty"),
        ("segments", "a x 0 1\n", "x of .*segments has no audio in .*wav.scp"),
        ("segments", "a a 0\n", "segments has for a no 'recording start end', but 'a 0'"),
        ("segments", "a a 1 0.5\n", "segments has for a a segment from 1 to 0.5 s"),
    ],
)
def test_inconsistent_tables_are_named(
    tmp_path: Path, table: str, content: str, message: str
) -> None:
    files = {name: (tone(0.2, 16000), 16000) for name in "ab"}
    source = make_data_dir(tmp_path / "in", files)
    (source / table).write_text(content)
    with pytest.raises(HJPruneError, match=message):
        format_data(source, tmp_path / "out", AudioFormat(), nj=1)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["flac", "wav", "flac.ark"])
def test_segments_are_cut_out_of_recordings(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    rate = 16000
    samples = np.arange(rate, dtype=np.float64) / (2 * rate)
    source = make_data_dir(tmp_path / "in", {"long": (samples, rate)})
    spans = {"a": (0.0, 0.25), "b": (0.5, 0.75), "c": (0.9, 1.1), "d": (2.0, 3.0)}
    for table, value in (("text", "HELLO"), ("utt2spk", "s")):
        datadir.write_table(source / table, dict.fromkeys(spans, value))
    lines = {utt: f"long {start} {end}" for utt, (start, end) in spans.items()}
    datadir.write_table(source / "segments", lines)
    assert format_data(source, tmp_path / "out", AudioFormat(name, rate), nj=1) == 3
    locations = datadir.read_table(tmp_path / "out/wav.scp")
    lengths = datadir.read_table(tmp_path / "out/utt2num_samples")
    for utt, location in locations.items():
        if name == "flac.ark":
            _, found = kaldiio.load_mat(location)
        else:
            found, _ = soundfile.read(location)
        start, end = (min(round(t * rate), rate) for t in spans[utt])
        assert len(found) == int(lengths[utt]) == end - start
        assert np.abs(found - samples[start:end]).max() < 1e-4
    assert list(locations) == ["a", "b", "c"]
    assert "utterance d is left out" in caplog.text and "long.wav ends before 2 s" in caplog.text


def test_format_data_command(data: Path, tmp_path: Path) -> None:
    options = ["--in_dir", str(data / "dev"), "--out_dir", str(tmp_path / "dump/raw/dev")]
    format_data_command.main([*options, "--audio_format", "wav", "--fs", "8k", "--nj", "1"])
    path = next(iter(datadir.read_table(tmp_path / "dump/raw/dev/wav.scp").values()))
    assert soundfile.info(path).samplerate == 8000


# local/data.sh


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe directory with local/ and the settings that local/data.sh reads."""
    return copy_local(tmp_path / "asr1", "librispeech_100/asr1", "LIBRISPEECH=downloads\n")


def test_data_sh_mini(recipe: Path) -> None:
    numbers = "--num_train 3 --num_dev_clean 1 --num_dev_other 1 --num_test_clean 1"
    numbers += " --num_test_other 1 --num_test_tedlium 2"
    options = ["--mini", "true", "--mini_opts", numbers]
    result = data_sh(recipe, *options)
    assert result.returncode == 0, result.stderr
    assert len(datadir.read_table(recipe / "data/train_clean_100/text")) == 3
    assert len(datadir.read_table(recipe / "data/dev/text")) == 2
    assert len(datadir.read_table(recipe / "data/test_tedlium/text")) == 2
    again = data_sh(recipe, *options)
    assert "is there already" in again.stderr


def test_data_sh_with_a_corpus_of_the_user(recipe: Path, mini: Path) -> None:
    (recipe / "db.sh").write_text(f"LIBRISPEECH={mini.parent}\n")
    result = data_sh(recipe)
    assert result.returncode == 0, result.stderr
    assert "LibriSpeech has 28539" in result.stderr
    (recipe / "db.sh").write_text("LIBRISPEECH=nowhere\n")
    result = data_sh(recipe)
    assert result.returncode == 1
    assert result.stderr.startswith("error: nowhere/LibriSpeech does not exist")


@pytest.mark.parametrize("options", [["--nosuch", "1"], ["extra"], ["--mini"], ["--mini", "yes"]])
def test_data_sh_refuses_bad_options(recipe: Path, options: list[str]) -> None:
    result = data_sh(recipe, *options)
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert not (recipe / "data").exists()
