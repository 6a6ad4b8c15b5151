# SPDX-License-Identifier: MIT
"""step_geometry against lss, which reads as much, and against the torch lines that people copy.

python benchmarks/bench_step_geometry.py [--device cuda] [--quick]
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from measure import medians, run_cases
from torch import Tensor
from torch.nn.functional import cosine_similarity

from geodesic_fast import lss, step_geometry

# points, tracks, features, dtype, layer-major
CASES = {
    "cpu": [
        (33, 4096, 768, torch.float32, True),
        (33, 4096, 768, torch.float32, False),
        (33, 4096, 768, torch.bfloat16, True),
        (13, 4096, 64, torch.float32, True),
    ],
    "cuda": [
        (33, 65_536, 768, torch.float32, True),
        (33, 65_536, 768, torch.bfloat16, True),
        (33, 65_536, 4096, torch.bfloat16, True),
    ],
}


def eager(x: Tensor) -> tuple[Tensor, ...]:
    """All five numbers as one writes them in torch."""
    v = x.diff(dim=0)
    length = torch.linalg.vector_norm(v, dim=-1)
    return (
        length,
        length / torch.linalg.vector_norm(x[:-1], dim=-1),
        cosine_similarity(x[:-1], x[1:], dim=-1),
        cosine_similarity(v, x[:-1], dim=-1),
        cosine_similarity(v[:-1], v[1:], dim=-1),
    )


def influence_by_matrix(x: Tensor) -> Tensor:
    """Block influence by an m x m product of which the diagonal is kept, as often seen."""
    unit = x / torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return torch.stack([(before @ after.T).diagonal() for before, after in pairwise(unit)])


def bench(case: tuple[int, int, int, torch.dtype, bool], device: str, quick: bool) -> dict[str, Any]:
    """Measure one case; a wrong answer is not timed."""
    points, m, d, dtype, layer_major = case
    x = torch.randn(points, m, d, device=device).cumsum(0).to(dtype)
    tracks = x if layer_major else x.transpose(0, 1).contiguous().transpose(0, 1)
    for got, expected in zip(step_geometry(tracks), eager(x.double()[:, :64]), strict=True):
        torch.testing.assert_close(got[:, :64].double(), expected, rtol=1e-4, atol=1e-5)
    leaf = tracks.detach().requires_grad_()

    def both_ways(function: Any) -> None:
        torch.autograd.grad(sum(value.sum() for value in function(leaf)), leaf)

    ways: dict[str, Any] = {
        "step_geometry": lambda: step_geometry(tracks),
        "lss": lambda: lss(tracks),
        "eager": lambda: eager(tracks),
        "matrix": lambda: influence_by_matrix(tracks),
        "both ways": lambda: both_ways(step_geometry),
        "eager both ways": lambda: both_ways(eager),
        "read": lambda: tracks.sum(),
    }
    t = medians(ways, device, 3 if quick else 7, f"{points}x{m}x{d}")
    layout = "layer-major" if layer_major else "track-major"
    return {
        "case": f"{points}x{m}x{d} {str(dtype).removeprefix('torch.')} {layout}",
        "step_geometry ms": t["step_geometry"] * 1e3,
        "ours/lss": t["step_geometry"] / t["lss"],
        "share of read bandwidth": t["read"] / t["step_geometry"],
        "eager/ours": t["eager"] / t["step_geometry"],
        "m x m/ours": t["matrix"] / t["step_geometry"],
        "eager/ours both ways": t["eager both ways"] / t["both ways"],
    }


if __name__ == "__main__":
    run_cases("bench_step_geometry", __doc__, CASES, bench)
