# SPDX-License-Identifier: MIT
"""Among optimal assignments, one with the most fixed points.

Every optimal assignment uses pairs without reduced cost only, and every flow over such pairs is optimal. So
the most fixed points are a second flow on the graph of these pairs, at cost 0 for as many units as stay at
their own pair and 1 for others: whole numbers, solved without rounding.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from geodesic_fast.transport.points import Flow, Points
from geodesic_fast.transport.sparse_assignment import Rows, cheapest_flow, most_fixed_flow

_COARSE = 1e-10  # rounding of the duals above which ties are looked into, relative to their component's costs
_MOST_ROUNDS = 64


class Ties:
    """Pairs without reduced cost to rounding, on alternating cycles only: elsewhere there is no choice.

    Where duals are large beside the costs, as in a cluster that shares a problem with far outliers, rounding
    hides which tied pair is cheaper. Such a component is solved again by itself, with duals of its own size.
    """

    def __init__(
        self,
        points: Points,
        flow: Flow,
        rows: np.ndarray,
        cols: np.ndarray,
        u: np.ndarray,
        v: np.ndarray,
    ) -> None:
        self.points, self.u, self.v = points, u.copy(), v.copy()
        keys = _sorted_union(flow.key(points.cols), rows.astype(np.int64) * points.cols + cols)
        self.units = np.zeros(len(keys), np.int32)
        self.units[np.searchsorted(keys, flow.key(points.cols))] = flow.units
        self.rows, self.cols = (index.astype(np.int32) for index in np.divmod(keys, points.cols))
        self.costs = points.costs(self.rows, self.cols)

    def flow(self) -> Flow:
        """Return the pairs that have units."""
        used = np.flatnonzero(self.units)
        return Flow(self.rows[used], self.cols[used], self.units[used])

    def refine(self, check_time: Callable[[], None]) -> bool:
        """Keep the pairs on alternating cycles; solve components again until their duals are small enough.

        Returns whether smaller duals told pairs apart that were tied before.
        """
        for done in range(_MOST_ROUNDS):
            if not self._solve_coarse(*self._components(), check_time):
                return done > 0
        return True

    def most_fixed(self, check_time: Callable[[], None]) -> Flow:
        """Return the flow over these pairs with the most units that stay at their own pair."""
        points = self.points
        keys = self.rows.astype(np.int64) * points.cols + self.cols
        own = points.pair_row * points.cols + points.pair_col
        place = np.minimum(np.searchsorted(keys, own), len(keys) - 1)
        tied = keys[place] == own
        stay = np.zeros(len(keys), np.int32)
        stay[place[tied]] = points.pair_count[tied]
        if (np.minimum(self.units, stay) == stay).all():  # whatever could stay does
            return self.flow()
        starts = np.searchsorted(self.rows, np.arange(points.rows + 1))
        units = most_fixed_flow(Rows(starts, self.cols, points.supply, points.demand), stay, check_time)
        used = np.flatnonzero(units)
        return Flow(self.rows[used], self.cols[used], units[used])

    def _components(self) -> tuple[np.ndarray, np.ndarray]:
        """Return each row's and column's component of alternating cycles; drop the pairs between them."""
        rows, cols = self.points.rows, self.points.cols
        used = np.flatnonzero(self.units)
        used = used[np.argsort(self.cols[used], kind="stable")]
        starts = np.concatenate([
            np.searchsorted(self.rows, np.arange(rows)),
            len(self.rows) + np.searchsorted(self.cols[used], np.arange(cols + 1)),
        ])  # fmt: skip
        ends = np.concatenate(
            [self.cols + np.int32(rows), self.rows[used]]
        )  # a row leads to all its columns,
        size = rows + cols  # a column to those that hold it
        from scipy.sparse import csgraph, csr_matrix  # where it is used: loading it takes a second

        graph = csr_matrix((np.ones(len(ends), np.int8), ends, starts), shape=(size, size))
        component = csgraph.connected_components(graph, directed=True, connection="strong")[1]
        of_row, of_col = component[:rows], component[rows:]
        self._keep(of_row[self.rows] == of_col[self.cols])
        return of_row, of_col

    def _keep(self, kept: np.ndarray) -> None:
        self.rows, self.cols, self.costs = self.rows[kept], self.cols[kept], self.costs[kept]
        self.units = self.units[kept]

    def _solve_coarse(self, of_row: np.ndarray, of_col: np.ndarray, check_time: Callable[[], None]) -> bool:
        """Solve the components whose duals are too large; return whether there was one with a choice."""
        points, count = self.points, max(of_row.max(), of_col.max()) + 1
        size, u, v = (np.zeros(count) for _ in range(3))  # of each component, the largest
        np.maximum.at(size, of_row[self.rows], self.costs)
        np.maximum.at(u, of_row, np.abs(self.u))
        np.maximum.at(v, of_col, np.abs(self.v))
        noise = points.cost_rounding(np.zeros_like(size), u, v)
        choice = np.bincount(of_row[self.rows], self.units == 0, minlength=count) > 0
        coarse = (noise > _COARSE * size) & choice
        if not coarse.any():
            return False
        edges = np.flatnonzero(coarse[of_row[self.rows]])
        rows, row = np.unique(self.rows[edges], return_inverse=True)
        cols, col = np.unique(self.cols[edges], return_inverse=True)
        starts = np.searchsorted(row, np.arange(len(rows) + 1))
        graph = Rows(starts, col.astype(np.int32), points.supply[rows], points.demand[cols])
        v, units = np.zeros(len(cols)), self.units[edges]
        u, _ = cheapest_flow(graph, self.costs[edges], v, units, check_time)
        self.u[rows], self.v[cols], self.units[edges] = u, v, units
        return self._drop_loose(edges, of_row)

    def _drop_loose(self, edges: np.ndarray, of_row: np.ndarray) -> bool:
        """Drop pairs that have a reduced cost by the new duals; return whether any had one."""
        of = of_row[self.rows[edges]]
        u, v = self.u[self.rows[edges]], self.v[self.cols[edges]]
        rounding = np.zeros(of.max() + 1)  # whatever is tied together shares the rounding of its largest
        np.maximum.at(rounding, of, self.points.cost_rounding(self.costs[edges], u, v))
        kept = np.ones(len(self.rows), bool)
        kept[edges] = (self.costs[edges] - u - v <= rounding[of]) | (self.units[edges] > 0)
        self._keep(kept)
        return not bool(kept.all())


def _sorted_union(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the numbers that occur in either, each once."""
    keys = np.concatenate([first, second])
    keys.sort()
    return keys[np.concatenate(([True], keys[1:] != keys[:-1]))]


