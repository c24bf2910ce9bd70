"""The exception for mistakes that the user can repair."""

from collections.abc import Iterable


class UserError(RuntimeError):
    """Something in the data, the folders or the settings is wrong and the user can put it right.

    The message names the file or key, what was found, what is allowed and the command that repairs it. The command line
    prints it without a traceback and exits with status 1.
    """


# how many faults a message lists before it says how many more there are
LISTED_FAULTS = 10


def some(names: Iterable[str], limit: int = LISTED_FAULTS) -> str:
    """The first `limit` names for a message, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
