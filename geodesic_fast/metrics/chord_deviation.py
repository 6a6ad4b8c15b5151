# SPDX-License-Identifier: MIT
"""Chord deviation: how far from the straight line between its ends does a track run?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import torch
from torch import Tensor

from geodesic_fast._arrays import Arrays, NDArray, Tensors, takes_arrays
from geodesic_fast._tracks import Tracks
from geodesic_fast.engine import chord_deviation as operation
from geodesic_fast.engine.load import has_engine
from geodesic_fast.metrics.directions import differences, quotient


@overload
def chord_deviation(tracks: Tensors, *, dim: int = ...) -> Tensor: ...
@overload
def chord_deviation(tracks: Arrays, *, dim: int = ...) -> NDArray: ...
@takes_arrays
def chord_deviation(tracks: Tensor | Sequence[Tensor], *, dim: int = 0) -> Tensor:
    r"""Measure how far each point of a track lies from the line through its two ends.

    With w_l = x^(l) - x^(0), the chord c = |w_n| and its direction e = w_n / c, l = 0..n,

        deviation_l = |w_l - <w_l, e> e| / c.

    0 for every l on a straight line, and always 0 at both ends; 0.5 halfway round a circle on its diameter.
    It does not see how far along the line a point lies, or whether the track turns back on it.

    Args:
        tracks: as for `geodesic_fast.lss`: a tensor with n+1 layers along `dim` and d features last, or a
            list or tuple of n+1 tensors of shape (*batch, d).
        dim: the layer axis of a tensor; must be 0 for a list.

    Returns:
        (n+1, *batch), in units of the chord, float32 (float64 for float64 tracks). NaN for all points of a
        track that ends where it began, or whose ends hold NaN or inf, and for any other point that does.

    Raises:
        TypeError, ValueError: as `geodesic_fast.lss`.

    Differentiable once, in one more pass over the tracks; the gradient of a point on the line is 0. Lower is
    straighter.

    Source: the distance of a point from a line, for the straight tracks of Gai and Zhang, arXiv:2102.09235.

    Example:
        >>> import torch, geodesic_fast
        >>> corner = torch.tensor([[0.0, 0.0], [1.0, 1.0], [2.0, 0.0]])
        >>> geodesic_fast.chord_deviation(corner)
        tensor([0.0000, 0.5000, 0.0000])
    """
    given = Tracks.of(tracks, dim)
    if not has_engine(given.device):
        return chord_deviation_reference(tracks, dim=dim)
    given.check_no_forward_mode("chord_deviation")
    keep = given.needs_grad
    deviation = operation.chord_deviation(given.layers, keep)[0]
    return deviation.clone() if keep else deviation  # backward reads its own


def chord_deviation_reference(tracks: Tensor | Sequence[Tensor], *, dim: int = 0) -> Tensor:
    """Define `chord_deviation` in plain torch: |w - <w, e> e| / c."""
    x = Tracks.of(tracks, dim).in_sums_dtype()  # (n+1, *batch, d)
    e, c, unit, broken = differences(x[-1], x[0])  # (*batch, d), (*batch)
    r, reach, reach_unit, off_chart = differences(
        x[1:-1], x[0]
    )  # w = reach * reach_unit * r, (n-1, *batch, d)
    off = r - (r * e).sum(-1, keepdim=True) * e
    off = (
        off - (off * e).sum(-1, keepdim=True) * e
    )  # once more: on a nearly straight track rounding is most of it
    inner = torch.linalg.vector_norm(off, dim=-1) * quotient(reach, c, 0.0) * (reach_unit / unit)
    inner = inner.masked_fill(off_chart, torch.nan)
    end = torch.zeros_like(c).masked_fill((c == 0) | broken, torch.nan)
    return torch.cat((end.unsqueeze(0), inner.where(end == 0, torch.nan), end.unsqueeze(0)))
