# SPDX-License-Identifier: MIT
"""What floating-point numbers may be off by: every bound that a proof stands on, derived here.

u is the unit roundoff, 2^-53 in float64 and 2^-24 in float32. Bounds are to first order in u. What is of
second order is d u of them: in float64 below 2^-20, which is added where it counts (`_AND_MORE`); in
float32 the roundings set aside below hold it up to d = 10,000, and beyond, products are summed in blocks,
whose bound is far below d u. Numbers too small to be normal come in absolute terms beside it. A sum of d
terms, in whatever order, is off by at most d u times the sum of their sizes.

**A product of two points**, <x, y> from shifted points. Each coordinate is a difference and rounds once, to
u of itself, which makes 2 u |x| |y| (Cauchy-Schwarz); the d products and their sum make d u |x| |y|. Around
a pass over tiles 10 u |x| |y| more are set aside: for norms that are rounded to float32, their product, and
the sums in which potentials are taken off, of which each is at most 4 u of a potential (`FILTERED`). So d +
12. Listed pairs in float64 need no norms in float32: d + 8.

**A squared distance**, sum of (x_k - y_k)^2. A difference rounds once and counts twice, its square once;
sums run in at least four strands of d / 4 terms; to these come at most fifteen terms at the end and five
joins. From the cost two duals are taken, each of which rounds what is there. So d / 4 + 32, times cost +
|u| + |v|. Where the sets are shifted by different amounts, a coordinate rounds relative to |x| and |y|
instead: each point is off by up to 2 u of its norm, by which the square of a distance c^(1/2) moves 2
c^(1/2) e + e^2.

**Duals as given.** Four terms are added: three sums, and at most three roundings in each term. 8 u of their
sizes covers that.
"""

from __future__ import annotations

import numpy as np

from geodesic_fast.transport.points import Points

UNIT_ROUNDOFF, FLOAT32_ROUNDOFF = 2.0**-53, 2.0**-24
ADDED_TERMS = 8 * UNIT_ROUNDOFF
FILTERED = 4 * FLOAT32_ROUNDOFF
_AND_MORE = 1 + 2.0**-20


def of_product(d: int, roundoff: float) -> float:
    """Bound the rounding of a product of a tile over |x| |y|."""
    return (d + 12) * roundoff


def of_listed_product(d: int) -> float:
    """Bound the rounding of a float64 product of a listed pair over |x| |y|."""
    return UNIT_ROUNDOFF * (d + 8)


def of_cost(d: int, cost: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Bound the rounding of a float64 cost and of its reduced cost, per pair, of sets shifted alike."""
    return (d / 4 + 32) * UNIT_ROUNDOFF * (cost + np.abs(u) + np.abs(v))


def of_reduced_cost(
    points: Points, rows: np.ndarray, cols: np.ndarray, cost: np.ndarray, u: np.ndarray, v: np.ndarray
) -> np.ndarray:
    """Bound the rounding of (cost - v_j) - u_i for pairs whose `cost` comes from `points.costs`."""
    bound = of_cost(points.d, cost, u[rows], v[cols])
    step = 2.0**-1060 * points.d
    if points.apart:
        norm_x, norm_y = (np.sqrt(square.cpu().numpy()) for square in (points.square_x, points.square_y))
        step = step + 2 * UNIT_ROUNDOFF * (norm_x[rows] + norm_y[cols])
    return (bound + step * (2 * np.sqrt(cost) + step)) * _AND_MORE + 2.0**-1060 * points.d


def of_reduced_product(error: np.ndarray, product: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Bound the rounding of (product - v) - u for a product that errs by `error`."""
    duals = 2 * UNIT_ROUNDOFF * (np.abs(product) + np.abs(u) + np.abs(v))
    return (error + duals) * _AND_MORE + 2.0**-800
