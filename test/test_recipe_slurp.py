"""SLURP: the mini corpus, data preparation, download and the pre-training of the mini upstream."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import tarfile
from pathlib import Path

import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st
from recipe_runs import copy_local, data_sh
from servers import serve

from espnet_hjprune.bin.recipe import mini_upstream
from espnet_hjprune.corpora import slurp
from espnet_hjprune.data.datadir import read_table
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.synthetic import mini_slurp
from espnet_hjprune.synthetic.mini_slurp import MiniSlurpConfig, make_mini_slurp
from espnet_hjprune.synthetic.templates import phrases
from espnet_hjprune.upstream import read_upstream

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "egs2/slurp/asr1"
CONFIG = MiniSlurpConfig({"train": 20, "train_synthetic": 5, "devel": 4, "test": 6})
LABELS = {"_".join(intent) for intent in mini_slurp.INTENTS}


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny synthetic corpus; copy it before changing it."""
    corpus = tmp_path_factory.mktemp("mini") / "slurp"
    assert make_mini_slurp(corpus, CONFIG)
    return corpus


@pytest.fixture
def corpus(mini: Path, tmp_path: Path) -> Path:
    """A copy of the tiny corpus."""
    return Path(shutil.copytree(mini, tmp_path / "slurp"))


def prompts(corpus: Path, part: str) -> list[dict]:
    """The annotations of a part."""
    lines = slurp.annotation_path(corpus, part).read_text().splitlines()
    return [json.loads(line) for line in lines]


def write_prompts(corpus: Path, part: str, entries: list[dict]) -> None:
    """Replace the annotations of a part."""
    lines = "".join(json.dumps(entry) + "\n" for entry in entries)
    slurp.annotation_path(corpus, part).write_text(lines)


def prepare(corpus: Path, output: Path, **options) -> None:
    """Prepare without looking at the published counts."""
    slurp.prepare(corpus, output, **{"check_counts": False, **options})


# Mini corpus


def test_mini_corpus_is_like_slurp(mini: Path) -> None:
    speakers = slurp.read_speakers(mini)
    sentences: dict[str, set[str]] = {}
    for part, count in CONFIG.prompts.items():
        entries = prompts(mini, part)
        assert len(entries) == count
        sentences[part] = {entry["sentence"] for entry in entries}
        for entry in entries:
            files = [recording["file"] for recording in entry["recordings"]]
            if part == slurp.SYNTHETIC:
                assert len(files) == 1 and files[0] not in speakers
            else:
                assert len({speakers[file] for file in files}) == 2
                assert sum(file.endswith("-headset.flac") for file in files) == 2
            for file in files:
                samples, rate = soundfile.read(slurp.audio_dir(mini, part) / file)
                assert rate == 16000 and 0.4 < len(samples) / rate < 4.0
            words = entry["sentence"].split()
            assert [token["surface"] for token in entry["tokens"]] == words
            for entity in entry["entities"]:
                value = " ".join(words[number] for number in entity["span"])
                assert f"[{entity['type']} : {value}]" in entry["sentence_annotation"]
    for held_out in ("devel", "test"):
        assert not sentences[held_out] & (sentences["train"] | sentences[slurp.SYNTHETIC])
    assert not sentences["devel"] & sentences["test"]
    labels = {f"{entry['scenario']}_{entry['action']}" for entry in prompts(mini, "train")}
    assert labels == LABELS and len({label.split("_")[0] for label in labels}) >= 4


def test_mini_corpus_depends_on_the_seed_only(mini: Path, tmp_path: Path) -> None:
    def digests(corpus: Path) -> dict[str, str]:
        return {
            str(path.relative_to(corpus)): hashlib.md5(path.read_bytes()).hexdigest()
            for path in corpus.rglob("*")
            if path.is_file()
        }

    assert make_mini_slurp(tmp_path / "same", CONFIG, nj=1)
    assert digests(tmp_path / "same") == digests(mini)
    assert not make_mini_slurp(tmp_path / "same", CONFIG)


def test_mini_corpus_needs_enough_sentences(tmp_path: Path) -> None:
    with pytest.raises(HJPruneError, match="at least 10 prompts in train"):
        MiniSlurpConfig({"train": 9, "devel": 1, "test": 1})
    with pytest.raises(HJPruneError, match=r"sentences only, and 1\d\d are asked for"):
        make_mini_slurp(tmp_path / "slurp", MiniSlurpConfig({"train": 1000, "devel": 1, "test": 1}))
    assert not (tmp_path / "slurp").exists()


