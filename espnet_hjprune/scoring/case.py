"""Which letters are the same when texts are compared."""

from __future__ import annotations

import string

_FOLDED = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)


def fold_case(text: str) -> str:
    """Make texts equal that scoring takes for equal.

    The case of ASCII letters does not count, that of all other letters does. This is what sclite
    does without ``-s``, as ESPnet's recipes call it, so error rates of sclite follow the same rule.

    Example:
        >>> fold_case("HELLO \u00c9MILE")
        'hello \u00c9mile'
    """
    return text.translate(_FOLDED)
