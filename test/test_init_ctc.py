"""The CTC layer of fine-tuned checkpoints of Hugging Face, against transformers' own outputs."""

from __future__ import annotations

import argparse
import copy
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
import transformers
import yaml
from espnet_runs import build_model, task_class, task_module
from models import family_config
from recipe_runs import copy_recipe
from test_espnet_plugin import encoder_form
from test_espnet_plugin import options as espnet_options

from espnet_hjprune.bin.recipe import configure, token_list
from espnet_hjprune.data import datadir
from espnet_hjprune.data.datadir import Utterance, write_data_dir
from espnet_hjprune.data.tokens import read_token_list
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.upstream import read_upstream
from espnet_hjprune.upstream.ctc_head import ABSENT_LOGIT, read_ctc_head, read_vocabulary
from espnet_hjprune.upstream.families import FORMS
from espnet_hjprune.upstream.huggingface_form import HuggingFaceForm

KINDS = [key for key, form in FORMS.items() if isinstance(form, HuggingFaceForm)]
# The blank is not the first, as it may be anywhere.
LETTERS = ["<s>", "</s>", "E", "T", "|", "A", "[PAD]", "'", "[UNK]", "O"]
OURS = ["<blank>", "<unk>", "<s>", "</s>", "E", "T", "<space>", "A", "'", "O", "<sos/eos>"]
# Defaults of ESPnet's options that its optimisers ask for.
ESPNETS = {"exclude_weight_decay": False, "sharded_ddp": False}


def make_checkpoint(
    directory: Path, key: str = "hf_wav2vec2", letters: list[str] = LETTERS, **changes: Any
) -> Path:
    """A small fine-tuned model with random weights and its processor, as transformers saves it."""
    form = FORMS[key]
    torch.manual_seed(4)
    model, _ = form.random_model(family_config(key, "large"))
    config = model.config
    config.update({"vocab_size": len(letters), "pad_token_id": letters.index("[PAD]")} | changes)
    fine_tuned = transformers.AutoModelForCTC.from_config(config)
    with torch.no_grad():
        for parameter in fine_tuned.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    fine_tuned.save_pretrained(directory)
    vocabulary = directory / "vocab.json"
    vocabulary.write_text(json.dumps({token: row for row, token in enumerate(letters)}))
    tokenizer = transformers.Wav2Vec2CTCTokenizer(
        str(vocabulary), pad_token="[PAD]", unk_token="[UNK]"
    )
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=True)
    transformers.Wav2Vec2Processor(extractor, tokenizer).save_pretrained(directory)
    return directory


def their_logits(directory: Path, waves: list[torch.Tensor]) -> torch.Tensor:
    """Logits of transformers' model on what transformers' processor makes of audio."""
    processor = transformers.Wav2Vec2Processor.from_pretrained(directory)
    model = transformers.AutoModelForCTC.from_pretrained(directory).eval()
    inputs = processor(
        [wave.numpy() for wave in waves],
        sampling_rate=16000,
        return_tensors="pt",
        padding=True,
        return_attention_mask=True,
    )
    with torch.no_grad():
        return model(**inputs).logits


@pytest.fixture(scope="module")
def asr():
    """The ASR task module with the plugin registered."""
    return task_module("asr")


def training_options(directory: Path, key: str, form: str = "frontend", **changes: Any):
    """A training of a CTC model without gates that takes over the layer."""
    config = espnet_options("") if form == "frontend" else encoder_form("")
    conf = config[f"{form}_conf"]
    del conf["pruning"]
    source = {"upstream": f"{key}_custom", "path_or_url": str(directory), "init_ctc": True}
    conf["frontend_conf" if form == "frontend" else "upstream_conf"] = source
    more = {"model": "espnet", "token_list": OURS, "optim": "adamw", "optim_conf": {"lr": 1e-4}}
    return config | more | ESPNETS | changes


def begin(asr, config: dict[str, Any]) -> tuple[torch.nn.Module, argparse.Namespace]:
    """The model as ESPnet has it at the beginning of a training, and the options it would save."""
    args = argparse.Namespace(**copy.deepcopy(config))
    task = task_class(asr)
    model = task.build_model(args)
    task.build_optimizers(args, model)
    return model.eval(), args


@pytest.mark.parametrize("form", ["frontend", "encoder"])
@pytest.mark.parametrize("key", KINDS)
def test_logits_are_those_of_transformers(asr, tmp_path, key, form, caplog):
    directory = make_checkpoint(tmp_path / "checkpoint", key)
    with caplog.at_level(logging.INFO):
        model, args = begin(asr, training_options(directory, key, form))
    assert "left behind" not in caplog.text
    assert f"The CTC layer is that of {directory}, with 11 tokens" in caplog.text
    assert "init_ctc" not in yaml.safe_dump(vars(args))
    torch.manual_seed(2)
    waves = [0.1 * torch.randn(length) + 0.05 for length in (16000, 12345)]
    lengths = torch.tensor([len(wave) for wave in waves])
    speech = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True)
    with torch.no_grad():
        features, frames = model.encode(speech, lengths)
        found = model.ctc.ctc_lo(features)
    expected = their_logits(directory, waves)
    names = {"<blank>": "[PAD]", "<unk>": "[UNK]", "<space>": "|"}
    columns = [LETTERS.index(names.get(token, token)) for token in OURS[:-1]]
    for row, length in enumerate(frames.tolist()):
        difference = found[row, :length, :-1] - expected[row, :length][:, columns]
        assert difference.abs().max() < 1e-5
    assert found[..., -1].eq(ABSENT_LOGIT).all()
    # It takes nothing away from the others.
    shares = found.softmax(-1)[..., :-1]
    torch.testing.assert_close(shares, found[..., :-1].softmax(-1), rtol=1e-6, atol=0)


