# SPDX-License-Identifier: MIT
"""The two point sets, equal points once, shifted towards zero, and float64 costs of single pairs.

Where points are equal, a row stands for all x that are equal and a column for all y: it supplies or takes so
many units, and a matching of the points is a flow of units from rows to columns. Usually rows and columns are
the points themselves.

Shifting x and y by different constants changes no assignment: it adds a row term and a column term to the
costs. Sets that lie beside each other are shifted by the same constant, which changes no cost and no dual.
Nor does multiplying y by a power of two: it multiplies the products <x, y> and adds a column term. Sets of
very different extents are each taken in a unit of their own: squared distances would round the products away.

Of several processes each has some rows of x, in whole blocks, and all of y. What is computed block by block
or pair by pair does not depend on how many they are.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from geodesic_fast._processes import ALONE, Processes
from geodesic_fast.transport.equal_points import merge_equal
from geodesic_fast.transport.memory import check_room
from geodesic_fast.transport.pair_costs import plain_costs, shifted_costs, square_norms, widened
from geodesic_fast.transport.units import LARGEST_FLOAT32, box_of, exponents_of, in_units, ldexp, shifts_of

_BLOCK_ROWS = 1024  # a power of two; few enough to answer to an interrupt and to a deadline
_LARGEST_SCALE = 400  # its power of two: squares of it stay in range


class Flow(NamedTuple):
    """Units of each pair that has any, int32, sorted by row and column."""

    row: np.ndarray
    col: np.ndarray
    units: np.ndarray

    def key(self, cols: int) -> np.ndarray:
        """Number the pairs in their order."""
        return self.row.astype(np.int64) * cols + self.col


class Points:
    """Distinct x (rows, d) and y (cols, d), float32 or float64, with what each stands for, shifts and norms.

    The m points given are row_of[i] and col_of[i]; they pair row pair_row[k] with column pair_col[k] for
    pair_count[k] of them. x and y are in units of 2^exponents of the points given. Of several processes each
    gives some of the m points, and holds the rows in `own`, which are all of them where it is alone.
    """

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        *,
        merge: bool = True,
        one_unit: bool = False,
        processes: Processes = ALONE,
    ) -> None:
        callers = {x.data_ptr(), y.data_ptr()}
        self.processes = processes
        x, y = widened(x), widened(y)
        self.m, self.d = sum(processes.numbers(len(x))), x.shape[1]
        self.row_of = self.col_of = np.arange(self.m)
        if merge:
            (x, self.row_of), (y, self.col_of) = merge_equal(x, processes), merge_equal(y, processes)
        self.rows, self.cols = int(self.row_of.max()) + 1, int(self.col_of.max()) + 1
        self.block_rows = _BLOCK_ROWS
        self._shares = _shares(self.rows, self.block_rows, processes.size)
        self.own = self._shares[processes.rank]
        check_room(y, self.cols, processes)
        x, y = processes.dealt(x, self._shares), processes.gathered(y)
        self._given = {"x": x, "y": y}
        boxes = box_of(x, processes), box_of(y)
        self.exponents, self.far_exponent = exponents_of(*boxes, one_unit)
        (self.x, box_x), (self.y, box_y) = in_units((x, y), boxes, self.exponents)
        own = {of.data_ptr(): of.nbytes for of in (x, y, self.x, self.y) if of.data_ptr() not in callers}
        self.bytes = sum(own.values())  # of copies that are kept
        self.supply = np.bincount(self.row_of, minlength=self.rows).astype(np.int32)
        self.demand = np.bincount(self.col_of, minlength=self.cols).astype(np.int32)
        pairs, count = np.unique(self.row_of * self.cols + self.col_of, return_counts=True)
        self.pair_row, self.pair_col = np.divmod(pairs, self.cols)  # sorted by row and column
        self.pair_count = count.astype(np.int32)
        self.device = self.x.device
        means = self._mean("x"), self._mean("y")
        self.shift_x, self.shift_y = shifts_of(means, (box_x, box_y))  # (d), dtype of the points
        self.apart = not torch.equal(self.shift_x, self.shift_y)
        self.delta = self._between_shifts()  # (d) float64, in the unit of distances
        self.square_x = processes.gathered(square_norms(self.x, self.shift_x))  # (rows) float64
        self.square_y = square_norms(self.y, self.shift_y)  # (cols) float64
        largest = math.sqrt(max(self.square_x.max().item(), self.square_y.max().item()))
        # Centred norms become at most 1, and about 1 unless they are hardly above zero.
        self.scale = 2.0 ** -max(math.frexp(largest)[1], -_LARGEST_SCALE) if largest > 0 else 1.0
        self.identity_cost = self.costs(self.pair_row, self.pair_col.astype(np.int32))  # of the pairs

    def block(self, which: str, rows: slice | Tensor, features: slice = slice(None)) -> Tensor:
        """Return rows of x or y, shifted and scaled, as float32 (rows, features).

        A slice of x lies in this process's own; listed rows may be any that all processes ask for.
        """
        shift = self.shift_x if which == "x" else self.shift_y
        if isinstance(rows, slice):
            near = self._slice(which, rows)[:, features] - shift[features]
        else:
            points = (self.x if which == "x" else self.y)[:, features]
            near = self._listed(which, points, rows.cpu().numpy()) - shift[features]
        if self.scale > LARGEST_FLOAT32:
            near = near.double()
        return near.mul_(self.scale).float()

    def block64(self, which: str, start: int, stop: int) -> Tensor:
        """Return rows start..stop of x or y, shifted, as float64 (rows, d)."""
        shift = self.shift_x if which == "x" else self.shift_y
        return self._slice(which, slice(start, stop)).double() - shift.double()

    def costs(self, rows: np.ndarray, cols: np.ndarray, *, shifted: bool = True) -> np.ndarray:
        """Return |x_i - y_j|^2 in float64 for listed pairs, of the shifted points where shifts differ."""
        return self._of_pairs(rows, cols, lambda i, j: self.own_costs(i, j, shifted=shifted))

    def own_costs(self, rows: np.ndarray, cols: np.ndarray, *, shifted: bool = True) -> np.ndarray:
        """Return `costs` of pairs in this process's rows, which the others need not list."""
        shifts = [self.shift_x.double(), self.shift_y.double()]
        if not (shifted and self.apart):
            shifts = [torch.zeros_like(shift) for shift in shifts]
        return shifted_costs(self.x, self.y, shifts, rows - self.own.start, cols)

    def given(self, which: str, index: np.ndarray) -> np.ndarray:
        """Return distinct points x or y as they were given, float64 (len(index), d)."""
        return self._listed(which, self._given[which], index).double().cpu().numpy()

    def _slice(self, which: str, rows: slice) -> Tensor:
        """Return rows of y, or own rows of x, in their unit."""
        if which == "y":
            return self.y[rows]
        start, stop, step = rows.indices(self.rows)
        assert start >= self.own.start
        return self.x[start - self.own.start : stop - self.own.start : step]

    def _listed(self, which: str, points: Tensor, index: np.ndarray) -> Tensor:
        """Return listed rows, the same list on all processes, of what belongs to y or to own rows of x."""
        if which == "y":
            return points[torch.from_numpy(index).to(points.device)]

        def own(rows: np.ndarray) -> Tensor:
            return points[torch.from_numpy(rows - self.own.start).to(points.device)]

        return self.processes.together(self._shares, index, own)

    def _of_pairs(
        self, rows: np.ndarray, cols: np.ndarray, of: Callable[[np.ndarray, np.ndarray], np.ndarray]
    ) -> np.ndarray:
        """Return of(rows, cols) of pairs that all processes list; each computes that of its own rows."""
        if self.processes.size == 1:
            return of(rows, cols)
        own = (rows >= self.own.start) & (rows < self.own.stop)
        return self.processes.together(
            self._shares, rows, lambda i: torch.from_numpy(of(i, cols[own]))
        ).numpy()

    def _mean(self, which: str) -> Tensor:
        """Return about the mean of distinct points, from the sums of blocks."""
        points, step = self.x if which == "x" else self.y, self.block_rows
        sums = [points[start : start + step].sum(0) for start in range(0, len(points), step)]
        each = torch.stack(sums) if sums else points.new_empty((0, self.d))
        if which == "x":
            each = self.processes.gathered(each)
        return each.sum(0) / (self.rows if which == "x" else self.cols)

    def given_cost(self, cost: float) -> float:
        """Turn a mean cost into squared units of the points as given, infinite where that is out of range."""
        return ldexp(cost, 2 * self.far_exponent)

    @property
    def unit(self) -> float:
        """Return the unit of x and y where it is one."""
        return 2.0 ** self.exponents[0]

    def units(self) -> tuple[float, float]:
        """Return the units of x and y in those of distances, where the larger is 1."""
        larger = max(self.exponents)
        return 2.0 ** (self.exponents[0] - larger), 2.0 ** (self.exponents[1] - larger)

    def _between_shifts(self) -> Tensor:
        p, q = self.units()
        return (p * self.shift_x.double() - q * self.shift_y.double()).contiguous()

    def mean_cost(self, flow: Flow) -> float:
        """Return the mean over the points of the squared distances, in units in which they are in range."""
        units = [2.0 ** (exponent - self.far_exponent) for exponent in self.exponents]
        if units == [1.0, 1.0]:
            costs = self.costs(flow.row, flow.col, shifted=False)
        else:
            origin = [torch.zeros_like(self.delta)] * 2
            costs = self._of_pairs(
                flow.row,
                flow.col,
                lambda i, j: plain_costs(self.x, self.y, origin, i - self.own.start, j, units),
            )
        return math.fsum(costs * flow.units) / self.m

    def as_distance(self, gap: float) -> float:
        """Turn a sum of reduced costs of the shifted points into the unit of `mean_cost`."""
        return ldexp(gap, sum(self.exponents) - 2 * self.far_exponent)

    def fixed(self, flow: Flow) -> int:
        """Return how many points the flow lets stay at their own."""
        own = self.pair_row * self.cols + self.pair_col
        place = np.minimum(np.searchsorted(own, flow.key(self.cols)), len(own) - 1)
        stays = own[place] == flow.key(self.cols)
        return int(np.minimum(flow.units, self.pair_count[place])[stays].sum())

    def permutation(self, flow: Flow) -> np.ndarray:
        """Return which point y takes each point x, (m) int64: as many as the flow lets stay at their own."""
        if self.rows == self.cols == self.m:
            return flow.col.astype(np.int64)
        place = np.searchsorted(flow.key(self.cols), self.row_of * self.cols + self.col_of)
        place = np.minimum(place, len(flow.units) - 1)
        own = (flow.row[place] == self.row_of) & (flow.col[place] == self.col_of)
        order = np.argsort(place[own], kind="stable")  # the first so many of a pair stay
        within = np.arange(len(order)) - np.searchsorted(place[own][order], place[own][order])
        staying = np.flatnonzero(own)[order][within < flow.units[place[own][order]]]
        permutation = np.arange(self.m)
        moved = np.ones(self.m, bool)
        moved[staying] = False
        left = flow.units - np.bincount(place[staying], minlength=len(flow.units))
        from_row, to_col = np.repeat(flow.row, left), np.repeat(flow.col, left)  # sorted by row
        sources, targets = np.flatnonzero(moved), np.flatnonzero(moved)
        sources = sources[np.argsort(self.row_of[sources], kind="stable")]
        targets = targets[np.argsort(self.col_of[targets], kind="stable")]
        assert np.array_equal(self.row_of[sources], from_row)
        permutation[sources[np.argsort(to_col, kind="stable")]] = targets
        return permutation


def power_below(number: int, least: int, most: int) -> int:
    """Return the largest power of two up to the number, between two others."""
    return min(max(1 << max(number, 1).bit_length() - 1, least), most)


def _shares(rows: int, block_rows: int, count: int) -> list[range]:
    """Return as many shares of the rows, in whole blocks and as even as these allow."""
    blocks = -(-rows // block_rows)
    ends = [min(rows, share * blocks // count * block_rows) for share in range(count + 1)]
    return [range(start, stop) for start, stop in itertools.pairwise(ends)]
