# SPDX-License-Identifier: MIT
"""What float64 cannot tell apart, in whole numbers.

Coordinates are whole multiples of one power of two, so products <x_i, y_j> are whole numbers too. Python's
integers do not round and have no largest.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from geodesic_fast.transport.points import Points

_PRODUCTS_AT_ONCE = 1 << 16


def whole_costs(points: Points, rows: np.ndarray, cols: np.ndarray) -> list[int]:
    """Return -<x_i, y_j> of listed pairs, as given, plus a row term and a column term, in one unit."""
    (x, row), (y, col) = (
        (_whole(points.given(which, distinct)), place)
        for which, (distinct, place) in (
            ("x", np.unique(rows, return_inverse=True)),
            ("y", np.unique(cols, return_inverse=True)),
        )
    )
    x, y = x - x[0], y - y[0]  # shorter numbers where points are close
    at_once, cost = max(1, _PRODUCTS_AT_ONCE // points.d), []
    for start in range(0, len(rows), at_once):
        some = slice(start, start + at_once)
        cost += (-(x[row[some]] * y[col[some]]).sum(1)).tolist()
    return cost


def _whole(values: np.ndarray) -> Any:
    mantissa, exponent = np.frexp(values)
    exponent[mantissa == 0] = exponent.max()
    whole = (mantissa * 2.0**53).astype(np.int64).astype(object)
    return whole << (exponent - exponent.min()).astype(object)


class WholeFlow:
    """A flow of units on pairs (row, col), whose costs are whole numbers, on its way to an optimum.

    While a cycle of pairs lowers the cost, units move around it. Where there is none, distances from anywhere
    are potentials: no pair costs less than they differ, and pairs of equality are those that optima use.
    """

    def __init__(self, row: np.ndarray, col: np.ndarray, cost: list[int], units: np.ndarray) -> None:
        (self.row, self.col), self.cost, self.units = (
            ((of.tolist() for of in (row, col))),
            cost,
            units.tolist(),
        )
        self.rows = int(row.max()) + 1
        self.nodes = self.rows + int(col.max()) + 1  # columns behind the rows
        self.out: list[list[int]] = [[] for _ in range(self.nodes)]  # the pairs of each node
        for e, (i, j) in enumerate(zip(self.row, self.col, strict=True)):
            self.out[i].append(e)
            self.out[self.rows + j].append(e)
        self.distance = [0] * self.nodes
        self.by = [-1] * self.nodes  # the pair through which a node is nearest

    def optimise(self, check_time: Callable[[], None]) -> np.ndarray:
        """Move units until the flow, `units`, is an optimum; return which pairs optima use."""
        while (cycle := self._find_cycle(check_time)) is not None:
            self._move(cycle)
        slack = (
            cost + self.distance[i] - self.distance[self.rows + j]
            for i, j, cost in zip(self.row, self.col, self.cost, strict=True)
        )
        return np.array([each == 0 for each in slack], bool)

    def _find_cycle(self, check_time: Callable[[], None]) -> list[int] | None:
        """Return a node on a cycle of negative cost, or None, with all distances final.

        Label correcting, first in first out; a cycle among the pairs `by` is a cycle of negative cost.
        """
        waiting, waits = deque(range(self.nodes)), [True] * self.nodes
        self.by = [-1] * self.nodes
        until_look = self.nodes
        while waiting:
            node = waiting.popleft()
            waits[node] = False
            for head, e, length in self._arcs(node):
                if self.distance[node] + length >= self.distance[head]:
                    continue
                self.distance[head], self.by[head] = self.distance[node] + length, e
                if not waits[head]:
                    waits[head] = True
                    waiting.append(head)
                until_look -= 1
            if until_look <= 0:
                check_time()
                until_look = self.nodes
                cycle = self._cycle()
                if cycle is not None:
                    return cycle
        return None

    def _arcs(self, node: int) -> list[tuple[int, int, int]]:
        """Return where a unit can move from a node, by which pair, at which cost."""
        if node < self.rows:
            return [(self.rows + self.col[e], e, self.cost[e]) for e in self.out[node]]
        return [(self.row[e], e, -self.cost[e]) for e in self.out[node] if self.units[e]]

    def _tail(self, node: int) -> int:
        e = self.by[node]
        return self.rows + self.col[e] if node < self.rows else self.row[e]

    def _cycle(self) -> list[int] | None:
        """Return nodes around a cycle of the pairs `by`, each before its tail."""
        seen = [-1] * self.nodes
        for start in range(self.nodes):
            node = start
            while self.by[node] >= 0 and seen[node] < 0:
                seen[node] = start
                node = self._tail(node)
            if self.by[node] >= 0 and seen[node] == start:
                cycle = [node]
                while (node := self._tail(node)) != cycle[0]:
                    cycle.append(node)
                return cycle
        return None

    def _move(self, cycle: list[int]) -> None:
        back = [self.by[node] for node in cycle if node < self.rows]  # from a column to who holds units of it
        units = min(self.units[e] for e in back)
        for node in cycle:
            self.units[self.by[node]] += -units if node < self.rows else units
