"""How much memory this process may still take."""

from __future__ import annotations

import os
from pathlib import Path

UNKNOWN = 8 * 2**30  # bytes, where the system does not say


def available_memory(root: Path = Path("/")) -> int:
    """Bytes that can be taken without swapping, within the limit of the job (control group, as SLURM and Docker set it).

    Args:
        root: of the file system in which Linux describes itself.
    """
    found = [_of_machine(root), *_of_control_groups(root)]
    return max(0, min((number for number in found if number is not None), default=UNKNOWN))


def _of_machine(root: Path) -> int | None:
    try:
        for line in (root / "proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    except (OSError, ValueError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2  # macOS says no more
    except (AttributeError, ValueError, OSError):
        return None


def _of_control_groups(root: Path) -> list[int]:
    """What is left in the group of this process and in those above it; of version 2 and of version 1."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    left = []
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0":
            top, limit, used, cache = root / "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            top, limit = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
            used, cache = "memory.usage_in_bytes", "total_inactive_file"
        else:
            continue
        group = top / path.lstrip("/")
        for folder in (group, *group.parents):
            try:
                left.append(int((folder / limit).read_text()) - int((folder / used).read_text()))
                of_files = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                left[-1] += int(of_files.get(cache, 0))  # files that were read: given back when memory is needed
            except (OSError, ValueError):  # not described from within a container, or "max": no limit
                pass
            if folder == top:
                break
    return left
