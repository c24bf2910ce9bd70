"""The exception for mistakes that the user can repair, and what its messages list."""

from __future__ import annotations

import json
from collections.abc import Iterable


class UserError(RuntimeError):
    """Something in the data, the folders or the settings is wrong and the user can put it right.

    The message names the file or key, what was found, what is allowed and the command that repairs it. The command line
    prints it without a traceback and exits with status 1.
    """


# how many names or faults a message lists before it says how many more there are
LISTED_FAULTS = 10
EXCERPT = 80  # characters


def some(names: Iterable[str], limit: int = LISTED_FAULTS) -> str:
    """The first `limit` names for a message, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def listed(faults: Iterable[str], limit: int = LISTED_FAULTS) -> str:
    """The first `limit` faults, a line each, and how many more there are."""
    faults = list(faults)
    more = [f"  ... and {len(faults) - limit} more"] if len(faults) > limit else []
    return "\n".join([*(f"  - {fault}" for fault in faults[:limit]), *more])


def excerpt(found: object) -> str:
    """What was found in a JSON file, as text that fits into a message."""
    text = json.dumps(found, default=str)
    return text if len(text) <= EXCERPT else f"{text[: EXCERPT - 3]}..."
