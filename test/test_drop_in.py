"""The plugin in an ESPnet recipe that we did not write, and models of ESPnet's own frontend."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from espnet_runs import TOKENS as TINY_TOKENS
from espnet_runs import build_model, prune_options, task_module, utterances, write_table
from espnet_runs import make_corpus as make_tiny_corpus
from models import FAMILIES, family_config, padded_batch
from recipe_runs import ROOT, read_text, sclite_error_rate
from test_espnet_plugin import CONFORMER, options
from test_upstream import NAMES

from espnet_hjprune.corpora import librispeech
from espnet_hjprune.data.dump import AudioFormat, format_data
from espnet_hjprune.data.tokens import build_tokenizer, count_tokens, read_texts, write_token_list
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.scoring.sclite import find_sctk
from espnet_hjprune.synthetic.mini_librispeech import MiniLibriSpeechConfig, make_mini_librispeech
from espnet_hjprune.upstream.random_checkpoint import save_random_checkpoint


@pytest.fixture(scope="module")
def asr():
    """The ASR task module with the plugin registered."""
    return task_module("asr")


# Models that were trained with ESPnet's own s3prl frontend

# transformers checkpoints cannot be told apart below the frontend, one of them will do.
STOCK_FAMILIES = [f for f in FAMILIES if f not in ("ungated", "hf_hubert", "hf_wavlm")]


def stock_model(asr, family: str, path: Path, **changes):
    """A model with ESPnet's s3prl frontend whose weights are not those of the checkpoint."""
    config = options("", frontend="s3prl", model="espnet")
    config["frontend_conf"] = {
        "fs": "16k",
        "frontend_conf": {"upstream": NAMES[family], "path_or_url": str(path)},
        **changes,
    }
    model = build_model(asr, config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
        if not changes.get("multilayer_feature"):
            # Nothing trains them then.
            model.frontend.featurizer.weights.zero_()
    return model.eval()


def plugin_config(family: str, path: Path, **changes):
    """The same with one word changed, and gates."""
    config = options(str(path))
    config["frontend_conf"]["frontend_conf"]["upstream"] = NAMES[family]
    config["frontend_conf"] |= changes
    return config


@pytest.mark.parametrize("family", STOCK_FAMILIES)
def test_a_model_of_the_stock_frontend_can_be_pruned(asr, tmp_path, family):
    from espnet2.torch_utils.load_pretrained_model import load_pretrained_model

    path = tmp_path / "upstream.pt"
    save_random_checkpoint(family_config(family), family, path, spread=0.2)
    changes = {"layer": 1} if family == "distiller" else {"multilayer_feature": True}
    stock = stock_model(asr, family, path, **changes)
    torch.save(stock.state_dict(), tmp_path / "stock.pth")
    config = plugin_config(family, path, **changes)
    del config["frontend_conf"]["pruning"]
    ours = build_model(asr, config | {"model": "espnet"})
    load_pretrained_model(f"{tmp_path}/stock.pth", ours, ignore_init_mismatch=False)
    ours.eval()
    speech, lengths = padded_batch([16000, 12345])
    with torch.no_grad():
        expected, _ = stock.frontend(speech, lengths)
        features, frames = ours.frontend(speech, lengths)
    for row, length in enumerate(frames.tolist()):
        assert (features[row, :length] - expected[row, :length]).abs().max() < 1e-4
    assert torch.equal(ours.ctc.ctc_lo.weight, stock.ctc.ctc_lo.weight)
    # With gates too, whose own state stays as it is.
    gated = build_model(asr, plugin_config(family, path, **changes))
    load_pretrained_model(f"{tmp_path}/stock.pth", gated, ignore_init_mismatch=False)
    for name, tensor in ours.frontend.core.encoder.state_dict().items():
        assert torch.equal(gated.frontend.core.encoder.state_dict()[name], tensor)


@pytest.mark.parametrize(
    ("family", "theirs", "ours", "message"),
    [
        ("distiller", {}, {}, "reads a prediction head of DistilHuBERT"),
        ("wav2vec2", {}, {"multilayer_feature": True}, None),
        ("wav2vec2", {"layer": 1}, {"multilayer_feature": True}, "was not trained with multi"),
        ("wav2vec2", {"multilayer_feature": True}, {}, "was trained with multilayer_feature"),
    ],
)
def test_other_features_of_the_stock_frontend_are_refused(
    asr, tmp_path, family, theirs, ours, message
):
    from espnet2.torch_utils.load_pretrained_model import load_pretrained_model

    path = tmp_path / "upstream.pt"
    save_random_checkpoint(family_config(family), family, path)
    stock = stock_model(asr, family, path, **theirs)
    torch.save(stock.state_dict(), tmp_path / "stock.pth")
    model = build_model(asr, plugin_config(family, path, **ours))
    if message is None:
        load_pretrained_model(f"{tmp_path}/stock.pth", model, ignore_init_mismatch=False)
        return
    with pytest.raises(HJPruneError, match=message):
        load_pretrained_model(f"{tmp_path}/stock.pth", model, ignore_init_mismatch=False)


def test_another_upstream_of_the_stock_frontend_is_refused(asr, tmp_path):
    from espnet2.torch_utils.load_pretrained_model import load_pretrained_model

    path = tmp_path / "wav2vec2.pt"
    save_random_checkpoint(family_config("wav2vec2"), "wav2vec2", path)
    stock = stock_model(asr, "wav2vec2", path)
    torch.save(stock.state_dict(), tmp_path / "stock.pth")
    for family, style, message in (
        ("data2vec", "base", "lacks the weight"),
        ("wav2vec2", "large", "lacks the weight"),
    ):
        other = tmp_path / f"{family}_{style}.pt"
        save_random_checkpoint(family_config(family, style), family, other)
        model = build_model(asr, plugin_config(family, other))
        with pytest.raises(HJPruneError, match=message):
            load_pretrained_model(f"{tmp_path}/stock.pth", model, ignore_init_mismatch=False)


# The command lines of ESPnet's asr.sh

PYTHON = [sys.executable, "-m", "espnet_hjprune.bin.run"]
COUNTS = {
    "train-clean-100": 24,
    "dev-clean": 3,
    "dev-other": 3,
    "test-clean": 4,
    "test-other": 1,
}
TRAINING = {
    "frontend": "hj_prune",
    "frontend_conf": {
        "frontend_conf": {"upstream": "wav2vec2_local", "path_or_url": "upstream.pt"},
        "multilayer_feature": True,
        "pruning": {
            "criterion": "macs",
            "target_sparsity": 0.4,
            "ramp_steps": 4,
            "allow_off_target": True,
        },
    },
    "model": "hj_prune",
    "exclude_weight_decay": True,
    "preencoder": "linear",
    "preencoder_conf": {"input_size": 64, "output_size": 16},
    **CONFORMER,
    "decoder": "transformer",
    "decoder_conf": {"attention_heads": 2, "linear_units": 16, "num_blocks": 1},
    "model_conf": {"ctc_weight": 0.3, "extract_feats_in_collect_stats": False},
    "optim": "adamw",
    "optim_conf": {"lr": 0.0005},
    "scheduler": "linear_warmup_decay",
    "scheduler_conf": {"warmup_steps": 2, "total_steps": 12},
    "batch_type": "folded",
    "batch_size": 4,
    "max_epoch": 2,
    "keep_nbest_models": 1,
    "num_workers": 0,
    "num_att_plot": 0,
}
DECODING = {"beam_size": 2, "ctc_weight": 0.3, "maxlenratio": 0.05}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    """A recipe's directory after data preparation, as ESPnet's asr.sh leaves it."""
    directory = tmp_path_factory.mktemp("recipe")
    make_mini_librispeech(directory, MiniLibriSpeechConfig(COUNTS))
    parts = list(COUNTS)
    librispeech.prepare(directory / "LibriSpeech", directory / "data", parts, check_counts=False)
    for name in ("train_clean_100", "dev", "test_clean"):
        format_data(directory / "data" / name, directory / "dump/raw" / name, AudioFormat(), nj=1)
    tokens = count_tokens(
        read_texts(directory / "dump/raw/train_clean_100/text"), build_tokenizer("char")
    )
    write_token_list(directory / "tokens.txt", tokens)
    save_random_checkpoint(family_config("wav2vec2"), "wav2vec2", directory / "upstream.pt")
    (directory / "train.yaml").write_text(yaml.safe_dump(TRAINING))
    (directory / "decode.yaml").write_text(yaml.safe_dump(DECODING))
    return directory


def call(recipe: Path, *arguments: str | Path, text: str | None = None) -> str:
    """Run a command in the recipe's directory and return what it printed."""
    result = subprocess.run(
        list(map(str, arguments)), cwd=recipe, capture_output=True, text=True, input=text
    )
    assert result.returncode == 0, (result.stdout + result.stderr)[-4000:]
    return result.stdout


def data_options(which: str, name: str) -> list[str]:
    """Options that name the files of a data set."""
    option = f"--{which}_data_path_and_name_and_type"
    directory = f"dump/raw/{name}"
    return [option, f"{directory}/wav.scp,speech,sound", option, f"{directory}/text,text,text"]


TEXT_OPTIONS = [
    "--use_preprocessor", "true", "--bpemodel", "none", "--token_type", "char",
    "--token_list", "tokens.txt", "--non_linguistic_symbols", "none", "--cleaner", "none",
    "--g2p", "none",
]  # fmt: skip


def train(recipe: Path, exp: str, config: str, *more: str) -> None:
    """Stage 11: training through ESPnet's launcher."""
    shapes = []
    for which in ("train", "valid"):
        for shape in ("speech_shape", "text_shape.char"):
            shapes += [f"--{which}_shape_file", f"exp/stats/{which}/{shape}"]
    runner = f"{ROOT / 'utils/run_local.sh'} --name {exp}/train.log"
    call(
        recipe, *PYTHON, "-m", "espnet2.bin.launch", "--cmd", runner,
        "--log", f"{exp}/train.log", "--ngpu", "0", "--num_nodes", "1",
        "--init_file_prefix", f"{exp}/.dist_init_",
        "--multiprocessing_distributed", "true", "--",
        *PYTHON, "-m", "espnet2.bin.asr_train", *TEXT_OPTIONS,
        *data_options("valid", "dev"), *shapes, "--resume", "true", *more,
        "--ignore_init_mismatch", "false", "--fold_length", "80000", "--fold_length", "150",
        "--output_dir", exp, "--config", config, "--frontend_conf", "fs=16k",
        *data_options("train", "train_clean_100"),
    )  # fmt: skip
    assert (recipe / exp / "valid.acc.ave.pth").exists(), (recipe / exp / "train.log").read_text()


def collect_stats(recipe: Path) -> None:
    """Stage 10: lengths of speech and text, in two jobs."""
    inputs = []
    for job, (start, stop) in enumerate(((0, 12), (12, 24)), 1):
        for which, name in (("train", "train_clean_100"), ("valid", "dev")):
            lines = (recipe / f"dump/raw/{name}/wav.scp").read_text().splitlines(True)
            half = len(lines) // 2
            part = lines[start:stop] if which == "train" else [lines[:half], lines[half:]][job - 1]
            (recipe / f"exp/stats/logdir/{which}.{job}.scp").write_text("".join(part))
        call(
            recipe, *PYTHON, "-m", "espnet2.bin.asr_train", "--collect_stats", "true",
            *TEXT_OPTIONS, *data_options("train", "train_clean_100"),
            *data_options("valid", "dev"),
            "--train_shape_file", f"exp/stats/logdir/train.{job}.scp",
            "--valid_shape_file", f"exp/stats/logdir/valid.{job}.scp",
            "--output_dir", f"exp/stats/logdir/stats.{job}",
            "--config", "train.yaml", "--frontend_conf", "fs=16k",
        )  # fmt: skip
        inputs += ["--input_dir", f"exp/stats/logdir/stats.{job}"]
    call(
        recipe, *PYTHON, "-m", "espnet2.bin.aggregate_stats_dirs", *inputs,
        "--output_dir", "exp/stats",
    )  # fmt: skip
    size = len((recipe / "tokens.txt").read_text().splitlines())
    for which in ("train", "valid"):
        lines = (recipe / f"exp/stats/{which}/text_shape").read_text().splitlines()
        shape = recipe / f"exp/stats/{which}/text_shape.char"
        shape.write_text("".join(f"{line},{size}\n" for line in lines))


def decode_and_score(recipe: Path, exp: str) -> Path:
    """Stages 12 and 13: decoding, and sclite on words."""
    data, output = "dump/raw/test_clean", f"{exp}/decode/test_clean"
    call(
        recipe, *PYTHON, "-m", "espnet2.bin.asr_inference", "--batch_size", "1", "--ngpu", "0",
        "--data_path_and_name_and_type", f"{data}/wav.scp,speech,sound",
        "--key_file", f"{data}/wav.scp", "--asr_train_config", f"{exp}/config.yaml",
        "--asr_model_file", f"{exp}/valid.acc.ave.pth",
        "--output_dir", f"{output}/logdir/output.1", "--config", "decode.yaml",
    )  # fmt: skip
    text = recipe / output / "logdir/output.1/1best_recog/text"
    speakers = read_text(recipe / data / "utt2spk")
    score = recipe / output / "score_wer"
    score.mkdir()
    for name, source in (("ref", recipe / data / "text"), ("hyp", text)):
        lines = sorted(source.read_text().splitlines(True))
        words = call(
            recipe, *PYTHON, "-m", "espnet2.bin.tokenize_text", "-f", "2-", "--input", "-",
            "--output", "-", "--token_type", "word", "--non_linguistic_symbols", "none",
            "--remove_non_linguistic_symbols", "true", text="".join(lines),
        ).splitlines()  # fmt: skip
        ids = [f"({speakers[utt]}-{utt})" for utt in sorted(speakers)]
        trn = "".join(f"{line}\t{name}\n" for line, name in zip(words, ids, strict=True))
        (score / f"{name}.trn").write_text(trn)
    command = [*find_sctk("sclite"), "-r", "ref.trn", "trn", "-h", "hyp.trn", "trn", "-i", "rm"]
    (score / "result.txt").write_text(call(score, *command, "-o", "all", "stdout"))
    return score / "result.txt"


# What a user does who has ESPnet and this package, but neither s3prl nor the SSL checkpoint.
USE_PACKED = """
import sys
sys.modules["s3prl"] = None
import numpy as np, espnet_hjprune
from espnet2.bin.asr_inference import Speech2Text
speech2text = Speech2Text.from_pretrained(
    sys.argv[1], beam_size=2, ctc_weight=0.3, maxlenratio=0.05
)
print("text:", speech2text(np.random.randn(16000).astype("float32"))[0][0])
"""


def test_command_lines_of_asr_sh(recipe: Path) -> None:
    (recipe / "exp/stats/logdir").mkdir(parents=True)
    collect_stats(recipe)
    lengths = read_text(recipe / "dump/raw/train_clean_100/utt2num_samples")
    assert read_text(recipe / "exp/stats/train/speech_shape") == lengths
    train(recipe, "exp/prune", "train.yaml")
    assert 0 <= sclite_error_rate(decode_and_score(recipe, "exp/prune")) <= 200
    call(
        recipe, sys.executable, "-m", "espnet_hjprune.bin.compact",
        "--train_config", "exp/prune/config.yaml", "--model_file", "exp/prune/2epoch.pth",
        "--output_dir", "exp/compact", "--finetune_config", "train.yaml",
        "--allow_off_target", "true",
    )  # fmt: skip
    summary = json.loads((recipe / "exp/compact/summary.json").read_text())
    assert summary["max_abs_diff"] <= 1e-5
    assert summary["actual"]["macs"] <= 0.6 * summary["dense"]["macs"]
    train(recipe, "exp/final", "exp/compact/finetune.yaml", "--init_param", "exp/compact/model.pth")
    assert 0 <= sclite_error_rate(decode_and_score(recipe, "exp/final")) <= 200
    call(
        recipe, *PYTHON, "-m", "espnet2.bin.pack", "asr",
        "--asr_train_config", "exp/final/config.yaml",
        "--asr_model_file", "exp/final/valid.acc.ave.pth",
        "--option", "exp/final/images", "--outpath", "exp/final/final.zip",
    )  # fmt: skip
    (recipe / "upstream.pt").unlink()
    assert "text:" in call(recipe, sys.executable, "-c", USE_PACKED, "exp/final/final.zip")
    without = USE_PACKED.replace(", espnet_hjprune", "")
    failed = subprocess.run(
        [sys.executable, "-c", without, "exp/final/final.zip"],
        cwd=recipe,
        capture_output=True,
        text=True,
    )
    guide = (ROOT / "egs2/TEMPLATE/README.md").read_text()
    assert failed.returncode != 0
    message = failed.stderr.strip().splitlines()[-1]
    assert message.startswith("ValueError: --frontend must be one of")
    assert message.endswith("--frontend hj_prune")
    assert "ValueError: --frontend must be one of" in guide


def test_the_example_for_espnetez(tmp_path: Path) -> None:
    corpus = make_tiny_corpus(tmp_path / "data", [])
    write_table(corpus.directory / "text", {name: "A B C" for name in utterances()})
    model_conf = {"ctc_weight": 1.0, "extract_feats_in_collect_stats": False}
    options_ = {"token_list": TINY_TOKENS, "token_type": "word", "encoder": None}
    prune = prune_options(corpus, **options_, model="hj_prune", model_conf=model_conf)
    finetune = {name: v for name, v in prune.items() if "frontend" not in name and name != "model"}
    for name, config in (("prune", prune), ("finetune", finetune)):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(config))
    call(
        tmp_path, sys.executable, ROOT / "egs2/TEMPLATE/espnetez_prune.py",
        "--train_dump", "data", "--valid_dump", "data", "--prune_config", "prune.yaml",
        "--finetune_config", "finetune.yaml", "--exp", "exp", "--allow_off_target", "true",
    )  # fmt: skip
    summary = json.loads((tmp_path / "exp/compact/summary.json").read_text())
    assert summary["actual"]["macs"] <= 0.6 * summary["dense"]["macs"]
    assert (tmp_path / "exp/final/latest.pth").is_file()
