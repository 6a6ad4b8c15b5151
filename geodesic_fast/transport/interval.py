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

from geodesic_fast.transport.duals import column_dual, row_dual
from geodesic_fast.transport.points import Flow, Points
from geodesic_fast.transport.products import Products
from geodesic_fast.transport.rounding import FLOAT32_ROUNDOFF, of_product


class Interval(NamedTuple):
    """The scores that duals leave, the gap of the best permutation to them, and the duals (m) float64."""

    low: float
    high: float
    gap: float  # sum over the points, shifted costs
    u: np.ndarray
    v: np.ndarray


def score_interval(points: Points, products: Products, b: Tensor, flow: Flow) -> Interval:
    """Return the lowest and highest score that scaled b (cols) float64 leaves, and the gap of `flow`."""
    b = b - b.median()
    row, col, units = (torch.from_numpy(of).to(points.device) for of in _pairs(points))
    elsewhere = _best_elsewhere(points, products, b.float())  # (pairs)
    squares = points.scale**2
    norm_x, norm_y = points.square_x.sqrt() * points.scale, points.square_y.sqrt() * points.scale
    bound = of_product(points.d, FLOAT32_ROUNDOFF) * norm_x * norm_y.max()
    bound = (bound + 8 * FLOAT32_ROUNDOFF * (b.abs().max() + norm_x * norm_y.max()))[row]
    diagonal = _products_of(points, points.pair_row, points.pair_col, points.identity_cost)
    a = b.new_full((points.rows,), -torch.inf)
    a.scatter_reduce_(0, row, torch.maximum(elsewhere + bound, diagonal - b[col]), "amax")  # feasible
    supply, demand = (torch.from_numpy(of).to(points.device) for of in (points.supply, points.demand))
    bounded, size = (
        (a * supply).sum() + (b * demand).sum(),
        (a.abs() * supply).sum() + (b.abs() * demand).sum(),
    )
    taken = torch.from_numpy(flow.units).to(points.device)
    matched = _products_of(points, flow.row, flow.col, points.costs(flow.row, flow.col))
    gap = float(bounded - (matched * taken).sum()) + 1e-12 * float(size)
    fixed, moved = a[row] + b[col] - diagonal, (a[row] - elsewhere - bound).clamp(min=0)
    extra = (fixed - moved).repeat_interleave(units)
    low, high = _possible_counts(extra.cpu().numpy(), float((moved * units).sum()), gap)
    u = row_dual(points, a)
    return Interval(low / points.m, high / points.m, 2 * gap / squares, u, column_dual(points, b))


def _pairs(points: Points) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return points.pair_row, points.pair_col, points.pair_count


def _products_of(points: Points, row: np.ndarray, col: np.ndarray, cost: np.ndarray) -> Tensor:
    """Return the scaled products of listed pairs from their costs, float64."""
    i, j, costs = (torch.from_numpy(of).to(points.device) for of in (row.astype(int), col.astype(int), cost))
    return (points.square_x[i] + points.square_y[j] - costs) / 2 * points.scale**2


def _best_elsewhere(points: Points, products: Products, b: Tensor) -> Tensor:
    """Return max over the columns other than q of S_pj - b_j for each of the network's pairs (p, q)."""
    count = len(points.pair_row)
    best = torch.full((count,), -torch.inf, dtype=torch.float64, device=points.device)
    for start, stop, tile in products.tiles("interval"):
        for at in range(start, stop, 64):
            end = min(at + 64, stop)
            values = tile[at - start : end - start] - b
            first, last = np.searchsorted(points.pair_row, (at, end))
            rows, turn = points.pair_row[first:last] - at, np.zeros(last - first, np.int64)
            turn[1:] = np.arange(1, last - first) - np.searchsorted(rows, rows)[1:]
            for k in range(turn.max() + 1):  # the k-th pair of each row that has so many
                some = np.flatnonzero(turn == k)
                i = torch.from_numpy(rows[some]).to(b.device)
                j = torch.from_numpy(points.pair_col[first:last][some]).to(b.device)
                own = values[i, j]
                values[i, j] = -torch.inf
                here = torch.from_numpy(some + first).to(b.device)
                best[here] = (values if len(some) == end - at else values[i]).amax(1).double()
                values[i, j] = own
    return points.processes.highest(best)


def _possible_counts(extra: np.ndarray, base: float, gap: float) -> tuple[int, int]:
    """Return the fewest and most fixed points with base + (sum of that many smallest `extra`) <= gap."""
    totals = base + np.concatenate(([0.0], np.cumsum(np.sort(extra))))
    possible = np.flatnonzero(totals <= gap)
    return (int(possible[0]), int(possible[-1])) if len(possible) else (0, len(extra))
