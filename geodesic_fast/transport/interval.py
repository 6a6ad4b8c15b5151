# SPDX-License-Identifier: MIT
"""What is proved about the score before the assignment is: an interval that holds it.

With duals of gap G to the best permutation known, an optimal permutation has total slack at most G. A fixed
point i costs r_ii, a moved one at least d_i, the least slack of its row away from the diagonal. So k fixed
points are possible only if sum d + (the k smallest r_ii - d_i) <= G.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from geodesic_fast.transport.points import Points
from geodesic_fast.transport.potentials import column_dual
from geodesic_fast.transport.products import FLOAT32_ROUNDOFF, Products
from geodesic_fast.transport.ties import equal_point_labels


class Interval(NamedTuple):
    """The scores that duals leave, the gap of the best permutation to them, and the duals (m) float64."""

    low: float
    high: float
    gap: float  # sum over the points, shifted costs
    u: np.ndarray
    v: np.ndarray


def score_interval(points: Points, products: Products, b: Tensor, match: np.ndarray) -> Interval:
    """Return the lowest and highest score that scaled b (m) float64 leaves, and the gap of `match`."""
    b = b - b.median()
    elsewhere = _best_elsewhere(points, products, b.float())
    squares = points.scale**2
    norm_x, norm_y = points.square_x.sqrt() * points.scale, points.square_y.sqrt() * points.scale
    bound = (points.d + 12) * FLOAT32_ROUNDOFF * norm_x * norm_y.max()
    bound = bound + 8 * FLOAT32_ROUNDOFF * (b.abs().max() + norm_x * norm_y.max())
    identity = torch.from_numpy(points.identity_cost).to(points.device)
    diagonal = (points.square_x + points.square_y - identity) / 2 * squares
    a = torch.maximum(elsewhere + bound, diagonal - b)  # feasible
    cost = torch.from_numpy(points.costs(np.arange(points.m), match)).to(points.device)
    matched = torch.from_numpy(match.astype(np.int64)).to(points.device)
    matched_product = (points.square_x + points.square_y[matched] - cost) / 2 * squares
    gap = float((a + b).sum() - matched_product.sum()) + 1e-12 * float((a.abs() + b.abs()).sum())
    fixed, moved = a + b - diagonal, (a - elsewhere - bound).clamp(min=0)
    labels = equal_point_labels(points.y)
    twins = torch.from_numpy(np.bincount(labels)[labels] > 1).to(points.device)
    fixed = torch.where(twins, 0.0, fixed)  # a twin of y_i is as good, and may be cheaper in these duals
    low, high = _possible_counts((fixed - moved).cpu().numpy(), float(moved.sum()), gap)
    u = (points.square_x - 2 * a / squares).cpu().numpy()
    return Interval(low / points.m, high / points.m, 2 * gap / squares, u, column_dual(points, b))


def _best_elsewhere(points: Points, products: Products, b: Tensor) -> Tensor:
    """Return max over j != i of S_ij - b_j, (m) float64."""
    best = torch.full((points.m,), -torch.inf, dtype=torch.float64, device=points.device)
    for start, stop, tile in products.tiles("interval"):
        for at in range(start, stop, 64):
            end = min(at + 64, stop)
            values = tile[at - start : end - start] - b
            index = torch.arange(at, end, device=values.device)
            values[index - at, index] = -torch.inf
            best[at:end] = values.amax(1).double()
    return best


def _possible_counts(extra: np.ndarray, base: float, gap: float) -> tuple[int, int]:
    """Return the fewest and most fixed points with base + (sum of that many smallest `extra`) <= gap."""
    totals = base + np.concatenate(([0.0], np.cumsum(np.sort(extra))))
    possible = np.flatnonzero(totals <= gap)
    return (int(possible[0]), int(possible[-1])) if len(possible) else (0, len(extra))
