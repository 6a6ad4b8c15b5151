# SPDX-License-Identifier: MIT
"""chord_deviation against eager torch, layer by layer, and against the memory limit.

python benchmarks/bench_chord_deviation.py [--device cuda] [--quick]
"""

from __future__ import annotations

from typing import Any

import torch
from measure import medians, peak_above_now
from torch import Tensor
from tracks import Case, backward_of, first_few, make_tracks, name_of, read_once, run_cases

from geodesic_fast import chord_deviation

CASES = {
    "cpu": [
        ("layer-major", torch.float32, 33, 4096, 768),
        ("track-major", torch.float32, 33, 4096, 768),
        ("layer-major", torch.bfloat16, 33, 4096, 768),
        ("list", torch.bfloat16, 81, 256, 8192),
        ("layer-major", torch.float32, 13, 32, 64),
    ],
    "cuda": [
        ("layer-major", torch.bfloat16, 33, 16384, 4096),
        ("layer-major", torch.float32, 33, 16384, 4096),
        ("list", torch.bfloat16, 81, 4096, 8192),
        ("layer-major", torch.float32, 33, 65536, 768),
    ],
}


def eager(layers: Any) -> Tensor:
    """Chord deviation as one writes it in torch, without a copy of all tracks."""
    chord = layers[-1] - layers[0]
    c = chord.norm(dim=-1)
    e = chord / c.unsqueeze(-1)
    rows = []
    for x in layers:
        w = x - layers[0]
        rows.append((w - (w * e).sum(-1, keepdim=True) * e).norm(dim=-1) / c)
    return torch.stack(rows)


def bench(case: Case, device: str, rounds: int) -> dict[str, Any]:
    """Measure one case; a wrong answer is not timed."""
    tracks = make_tracks(case, device)
    few = first_few(tracks, 8)
    truth = eager([layer.double() for layer in few])
    torch.testing.assert_close(chord_deviation(few).double(), truth, rtol=1e-5, atol=1e-6)
    forward = {
        "chord_deviation": lambda: chord_deviation(tracks),
        "eager": lambda: eager(tracks),
        "read": read_once(tracks, device),
    }
    t = medians(forward, device, rounds, f"{name_of(case)} forward")
    both = {"chord_deviation": backward_of(chord_deviation, tracks), "eager": backward_of(eager, tracks)}
    b = medians(both, device, max(3, rounds // 3), f"{name_of(case)} backward")
    floor = t["read"] / (2 if device == "cuda" else 1)
    peak = peak_above_now(lambda: chord_deviation(tracks), device)
    return {
        "case": name_of(case),
        "chord_deviation ms": t["chord_deviation"] * 1e3,
        "eager/ours": t["eager"] / t["chord_deviation"],
        "% of bandwidth": 100 * floor / t["chord_deviation"],
        "fwd+bwd ms": b["chord_deviation"] * 1e3,
        "fwd+bwd eager/ours": b["eager"] / b["chord_deviation"],
        "bwd % of floor": 100 * 3 * floor / b["chord_deviation"],
        "peak MiB": "" if peak is None else peak / 2**20,
    }


if __name__ == "__main__":
    run_cases("bench_chord_deviation", __doc__, CASES, bench)
