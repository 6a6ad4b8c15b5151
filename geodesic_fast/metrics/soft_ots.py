# SPDX-License-Identifier: MIT
"""Soft transport score: the diagonal mass of the entropic plan, a smoothed relative of `ots`."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import torch
from torch import Tensor

from geodesic_fast._arrays import Array, Arrays, NDArray, ResultOf, Tensors, takes_arrays
from geodesic_fast._results import compared_by_value
from geodesic_fast._tracks import ends_of
from geodesic_fast._validation import (
    check_choice,
    check_device,
    check_finite_rows,
    check_points,
    check_positive,
    in_memory,
)
from geodesic_fast.engine.torch_internals import outside_graphs
from geodesic_fast.transport.duals import as_given, column_dual, from_given
from geodesic_fast.transport.geomloss_potentials import geomloss_potentials
from geodesic_fast.transport.planner import make_plan
from geodesic_fast.transport.points import Points
from geodesic_fast.transport.potentials import Anneal, Schedule
from geodesic_fast.transport.products import Products
from geodesic_fast.transport.rounding import FLOAT32_ROUNDOFF

BACKENDS = ("tiles", "geomloss")
_ANNEALING = 8
_MOST_NOISE = 0.05  # of an exponent: what float32 products may add to (S - a - b) / epsilon


@compared_by_value
@dataclass(frozen=True, eq=False)
class SoftOTSResult(ResultOf[Array]):
    """What `soft_ots` found: the diagonal mass, and how far the plan is from its marginals."""

    soft_score: float  # sum_i P_ii, in [0, 1]
    blur: float
    marginal_error: float  # mean over columns of |column mass * m - 1|; rows are exact
    converged: bool
    iterations: int
    potentials: tuple[Array, Array]  # (u, v), (m) float64 each, a start for `ots(..., potentials=...)`
    backend: str


@overload
def soft_ots(
    x: Tensors,
    y: Tensor | None = ...,
    *,
    blur: float,
    dim: int = ...,
    backend: str = ...,
    max_iterations: int = ...,
    tolerance: float = ...,
    memory_budget: int | None = ...,
) -> SoftOTSResult: ...
@overload
def soft_ots(
    x: Arrays,
    y: NDArray | None = ...,
    *,
    blur: float,
    dim: int = ...,
    backend: str = ...,
    max_iterations: int = ...,
    tolerance: float = ...,
    memory_budget: int | None = ...,
) -> SoftOTSResult[NDArray]: ...
@outside_graphs
@takes_arrays
def soft_ots(
    x: Tensor | Sequence[Tensor],
    y: Tensor | None = None,
    *,
    blur: float,
    dim: int = 0,
    backend: str = "tiles",
    max_iterations: int = 500,
    tolerance: float = 1e-3,
    memory_budget: int | None = None,
) -> SoftOTSResult:
    """Measure how much mass the entropic plan between x and y leaves on the pairs (x_i, y_i).

    soft OTS = sum_i P_ii with P_ij = exp((f_i + g_j - |x_i - y_j|^2 / 2) / blur^2) / m^2, all marginals 1/m.

    This is not OTS: on a problem whose OTS is 1 it can read anything above 1/m, for example 0.47, depending
    on blur; it tends to OTS as blur falls to 0 (where the optimum is unique) and to 1/m as blur grows. Ask
    `ots` whether the map is optimal; ask this how sharply.

    Args:
        x: source points (*batch, d), float16, bfloat16, float32 or float64, on the CPU or a GPU; or, without
            `y`, tracks: a tensor (n+1, *batch, d) or a list of layers (*batch, d), of which the first and
            last are taken.
        y: images of the source points, same shape, dtype and device.
        blur: standard deviation of the smoothing, in units of x; epsilon = blur^2.
        dim: the layer axis of tracks in one tensor; must be 0 for a list, and with `y`.
        backend: "tiles" is our own Sinkhorn loop on tiles of products, O(m d) memory; "geomloss" takes its
            start from geomloss on KeOps (multiscale up to 3 dimensions, where it saves iterations).
        max_iterations: at the final temperature.
        tolerance: the marginal error at which the iterations stop.
        memory_budget: bytes the tiles may take; default: half of what is free on the device.

    Returns:
        SoftOTSResult; soft_score is in [0, 1].

    Raises:
        TypeError, ValueError: x and y are not finite points of the same shape, dtype and device; blur is not
            positive, or too small for float32 products.
        ImportError, RuntimeError: backend "geomloss" without working geomloss and pykeops.

    Warns:
        RuntimeWarning: the marginals are not met to the tolerance; the result then says converged=False.

    Not differentiable here. Higher is closer to optimal at equal blur.

    Source: Cuturi, arXiv:1306.0895; Feydy et al., arXiv:1810.08278.

    Example:
        >>> import torch
        >>> from geodesic_fast import soft_ots
        >>> x = torch.arange(4.0)[:, None]
        >>> round(soft_ots(x, x + 1.0, blur=0.1).soft_score, 3)
        1.0
        >>> round(soft_ots(x, x + 1.0, blur=100.0).soft_score, 3)
        0.25
    """
    first, last = ends_of(x, y, dim)
    check_points(first, last)
    assert isinstance(first, Tensor)
    assert isinstance(last, Tensor)
    check_device("x", first)
    x, y = (
        in_memory(name, points.detach()).reshape(-1, points.shape[-1])
        for name, points in (("x", first), ("y", last))
    )  # (m, d)
    for name, given in (("x", x), ("y", y)):
        if not all(value.isfinite() for value in given.aminmax()):  # NaN and inf pass through both
            check_finite_rows(name, given)
    check_choice("backend", backend, BACKENDS)
    for name, value in (("blur", blur), ("max_iterations", max_iterations), ("tolerance", tolerance)):
        check_positive(name, value)
    with torch.no_grad():
        points = Points(x, y, merge=False, one_unit=True)
        epsilon = (blur / points.unit * points.scale) ** 2
        _check_noise(points, blur, epsilon)
        products = Products(points, make_plan(points, "tiles", memory_budget), math.inf, False)
        if backend == "geomloss":
            anneal, backend = _started_by_geomloss(points, products, blur)
        else:
            anneal = _started_by_annealing(points, products, epsilon)
        b, error = _balance(anneal, epsilon, max_iterations, tolerance)
        return _result(points, anneal, b, error, blur, epsilon, tolerance, backend)


def soft_ots_reference(
    x: Tensor | Sequence[Tensor],
    y: Tensor | None = None,
    *,
    blur: float,
    dim: int = 0,
    iterations: int = 2000,
) -> float:
    """Define `soft_ots` in plain torch: Sinkhorn on the whole float64 cost matrix."""
    first, last = ends_of(x, y, dim)
    assert isinstance(first, Tensor)
    assert isinstance(last, Tensor)
    cost = (
        torch.cdist(first.double(), last.double(), compute_mode="donot_use_mm_for_euclid_dist").square() / 2
    )  # (m, m)
    epsilon, m = blur**2, len(cost)
    g = torch.zeros(m, dtype=torch.float64)
    for _ in range(iterations):
        f = -epsilon * (torch.logsumexp((g - cost) / epsilon, 1) - math.log(m))
        g = -epsilon * (torch.logsumexp((f[:, None] - cost) / epsilon, 0) - math.log(m))
    return float(torch.exp((f + g - cost.diagonal()) / epsilon).sum() / m**2)


def _started_by_annealing(points: Points, products: Products, epsilon: float) -> Anneal:
    anneal = Anneal(points, products, points.square_y / 2 * points.scale**2)
    stop = 2 * epsilon / anneal.mean_cost
    for temperature in Schedule(_ANNEALING, max(0.1, stop), stop).temperatures()[:-1]:
        anneal.iterate(temperature * anneal.mean_cost / 2)
    return anneal


def _started_by_geomloss(points: Points, products: Products, blur: float) -> tuple[Anneal, str]:
    _, g, backend = geomloss_potentials(points.x, points.y, blur / points.unit)
    v = torch.from_numpy(from_given(points, 2 * g * points.unit**2)).to(points.device)
    return Anneal(points, products, (points.square_y - v) / 2 * points.scale**2), f"geomloss-{backend}"


def _balance(anneal: Anneal, epsilon: float, max_iterations: int, tolerance: float) -> tuple[Tensor, float]:
    """Iterate until the columns carry their mass; return the column potential that `a` belongs to."""
    b, error, done = anneal.b, math.inf, 0
    while error > tolerance and done < max_iterations:
        b = anneal.b
        anneal.iterate(epsilon)
        error, done = float((anneal.mass - 1).abs().mean()), done + 1
    return b, error


def _check_noise(points: Points, blur: float, epsilon: float) -> None:
    noise = 4 * FLOAT32_ROUNDOFF * math.sqrt(points.d) / epsilon if epsilon > 0 else math.inf
    if noise > _MOST_NOISE:
        least = math.sqrt(noise / _MOST_NOISE) * blur if epsilon > 0 else 0.0
        raise ValueError(
            f"blur must be at least about {least:.3g} for points this far apart, got {blur:.3g}: float32 "
            "products are coarser than the smoothing. Use ots, which is exact."
        )


def _diagonal_mass(points: Points, a: Tensor, b: Tensor, epsilon: float) -> float:
    """Return the mean of exp((S_ii - a_i - b_i) / epsilon)."""
    identity = torch.from_numpy(points.identity_cost).to(points.device)
    diagonal = (points.square_x + points.square_y - identity) / 2 * points.scale**2
    return float(torch.exp((diagonal - a - b) / epsilon).mean())


def _result(
    points: Points,
    anneal: Anneal,
    b: Tensor,
    error: float,
    blur: float,
    epsilon: float,
    tolerance: float,
    backend: str,
) -> SoftOTSResult:
    converged = error <= tolerance
    if not converged:
        warnings.warn(
            f"soft_ots left a mean marginal error of {error:.2g}, above tolerance={tolerance:.2g}: "
            "raise max_iterations, blur or tolerance.",
            RuntimeWarning,
            stacklevel=3,
        )
    a = anneal.a.double()
    score = _diagonal_mass(points, a, b.double(), epsilon)
    u, v = points.square_x - 2 * a / points.scale**2, column_dual(points, b.double())
    potentials = as_given(points, u.cpu().numpy(), v)
    return SoftOTSResult(score, blur, error, converged, anneal.iterations, potentials, backend)
