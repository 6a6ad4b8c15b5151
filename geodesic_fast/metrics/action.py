# SPDX-License-Identifier: MIT
"""Benamou-Brenier action: what it costs to carry each sample along its track."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import overload

import torch
from torch import Tensor

from geodesic_fast._arrays import Arrays, NDArray, Tensors, takes_arrays
from geodesic_fast._tracks import Tracks
from geodesic_fast.metrics.directions import steps_of
from geodesic_fast.metrics.track_geometry import track_geometry


@overload
def action(
    tracks: Tensors, *, dim: int = ..., times: Sequence[float] | Tensor | NDArray | None = ...
) -> Tensor: ...
@overload
def action(tracks: Arrays, *, dim: int = ..., times: Sequence[float] | NDArray | None = ...) -> NDArray: ...
@takes_arrays
def action(
    tracks: Tensor | Sequence[Tensor], *, dim: int = 0, times: Sequence[float] | Tensor | None = None
) -> Tensor:
    r"""Measure the kinetic energy of each track, layers taken as equal steps of unit time, or at `times`.

    With step lengths s_l = |x^(l) - x^(l-1)|, l = 1..n, and time step 1/n,

        action = n (s_1^2 + ... + s_n^2)   (no factor 1/2);

    with times t_0 < ... < t_n, whose unit does not matter,

        action = (t_n - t_0) (s_1^2 / (t_1 - t_0) + ... + s_n^2 / (t_n - t_(n-1))).

    At least the squared chord |x^(n) - x^(0)|^2, and equal to it on a straight line at constant speed.
    The mean over a population is at least the squared Wasserstein distance of its two ends: see
    `geodesic_gap`. The transport cost that Karkar et al. (2020) penalise, a mean over features and layers, is
    the mean action / (n d).

    Args:
        tracks: as for `geodesic_fast.lss`: a tensor with n+1 layers along `dim` and d features last, or a
            list or tuple of n+1 tensors of shape (*batch, d).
        dim: the layer axis of a tensor; must be 0 for a list.
        times: n+1 increasing numbers, when each layer, or frame, or solver step takes place; default: evenly.

    Returns:
        (*batch), in squared units of the tracks, float32 (float64 for float64 tracks). NaN for a track that
        holds NaN or inf, inf where the action is beyond the largest number of its dtype.

    Raises:
        TypeError, ValueError: as `geodesic_fast.lss`; times that are not n+1 increasing numbers.

    Differentiable once in the tracks, not in the times. Lower is more geodesic.

    Source: Benamou and Brenier (2000); Gai and Zhang, arXiv:2102.09235.

    Example:
        >>> import torch, geodesic_fast
        >>> corner = torch.tensor([[0.0, 0.0], [3.0, 0.0], [3.0, 4.0]])
        >>> geodesic_fast.action(corner).item()  # 2 (3^2 + 4^2); the squared chord is 25
        50.0
    """
    if times is None:
        return track_geometry(tracks, dim=dim).action
    return _timed_action(Tracks.of(tracks, dim), times)


def action_reference(
    tracks: Tensor | Sequence[Tensor], *, dim: int = 0, times: Sequence[float] | Tensor | None = None
) -> Tensor:
    """Define `action` in plain torch: n times the sum of the squared steps, or each over its time."""
    _, s, unit, broken = steps_of(Tracks.of(tracks, dim).in_sums_dtype())  # (n, *batch), in units of (*batch)
    weights = [float(len(s))] * len(s) if times is None else time_weights(times, len(s) + 1)
    total = torch.einsum("l,l...->...", s.new_tensor(weights), s.square())
    return (total * unit * unit).masked_fill(broken.any(0), torch.nan)


def time_weights(times: Sequence[float] | Tensor, points: int) -> list[float]:
    """Return (t_n - t_0) / (t_l - t_(l-1)) for each step of n+1 = `points` times."""
    values = [float(value) for value in times]
    if len(values) != points:
        raise ValueError(
            f"times must hold one number for each of the {points} layers, got {len(values)}: "
            "when each state of the track is taken."
        )
    gaps = [after - before for before, after in pairwise(values)]
    if not all(gap > 0 and math.isfinite(gap) for gap in gaps):
        raise ValueError(f"times must be finite and increasing, got {values}: sort the layers by time.")
    return [(values[-1] - values[0]) / gap for gap in gaps]


def _timed_action(tracks: Tracks, times: Sequence[float] | Tensor) -> Tensor:
    """Sum the squared steps over their shares of time, holding one step at a time."""
    states, dtype = tracks.states(), tracks.sums_dtype
    before = states[0].to(dtype)
    total, finite = before.new_zeros(before.shape[:-1]), before.isfinite().all(-1)
    for state, weight in zip(states[1:], time_weights(times, len(states)), strict=True):
        after = state.to(dtype)
        total = total + weight * (after - before).square().sum(-1)
        finite = finite & after.isfinite().all(-1)
        before = after
    return total.where(finite, torch.nan)
