# SPDX-License-Identifier: MIT
"""The exact flow on a growing sparse graph, which holds the identity and so a perfect matching."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from geodesic_fast.engine.handing import handed
from geodesic_fast.engine.load import engine
from geodesic_fast.transport.points import Flow, Points
from geodesic_fast.transport.rounding import of_cost

_SOLVED, _OUT_OF_TIME = 0, 1
_EDGES_AT_ONCE = 1 << 16
_SLICE_SECONDS = 0.1  # the solvers return this often, so that an interrupt or a deadline is seen
Work = Callable[[Iterator[None], Sequence[np.ndarray]], None]  # `Products.work`


class SparseGraph:
    """Pairs (row, column) with float64 costs and a flow of whole units, sorted by row and column."""

    def __init__(self, points: Points) -> None:
        self.points = points
        self.keys = points.pair_row * points.cols + points.pair_col
        self.costs = points.identity_cost.copy()
        self.units = points.pair_count.copy()
        self.solved = False

    def add(self, rows: np.ndarray, cols: np.ndarray, costs: np.ndarray | None = None) -> int:
        """Add the pairs that are new and return how many; costs are computed where they are not given."""
        keys = rows.astype(np.int64) * self.points.cols + cols
        if costs is None:
            keys = sorted_unique(keys)
        else:
            keys, first = np.unique(keys, return_index=True)
            costs = costs[first]
        place = np.searchsorted(self.keys, keys)
        new = self.keys[np.minimum(place, len(self.keys) - 1)] != keys
        keys, place = keys[new], place[new]
        costs = self.points.costs(*np.divmod(keys, self.points.cols)) if costs is None else costs[new]
        self.keys = np.insert(self.keys, place, keys)
        self.costs = np.insert(self.costs, place, costs)
        self.units = np.insert(self.units, place, 0)
        return len(keys)

    def flow(self) -> Flow:
        """Return the pairs that have units."""
        used = np.flatnonzero(self.units)
        rows, cols = np.divmod(self.keys[used], self.points.cols)
        return Flow(rows.astype(np.int32), cols.astype(np.int32), self.units[used])

    def noise(self, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the rounding that the duals of rows and columns inherit from their tied pairs."""
        of_rows, of_cols = np.zeros(self.points.rows), np.zeros(self.points.cols)
        largest = (np.array([np.abs(values).max()]) for values in (self.costs, u, v))
        most = of_cost(self.points.d, *largest)[0]
        for start in range(0, len(self.keys), _EDGES_AT_ONCE):
            some = slice(start, start + _EDGES_AT_ONCE)
            cost, (rows, cols) = self.costs[some], np.divmod(self.keys[some], self.points.cols)
            reduced = np.abs(cost - v[cols] - u[rows])
            near = np.flatnonzero(reduced <= most)
            rows, cols = rows[near], cols[near]
            rounding = of_cost(self.points.d, cost[near], u[rows], v[cols])
            tied = reduced[near] <= rounding
            np.maximum.at(of_rows, rows[tied], rounding[tied])
            np.maximum.at(of_cols, cols[tied], rounding[tied])
        return of_rows, of_cols

    def solve(self, v: np.ndarray, work: Work) -> tuple[np.ndarray, dict]:
        """Improve duals v and the flow in place to an optimum of the graph; return u and what was done."""
        points = self.points
        starts = np.searchsorted(self.keys, np.arange(points.rows + 1, dtype=np.int64) * points.cols)
        if not self.solved:  # the identity's units, perhaps far from optimal, are no guide to prices
            self.units[np.repeat(points.supply > 1, np.diff(starts))] = 0
            self.solved = True
        rows = Rows(starts, (self.keys % points.cols).astype(np.int32), points.supply, points.demand)
        return cheapest_flow(rows, self.costs, v, self.units, work)


@dataclass(frozen=True)
class Rows:
    """A graph whose row i owns edges start[i]..start[i+1] to columns `col`, each once."""

    start: np.ndarray  # (rows + 1) int64
    col: np.ndarray  # (edges) int32
    supply: np.ndarray  # (rows) int32, units
    demand: np.ndarray  # (cols) int32

    def view(self) -> engine.SparseGraph:
        """Return what the engine is handed, which holds no reference to the arrays."""
        assert (self.start.dtype, self.col.dtype) == (np.int64, np.int32)
        addresses = map(handed, (self.start, self.col, self.supply, self.demand))
        return engine.SparseGraph(len(self.supply), len(self.demand), *addresses)


def cheapest_flow(
    rows: Rows, costs: np.ndarray, v: np.ndarray, units: np.ndarray, work: Work
) -> tuple[np.ndarray, dict]:
    """Improve duals v (cols) and units (edges) int32 in place to an optimum; return u and what was done."""
    u, counts = np.empty(len(rows.supply)), np.zeros(3, np.int64)

    def slices() -> Iterator[None]:
        solver = engine.AssignmentSolver(rows.view(), *map(handed, (costs, u, v, units)))
        while (status := solver.run(_SLICE_SECONDS)) == _OUT_OF_TIME:
            yield
        _check_solved(status)
        counts[:] = solver.counts

    work(slices(), (u, v, units, counts))
    return u, dict(zip(("reductions", "augmentations", "scanned"), counts.tolist(), strict=True))


def most_fixed_flow(rows: Rows, stay: np.ndarray, work: Work) -> np.ndarray:
    """Return units (edges) int32 of a flow with the largest sum of min(units, stay)."""
    units, row_price, col_price = np.zeros_like(stay), np.zeros_like(rows.supply), np.zeros_like(rows.demand)

    def slices() -> Iterator[None]:
        graph = rows.view()
        while True:
            status = engine.most_fixed(
                graph, handed(stay), handed(units), handed(row_price), handed(col_price),
                _SLICE_SECONDS,
            )  # fmt: skip
            if status != _OUT_OF_TIME:
                break
            yield
        _check_solved(status)

    work(slices(), (units,))
    return units


def _check_solved(status: int) -> None:
    if status != _SOLVED:
        raise RuntimeError(
            "the sparse assignment found no perfect matching in a graph that holds one: report this."
        )


def sorted_unique(keys: np.ndarray) -> np.ndarray:
    """Return each key once, rising."""
    keys = np.sort(keys)
    if not len(keys):
        return keys
    return keys[np.concatenate(([True], keys[1:] != keys[:-1]))]
