# SPDX-License-Identifier: MIT
"""The two point sets, shifted towards zero, and float64 costs of single pairs.

Shifting x and y by different constants changes no assignment: it adds a row term and a column term to the
costs. Sets that lie beside each other are shifted by the same constant, which changes no cost and no dual.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from geodesic_fast._extension import engine

_BLOCK_BYTES, _PAIRS_AT_ONCE = 1 << 20, 1 << 20
UNIT_ROUNDOFF = 2.0**-53
_BESIDE = 0.25


class Points:
    """x and y, (m, d) float32 or float64, with shifts, centred norms and the scale of float32 products."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y, self.unit = _in_range(x, y)
        self.m, self.d = self.x.shape
        self.device = self.x.device
        self.shift_x, self.shift_y = _shifts(self.x, self.y)  # (d), dtype of the points
        delta = self.shift_x.double() - self.shift_y.double()
        self.delta = delta.contiguous()  # (d)
        self.square_x = _square_norms(self.x, self.shift_x)  # (m) float64
        self.square_y = _square_norms(self.y, self.shift_y)  # (m) float64
        largest = math.sqrt(max(self.square_x.max().item(), self.square_y.max().item()))
        self.scale = 2.0 ** -math.frexp(largest)[1] if largest > 0 else 1.0  # centred norms become at most 1
        self.identity_cost = self.costs(np.arange(self.m), np.arange(self.m, dtype=np.int32))  # (m)

    def block(self, which: str, rows: slice | Tensor, features: slice = slice(None)) -> Tensor:
        """Return rows of x or y, a slice or listed, shifted and scaled, as float32 (rows, features)."""
        points, shift = (self.x, self.shift_x) if which == "x" else (self.y, self.shift_y)
        return (points[:, features][rows] - shift[features]).mul_(self.scale).float()

    def block64(self, which: str, start: int, stop: int) -> Tensor:
        """Return rows start..stop of x or y, shifted, as float64 (rows, d)."""
        points, shift = (self.x, self.shift_x) if which == "x" else (self.y, self.shift_y)
        return points[start:stop].double() - shift.double()

    def costs(self, rows: np.ndarray, cols: np.ndarray, *, shifted: bool = True) -> np.ndarray:
        """Return |x_i - y_j - delta|^2 in float64 for listed pairs; delta is 0 unless `shifted`."""
        shift = self.delta if shifted else torch.zeros_like(self.delta)
        return _pair_costs(self.x, self.y, shift, rows, cols)

    def given_potentials(self, u: np.ndarray, v: np.ndarray) -> tuple[Tensor, Tensor]:
        """Turn duals of the shifted costs into duals of the squared distances of the points as given."""
        row_term = torch.empty(self.m, dtype=torch.float64, device=self.device)
        col_term = torch.empty_like(row_term)
        for start, stop in _row_blocks(self.m, self.d):
            row_term[start:stop] = self.block64("x", start, stop) @ self.delta
            col_term[start:stop] = self.block64("y", start, stop) @ self.delta
        square = self.unit**2
        given_u = (torch.from_numpy(u).to(self.device) + 2 * row_term + self.delta.square().sum()) * square
        given_v = (torch.from_numpy(v).to(self.device) - 2 * col_term) * square
        return given_u, given_v

    def shifted_column_potential(self, v: Tensor) -> np.ndarray:
        """Turn a column dual of the points as given into one of the shifted costs."""
        col_term = torch.empty(self.m, dtype=torch.float64, device=self.device)
        for start, stop in _row_blocks(self.m, self.d):
            col_term[start:stop] = self.block64("y", start, stop) @ self.delta
        shifted = v.to(self.device, torch.float64) / self.unit**2 + 2 * col_term
        return np.ascontiguousarray(shifted.cpu().numpy())

    def cost_rounding(self, cost: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Bound the rounding of a float64 cost and of its reduced cost, per pair."""
        return (self.d / 4 + 32) * UNIT_ROUNDOFF * (cost + np.abs(u) + np.abs(v))


def _in_range(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, float]:
    """Return contiguous points whose squares neither overflow nor vanish, and the unit they are in."""
    x, y = x.contiguous(), y.contiguous()
    if x.dtype in (torch.float16, torch.bfloat16):
        x, y = x.float(), y.float()
    largest = max(abs(value.item()) for points in (x, y) for value in points.aminmax())
    exponent = math.frexp(largest)[1]
    if abs(exponent) < 60 or largest == 0:
        return x, y, 1.0
    unit = 2.0**exponent
    return x.double() / unit, y.double() / unit, unit


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

    In few binary digits, so that subtracting it is exact on a grid of points.
    """
    extent = points.amax(0).double() - points.amin(0).double()
    spread = extent.amax().item()
    if spread == 0:
        return points[0].clone(), 0.0
    quantum = 2.0 ** (math.frexp(spread)[1] - 10)
    return ((points.mean(0) / quantum).round_() * quantum).contiguous(), extent.norm().item()


def _square_norms(points: Tensor, shift: Tensor) -> Tensor:
    """Return |p_i - shift|^2, (m) float64, without rounding to float32 on the way."""
    origin = torch.zeros((1, points.shape[1]), dtype=points.dtype, device=points.device)
    everyone, first = np.arange(len(points)), np.zeros(len(points), np.int32)
    return torch.from_numpy(_pair_costs(points, origin, shift.double(), everyone, first)).to(points.device)


def _pair_costs(x: Tensor, y: Tensor, shift: Tensor, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
    if x.device.type != "cpu" or engine is None:
        return _plain_costs(x, y, shift, rows, cols)
    cost = np.empty(len(rows))
    for start in range(0, len(rows), _PAIRS_AT_ONCE):
        some = slice(start, start + _PAIRS_AT_ONCE)
        i, j = np.ascontiguousarray(rows[some], np.int64), np.ascontiguousarray(cols[some], np.int32)
        engine.ots_edge_costs(
            x.data_ptr(), y.data_ptr(), x.dtype == torch.float64, x.stride(0), y.stride(0), x.shape[1],
            shift.data_ptr(), i.ctypes.data, j.ctypes.data, len(i), cost[some].ctypes.data,
            torch.get_num_threads(),
        )  # fmt: skip
    return cost


def _plain_costs(x: Tensor, y: Tensor, shift: Tensor, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
    cost = np.empty(len(rows))
    for start, stop in _row_blocks(len(rows), x.shape[1]):
        i = torch.from_numpy(rows[start:stop].astype(np.int64)).to(x.device)
        j = torch.from_numpy(cols[start:stop].astype(np.int64)).to(x.device)
        difference = x[i].double() - y[j].double() - shift
        cost[start:stop] = difference.square_().sum(1).cpu().numpy()
    return cost
