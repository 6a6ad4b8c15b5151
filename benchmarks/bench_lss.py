# SPDX-License-Identifier: MIT
"""lss and track_geometry against eager torch, its best loop and torch.compile, and against the memory limit.

python benchmarks/bench_lss.py [--device cuda] [--quick]
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from measure import medians, run_cases
from torch import Tensor
from tracks import Case, backward_of, make_tracks, name_of, read_once

from geodesic_fast import lss, track_geometry

COMPILED = 2  # torch.compile takes long: on the CPU only on these first cases, on a GPU last
CASES = {
    "cpu": [
        ("layer-major", torch.float32, 33, 4096, 768),
        ("track-major", torch.float32, 33, 4096, 768),
        ("layer-major", torch.bfloat16, 33, 4096, 768),
        ("track-major", torch.bfloat16, 33, 4096, 768),
        ("list", torch.bfloat16, 81, 256, 8192),
        ("layer-major", torch.float32, 13, 32, 64),
    ],
    "cuda": [
        ("layer-major", torch.bfloat16, 33, 16384, 4096),
        ("layer-major", torch.float32, 33, 16384, 4096),
        ("track-major", torch.bfloat16, 33, 16384, 4096),
        ("list", torch.bfloat16, 81, 4096, 8192),
        ("layer-major", torch.float32, 33, 65536, 768),
        ("layer-major", torch.float32, 13, 32, 64),
    ],
    "cuda, slow": [
        ("layer-major, compiled", torch.bfloat16, 33, 16384, 4096),
        ("layer-major, compiled", torch.float32, 33, 16384, 4096),
    ],
}

SMALL, CALLS = 100_000, 200  # below so many values a call is all overhead: then many are timed at once


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


def five_ops(x: Tensor) -> Tensor:
    """All of `eager` but its last division."""
    v = x.diff(dim=0)
    return (v / v.norm(dim=-1, keepdim=True)).sum(0).norm(dim=-1)


def repeated(call: Callable[[], Any], times: int) -> Callable[[], None]:
    """Return a call that makes so many."""

    def run() -> None:
        for _ in range(times):
            call()

    return run


def check(tracks: Any) -> None:
    """Refuse to time a wrong answer."""
    few = [layer[:8].double() for layer in tracks]
    got = lss([layer[:8] for layer in tracks]).double()
    torch.testing.assert_close(got, eager(torch.stack(few)), rtol=1e-5, atol=0)


def candidates(tracks: Any, stacked: Tensor | None, compiled: bool) -> dict[str, Callable[[Any], Tensor]]:
    """Return the ways to compute LSS that are compared."""
    ways: dict[str, Callable[[Any], Tensor]] = {"lss": lss, "loop": loop}
    if stacked is not None:
        ways["eager"] = eager
        if stacked.numel() < SMALL:
            ways["five ops"] = five_ops
    if compiled:
        ways |= {f"compiled {name}": torch.compile(ways[name]) for name in ways if name != "lss"}
    return ways


def bench(case: Case, device: str, quick: bool) -> dict[str, Any]:
    """Measure one case."""
    layout, dtype, points, m, d = case
    rounds = 7 if quick else 15
    compiled = not quick and case in [*CASES["cpu"][:COMPILED], *CASES["cuda, slow"]]
    tracks = make_tracks(case, device)
    stacked = None if layout == "list" else tracks
    check(tracks)
    ways = candidates(tracks, stacked, compiled)
    forward = {"read": read_once(tracks, device), "track_geometry": lambda: track_geometry(tracks)}
    forward |= {name: (lambda way=way: way(tracks)) for name, way in ways.items()}
    both = {name: backward_of(way, tracks) for name, way in ways.items()}
    both["track_geometry"] = backward_of(
        lambda x: sum(f.nan_to_num().sum() for f in track_geometry(x)[:-1]), tracks
    )
    calls = CALLS if points * m * d < SMALL else 1
    forward, both = ({name: repeated(way, calls) for name, way in group.items()} for group in (forward, both))
    with torch.no_grad():
        t = medians(forward, device, rounds, f"{layout} {dtype} forward")
    b = medians(both, device, max(3, rounds // 2), f"{layout} {dtype} backward")
    t, b = ({name: seconds / calls for name, seconds in group.items()} for group in (t, b))
    size = points * m * d * dtype.itemsize
    bandwidth = size * (2 if device == "cuda" else 1) / t["read"]
    row: dict[str, Any] = {
        "case": name_of(case),
        "lss ms": t["lss"] * 1e3,
        "GB/s": size / t["lss"] / 1e9,
        "% of bandwidth": 100 * size / t["lss"] / bandwidth,
        "geometry/lss": t["track_geometry"] / t["lss"],
    }
    row |= {f"{name}/lss": t[name] / t["lss"] for name in t if name not in ("lss", "read", "track_geometry")}
    row |= {"fwd+bwd ms": b["lss"] * 1e3, "bwd % of floor": 100 * 3 * size / bandwidth / b["lss"]}
    row |= {f"fwd+bwd {name}/lss": b[name] / b["lss"] for name in b if name != "lss"}
    return row


if __name__ == "__main__":
    run_cases("bench_lss", __doc__, CASES, bench)
