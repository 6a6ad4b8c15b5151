# SPDX-License-Identifier: MIT
"""Among optimal assignments, one with the most fixed points.

Every optimal assignment uses pairs without reduced cost only, and every perfect matching of such pairs is
optimal. So the most fixed points are a second assignment on the graph of these pairs, at cost 0 where the
pair is a fixed point and 1 where it is not: whole numbers, solved without rounding.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from geodesic_fast.transport.sparse_assignment import solve_rows

_BLOCK_BYTES = 8 << 20


def equal_point_labels(points: Tensor) -> np.ndarray:
    """Number the points (m, d) so that two have the same number exactly when they are equal, (m) int64."""
    hashes = _hashes(points)
    _, first, label = np.unique(hashes, return_index=True, return_inverse=True)
    if len(first) == len(hashes):
        return label
    twin = first[label]
    apart = np.flatnonzero(twin != np.arange(len(twin)))
    left, right = (torch.from_numpy(index).to(points.device) for index in (apart, twin[apart]))
    if bool((points[left] == points[right]).all()):
        return label
    return np.unique((points + 0.0).cpu().numpy(), axis=0, return_inverse=True)[1].reshape(-1)


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


def most_fixed_points(
    match: np.ndarray, rows: np.ndarray, cols: np.ndarray, labels: np.ndarray, check_time: Callable[[], None]
) -> np.ndarray:
    """Return an optimal matching (m) int32 with most rows i matched to a point equal to y_i.

    rows, cols: all pairs without reduced cost. labels: equal for equal points y.
    """
    m = len(match)
    fixed_pair = labels[rows] == labels[cols]
    if not fixed_pair[labels[match[rows]] != labels[rows]].any():
        return fixed_to_themselves(match, labels)
    keys = np.unique(
        np.concatenate([rows.astype(np.int64) * m + cols, np.arange(m, dtype=np.int64) * m + match])
    )
    i, j = keys // m, (keys % m).astype(np.int32)
    row_start = np.searchsorted(keys, np.arange(m + 1, dtype=np.int64) * m)
    better = match.copy()
    solve_rows(row_start, j, (labels[i] != labels[j]).astype(np.float64), np.zeros(m), better, check_time)
    return fixed_to_themselves(better, labels)


def fixed_to_themselves(match: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Let every row that is matched to a twin of its own point take that point; costs stay the same."""
    match = match.copy()
    owner = np.empty_like(match)
    owner[match] = np.arange(len(match), dtype=match.dtype)
    for i in np.flatnonzero((labels[match] == labels) & (match != np.arange(len(match)))):
        twin, other = match[i], owner[i]
        match[i], match[other] = i, twin
        owner[i], owner[twin] = i, other
    return match