@given(
    st.dictionaries(
        st.sampled_from(["time", "place"]),
        st.lists(st.sampled_from(["six", "a b", "c"]), min_size=1, max_size=3, unique=True),
        min_size=2,
    )
)
def test_templates_annotate_their_slots(lexicon: dict[str, list[str]]) -> None:
    found = phrases("at [time] in [place] [time]", lexicon)
    assert len(found) == len(lexicon["time"]) ** 2 * len(lexicon["place"])
    for phrase in found:
        words = phrase.text.split()
        values = [" ".join(words[i] for i in span) for _, span in phrase.entities]
        assert phrase.text == f"at {values[0]} in {values[1]} {values[2]}"
        assert phrase.annotation == (
            f"at [time : {values[0]}] in [place : {values[1]}] [time : {values[2]}]"
        )


# Data preparation


def test_prepare(mini: Path, tmp_path: Path) -> None:
    prepare(mini, tmp_path)
    speakers = slurp.read_speakers(mini)
    for name, parts in slurp.SETS.items():
        wav_scp, text, utt2spk, transcript = (
            read_table(tmp_path / name / table)
            for table in ("wav.scp", "text", "utt2spk", "transcript")
        )
        expected = {}
        for part in parts:
            for entry in prompts(mini, part):
                for recording in entry["recordings"]:
                    label = f"{entry['scenario']}_{entry['action']}"
                    expected[recording["file"]] = (label, entry["sentence"])
        assert len(wav_scp) == len(expected)
        for utt_id, path in wav_scp.items():
            file = Path(path).name
            speaker = speakers.get(file, "synthetic").replace("-", "")
            assert utt_id == f"{speaker}-{Path(file).stem}"
            assert (text[utt_id], transcript[utt_id]) == expected[file]
            assert utt2spk[utt_id] == speaker
            assert Path(path).is_file()
    # The field "intent" is not the label.
    assert any(
        entry["intent"] != f"{entry['scenario']}_{entry['action']}"
        for part in CONFIG.prompts
        for entry in prompts(mini, part)
    )


def test_prepare_without_synthetic_recordings(mini: Path, tmp_path: Path) -> None:
    prepare(mini, tmp_path, use_synthetic=False)
    assert len(read_table(tmp_path / "train/text")) == 60
    assert "synthetic" not in set(read_table(tmp_path / "train/utt2spk").values())


def test_prepare_on_slurps_own_lines(corpus: Path, tmp_path: Path) -> None:
    """A line with all of SLURP's fields, a speaker of unknown gender, an id with two hyphens."""
    file = "audio--1500000000-headset.flac"
    entry = prompts(corpus, "devel")[0] | {
        "slurp_id": 77,
        "intent": "sethour",
        "action": "set",
        "scenario": "alarm",
        "recordings": [{"file": file, "wer": 0.25, "ent_wer": None, "status": "correct"}],
    }
    write_prompts(corpus, "devel", [entry])
    (slurp.audio_dir(corpus, "devel") / file).touch()
    metadata = json.loads(slurp.metadata_path(corpus).read_text())
    recording = {"ansid": 1, "recid": 2, "status": "correct", "usrid": "UNK-323"}
    metadata["77"] = {"nlub_id": 3, "recordings": {file: recording}, "userid_amt": "4"}
    slurp.metadata_path(corpus).write_text(json.dumps(metadata))
    prepare(corpus, tmp_path / "data")
    table = read_table(tmp_path / "data/devel/text")
    assert table == {"UNK323-audio--1500000000-headset": "alarm_set"}


