# SPDX-License-Identifier: MIT
"""Line-shape score: is each sample's track through the layers a straight line?"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from geodesic_fast._validation import check_tracks, check_zero_step


def lss(tracks: Tensor | Sequence[Tensor], *, dim: int = 0, zero_step: str = "skip") -> Tensor:
    """Score how straight each track is: 1 a line, sqrt(n) random directions; lower is straighter."""
    return lss_reference(tracks, dim=dim, zero_step=zero_step)


def lss_reference(tracks: Tensor | Sequence[Tensor], *, dim: int = 0, zero_step: str = "skip") -> Tensor:
    """The definition of `lss` in plain torch: LSS = n / |u_1 + ... + u_n|."""
    check_zero_step(zero_step)
    check_tracks(tracks, dim)
    x = tracks.movedim(dim, 0) if isinstance(tracks, Tensor) else torch.stack(tuple(tracks))
    x = x.double() if x.dtype == torch.float64 else x.float()  # (n+1, *batch, d)
    v = x.diff(dim=0)  # (n, *batch, d)
    s = torch.linalg.vector_norm(v, dim=-1, keepdim=True)
    u = v / s.where(s != 0, 1.0)
    n = (s.squeeze(-1) != 0).sum(0)
    return n / torch.linalg.vector_norm(u.sum(0), dim=-1)
