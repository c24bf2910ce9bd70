"""The memory that is left, by what Linux says of itself."""

from __future__ import annotations

import pytest

from nnunet_ssl.data.memory import available_memory

MACHINE = {"proc/meminfo": "MemTotal: 9000 kB\nMemFree: 10 kB\nMemAvailable: 1000 kB\n"}
SECOND = {
    "proc/self/cgroup": "0::/slurm/job\n",
    "sys/fs/cgroup/memory.stat": "inactive_file 0\n",
    "sys/fs/cgroup/slurm/memory.max": "500000\n",
    "sys/fs/cgroup/slurm/memory.current": "100000\n",
    "sys/fs/cgroup/slurm/memory.stat": "anon 5\ninactive_file 50000\n",
    "sys/fs/cgroup/slurm/job/memory.max": "max\n",
    "sys/fs/cgroup/slurm/job/memory.current": "7\n",
}
FIRST = {
    "proc/self/cgroup": "3:cpu,memory:/docker\n1:pids:/x\n",
    "sys/fs/cgroup/memory/docker/memory.limit_in_bytes": "300000",
    "sys/fs/cgroup/memory/docker/memory.usage_in_bytes": "100000",
    "sys/fs/cgroup/memory/docker/memory.stat": "total_inactive_file 10",
}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (MACHINE, 1024000),
        ({**MACHINE, **SECOND}, 450000),
        ({**MACHINE, **FIRST}, 200010),
        ({**MACHINE, **SECOND, "sys/fs/cgroup/slurm/memory.current": "700000"}, 0),
    ],
    ids=["no limit", "version 2", "version 1", "exceeded"],
)
def test_the_smallest_of_machine_and_job(tmp_path, files, expected):
    for name, text in files.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    assert available_memory(tmp_path) == expected


def test_a_system_that_says_nothing_has_a_number_too(tmp_path):
    assert available_memory(tmp_path) > 2**28
    assert available_memory() > 2**20
