# SPDX-License-Identifier: MIT
"""The proof that a flow is an optimum with most fixed points, for the values given and without a tolerance.

Bounds. Duals are float64 numbers, taken as they are, so a reduced cost r_ij = c_ij - u_i - v_j is one real
number; float64 finds it to a bound n_ij (`rounding.of_reduced_cost` for squared distances,
`rounding.of_reduced_product` for products). Let low = r - n and high = r + n as computed, F the flow at hand,
a_i the units of row i.

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
there are none are joined. Where nothing rounds and F is an optimum, B = 0.

Windows. A pair that is not listed is known to have r_ij > row_window_i + col_window_j. It joins no parts, nor
is it used within one, where the windows exceed B_s - P_s and P_t.

Blocks. Within part s a pair with low > B_s is used by no optimum: r_ij + p_i - p_j > 0. Two flows on the
other pairs differ by cycles, each within a biconnected block of them: only there is a choice, and what F
moves on a block's pairs is what the block's rows and columns have to give and take. Most parts have none.

Then each block is a problem of its own, and is looked at again until nothing is left to decide: by its
products -<x_i - s, y_j - t>, with shifts, units and duals of its own, as long as these divide it; then by
products in whole numbers, from which each look takes its duals away, so that the next one sees the rest to
another fifty binary digits.
A block is decided where nothing rounds: on pairs of r = 0 every flow is an optimum, and one with most fixed
points is taken.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from geodesic_fast.engine.handing import handed
from geodesic_fast.engine.load import engine
from geodesic_fast.transport.block_costs import BlockCosts, Blocks, WholeCosts, product_costs, whole_bytes
from geodesic_fast.transport.points import Flow, Points
from geodesic_fast.transport.products import Products
from geodesic_fast.transport.rounding import UNIT_ROUNDOFF, of_reduced_cost
from geodesic_fast.transport.sparse_assignment import Rows, cheapest_flow, most_fixed_flow, sorted_unique

_MOST_WORK = 1 << 25  # coordinates multiplied in whole numbers for one block
_PAIR_WORK = 16  # what a pair takes beside its coordinates
_MOST_LOOKS = 64
_MOST_JOINS = 64
_SAMPLED_ROWS = 64  # of a block
_LEAST_ROOM = 8 << 20  # bytes
_PAIR_BYTES, _COORDINATE_BYTES = 256, 64  # of float64 costs and points and their copies
_LOOKS = 64  # at each arc, before a negative cycle is assumed
_DROP = 2.0**-80  # between parts where nothing rounds: far below what costs then are multiples of


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


@dataclass(frozen=True)
class Parts:
    """The part of each row and column, and what their windows must exceed."""

    of_row: np.ndarray
    of_col: np.ndarray
    moves: np.ndarray  # B of each part
    row_window: np.ndarray
    col_window: np.ndarray

    def choices(self, bounds: Bounds) -> tuple[np.ndarray, np.ndarray]:
        """Return the pairs that lie in blocks, block by block, and the block of each, numbered from 0."""
        part = self.of_row[bounds.row]
        usable = (part == self.of_col[bounds.col]) & ~(bounds.low > self.moves[part])
        several = np.bincount(self.of_row, minlength=len(self.moves)) > 1
        several &= np.bincount(self.of_col, minlength=len(self.moves)) > 1
        pairs = np.flatnonzero(usable & several[part])
        block = _cycle_blocks(bounds.row[pairs], bounds.col[pairs])
        order = np.argsort(block, kind="stable")[np.count_nonzero(block < 0) :]
        return pairs[order], block[order]


def _cycle_blocks(row: np.ndarray, col: np.ndarray) -> np.ndarray:
    """Return the number of each pair's biconnected block, -1 where it lies on no cycle."""
    if not len(row):
        return np.empty(0, np.int64)
    row, col = (np.ascontiguousarray(of, np.int64) for of in (row, col))
    block = np.empty(len(row), np.int64)
    engine.ots_cycle_blocks(row.max() + 1, col.max() + 1, len(row), *map(handed, (row, col, block)))
    return block


def separate(bounds: Bounds) -> Parts:
    """Return parts between which no optimum exchanges units."""
    doubtful = (bounds.low <= 0) | (bounds.units > 0)
    joined = np.zeros(len(bounds.row), bool)
    for attempt in range(_MOST_JOINS + 1):
        of_row, of_col = _components(bounds, doubtful, joined)
        moves = _moves(bounds, of_row, of_col)
        potential, crossing = _potentials(bounds, of_row, of_col, moves)
        if not crossing.any():
            break
        joined |= crossing if attempt < _MOST_JOINS - 1 else True
    return Parts(of_row, of_col, moves, (moves - potential)[of_row], potential[of_col])


