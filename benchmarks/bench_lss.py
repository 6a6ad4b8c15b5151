# SPDX-License-Identifier: MIT
"""lss and track_geometry against eager torch, its best loop and torch.compile, and against the memory limit.

python benchmarks/bench_lss.py [--device cuda] [--quick]
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from measure import medians, report, save
from torch import Tensor

import geodesic_fast
from geodesic_fast import lss, track_geometry

# layout, dtype, points, tracks, features
CPU_CASES = [
    ("layer-major", torch.float32, 33, 4096, 768),
    ("track-major", torch.float32, 33, 4096, 768),
    ("layer-major", torch.bfloat16, 33, 4096, 768),
    ("track-major", torch.bfloat16, 33, 4096, 768),
    ("list", torch.bfloat16, 81, 256, 8192),
    ("layer-major", torch.float32, 13, 32, 64),
]
GPU_CASES = [
    ("layer-major", torch.bfloat16, 33, 16384, 4096),
    ("layer-major", torch.float32, 33, 16384, 4096),
    ("track-major", torch.bfloat16, 33, 16384, 4096),
    ("list", torch.bfloat16, 81, 4096, 8192),
    ("layer-major", torch.float32, 33, 65536, 768),
    ("layer-major", torch.float32, 13, 32, 64),
]


def eager(x: Tensor) -> Tensor:
    """LSS as one writes it in torch."""
    v = x.diff(dim=0)
    u = v / v.norm(dim=-1, keepdim=True)
    return len(v) / u.sum(0).norm(dim=-1)


def loop(layers: Sequence[Tensor]) -> Tensor:
    """LSS layer by layer, nothing stacked."""
    total: Any = 0
    for before, after in itertools.pairwise(layers):
        v = after - before
        total = total + v / v.norm(dim=-1, keepdim=True)
    return (len(layers) - 1) / total.norm(dim=-1)


def make_tracks(layout: str, dtype: torch.dtype, points: int, m: int, d: int, device: str) -> Any:
    """Return tracks in the given layout, and the same as (n+1, m, d)."""
    x = torch.randn(points, m, d, device=device, dtype=dtype)
    if layout == "track-major":
        x = x.movedim(0, 1).contiguous().movedim(1, 0)
    return ([layer.clone() for layer in x], None) if layout == "list" else (x, x)


def check(tracks: Any) -> None:
    """Refuse to time a wrong answer."""
    few = [layer[:8].double() for layer in tracks]
    got = lss([layer[:8] for layer in tracks]).double()
    torch.testing.assert_close(got, eager(torch.stack(few)), rtol=1e-5, atol=0)


def read_bandwidth(x: Any, device: str) -> Callable[[], Any]:
    """Return what reads the same bytes once: a sum on the CPU, a device-to-device copy on a GPU."""
    layers = x if isinstance(x, list) else [x]
    if device == "cuda":
        targets = [torch.empty_like(layer) for layer in layers]
        return lambda: [target.copy_(layer) for target, layer in zip(targets, layers, strict=True)]
    return lambda: [
        layer.view(torch.float32 if layer.dtype != torch.float64 else layer.dtype).sum() for layer in layers
    ]


def backward_of(score: Callable[[Any], Tensor], tracks: Any) -> Callable[[], Any]:
    """Return forward and backward of the sum of scores."""
    leaves = [t.detach().requires_grad_() for t in (tracks if isinstance(tracks, list) else [tracks])]
    arranged = leaves if isinstance(tracks, list) else leaves[0]
    return lambda: torch.autograd.grad(score(arranged).sum(), leaves)


def candidates(tracks: Any, stacked: Tensor | None, compiled: bool) -> dict[str, Callable[[Any], Tensor]]:
    """Return the ways to compute LSS that are compared."""
    ways: dict[str, Callable[[Any], Tensor]] = {"lss": lss, "loop": loop}
    if stacked is not None:
        ways["eager"] = eager
    if compiled:
        ways |= {f"compiled {name}": torch.compile(ways[name]) for name in ways if name != "lss"}
    return ways


def bench(case: tuple[Any, ...], device: str, rounds: int, compiled: bool) -> dict[str, Any]:
    """Measure one case."""
    layout, dtype, points, m, d = case
    tracks, stacked = make_tracks(*case, device)
    check(tracks)
    ways = candidates(tracks, stacked, compiled)
    forward = {"read": read_bandwidth(tracks, device), "track_geometry": lambda: track_geometry(tracks)}
    forward |= {name: (lambda way=way: way(tracks)) for name, way in ways.items()}
    with torch.no_grad():
        t = medians(forward, device, rounds, f"{layout} {dtype} forward")
    both = {name: backward_of(way, tracks) for name, way in ways.items()}
    both["track_geometry"] = backward_of(
        lambda x: sum(f.nan_to_num().sum() for f in track_geometry(x)[:-1]), tracks
    )
    b = medians(both, device, max(3, rounds // 2), f"{layout} {dtype} backward")
    size = points * m * d * dtype.itemsize
    bandwidth = size * (2 if device == "cuda" else 1) / t["read"]
    row: dict[str, Any] = {
        "case": f"{layout} {str(dtype)[6:]} {points}x{m}x{d}",
        "lss ms": t["lss"] * 1e3,
        "GB/s": size / t["lss"] / 1e9,
        "% of bandwidth": 100 * size / t["lss"] / bandwidth,
        "geometry/lss": t["track_geometry"] / t["lss"],
    }
    row |= {f"{name}/lss": t[name] / t["lss"] for name in t if name not in ("lss", "read", "track_geometry")}
    row |= {"fwd+bwd ms": b["lss"] * 1e3, "bwd % of floor": 100 * 3 * size / bandwidth / b["lss"]}
    row |= {f"fwd+bwd {name}/lss": b[name] / b["lss"] for name in b if name != "lss"}
    return row


def main() -> None:
    """Run every case and save the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"]
    )
    parser.add_argument("--quick", action="store_true", help="few rounds, no torch.compile")
    parser.add_argument("--cases", type=int, default=None, help="only the first so many cases")
    args = parser.parse_args()
    cases = (CPU_CASES if args.device == "cpu" else GPU_CASES)[: args.cases]
    print(f"geodesic_fast {geodesic_fast.__version__} on {args.device}, forward and forward+backward")
    rounds = 7 if args.quick else 15
    rows = []
    for index, case in enumerate(cases):  # torch.compile takes long: only on the two shapes with a target
        rows.append(bench(case, args.device, rounds, not args.quick and index < 2))
        save("bench_lss", args.device, rows)
    report("bench_lss", args.device, rows)


if __name__ == "__main__":
    main()
