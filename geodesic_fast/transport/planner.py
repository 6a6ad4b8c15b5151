# SPDX-License-Identifier: MIT
"""What a problem will take, before it starts: bytes, seconds, stored or tiled; or a refusal."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import torch

METHODS = ("auto", "stored", "tiles", "dense")
DENSE_UP_TO = 160  # points for which all pairs are solved at once in float64
_DENSE_BYTES = 40  # a pair: key, column, cost and their copies while they are built
_EDGE_BYTES = 2400  # a point: about 40 edges, their copies while they are merged, and duals
_PASSES = 18
_BLOCK_ROWS = 4096  # few enough to answer to an interrupt
_LARGEST_M = 2_000_000


@dataclass(frozen=True)
class Plan:
    """How the costs are kept, and what that is estimated to take."""

    method: str
    bytes: int
    seconds: float
    tile_rows: int
    block_rows: int  # of x that are multiplied at once while all products are computed,
    block_features: int  # over so many features

    @property
    def stored(self) -> bool:
        """Whether the products of all pairs are kept."""
        return self.method == "stored"


def make_plan(m: int, d: int, method: str, memory_budget: int | None, device: torch.device) -> Plan:
    """Choose between stored, tiled and dense, or refuse with what would fit."""
    budget = memory_budget if memory_budget is not None else free_memory(device) // 2
    if method == "auto" and m <= DENSE_UP_TO:
        method = "dense"
    stored, tiles = _stored_bytes(m, d), _tiled_bytes(m, d, 16)
    if method == "auto":
        method = "stored" if stored <= budget else "tiles"
    needed = {"stored": stored, "tiles": tiles, "dense": _DENSE_BYTES * m * m}[method]
    if needed > budget or m > _LARGEST_M:
        raise MemoryError(_refusal(m, d, method, needed, budget, tiles))
    rows = _tile_rows(m, d, budget, method)
    took = _tiled_bytes(m, d, rows) if method == "tiles" else needed
    return Plan(
        method, took, _seconds(m, d, method, device), rows, min(m, _BLOCK_ROWS), _block_features(m, d)
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


def _block_features(m: int, d: int) -> int:
    """Return how many features make shifted copies of a twentieth of the products."""
    return min(d, max(64, m * m // (20 * (m + min(m, _BLOCK_ROWS)))))


def _stored_bytes(m: int, d: int) -> int:
    copies = 4 * (m + min(m, _BLOCK_ROWS)) * _block_features(m, d)
    return 4 * m * m + max(copies, _EDGE_BYTES * m)


def _tiled_bytes(m: int, d: int, rows: int) -> int:
    return 4 * m * d + rows * (8 * m + 16 * d) + _EDGE_BYTES * m


def _tile_rows(m: int, d: int, budget: int, method: str) -> int:
    if method != "tiles":
        return max(16, (256 << 20) // (4 * m))  # small enough to answer to an interrupt
    spare = budget // 2 - 4 * m * d - _EDGE_BYTES * m
    return max(16, min(m, 1024, spare // (8 * m + 16 * d)))


def _seconds(m: int, d: int, method: str, device: torch.device) -> float:
    """Time a small product and scale it up; twice, because the first call of a process starts threads."""
    if m <= 2 * DENSE_UP_TO:
        return 0.01
    size, depth = 512, min(d, 512)
    x = torch.ones((size, depth), dtype=torch.float32, device=device)
    for _ in range(2):
        started = time.perf_counter()
        float((x @ x.T)[0, 0])
        took = time.perf_counter() - started
    product = took * (m / size) ** 2 * (d / depth)
    each_pass = 1e-9 * m * m
    return _PASSES * (product + each_pass) if method == "tiles" else product + _PASSES * each_pass


def _refusal(m: int, d: int, method: str, needed: int, budget: int, tiles: int) -> str:
    gib = 1 << 30
    start = (
        f"memory_budget must hold method {method!r} for {m} points of width {d}, which takes "
        f"{needed / gib:.2f} GiB, got {budget / gib:.2f} GiB"
    )
    if tiles <= budget and m <= _LARGEST_M:
        return f"{start}: method='tiles' takes {tiles / gib:.2f} GiB."
    return f"{start}: allow {tiles / gib:.2f} GiB for method='tiles', or score a random subset of the points."
