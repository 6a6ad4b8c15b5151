# SPDX-License-Identifier: MIT
"""line_deviation against normalise + bmm + mean, and against its two floors: memory and multiply-adds.

python benchmarks/bench_line_deviation.py [--device cuda] [--quick]

The floors are measured in the same run: a read of the same bytes (a device-to-device copy on a GPU), and a
large product of matrices in the tracks' dtype (in float32 on the CPU, whose sums are float32).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from measure import medians, peak_above_now, report, save
from torch import Tensor

import geodesic_fast
from geodesic_fast import line_deviation

GEMM_SIZE = {"cpu": 2048, "cuda": 8192}
EAGER_COPIES = 4  # of the tracks that the eager forward pass holds at once; its backward pass twice as many
# layout, dtype, points, tracks, features
CPU_CASES = [
    ("layer-major", torch.float32, 33, 4096, 768),
    ("track-major", torch.float32, 33, 4096, 768),
    ("layer-major", torch.bfloat16, 33, 4096, 768),
    ("list", torch.bfloat16, 81, 256, 8192),
    ("track-major", torch.float32, 1025, 64, 768),
    ("layer-major", torch.float32, 13, 65536, 64),
    ("layer-major", torch.float32, 13, 32, 64),
]
GPU_CASES = [
    ("layer-major", torch.bfloat16, 81, 32768, 4096),
    ("layer-major", torch.float32, 33, 16384, 4096),
    ("list", torch.bfloat16, 81, 4096, 8192),
    ("layer-major", torch.float32, 33, 65536, 768),
    ("track-major", torch.bfloat16, 1025, 256, 768),
]


def eager(layers: Any) -> Tensor:
    """Mean line deviation as one writes it in torch."""
    x = layers if isinstance(layers, Tensor) else torch.stack(layers)
    v = x.diff(dim=0)
    u = (v / v.norm(dim=-1, keepdim=True)).movedim(0, 1)  # (m, n, d)
    return 1 - torch.bmm(u, u.mT).mean(0)


def make_tracks(layout: str, dtype: torch.dtype, points: int, m: int, d: int, device: str) -> Any:
    """Return tracks in the given layout, layer axis first."""
    x = torch.randn(points, m, d, device=device, dtype=dtype)
    if layout == "track-major":
        return x.movedim(0, 1).contiguous().movedim(1, 0)
    return [layer.clone() for layer in x] if layout == "list" else x


def check(tracks: Any) -> None:
    """Refuse to time a wrong answer."""
    few = [layer[:8] for layer in tracks] if isinstance(tracks, list) else tracks[:, :8]
    truth = eager(torch.stack([layer.double() for layer in few]))
    torch.testing.assert_close(line_deviation(few).double(), truth, rtol=0, atol=1e-6)


def read_once(tracks: Any, device: str) -> Callable[[], Any]:
    """Return what reads the same bytes once: a sum on the CPU, a device-to-device copy on a GPU."""
    layers = tracks if isinstance(tracks, list) else [tracks]
    if device == "cuda":
        targets = [torch.empty_like(layer) for layer in layers]
        return lambda: [target.copy_(layer) for target, layer in zip(targets, layers, strict=True)]
    return lambda: [layer.view(torch.float32).sum() for layer in layers]


def fits(tracks: Any, times: int, device: str) -> bool:
    """Say whether a GPU has room for so many more copies of the tracks."""
    layers = tracks if isinstance(tracks, list) else [tracks]
    needed = times * sum(layer.nbytes for layer in layers)
    return device == "cpu" or needed < torch.cuda.mem_get_info()[0]


def backward_of(metric: Callable[[Any], Tensor], tracks: Any) -> Callable[[], Any]:
    """Return forward and backward of the mean of the deviations."""
    leaves = [t.detach().requires_grad_() for t in (tracks if isinstance(tracks, list) else [tracks])]
    arranged = leaves if isinstance(tracks, list) else leaves[0]
    return lambda: torch.autograd.grad(metric(arranged).mean(), leaves)


def bench(case: tuple[Any, ...], device: str, rounds: int) -> dict[str, Any]:
    """Measure one case."""
    layout, dtype, points, m, d = case
    tracks = make_tracks(*case, device)
    check(tracks)
    size = GEMM_SIZE[device]
    square = torch.randn(size, size, device=device, dtype=torch.float32 if device == "cpu" else dtype)
    name = f"{layout} {str(dtype)[6:]} {points}x{m}x{d}"
    forward = {
        "line_deviation": lambda: line_deviation(tracks),
        "read": read_once(tracks, device),
        "gemm": lambda: square @ square,
    }
    if fits(tracks, EAGER_COPIES, device):
        forward["eager"] = lambda: eager(tracks)
    t = medians(forward, device, rounds, f"{name} forward")
    del forward  # and the copy that the read writes
    both = {"line_deviation": backward_of(line_deviation, tracks)}
    if fits(tracks, 2 * EAGER_COPIES, device):
        both["eager"] = backward_of(eager, tracks)
    b = medians(both, device, max(3, rounds // 3), f"{name} backward")
    memory = t["read"] / (2 if device == "cuda" else 1)
    products = (points - 1) ** 2 / 2 * m * d / (size**3 / t["gemm"])
    ours, floor = t["line_deviation"], max(memory, products)
    peak = peak_above_now(lambda: line_deviation(tracks), device)
    return {
        "case": name,
        "line_deviation ms": ours * 1e3,
        "eager/ours": t["eager"] / ours if "eager" in t else "no room",
        "memory floor ms": memory * 1e3,
        "multiply-add floor ms": products * 1e3,
        "% of larger floor": 100 * floor / ours,
        "fwd+bwd ms": b["line_deviation"] * 1e3,
        "fwd+bwd eager/ours": b["eager"] / b["line_deviation"] if "eager" in b else "no room",
        "peak MiB": "" if peak is None else peak / 2**20,
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
    print(f"geodesic_fast {geodesic_fast.__version__} on {args.device}, forward and forward+backward")
    rows = []
    for case in (CPU_CASES if args.device == "cpu" else GPU_CASES)[: args.cases]:
        rows.append(bench(case, args.device, 5 if args.quick else 11))
        save("bench_line_deviation", args.device, rows)
    report("bench_line_deviation", args.device, rows)


if __name__ == "__main__":
    main()
