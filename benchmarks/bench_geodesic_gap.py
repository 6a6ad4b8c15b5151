# SPDX-License-Identifier: MIT
"""geodesic_gap and action against eager torch with POT's exact W2.

python benchmarks/bench_geodesic_gap.py [--device cuda] [--quick]
"""

from __future__ import annotations

from typing import Any

import numpy as np
import ots_problems
import torch
from measure import installed, medians, run_cases
from torch import Tensor

from geodesic_fast import action, geodesic_gap

# family of maps (benchmarks/ots_problems.py), points, tracks, features
CASES = {
    "cpu": [("residual", 13, 2000, 64), ("half scrambled", 13, 2000, 64), ("half scrambled", 33, 2000, 512)],
    "cuda": [("residual", 33, 20_000, 512), ("half scrambled", 33, 20_000, 512)],
}
MOST_FOR_POT = 4000


def make_tracks(family: str, points: int, m: int, d: int, device: str) -> Tensor:
    """Return tracks (n+1, m, d) that wander between the ends of a transport problem."""
    x, y = (torch.from_numpy(end).to(device) for end in ots_problems.make(family, m, d))
    time = torch.linspace(0, 1, points, device=device)[:, None, None]
    return torch.lerp(x, y, time) + 0.2 * (time * (1 - time)) * torch.randn(points, m, d, device=device)


def eager_action(x: Tensor) -> Tensor:
    """Action as one writes it in torch."""
    return (len(x) - 1) * x.diff(dim=0).square().sum(-1).sum(0)


def eager_gap(x: Tensor) -> float:
    """Gap on POT's exact solver, with enough iterations to converge."""
    import ot

    costs = torch.cdist(x[0].double(), x[-1].double()).square().cpu().numpy()
    weights = np.full(len(costs), 1 / len(costs))
    return eager_action(x).double().mean().item() / ot.emd2(weights, weights, costs, numItermax=10**9) - 1


def bench(case: tuple[str, int, int, int], device: str, quick: bool) -> dict[str, Any]:
    """Measure one case; a wrong answer is not timed."""
    tracks, m = make_tracks(*case, device), case[2]
    found = geodesic_gap(tracks)
    assert found.certified
    torch.testing.assert_close(action(tracks), eager_action(tracks), rtol=1e-5, atol=0)
    ways: dict[str, Any] = {"geodesic_gap": lambda: geodesic_gap(tracks)}
    if m <= MOST_FOR_POT and installed("ot", "POT's times are"):
        assert abs(found.gap.item() / eager_gap(tracks) - 1) < 1e-5
        ways["pot"] = lambda: eager_gap(tracks)
    ways |= {"action": lambda: action(tracks), "eager action": lambda: eager_action(tracks)}
    t = medians(ways, device, 3 if quick else 7, case[0])
    return {
        "case": f"{case[0]} {case[1]}x{m}x{case[3]}",
        "geodesic_gap ms": t["geodesic_gap"] * 1e3,
        "POT/ours": t["pot"] / t["geodesic_gap"] if "pot" in t else "",
        "action ms": t["action"] * 1e3,
        "eager action/ours": t["eager action"] / t["action"],
        "gap": found.gap.item(),
        "detour": found.detour.item(),
    }


if __name__ == "__main__":
    run_cases("bench_geodesic_gap", __doc__, CASES, bench)
