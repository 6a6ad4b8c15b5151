# SPDX-License-Identifier: MIT
"""Benamou-Brenier action: what it costs to carry each sample along its track."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from geodesic_fast._validation import check_tracks
from geodesic_fast.metrics.directions import points_of, steps_of
from geodesic_fast.metrics.track_geometry import track_geometry


def action(tracks: Tensor | Sequence[Tensor], *, dim: int = 0) -> Tensor:
    r"""Measure the kinetic energy of each track, layers taken as equal steps of unit time.

    With step lengths s_l = |x^(l) - x^(l-1)|, l = 1..n, and time step 1/n,

        action = n (s_1^2 + ... + s_n^2)   (no factor 1/2).

    At least the squared chord |x^(n) - x^(0)|^2, and equal to it where all steps are the same. The mean over
    a population is at least the squared Wasserstein distance of its two ends: see `geodesic_gap`.

    Args:
        tracks: as for `geodesic_fast.lss`: a tensor with n+1 layers along `dim` and d features last, or a
            list or tuple of n+1 tensors of shape (*batch, d).
        dim: the layer axis of a tensor; must be 0 for a list.

    Returns:
        (*batch), in squared units of the tracks, float32 (float64 for float64 tracks). NaN for a track that
        holds NaN or inf, inf where the action is beyond the largest number of its dtype.

    Raises:
        TypeError, ValueError: as `geodesic_fast.lss`.

    Differentiable once, in one more pass over the tracks. Lower is more geodesic.

    Source: Benamou and Brenier (2000); Gai and Zhang, arXiv:2102.09235.

    Example:
        >>> import torch, geodesic_fast
        >>> corner = torch.tensor([[0.0, 0.0], [3.0, 0.0], [3.0, 4.0]])
        >>> geodesic_fast.action(corner).item()  # 2 (3^2 + 4^2); the squared chord is 25
        50.0
    """
    return track_geometry(tracks, dim=dim).action


def action_reference(tracks: Tensor | Sequence[Tensor], *, dim: int = 0) -> Tensor:
    """Define `action` in plain torch: n times the sum of the squared steps."""
    check_tracks(tracks, dim)
    _, s, unit, broken = steps_of(points_of(tracks, dim))  # (n, *batch), in units of (*batch)
    return (len(s) * s.square().sum(0) * unit * unit).masked_fill(broken.any(0), torch.nan)
