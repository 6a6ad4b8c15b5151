# SPDX-License-Identifier: MIT
"""The proof that a flow is an optimum with most fixed points, for the values given and without a tolerance.

Bounds. Duals are float64 numbers, taken as they are, so a reduced cost r_ij = c_ij - u_i - v_j is one real
number; float64 finds it to a bound n_ij (`Points.reduced_rounding` for squared distances, `_Local` for
products). Let lo = r - n and hi = r + n as computed, F the flow.

Parts. Rows lead to the columns of their doubtful pairs, lo <= 0, and columns to the rows whose units they
hold. What is optimal within a strongly connected part s has potentials in [-B_s, 0] there, in which all its
pairs are at least zero and those used are zero, with B_s = 2 sum supply_i max_j (-lo_ij)+ + sum F hi+: a
shortest path goes through each row once, and the optimum costs no more than F. So nothing crosses between
parts if potentials P exist with lo_ij - B_s + P_s - P_t > 0 for all pairs (i, j) from s to another part t.
Parts between which they do not are joined. A pair that is not listed has r_ij > of_row_i + of_col_j, its
window, and does not cross where of_row_i > B_s - P_s and of_col_j > P_t.

Then each part is a problem of its own, and has a choice only with two rows and two columns. It is solved
again by its products -<x_i - s, y_j - t>, with shifts and duals of its own size, and falls into smaller
parts; where it does not, whole numbers decide: coordinates are multiples of a power of two.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components

from geodesic_fast._extension import engine
from geodesic_fast.transport.exact import cheapest_assignment, whole_products
from geodesic_fast.transport.points import UNIT_ROUNDOFF, Flow, Points
from geodesic_fast.transport.sparse_assignment import Rows, cheapest_flow, most_fixed_flow

_MOST_WORK = 1 << 27  # operations on whole numbers for one part
_SMALL = 12  # units that whole numbers settle at once
_MOST_JOINS = 64
_LOWERED = 64  # potentials lowered for each arc before a negative cycle is assumed
_PRODUCTS_AT_ONCE = 1 << 22
_EXACT_BITS = 50
_MOST_DEPTH = 3


@dataclass(frozen=True)
class Bounds:
    """Reduced costs of listed pairs (row, col), numbered from 0, and the flow on them."""

    row: np.ndarray
    col: np.ndarray
    low: np.ndarray
    high: np.ndarray
    units: np.ndarray
    supply: np.ndarray  # (rows)
    cols: int

    @property
    def exact(self) -> bool:
        """Whether there was no rounding, and the flow is an optimum."""
        return bool(
            (self.low == self.high).all() and (self.low >= 0).all() and not self.low[self.units > 0].any()
        )


@dataclass(frozen=True)
class Parts:
    """The part of each row and column, and what their windows must exceed."""

    of_row: np.ndarray
    of_col: np.ndarray
    row_window: np.ndarray
    col_window: np.ndarray


def separate(bounds: Bounds) -> Parts:
    """Return parts between which no optimum exchanges units."""
    doubtful = (bounds.low <= 0) | (bounds.units > 0)
    joined = np.zeros(len(bounds.row), bool)
    for attempt in range(_MOST_JOINS + 1):
        of_row, of_col = _components(bounds, doubtful, joined)
        if bounds.exact:
            nothing = np.zeros(max(of_row.max(), of_col.max()) + 1)
            return Parts(of_row, of_col, nothing[of_row], nothing[of_col])
        moves = _moves(bounds, of_row, of_col)
        potential, crossing = _potentials(bounds, of_row, of_col, moves)
        if not crossing.any():
            break
        joined |= crossing if attempt < _MOST_JOINS - 1 else True
    return Parts(of_row, of_col, (moves - potential)[of_row], potential[of_col])


def _components(bounds: Bounds, doubtful: np.ndarray, joined: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rows, used = len(bounds.supply), (bounds.units > 0) | joined
    doubtful = doubtful | joined
    tail = np.concatenate([bounds.row[doubtful], rows + bounds.col[used]])
    head = np.concatenate([rows + bounds.col[doubtful], bounds.row[used]])
    size = rows + bounds.cols
    graph = csr_matrix((np.ones(len(tail), np.int8), (tail, head)), shape=(size, size))
    component = connected_components(graph, directed=True, connection="strong")[1]
    return component[:rows], component[rows:]


def _moves(bounds: Bounds, of_row: np.ndarray, of_col: np.ndarray) -> np.ndarray:
    """Return B of each part, rounded up."""
    count = max(of_row.max(), of_col.max()) + 1
    worst = np.zeros(len(bounds.supply))
    np.maximum.at(worst, bounds.row, -bounds.low)
    used = np.flatnonzero(bounds.units)
    moves = 2 * np.bincount(of_row, worst * bounds.supply, count)
    over = np.maximum(bounds.high[used], 0) * bounds.units[used]
    return (moves + np.bincount(of_row[bounds.row[used]], over, count)) * (1 + 2.0**-20)


def _potentials(
    bounds: Bounds, of_row: np.ndarray, of_col: np.ndarray, moves: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return P of each part, and which pairs cross in spite of it."""
    assert engine is not None
    tail, head = of_row[bounds.row], of_col[bounds.col]
    noise = bounds.high - bounds.low
    potential = moves.copy()  # the larger a part's own rounding, the further it gives way
    used = np.flatnonzero(bounds.units)
    np.maximum.at(potential, tail[used], 4 * noise[used])
    arcs = np.flatnonzero(tail != head)
    order = arcs[np.argsort(tail[arcs], kind="stable")]
    start = np.searchsorted(tail[order], np.arange(len(moves) + 1)).astype(np.int64)
    length = bounds.low[order] - moves[tail[order]]
    strict = np.ascontiguousarray(length - noise[order] - 8 * UNIT_ROUNDOFF * np.abs(length))
    heads = np.ascontiguousarray(head[order], np.int32)
    addresses = [array.ctypes.data for array in (start, heads, strict, potential)]
    engine.ots_lower_potentials(len(moves), *addresses, _LOWERED * len(order) + 1024)
    before, after = potential[tail[order]], potential[heads]
    slack = length + (before - after)
    crossing = np.zeros(len(tail), bool)
    crossing[order] = ~(slack > 8 * UNIT_ROUNDOFF * (np.abs(length) + np.abs(before) + np.abs(after)))
    return potential, crossing


