# SPDX-License-Identifier: MIT
"""geodesic_bound against the formula on torch.cdist, and its summary against the same on whole matrices.

python benchmarks/bench_geodesic_bound.py [--device cuda] [--quick]

The floor of the bound is writing its m x m numbers once. The summary needs the distances of all layers: its
floor is `track_distance` alone, which writes them. Both are measured in the same run.
"""

from __future__ import annotations

from typing import Any

import torch
from measure import medians, peak_above_now, run_cases
from torch import Tensor

from geodesic_fast import geodesic_bound, geodesic_bound_summary, track_distance

# points, tracks, features
CASES = {
    "cpu": [(13, 2000, 64), (33, 2000, 256), (13, 6000, 64)],
    "cuda": [(33, 8192, 768), (13, 20_000, 64)],
}


def distances(x: Tensor) -> Tensor:
    """Return (m, m) distances of points, from their differences: products would cancel."""
    return torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")


def eager_bound(x: Tensor) -> Tensor:
    """Bound as one writes it in torch."""
    a, b = distances(x[0]), distances(x[-1])
    return a * b / (a.square() + b.square()).sqrt()


def eager_summary(x: Tensor) -> tuple[float, float]:
    """Share of the pairs that keep the bound, and the worst ratio, on whole matrices."""
    nearest = distances(x[0])
    for layer in x[1:]:
        nearest = torch.minimum(nearest, distances(layer))
    ratio = (nearest / eager_bound(x))[torch.ones_like(nearest, dtype=torch.bool).triu_(1)]
    return (ratio >= 1).double().mean().item(), ratio.min().item()


def check(x: Tensor) -> None:
    """Refuse to time a wrong answer."""
    away = ~torch.eye(x.shape[1], dtype=torch.bool, device=x.device)
    torch.testing.assert_close(geodesic_bound(x)[away], eager_bound(x)[away], rtol=1e-5, atol=0)
    found, (share, worst) = geodesic_bound_summary(x), eager_summary(x)
    assert abs(found.share_kept - share) < 1e-3
    assert abs(found.worst_ratio / worst - 1) < 1e-5


def bench(case: tuple[int, int, int], device: str, quick: bool) -> dict[str, Any]:
    """Measure one case."""
    points, m, d = case
    x = torch.randn(points, m, d, device=device).cumsum(0)  # (n+1, m, d)
    check(x)
    name = f"walk float32 {points}x{m}x{d}"
    t = medians(
        {
            "bound": lambda: geodesic_bound(x),
            "eager bound": lambda: eager_bound(x),
            "write": lambda: torch.ones(m, m, device=device),
            "summary": lambda: geodesic_bound_summary(x),
            "eager summary": lambda: eager_summary(x),
            "distance": lambda: track_distance(x),
        },
        device,
        2 if quick else 7,
        name,
    )
    peak = peak_above_now(lambda: geodesic_bound_summary(x), device)
    return {
        "case": name,
        "geodesic_bound ms": t["bound"] * 1e3,
        "eager/ours": t["eager bound"] / t["bound"],
        "% of write": 100 * t["write"] / t["bound"],
        "summary ms": t["summary"] * 1e3,
        "eager summary/ours": t["eager summary"] / t["summary"],
        "% of track_distance": 100 * t["distance"] / t["summary"],
        "summary peak MiB": "" if peak is None else peak / 2**20,
    }


if __name__ == "__main__":
    run_cases("bench_geodesic_bound", __doc__, CASES, bench)
