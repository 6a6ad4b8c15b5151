# SPDX-License-Identifier: MIT
"""line_deviation against normalise + bmm + mean, and against its two floors: memory and multiply-adds.

python benchmarks/bench_line_deviation.py [--device cuda] [--quick]

The floors are measured in the same run: a read of the same bytes (a device-to-device copy on a GPU), and a
large product of matrices in the tracks' dtype (in float32 on the CPU, whose sums are float32).
"""

from __future__ import annotations

from typing import Any

import torch
from measure import medians, peak_above_now, run_cases
from torch import Tensor
from tracks import Case, backward_of, first_few, make_tracks, name_of, read_once

from geodesic_fast import line_deviation

GEMM_SIZE = {"cpu": 2048, "cuda": 8192}
EAGER_COPIES = 4  # of the tracks that the eager forward pass holds at once; its backward pass twice as many
# layout, dtype, points, tracks, features
CASES = {
    "cpu": [
        ("layer-major", torch.float32, 33, 4096, 768),
        ("track-major", torch.float32, 33, 4096, 768),
        ("layer-major", torch.bfloat16, 33, 4096, 768),
        ("list", torch.bfloat16, 81, 256, 8192),
        ("track-major", torch.float32, 1025, 64, 768),
        ("layer-major", torch.float32, 13, 65536, 64),
        ("layer-major", torch.float32, 13, 32, 64),
    ],
    "cuda": [
        ("layer-major", torch.bfloat16, 81, 32768, 4096),
        ("layer-major", torch.float32, 33, 16384, 4096),
        ("list", torch.bfloat16, 81, 4096, 8192),
        ("layer-major", torch.float32, 33, 65536, 768),
        ("track-major", torch.bfloat16, 1025, 256, 768),
    ],
}


def eager(layers: Any) -> Tensor:
    """Mean line deviation as one writes it in torch."""
    x = layers if isinstance(layers, Tensor) else torch.stack(layers)
    v = x.diff(dim=0)
    u = (v / v.norm(dim=-1, keepdim=True)).movedim(0, 1)  # (m, n, d)
    return 1 - torch.bmm(u, u.mT).mean(0)


def check(tracks: Any) -> None:
    """Refuse to time a wrong answer."""
    few = first_few(tracks, 8)
    truth = eager(torch.stack([layer.double() for layer in few]))
    torch.testing.assert_close(line_deviation(few).double(), truth, rtol=0, atol=1e-6)


def fits(tracks: Any, times: int, device: str) -> bool:
    """Say whether a GPU has room for so many more copies of the tracks."""
    layers = tracks if isinstance(tracks, list) else [tracks]
    needed = times * sum(layer.nbytes for layer in layers)
    if device == "cuda":
        torch.cuda.empty_cache()  # blocks that torch keeps for later count as taken
    return device == "cpu" or needed < torch.cuda.mem_get_info()[0]


def bench(case: Case, device: str, quick: bool) -> dict[str, Any]:
    """Measure one case."""
    _, dtype, points, m, d = case
    rounds = 5 if quick else 11
    tracks = make_tracks(case, device)
    check(tracks)
    size = GEMM_SIZE[device]
    square = torch.randn(size, size, device=device, dtype=torch.float32 if device == "cpu" else dtype)
    forward = {
        "line_deviation": lambda: line_deviation(tracks),
        "read": read_once(tracks, device),
        "gemm": lambda: square @ square,
    }
    if fits(tracks, EAGER_COPIES, device):
        forward["eager"] = lambda: eager(tracks)
    t = medians(forward, device, rounds, f"{name_of(case)} forward")
    del forward  # and the copy that the read writes
    both = {"line_deviation": backward_of(line_deviation, tracks)}
    if fits(tracks, 2 * EAGER_COPIES, device):
        both["eager"] = backward_of(eager, tracks)
    b = medians(both, device, max(3, rounds // 3), f"{name_of(case)} backward")
    memory = t["read"] / (2 if device == "cuda" else 1)
    products = (points - 1) ** 2 / 2 * m * d / (size**3 / t["gemm"])
    ours, floor = t["line_deviation"], max(memory, products)
    peak = peak_above_now(lambda: line_deviation(tracks), device)
    return {
        "case": name_of(case),
        "line_deviation ms": ours * 1e3,
        "eager/ours": t["eager"] / ours if "eager" in t else "no room",
        "memory floor ms": memory * 1e3,
        "multiply-add floor ms": products * 1e3,
        "% of larger floor": 100 * floor / ours,
        "fwd+bwd ms": b["line_deviation"] * 1e3,
        "fwd+bwd eager/ours": b["eager"] / b["line_deviation"] if "eager" in b else "no room",
        "peak MiB": "" if peak is None else peak / 2**20,
    }


if __name__ == "__main__":
    run_cases("bench_line_deviation", __doc__, CASES, bench)