class Proof:
    """Listed pairs of all points with the flow on them, which is made an optimum part by part."""

    def __init__(
        self, points: Points, flow: Flow, pairs: tuple[np.ndarray, np.ndarray], check_time: Callable[[], None]
    ) -> None:
        self.points, self.check_time = points, check_time
        listed = pairs[0].astype(np.int64) * points.cols + pairs[1]
        self.keys = np.unique(np.concatenate([flow.key(points.cols), listed]))
        self.row, self.col = np.divmod(self.keys, points.cols)
        self.units = np.zeros(len(self.keys), np.int32)
        self.units[np.searchsorted(self.keys, flow.key(points.cols))] = flow.units
        self.whole = False  # whether whole numbers were needed

    def flow(self) -> Flow:
        """Return the pairs that have units."""
        used = np.flatnonzero(self.units)
        return Flow(self.row[used].astype(np.int32), self.col[used].astype(np.int32), self.units[used])

    def separate(self, u: np.ndarray, v: np.ndarray) -> Parts:
        """Return the parts by duals of the shifted costs."""
        points = self.points
        cost = points.costs(self.row, self.col.astype(np.int32))
        reduced = (cost - v[self.col]) - u[self.row]
        rounding = points.reduced_rounding(self.row, self.col, cost, u, v)
        low, high = reduced - rounding, reduced + rounding
        return separate(Bounds(self.row, self.col, low, high, self.units, points.supply, points.cols))

    def settle(self, parts: Parts) -> bool:
        """Make the flow an optimum with most fixed points; return whether that was not too much work."""
        return all(self._settle_part(part) for part in _choices(self.row, self.col, parts))

    def _settle_part(self, edges: np.ndarray, depth: int = 0) -> bool:
        self.check_time()
        rows, row = np.unique(self.row[edges], return_inverse=True)
        cols, col = np.unique(self.col[edges], return_inverse=True)
        supply, demand = self.points.supply[rows], self.points.demand[cols]
        if supply.sum() <= _SMALL:
            return self._settle_whole(rows, cols)
        local = _Local(self.points, rows, cols)
        cost = local.costs(row, col)
        graph = Rows(
            np.searchsorted(row, np.arange(len(rows) + 1)).astype(np.int64),
            col.astype(np.int32),
            supply,
            demand,
        )
        v, units = np.zeros(len(cols)), self.units[edges]
        u, _ = cheapest_flow(graph, cost, v, units, self.check_time)
        self.units[edges] = units
        reduced, rounding = (cost - v[col]) - u[row], local.rounding(row, col, cost, u, v)
        bounds = Bounds(row, col, reduced - rounding, reduced + rounding, units, supply, len(cols))
        parts = separate(bounds)
        if bounds.exact:
            self._most_fixed(edges[bounds.low == 0])
            return True
        smaller = [edges[part] for part in _choices(row, col, parts)]
        if any(2 * len(part) > len(edges) for part in smaller) and depth == _MOST_DEPTH:
            return self._settle_whole(rows, cols)
        if len(smaller) == 1 and len(smaller[0]) == len(edges):
            return self._settle_whole(rows, cols)
        return all(self._settle_part(part, depth + 1) for part in smaller)

    def _most_fixed(self, edges: np.ndarray) -> None:
        """Give the tied pairs the flow with most units that stay at their own pair."""
        points = self.points
        rows, row = np.unique(self.row[edges], return_inverse=True)
        cols, col = np.unique(self.col[edges], return_inverse=True)
        own = points.pair_row * points.cols + points.pair_col
        place = np.minimum(np.searchsorted(own, self.keys[edges]), len(own) - 1)
        stay = np.where(own[place] == self.keys[edges], points.pair_count[place], 0).astype(np.int32)
        start = np.searchsorted(row, np.arange(len(rows) + 1)).astype(np.int64)
        graph = Rows(start, col.astype(np.int32), points.supply[rows], points.demand[cols])
        self.units[edges] = most_fixed_flow(graph, stay, self.check_time)

    def _settle_whole(self, rows: np.ndarray, cols: np.ndarray) -> bool:
        """Decide in whole numbers, one row for each point x and one column for each point y."""
        points = self.points
        some = np.flatnonzero(np.isin(points.row_of, rows))
        col = np.repeat(cols, points.demand[cols])
        if len(some) ** 2 * (len(some) + points.d) > _MOST_WORK:
            return False
        self.whole = True
        row = points.row_of[some]
        weights = -(len(some) + 1) * whole_products(points, row, col)
        weights = weights + (points.col_of[some, None] != col[None]).astype(object)
        found = col[cheapest_assignment(weights, self.check_time)]
        keys, units = np.unique(row * points.cols + found, return_counts=True)
        place = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        if not np.array_equal(self.keys[place], keys):
            return False
        self.units[np.isin(self.row, rows)] = 0
        self.units[place] = units
        return True


