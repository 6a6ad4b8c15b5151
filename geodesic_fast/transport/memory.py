# SPDX-License-Identifier: MIT
"""How much memory there is, and a refusal before all processes are given what they cannot hold."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor

from geodesic_fast._processes import Processes

_GIB = 1 << 30


def check_room(y: Tensor, m: int, processes: Processes) -> None:
    """Raise MemoryError unless this process has room for the m rows of y of all processes."""
    if processes.size == 1:
        return
    needed = m * y.shape[1] * y.element_size()
    free = free_memory(y.device) // processes.on_this_device(y.device)
    if needed > free:
        raise MemoryError(
            f"y of all processes must fit on each of them: {m} points of width {y.shape[1]} take "
            f"{needed / _GIB:.2f} GiB, got {free / _GIB:.2f} GiB free for each process of this device: "
            "start fewer processes on it, or score a random subset of the points."
        )


def free_memory(device: torch.device) -> int:
    """Return the bytes that can still be had on `device`."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
        info = Path("/proc/meminfo").read_text(encoding="ascii")
        free = int(info.split("MemAvailable:")[1].split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        free = 4 << 30
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii"))
        used = int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii"))
        free = min(free, limit - used)
    except (OSError, ValueError):
        pass
    return max(free, 0)
