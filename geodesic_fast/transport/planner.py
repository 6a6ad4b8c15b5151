# SPDX-License-Identifier: MIT
"""What a problem will take, before it starts: bytes, seconds, stored or tiled; or a refusal."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import lru_cache

import torch

from geodesic_fast.transport.memory import free_memory
from geodesic_fast.transport.points import Points, power_below

METHODS = ("auto", "stored", "tiles", "dense")
DENSE_UP_TO = 160  # points for which all pairs are solved at once in float64
_DENSE_BYTES = 96  # a pair: key, column, cost, reduced cost and their copies while they are built
_EDGE_BYTES = 2700  # a point: about 40 edges, their copies while they are merged, and duals
_PASSES = 18
_LARGEST_M = 2_000_000
_PROBED_POINTS, _PROBED_FEATURES = 512, 512  # of a product that is timed
_LEAST_TILE = 16  # rows
_STORED_TILE_BYTES = 32 << 20  # small enough to answer to an interrupt and to a deadline
_TILE_BYTES = 2 << 30  # however much memory there is


@dataclass(frozen=True)
class Plan:
    """How the costs are kept, and what that is estimated to take."""

    method: str
    bytes: int
    seconds: float
    tile_rows: int  # a power of two, so that whole tiles make a block of `Points`
    block_features: int  # multiplied at once while all products are computed
    room: int  # bytes left for pairs that nearly tie, the same on all processes

    @property
    def stored(self) -> bool:
        """Whether the products of all pairs are kept."""
        return self.method == "stored"


def make_plan(points: Points, method: str, memory_budget: int | None) -> Plan:
    """Choose between stored, tiled and dense, or refuse with what would fit; all processes choose alike."""
    rows, cols, processes = points.rows, points.cols, points.processes
    budget = memory_budget
    if budget is None:
        free = free_memory(points.device) // processes.on_this_device(points.device)
        budget = points.bytes + free // 2
    left = budget - points.bytes  # copies of the points that are there already
    if method == "auto" and max(rows, cols) <= DENSE_UP_TO:
        method = "dense"
    stored, tiles = _stored_bytes(points), _tiled_bytes(points, _LEAST_TILE)
    if method == "auto":
        method = "stored" if all(processes.numbers(stored <= left)) else "tiles"
    needed = {"stored": stored, "tiles": tiles, "dense": _DENSE_BYTES * rows * cols}[method]
    if needed > left or max(rows, cols) > _LARGEST_M:
        raise MemoryError(_refusal(points, method, needed + points.bytes, budget, tiles + points.bytes))
    tile_rows = min(processes.numbers(_tile_rows(points, left, method)))
    took = _tiled_bytes(points, tile_rows) if method == "tiles" else needed
    room = min(processes.numbers(left - took))
    return Plan(
        method, points.bytes + took, _seconds(points, method), tile_rows, _block_features(points), room
    )


def _block_features(points: Points) -> int:
    """Return how many features make shifted copies of a twentieth of the products."""
    rows, cols = points.rows, points.cols
    return min(points.d, max(64, rows * cols // (20 * (cols + min(rows, points.block_rows)))))


def _stored_bytes(points: Points) -> int:
    own, cols = len(points.own), points.cols
    copies = 4 * (cols + min(own, points.block_rows)) * _block_features(points)
    return 4 * own * cols + max(copies, _edge_bytes(points))


def _tiled_bytes(points: Points, tile_rows: int) -> int:
    return 4 * points.cols * points.d + _tile_bytes(points, tile_rows) + _edge_bytes(points)


def _tile_bytes(points: Points, tile_rows: int) -> int:
    return tile_rows * (8 * points.cols + 16 * points.d)


def _edge_bytes(points: Points) -> int:
    return _EDGE_BYTES * (points.rows + points.cols) // 2


def _tile_rows(points: Points, budget: int, method: str) -> int:
    """Return the largest power of two, up to a block, that leaves tiles small enough."""
    if method == "tiles":
        room = budget // 2 - 4 * points.cols * points.d - _edge_bytes(points)
        most = min(room, _TILE_BYTES) // _tile_bytes(points, 1)
    else:
        most = _STORED_TILE_BYTES // (4 * points.cols)
    return power_below(most, _LEAST_TILE, points.block_rows)


def _seconds(points: Points, method: str) -> float:
    pairs, d = len(points.own) * points.cols, points.d
    if pairs <= (2 * DENSE_UP_TO) ** 2:
        return 0.01
    depth = min(d, _PROBED_FEATURES)
    product = _product_seconds(points.device, depth, torch.get_num_threads()) * pairs * (d / depth)
    each_pass = 1e-9 * pairs
    return _PASSES * (product + each_pass) if method == "tiles" else product + _PASSES * each_pass


@lru_cache
def _product_seconds(device: torch.device, depth: int, threads: int) -> float:
    """Time a small product, for each pair; twice, because the first call of a process starts threads."""
    x = torch.ones((_PROBED_POINTS, depth), dtype=torch.float32, device=device)
    took = 0.0
    for _ in range(2):
        started = time.perf_counter()
        float((x @ x.T)[0, 0])
        took = time.perf_counter() - started
    return took / _PROBED_POINTS**2


def _refusal(points: Points, method: str, needed: int, budget: int, tiles: int) -> str:
    gib, m = 1 << 30, max(points.rows, points.cols)
    start = (
        f"memory_budget must hold method {method!r} for {m} points of width {points.d}, which takes "
        f"{needed / gib:.2f} GiB, got {budget / gib:.2f} GiB"
    )
    if tiles <= budget and m <= _LARGEST_M:
        return f"{start}: method='tiles' takes {tiles / gib:.2f} GiB."
    return f"{start}: allow {tiles / gib:.2f} GiB for method='tiles', or score a random subset of the points."