def test_missing_recordings_are_counted_and_named(
    corpus: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = prompts(corpus, "train")[0]["recordings"][:2]
    (slurp.audio_dir(corpus, "train") / first["file"]).unlink()
    with caplog.at_level(logging.WARNING):
        prepare(corpus, tmp_path / "data", max_missing=0.02)
    assert f"1 of the 60 recordings in {slurp.annotation_path(corpus, 'train')}" in caplog.text
    assert first["file"] in caplog.text
    assert len(read_table(tmp_path / "data/train/text")) == 64
    (slurp.audio_dir(corpus, "train") / second["file"]).unlink()
    with pytest.raises(HJPruneError, match=r"2 of the 60 recordings .*--max_missing SHARE"):
        prepare(corpus, tmp_path / "other", max_missing=0.02)
    shutil.rmtree(slurp.audio_dir(corpus, slurp.SYNTHETIC))
    with pytest.raises(HJPruneError, match=r"5 of the 5 recordings .* are not in .*slurp_synth"):
        prepare(corpus, tmp_path / "other", max_missing=0.04)
    assert not (tmp_path / "other").exists()


def test_a_recording_of_two_prompts_is_taken_once(
    corpus: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As SLURP's own training set has it."""
    entries = prompts(corpus, "train")
    file = entries[0]["recordings"][0]
    entries[1]["recordings"].append(file)
    write_prompts(corpus, "train", entries)
    with caplog.at_level(logging.WARNING):
        prepare(corpus, tmp_path / "data")
    assert f"1 recordings in {slurp.annotation_path(corpus, 'train')}" in caplog.text
    assert file["file"] in caplog.text
    texts = read_table(tmp_path / "data/train/text")
    (label,) = [text for utt, text in texts.items() if utt.endswith(Path(file["file"]).stem)]
    assert len(texts) == 65 and label == f"{entries[0]['scenario']}_{entries[0]['action']}"


def test_unseen_labels_are_refused_by_name(
    corpus: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    entries = prompts(corpus, "test")
    entries[0]["scenario"], entries[0]["action"] = "cooking", "recipe"
    write_prompts(corpus, "test", entries)
    with pytest.raises(HJPruneError, match=r"the set test has labels .*: cooking_recipe \(3\); "):
        prepare(corpus, tmp_path / "data")
    assert not (tmp_path / "data").exists()
    with caplog.at_level(logging.WARNING):
        prepare(corpus, tmp_path / "data", drop_unseen=True)
    assert "cooking_recipe (3); these utterances are left out" in caplog.text
    assert len(read_table(tmp_path / "data/test/text")) == 15


def test_unknown_speakers_are_counted(
    corpus: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    metadata = json.loads(slurp.metadata_path(corpus).read_text())
    metadata.pop(str(prompts(corpus, "test")[0]["slurp_id"]))
    slurp.metadata_path(corpus).write_text(json.dumps(metadata))
    with caplog.at_level(logging.WARNING):
        prepare(corpus, tmp_path)
    assert "3 of the 18 recordings" in caplog.text and "no speaker" in caplog.text
    assert list(read_table(tmp_path / "test/spk2utt"))[-1] == "unknown"


def test_published_counts_are_compared(
    mini: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        prepare(mini, tmp_path, check_counts=True)
    assert "lists 60 recordings, SLURP has 50627" in caplog.text


@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        ("dataset/slurp/train.jsonl", None, r"train\.jsonl does not exist; SLURP in db\.sh"),
        ("dataset/slurp/test.jsonl", "", r"test\.jsonl lists no recordings"),
        ("dataset/slurp/devel.jsonl", "{]\n", r"devel\.jsonl:1 is no JSON object"),
        ("dataset/slurp/devel.jsonl", '{"scenario": "a"}\n', r"devel\.jsonl:1 is no JSON object"),
        (
            "dataset/slurp/devel.jsonl",
            '{"scenario": "a", "action": "b c", "sentence": "", "recordings": []}\n',
            "has the label 'a_b c', which is not one word",
        ),
        ("dataset/slurp/metadata.json", "[]", r"metadata\.json does not map"),
        ("dataset/slurp/metadata.json", '{"1": {}}', r"metadata\.json does not map"),
    ],
)
def test_broken_copies_are_named(
    corpus: Path, tmp_path: Path, path: str, content: str | None, message: str
) -> None:
    (corpus / path).unlink()
    if content is not None:
        (corpus / path).write_text(content)
    with pytest.raises(HJPruneError, match=message):
        prepare(corpus, tmp_path / "data")
    assert not (tmp_path / "data").exists()


# Download


@pytest.fixture
def server(mini: Path, tmp_path: Path):
    """The address of a server with the corpus as Zenodo and GitHub offer it, and its files."""
    directory = tmp_path / "server"
    shutil.copytree(mini / "dataset/slurp", directory)
    listing = []
    for path in sorted(directory.iterdir()):
        content = path.read_bytes()
        sha = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        listing.append({"name": path.name, "size": len(content), "sha": sha})
    files = []
    for name in ("slurp_real", "slurp_synth"):
        archive = directory / f"{name}.tar.gz"
        with tarfile.open(archive, "w:gz") as tar:
            tar.add(mini / "audio" / name, name)
        md5 = hashlib.md5(archive.read_bytes()).hexdigest()
        size = archive.stat().st_size
        files.append({"key": archive.name, "size": size, "checksum": f"md5:{md5}"})
    with serve(directory, "train.jsonl", "slurp_synth.tar.gz") as (url, _):
        for entry in listing:
            entry["download_url"] = f"{url}/{entry['name']}"
        for entry in files:
            entry["links"] = {"self": f"{url}/{entry['key']}"}
        (directory / "listing").write_text(json.dumps(listing))
        (directory / "record").write_text(json.dumps({"files": files}))
        yield url, directory


def test_download_makes_a_corpus_to_prepare(server, mini: Path, tmp_path: Path) -> None:
    url, _ = server
    target = tmp_path / "downloads/slurp"
    slurp.download(target, f"{url}/record", f"{url}/listing?ref=abc")
    names = sorted(str(path.relative_to(target)) for path in target.rglob("*.flac"))
    assert names == sorted(str(path.relative_to(mini)) for path in mini.rglob("*.flac"))
    prepare(target, tmp_path / "data")
    # A second run finds everything and asks nobody.
    slurp.download(target, "http://127.0.0.1:1/", "http://127.0.0.1:1/")


def test_download_refuses_what_is_not_published(server, tmp_path: Path) -> None:
    url, directory = server
    record, listing = f"{url}/record", f"{url}/listing"
    with (directory / "test.jsonl").open("r+b") as file:
        file.write(b"X")
    with pytest.raises(HJPruneError, match=r"test\.jsonl has not the checksum git:"):
        slurp.download(tmp_path / "a", record, listing)
    with pytest.raises(HJPruneError, match=r"/none cannot be read \(.*404"):
        slurp.download(tmp_path / "b", record, f"{url}/none")
    (directory / "listing").write_text("[]")
    with pytest.raises(HJPruneError, match=r"does not list train\.jsonl"):
        slurp.download(tmp_path / "b", record, listing)
    (directory / "listing").write_text('["train.jsonl"]')
    with pytest.raises(HJPruneError, match="does not list files with sizes and checksums"):
        slurp.download(tmp_path / "b", record, listing)
    assert not (tmp_path / "b").exists()


def test_download_refuses_another_description_of_the_audio(server, tmp_path: Path) -> None:
    url, directory = server
    for content in ("[]", "{}", '{"files": [{"key": "slurp_real.tar.gz"}]}'):
        (directory / "record").write_text(content)
        with pytest.raises(HJPruneError, match="does not list files with sizes and checksums"):
            slurp.download(tmp_path / "slurp", f"{url}/record", f"{url}/listing")


# local/data.sh


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe directory with local/ and the settings that local/data.sh reads."""
    return copy_local(tmp_path / "asr1", "slurp/asr1", "SLURP=downloads/slurp\n")


def test_data_sh_with_a_corpus_of_the_user(recipe: Path, mini: Path) -> None:
    (recipe / "db.sh").write_text(f"SLURP={mini}\n")
    result = data_sh(recipe, "--use_synthetic", "false", "--max_missing", "0")
    assert result.returncode == 0, result.stderr
    assert "SLURP has 50627" in result.stderr
    assert len(read_table(recipe / "data/train/text")) == 60
    (recipe / "db.sh").write_text("SLURP=nowhere\n")
    result = data_sh(recipe)
    assert result.returncode == 1
    assert result.stderr.startswith("error: nowhere/dataset/slurp does not exist")


@pytest.mark.parametrize(
    "options",
    [["--nosuch", "1"], ["--use_synthetic", "yes"], ["--max_missing", "few"], ["--mini"]],
)
def test_data_sh_refuses_bad_options(recipe: Path, options: list[str]) -> None:
    result = data_sh(recipe, *options)
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert not (recipe / "data").exists()


# Pre-training of the mini upstream


@pytest.mark.parametrize("family", ["wav2vec2", "wavlm"])
def test_pretraining_lowers_the_loss_and_keeps_the_format(
    family: str, mini: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    prepare(mini, tmp_path / "data")
    losses, states = [], []
    for epochs in (0, 1, 6):
        output = tmp_path / f"{epochs}.pt"
        options = ["--name", f"{family}_mini", "--epochs", str(epochs), "--output", str(output)]
        options += ["--data_dir", str(tmp_path / "data/devel")]
        with caplog.at_level(logging.INFO):
            mini_upstream.main(options)
        if epochs:
            losses.append(float(caplog.messages[-1].rpartition(" ")[2]))
        states.append(read_upstream(f"{family}_local", str(output))[1])
    assert losses[1] < losses[0]
    before = states.pop(0)
    assert states[1].keys() == before.keys()
    name = "feature_projection.linear.weight"
    assert not torch.equal(states[1][name], before[name])
    (tmp_path / "data/devel/transcript").write_text("")
    with pytest.raises(HJPruneError, match="has no words in"):
        mini_upstream.main(options)
