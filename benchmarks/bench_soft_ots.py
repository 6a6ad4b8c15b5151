# SPDX-License-Identifier: MIT
"""Which transport for which problem: time and memory of `ots`, `soft_ots` on tiles, `soft_ots` by geomloss.

python benchmarks/bench_soft_ots.py [--device cuda] [--quick]

They answer two questions: the exact score, and the smoothed one twice, which must agree. What KeOps takes to
compile, once for each number of features, is not counted.
"""

from __future__ import annotations

from typing import Any

import ots_problems
import torch
from measure import installed, medians, peak_above_now, run_cases

from geodesic_fast import ots, soft_ots

CASES = {
    "cpu": [(m, d) for d in (2, 16, 64) for m in (1000, 4000)] + [(10_000, 2)],
    "cuda": [(m, d) for d in (2, 16, 64) for m in (4000, 20_000)],
}
BLUR = 0.5  # of the distance that the points have from their mean, in each direction
AGREEMENT = 5e-3


def bench(case: tuple[int, int], device: str, quick: bool) -> dict[str, Any]:
    """Measure one case; answers that differ are not timed."""
    m, d = case
    x, y = (torch.from_numpy(end).to(device) for end in ots_problems.make("half scrambled", m, d))
    blur = BLUR * d**0.5
    ways: dict[str, Any] = {"ots": lambda: ots(x, y), "tiles": lambda: soft_ots(x, y, blur=blur)}
    if installed("geomloss", "geomloss is") and installed("pykeops", "geomloss is"):
        ways["geomloss"] = lambda: soft_ots(x, y, blur=blur, backend="geomloss")
    found = {name: call() for name, call in ways.items()}
    scores = [found[name].soft_score for name in ways if name != "ots"]
    assert found["ots"].certified
    assert max(scores) - min(scores) <= AGREEMENT * max(scores), scores
    peaks = {name: peak_above_now(call, device) for name, call in ways.items()}
    t = medians(ways, device, 1 if quick else 3, f"{m} x {d}", warm_ups=0)
    row: dict[str, Any] = {"m": m, "d": d, "OTS": found["ots"].score, "soft OTS": scores[0]}
    row |= {f"{name} s": t[name] for name in ways}
    if "geomloss" in ways:
        row["geomloss/tiles"] = t["geomloss"] / t["tiles"]
        row["geomloss backend"] = found["geomloss"].backend.removeprefix("geomloss-")
    return row | {f"{name} MiB": "" if peak is None else peak / 2**20 for name, peak in peaks.items()}


if __name__ == "__main__":
    run_cases("bench_soft_ots", __doc__, CASES, bench)
