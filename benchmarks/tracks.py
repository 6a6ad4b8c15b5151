# SPDX-License-Identifier: MIT
"""Tracks to measure, what their floor is measured with, and how a benchmark of tracks is called."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import torch
from measure import report, save
from torch import Tensor

import geodesic_fast

Case = tuple[str, torch.dtype, int, int, int]  # layout, dtype, points, tracks, features


def make_tracks(case: Case, device: str) -> Any:
    """Return tracks in the given layout, layer axis first: a tensor (n+1, m, d), or a list of (m, d)."""
    layout, dtype, points, m, d = case
    x = torch.randn(points, m, d, device=device, dtype=dtype)
    if layout == "track-major":
        return x.movedim(0, 1).contiguous().movedim(1, 0)
    return [layer.clone() for layer in x] if layout == "list" else x


def name_of(case: Case) -> str:
    """Return what a row is called."""
    layout, dtype, points, m, d = case
    return f"{layout} {str(dtype)[6:]} {points}x{m}x{d}"


def first_few(tracks: Any, count: int) -> Any:
    """Return the first so many tracks, in the same layout."""
    return [layer[:count] for layer in tracks] if isinstance(tracks, list) else tracks[:, :count]


def read_once(tracks: Any, device: str) -> Callable[[], Any]:
    """Return what reads the same bytes once: a sum on the CPU, a device-to-device copy on a GPU."""
    layers = tracks if isinstance(tracks, list) else [tracks]
    if device == "cuda":
        targets = [torch.empty_like(layer) for layer in layers]
        return lambda: [target.copy_(layer) for target, layer in zip(targets, layers, strict=True)]
    return lambda: [layer.view(torch.float32).sum() for layer in layers]


def backward_of(metric: Callable[[Any], Tensor], tracks: Any) -> Callable[[], Any]:
    """Return forward and backward of the sum of the metric."""
    leaves = [t.detach().requires_grad_() for t in (tracks if isinstance(tracks, list) else [tracks])]
    arranged = leaves if isinstance(tracks, list) else leaves[0]
    return lambda: torch.autograd.grad(metric(arranged).sum(), leaves)


def run_cases(
    name: str,
    description: str | None,
    cases: dict[str, Sequence[Any]],
    bench: Callable[[Any, str, int], dict[str, Any]],
) -> None:
    """Read the command line, bench every case of the device, save after each, and print the table."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"]
    )
    parser.add_argument("--quick", action="store_true", help="few rounds")
    parser.add_argument("--cases", type=int, default=None, help="only the first so many cases")
    args = parser.parse_args()
    print(f"geodesic_fast {geodesic_fast.__version__} on {args.device}, {name}")
    rows = []
    for case in cases[args.device][: args.cases]:
        rows.append(bench(case, args.device, 5 if args.quick else 11))
        save(name, args.device, rows)
    report(name, args.device, rows)
