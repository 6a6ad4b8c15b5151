# SPDX-License-Identifier: MIT
"""nearest_track against the minimum over blocks of track_distance, and against the rate of matrix products.

python benchmarks/bench_nearest_track.py [--device cuda] [--quick]

The floor is the multiply-adds of half the pairs, (n+1) m^2 d / 2, at the rate of a large torch product of the
same run; above 100 % the kernel multiplies faster than that.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from measure import medians, peak_above_now, run_cases
from torch import Tensor

from geodesic_fast import nearest_track, track_distance

GEMM_SIZE = {"cpu": 2048, "cuda": 8192}
BLOCK = 2048
LONG_SECONDS = 6  # of the check, from which on a GPU's case is timed once, to end within some 30 s
# kind, points, tracks, features
CASES = {
    "cpu": [
        ("walk", 13, 20_000, 64),
        ("classes", 13, 20_000, 64),
        ("walk, labelled", 13, 20_000, 64),
        ("walk", 33, 5_000, 256),
    ],
    "cuda": [("walk", 33, 100_000, 768), ("classes", 33, 100_000, 768), ("walk, labelled", 13, 100_000, 64)],
}


def blocks(tracks: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return distance and index of the nearest other track as one writes it with track_distance."""
    found = []
    for start in range(0, tracks.shape[1], BLOCK):
        distance = track_distance(tracks[:, start : start + BLOCK], tracks)
        if labels is None:
            distance.diagonal(start).fill_(torch.inf)
        else:
            distance.masked_fill_(labels[start : start + BLOCK, None] == labels, torch.inf)
        found.append(distance.min(1))
    return torch.cat([each.values for each in found]), torch.cat([each.indices for each in found])


def make_tracks(kind: str, points: int, m: int, d: int, device: str) -> tuple[Tensor, Tensor | None]:
    """Return (n+1, m, d), and ten labels (m) where they are asked for."""
    x, labels = torch.randn(points, m, d, device=device), torch.randint(10, (m,), device=device)
    if kind == "classes":
        return torch.randn(points, 10, d, device=device).cumsum(0)[:, labels] + 0.3 * x, None
    return x.cumsum(0), labels if "labelled" in kind else None


def check(tracks: Tensor, labels: Tensor | None) -> None:
    """Refuse to time a wrong answer."""
    got, (distance, index) = nearest_track(tracks, labels=labels), blocks(tracks, labels)
    torch.testing.assert_close(got.distance, distance, rtol=1e-6, atol=0)
    assert (got.track == index).double().mean() > 0.999


def bench(case: tuple[Any, ...], device: str, quick: bool) -> dict[str, Any]:
    """Measure one case."""
    kind, points, m, d = case
    tracks, labels = make_tracks(*case, device)
    start = time.perf_counter()
    check(tracks, labels)
    long = device == "cuda" and time.perf_counter() - start > LONG_SECONDS
    size = GEMM_SIZE[device]
    square = torch.randn(size, size, device=device)
    square @ square  # the check has warmed up the others
    name = f"{kind} float32 {points}x{m}x{d}"
    t = medians(
        {
            "nearest_track": lambda: nearest_track(tracks, labels=labels),
            "blocks": lambda: blocks(tracks, labels),
            "gemm": lambda: square @ square,
        },
        device,
        1 if quick or long else 3,
        name,
        warm_ups=0 if long else 2,
    )
    work = points * m * m * d / 2
    ours, floor = t["nearest_track"], work / (size**3 / t["gemm"])
    peak = peak_above_now(lambda: nearest_track(tracks, labels=labels), device)
    return {
        "case": name,
        "nearest_track s": ours,
        "blocks/ours": t["blocks"] / ours,
        "floor s": floor,
        "% of floor": 100 * floor / ours,
        "Gfma/s": work / ours / 1e9,
        "torch.mm Gfma/s": size**3 / t["gemm"] / 1e9,
        "peak MiB": "" if peak is None else peak / 2**20,
    }


if __name__ == "__main__":
    run_cases("bench_nearest_track", __doc__, CASES, bench)