def _components(bounds: Bounds, doubtful: np.ndarray, joined: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rows, used = len(bounds.supply), (bounds.units > 0) | joined
    doubtful = doubtful | joined
    if rows == bounds.cols == np.count_nonzero(used) == np.count_nonzero(doubtful):
        of_col = np.empty(rows, np.int64)  # no pair but the matched ones, each of which is a part
        of_col[bounds.col[used]] = bounds.row[used]
        return np.arange(rows), of_col
    from scipy.sparse import csgraph, csr_matrix  # where it is used: loading it takes a second

    tail = np.concatenate([bounds.row[doubtful], rows + bounds.col[used]])
    head = np.concatenate([rows + bounds.col[doubtful], bounds.row[used]])
    size = rows + bounds.cols
    graph = csr_matrix((np.ones(len(tail), np.int8), (tail, head)), shape=(size, size))
    component = csgraph.connected_components(graph, directed=True, connection="strong")[1]
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
    tail, head = of_row[bounds.row], of_col[bounds.col]
    noise = bounds.high - bounds.low
    potential = moves.copy()  # the larger a part's own rounding, the further it gives way
    used = np.flatnonzero(bounds.units)
    np.maximum.at(potential, tail[used], 4 * noise[used])
    arcs = np.flatnonzero(tail != head)
    order = arcs[np.argsort(tail[arcs], kind="stable")]
    start = np.searchsorted(tail[order], np.arange(len(moves) + 1)).astype(np.int64)
    length = bounds.low[order] - moves[tail[order]]
    margin = np.where(noise[order] > 0, noise[order], _DROP) + 8 * UNIT_ROUNDOFF * np.abs(length)
    strict = np.ascontiguousarray(length - margin)
    heads = np.ascontiguousarray(head[order], np.int32)
    engine.ots_lower_potentials(
        len(moves), handed(start), handed(heads), handed(strict), handed(potential),
        _LOOKS * len(order) + 1024,
    )  # fmt: skip
    before, after = potential[tail[order]], potential[heads]
    slack = length + (before - after)
    crossing = np.zeros(len(tail), bool)
    crossing[order] = ~(slack > 8 * UNIT_ROUNDOFF * (np.abs(length) + np.abs(before) + np.abs(after)))
    return potential, crossing


class Proof:
    """Listed pairs of all points with the flow on them, which is made an optimum block by block."""

    def __init__(self, points: Points, flow: Flow, pairs: Sequence[np.ndarray], products: Products) -> None:
        self.points, self.check_time, self.work = points, products.check_time, products.work
        self.room = max(products.plan.room, _LEAST_ROOM)
        listed = pairs[0].astype(np.int64) * points.cols + pairs[1]
        self.keys = sorted_unique(np.concatenate([flow.key(points.cols), listed]))
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
        rounding = of_reduced_cost(points, self.row, self.col, cost, u, v)
        low, high = reduced - rounding, reduced + rounding
        return Bounds(self.row, self.col, low, high, self.units, points.supply, points.cols)

    def settle(self, pairs: np.ndarray, block: np.ndarray) -> tuple[int, int]:
        """Make the flow an optimum with most fixed points; return the fewest and the most there may be.

        They differ where that was too much work, or more than there is room for.
        """
        for some, number in self._groups(pairs, block, _PAIR_BYTES, _COORDINATE_BYTES):
            left = self._within_limits(*self._look_at_products(some, number))
            for undecided, of in self._groups(*left, *whole_bytes(self.points, *self._ends(left[0]))):
                self._look_at_whole_numbers(undecided, of)
        if self.tied.any():
            self._most_fixed()
        stay = self._stay(np.arange(len(self.keys)))
        settled = int(np.minimum(self.units, stay)[~self.open].sum())
        return settled, settled + int(stay[self.open].sum())

    def _look_at_whole_numbers(self, pairs: np.ndarray, block: np.ndarray) -> None:
        """Look at blocks by whole numbers, from which each look takes what is known."""
        self.whole = True
        whole = WholeCosts.of(self.points, *self._ends(pairs), block, self.check_time)
        for _ in range(_MOST_LOOKS):
            if not len(pairs):
                break
            blocks = self._blocks(pairs, block)
            bounds, u, v = self._look(blocks, whole.rounded())
            self.units[pairs] = bounds.units
            some, block = self._undecided(pairs, bounds)
            whole = WholeCosts(whole.less(u, v, blocks.row, blocks.col, some), block)
            pairs = pairs[some]
        self.open[pairs] = True

    def _look_at_products(self, pairs: np.ndarray, block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Look at blocks by their products until these divide them no further; return what is left."""
        whole, numbers, count = [pairs[:0]], [block[:0]], 0
        for look in range(_MOST_LOOKS):
            if not len(pairs):
                break
            blocks, size = self._blocks(pairs, block), np.bincount(block)[block]
            bounds, _, _ = self._look(blocks, product_costs(self.points, blocks))
            self.units[pairs] = bounds.units
            some, block = self._undecided(pairs, bounds)
            pairs, done = pairs[some], np.bincount(block)[block] == size[some]
            done |= look == _MOST_LOOKS - 1
            whole.append(pairs[done])
            numbers.append(_renumbered(block[done]) + count)
            count += len(np.unique(block[done]))
            pairs, block = pairs[~done], _renumbered(block[~done])
        return np.concatenate(whole), np.concatenate(numbers)

    def _blocks(self, pairs: np.ndarray, block: np.ndarray) -> Blocks:
        self.check_time()
        return Blocks(self.points, *self._ends(pairs), block, self.units[pairs])

    def _ends(self, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.row[pairs], self.col[pairs]

    def _groups(
        self, pairs: np.ndarray, block: np.ndarray, of_pair: int, of_coordinate: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield as many whole blocks at once as there is room for; what has none alone stays open."""
        needed = np.bincount(block) * of_pair
        for place, count in zip(self._ends(pairs), (self.points.rows, self.points.cols), strict=True):
            node = np.unique(block * count + place) // count
            needed += np.bincount(node, minlength=len(needed)) * self.points.d * of_coordinate
        much = (needed > self.room)[block]
        self.open[pairs[much]] = True
        pairs, block, needed = pairs[~much], block[~much], needed[needed <= self.room]
        ends, first = np.cumsum(needed), 0
        block = _renumbered(block)
        while first < len(ends):
            stop = int(np.searchsorted(ends, ends[first] - needed[first] + self.room, "right"))
            some = slice(*np.searchsorted(block, (first, stop)))
            yield pairs[some], block[some] - first
            first = stop

    def _look(self, blocks: Blocks, costs: BlockCosts) -> tuple[Bounds, np.ndarray, np.ndarray]:
        """Return bounds of the reduced costs, with the optimum as far as float64 tells, and its duals."""
        row, col, units = blocks.row, blocks.col, blocks.units.copy()
        v = _usual_costs(blocks, costs.values)
        graph = _rows(row, col, blocks.supply, blocks.demand)
        u, _ = cheapest_flow(graph, costs.values, v, units, self.work)
        reduced = (costs.values - v[col]) - u[row]
        rounding = costs.reduced_rounding(u[row], v[col], blocks.block)
        bounds = Bounds(row, col, reduced - rounding, reduced + rounding, units, blocks.supply, len(v))
        return bounds, u, v

    def _undecided(self, pairs: np.ndarray, bounds: Bounds) -> tuple[np.ndarray, np.ndarray]:
        """Return which of the pairs lie in smaller blocks to be looked at again, and the block of each."""
        some, block = separate(bounds).choices(bounds)
        zero = (bounds.low[some] == 0) & (bounds.high[some] == 0)
        again = np.bincount(block, ~zero)[block] > 0
        self.tied[pairs[some[~again]]] = True
        return some[again], _renumbered(block[again])

    def _within_limits(self, pairs: np.ndarray, block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        much = (np.bincount(block) * (self.points.d + _PAIR_WORK) > _MOST_WORK)[block]
        self.open[pairs[much]] = True
        return pairs[~much], _renumbered(block[~much])

    def _most_fixed(self) -> None:
        """Give the tied pairs the flow with most units that stay at their own pair."""
        pairs = np.flatnonzero(self.tied | (self.units > 0))
        graph = _rows(self.row[pairs], self.col[pairs], self.points.supply, self.points.demand)
        self.units[pairs] = most_fixed_flow(graph, self._stay(pairs), self.work)

    def _stay(self, pairs: np.ndarray) -> np.ndarray:
        """Return how many of the points given have x and y at the ends of each pair, int32."""
        points = self.points
        own = points.pair_row * points.cols + points.pair_col
        place = np.minimum(np.searchsorted(own, self.keys[pairs]), len(own) - 1)
        return np.where(own[place] == self.keys[pairs], points.pair_count[place], 0).astype(np.int32)


def _rows(row: np.ndarray, col: np.ndarray, supply: np.ndarray, demand: np.ndarray) -> Rows:
    start = np.searchsorted(row, np.arange(len(supply) + 1)).astype(np.int64)
    return Rows(start, col.astype(np.int32), supply, demand)


def _usual_costs(blocks: Blocks, values: np.ndarray) -> np.ndarray:
    """Return about the median of each column's costs: duals that leave rows tied which are nearly equal.

    Where points are far smaller than a few of their block, what is known of them stays as it is.
    """
    first = np.searchsorted(blocks.block_of_row, np.arange(blocks.block[-1] + 2))
    step = np.diff(first) // _SAMPLED_ROWS + 1
    some = np.flatnonzero((blocks.row - first[blocks.block]) % step[blocks.block] == 0)
    some = some[np.lexsort((values[some], blocks.col[some]))]
    ends = np.searchsorted(blocks.col[some], np.arange(len(blocks.demand) + 1))
    middle = np.minimum((ends[:-1] + ends[1:]) // 2, len(some) - 1)
    return np.where(ends[1:] > ends[:-1], values[some[middle]], 0.0)


def _renumbered(block: np.ndarray) -> np.ndarray:
    """Number rising numbers from 0."""
    return np.cumsum(np.diff(block, prepend=block[:1]) > 0)
