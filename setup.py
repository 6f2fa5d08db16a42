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
    package_data={"espnet_hjprune": ["py.typed"], "espnet_hjprune.latency_tables": ["*.json"]},
    entry_points={"console_scripts": ["hjprune = espnet_hjprune.bin.hjprune:main"]},
    # tools/setup.sh takes up to 3.12: for later ones the extra `beam` finds no packages.
    python_requires=">=3.10",
    # What gates, compaction and the compact model need in any training loop.
    install_requires=["numpy", "pyyaml", "soundfile", "torch>=2.8", "tqdm"],
    extras_require={
        # The recipes, and trainings by ESPnet's programs.
        "espnet": ["espnet>=202511", "jiwer", "kaldiio", "scipy", "sentencepiece"],
        # Upstreams by the names that s3prl has for them; those of Hugging Face need transformers.
        "s3prl": ["s3prl>=0.4.18", "torchaudio>=2.8", "transformers"],
        "plot": ["matplotlib", "scipy"],
        "export": ["jiwer", "onnx", "onnxruntime", "onnxscript", "transformers"],
        "beam": ["flashlight-text", "kenlm", "torchaudio>=2.8"],
        "slurm": ["submitit"],
    },
)
