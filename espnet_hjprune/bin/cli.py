"""What every ``espnet_hjprune.bin`` command shares: log format and error handling."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence

from espnet_hjprune.errors import HJPruneError

LOG_FORMAT = "%(asctime)s (%(module)s:%(lineno)d) %(levelname)s: %(message)s"


def run_command(main: Callable[[Sequence[str] | None], None]) -> None:
    """Run ``main`` with ESPnet's log format; a :class:`HJPruneError` ends with one sentence.

    The process exits with the status of the error, 1 or 2, after ``error: <sentence>`` on standard
    error, and with 130 when interrupted.
    """
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT)
    try:
        main(None)
    except HJPruneError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.status)
    except KeyboardInterrupt:
        sys.exit(130)
