"""The exceptions that command-line tools turn into a single sentence."""


class HJPruneError(ValueError):
    """A problem the user can fix; its message names the file or option and the remedy.

    Attributes:
        status: exit status of a command that ends with it.
    """

    status = 1


class UsageError(HJPruneError):
    """A wrong option of a command."""

    status = 2
