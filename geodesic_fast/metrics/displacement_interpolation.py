# SPDX-License-Identifier: MIT
"""Displacement interpolation: the Wasserstein geodesic itself, to lay beside a network's tracks."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import overload

import torch
from torch import Tensor

from geodesic_fast._arrays import NDArray, takes_arrays
from geodesic_fast._tracks import accumulation_dtype
from geodesic_fast._validation import check_points
from geodesic_fast.engine.torch_internals import outside_graphs
from geodesic_fast.metrics.ots import ots, ots_reference


@overload
def displacement_interpolation(
    x: Tensor,
    y: Tensor,
    t: float | Sequence[float] | Tensor | NDArray,
    *,
    memory_budget: int | None = ...,
    verbose: bool = ...,
) -> Tensor: ...
@overload
def displacement_interpolation(
    x: NDArray,
    y: NDArray,
    t: float | Sequence[float] | NDArray,
    *,
    memory_budget: int | None = ...,
    verbose: bool = ...,
) -> NDArray: ...
@outside_graphs
@takes_arrays
def displacement_interpolation(
    x: Tensor,
    y: Tensor,
    t: float | Sequence[float] | Tensor,
    *,
    memory_budget: int | None = None,
    verbose: bool = False,
) -> Tensor:
    """Move x along the Wasserstein geodesic towards y, to the times t.

    With T the optimal transport map from the points x to the points y (see `ots`), after McCann:

        z_i(t) = (1 - t) x_i + t T(x_i),   0 <= t <= 1.

    The points z(t) are the geodesic between the two sets: W2(z(s), z(t)) = |s - t| W2(x, y). Only the sets
    count; the pairing x_i, y_i that a network makes does not enter. With `t = torch.linspace(0, 1, n + 1)`
    the result are tracks of n + 1 layers, what a network's tracks are to be compared with.

    Args:
        x: source points (*batch, d), float16, bfloat16, float32 or float64, on the CPU or a GPU.
        y: target points, same shape, dtype and device as x, in any order.
        t: a number, a sequence or a tensor (k) of numbers in [0, 1].
        memory_budget: bytes that the search for T may take, as in `ots`.
        verbose: show its progress bar.

    Returns:
        (*batch, d) for a number, (k, *batch, d) else, in the dtype of x: x itself at t = 0, T(x) at t = 1.
        Where several maps are optimal, the one that keeps most of the pairs x_i, y_i.

    Raises:
        TypeError, ValueError: x and y are not finite points of the same shape, dtype and device; a time
            outside [0, 1].
        MemoryError: the budget cannot hold the assignment problem.

    Differentiable in x and y, with T held fixed. It is no score.

    Source: McCann, A convexity principle for interacting gases (1997).

    Example:
        >>> import torch, geodesic_fast
        >>> x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[3.0], [2.0]])
        >>> geodesic_fast.displacement_interpolation(x, y, [0.0, 0.5, 1.0]).squeeze(-1)
        tensor([[0., 1.],
                [1., 2.],
                [2., 3.]])
    """
    check_points(x, y)
    times = _check_times(t, x)
    found = ots(x, y, memory_budget=memory_budget, verbose=verbose)
    if not found.certified:
        warnings.warn(
            "the transport map of this displacement interpolation is not proved optimal, its cost "
            f"{found.optimal_cost:.6g} may be up to {found.gap:.1e} too high: give `memory_budget` more.",
            RuntimeWarning,
            stacklevel=3,
        )
    return _interpolate(x, y, found.permutation, times)


def displacement_interpolation_reference(
    x: Tensor,
    y: Tensor,
    t: float | Sequence[float] | Tensor,
    *,
    memory_budget: int | None = None,
    verbose: bool = False,
) -> Tensor:
    """Define `displacement_interpolation` on SciPy's dense solver, which takes no budget."""
    check_points(x, y)
    return _interpolate(x, y, ots_reference(x, y).permutation, _check_times(t, x))


def _check_times(t: float | Sequence[float] | Tensor, x: Tensor) -> Tensor:
    """Return times (k) or one time () in float64, or float32 for points of less."""
    times = torch.as_tensor(t, dtype=accumulation_dtype(x.dtype), device=x.device).detach()
    if times.ndim > 1:
        raise ValueError(
            f"t must be a number or one-dimensional, got shape {tuple(times.shape)}: pass t.flatten()."
        )
    if not bool(((times >= 0) & (times <= 1)).all()):
        raise ValueError(
            f"t must lie in [0, 1], got {times.tolist()}: the geodesic begins at 0, in x, and ends at 1."
        )
    return times


def _interpolate(x: Tensor, y: Tensor, permutation: Tensor, times: Tensor) -> Tensor:
    image = y.reshape(-1, y.shape[-1])[permutation].reshape(y.shape)
    weight = times.reshape(*times.shape, *(1 for _ in x.shape))
    return ((1 - weight) * x.to(times.dtype) + weight * image.to(times.dtype)).to(x.dtype)
