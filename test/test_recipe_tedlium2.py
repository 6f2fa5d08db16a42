"""TED-LIUM's release 2 as a corpus: data directories, download, and the mini release."""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile
from recipe_runs import ROOT, copy_local, data_sh
from servers import serve

from espnet_hjprune.corpora.download import RemoteFile
from espnet_hjprune.corpora.stm import read_stm
from espnet_hjprune.corpora.tedlium import SETS, download, pad, plain_words, prepare_release
from espnet_hjprune.data.datadir import read_segments, read_table
from espnet_hjprune.data.dump import AudioFormat, format_data
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.synthetic.grammar import Grammar
from espnet_hjprune.synthetic.mini_tedlium import (
    MiniReleaseConfig,
    MiniTedliumConfig,
    make_mini_release,
    make_mini_tedlium,
)

RELEASE = "TEDLIUM_release2"
LOCAL = ROOT / "egs2/tedlium2/asr1/local"
COUNTS = {"train": 6, "dev": 2, "test": 3}
LINES = {
    "train": """\
Ann_2009 1 Ann_2009 0.05 1.50 <o,f0,female> it 's a(2) talk
Ann_2009 1 Ann_2009 1.60 2.25 <o,f0,female> <sil> {SMACK} of <unk> 's two
Ann_2009 1 inter_segment_gap 2.25 3.00 <o,,unknown> ignore_time_segment_in_scoring
Ann_2009 1 Ann_2009 3 3.5 <o,f0,female> <unk> [LAUGH]
""",
    "dev": "Bob_2010 1 Bob_2010 0.50 1.50 <F0_M> one\n",
    "test": ";; a comment\nCleo_2011 1 Cleo_2011 1.00 2.50 <NA> Two\n",
}
# What the mini test set for LibriSpeech has always been, by talk: pauses in hundredths of a second,
# and sentences.
PAUSES = {"Awb_2026": [75, 33], "Kal_2026": [38], "Rms_2026": [87, 73], "Slt_2026": [53]}
WORDS = {
    "Awb_2026": ["bin red at c one again", "lay green with m four soon"],
    "Kal_2026": ["place red by k eight please"],
    "Rms_2026": ["set white at j zero now", "bin white in l seven please"],
    "Slt_2026": ["bin green by c one now"],
}


def add_talk(directory: Path, lines: str, suffix: str = "sph") -> None:
    """A talk of four seconds in a set; its name is the first word of its last line."""
    talk = lines.rstrip("\n").split("\n")[-1].split()[0]
    for name in ("stm", "sph"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    (directory / "stm" / f"{talk}.stm").write_text(lines, encoding="utf-8")
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 4 * 16000)
    container = {"sph": "NIST"}.get(suffix, suffix.upper())
    soundfile.write(directory / "sph" / f"{talk}.{suffix}", samples, 16000, format=container)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A release with one talk in each set."""
    for name, lines in LINES.items():
        add_talk(tmp_path / RELEASE / name, lines)
    return tmp_path / RELEASE


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny synthetic release."""
    directory = tmp_path_factory.mktemp("mini")
    assert make_mini_release(directory, MiniReleaseConfig(COUNTS))
    return directory / RELEASE


def digests(directory: Path) -> dict[str, str]:
    """The MD5 sum of every file."""
    return {
        str(path.relative_to(directory)): hashlib.md5(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


# Data directories


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("it 's a talk 's end", "it's a talk's end"),
        ("they 're sure we 'll won 't i 've", "they're sure we'll won't i've"),
        ("rock 'n roll 'em", "rock'n roll'em"),
        ("y 'all 'd go", "y'all 'd go"),
        ("{BREATH} One(2) <sil> two [COUGH] three (Ann-1.0-2.0)", "one two three"),
        ("it(2) 's <sil> it {SMACK} 's", "it's it's"),
        ("'s how", "'s how"),
        ("of <unk> 's book <UNK>", "of book"),
        ("<unk>", ""),
        ("caf\u00e9 one\u2028two", "caf\u00e9 one two"),
    ],
)
def test_words_are_written_as_in_the_recipe_of_espnet(words: str, expected: str) -> None:
    assert plain_words(words) == expected


def test_training_segments_get_pauses_but_no_neighbour() -> None:
    spans = [(0.05, 1.0), (1.1, 2.0), (2.0, 3.0), (2.9, 4.0), (5.0, 6.0)]
    padded = [(0.0, 1.05), (1.05, 2.0), (2.0, 3.0), (2.9, 4.1), (4.85, 6.1)]
    np.testing.assert_allclose(pad(spans, 0.15, 0.1), padded)
    assert pad([], 0.15, 0.1) == []