class _Local:
    """Products of the points of one part, in units in which the largest coordinate is about 1."""

    def __init__(self, points: Points, rows: np.ndarray, cols: np.ndarray) -> None:
        (self.x, exact_x), (self.y, exact_y) = (
            _centred(points.given(which, index)) for which, index in (("x", rows), ("y", cols))
        )
        self.norm_x, self.norm_y = (np.sqrt(np.square(p).sum(1)) * (1 + 2.0**-40) for p in (self.x, self.y))
        self.d = points.d
        bits = _bits(self.x) + _bits(self.y) + math.frexp(self.d)[1]
        self.unit = (
            _lowest_bit(self.x) * _lowest_bit(self.y) if exact_x and exact_y and bits <= _EXACT_BITS else 0.0
        )

    def costs(self, row: np.ndarray, col: np.ndarray) -> np.ndarray:
        """Return -<x_i, y_j> of listed pairs."""
        cost = np.empty(len(row))
        if len(self.x) * len(self.y) <= _PRODUCTS_AT_ONCE:
            return -(self.x @ self.y.T)[row, col]
        step = max(1, _PRODUCTS_AT_ONCE // self.d)
        for start in range(0, len(row), step):
            some = slice(start, start + step)
            cost[some] = -np.einsum("ed,ed->e", self.x[row[some]], self.y[col[some]])
        return cost

    def rounding(
        self, row: np.ndarray, col: np.ndarray, cost: np.ndarray, u: np.ndarray, v: np.ndarray
    ) -> np.ndarray:
        """Bound the rounding of (cost - v) - u, which is none on a grid of points."""
        largest = max(np.abs(values).max() for values in (cost, u, v))
        if self.unit and largest <= self.unit * 2.0**51:
            return np.zeros(len(row))
        products = (self.d + 8) * self.norm_x[row] * self.norm_y[col]
        duals = 2 * (np.abs(cost) + np.abs(u[row]) + np.abs(v[col]))
        return UNIT_ROUNDOFF * (products + duals) * (1 + 2.0**-20) + 2.0**-800


def _centred(points: np.ndarray) -> tuple[np.ndarray, bool]:
    """Return float64 points less a shift, times a power of two, and whether that did not round."""
    exponent = np.frexp(np.abs(points).max())[1]
    scaled = np.ldexp(points, -exponent)
    middle = (scaled.max(0) + scaled.min(0)) / 2
    spread = float(np.abs(scaled - middle).max())
    if spread == 0:
        return np.zeros_like(scaled), True
    quantum = 2.0 ** max(math.frexp(spread)[1] - 10, -1000)
    shift = np.round(middle / quantum) * quantum
    near = scaled - shift
    back = scaled - near  # as in the exact sum of two floats
    exact = bool((((back - shift) + (scaled - (near + back))) == 0).all())
    exact = exact and bool((np.ldexp(scaled, exponent) == points).all())
    largest = np.frexp(np.abs(near).max())[1]
    return np.ldexp(near, -largest), exact


def _lowest_bit(values: np.ndarray) -> float:
    """Return the largest power of two of which all values, at most about 1, are multiples."""
    values = values[values != 0]
    if not len(values):
        return 1.0
    mantissa, exponent = np.frexp(values)
    whole = np.abs(mantissa * 2.0**53).astype(np.int64)
    lowest = np.log2((whole & -whole).astype(np.float64)).astype(np.int64)
    return 2.0 ** float(max((exponent - 53 + lowest).min(), -500))


def _bits(values: np.ndarray) -> int:
    return 1 - int(math.log2(_lowest_bit(values)))


def _choices(row: np.ndarray, col: np.ndarray, parts: Parts) -> list[np.ndarray]:
    """Return the pairs of each part that has at least two rows and two columns."""
    of_row, of_col = parts.of_row, parts.of_col
    count = max(of_row.max(), of_col.max()) + 1
    choice = (np.bincount(of_row, minlength=count) > 1) & (np.bincount(of_col, minlength=count) > 1)
    inside = np.flatnonzero((of_row[row] == of_col[col]) & choice[of_row[row]])
    if not len(inside):
        return []
    inside = inside[np.argsort(of_row[row[inside]], kind="stable")]
    part = of_row[row[inside]]
    return np.split(inside, np.flatnonzero(part[1:] != part[:-1]) + 1)
