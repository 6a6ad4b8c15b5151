# SPDX-License-Identifier: MIT
"""The two point sets, equal points once, shifted towards zero, and float64 costs of single pairs.

Where points are equal, a row stands for all x that are equal and a column for all y: it supplies or takes so
many units, and a matching of the points is a flow of units from rows to columns. Usually rows and columns are
the points themselves.

Shifting x and y by different constants changes no assignment: it adds a row term and a column term to the
costs. Sets that lie beside each other are shifted by the same constant, which changes no cost and no dual.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from geodesic_fast._extension import engine
from geodesic_fast._tracks import first_address
from geodesic_fast.transport.equal_points import merge_equal

_BLOCK_BYTES, _PAIRS_AT_ONCE = 1 << 20, 1 << 20
UNIT_ROUNDOFF = 2.0**-53
_BESIDE = 0.25
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
    pair_count[k] of them.
    """

    def __init__(self, x: Tensor, y: Tensor, *, merge: bool = True) -> None:
        x, y = _wide(x), _wide(y)
        self.m, self.d = x.shape
        self.row_of = self.col_of = np.arange(self.m)
        if merge:
            (x, self.row_of), (y, self.col_of) = merge_equal(x), merge_equal(y)
        self._given = {"x": x, "y": y}
        self.x, self.y, self.exponent = _in_range(x, y)
        self.unit = 2.0**self.exponent
        self.rows, self.cols = len(x), len(y)
        self.supply = np.bincount(self.row_of, minlength=self.rows).astype(np.int32)
        self.demand = np.bincount(self.col_of, minlength=self.cols).astype(np.int32)
        pairs, count = np.unique(self.row_of * self.cols + self.col_of, return_counts=True)
        self.pair_row, self.pair_col = np.divmod(pairs, self.cols)  # sorted by row and column
        self.pair_count = count.astype(np.int32)
        self.device = self.x.device
        self.shift_x, self.shift_y = _shifts(self.x, self.y)  # (d), dtype of the points
        self.apart = not torch.equal(self.shift_x, self.shift_y)
        self.delta = (self.shift_x.double() - self.shift_y.double()).contiguous()  # (d)
        self.square_x = _square_norms(self.x, self.shift_x)  # (rows) float64
        self.square_y = _square_norms(self.y, self.shift_y)  # (cols) float64
        largest = math.sqrt(max(self.square_x.max().item(), self.square_y.max().item()))
        # Centred norms become at most 1, and about 1 unless they are hardly above zero.
        self.scale = 2.0 ** -max(math.frexp(largest)[1], -_LARGEST_SCALE) if largest > 0 else 1.0
        self.identity_cost = self.costs(self.pair_row, self.pair_col.astype(np.int32))  # of the pairs

    def block(self, which: str, rows: slice | Tensor, features: slice = slice(None)) -> Tensor:
        """Return rows of x or y, a slice or listed, shifted and scaled, as float32 (rows, features)."""
        points, shift = (self.x, self.shift_x) if which == "x" else (self.y, self.shift_y)
        near = points[:, features][rows] - shift[features]
        if self.scale > _LARGEST_FLOAT32:
            near = near.double()
        return near.mul_(self.scale).float()

    def block64(self, which: str, start: int, stop: int) -> Tensor:
        """Return rows start..stop of x or y, shifted, as float64 (rows, d)."""
        points, shift = (self.x, self.shift_x) if which == "x" else (self.y, self.shift_y)
        return points[start:stop].double() - shift.double()

    def costs(self, rows: np.ndarray, cols: np.ndarray, *, shifted: bool = True) -> np.ndarray:
        """Return |x_i - y_j|^2 in float64 for listed pairs, of the shifted points where shifts differ."""
        shifts = [self.shift_x.double(), self.shift_y.double()]
        if not (shifted and self.apart):
            shifts = [torch.zeros_like(shift) for shift in shifts]
        return _pair_costs(self.x, self.y, shifts, rows, cols)

    def given(self, which: str, index: np.ndarray) -> np.ndarray:
        """Return distinct points x or y as they were given, float64 (len(index), d)."""
        points = self._given[which]
        return points[torch.from_numpy(index).to(points.device)].double().cpu().numpy()

    def given_cost(self, cost: float) -> float:
        """Turn a cost into squared units of the points as given, infinite where that is out of range."""
        try:
            return math.ldexp(cost, 2 * self.exponent)
        except OverflowError:
            return math.inf

    def given_potentials(self, u: np.ndarray, v: np.ndarray) -> tuple[Tensor, Tensor]:
        """Turn duals (rows), (cols) of the shifted costs into duals (m) of the distances as given."""
        square = self.given_cost(1.0)
        given_u = torch.from_numpy(u).to(self.device) + 2 * self._along_delta("x") + self.delta.square().sum()
        given_v = torch.from_numpy(v).to(self.device) - 2 * self._along_delta("y")
        of_row, of_col = (torch.from_numpy(index).to(self.device) for index in (self.row_of, self.col_of))
        return (given_u * square)[of_row], (given_v * square)[of_col]

    def shifted_column_potential(self, v: Tensor) -> np.ndarray:
        """Turn a column dual (m) of the points as given into one (cols) of the shifted costs."""
        of_col = torch.from_numpy(self.col_of).to(self.device)
        given = torch.empty(self.cols, dtype=torch.float64, device=self.device)
        given[of_col] = v.to(self.device, torch.float64)
        shifted = given / self.unit / self.unit + 2 * self._along_delta("y")
        return np.ascontiguousarray(shifted.cpu().numpy())

    def _along_delta(self, which: str) -> Tensor:
        """Return <x, delta> or <y, delta> for each of the shifted points, float64."""
        count = self.rows if which == "x" else self.cols
        products = torch.empty(count, dtype=torch.float64, device=self.device)
        for start, stop in _row_blocks(count, self.d):
            products[start:stop] = self.block64(which, start, stop) @ self.delta
        return products

    def mean_cost(self, flow: Flow) -> float:
        """Return the mean over the points of the squared distances as given."""
        return math.fsum(self.costs(flow.row, flow.col, shifted=False) * flow.units) / self.m

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