def test_a_release_becomes_data_directories(
    corpus: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    add_talk(corpus / "train", "Dan_2012 1 Dan_2012 1 2 <o,f0,male> we don 't\n", "wav")
    prepare_release(corpus, tmp_path / "data")
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["dev", "test", "train"]
    train = tmp_path / "data/train"
    first, second, other = (
        "Ann_2009-0000005-0000150",
        "Ann_2009-0000160-0000225",
        "Dan_2012-0000100-0000200",
    )
    assert read_table(train / "text") == {
        first: "it's a talk",
        second: "of two",
        other: "we don't",
    }
    segments = read_segments(train / "segments")
    assert (segments[first].start, segments[first].end) == (0.0, 1.55)
    assert (segments[second].start, segments[second].end) == (1.55, 2.35)
    assert read_table(train / "wav.scp") == {
        "Ann_2009": str(corpus / "train/sph/Ann_2009.sph"),
        "Dan_2012": str(corpus / "train/sph/Dan_2012.wav"),
    }
    assert read_table(train / "spk2utt") == {"Ann_2009": f"{first} {second}", "Dan_2012": other}
    assert read_table(train / "spk2gender") == {"Ann_2009": "f", "Dan_2012": "m"}
    segment = read_segments(tmp_path / "data/dev/segments")["Bob_2010-0000050-0000150"]
    assert (segment.start, segment.end) == (0.5, 1.5)
    assert read_table(tmp_path / "data/test/text") == {"Cleo_2011-0000100-0000250": "two"}
    assert not (tmp_path / "data/test/spk2gender").exists()
    assert f"1 of the 4 segments in {corpus / 'train'} have no words" in caplog.text
    for name, found, published in (("train", 4, 92973), ("dev", 1, 507), ("test", 1, 1155)):
        assert (
            f"{name} has {found} segments with speech, release 2 of TED-LIUM has {published}"
            in (caplog.text)
        )


def test_counts_are_not_checked_when_not_asked(
    corpus: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    prepare_release(corpus, tmp_path / "data", check_counts=False)
    assert "release 2 of TED-LIUM has" not in caplog.text


def test_talks_of_dev_and_test_are_not_in_train(
    corpus: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    add_talk(corpus / "train", LINES["dev"])
    add_talk(corpus / "train", LINES["test"])
    add_talk(corpus / "train", "Bob_2011 1 Bob_2011 1 2 <o,f0,male> another talk of his\n")
    prepare_release(corpus, tmp_path / "data")
    assert "2 of the 4 talks in" in caplog.text and "such as Bob_2010" in caplog.text
    assert list(read_table(tmp_path / "data/train/wav.scp")) == ["Ann_2009", "Bob_2011"]
    add_talk(corpus / "dev", LINES["test"])
    prepare_release(corpus, tmp_path / "data")
    assert list(read_table(tmp_path / "data/dev/wav.scp")) == ["Bob_2010"]
    assert list(read_table(tmp_path / "data/test/wav.scp")) == ["Cleo_2011"]
    (corpus / "dev/stm/Bob_2010.stm").unlink()
    with pytest.raises(HJPruneError, match=r"1 of the 1 talks in .*dev are in a set"):
        prepare_release(corpus, tmp_path / "data")


def test_lines_that_are_there_twice_are_counted(
    corpus: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = corpus / "train/stm/Ann_2009.stm"
    first = LINES["train"].split("\n")[0]
    path.write_text(f"{LINES['train']}{first}\n")
    prepare_release(corpus, tmp_path / "data")
    assert "1 of the 4 lines in" in caplog.text
    assert len(read_table(tmp_path / "data/train/text")) == 2
    path.write_text(f"{LINES['train']}{first} that differs\n")
    with pytest.raises(HJPruneError, match="utterance Ann_2009-0000005-0000150 occurs twice"):
        prepare_release(corpus, tmp_path / "data")


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("Eve 1 Eve 1.0 1.0 <o,f0,male> no time", r"Eve\.stm:2 is no line 'talk channel"),
        ("Eve 1 Eve -1 1 <o,f0,male> words", r"Eve\.stm:2 is no line"),
        ("Eve 1 Eve one two <o,f0,male> words", r"Eve\.stm:2 is no line"),
        ("Eve", r"Eve\.stm:2 is no line"),
    ],
)
def test_wrong_lines_are_named(
    corpus: Path, tmp_path: Path, name: str, line: str, message: str
) -> None:
    path = corpus / name / "stm/Eve.stm"
    path.write_text(f"Eve 1 Eve 0 1 <o,f0,male> one\u2028more\n{line}\n")
    with pytest.raises(HJPruneError, match=message):
        prepare_release(corpus, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_what_is_missing_is_named(corpus: Path, tmp_path: Path) -> None:
    def fails(message: str) -> None:
        with pytest.raises(HJPruneError, match=message):
            prepare_release(corpus, tmp_path / "data")
        assert not (tmp_path / "data").exists()

    audio = corpus / "train/sph/Ann_2009.sph"
    audio.rename(tmp_path / "kept")
    fails(r"Ann_2009\.sph does not exist; the copy is incomplete")
    (tmp_path / "kept").rename(audio)
    stm = corpus / "train/stm/Ann_2009.stm"
    stm.write_bytes("Ann_2009 1 Ann_2009 0 1 <o,f0,male> Andr\xe9\n".encode("latin1"))
    fails(r"Ann_2009\.stm:\d+ is no UTF-8 text")
    stm.write_text("Ann_2009 1 Ann_2009 0 1 <o,f0,male> <unk>\n")
    fails("train/stm has no segments with words")
    stm.write_text("Ann_2009 1 Ann_2009 0 1 <other> ignore_time_segment_in_scoring\n")
    fails("train/stm has no segments with speech")
    shutil.rmtree(corpus / "train/stm")
    fails(r"train/stm does not exist; correct TEDLIUM2 in db\.sh, or give --download true")


# Download


def packed(corpus: Path, directory: Path, inside: str = RELEASE) -> Path:
    """The archive of a release."""
    directory.mkdir()
    with tarfile.open(directory / f"{RELEASE}.tar.gz", "w:gz") as tar:
        tar.add(corpus, inside)
    return directory / f"{RELEASE}.tar.gz"


def remote(url: str, archive: Path) -> RemoteFile:
    """What is published about an archive."""
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    return RemoteFile(f"{url}/{archive.name}", archive.stat().st_size, f"sha256:{digest}")


def test_download_resumes_checks_and_unpacks(corpus: Path, tmp_path: Path) -> None:
    archive = packed(corpus, tmp_path / "server")
    target = tmp_path / "downloads"
    with serve(archive.parent, archive.name) as (url, handler):
        published = remote(url, archive)
        download(target, published)
        assert handler.requests == [None, f"bytes={published.bytes // 2}-"]
        assert digests(target / RELEASE) == digests(corpus)
        assert sorted(path.name for path in target.iterdir()) == [RELEASE, archive.name]
        shutil.rmtree(target / RELEASE)
        download(target, published)
        download(target, published)
        assert digests(target / RELEASE) == digests(corpus)
        assert len(handler.requests) == 2


def test_download_refuses_what_is_not_the_file(corpus: Path, tmp_path: Path) -> None:
    archive = packed(corpus, tmp_path / "server")
    with serve(archive.parent) as (url, _):
        published = remote(url, archive)
        wrong = RemoteFile(published.url, published.bytes, f"sha256:{'0' * 64}")
        with pytest.raises(HJPruneError, match="has not the checksum sha256:0000"):
            download(tmp_path / "a", wrong)
        assert not list((tmp_path / "a").iterdir())
        (tmp_path / "b").mkdir()
        (tmp_path / "b" / archive.name).write_bytes(b"something else")
        with pytest.raises(HJPruneError, match="is not the file of"):
            download(tmp_path / "b", published)
    other = packed(corpus, tmp_path / "other", "TEDLIUM_release1")
    unusable = pytest.raises(HJPruneError, match=r"TEDLIUM_release2\.tar\.gz cannot be unpacked")
    with serve(other.parent) as (url, _), unusable:
        download(tmp_path / "c", remote(url, other))
    assert not (tmp_path / "c" / RELEASE).exists()


def script(name: str) -> ModuleType:
    """A script of ``local``."""
    spec = importlib.util.spec_from_file_location(name, LOCAL / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_download_script_takes_a_mirror(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = packed(corpus, tmp_path / "server")
    command = script("download_tedlium2")
    monkeypatch.setattr(command, "ARCHIVE", remote("https://nowhere.invalid", archive))
    options = ["--output_dir", str(tmp_path / "downloads"), "--url"]
    with serve(archive.parent) as (url, _):
        with pytest.raises(HJPruneError, match=r"cannot be downloaded .*404"):
            command.main([*options, f"{url}/no.tar.gz"])
        command.main([*options, f"{url}/{archive.name}"])
    assert digests(tmp_path / "downloads" / RELEASE) == digests(corpus)


# The mini release


def test_mini_release_is_like_release_2(mini: Path, tmp_path: Path) -> None:
    prepare_release(mini, tmp_path / "data", check_counts=False)
    texts: list[str] = []
    talks: list[str] = []
    for name, count in COUNTS.items():
        made = tmp_path / "data" / name
        table = read_table(made / "text")
        assert len(table) == count
        assert all(text == text.lower() and len(text.split()) == 6 for text in table.values())
        texts += table.values()
        files = read_table(made / "wav.scp")
        talks += files
        segments = [one for path in (mini / name / "stm").iterdir() for one in read_stm(path)]
        for talk, path in files.items():
            samples, rate = soundfile.read(path)
            assert soundfile.info(path).format == "NIST" and rate == 16000 and samples.ndim == 1
            own = [line for line in segments if line.talk == talk]
            assert abs(own[-1].end - len(samples) / rate) < 0.01
            for line in own:
                loudest = np.abs(samples[round(line.start * rate) : round(line.end * rate)]).max()
                assert (loudest > 0.25) == (line.words != "ignore_time_segment_in_scoring")
        assert read_table(made / "spk2gender").keys() == files.keys()
        assert format_data(made, tmp_path / "dump" / name, AudioFormat(), nj=1) == count
    assert len(set(texts)) == len(texts) and len(set(talks)) == len(talks)
    flite = [talk for talk in talks if talk.split("_")[0] in ("Awb", "Slt", "Kal", "Rms")]
    assert flite == ["Awb_2026", "Kal_2026", "Slt_2026", "Rms_2026", "Rms_2027"]


def test_mini_release_depends_on_the_seed_only(mini: Path, tmp_path: Path) -> None:
    assert make_mini_release(tmp_path, MiniReleaseConfig(COUNTS), nj=1)
    assert digests(tmp_path / RELEASE) == digests(mini)
    assert not make_mini_release(tmp_path, MiniReleaseConfig(COUNTS), nj=2)
    assert make_mini_release(tmp_path, MiniReleaseConfig(COUNTS, seed=1), nj=2)
    assert not set(digests(tmp_path / RELEASE).values()) & set(digests(mini).values())


def test_mini_release_needs_sentences_and_an_empty_place(corpus: Path, tmp_path: Path) -> None:
    before = digests(tmp_path)
    with pytest.raises(HJPruneError, match="no synthetic corpus"):
        make_mini_release(tmp_path, MiniReleaseConfig(COUNTS))
    with pytest.raises(HJPruneError, match="at least one utterance in dev"):
        MiniReleaseConfig({"train": 1, "test": 1})
    with pytest.raises(HJPruneError, match="4 sentences only, and 11 are asked for"):
        make_mini_release(
            tmp_path / "new", MiniReleaseConfig(COUNTS), grammar=Grammar((("A", "B"), ("C", "D")))
        )
    with pytest.raises(HJPruneError, match="--nj is a whole number from 1, not 0"):
        make_mini_release(tmp_path / "new", MiniReleaseConfig(COUNTS), nj=0)
    shutil.rmtree(tmp_path / "new")
    assert digests(tmp_path) == before


def test_the_test_set_for_librispeech_stays_as_it_was(tmp_path: Path) -> None:
    # Committed results were measured on it.
    make_mini_tedlium(tmp_path, MiniTedliumConfig(6), {"BIN BLUE AT B ZERO AGAIN"})
    stm = {path.stem: list(read_stm(path)) for path in (tmp_path / RELEASE).rglob("*.stm")}
    pauses = {
        talk: [round(100 * (line.end - line.start)) for line in lines[::2]]
        for talk, lines in stm.items()
    }
    assert pauses == PAUSES
    assert {talk: [line.words for line in lines[1::2]] for talk, lines in stm.items()} == WORDS


# local/data.sh


def recipe(tmp_path: Path, settings: str) -> Path:
    """A copy of the recipe's local/."""
    return copy_local(tmp_path / "asr1", "tedlium2/asr1", settings)


def test_data_sh_mini(tmp_path: Path) -> None:
    directory = recipe(tmp_path, "TEDLIUM2=nowhere\n")
    numbers = " ".join(f"--num_{name} {count}" for name, count in COUNTS.items())
    options = ["--mini", "true", "--mini_opts", f"{numbers} --seed 3 --nj 1"]
    result = data_sh(directory, *options)
    assert result.returncode == 0, result.stderr
    assert "Successfully finished" in result.stdout and "release 2 of" not in result.stderr
    for name, count in COUNTS.items():
        assert len(read_table(directory / "data" / name / "text")) == count
    corpus = "downloads/mini/TEDLIUM_release2"
    assert '"seed": 3' in (directory / corpus / "mini.json").read_text()
    before = digests(directory / "data")
    again = data_sh(directory, *options)
    assert f"{corpus} is there already" in again.stderr
    assert digests(directory / "data") == before


def test_data_sh_with_a_corpus_of_the_user(corpus: Path, tmp_path: Path) -> None:
    directory = recipe(tmp_path, f"TEDLIUM2={corpus.parent}\n")
    result = data_sh(directory, "--stop_stage", "1")
    assert result.returncode == 0 and not (directory / "data").exists()
    result = data_sh(directory)
    assert result.returncode == 0, result.stderr
    assert "release 2 of TED-LIUM has 92973" in result.stderr
    # The default: what is in "downloads" is not downloaded again.
    (directory / "downloads").mkdir()
    corpus.rename(directory / "downloads" / RELEASE)
    shutil.copy(LOCAL.parent / "db.sh", directory / "db.sh")
    for options in ([], ["--download", "true"], ["--stage", "2"]):
        shutil.rmtree(directory / "data")
        result = data_sh(directory, *options)
        assert result.returncode == 0, result.stderr
        assert ("is there already" in result.stderr) == (options != ["--stage", "2"])
        assert len(read_table(directory / "data/train/text")) == 2


@pytest.mark.parametrize(
    ("settings", "options", "message"),
    [
        ("TEDLIUM2=\n", [], "TEDLIUM2 is not set; give the directory"),
        ("TEDLIUM2=nowhere\n", [], "nowhere/TEDLIUM_release2 does not exist; correct TEDLIUM2"),
        ("TEDLIUM2=nowhere\n", ["--stage", "2"], "nowhere/TEDLIUM_release2/test/stm does not"),
        ("TEDLIUM2=downloads\n", ["--download", "false"], "downloads/TEDLIUM_release2 does not"),
        ("", ["--mini", "true", "--mini_opts", "--num_dev 0"], "at least one utterance in dev"),
        ("", ["--mini", "true", "--mini_opts", "--nj 0"], "--nj is a whole number from 1"),
    ],
)
def test_data_sh_ends_with_one_sentence(
    tmp_path: Path, settings: str, options: list[str], message: str
) -> None:
    directory = recipe(tmp_path, settings)
    result = data_sh(directory, *options)
    assert result.returncode == 1
    last = result.stderr.rstrip("\n").split("\n")[-1]
    assert last.startswith("error: ") and message in last
    assert "Traceback" not in result.stderr
    assert not (directory / "data").exists()


@pytest.mark.parametrize(
    "options",
    [
        ["--nosuch", "1"],
        ["extra"],
        ["--mini"],
        ["--mini", "yes"],
        ["--download", "maybe"],
        ["--stage", "0"],
        ["--stop_stage", "3"],
    ],
)
def test_data_sh_refuses_bad_options(tmp_path: Path, options: list[str]) -> None:
    directory = recipe(tmp_path, "TEDLIUM2=downloads\n")
    result = data_sh(directory, *options)
    assert result.returncode == 2
    assert len(result.stderr.rstrip("\n").split("\n")) == 1
    assert not (directory / "data").exists()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("make_mini_corpus", ["--output_dir", "x", "--num_train", "many"], "--num_train: invalid"),
        ("make_mini_corpus", ["--output_dir", "x", "--seed", "a"], "--seed: invalid"),
        ("make_mini_corpus", [], "required: --output_dir"),
        ("prepare_tedlium2", ["--output_dir", "x"], "required: --corpus_dir"),
        (
            "prepare_tedlium2",
            ["--corpus_dir", "x", "--output_dir", "y", "--check_counts", "no"],
            "--check_counts: invalid choice",
        ),
        ("download_tedlium2", [], "required: --output_dir"),
    ],
)
def test_scripts_refuse_bad_options(tmp_path: Path, name: str, options: list, message: str) -> None:
    result = subprocess.run(
        [sys.executable, LOCAL / f"{name}.py", *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2 and message in result.stderr
    assert not list(tmp_path.iterdir())
