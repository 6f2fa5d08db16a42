"""Command-line entry points: ``python3 -m espnet_hjprune.bin.<command>``."""
