# SPDX-License-Identifier: MIT
"""The exact assignment on a growing sparse graph, which holds the identity and so a perfect matching."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from geodesic_fast._extension import engine
from geodesic_fast.transport.points import Points

_SOLVED, _OUT_OF_TIME = 0, 1
_EDGES_AT_ONCE = 1 << 16
_SLICE_SECONDS = 0.5  # the solver returns this often, so that an interrupt or a deadline is seen


class SparseGraph:
    """Pairs (row, column) with float64 costs, sorted by row and column."""

    def __init__(self, points: Points) -> None:
        self.points, self.m = points, points.m
        self.keys = np.arange(self.m, dtype=np.int64) * (self.m + 1)
        self.costs = points.identity_cost.copy()

    def add(self, rows: np.ndarray, cols: np.ndarray, costs: np.ndarray | None = None) -> int:
        """Add the pairs that are new and return how many; costs are computed where they are not given."""
        keys = rows.astype(np.int64) * self.m + cols
        if costs is None:
            keys = _sorted_unique(keys)
        else:
            keys, first = np.unique(keys, return_index=True)
            costs = costs[first]
        place = np.searchsorted(self.keys, keys)
        new = self.keys[np.minimum(place, len(self.keys) - 1)] != keys
        keys, place = keys[new], place[new]
        costs = self.points.costs(keys // self.m, keys % self.m) if costs is None else costs[new]
        self.keys = np.insert(self.keys, place, keys)
        self.costs = np.insert(self.costs, place, costs)
        return len(keys)

    def noise(self, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the rounding that the duals of rows and columns inherit from their tied pairs, (m) each."""
        of_rows, of_cols = np.zeros(self.m), np.zeros(self.m)
        for start in range(0, len(self.keys), _EDGES_AT_ONCE):
            some = slice(start, start + _EDGES_AT_ONCE)
            rows, cols = np.divmod(self.keys[some], self.m)
            rounding = self.points.cost_rounding(self.costs[some], u[rows], v[cols])
            tied = np.abs(self.costs[some] - v[cols] - u[rows]) <= rounding
            np.maximum.at(of_rows, rows[tied], rounding[tied])
            np.maximum.at(of_cols, cols[tied], rounding[tied])
        return of_rows, of_cols

    def solve(
        self, v: np.ndarray, match: np.ndarray, check_time: Callable[[], None]
    ) -> tuple[np.ndarray, dict]:
        """Improve duals v and matching in place to an optimum of the graph; return u and what was done."""
        rows = np.searchsorted(self.keys, np.arange(self.m + 1, dtype=np.int64) * self.m)
        return solve_rows(rows, (self.keys % self.m).astype(np.int32), self.costs, v, match, check_time)


def solve_rows(
    row_start: np.ndarray,
    cols: np.ndarray,
    costs: np.ndarray,
    v: np.ndarray,
    match: np.ndarray,
    check_time: Callable[[], None],
) -> tuple[np.ndarray, dict]:
    """Solve the assignment whose row i owns edges row_start[i]..row_start[i+1]; v, match in place."""
    assert engine is not None
    m = len(v)
    row_start = np.ascontiguousarray(row_start, np.int64)
    u = np.empty(m)
    done = {"reductions": 0, "augmentations": 0, "scanned": 0, "seconds": 0.0}
    started, status = time.monotonic(), _OUT_OF_TIME
    while status == _OUT_OF_TIME:
        status, *counts = engine.sparse_assignment(
            m, row_start.ctypes.data, cols.ctypes.data, costs.ctypes.data,
            u.ctypes.data, v.ctypes.data, match.ctypes.data, _SLICE_SECONDS,
        )  # fmt: skip
        for name, count in zip(("reductions", "augmentations", "scanned"), counts, strict=True):
            done[name] += count
        if status == _OUT_OF_TIME:
            check_time()
    done["seconds"] = time.monotonic() - started
    if status != _SOLVED:
        raise RuntimeError(
            "the sparse assignment found no perfect matching in a graph that holds one: report this."
        )
    return u, done


def _sorted_unique(keys: np.ndarray) -> np.ndarray:
    keys = np.sort(keys)
    if not len(keys):
        return keys
    return keys[np.concatenate(([True], keys[1:] != keys[:-1]))]
