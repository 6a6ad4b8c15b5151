# SPDX-License-Identifier: MIT
"""Optimal transport score: is the network's own map the optimal transport map?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from geodesic_fast._validation import check_finite_rows, check_points, check_tracks

MAX_POINTS = 16_384  # 2 GiB of float64 costs


@dataclass(frozen=True)
class OTSResult:
    """What `ots` found: the score, the optimal permutation, and both costs."""

    score: float
    permutation: Tensor
    map_cost: float
    optimal_cost: float
    efficiency: float
    certified: bool


def ots(x: Tensor | Sequence[Tensor], y: Tensor | None = None) -> OTSResult:
    """Score how far the pairing x_i -> y_i is the optimal transport map."""
    if y is None:
        check_tracks(x, 0)
        x, y = x[0], x[-1]
    check_points(x, y)
    assert isinstance(x, Tensor)
    source, target = (p.detach().reshape(-1, p.shape[-1]).double().cpu() for p in (x, y))  # (m, d)
    check_finite_rows("x", source)
    check_finite_rows("y", target)
    m = len(source)
    if m > MAX_POINTS:
        raise ValueError(
            f"x must hold at most {MAX_POINTS} points, got {m}: the dense solver stores m x m costs. "
            "Score a random subset of the points."
        )
    offset = source.mean(0)
    cost = torch.cdist(source - offset, target - offset).square_().numpy()  # (m, m)
    map_cost = (source - target).square().sum(-1)
    np.fill_diagonal(cost, map_cost.numpy())
    _, permutation = linear_sum_assignment(cost)
    optimal = float((source - target[torch.as_tensor(permutation)]).square().sum(-1).mean())
    total = float(map_cost.mean())
    fixed = (target[torch.as_tensor(permutation)] == target).all(-1)
    return OTSResult(
        score=float(fixed.double().mean()),
        permutation=torch.as_tensor(permutation),
        map_cost=total,
        optimal_cost=optimal,
        efficiency=optimal / total if total > 0 else 1.0,
        certified=True,
    )
