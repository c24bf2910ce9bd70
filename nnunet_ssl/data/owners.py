"""Which process a name of a temporary file or folder belongs to, and whether that process is gone."""

from __future__ import annotations

import os
import re
import socket


def _host() -> str:
    """Without the dots of a full name: they separate the parts of names."""
    return socket.gethostname().replace(".", "_")


def own_mark() -> str:
    """`host-pid` of this process, a part of names."""
    return f"{_host()}-{os.getpid()}"


def is_abandoned(mark: str) -> bool:
    """Whether a `host-pid` names a process of this host that runs no more."""
    host, _, pid = mark.rpartition("-")
    return host == _host() and re.fullmatch(r"[0-9]{1,18}", pid) is not None and is_gone(int(pid))


def is_gone(pid: int) -> bool:
    """Whether no process of this host has the number."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        return False
    return False
