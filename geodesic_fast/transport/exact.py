# SPDX-License-Identifier: MIT
"""What float64 cannot tell apart, in whole numbers: an optimal assignment with most fixed points.

Coordinates are whole multiples of one power of two, so products <x_i, y_j> are whole numbers too, and so is
the weight of a pair: -<x_i, y_j> first, then 1 where it is no fixed point. Python's integers do not round.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from geodesic_fast.transport.points import Flow, Points

_MOST_POINTS = 1024  # all pairs are looked at
_MOST_WORK = 1 << 25  # operations on whole numbers for one component


def settle_exactly(
    points: Points, flow: Flow, u: np.ndarray, v: np.ndarray, check_time: Callable[[], None]
) -> Flow | None:
    """Return an optimal flow with most fixed points, or None where that is too much work.

    u, v: duals of the shifted costs, near an optimum.
    """
    m = points.m
    if m > _MOST_POINTS:
        return None
    row, col = points.row_of, points.col_of[points.permutation(flow)]  # of each point, a unit
    component = _open_components(points, row, col, u, v)
    sizes = np.bincount(component)
    if (sizes**2 * (sizes + points.d)).max() > _MOST_WORK:
        return None
    for number in np.flatnonzero(sizes > 1):
        some = np.flatnonzero(component == number)
        weights = -(len(some) + 1) * _whole_products(points, row[some], col[some])
        weights = weights + (points.col_of[some, None] != col[None, some]).astype(object)
        col[some] = col[some][cheapest_assignment(weights, check_time)]
    keys, units = np.unique(row * points.cols + col, return_counts=True)
    rows, cols = np.divmod(keys, points.cols)
    return Flow(rows.astype(np.int32), cols.astype(np.int32), units.astype(np.int32))


def _open_components(
    points: Points, row: np.ndarray, col: np.ndarray, u: np.ndarray, v: np.ndarray
) -> np.ndarray:
    """Number the units (m) so that an optimal flow exchanges the columns of units of one number only.

    The total reduced cost of an optimal flow is at most that of this one, and each other unit's is at least
    its row's lowest: a pair that takes more than what is left cannot be in it.
    """
    rows, cols = (index.reshape(-1) for index in np.indices((points.rows, points.cols)))
    shape = points.rows, points.cols
    cost = points.costs(rows, cols.astype(np.int32))
    reduced = ((cost - v[cols]) - u[rows]).reshape(shape)
    rounding = points.cost_rounding(cost, u[rows], v[cols]).reshape(shape)
    least = (reduced - rounding).min(1)
    left = (reduced[row, col] + rounding[row, col] - least[row]).sum()
    i, j = np.nonzero(reduced - rounding - least[:, None] <= left)
    i, j = np.concatenate([i, points.rows + col]), np.concatenate([points.rows + j, row])
    from scipy.sparse import csgraph, csr_matrix  # where it is used: loading it takes a second

    graph = csr_matrix((np.ones(len(i), np.int8), (i, j)), shape=(sum(shape), sum(shape)))
    return csgraph.connected_components(graph, directed=True, connection="strong")[1][row]


def _whole_products(points: Points, rows: np.ndarray, cols: np.ndarray) -> Any:
    """Return <x_i, y_j> (rows, cols), in units of one power of two, as Python integers."""
    x, y = points.x[rows].double().cpu().numpy(), points.y[cols].double().cpu().numpy()
    mantissa, exponent = np.frexp(np.concatenate([x, y]))
    exponent[mantissa == 0] = exponent.max()
    whole = (mantissa * 2.0**53).astype(np.int64).astype(object)
    whole = whole << (exponent - exponent.min()).astype(object)
    return whole[: len(rows)] @ whole[len(rows) :].T


def cheapest_assignment(weights: Any, check_time: Callable[[], None]) -> np.ndarray:
    """Return the column (k) of each row with the least sum of weights (k, k), which are Python integers.

    Shortest augmenting paths, one row after the other.
    """
    k = len(weights)
    weights = weights - weights.min()
    far = (int(weights.max()) + 1) * (k + 1)  # longer than any path
    u, v = np.zeros(k, object), np.zeros(k + 1, object)
    owner = np.full(k + 1, -1)  # of each column; column k is where a new row waits
    for row in range(k):
        check_time()
        owner[k], at = row, k
        distance, before, seen = np.full(k + 1, far, object), np.full(k + 1, k), np.zeros(k + 1, bool)
        while owner[at] >= 0:
            seen[at] = True
            i = owner[at]
            reach = weights[i] - u[i] - v[:k]
            nearer = np.flatnonzero(~seen[:k] & (reach < distance[:k]).astype(bool))
            distance[nearer], before[nearer] = reach[nearer], at
            unseen = np.flatnonzero(~seen[:k])
            nearest = unseen[np.argmin(distance[unseen])]
            step = distance[nearest]
            u[owner[seen]] += step
            v[seen] -= step
            distance[unseen] -= step
            at = nearest
        while at != k:
            owner[at], at = owner[before[at]], before[at]
    column = np.empty(k, np.int64)
    column[owner[:k]] = np.arange(k)
    return column
