"""The model card of an exported model, with what was measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from espnet_hjprune.constants import SAMPLE_RATE
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.inference.model import BatchInvariantModel
from espnet_hjprune.markdown import markdown_table
from espnet_hjprune.nn.config import EncoderConfig
from espnet_hjprune.pruning.cost import macs_and_params

# Seconds of audio for which MACs are counted, if no results say so.
SECONDS = 10.0
TASKS = {
    "AutoModel": "feature-extraction",
    "AutoModelForCTC": "automatic-speech-recognition",
    "AutoModelForAudioClassification": "audio-classification",
}
# What loads the model in two lines.
USES = {
    "AutoModel": """from transformers import AutoModel

model = AutoModel.from_pretrained("DIRECTORY", trust_remote_code=True)
features = model(wave).last_hidden_state  # wave: (batch, samples) at 16 kHz""",
    "AutoModelForCTC": """from transformers import pipeline

recognise = pipeline("automatic-speech-recognition", "DIRECTORY", trust_remote_code=True)
# A name of a file needs ffmpeg.
print(recognise({"raw": wave, "sampling_rate": 16000})["text"])  # wave: (samples,) in NumPy""",
    "AutoModelForAudioClassification": """from transformers import pipeline

classify = pipeline("audio-classification", "DIRECTORY", trust_remote_code=True)
# A name of a file needs ffmpeg.
print(classify({"raw": wave, "sampling_rate": 16000}, top_k=1))  # wave: (samples,) in NumPy""",
}
S3PRL = """The states of the encoder for downstream models of s3prl:

```python
import torch

upstream = torch.hub.load("DIRECTORY", "hj_prune_local", source="local")
states = upstream([wave])["hidden_states"]  # wave: (samples,) at 16 kHz
```

"""
TEXT = """---
library_name: transformers
pipeline_tag: {task}
tags:
- speech
- structured-pruning
- hj-pruning
---

# A pruned speech model

A speech encoder of the wav2vec 2.0 family, made with espnet_hjprune, which prunes CNN channels,
attention heads, FFN units and hidden size (HJ-Pruning, Peng et al., ICASSP 2023). It is a dense
model with the sizes below: no mask, no sparse kernel, and neither espnet_hjprune nor ESPnet is
needed to run it.

```python
{use}
```

{s3prl}## Sizes

{params} parameters and {macs} MACs of the encoder for {seconds:g} s of audio.

{sizes}
## Results

{results}
## To be filled in

The licence (that of the pre-trained model and of the data applies), the language, the data, and
what the model is not for.
"""


def model_card(
    model: BatchInvariantModel, auto_class: str, model_dir: Path, stock: bool = False
) -> str:
    """The text of ``README.md``.

    Args:
        model: what was exported.
        auto_class: of transformers, such as ``AutoModelForCTC``.
        model_dir: where the model is from; its ``results.json`` is read, if there is one.
        stock: whether a class of transformers itself loads it.

    Raises:
        HJPruneError: the file cannot be read.
    """
    record = _read_record(model_dir / "results.json")
    seconds = float(record.get("seconds", SECONDS))
    config = model.upstream.config
    cost = macs_and_params(config, None, round(seconds * SAMPLE_RATE))
    use = USES[auto_class]
    return TEXT.format(
        task=TASKS[auto_class],
        use=use.replace(", trust_remote_code=True", "") if stock else use,
        s3prl="" if stock else S3PRL,
        params=f"{cost['params'] / 1e6:.3g} M",
        macs=f"{cost['macs'] / 1e9:.3g} G",
        seconds=seconds,
        sizes=markdown_table(_sizes(config)),
        results=_results(record, model_dir / "results.json"),
    )


def _read_record(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise HJPruneError(
            f"{path} is no JSON ({error}); run stage 7 again, or remove it"
        ) from None
    return record if isinstance(record, dict) else {}


def _sizes(config: EncoderConfig) -> list[list[str]]:
    rows = [
        ["CNN channels", [layer.channels for layer in config.conv_layers]],
        ["hidden size", [config.hidden_size]],
        [f"attention heads of width {config.head_dim}", config.heads],
        ["FFN units", config.ffn_sizes],
    ]
    return [["units", "left, layer by layer"]] + [
        [str(name), " ".join(map(str, numbers))] for name, numbers in rows
    ]


def _results(record: dict[str, Any], path: Path) -> str:
    """The table of what was measured, with and without pruning.

    Raises:
        HJPruneError: the file is not what stage 7 writes.
    """
    if not record:
        return "None were measured where the model is from.\n"
    try:
        return _results_table(record)
    except (KeyError, TypeError, IndexError) as error:
        raise HJPruneError(
            f"{path} is not what stage 7 writes ({error!r}); run stage 7 again, or remove it"
        ) from None


def _results_table(record: dict[str, Any]) -> str:
    models = record["models"]
    metric = record["metric"]["name"]
    sets = list(models[0]["values"])
    seconds = record["seconds"]
    header = ["model", f"GMACs ({seconds:g} s)", "parameters"]
    rows = [header + [f"{name} {metric} (%)" for name in sets]]
    for model in models:
        cells = [model["name"], f"{model['macs'] / 1e9:.3g}", f"{model['params'] / 1e6:.3g} M"]
        rows.append(cells + [f"{model['values'][name]:.2f}" for name in sets])
    environment = record.get("environment") or {}
    versions = [environment.get(f"{name} version") for name in ("espnet", "pytorch")]
    measured = ", ".join(version for version in versions if version)
    note = f"\nMeasured with {measured}.\n" if measured else ""
    return f"{record.get('title', 'Results')}:\n\n{markdown_table(rows)}{note}"
