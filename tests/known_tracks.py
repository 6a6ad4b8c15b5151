# SPDX-License-Identifier: MIT
"""Tracks whose geometry is known in closed form, and random ones in every layout the API takes."""

import math

import numpy as np
import torch

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# (steps, *batch, features): odd sizes, one step, one feature, a single track, several batch axes
SHAPES = (
    (2, 3, 1), (1, 5, 7), (12, 4, 64), (5, 3, 3), (32, 2, 100), (80, 3, 17), (130, 2, 33),
    (4, 2, 3, 50), (3, 2, 1, 2, 9), (6, 1, 768), (3, 2, 1111), (2, 2, 8200), (7, 40),
)  # fmt: skip
LAYOUTS = ("layer-major", "track-major", "list", "sliced", "reversed")


def random_tracks(shape, dtype, device="cpu"):
    """Return (n+1, *batch, d): a random walk with a drift, of moderate bends."""
    steps, *rest = shape
    walk = torch.randn(steps + 1, *rest, dtype=torch.float64) + 0.2
    return walk.cumsum(0).to(dtype).to(device)


def true_lss(tracks):
    """Return LSS of (n+1, *batch, d) in extended precision, NumPy's own arithmetic and nothing else."""
    steps = np.diff(tracks.detach().double().cpu().numpy().astype(np.longdouble), axis=0)
    directions = steps / np.sqrt((steps**2).sum(-1, keepdims=True))
    with np.errstate(divide="ignore"):
        return torch.as_tensor((len(steps) / np.sqrt((directions.sum(0) ** 2).sum(-1))).astype(np.float64))


def laid_out(tracks, layout):
    """Return (tracks, dim) that hold the same values as (n+1, *batch, d) in another layout."""
    if layout == "track-major":
        return tracks.movedim(0, -2).contiguous(), tracks.ndim - 2
    if layout == "list":
        return [layer.clone() for layer in tracks], 0
    if layout == "sliced":  # every axis a part of a larger one, features still contiguous
        room = torch.zeros([2 * size + 1 for size in tracks.shape], dtype=tracks.dtype, device=tracks.device)
        part = room[
            (*tuple(slice(1, 2 * size, 2) for size in tracks.shape[:-1]), slice(1, tracks.shape[-1] + 1))
        ]
        part.copy_(tracks)
        return part, 0
    if layout == "reversed":  # features not contiguous: copied
        return tracks.movedim(-1, 0).contiguous().movedim(0, -1), 0
    return tracks, 0


def line(steps, features):
    """Return (n+1, d) on a straight line with unequal steps: LSS 1."""
    torch.manual_seed(1)
    return torch.rand(steps + 1, 1, dtype=torch.float64).cumsum(0) * torch.randn(
        features, dtype=torch.float64
    )


def arc(steps, angle):
    """Return (n+1, 2) unit steps that each turn by `angle`, and their LSS."""
    turns = torch.arange(steps, dtype=torch.float64) * angle
    points = torch.stack((turns.cos(), turns.sin()), -1).cumsum(0)
    return torch.cat((torch.zeros(1, 2, dtype=torch.float64), points)), steps * abs(
        math.sin(angle / 2) / math.sin(steps * angle / 2)
    )


def gradient(metric, tracks, weights):
    """Return d(sum weights * metric) / d tracks, for a tensor or a list."""
    leaves = tracks if isinstance(tracks, list) else [tracks]
    for leaf in leaves:
        leaf.requires_grad_()
    found = torch.autograd.grad((metric(tracks) * weights).sum(), leaves)
    return torch.stack(found) if isinstance(tracks, list) else found[0]
