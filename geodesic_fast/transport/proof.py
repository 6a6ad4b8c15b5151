# SPDX-License-Identifier: MIT
"""The proof that a flow is an optimum with most fixed points, for the values given and without a tolerance.

Bounds. Duals are float64 numbers, taken as they are, so a reduced cost r_ij = c_ij - u_i - v_j is one real
number; float64 finds it to a bound n_ij (`Points.reduced_rounding` for squared distances, `_Local` for
products). Let low = r - n and high = r + n as computed, F the flow at hand, a_i the units of row i.

Parts. A row leads to the columns of its doubtful pairs, low <= 0, and a column to the rows that hold units of
it; a part is a strongly connected component, so F does not leave it. Let G be an optimum of a part alone. The
shortest distances p from anywhere in G's residual graph are potentials: r_ij + p_i - p_j >= 0 in the part.
They are at most 0, and a shortest path takes one pair of each row and gives each unit of G back once, so they
are at least -B, where
    B = 2 sum_i a_i max_j (-low_ij)+ + sum F high+:
sum_i max_j (-r_ij)+ for its forward pairs, and sum G r+ = sum G r + sum G (-r)+ <= sum F r + sum_i a_i
max_j (-r_ij)+ for the others. Let P_s be any number for each part s. Where
    low_ij - B_s + P_s - P_t > 0  for all pairs (i, j) from a part s to another part t,
the potentials p + P prove that the union of the parts' optima is an optimum and, by complementary slackness,
that none uses a pair between parts. Such P are potentials once more (`_potentials`); parts between which
there are none are joined. If nothing rounds and F is an optimum, then B = 0 and every optimum uses pairs of
r = 0 alone: its difference from F moves units around cycles, which lie within strongly connected components.

Windows. A pair that is not listed is known to have r_ij > row_window_i + col_window_j. It joins no parts, nor
is it used within one, where the windows exceed B_s - P_s and P_t.

Blocks. Within part s a pair with low > B_s is used by no optimum: r_ij + p_i - p_j > 0. Two flows on the
other pairs differ by cycles, each within a biconnected block of them: only there is a choice, and what F
moves on a block's pairs is what the block's rows and columns have to give and take. Most parts have none.

Then each block is a problem of its own. It is solved again by its products -<x_i - s, y_j - t>, with shifts
and duals of its own size, and falls into smaller ones; where it does not, whole numbers decide. Of the pairs
that some optimum uses, every flow is an optimum, and one with most fixed points is taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components

from geodesic_fast._extension import engine
from geodesic_fast.transport.exact import WholeFlow, whole_costs
from geodesic_fast.transport.points import UNIT_ROUNDOFF, Flow, Points
from geodesic_fast.transport.sparse_assignment import Rows, cheapest_flow, most_fixed_flow

_MOST_WORK = 1 << 25  # coordinates multiplied in whole numbers for one block
_SMALL = 1 << 12  # the same, below which whole numbers are quicker than another look in float64
_PAIR_WORK = 16  # what a pair takes beside its coordinates
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
    moves: np.ndarray  # B of each part
    row_window: np.ndarray
    col_window: np.ndarray

    def choices(self, bounds: Bounds) -> list[np.ndarray]:
        """Return the pairs of each block, in their order."""
        part = self.of_row[bounds.row]
        usable = (part == self.of_col[bounds.col]) & ~(bounds.low > self.moves[part])
        several = np.bincount(self.of_row, minlength=len(self.moves)) > 1
        several &= np.bincount(self.of_col, minlength=len(self.moves)) > 1
        pairs = np.flatnonzero(usable & several[part])
        block = _cycle_blocks(bounds.row[pairs], bounds.col[pairs])
        pairs, block = pairs[block >= 0], block[block >= 0]
        order = np.argsort(block, kind="stable")
        return np.split(pairs[order], np.flatnonzero(np.diff(block[order])) + 1) if len(pairs) else []


def _cycle_blocks(row: np.ndarray, col: np.ndarray) -> np.ndarray:
    """Return the number of each pair's biconnected block, -1 where it lies on no cycle."""
    if not len(row):
        return np.empty(0, np.int64)
    assert engine is not None
    row, col = (np.ascontiguousarray(of, np.int64) for of in (row, col))
    block = np.empty(len(row), np.int64)
    addresses = (of.ctypes.data for of in (row, col, block))
    engine.ots_cycle_blocks(row.max() + 1, col.max() + 1, len(row), *addresses)
    return block