def _in_range(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, int]:
    """Return points whose squares do not overflow, nor all vanish, and the exponent of their unit."""
    largest = max(abs(value.item()) for points in (x, y) for value in points.aminmax())
    exponent = min(math.frexp(largest)[1], 1023)
    if abs(exponent) < 60 or largest == 0:
        return x, y, 0
    unit = 2.0**exponent
    return x.double() / unit, y.double() / unit, exponent


def _row_blocks(m: int, d: int) -> list[tuple[int, int]]:
    rows = max(1, _BLOCK_BYTES // (8 * d))
    return [(start, min(start + rows, m)) for start in range(0, m, rows)]


def _shifts(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return about the mean of each, or between both where these are close beside the points' extents."""
    (shift_x, extent_x), (shift_y, extent_y) = _shift(x), _shift(y)
    if (shift_x.double() - shift_y.double()).norm().item() > _BESIDE * min(extent_x, extent_y):
        return shift_x, shift_y
    middle = (shift_x / 2 + shift_y / 2).contiguous()
    return middle, middle


def _shift(points: Tensor) -> tuple[Tensor, float]:
    """Return about the mean, and the diagonal of the box that holds the points.

    In few binary digits of each feature's extent, so that subtracting it is exact on a grid of points.
    """
    extent = points.amax(0) - points.amin(0)
    least = torch.finfo(points.dtype).tiny
    quantum = torch.exp2(torch.frexp(extent).exponent.to(points.dtype) - 10).clamp(min=least)
    shift = torch.where(extent > 0, (points.mean(0) / quantum).round_() * quantum, points[0])
    return shift.contiguous(), extent.double().norm().item()


def _square_norms(points: Tensor, shift: Tensor) -> Tensor:
    """Return |p_i - shift|^2, (m) float64, without rounding to float32 on the way."""
    origin = torch.zeros((1, points.shape[1]), dtype=points.dtype, device=points.device)
    everyone, first = np.arange(len(points)), np.zeros(len(points), np.int32)
    return torch.from_numpy(
        _pair_costs(points, origin, [shift.double(), origin[0].double()], everyone, first)
    ).to(points.device)


def _pair_costs(x: Tensor, y: Tensor, shifts: list[Tensor], rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
    if x.device.type != "cpu" or engine is None:
        return _plain_costs(x, y, shifts, rows, cols)
    cost = np.empty(len(rows))
    for start in range(0, len(rows), _PAIRS_AT_ONCE):
        some = slice(start, start + _PAIRS_AT_ONCE)
        i, j = np.ascontiguousarray(rows[some], np.int64), np.ascontiguousarray(cols[some], np.int32)
        engine.ots_edge_costs(
            first_address(x), first_address(y), x.dtype == torch.float64, x.stride(0), y.stride(0),
            x.shape[1], *map(first_address, shifts), i.ctypes.data, j.ctypes.data, len(i),
            cost[some].ctypes.data, torch.get_num_threads(),
        )  # fmt: skip
    return cost


def _plain_costs(
    x: Tensor, y: Tensor, shifts: list[Tensor], rows: np.ndarray, cols: np.ndarray
) -> np.ndarray:
    cost = np.empty(len(rows))
    for start, stop in _row_blocks(len(rows), x.shape[1]):
        i = torch.from_numpy(rows[start:stop].astype(np.int64)).to(x.device)
        j = torch.from_numpy(cols[start:stop].astype(np.int64)).to(x.device)
        difference = (x[i].double() - shifts[0]) - (y[j].double() - shifts[1])
        cost[start:stop] = difference.square_().sum(1).cpu().numpy()
    return cost
