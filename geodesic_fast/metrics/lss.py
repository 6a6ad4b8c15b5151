# SPDX-License-Identifier: MIT
"""Line-shape score: is each sample's track through the layers a straight line?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import torch
from torch import Tensor

from geodesic_fast._arrays import Arrays, NDArray, Tensors, takes_arrays
from geodesic_fast._tracks import Tracks
from geodesic_fast._validation import check_no_zero_step, check_zero_step
from geodesic_fast.engine import track_geometry as operation
from geodesic_fast.engine.load import has_engine
from geodesic_fast.metrics.directions import at_least, quotient, steps_of


@overload
def lss(tracks: Tensors, *, dim: int = ..., zero_step: str = ...) -> Tensor: ...
@overload
def lss(tracks: Arrays, *, dim: int = ..., zero_step: str = ...) -> NDArray: ...
@takes_arrays
def lss(tracks: Tensor | Sequence[Tensor], *, dim: int = 0, zero_step: str = "skip") -> Tensor:
    r"""Score how straight each track through the layers is.

    With steps v_l = x^(l) - x^(l-1) and directions u_l = v_l / |v_l|, l = 1..n,

        LSS = n / |u_1 + ... + u_n|   in [1, inf].

    1 is a straight line. In many dimensions random directions give sqrt(n), and independent states, each
    layer a fresh embedding, give n: show both beside a score (`lss_shuffled` is a third control). inf means
    that the directions cancel. The score does not change under translation, rotation, scaling, reversal, or
    scaling of single steps.

    Args:
        tracks: a tensor with the n+1 layers along `dim` and the d features last, or a list or tuple of n+1
            per-layer tensors of shape (*batch, d), at most 1024 of them, which are neither stacked nor
            copied. float16, bfloat16, float32 or float64. Any strides are read in place as long as the
            features are contiguous and the batch axes merge into at most four; other layouts are copied.
        dim: the layer axis of a tensor; must be 0 for a list.
        zero_step: what a step of length zero, which has no direction, does. "skip" leaves it out, n counts
            only the others, and a track of zero steps alone is NaN; "keep" adds a zero vector and leaves n;
            "propagate" makes the track NaN; "raise" raises, which waits for the GPU.

    Returns:
        (*batch), in float32 (float64 for float64 tracks), whatever autocast is set to. NaN for a track that
        holds NaN or inf, and for no other. Empty where the batch is empty.

    Raises:
        TypeError: tracks is no tensor or list of tensors, or not of a floating-point dtype.
        ValueError: fewer than two layers, no features, layers that differ in shape, dtype or device, an
            unknown zero_step, or a step of length zero under "raise".

    Differentiable once, in one more pass over the tracks, and zero for a step of length zero. Works under
    torch.compile and in CUDA graphs (not with "raise"). Lower is straighter.

    Source: Gai and Zhang, arXiv:2102.09235. Equal to 1 / mean resultant length of directional statistics.

    Example:
        >>> import torch, geodesic_fast
        >>> corner = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 5.0]])  # (n+1, d): one right angle
        >>> round(geodesic_fast.lss(corner).item(), 4)
        1.4142
    """
    check_zero_step(zero_step)
    given = Tracks.of(tracks, dim)
    if not has_engine(given.device):
        return lss_reference(tracks, dim=dim, zero_step=zero_step)
    given.check_no_forward_mode("lss")
    strict = zero_step == "raise"
    keep = strict or given.needs_grad
    policy = "propagate" if strict else zero_step
    score, _, _, lengths = operation.track_geometry(given.layers, policy, True, keep)
    if strict:
        assert lengths is not None
        check_no_zero_step(lengths)
    return score


def lss_reference(tracks: Tensor | Sequence[Tensor], *, dim: int = 0, zero_step: str = "skip") -> Tensor:
    """Define `lss` in plain torch: n / |u_1 + ... + u_n|."""
    check_zero_step(zero_step)
    x = Tracks.of(tracks, dim).in_sums_dtype()  # (n+1, *batch, d)
    u, s, _, broken = steps_of(x)  # (n, *batch, d), (n, *batch)
    zero = (s == 0) & ~broken  # (n, *batch)
    if zero_step == "raise":
        check_no_zero_step(~zero)
    return score_of(u, zero, zero_step).masked_fill(broken.any(0), torch.nan)


def score_of(u: Tensor, zero: Tensor, zero_step: str) -> Tensor:
    """Return n / |u_1 + ... + u_n| of directions (n, *batch, d), some of which are zero."""
    n = (~zero).sum(0) if zero_step == "skip" else torch.full_like(zero[0], len(zero), dtype=torch.int64)
    resultant = torch.linalg.vector_norm(u.sum(0), dim=-1)  # (*batch)
    score = at_least(quotient(n, resultant, torch.inf), 1.0).masked_fill(n == 0, torch.nan)
    score = score.masked_fill((n == 1) & ((~zero).sum(0) == 1), 1.0)  # one direction is a straight line
    return score.masked_fill(zero.any(0), torch.nan) if zero_step == "propagate" else score
