# SPDX-License-Identifier: MIT
"""What float64 cannot tell apart, in whole numbers: an optimal assignment with most fixed points.

Coordinates are whole multiples of one power of two, so products <x_i, y_j> are whole numbers too, and so is
the weight of a pair: -<x_i, y_j> first, then 1 where it is no fixed point. Python's integers do not round.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from geodesic_fast.transport.points import Points


def whole_products(points: Points, rows: np.ndarray, cols: np.ndarray) -> Any:
    """Return <x_i, y_j> (rows, cols) of the values given, in units of one power of two, as integers."""
    return _whole(points.given("x", rows)) @ _whole(points.given("y", cols)).T


def _whole(values: np.ndarray) -> Any:
    mantissa, exponent = np.frexp(values)
    exponent[mantissa == 0] = exponent.max()
    whole = (mantissa * 2.0**53).astype(np.int64).astype(object)
    return whole << (exponent - exponent.min()).astype(object)


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
