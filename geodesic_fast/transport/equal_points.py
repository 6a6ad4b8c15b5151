# SPDX-License-Identifier: MIT
"""Equal points once: labels, vanished features and grids have few distinct points and many copies."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import Tensor

from geodesic_fast._processes import ALONE, Processes

_BLOCK_BYTES = 1 << 20
_GLANCE = 8  # features that tell most different points apart


def merge_equal(points: Tensor, processes: Processes = ALONE) -> tuple[Tensor, np.ndarray]:
    """Return the distinct points (k, d) in the order they come, and the number of each point, (m) int64.

    Two points have the same number exactly when they are equal; -0 equals 0. Of several processes each gives
    some of the points, and gets those of its own that no earlier one equals.
    """
    stops = np.cumsum([0, *processes.numbers(len(points))])
    shares = [range(*ends) for ends in itertools.pairwise(stops.tolist())]
    first, number = _first_and_number(points, shares, processes)
    if len(first) == len(number):
        return points, number
    own = shares[processes.rank]
    mine = first[(first >= own.start) & (first < own.stop)] - own.start
    return points[torch.from_numpy(mine).to(points.device)], number


def _first_and_number(
    points: Tensor, shares: list[range], processes: Processes
) -> tuple[np.ndarray, np.ndarray]:
    """Return where each distinct point comes first, rising, and the number of each point."""
    m, d = shares[-1].stop, points.shape[1]
    hashes = processes.gathered(_hashes(points[:, :: max(1, d // _GLANCE)])).numpy()
    ordered = np.sort(hashes)
    if (ordered[1:] != ordered[:-1]).all():
        return np.arange(m), np.arange(m)
    first, number = _distinct(hashes)
    if d > _GLANCE:
        first, number = _distinct(processes.gathered(_hashes(points)).numpy())
    if not _all_equal(points, first[number], shares, processes):  # two points share a hash
        every = processes.gathered(points)
        return _distinct(np.unique((every + 0.0).cpu().numpy(), axis=0, return_inverse=True)[1])
    return first, number


def _all_equal(points: Tensor, like: np.ndarray, shares: list[range], processes: Processes) -> bool:
    """Return whether point i equals point like[i], for all i of all processes."""
    own, equal = shares[processes.rank], True

    def held(index: np.ndarray) -> Tensor:
        return points[torch.from_numpy(index - own.start).to(points.device)]

    apart = np.flatnonzero(like != np.arange(len(like)))
    step = max(1, _BLOCK_BYTES // (8 * points.shape[1]))
    for start in range(0, len(apart), step):
        some = apart[start : start + step]
        needed, place = np.unique(like[some], return_inverse=True)
        others = processes.together(shares, needed, held)
        mine = (some >= own.start) & (some < own.stop)
        equal &= bool((held(some[mine]) == others[torch.from_numpy(place[mine]).to(points.device)]).all())
    return all(processes.numbers(equal))


def _distinct(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    _, first, number = np.unique(keys.reshape(-1), return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return first[order], place[number.reshape(-1)]


def _hashes(points: Tensor) -> Tensor:
    """Return one int64 for each point, equal for equal points, on the CPU."""
    m, d = points.shape
    kind = torch.int64 if points.dtype == torch.float64 else torch.int32
    weights = torch.from_numpy(np.random.default_rng(0).integers(-(2**62), 2**62, d) | 1).to(points.device)
    hashes = torch.empty(m, dtype=torch.int64, device=points.device)
    rows = max(1, _BLOCK_BYTES // (8 * d))
    for start in range(0, m, rows):
        bits = (points[start : start + rows] + 0.0).contiguous().view(kind).long()  # -0 becomes 0
        hashes[start : start + rows] = (bits * weights).sum(1)
    return hashes.cpu()
