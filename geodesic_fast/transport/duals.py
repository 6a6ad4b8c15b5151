# SPDX-License-Identifier: MIT
"""Duals in the three scales that a search goes through, and the ways between them.

Of products: a_i + b_j >= <x_i, y_j> for shifted points times `scale`. Passes over all pairs work on these.
Of costs: u_i + v_j <= |x_i - y_j|^2 for shifted points, x and y each in its unit. The sparse solver and the
proof work on these; a = (|x|^2 - u) / 2 and b = (|y|^2 - v) / 2, times scale^2, are the same duals.
As given: u_i + v_j <= |x_i - y_j|^2 for the m points of the caller. With units p and q, x = p X and y = q Y,

    |x - y|^2 = p q |X - Y|^2 + (p^2 - p q) |X|^2 + (q^2 - p q) |Y|^2,

and shifts that differ by delta add |delta|^2 + 2 <x, delta> - 2 <y, delta>: a row and a column term each.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from geodesic_fast.transport.pair_costs import row_blocks
from geodesic_fast.transport.points import Points
from geodesic_fast.transport.rounding import ADDED_TERMS
from geodesic_fast.transport.units import ldexp


def row_potential(points: Points, u: np.ndarray) -> Tensor:
    """Return a of row duals u of the costs, (rows) float64."""
    return _potential(points, points.square_x, u)


def column_potential(points: Points, v: np.ndarray) -> Tensor:
    """Return b of column duals v of the costs, (cols) float64."""
    return _potential(points, points.square_y, v)


def _potential(points: Points, squares: Tensor, dual: np.ndarray) -> Tensor:
    return (squares - torch.from_numpy(dual).to(points.device)) / 2 * points.scale**2


def row_dual(points: Points, a: Tensor) -> np.ndarray:
    """Return u of row potentials a, (rows) float64."""
    return _dual(points, points.square_x, a)


def column_dual(points: Points, b: Tensor) -> np.ndarray:
    """Return v of column potentials b, (cols) float64."""
    return _dual(points, points.square_y, b)


def _dual(points: Points, squares: Tensor, potential: Tensor) -> np.ndarray:
    return np.ascontiguousarray((squares - 2 * potential / points.scale**2).cpu().numpy())


def as_given(points: Points, u: np.ndarray, v: np.ndarray) -> tuple[Tensor, Tensor]:
    """Return duals (m) of the distances as given.

    What is added rounds, and its rounding is taken off: duals of pairs that cost nothing stay feasible.
    """
    p, q = points.units()
    square = ldexp(1.0, 2 * max(points.exponents))
    between = points.delta.square().sum()
    given = []
    for dual, squares, unit, which, index in (
        (u, points.square_x, p, "x", points.row_of),
        (v, points.square_y, q, "y", points.col_of),
    ):
        own = torch.from_numpy(dual).to(points.device) * (p * q)
        stretched = (unit * unit - p * q) * squares
        moved = 2 * unit * _along_delta(points, which) * (1 if which == "x" else -1)
        added = between if which == "x" else torch.zeros_like(between)
        size = stretched.abs() + moved.abs() + added
        size = torch.where(size > 0, size + own.abs(), size)  # where nothing is added nothing rounds
        own = own + stretched + moved + added - ADDED_TERMS * size
        given.append((own * square)[torch.from_numpy(index).to(points.device)])
    return given[0], given[1]


def from_given(points: Points, v: Tensor) -> np.ndarray:
    """Return column duals v (cols) of the costs, from a column dual (m) of the distances as given."""
    p, q = points.units()
    of_col = torch.from_numpy(points.col_of).to(points.device)
    given = torch.empty(points.cols, dtype=torch.float64, device=points.device)
    given[of_col] = v.to(points.device, torch.float64)
    unit = 2.0 ** max(points.exponents)
    shifted = given / unit / unit + 2 * q * _along_delta(points, "y") - (q * q - p * q) * points.square_y
    return np.ascontiguousarray((shifted / p / q).cpu().numpy())


def largest_cost(points: Points) -> float:
    """Return about the largest shifted cost, with what shifts and units add to duals."""
    p, q = points.units()
    norms = float(points.square_x.max() + points.square_y.max())
    return 4 * norms + float((points.delta.square() / p / q).sum())


def _along_delta(points: Points, which: str) -> Tensor:
    """Return <x, delta> or <y, delta> for each of the shifted points, float64."""
    first, count = (points.own.start, len(points.own)) if which == "x" else (0, points.cols)
    products = torch.zeros(count, dtype=torch.float64, device=points.device)
    for start, stop in row_blocks(count, points.d) if points.delta.any() else ():
        near = points.block64(which, first + start, first + stop)
        products[start:stop] = (near * points.delta).sum(1)
    return points.processes.gathered(products) if which == "x" else products
