# SPDX-License-Identifier: MIT
"""track_distance against a loop of torch.cdist and torch.minimum, and against the rate of matrix products.

python benchmarks/bench_track_distance.py [--device cuda] [--quick]

Tracks are "random" (layers independent), a random "walk", or the walk of ten tight "classes", where a tenth
of all distances cancel in products and are taken anew from the coordinates. The floor is the multiply-adds of
half the pairs, (n+1) m^2 d / 2, at the rate of a large torch product of the same run, on a GPU in the tracks'
dtype; above 100 % the kernel multiplies faster than that.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from measure import medians, peak_above_now, report, save
from torch import Tensor

import geodesic_fast
from geodesic_fast import track_distance

GEMM_SIZE = {"cpu": 2048, "cuda": 8192}
# kind, dtype, points, tracks, features
CPU_CASES = [
    ("random", torch.float32, 33, 2000, 256),
    ("walk", torch.float32, 33, 2000, 256),
    ("classes", torch.float32, 33, 2000, 256),
    ("walk", torch.bfloat16, 33, 2000, 256),
    ("walk", torch.float64, 33, 1000, 256),
    ("walk", torch.float32, 13, 4000, 64),
    ("walk", torch.float32, 13, 200, 3072),
]
GPU_CASES = [
    ("walk", torch.float32, 33, 8192, 768),
    ("classes", torch.float32, 33, 8192, 768),
    ("walk", torch.bfloat16, 33, 16384, 4096),
]


def loop(x: Tensor) -> Tensor:
    """Least distance over the layers as one writes it in torch."""
    x = x if x.dtype in (torch.float32, torch.float64) else x.float()
    best = torch.cdist(x[0], x[0])
    for layer in x[1:]:
        torch.minimum(best, torch.cdist(layer, layer), out=best)
    return best


def make_tracks(kind: str, dtype: torch.dtype, points: int, m: int, d: int, device: str) -> Tensor:
    """Return (n+1, m, d)."""
    x = torch.randn(points, m, d, device=device)
    if kind == "classes":
        centres = torch.randn(points, 10, d, device=device).cumsum(0)
        x = centres[:, torch.randint(10, (m,), device=device)] + 0.3 * x
    return (x.cumsum(0) if kind == "walk" else x).to(dtype)


def check(tracks: Tensor) -> None:
    """Refuse to time a wrong answer."""
    few = tracks[:, :200]
    truth = torch.stack(
        [torch.cdist(a, a, compute_mode="donot_use_mm_for_euclid_dist") for a in few.double()]
    )
    torch.testing.assert_close(track_distance(few).double(), truth.amin(0), rtol=5e-7, atol=0)


def backward_of(metric: Callable[[Tensor], Tensor], tracks: Tensor) -> Callable[[], Any]:
    """Return forward and backward of the mean distance."""
    leaf = tracks.detach().requires_grad_()
    return lambda: torch.autograd.grad(metric(leaf).mean(), leaf)


def bench(case: tuple[Any, ...], device: str, rounds: int) -> dict[str, Any]:
    """Measure one case."""
    kind, dtype, points, m, d = case
    tracks = make_tracks(*case, device)
    check(tracks)
    size = GEMM_SIZE[device]
    kept = torch.float64 if dtype == torch.float64 else torch.float32
    square = torch.randn(size, size, device=device, dtype=dtype if device == "cuda" else kept)
    name = f"{kind} {str(dtype)[6:]} {points}x{m}x{d}"
    t = medians(
        {
            "track_distance": lambda: track_distance(tracks),
            "loop": lambda: loop(tracks),
            "gemm": lambda: square @ square,
        },
        device,
        rounds,
        name,
    )
    both = medians({"backward": backward_of(track_distance, tracks)}, device, 3, f"{name} backward")
    work = points * m * m * d / 2
    ours, floor = t["track_distance"], work / (size**3 / t["gemm"])
    peak = peak_above_now(lambda: track_distance(tracks), device)
    matrix = m * m * (8 if kept == torch.float64 else 4)
    return {
        "case": name,
        "track_distance ms": ours * 1e3,
        "loop/ours": t["loop"] / ours,
        "floor ms": floor * 1e3,
        "% of floor": 100 * floor / ours,
        "Gfma/s": work / ours / 1e9,
        "torch.mm Gfma/s": size**3 / t["gemm"] / 1e9,
        "fwd+bwd ms": both["backward"] * 1e3,
        "peak, m x m matrices": "" if peak is None else peak / matrix,
    }


def main() -> None:
    """Run every case and save the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"]
    )
    parser.add_argument("--quick", action="store_true", help="few rounds")
    parser.add_argument("--cases", type=int, default=None, help="only the first so many cases")
    args = parser.parse_args()
    print(f"geodesic_fast {geodesic_fast.__version__} on {args.device}")
    rows = []
    for case in (CPU_CASES if args.device == "cpu" else GPU_CASES)[: args.cases]:
        rows.append(bench(case, args.device, 3 if args.quick else 7))
        save("bench_track_distance", args.device, rows)
    report("bench_track_distance", args.device, rows)


if __name__ == "__main__":
    main()
