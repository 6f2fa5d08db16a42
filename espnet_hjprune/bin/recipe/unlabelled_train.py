"""Train an upstream without labels by ESPnet's trainer; options as of ``espnet2.bin.asr_train``."""

from __future__ import annotations

from collections.abc import Sequence

from espnet_hjprune import plugin
from espnet_hjprune.bin.cli import run_command


def main(cmd: Sequence[str] | None = None) -> None:
    """Train."""
    from espnet_hjprune.espnet.unlabelled_task import UnlabelledTask

    plugin.register(save_atomically=True)
    UnlabelledTask.main(cmd=None if cmd is None else list(cmd))


if __name__ == "__mp_main__":
    # A process that ESPnet has spawned for one of several GPUs.
    plugin.register(save_atomically=True)

if __name__ == "__main__":
    run_command(main)
