# SPDX-License-Identifier: MIT
"""Distance of two tracks: how near do two samples come to each other on their way through the layers?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import torch
from torch import Tensor

from geodesic_fast._arrays import Arrays, NDArray, Tensors, takes_arrays
from geodesic_fast._tracks import Tracks
from geodesic_fast.engine import track_distance as operation
from geodesic_fast.engine.load import has_engine
from geodesic_fast.metrics.directions import power_of_two


@overload
def track_distance(tracks: Tensors, other: Tensors | Arrays | None = ..., *, dim: int = ...) -> Tensor: ...
@overload
def track_distance(tracks: Arrays, other: Arrays | None = ..., *, dim: int = ...) -> NDArray: ...
@overload
def track_distance(tracks: Arrays, other: Tensors = ..., *, dim: int = ...) -> Tensor: ...
@takes_arrays
def track_distance(
    tracks: Tensor | Sequence[Tensor], other: Tensor | Sequence[Tensor] | None = None, *, dim: int = 0
) -> Tensor:
    r"""Measure how near each two tracks come to each other.

        d_ij = min over layers l = 0..n of |x_i^(l) - y_j^(l)|,   y = x without `other`.

    Small: the two samples are easily mixed up. Large: they stay apart on all of their way.

    Distances that cancel in products of points are taken anew from the coordinates in float64, so that near
    tracks far from the origin keep their digits. Takes memory for the answer and little more; for another
    matrix of that size where gradients are asked for, and for a few more while they are computed.

    Args:
        tracks: as for `geodesic_fast.lss`: a tensor with n+1 layers along `dim` and d features last, or a
            list or tuple of n+1 tensors of shape (*batch, d). The m tracks are those of the batch, in order.
        other: m' tracks to compare with, of as many layers and features, same dtype and device; None: the
            tracks with each other.
        dim: the layer axis of tensors; must be 0 for lists.

    Returns:
        Tensor (m, m'), in float32 (float64 for float64 tracks), in units of the coordinates. Without `other`
        it is symmetric to the last bit and its diagonal is 0. NaN for each pair with a track that holds NaN,
        and for pairs that are infinite in the same coordinate of a layer; a layer where one of the two is
        infinite is at distance inf.

    Raises:
        TypeError, ValueError: as `geodesic_fast.lss`, for either set of tracks, or the two sets differ in
            layers, features, dtype or device.

    Differentiable once: the gradient goes through the nearest layer, of equal ones the lowest, and is 0 where
    the distance is 0. Larger is more robust.

    Source: Gai and Zhang, arXiv:2102.09235.

    Example:
        >>> import torch, geodesic_fast
        >>> there = torch.tensor([[0.0, 0.0], [4.0, 0.0]])  # (n+1, d): one track
        >>> back = torch.tensor([[6.0, 8.0], [4.0, 3.0]])
        >>> geodesic_fast.track_distance(torch.stack((there, back), dim=1))
        tensor([[0., 3.],
                [3., 0.]])
    """
    return distances_of(*_pair(tracks, other, dim))


def track_distance_reference(
    tracks: Tensor | Sequence[Tensor], other: Tensor | Sequence[Tensor] | None = None, *, dim: int = 0
) -> Tensor:
    """Define `track_distance` in plain torch: the least |x_i^(l) - y_j^(l)|."""
    return layer_distances(*_pair(tracks, other, dim)).min(0).values


def distances_of(tracks: Tracks, other: Tracks | None) -> Tensor:
    """Return the distances (m, m') of tracks of one layer or more."""
    if not has_engine(tracks.device):
        return layer_distances(tracks, other).min(0).values
    sets = [each for each in (tracks, other) if each is not None]
    for each in sets:
        each.check_no_forward_mode("track_distance")
    needs_layer = any(each.needs_grad for each in sets)
    distance = operation.track_distance(tracks.layers, other and other.layers, needs_layer)[0]
    return distance.clone() if needs_layer else distance  # backward reads its own


def layer_distances(tracks: Tracks, other: Tracks | None) -> Tensor:
    """Return |x_i^(l) - y_j^(l)| of each layer, (n+1, m, m'), in plain torch."""
    x = flat_points(tracks)
    y = x if other is None else flat_points(other)
    return torch.stack([norm(a.unsqueeze(1) - b) for a, b in zip(x, y, strict=True)])


def norm(v: Tensor) -> Tensor:
    """Return |v|, taken in a power of two near the largest entry, so that no square overflows or vanishes.

    The unit is no smaller or larger than the squares need, since it multiplies the gradient on its way.
    0, inf and NaN pass no gradient, of any order.
    """
    largest = v.detach().abs().amax(-1, keepdim=True)
    plain = (largest > 0) & largest.isfinite()
    most = 2.0 ** (90 if v.dtype == torch.float32 else 600)
    unit = power_of_two(largest).clamp(1 / most, most)
    length = (v / unit).where(plain, 1.0).square().sum(-1, keepdim=True).sqrt() * unit
    return length.where(plain, largest).squeeze(-1)


def flat_points(tracks: Tracks) -> Tensor:
    """Return (n+1, m, d) in the accumulation type, so laid out that |a - b| is |b - a| to the last bit."""
    return tracks.flat().in_sums_dtype().contiguous()


def _pair(
    tracks: Tensor | Sequence[Tensor], other: Tensor | Sequence[Tensor] | None, dim: int
) -> tuple[Tracks, Tracks | None]:
    given = Tracks.of(tracks, dim)
    if other is None:
        return given, None
    others = Tracks.of(other, dim, "other")
    others.check_like(given)
    return given, others
