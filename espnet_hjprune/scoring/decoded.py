"""The results of decoding jobs, joined to one set."""

from __future__ import annotations

import logging
from pathlib import Path

from espnet_hjprune.atomic import write_text
from espnet_hjprune.data.tokens import SOS_EOS
from espnet_hjprune.errors import HJPruneError

# What ESPnet's decoding writes about the best hypothesis of every utterance.
FILES = ("text", "token", "token_int", "score")


def join_jobs(directory: Path) -> None:
    """Join ``logdir/output.<job>/1best_recog/*`` to sorted files in ``directory``.

    Where a hypothesis has as many tokens as frames, as of very short audio, ESPnet writes
    ``<sos/eos>`` behind it. That is no word, and left out of ``text``.

    Raises:
        HJPruneError: no job has left a text.
    """
    jobs = sorted(directory.glob("logdir/output.*/1best_recog"))
    for name in FILES:
        parts = [job / name for job in jobs if (job / name).is_file()]
        if name == "text" and not parts:
            raise HJPruneError(f"{directory / 'logdir'} has no results; decode the set first")
        if parts:
            # Ids are sorted as bytes, as everywhere in Kaldi's formats.
            lines = sorted(
                line for part in parts for line in part.read_bytes().split(b"\n") if line
            )
            if name == "text":
                lines = _without_end_marks(lines, directory)
            write_text(directory / name, "".join(f"{line.decode('utf-8')}\n" for line in lines))


def _without_end_marks(lines: list[bytes], directory: Path) -> list[bytes]:
    """Texts without ``<sos/eos>``, which are counted."""
    mark = SOS_EOS.encode()
    count = sum(mark in line for line in lines)
    if count:
        logging.warning(
            "%s: %d of %d texts had %s, which is no word and left out",
            directory,
            count,
            len(lines),
            SOS_EOS,
        )
    return [line.replace(mark, b"") for line in lines]
