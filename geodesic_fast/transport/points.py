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
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from geodesic_fast._processes import ALONE, Processes
from geodesic_fast.engine.handing import first_address, launch_on_cpu
from geodesic_fast.engine.load import is_loaded
from geodesic_fast.transport.equal_points import merge_equal
from geodesic_fast.transport.memory import check_room

_BLOCK_BYTES, _PAIRS_AT_ONCE = 1 << 20, 1 << 20
_BLOCK_ROWS = 1024  # a power of two; few enough to answer to an interrupt and to a deadline
UNIT_ROUNDOFF = 2.0**-53
_ADDED_ROUNDOFFS = 8  # of sums of four terms and of their parts
_BESIDE = 0.25
_ALIKE = 10  # binary digits by which the extents of x and y may differ in one unit
_USUAL = 60  # exponents of coordinates whose squares are in range, of float32 too
_FARTHEST = 1000  # binary digits by which coordinates may exceed extents in their unit
_LARGEST_FLOAT32 = 2.0**100
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
        x, y = _wide(x), _wide(y)
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
        boxes = _box(x, processes), _box(y)
        self.exponents, self.far_exponent = _exponents(*boxes, one_unit)
        (self.x, box_x), (self.y, box_y) = _in_units((x, y), boxes, self.exponents)
        own = {of.data_ptr(): of.nbytes for of in (x, y, self.x, self.y) if of.data_ptr() not in callers}
        self.bytes = sum(own.values())  # of copies that are kept
        self.supply = np.bincount(self.row_of, minlength=self.rows).astype(np.int32)
        self.demand = np.bincount(self.col_of, minlength=self.cols).astype(np.int32)
        pairs, count = np.unique(self.row_of * self.cols + self.col_of, return_counts=True)
        self.pair_row, self.pair_col = np.divmod(pairs, self.cols)  # sorted by row and column
        self.pair_count = count.astype(np.int32)
        self.device = self.x.device
        means = self._mean("x"), self._mean("y")
        self.shift_x, self.shift_y = _shifts(means, (box_x, box_y))  # (d), dtype of the points
        self.apart = not torch.equal(self.shift_x, self.shift_y)
        self.delta = self._between_shifts()  # (d) float64, in the unit of distances
        self.square_x = processes.gathered(_square_norms(self.x, self.shift_x))  # (rows) float64
        self.square_y = _square_norms(self.y, self.shift_y)  # (cols) float64
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
        if self.scale > _LARGEST_FLOAT32:
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
        return _pair_costs(self.x, self.y, shifts, rows - self.own.start, cols)

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
        return _ldexp(cost, 2 * self.far_exponent)

    def given_potentials(self, u: np.ndarray, v: np.ndarray) -> tuple[Tensor, Tensor]:
        """Turn duals (rows), (cols) of the shifted costs into duals (m) of the distances as given.

        With x = p X and y = q Y, |x - y|^2 = p q |X - Y|^2 + (p^2 - p q) |X|^2 + (q^2 - p q) |Y|^2. What is
        added rounds, and its rounding is taken off: duals of pairs that cost nothing stay feasible.
        """
        p, q = self._units()
        square = _ldexp(1.0, 2 * max(self.exponents))
        between = self.delta.square().sum()
        given = []
        for dual, squares, unit, which, index in (
            (u, self.square_x, p, "x", self.row_of),
            (v, self.square_y, q, "y", self.col_of),
        ):
            own = torch.from_numpy(dual).to(self.device) * (p * q)
            stretched = (unit * unit - p * q) * squares
            moved = 2 * unit * self._along_delta(which) * (1 if which == "x" else -1)
            added = between if which == "x" else torch.zeros_like(between)
            size = stretched.abs() + moved.abs() + added
            size = torch.where(size > 0, size + own.abs(), size)  # where nothing is added nothing rounds
            own = own + stretched + moved + added - _ADDED_ROUNDOFFS * UNIT_ROUNDOFF * size
            given.append((own * square)[torch.from_numpy(index).to(self.device)])
        return given[0], given[1]

    def shifted_column_potential(self, v: Tensor) -> np.ndarray:
        """Turn a column dual (m) of the points as given into one (cols) of the shifted costs."""
        p, q = self._units()
        of_col = torch.from_numpy(self.col_of).to(self.device)
        given = torch.empty(self.cols, dtype=torch.float64, device=self.device)
        given[of_col] = v.to(self.device, torch.float64)
        unit = 2.0 ** max(self.exponents)
        shifted = given / unit / unit + 2 * q * self._along_delta("y") - (q * q - p * q) * self.square_y
        return np.ascontiguousarray((shifted / p / q).cpu().numpy())

    @property
    def unit(self) -> float:
        """Return the unit of x and y where it is one."""
        return 2.0 ** self.exponents[0]

    def largest_cost(self) -> float:
        """Return about the largest shifted cost, with what shifts and units add to duals."""
        p, q = self._units()
        norms = float(self.square_x.max() + self.square_y.max())
        return 4 * norms + float((self.delta.square() / p / q).sum())

    def _units(self) -> tuple[float, float]:
        """Return the units of x and y in those of distances, where the larger is 1."""
        larger = max(self.exponents)
        return 2.0 ** (self.exponents[0] - larger), 2.0 ** (self.exponents[1] - larger)

    def _between_shifts(self) -> Tensor:
        p, q = self._units()
        return (p * self.shift_x.double() - q * self.shift_y.double()).contiguous()

    def _along_delta(self, which: str) -> Tensor:
        """Return <x, delta> or <y, delta> for each of the shifted points, float64."""
        first, count = (self.own.start, len(self.own)) if which == "x" else (0, self.cols)
        products = torch.zeros(count, dtype=torch.float64, device=self.device)
        for start, stop in _row_blocks(count, self.d) if self.delta.any() else ():
            products[start:stop] = (self.block64(which, first + start, first + stop) * self.delta).sum(1)
        return self.processes.gathered(products) if which == "x" else products

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
                lambda i, j: _plain_costs(self.x, self.y, origin, i - self.own.start, j, units),
            )
        return math.fsum(costs * flow.units) / self.m

    def as_distance(self, gap: float) -> float:
        """Turn a sum of reduced costs of the shifted points into the unit of `mean_cost`."""
        return _ldexp(gap, sum(self.exponents) - 2 * self.far_exponent)

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

    def cost_rounding(self, cost: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Estimate the rounding of a float64 cost and of its reduced cost, per pair."""
        return (self.d / 4 + 32) * UNIT_ROUNDOFF * (cost + np.abs(u) + np.abs(v))

    def reduced_rounding(
        self, rows: np.ndarray, cols: np.ndarray, cost: np.ndarray, u: np.ndarray, v: np.ndarray
    ) -> np.ndarray:
        """Bound the rounding of (cost - v_j) - u_i for pairs whose `cost` comes from `costs`.

        Each difference of coordinates rounds, relative to itself where both points are shifted alike and
        relative to |x_i| and |y_j| where not; then squares, their sum and two differences.
        """
        bound = (self.d / 4 + 32) * UNIT_ROUNDOFF * (cost + np.abs(u[rows]) + np.abs(v[cols]))
        step = 2.0**-1060 * self.d
        if self.apart:
            norm_x, norm_y = (np.sqrt(square.cpu().numpy()) for square in (self.square_x, self.square_y))
            step = step + 2 * UNIT_ROUNDOFF * (norm_x[rows] + norm_y[cols])
        return (bound + step * (2 * np.sqrt(cost) + step)) * (1 + 2.0**-20) + 2.0**-1060 * self.d


def pair_costs(x: Tensor, y: Tensor, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
    """Return |x_i - y_j|^2 in float64 for listed pairs of points as they are given."""
    nothing = torch.zeros(x.shape[1], dtype=torch.float64, device=x.device)
    return _pair_costs(_wide(x), _wide(y), [nothing, nothing], rows, cols)


def _wide(points: Tensor) -> Tensor:
    return (
        points.float().contiguous()
        if points.dtype in (torch.float16, torch.bfloat16)
        else points.contiguous()
    )


def _ldexp(value: float, exponent: int) -> float:
    try:
        return math.ldexp(value, exponent)
    except OverflowError:
        return math.inf


def power_below(number: int, least: int, most: int) -> int:
    """Return the largest power of two up to the number, between two others."""
    return min(max(1 << max(number, 1).bit_length() - 1, least), most)


def _shares(rows: int, block_rows: int, count: int) -> list[range]:
    """Return as many shares of the rows, in whole blocks and as even as these allow."""
    blocks = -(-rows // block_rows)
    ends = [min(rows, share * blocks // count * block_rows) for share in range(count + 1)]
    return [range(start, stop) for start, stop in itertools.pairwise(ends)]


def _box(points: Tensor, processes: Processes = ALONE) -> Tensor:
    """Return the least and the largest of each feature, (2, d), over the processes that hold the points."""
    box = points.new_tensor([[torch.inf], [-torch.inf]]).repeat(1, points.shape[1])
    if len(points):
        box = torch.stack([points.amin(0), points.amax(0)])  # aminmax(dim=0) takes ten times as long
    return torch.stack([processes.lowest(box[0]), processes.highest(box[1])])


def _exponents(box_x: Tensor, box_y: Tensor, one_unit: bool) -> tuple[tuple[int, int], int]:
    """Return the powers of two that x and y are divided by, and the one for distances of one to the other.

    0 where extents are alike and squares in range.
    """
    (large_x, wide_x), (large_y, wide_y) = _magnitudes(box_x), _magnitudes(box_y)
    any_wide = next((of for of in (wide_x, wide_y, large_x, large_y) if of is not None), 0)
    size_x, size_y = (
        max(any_wide if wide is None else wide, any_wide if large is None else large - _FARTHEST)
        for large, wide in ((large_x, wide_x), (large_y, wide_y))
    )
    wider = max(size_x, size_y)
    if one_unit or abs(size_x - size_y) <= _ALIKE:
        size_x = size_y = wider
    if all(abs(of) < _USUAL for of in (large_x, large_y, size_x, size_y) if of is not None):
        return (size_x - wider, size_y - wider), 0
    far = max((of for of in (large_x, large_y) if of is not None), default=0)
    return (min(size_x, 1023), min(size_y, 1023)), min(far, 1023)


def _magnitudes(box: Tensor) -> tuple[int | None, int | None]:
    """Return the exponents of the largest coordinate and of the largest extent, None where that is zero."""
    low, high = box.double()
    largest, half = float(box.abs().max()), float((high / 2 - low / 2).max())
    large, wide = math.frexp(largest)[1], math.frexp(half)[1] + 1
    return large if largest > 0 else None, wide if half > 0 else None


def _in_units(
    both: tuple[Tensor, Tensor], boxes: tuple[Tensor, Tensor], exponents: tuple[int, int]
) -> list[tuple[Tensor, Tensor]]:
    """Return x and y divided by powers of two, and their boxes, in float64 where float32 is too narrow."""
    divided = [_times_power(box.double(), -exponent) for box, exponent in zip(boxes, exponents, strict=True)]
    kind = both[0].dtype
    if max(exponents) > 0 or max(float(box.abs().max()) for box in divided) > _LARGEST_FLOAT32:
        kind = torch.float64
    return [
        (_times_power(points.to(kind), -exponent), box.to(kind))
        for points, box, exponent in zip(both, divided, exponents, strict=True)
    ]


def _times_power(points: Tensor, power: int) -> Tensor:
    """Return points times 2^power, which may itself be out of range."""
    return points if power == 0 else points * 2.0 ** (power // 2) * 2.0 ** (power - power // 2)


def _row_blocks(m: int, d: int) -> list[tuple[int, int]]:
    rows = max(1, _BLOCK_BYTES // (8 * d))
    return [(start, min(start + rows, m)) for start in range(0, m, rows)]


def _shifts(means: tuple[Tensor, Tensor], boxes: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Return about the mean of each, or between both where these are close beside the points' extents."""
    (shift_x, extent_x), (shift_y, extent_y) = map(_shift, means, boxes)
    if (shift_x.double() - shift_y.double()).norm().item() > _BESIDE * min(extent_x, extent_y):
        return shift_x, shift_y
    middle = (shift_x / 2 + shift_y / 2).contiguous()
    return middle, middle


def _shift(mean: Tensor, box: Tensor) -> tuple[Tensor, float]:
    """Return about the mean, and the diagonal of the box that holds the points.

    In few binary digits of each feature's extent, so that subtracting it is exact on a grid of points.
    """
    extent = box[1] - box[0]
    least = torch.finfo(box.dtype).tiny
    quantum = torch.exp2(torch.frexp(extent).exponent.to(box.dtype) - 10).clamp(min=least)
    shift = torch.where(extent > 0, (mean / quantum).round_() * quantum, box[0])
    return shift.contiguous(), extent.double().norm().item()


def _square_norms(points: Tensor, shift: Tensor) -> Tensor:
    """Return |p_i - shift|^2, (m) float64, without rounding to float32 on the way."""
    origin = torch.zeros((1, points.shape[1]), dtype=points.dtype, device=points.device)
    everyone, first = np.arange(len(points)), np.zeros(len(points), np.int32)
    return torch.from_numpy(
        _pair_costs(points, origin, [shift.double(), origin[0].double()], everyone, first)
    ).to(points.device)


def _pair_costs(x: Tensor, y: Tensor, shifts: list[Tensor], rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
    if x.device.type != "cpu" or not is_loaded:
        return _plain_costs(x, y, shifts, rows, cols)
    cost = np.empty(len(rows))
    for start in range(0, len(rows), _PAIRS_AT_ONCE):
        some = slice(start, start + _PAIRS_AT_ONCE)
        i, j = np.ascontiguousarray(rows[some], np.int64), np.ascontiguousarray(cols[some], np.int32)
        launch_on_cpu(
            "ots_edge_costs", first_address(x), first_address(y), x.dtype == torch.float64, x.stride(0),
            y.stride(0), x.shape[1], shifts[0], shifts[1], i, j, len(i), cost[some],
        )  # fmt: skip
    return cost


def _plain_costs(
    x: Tensor,
    y: Tensor,
    shifts: list[Tensor],
    rows: np.ndarray,
    cols: np.ndarray,
    units: Sequence[float] = (1.0, 1.0),
) -> np.ndarray:
    cost = np.empty(len(rows))
    for start, stop in _row_blocks(len(rows), x.shape[1]):
        i = torch.from_numpy(rows[start:stop].astype(np.int64)).to(x.device)
        j = torch.from_numpy(cols[start:stop].astype(np.int64)).to(x.device)
        difference = (x[i].double() * units[0] - shifts[0]) - (y[j].double() * units[1] - shifts[1])
        cost[start:stop] = difference.square_().sum(1).cpu().numpy()
    return cost