def keep_free_changes(points: Points, flow: Flow, changed: Flow) -> tuple[Flow, bool]:
    """Undo the cycles of a change that cost more than rounding; also say whether there were any."""
    keys = _sorted_union(flow.key(points.cols), changed.key(points.cols))
    before, after = np.zeros(len(keys), np.int32), np.zeros(len(keys), np.int32)
    before[np.searchsorted(keys, flow.key(points.cols))] = flow.units
    after[np.searchsorted(keys, changed.key(points.cols))] = changed.units
    rows, cols = np.divmod(keys, points.cols)
    moved = np.flatnonzero(before != after)
    size = points.rows + points.cols
    from scipy.sparse import csgraph, csr_matrix

    graph = csr_matrix((np.ones(len(moved), np.int8), (rows[moved], points.rows + cols[moved])), (size, size))
    cycle = csgraph.connected_components(graph, directed=False)[1][rows]
    cost, more = points.costs(rows[moved], cols[moved]), (after - before)[moved]
    rounding = points.cost_rounding(cost, np.zeros(len(cost)), np.zeros(len(cost))) * np.abs(more)
    dearer = np.bincount(cycle[moved], cost * more, size) > np.bincount(cycle[moved], rounding, size)
    units = np.where(dearer[cycle], before, after)
    used = np.flatnonzero(units)
    return Flow(rows[used].astype(np.int32), cols[used].astype(np.int32), units[used]), bool(dearer.any())