def test_without_the_option_the_layer_is_left_behind_and_said_so(asr, tmp_path, caplog):
    directory = make_checkpoint(tmp_path / "checkpoint")
    config = training_options(directory, "hf_wav2vec2")
    config["frontend_conf"]["frontend_conf"]["init_ctc"] = False
    with caplog.at_level(logging.INFO):
        model, _ = begin(asr, config)
    said = [r.getMessage() for r in caplog.records if "left behind" in r.getMessage()]
    assert len(said) == 1 and "--init_ctc true" in said[0] and str(directory) in said[0]
    head = read_ctc_head("hf_wav2vec2_custom", str(directory))
    assert not torch.equal(model.ctc.ctc_lo.weight, head.weight)


def test_vocabularies_with_gaps_keep_their_rows(tmp_path):
    directory = make_checkpoint(tmp_path / "checkpoint", letters=[*LETTERS, "X", "Y"])
    vocabulary = {token: row for row, token in enumerate([*LETTERS, "X", "Y"])}
    del vocabulary["X"]
    (directory / "vocab.json").write_text(json.dumps(vocabulary))
    found = read_vocabulary(str(directory))
    assert found.tokens == [*OURS[:-1], "<unused10>", "Y", "<sos/eos>"]
    assert found.rows == [6, 8, 0, 1, 2, 3, 4, 5, 7, 9, 10, 11, None]


def test_what_cannot_be_taken_over_is_refused(asr, tmp_path):
    directory = make_checkpoint(tmp_path / "checkpoint")
    given = training_options(directory, "hf_wav2vec2")
    with pytest.raises(HJPruneError, match=f"is not the vocabulary of .* --vocabulary {directory}"):
        begin(asr, given | {"token_list": [*OURS[:-2], "<sos/eos>"]})
    conformer = {"encoder": "transformer", "encoder_conf": {"num_blocks": 1, "output_size": 64}}
    with pytest.raises(HJPruneError, match="has encoder: transformer between the upstream and"):
        begin(asr, given | conformer)
    linear = {"preencoder": "linear", "preencoder_conf": {"input_size": 64, "output_size": 32}}
    with pytest.raises(HJPruneError, match="has preencoder: linear between the upstream and"):
        begin(asr, given | linear)
    for changes in ({"layer": 1}, {"multilayer_feature": True}):
        with pytest.raises(HJPruneError, match="reads the last hidden state as it is"):
            build_model(asr, given | {"frontend_conf": given["frontend_conf"] | changes})
    with pytest.raises(HJPruneError, match="init_ctc is 'yes'"):
        source = given["frontend_conf"]["frontend_conf"] | {"init_ctc": "yes"}
        build_model(asr, given | {"frontend_conf": {"frontend_conf": source}})
    with pytest.raises(HJPruneError, match="takes over the CTC layer of a checkpoint of Hugging"):
        source = {"upstream": "wav2vec2_local", "path_or_url": "x.pt", "init_ctc": True}
        build_model(asr, given | {"frontend_conf": {"frontend_conf": source}})


def test_checkpoints_without_a_layer_or_vocabulary_are_refused(tmp_path):
    directory = make_checkpoint(tmp_path / "checkpoint")
    (directory / "vocab.json").unlink()
    with pytest.raises(HJPruneError, match=r"vocabulary of .* cannot be read .*vocab\.json"):
        read_vocabulary(str(directory))
    directory = make_checkpoint(tmp_path / "double", letters=[*LETTERS, "<blank>"])
    with pytest.raises(HJPruneError, match="two tokens that ESPnet calls <blank>"):
        read_vocabulary(str(directory))
    directory = make_checkpoint(tmp_path / "plain")
    config = json.loads((directory / "config.json").read_text())
    config["architectures"] = ["Wav2Vec2Model"]
    (directory / "config.json").write_text(json.dumps(config))
    with pytest.raises(HJPruneError, match="was not fine-tuned with CTC"):
        read_vocabulary(str(directory))
    # As an upstream it is what it was.
    assert read_upstream("hf_wav2vec2_custom", str(directory))[0].hidden_size == 64


# In a recipe


def make_list(directory: Path, text: dict[str, str], *options: str) -> list[str]:
    """The token list that the recipe's command makes for a text."""
    datadir.write_table(directory / "text", text)
    output = directory / "tokens.txt"
    given = ["--text", str(directory / "text"), "--token_type", "char", "--output", str(output)]
    token_list.main([*given, *options])
    return read_token_list(output)


