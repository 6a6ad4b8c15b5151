# SPDX-License-Identifier: MIT
"""Equal points once: labels, vanished features and grids have few distinct points and many copies."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_BLOCK_BYTES = 1 << 20
_GLANCE = 8  # features that tell most different points apart


def merge_equal(points: Tensor) -> tuple[Tensor, np.ndarray]:
    """Return the distinct points (k, d) in the order they come, and the number of each point, (m) int64.

    Two points have the same number exactly when they are equal; -0 equals 0.
    """
    first, number = _first_and_number(points)
    if len(first) == len(points):
        return points, number
    return points[torch.from_numpy(first).to(points.device)], number


def _first_and_number(points: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return where each distinct point comes first, rising, and the number of each point."""
    m, d = points.shape
    hashes = _hashes(points[:, :: max(1, d // _GLANCE)])
    ordered = np.sort(hashes)
    if (ordered[1:] != ordered[:-1]).all():
        return np.arange(m), np.arange(m)
    first, number = _distinct(hashes)
    if d > _GLANCE:
        first, number = _distinct(_hashes(points))
    apart = np.flatnonzero(first[number] != np.arange(m))
    for start in range(0, len(apart), max(1, _BLOCK_BYTES // (8 * d))):
        some = apart[start : start + max(1, _BLOCK_BYTES // (8 * d))]
        left, right = (torch.from_numpy(index).to(points.device) for index in (some, first[number[some]]))
        if not bool((points[left] == points[right]).all()):  # two points share a hash
            return _distinct(np.unique((points + 0.0).cpu().numpy(), axis=0, return_inverse=True)[1])
    return first, number


def _distinct(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    _, first, number = np.unique(keys.reshape(-1), return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return first[order], place[number.reshape(-1)]


def _hashes(points: Tensor) -> np.ndarray:
    """Return one int64 for each point, equal for equal points."""
    m, d = points.shape
    kind = torch.int64 if points.dtype == torch.float64 else torch.int32
    weights = torch.from_numpy(np.random.default_rng(0).integers(-(2**62), 2**62, d) | 1).to(points.device)
    hashes = torch.empty(m, dtype=torch.int64, device=points.device)
    rows = max(1, _BLOCK_BYTES // (8 * d))
    for start in range(0, m, rows):
        bits = (points[start : start + rows] + 0.0).contiguous().view(kind).long()  # -0 becomes 0
        hashes[start : start + rows] = (bits * weights).sum(1)
    return hashes.cpu().numpy()
