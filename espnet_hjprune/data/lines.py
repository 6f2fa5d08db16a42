"""The lines of text files as people have them: from Windows, with byte-order marks, half converted.

Python's own ways to read lines end them at characters that may stand inside of a transcript, such
as U+2028; here a line feed does, and nothing else.
"""

from __future__ import annotations

import codecs
from pathlib import Path

from espnet_hjprune.errors import HJPruneError


def read_lines(path: str | Path) -> list[str]:
    """The lines of a UTF-8 text.

    A byte-order mark, carriage returns at ends of lines and blank lines at the end of the file are
    left out.

    Raises:
        FileNotFoundError: there is no such file.
        HJPruneError: the text is coded otherwise, or has a carriage return within a line.
    """
    data = Path(path).read_bytes()
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise HJPruneError(f"{path} is UTF-16 text; convert it by iconv -f UTF-16 -t UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = data.count(b"\n", 0, error.start) + 1
        raise HJPruneError(
            f"{path}:{number} is no UTF-8 text ({error.reason}); convert the file"
        ) from None
    lines = [line.rstrip("\r") for line in text.split("\n")]
    for number, line in enumerate(lines, 1):
        if "\r" in line:
            raise HJPruneError(
                f"{path}:{number} has a carriage return within the line; end lines with line feeds "
                "(for files of old Macs: mac2unix), and remove others"
            )
    while lines and not lines[-1].strip():
        lines.pop()
    return lines