def test_the_token_list_is_the_vocabulary(tmp_path):
    directory = make_checkpoint(tmp_path / "checkpoint")
    assert make_list(tmp_path, {"a": "TO A", "b": "TEE"}, "--vocabulary", str(directory)) == OURS
    (tmp_path / "tokens.txt").unlink()
    for text, message in {
        "to a": r"lacks 3 tokens of the text, such as a o t; it has letters in upper case",
        "TO É": r"lacks 1 tokens of the text, such as É; correct the text",
    }.items():
        with pytest.raises(HJPruneError, match=message):
            make_list(tmp_path, {"a": text}, "--vocabulary", str(directory))
        assert not (tmp_path / "tokens.txt").exists()
    with pytest.raises(HJPruneError, match="--vocabulary is for --token_type char"):
        make_list(tmp_path, {"a": "TO A"}, "--vocabulary", "x", "--token_type", "word")


def test_a_recipes_training_takes_the_layer_over(asr, tmp_path):
    directory = make_checkpoint(tmp_path / "checkpoint")
    tokens = make_list(tmp_path, {"a": "TO A"}, "--vocabulary", str(directory))
    datadir.write_table(tmp_path / "speech_shape", {"a": 16000, "b": 12000})
    datadir.write_table(tmp_path / "text_shape.char", {"a": "4,11", "b": "4,11"})
    config = espnet_options("", model="espnet", batch_type="unsorted", batch_size=2, max_epoch=1)
    config["frontend_conf"] = {"fs": "16k"}
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(config))
    given = {
        "config": tmp_path / "train.yaml",
        "output_dir": tmp_path / "exp",
        "shape_dir": tmp_path,
        "token_type": "char",
        "upstream": "hf_wav2vec2_custom",
        "upstream_ckpt": directory,
        "normalize_input": "true",
        "init_ctc": "true",
    }
    configure.main([word for name, value in given.items() for word in (f"--{name}", str(value))])
    written = yaml.safe_load((tmp_path / "exp/training.yaml").read_text())
    assert written["frontend_conf"]["frontend_conf"] == {
        "upstream": "hf_wav2vec2_custom",
        "path_or_url": str(directory),
        "normalize_input": True,
        "init_ctc": True,
    }
    training = {"token_list": tokens, "optim": "adamw", "optim_conf": {"lr": 1e-4}}
    model, _ = begin(asr, written | training | ESPNETS)
    head = read_ctc_head("hf_wav2vec2_custom", str(directory))
    assert torch.equal(model.ctc.ctc_lo.weight, head.weight)


SETTINGS = [
    "--train_set", "train", "--valid_set", "dev", "--test_sets", "eval", "--nj", "1",
    "--config_dir", "conf/mini", "--upstream", "hf_wav2vec2_custom", "--init_ctc", "true",
    "--train_args", "--max_epoch 1 --num_workers 0 --optim_conf lr=0.0",
]  # fmt: skip


def test_stages_2_and_3_of_a_recipe(tmp_path):
    """With a learning rate of 0 the model of stage 3 is the fine-tuned checkpoint."""
    directory = make_checkpoint(tmp_path / "checkpoint", letters=[*LETTERS[:-1], "N"])
    recipe = copy_recipe(tmp_path, "librispeech_100/asr1", *SETTINGS)
    torch.manual_seed(3)
    for name in ("train", "dev", "eval"):
        utterances = []
        for number in range(4):
            file = tmp_path / f"{name}{number}.wav"
            soundfile.write(file, (0.1 * torch.randn(16000)).numpy(), 16000)
            words = "NEAT TEA" if name == "train" else "TO QUIZ"
            utterances.append(Utterance(f"{name}-{number}", name, str(file), words))
        write_data_dir(recipe.directory / "data" / name, utterances)
    recipe.run("--stage", "2", "--stop_stage", "3", "--upstream_ckpt", str(directory))
    tokens = read_token_list(recipe.only("dump/token_list/raw_en_char_init_ctc/tokens.txt"))
    assert tokens == read_vocabulary(str(directory)).tokens and tokens[-2] == "N"
    exp = recipe.only("exp/asr_train_*_init_ctc")
    state = torch.load(exp / "valid.loss.ave.pth")
    head = read_ctc_head("hf_wav2vec2_custom", str(directory))
    assert torch.equal(state["ctc.ctc_lo.weight"], head.weight)
    assert torch.equal(state["ctc.ctc_lo.bias"], head.bias)
    saved = yaml.safe_load((exp / "config.yaml").read_text())
    assert (
        saved["token_list"] == tokens and "init_ctc" not in saved["frontend_conf"]["frontend_conf"]
    )
    write_data_dir(
        recipe.directory / "data/train", [Utterance("train-0", "train", str(file), "neat")]
    )
    failed = recipe.fail("--stage", "2", "--stop_stage", "3", "--upstream_ckpt", str(directory))
    assert (
        "lacks 4 tokens of the text, such as a e n t; it has letters in upper case" in failed.stderr
    )
