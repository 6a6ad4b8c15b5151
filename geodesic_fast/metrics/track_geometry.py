# SPDX-License-Identifier: MIT
"""Every per-track number in one pass: line shape, length, turning, evenness, action."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

import torch
from torch import Tensor

from geodesic_fast._arrays import Array, Arrays, NamedTuple, NDArray, ResultOf, Tensors, takes_arrays
from geodesic_fast._results import compared_by_value
from geodesic_fast._tracks import Tracks
from geodesic_fast._validation import check_no_zero_step, check_zero_step
from geodesic_fast.engine import track_geometry as operation
from geodesic_fast.engine.load import has_engine
from geodesic_fast.metrics.directions import (
    angle_between,
    at_least,
    at_most,
    differences,
    quotient,
    steps_of,
)
from geodesic_fast.metrics.lss import score_of


@compared_by_value
class TrackGeometry(NamedTuple, ResultOf[Array]):
    """What `track_geometry` returns; each field has shape (*batch)."""

    lss: Array
    lss_normalized: Array
    path_length: Array
    chord: Array
    straightness: Array
    adjacent_cosine: Array
    turning_angle: Array
    step_cv: Array
    action: Array
    zero_steps: Array


@overload
def track_geometry(tracks: Tensors, *, dim: int = ..., zero_step: str = ...) -> TrackGeometry: ...
@overload
def track_geometry(tracks: Arrays, *, dim: int = ..., zero_step: str = ...) -> TrackGeometry[NDArray]: ...
@overload  # of both, or of what nobody typed
def track_geometry(tracks: Sequence[Tensor | NDArray], **options: Any) -> Any: ...
@takes_arrays
def track_geometry(
    tracks: Tensor | Sequence[Tensor], *, dim: int = 0, zero_step: str = "skip"
) -> TrackGeometry:
    r"""Measure each track in one pass: its line shape, length, turning, evenness and action.

    With steps v_l = x^(l) - x^(l-1), lengths s_l = |v_l|, directions u_l = v_l / s_l, l = 1..n:

        lss              n / |u_1 + ... + u_n|                 1 straight, sqrt(n) random; lower is straighter
        lss_normalized   (lss - 1) / (sqrt(n) - 1)             0 straight, about 1 random steps; NaN if n = 1
        path_length      s_1 + ... + s_n
        chord            |x^(n) - x^(0)|
        straightness     chord / path_length                   in [0, 1]; higher is straighter
        adjacent_cosine  mean <u_l, u_(l+1)>                   in [-1, 1]; higher is straighter; NaN if n = 1
        turning_angle    mean arccos <u_l, u_(l+1)>, radians   in [0, pi]; lower is straighter; NaN if n = 1
        step_cv          population std(s) / mean(s)           0: equally long steps; NaN if all are zero
        action           n (s_1^2 + ... + s_n^2)               at least chord^2; lower is more geodesic
        zero_steps       number of steps of length zero, int64

    lss_normalized is 1 for a random walk, independent steps, and sqrt(n) + 1 for independent states, whose
    LSS is n; plain networks lie between the two.

    Args:
        tracks: as for `geodesic_fast.lss`: a tensor with n+1 layers along `dim` and d features last, or a
            list or tuple of n+1 tensors of shape (*batch, d).
        dim: the layer axis of a tensor; must be 0 for a list.
        zero_step: what a step of length zero, which has no direction, does to lss, lss_normalized,
            adjacent_cosine and turning_angle. "skip" leaves it out: n counts only the others, and the steps
            on either side of it are neighbours; "keep" gives it a zero vector: cosine 0, angle pi/2;
            "propagate" makes the four NaN; "raise" raises. The lengths (path_length, chord, straightness,
            step_cv, action) always count every step.

    Returns:
        TrackGeometry of tensors (*batch), in float32 (float64 for float64 tracks), zero_steps in int64. Every
        float field of a track that holds NaN or inf is NaN, and no other track's.

    Raises:
        TypeError, ValueError: as `geodesic_fast.lss`.

    Every float field is differentiable once, all of them together in one more pass over the tracks. Where a
    field has a kink its gradient is 0 there: steps and chords of length zero, step_cv at equal steps, the
    angle at cosines of 1 and -1.

    Source: Gai and Zhang, arXiv:2102.09235, for lss and action.

    Example:
        >>> import torch, geodesic_fast
        >>> corner = torch.tensor([[0.0, 0.0], [3.0, 0.0], [3.0, 4.0]])
        >>> geometry = geodesic_fast.track_geometry(corner)
        >>> geometry.path_length.item(), geometry.chord.item()
        (7.0, 5.0)
    """
    check_zero_step(zero_step)
    given = Tracks.of(tracks, dim)
    if not has_engine(given.device):
        return track_geometry_reference(tracks, dim=dim, zero_step=zero_step)
    given.check_no_forward_mode("track_geometry")
    strict = zero_step == "raise"
    keep = strict or given.needs_grad
    policy = "propagate" if strict else zero_step
    fields, zero_steps, _, lengths = operation.track_geometry(given.layers, policy, False, keep)
    if strict:
        assert lengths is not None
        check_no_zero_step(lengths)
    each: Any = torch.unbind_copy(fields)  # type: ignore[func-returns-value]  # nobody's views
    return TrackGeometry._make([*each, zero_steps])


def track_geometry_reference(
    tracks: Tensor | Sequence[Tensor], *, dim: int = 0, zero_step: str = "skip"
) -> TrackGeometry:
    """Define `track_geometry` in plain torch."""
    check_zero_step(zero_step)
    x = Tracks.of(tracks, dim).in_sums_dtype()  # (n+1, *batch, d)
    u, s, unit, broken = steps_of(x)  # (n, *batch, d), (n, *batch); lengths in units of (*batch)
    zero = (s == 0) & ~broken
    if zero_step == "raise":
        check_no_zero_step(~zero)
    counted = ~zero if zero_step == "skip" else torch.ones_like(zero)
    n, path = counted.sum(0), s.sum(0)
    score = score_of(u, zero, "keep" if zero_step == "keep" else "skip")
    _, chord, chord_unit, _ = differences(x[-1], x[0])
    off = s - s[0]  # equal steps: exactly 0
    variance = (off - off.mean(0)).square().mean(0)
    spread = variance.masked_fill(variance == 0, 1.0).sqrt().masked_fill(variance == 0, 0.0)
    cosines, angles = _adjacent_means(u, counted)
    values = [
        score,
        ((score - 1) / (n.clamp(min=2).to(s.dtype).sqrt() - 1)).masked_fill(n < 2, torch.nan),
        path * unit,
        chord * chord_unit,
        at_most(quotient(chord * (chord_unit / unit), path, torch.nan), 1.0),
        cosines,
        angles,
        quotient(spread, s.mean(0), torch.nan),
        len(s) * s.square().sum(0) * unit * unit,
    ]
    zero_steps = zero.sum(0)
    for field in (0, 1, 5, 6):
        if zero_step == "propagate":
            values[field] = values[field].masked_fill(zero_steps > 0, torch.nan)
    whole = ~broken.any(0)
    return TrackGeometry._make([*(value.where(whole, torch.nan) for value in values), zero_steps])


def _adjacent_means(u: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean cosine and mean angle (*batch) between each counted step and the counted one before."""
    before, seen = torch.zeros_like(u[0]), torch.zeros_like(counted[0])
    cosines = angles = pairs = torch.zeros_like(u[0, ..., 0])
    for direction, counts in zip(u, counted, strict=True):
        cosine = at_least(at_most((direction * before).sum(-1), 1.0), -1.0)
        pair = counts & seen
        cosines = cosines + cosine.where(pair, 0.0)
        angles = angles + angle_between(direction, before).where(pair, 0.0)
        pairs = pairs + pair
        before = torch.where(counts.unsqueeze(-1), direction, before)
        seen = seen | counts
    return quotient(cosines, pairs, torch.nan), quotient(angles, pairs, torch.nan)
