# SPDX-License-Identifier: MIT
"""wasserstein_curve against its n + 1 float32 cost matrices alone, and against POT.

python benchmarks/bench_wasserstein_curve.py [--device cuda] [--quick]
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from measure import installed, medians, run_cases
from torch import Tensor

from geodesic_fast import wasserstein_curve

# kind of layers, points, tracks, features
CASES = {
    "cpu": [("residual", 13, 4000, 256), ("plain", 13, 2000, 256), ("residual", 13, 1000, 64)],
    "cuda": [("residual", 13, 20_000, 512), ("plain", 13, 20_000, 512)],
}
MOST_FOR_POT = 1000


def make_tracks(kind: str, points: int, m: int, d: int, device: str) -> Tensor:
    """Return the states of an untrained perceptron, residual or plain."""
    x = torch.randn(m, d, device=device)
    layers = [x]
    for _ in range(points - 1):
        branch = torch.relu(x @ torch.randn(d, d, device=device) * (2 / d) ** 0.5)
        x = x + 0.1 * branch if kind == "residual" else branch
        layers.append(x)
    return torch.stack(layers)


def cost_matrices(x: Tensor) -> float:
    """Compute each float32 cost matrix once, which is the least that a dense solver needs."""
    pairs = [*pairwise(x), (x[0], x[-1])]
    return sum(float(torch.cdist(a, b).square_()[0, 0]) for a, b in pairs)


def pot_ratio(x: Tensor) -> float:
    """Compute the ratio by POT's exact solver, with enough iterations to converge."""
    import ot

    weights = np.full(x.shape[1], 1 / x.shape[1])

    def distance(a: Tensor, b: Tensor) -> float:
        costs = torch.cdist(a.double(), b.double()).square().cpu().numpy()
        return ot.emd2(weights, weights, costs, numItermax=10**9) ** 0.5

    return sum(distance(a, b) for a, b in pairwise(x)) / distance(x[0], x[-1])


def bench(case: tuple[str, int, int, int], device: str, quick: bool) -> dict[str, Any]:
    """Measure one case; a wrong answer is not timed."""
    tracks, m = make_tracks(*case, device), case[2]
    found = wasserstein_curve(tracks)
    assert found.certified
    ways: dict[str, Any] = {
        "ours": lambda: wasserstein_curve(tracks),
        "costs": lambda: cost_matrices(tracks),
    }
    if m <= MOST_FOR_POT and installed("ot", "POT's times are"):
        assert abs(found.ratio.item() / pot_ratio(tracks) - 1) < 1e-6
        ways["pot"] = lambda: pot_ratio(tracks)
    t = medians(ways, device, 3 if quick else 5, case[0])
    return {
        "case": f"{case[0]} {case[1]}x{m}x{case[3]}",
        "wasserstein_curve s": t["ours"],
        "ours/cost matrices": t["ours"] / t["costs"],
        "POT/ours": t["pot"] / t["ours"] if "pot" in t else "",
        "ratio": found.ratio.item(),
        "least OTS": found.ots.min().item(),
    }


if __name__ == "__main__":
    run_cases("bench_wasserstein_curve", __doc__, CASES, bench)
