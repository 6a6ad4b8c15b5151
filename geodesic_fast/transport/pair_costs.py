# SPDX-License-Identifier: MIT
"""Float64 costs |x_i - y_j|^2 of listed pairs: the engine's on the CPU, plain torch elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from geodesic_fast.engine.handing import first_address, launch_on_cpu
from geodesic_fast.engine.load import is_loaded

_BLOCK_BYTES, _PAIRS_AT_ONCE = 1 << 20, 1 << 20


def pair_costs(x: Tensor, y: Tensor, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
    """Return |x_i - y_j|^2 in float64 for listed pairs of points as they are given."""
    nothing = torch.zeros(x.shape[1], dtype=torch.float64, device=x.device)
    return shifted_costs(widened(x), widened(y), [nothing, nothing], rows, cols)


def widened(points: Tensor) -> Tensor:
    """Return points in float32 or float64, each feature after the other."""
    return (
        points.float().contiguous()
        if points.dtype in (torch.float16, torch.bfloat16)
        else points.contiguous()
    )


def row_blocks(m: int, d: int) -> list[tuple[int, int]]:
    """Return the parts in which m rows of d float64 values are gone through."""
    rows = max(1, _BLOCK_BYTES // (8 * d))
    return [(start, min(start + rows, m)) for start in range(0, m, rows)]


def square_norms(points: Tensor, shift: Tensor) -> Tensor:
    """Return |p_i - shift|^2, (m) float64, without rounding to float32 on the way."""
    origin = torch.zeros((1, points.shape[1]), dtype=points.dtype, device=points.device)
    everyone, first = np.arange(len(points)), np.zeros(len(points), np.int32)
    return torch.from_numpy(
        shifted_costs(points, origin, [shift.double(), origin[0].double()], everyone, first)
    ).to(points.device)


def shifted_costs(
    x: Tensor, y: Tensor, shifts: list[Tensor], rows: np.ndarray, cols: np.ndarray
) -> np.ndarray:
    """Return |(x_i - s) - (y_j - t)|^2 of listed pairs, with shifts s and t (d) float64."""
    if x.device.type != "cpu" or not is_loaded:
        return plain_costs(x, y, shifts, rows, cols)
    cost = np.empty(len(rows))
    for start in range(0, len(rows), _PAIRS_AT_ONCE):
        some = slice(start, start + _PAIRS_AT_ONCE)
        i, j = np.ascontiguousarray(rows[some], np.int64), np.ascontiguousarray(cols[some], np.int32)
        launch_on_cpu(
            "ots_edge_costs", first_address(x), first_address(y), x.dtype == torch.float64, x.stride(0),
            y.stride(0), x.shape[1], shifts[0], shifts[1], i, j, len(i), cost[some],
        )  # fmt: skip
    return cost


def plain_costs(
    x: Tensor,
    y: Tensor,
    shifts: list[Tensor],
    rows: np.ndarray,
    cols: np.ndarray,
    units: Sequence[float] = (1.0, 1.0),
) -> np.ndarray:
    """Return what `shifted_costs` does, of points in units of their own."""
    cost = np.empty(len(rows))
    for start, stop in row_blocks(len(rows), x.shape[1]):
        i = torch.from_numpy(rows[start:stop].astype(np.int64)).to(x.device)
        j = torch.from_numpy(cols[start:stop].astype(np.int64)).to(x.device)
        difference = (x[i].double() * units[0] - shifts[0]) - (y[j].double() * units[1] - shifts[1])
        cost[start:stop] = difference.square_().sum(1).cpu().numpy()
    return cost
