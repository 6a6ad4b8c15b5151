# SPDX-License-Identifier: MIT
"""Small problems on all their pairs at once: solved many side by side, and proved where float64 tells enough.

Costs are products -<x_i - s, y_j - t> in float64, which differ from half of the squared distances by a row
term and a column term, with s and t the means. The engine bounds what each reduced cost may err by and says
whether another assignment could cost as little (`csrc/cpu/ots_dense.cpp`); where it could, the problem is
left to the search and its exact proof. So it is where a coordinate is far out of the usual range, or NaN.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from geodesic_fast.engine.handing import first_address, launch_on_cpu
from geodesic_fast.engine.load import engine
from geodesic_fast.transport.pair_costs import pair_costs

SMALL = 600  # points up to which this is faster than the search, in 2 dimensions and in many
_TOGETHER = 16  # columns are padded to whole vectors
_CHUNK_BYTES = 16 << 20
_STEPS = 1 << 26  # costs looked at between two looks at the clock
_UNIQUE = 3  # the engine's word for a problem that is proved
_BAR_AFTER = 10  # seconds


@dataclass(frozen=True)
class DenseSolutions:
    """Assignments of many problems, proved where `unique`; elsewhere nothing is known. float64."""

    column: np.ndarray  # (problems, m) int64; the points' own where nothing is known
    unique: np.ndarray  # (problems) bool
    map_cost: np.ndarray  # (problems), mean |x_i - y_i|^2
    optimal_cost: np.ndarray  # (problems), mean |x_i - y_column(i)|^2
    gap: np.ndarray  # (problems), of that to the duals; infinite where nothing is known
    u: np.ndarray  # (problems, m), duals of the squared distances; NaN where nothing is known
    v: np.ndarray  # (problems, m)
    all_unique: bool = False
    bytes: int = 0  # taken at once


def bytes_each(m: int, d: int) -> int:
    """Return what one problem takes while it is solved."""
    stride = _stride(m)
    return 8 * (m * stride + 2 * d + 9 * stride)


def solve_none(x: Tensor, y: Tensor) -> DenseSolutions:
    """Return what is known of problems x, y (problems, m, d) before any is solved."""
    problems, m, d = x.shape
    rows = np.arange(problems * m)
    pairs = pair_costs(x.reshape(-1, d), y.reshape(-1, d), rows, rows).reshape(problems, m)
    with np.errstate(over="ignore"):  # infinite, which is the answer
        costs = pairs.mean(1)
    u, v = np.full((2, problems, m), np.nan)
    own = np.tile(np.arange(m), (problems, 1))
    unique, gap = np.zeros(problems, bool), np.full(problems, np.inf)
    return DenseSolutions(own, unique, costs, costs.copy(), gap, u, v)


def solve_dense(x: Tensor, y: Tensor, budget: int, deadline: float, verbose: bool) -> DenseSolutions:
    """Solve problems x, y (problems, m, d) in as many bytes, as far as the time reaches."""
    problems, m, d = x.shape
    x, y = _readable(x), _readable(y)
    stride, each = _stride(m), bytes_each(m, d)
    chunk = max(1, min(problems, _CHUNK_BYTES // each, budget // each))
    work = np.empty(chunk * ((m + 1) * stride + 2 * d + 4 * m))
    column, status = np.empty((problems, m), np.int64), np.zeros(problems, np.int64)
    u, v = np.empty((problems, m)), np.empty((problems, m))
    map_cost, optimal_cost, gap = costs = np.empty((3, problems))
    arrays = (column, status, u, v, *costs)
    addresses = [(first_address(of), of.stride(0) * of.element_size()) for of in (x, y)]
    addresses += [(of.ctypes.data, of.strides[0]) for of in arrays]
    starts = range(0, problems, chunk)
    for start in starts if len(starts) == 1 and not verbose else _with_bar(starts, verbose):
        if time.monotonic() > deadline:
            break
        count = min(chunk, problems - start)
        at_x, at_y, *results = (first + start * step for first, step in addresses)
        task = engine.DenseProblems(
            at_x, at_y, x.dtype == torch.float64, count, m, d, stride, max(1, _STEPS // (count * stride)),
            work.ctypes.data, *results,
        )  # fmt: skip
        launch_on_cpu("ots_dense_costs", task)
        while time.monotonic() <= deadline and not launch_on_cpu("ots_dense_assignments", task):
            pass
    unique = status == _UNIQUE
    solved = DenseSolutions(
        column, unique, map_cost, optimal_cost, gap, u, v, bool(unique.all()), chunk * each
    )
    if not solved.all_unique:
        open_ones = torch.from_numpy(~unique)
        nothing = solve_none(x[open_ones], y[open_ones])
        for name in ("column", "map_cost", "optimal_cost", "gap", "u", "v"):
            getattr(solved, name)[~unique] = getattr(nothing, name)
    return solved


def _with_bar(starts: range, verbose: bool) -> tqdm:
    delay, disable = (0, False) if verbose else (_BAR_AFTER, None)
    return tqdm(starts, desc="problems", leave=False, delay=delay, disable=disable)


def _readable(points: Tensor) -> Tensor:
    """Return points where and as the engine reads them."""
    wide = torch.float64 if points.dtype == torch.float64 else torch.float32
    return points.to("cpu", wide).contiguous()


def _stride(m: int) -> int:
    return -(-m // _TOGETHER) * _TOGETHER
