# SPDX-License-Identifier: MIT
"""Is the network's own pairing optimal? Min-plus sweeps with the identity as the matching.

The identity is optimal exactly when b_j = max_i (S_ij - S_ii + b_i) has a fixed point. Two starts settle it
for well-behaved maps: b = <x, y> / 2, for which the slack of (i, j) is half of <x_i - x_j, y_i - y_j> when y
is a symmetric linear map of x, and b = |y|^2 / 2, for which every y_j has its own x_j as its nearest.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from geodesic_fast.transport.passes import column_best_pass
from geodesic_fast.transport.points import Points
from geodesic_fast.transport.products import OutOfTimeError, Products, full_float32
from geodesic_fast.transport.rounding import FLOAT32_ROUNDOFF

_SAMPLE, _SAMPLED_VALUES = 512, 1 << 20
_FEATURES_AT_ONCE = 128
_HOPELESS = 0.3  # share of sampled points that would be better off elsewhere
_MOST_SWEEPS = 6


def identity_potential(
    points: Points, products: Products, given: Tensor | None = None
) -> tuple[Tensor, int, int]:
    """Return scaled column potentials b (cols) float64, how many a sweep still changed, and the sweeps.

    Potentials that are given are a third start.
    """
    squares = points.scale**2
    diagonal = _diagonal(points) * squares
    starts = [_largest(diagonal / 2, points.pair_col, points.cols), points.square_y * squares / 2]
    starts += [] if given is None else [given]
    best, fewest, sweeps = starts[0], points.cols, 0
    live = [b for b in starts if _sampled_changes(points, diagonal, b) < _HOPELESS]
    counts = [points.cols] * len(live)
    while live and sweeps < _MOST_SWEEPS:
        try:
            after = _sweep(points, products, diagonal, live)
        except OutOfTimeError:  # what the sweeps before found still bounds the score
            break
        sweeps += 1
        changed = [int(_changed(points, new, old).sum()) for new, old in zip(after, live, strict=True)]
        for b, count in zip(live, changed, strict=True):
            if count < fewest:
                best, fewest = b, count
        if fewest == 0:
            break
        falling = [2 * count < before for count, before in zip(changed, counts, strict=True)]
        live = [b for b, keep in zip(after, falling, strict=True) if keep]
        counts = [count for count, keep in zip(changed, falling, strict=True) if keep]
    return best, fewest, sweeps


def _diagonal(points: Points) -> Tensor:
    """Return S_ii = (|x_i|^2 + |y_i|^2 - c_ii) / 2 of the network's own pairs, (pairs) float64."""
    cost = torch.from_numpy(points.identity_cost).to(points.device)
    row, col = (torch.from_numpy(index).to(points.device) for index in (points.pair_row, points.pair_col))
    return (points.square_x[row] + points.square_y[col] - cost) / 2


def _largest(values: Tensor, place: np.ndarray, size: int) -> Tensor:
    """Return the largest of the values at each place, (size)."""
    index = torch.from_numpy(place).to(values.device)
    return values.new_full((size,), -torch.inf).scatter_reduce_(0, index, values, "amax")


def _sweep(points: Points, products: Products, diagonal: Tensor, live: list[Tensor]) -> list[Tensor]:
    """Return max(b_j, max_i (S_ij - S_ii + b_i)) for each b."""
    best = [b.float() for b in live]
    col = torch.from_numpy(points.pair_col).to(points.device)
    rows = [_largest(diagonal - b[col], points.pair_row, points.rows).float() for b in live]
    for start, stop, tile in products.tiles("identity"):
        for a, b in zip(rows, best, strict=True):
            column_best_pass(tile, a[start:stop], b)
    best = [points.processes.highest(b) for b in best]
    return [torch.maximum(b, old.float()).double() for b, old in zip(best, live, strict=True)]


def _changed(points: Points, new: Tensor, old: Tensor) -> Tensor:
    rounding = (points.d + 10) * FLOAT32_ROUNDOFF * points.square_y.sqrt() * points.scale
    return new > old + rounding + 8 * FLOAT32_ROUNDOFF * old.abs()


def _sampled_changes(points: Points, diagonal: Tensor, b: Tensor) -> float:
    """Return the share of a sample that a sweep over the sample alone would change."""
    pairs = len(diagonal)
    if pairs <= _SAMPLE:
        return 0.0
    picked = np.linspace(0, pairs - 1, min(_SAMPLE, max(64, _SAMPLED_VALUES // points.d))).astype(np.int64)
    index, row, col = (
        torch.from_numpy(of).to(points.device)
        for of in (picked, points.pair_row[picked], points.pair_col[picked])
    )
    own = b[col]
    better = (own - diagonal[index]).float()[:, None].repeat(1, len(index))
    with full_float32(points.device):
        for left in range(0, points.d, _FEATURES_AT_ONCE):
            features = slice(left, left + _FEATURES_AT_ONCE)
            better.addmm_(points.block("x", row, features), points.block("y", col, features).T)
    return float(_changed_sample(better.amax(0), own))


def _changed_sample(best: Tensor, b: Tensor) -> Tensor:
    return (best > b + 1e-4 * b.abs()).double().mean()
