"""Train an upstream without labels by ESPnet's trainer; options as of ``espnet2.bin.asr_train``."""

from __future__ import annotations

from collections.abc import Sequence

from espnet_hjprune.bin.cli import run_command


def main(cmd: Sequence[str] | None = None) -> None:
    """Register the plugin with the task, then train."""
    import espnet2.tasks.abs_task

    from espnet_hjprune.espnet import unlabelled_task
    from espnet_hjprune.plugin import register_with

    for module in (espnet2.tasks.abs_task, unlabelled_task):
        register_with(module)
    unlabelled_task.UnlabelledTask.main(cmd=None if cmd is None else list(cmd))


if __name__ == "__main__":
    run_command(main)
