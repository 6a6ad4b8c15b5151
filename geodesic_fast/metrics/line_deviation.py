# SPDX-License-Identifier: MIT
"""Line deviation: which pairs of steps of a track bend against each other?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import torch
from torch import Tensor

from geodesic_fast._arrays import Arrays, NDArray, Tensors, takes_arrays
from geodesic_fast._tracks import Tracks
from geodesic_fast._validation import check_choice, check_no_zero_step, check_zero_step
from geodesic_fast.engine import line_deviation as operation
from geodesic_fast.engine import track_geometry as lengths_operation
from geodesic_fast.engine.load import has_engine
from geodesic_fast.metrics.directions import at_least, at_most, quotient, steps_of

REDUCTIONS = ("mean", "none")


@overload
def line_deviation(
    tracks: Tensors, *, dim: int = ..., reduction: str = ..., zero_step: str = ...
) -> Tensor: ...
@overload
def line_deviation(
    tracks: Arrays, *, dim: int = ..., reduction: str = ..., zero_step: str = ...
) -> NDArray: ...
@takes_arrays
def line_deviation(
    tracks: Tensor | Sequence[Tensor],
    *,
    dim: int = 0,
    reduction: str = "mean",
    zero_step: str = "skip",
) -> Tensor:
    r"""Measure how far each pair of steps is from pointing the same way.

    With steps v_l = x^(l) - x^(l-1) and directions u_l = v_l / |v_l|, k, l = 1..n,

        dev_kl = 1 - <u_k, u_l>   in [0, 2].

    0: the two steps are parallel, 1: orthogonal, as random steps are in many dimensions, 2: opposite. All are
    0 on a straight line, and for each track LSS = n / sqrt(n^2 - sum_kl dev_kl). The diagonal is exactly 0.

    Args:
        tracks: as for `geodesic_fast.lss`: a tensor with n+1 layers along `dim` and d features last, or a
            list or tuple of n+1 tensors of shape (*batch, d).
        dim: the layer axis of a tensor; must be 0 for a list.
        reduction: "mean" averages over all tracks and takes memory for n^2 values; "none" gives each track
            its own matrix.
        zero_step: what a step of length zero, which has no direction, does to its pairs, its own diagonal
            entry among them. "skip" leaves the track out of their mean (NaN where no track is left, and with
            reduction="none"); "keep" gives the step a zero vector: dev 1; "propagate" makes them NaN;
            "raise" raises.

    Returns:
        Tensor (n, n), or (*batch, n, n) with reduction="none", symmetric, in float32 (float64 for float64
        tracks). A step that holds NaN or inf makes its row and column NaN: in the mean if any track has one.

    Raises:
        TypeError, ValueError: as `geodesic_fast.lss`, or an unknown reduction.

    Differentiable once, in one more pass over the tracks; the gradient of a step of length zero is 0. Lower
    is straighter.

    Source: Gai and Zhang, arXiv:2102.09235; the pairwise form of its line-shape score.

    Example:
        >>> import torch, geodesic_fast
        >>> corner = torch.tensor([[0.0, 0.0], [3.0, 0.0], [3.0, 4.0]])
        >>> geodesic_fast.line_deviation(corner)
        tensor([[0., 1.],
                [1., 0.]])
    """
    check_choice("reduction", reduction, REDUCTIONS)
    check_zero_step(zero_step)
    given = Tracks.of(tracks, dim)
    if not has_engine(given.device):
        return line_deviation_reference(tracks, dim=dim, reduction=reduction, zero_step=zero_step)
    given.check_no_forward_mode("line_deviation")
    if zero_step == "raise":
        with torch.no_grad():
            _, _, _, lengths = lengths_operation.track_geometry(given.layers, "propagate", True, True)
        assert lengths is not None
        check_no_zero_step(lengths)
    policy = "propagate" if zero_step == "raise" else zero_step
    products, counts = operation.line_deviation(given.layers, policy, reduction == "none")
    if reduction == "none":
        return products
    return _mean_of(products, counts, zero_step, given)


def _mean_of(products: Tensor, counts: Tensor, zero_step: str, tracks: Tracks) -> Tensor:
    """Turn sums of <u_k, u_l> over the tracks that have both directions into the mean deviation (n, n)."""
    if zero_step == "keep":
        mean = products / tracks.m
    else:
        needed = torch.sym_max(tracks.m, 1) if zero_step == "propagate" else 1
        # Not 0 / 0, which autograd would carry from one pair into the gradient of every step.
        mean = (products / counts.clamp(min=1)).where(counts >= needed, torch.nan)
    return (1 - mean).to(tracks.sums_dtype)


def line_deviation_reference(
    tracks: Tensor | Sequence[Tensor],
    *,
    dim: int = 0,
    reduction: str = "mean",
    zero_step: str = "skip",
) -> Tensor:
    """Define `line_deviation` in plain torch: 1 - <u_k, u_l>."""
    check_choice("reduction", reduction, REDUCTIONS)
    check_zero_step(zero_step)
    x = Tracks.of(tracks, dim).in_sums_dtype()  # (n+1, *batch, d)
    u, s, _, broken = steps_of(x)
    zero = (s == 0) & ~broken
    if zero_step == "raise":
        check_no_zero_step(~zero)
    u, zero, broken = (
        u.movedim(0, -2),
        zero.movedim(0, -1),
        broken.movedim(0, -1),
    )  # (*batch, n, d), (*batch, n)
    with torch.autocast("cpu" if x.is_meta else x.device.type, enabled=False):
        cosine = u @ u.mT  # (*batch, n, n), not symmetric to the last bit
    dev = at_most(at_least(1 - (cosine + cosine.mT) / 2, 0.0), 2.0)
    dev = dev.masked_fill(torch.eye(len(x) - 1, dtype=torch.bool, device=x.device), 0.0)
    defined = ~(zero.unsqueeze(-1) | zero.unsqueeze(-2))
    dev = dev.where(defined, 1.0 if zero_step == "keep" else torch.nan)
    unknown = broken.unsqueeze(-1) | broken.unsqueeze(-2)
    dev, defined = dev.masked_fill(unknown, torch.nan), defined | unknown
    if reduction == "none":
        return dev
    dev, defined = dev.reshape(-1, *dev.shape[-2:]), defined.reshape(-1, *dev.shape[-2:])
    if zero_step == "skip":
        return quotient(dev.where(defined, 0.0).sum(0), defined.sum(0), torch.nan)
    return dev.mean(0)
