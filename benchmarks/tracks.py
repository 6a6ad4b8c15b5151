# SPDX-License-Identifier: MIT
"""Tracks to measure, and what their floor is measured with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

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
