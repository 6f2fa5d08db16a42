"""The one exception that command-line tools turn into a single sentence."""


class HJPruneError(ValueError):
    """A problem the user can fix; its message names the file or option and the remedy."""