def separate(bounds: Bounds) -> Parts:
    """Return parts between which no optimum exchanges units."""
    doubtful = (bounds.low <= 0) | (bounds.units > 0)
    joined = np.zeros(len(bounds.row), bool)
    for attempt in range(_MOST_JOINS + 1):
        of_row, of_col = _components(bounds, doubtful, joined)
        moves = _moves(bounds, of_row, of_col)
        if bounds.exact:
            return Parts(of_row, of_col, moves, moves[of_row], moves[of_col])
        potential, crossing = _potentials(bounds, of_row, of_col, moves)
        if not crossing.any():
            break
        joined |= crossing if attempt < _MOST_JOINS - 1 else True
    return Parts(of_row, of_col, moves, (moves - potential)[of_row], potential[of_col])


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
    """Listed pairs of all points with the flow on them, which is made an optimum block by block."""

    def __init__(
        self, points: Points, flow: Flow, pairs: Sequence[np.ndarray], check_time: Callable[[], None]
    ) -> None:
        self.points, self.check_time = points, check_time
        listed = pairs[0].astype(np.int64) * points.cols + pairs[1]
        self.keys = np.unique(np.concatenate([flow.key(points.cols), listed]))
        self.row, self.col = np.divmod(self.keys, points.cols)
        self.units = np.zeros(len(self.keys), np.int32)
        self.units[np.searchsorted(self.keys, flow.key(points.cols))] = flow.units
        self.tied, self.open = np.zeros((2, len(self.keys)), bool)  # what optima use; what is too much work
        self.whole = False  # whether whole numbers were needed

    def flow(self) -> Flow:
        """Return the pairs that have units."""
        used = np.flatnonzero(self.units)
        return Flow(self.row[used].astype(np.int32), self.col[used].astype(np.int32), self.units[used])

    def bounds(self, u: np.ndarray, v: np.ndarray) -> Bounds:
        """Return what duals of the shifted costs leave of the listed pairs."""
        points = self.points
        cost = points.costs(self.row, self.col.astype(np.int32))
        reduced = (cost - v[self.col]) - u[self.row]
        rounding = points.reduced_rounding(self.row, self.col, cost, u, v)
        low, high = reduced - rounding, reduced + rounding
        return Bounds(self.row, self.col, low, high, self.units, points.supply, points.cols)

    def settle(self, blocks: list[np.ndarray]) -> tuple[int, int]:
        """Make the flow an optimum with most fixed points; return the fewest and the most there may be.

        They differ where that was too much work.
        """
        for block in blocks:
            self._settle_block(block)
        if self.tied.any():
            self._most_fixed()
        stay = self._stay(np.arange(len(self.keys)))
        settled = int(np.minimum(self.units, stay)[~self.open].sum())
        return settled, settled + int(stay[self.open].sum())

    def _settle_block(self, pairs: np.ndarray, depth: int = 0) -> None:
        self.check_time()
        if len(pairs) * (self.points.d + _PAIR_WORK) <= _SMALL:
            self._settle_whole(pairs)
            return
        block = _Block(self.row[pairs], self.col[pairs], self.units[pairs])
        bounds = block.solved(self.points, self.check_time)
        self.units[pairs] = bounds.units
        if bounds.exact:
            self.tied[pairs[bounds.low == 0]] = True
            return
        smaller = separate(bounds).choices(bounds)
        for some in smaller:
            if depth < _MOST_DEPTH and len(some) < len(pairs):
                self._settle_block(pairs[some], depth + 1)
            else:
                self._settle_whole(pairs[some])

    def _settle_whole(self, pairs: np.ndarray) -> None:
        if len(pairs) * (self.points.d + _PAIR_WORK) > _MOST_WORK:
            self.open[pairs] = True
            return
        self.whole = True
        cost = whole_costs(self.points, self.row[pairs], self.col[pairs])
        block = _Block(self.row[pairs], self.col[pairs], self.units[pairs])
        flow = WholeFlow(block.row, block.col, cost, block.units)
        self.tied[pairs] = flow.optimise(self.check_time)
        self.units[pairs] = flow.units

    def _most_fixed(self) -> None:
        """Give the tied pairs the flow with most units that stay at their own pair."""
        pairs = np.flatnonzero(self.tied | (self.units > 0))
        graph = _rows(self.row[pairs], self.col[pairs], self.points.supply, self.points.demand)
        self.units[pairs] = most_fixed_flow(graph, self._stay(pairs), self.check_time)

    def _stay(self, pairs: np.ndarray) -> np.ndarray:
        """Return how many of the points given have x and y at the ends of each pair, int32."""
        points = self.points
        own = points.pair_row * points.cols + points.pair_col
        place = np.minimum(np.searchsorted(own, self.keys[pairs]), len(own) - 1)
        return np.where(own[place] == self.keys[pairs], points.pair_count[place], 0).astype(np.int32)


