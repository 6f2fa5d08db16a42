"""Package definition of espnet_hjprune."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent

setup(
    name="espnet_hjprune",
    version="0.1.0",
    description="Structured pruning of wav2vec 2.0, HuBERT and WavLM for ESPnet (HJ-Pruning)",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["espnet_hjprune", "espnet_hjprune.*"]),
    python_requires=">=3.10",
    install_requires=[
        "espnet>=202511",
        "torch>=2.8",
        "torchaudio>=2.8",
        "s3prl>=0.4.18",
        "sentencepiece",
        "kaldiio",
        "soundfile",
        "jiwer",
        "matplotlib",
        "tqdm",
        "pyyaml",
    ],
    extras_require={
        "beam": ["flashlight-text", "kenlm"],
        "export": ["onnx", "onnxruntime", "onnxscript"],
        "slurm": ["submitit"],
    },
)