def _rows(row: np.ndarray, col: np.ndarray, supply: np.ndarray, demand: np.ndarray) -> Rows:
    start = np.searchsorted(row, np.arange(len(supply) + 1)).astype(np.int64)
    return Rows(start, col.astype(np.int32), supply, demand)


class _Block:
    """Pairs (row, col) of a block, numbered from 0, with the units on them."""

    def __init__(self, row: np.ndarray, col: np.ndarray, units: np.ndarray) -> None:
        self.rows, self.row = np.unique(row, return_inverse=True)
        self.cols, self.col = np.unique(col, return_inverse=True)
        self.units = units

    def solved(self, points: Points, check_time: Callable[[], None]) -> Bounds:
        """Return bounds of the block's own reduced costs, with its own optimum as far as float64 tells."""
        products = _Products(points, self.rows, self.cols)
        row, col, cost = self.row, self.col, products.costs(self.row, self.col)
        supply, demand = (
            np.bincount(of, self.units, count).astype(np.int32)
            for of, count in ((row, len(self.rows)), (col, len(self.cols)))
        )
        v, units = np.zeros(len(demand)), self.units.copy()
        u, _ = cheapest_flow(_rows(row, col, supply, demand), cost, v, units, check_time)
        reduced, rounding = (cost - v[col]) - u[row], products.rounding(row, col, cost, u, v)
        return Bounds(row, col, reduced - rounding, reduced + rounding, units, supply, len(demand))


class _Products:
    """Products of the points of a block, in units in which the largest coordinate is about 1."""

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
        if len(self.x) * len(self.y) <= _PRODUCTS_AT_ONCE:
            return -(self.x @ self.y.T)[row, col]
        cost = np.empty(len(row))
        step = max(1, _PRODUCTS_AT_ONCE // self.d)
        for start in range(0, len(row), step):
            some = slice(start, start + step)
            cost[some] = -np.einsum("ed,ed->e", self.x[row[some]], self.y[col[some]])
        return cost

    def rounding(
        self, row: np.ndarray, col: np.ndarray, cost: np.ndarray, u: np.ndarray, v: np.ndarray
    ) -> np.ndarray:
        """Bound the rounding of (cost - v) - u, which is none on a grid of points.

        Coordinates round to 2^-53 of themselves, products and their sums to d 2^-53 |x| |y|.
        """
        largest = max(np.abs(values).max() for values in (cost, u, v))
        if self.unit and largest <= self.unit * 2.0**51:
            return np.zeros(len(row))
        products = (self.d + 8) * self.norm_x[row] * self.norm_y[col]
        duals = 2 * (np.abs(cost) + np.abs(u[row]) + np.abs(v[col]))
        return UNIT_ROUNDOFF * (products + duals) * (1 + 2.0**-20) + 2.0**-800


def _centred(points: np.ndarray) -> tuple[np.ndarray, bool]:
    """Return float64 points less a shift, times a power of two, and whether that did not round."""
    low, high = points.min(0), points.max(0)
    with np.errstate(over="ignore", invalid="ignore"):
        spread = high - low
        if not np.isfinite(spread).all():
            quarter = points / 4
            near, exact = _centred(quarter)
            return near, exact and bool((quarter * 4 == points).all())
        quantum = np.ldexp(1.0, np.maximum(np.frexp(spread)[1] - 10, -1074))  # shifts in few binary digits
        shift = np.where(spread > 0, np.round((low + spread / 2) / quantum) * quantum, low)
    near = points - shift
    back = points - near  # as in the exact difference of two floats
    lost = (points - (near + back)) + (back - shift)
    exponent = np.frexp(np.abs(near).max())[1]
    scaled = np.ldexp(near, -exponent)
    return scaled, bool((lost == 0).all() and (np.ldexp(scaled, exponent) == near).all())


def _lowest_bit(values: np.ndarray) -> float:
    """Return the largest power of two, at least 2^-500, of which all values, at most 1, are multiples."""
    values = values[values != 0]
    if not len(values):
        return 1.0
    mantissa, exponent = np.frexp(values)
    whole = np.abs(mantissa * 2.0**53).astype(np.int64)
    lowest = np.log2((whole & -whole).astype(np.float64)).astype(np.int64)
    return 2.0 ** float(max((exponent - 53 + lowest).min(), -500))


def _bits(values: np.ndarray) -> int:
    return 1 - int(math.log2(_lowest_bit(values)))
