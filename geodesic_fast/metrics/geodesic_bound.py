# SPDX-License-Identifier: MIT
"""Geodesic lower bound: how near may two tracks come if the network follows a geodesic?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, overload

import torch
from torch import Tensor
from torch.distributed import ProcessGroup
from tqdm import tqdm

from geodesic_fast._arrays import Arrays, NDArray, Tensors, takes_arrays
from geodesic_fast._processes import Processes, processes_of
from geodesic_fast._results import compared_by_value
from geodesic_fast._shared_points import all_tracks
from geodesic_fast._tracks import Tracks
from geodesic_fast.engine.torch_internals import outside_graphs
from geodesic_fast.metrics.track_distance import distances_of, layer_distances

_BLOCK_PAIRS = 1 << 24
ROUNDING = 16  # units in the last place: how far below 1 a ratio still counts as kept


@compared_by_value
class GeodesicBoundSummary(NamedTuple):
    """How the pairs of tracks stand to their geodesic bound."""

    share_kept: float  # share of the pairs whose ratio is 1 or more, up to 16 units in the last place
    worst_ratio: float  # the least track_distance / geodesic_bound of a pair
    worst_pair: tuple[int, int]  # whose it is
    pairs: int  # how many pairs i < j were counted: all but those whose bound is 0


@overload
def geodesic_bound(tracks: Tensors, *, dim: int = ...) -> Tensor: ...
@overload
def geodesic_bound(tracks: Arrays, *, dim: int = ...) -> NDArray: ...
@takes_arrays
def geodesic_bound(tracks: Tensor | Sequence[Tensor], *, dim: int = 0) -> Tensor:
    r"""Bound from below how near each two tracks may come if the network follows a geodesic.

    With a_ij = |x_i - x_j| between the first and b_ij = |y_i - y_j| between the last points of two tracks,

        bound_ij = a_ij b_ij / sqrt(a_ij^2 + b_ij^2),

    the distance of two points that move in straight lines at right angles. Along a geodesic,
    `track_distance` is at least that.

    Args:
        tracks: as for `geodesic_fast.lss`: a tensor with n+1 layers along `dim` and d features last, or a
            list or tuple of n+1 tensors of shape (*batch, d); only the first and the last layer are read.
        dim: the layer axis of a tensor; must be 0 for a list.

    Returns:
        Tensor (m, m), in float32 (float64 for float64 tracks), symmetric, 0 where a or b is 0; a itself where
        b is infinite. NaN for each pair with a track whose end holds NaN.

    Raises:
        TypeError, ValueError: as `geodesic_fast.lss`.

    Differentiable once. A larger bound promises more; `geodesic_bound_summary` says whether tracks keep it.

    Source: Gai and Zhang, arXiv:2102.09235.

    Example:
        >>> import torch, geodesic_fast
        >>> first, last = torch.tensor([[0.0], [3.0]]), torch.tensor([[0.0], [4.0]])
        >>> geodesic_bound = geodesic_fast.geodesic_bound([first, last])
        >>> round(geodesic_bound[0, 1].item(), 4)
        2.4
    """
    first, last = _ends(Tracks.of(tracks, dim))
    return _bound(distances_of(first, None), distances_of(last, None))


def geodesic_bound_reference(tracks: Tensor | Sequence[Tensor], *, dim: int = 0) -> Tensor:
    """Define `geodesic_bound` in plain torch: a b / sqrt(a^2 + b^2)."""
    first, last = _ends(Tracks.of(tracks, dim))
    return _bound(layer_distances(first, None)[0], layer_distances(last, None)[0])


@outside_graphs
@takes_arrays
def geodesic_bound_summary(
    tracks: Tensor | Sequence[Tensor], *, dim: int = 0, group: ProcessGroup | None = None
) -> GeodesicBoundSummary:
    r"""Sum up how far the tracks keep the distance that a geodesic guarantees.

        ratio_ij = track_distance_ij / geodesic_bound_ij   in [0, sqrt(2)],   i < j,

    1 or more for every pair if the network follows a geodesic exactly. Pairs whose bound is 0 (equal first or
    equal last points) are left out. No m x m matrix is held: pairs are taken in blocks of rows.

    Args:
        tracks: as for `geodesic_fast.lss`: a tensor with n+1 layers along `dim` and d features last, or a
            list or tuple of n+1 tensors of shape (*batch, d).
        dim: the layer axis of a tensor; must be 0 for a list.
        group: processes that share the pairs, such as `torch.distributed.group.WORLD`. Each passes its own
            tracks, in any number, and gets the summary of all, numbered in the order of the ranks. Each holds
            all tracks meanwhile; what ends the call on one ends it on all.

    Returns:
        GeodesicBoundSummary: share_kept, the share of pairs with ratio >= 1 - 16 eps, eps of float32 (float64
        for float64 tracks); worst_ratio and worst_pair, the first of the pairs with the least ratio; pairs,
        how many were counted. A NaN counts as a pair that does not keep its bound, and as the worst. Without
        any pair: NaN, NaN, (-1, -1), 0.

    Raises:
        TypeError, ValueError: as `geodesic_fast.lss`.

    Not differentiable: it counts. Higher is nearer to a geodesic.

    Source: Gai and Zhang, arXiv:2102.09235.

    Example:
        >>> import torch, geodesic_fast
        >>> crossing = torch.tensor([[[1.0], [-1.0]], [[-1.0], [1.0]]])  # (n+1, m, d)
        >>> halfway = torch.stack((crossing[0], crossing.mean(0), crossing[1]))
        >>> geodesic_fast.geodesic_bound_summary(halfway).share_kept
        0.0
    """
    with processes_of(group, "geodesic_bound_summary") as processes:
        given = Tracks.of(tracks, dim).map(Tensor.detach).flat()
        if group is not None:
            given, _ = all_tracks(given, processes)
        return _summary_of(given, processes)


def _summary_of(given: Tracks, processes: Processes) -> GeodesicBoundSummary:
    """Sum up the pairs of tracks that all processes hold; each looks at every so-many-th block of rows."""
    block = max(1, _BLOCK_PAIRS // max(given.m, 1))
    summary = _Summary(given.sums_dtype)
    starts = range(processes.rank * block, given.m, processes.size * block)
    for start in tqdm(starts, desc="geodesic bound", leave=False, delay=5, disable=None):
        rows = given.map(lambda x, start=start: x[..., start : start + block, :])  # type: ignore[misc]
        columns = given.map(lambda x, start=start: x[..., start:, :])  # type: ignore[misc]
        ends = [distances_of(a, b) for a, b in zip(_ends(rows), _ends(columns), strict=True)]
        summary.add(distances_of(rows, columns), _bound(*ends), start)
    summary.share(processes)
    return summary.result()


def geodesic_bound_summary_reference(
    tracks: Tensor | Sequence[Tensor], *, dim: int = 0
) -> GeodesicBoundSummary:
    """Define `geodesic_bound_summary` in plain torch, on whole matrices."""
    given = Tracks.of(tracks, dim).map(Tensor.detach)
    bound = geodesic_bound_reference(given.as_given())
    summary = _Summary(given.sums_dtype)
    summary.add(layer_distances(given, None).min(0).values, bound, 0)
    return summary.result()


class _Summary:
    """Counts, pair by pair, and remembers the worst."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.least = 1 - ROUNDING * torch.finfo(dtype).eps
        self.kept, self.pairs, self.worst, self.worst_pair = 0, 0, math.inf, (-1, -1)

    def add(self, distance: Tensor, bound: Tensor, start: int) -> None:
        """Count the pairs of a block (rows, columns) above its diagonal, both from track `start` on."""
        ratio = (distance / bound).masked_fill_(bound == 0, torch.inf)
        ratio.masked_fill_(torch.ones_like(ratio, dtype=torch.bool).tril_(), torch.inf)
        counted = ratio != torch.inf
        self.pairs += int(counted.sum())
        self.kept += int(((ratio >= self.least) & counted).sum())
        worst, place = ratio.flatten().min(0) if ratio.numel() else (ratio.new_tensor(torch.inf), None)
        if place is None or self.worst != self.worst or not (worst.isnan() or worst < self.worst):
            return
        self.worst = worst.item()
        row, column = divmod(int(place), ratio.shape[1])
        self.worst_pair = (start + row, start + column)

    def share(self, processes: Processes) -> None:
        """Put together what each process counted."""
        if processes.size == 1:
            return
        self.kept, self.pairs = (sum(processes.numbers(count)) for count in (self.kept, self.pairs))
        worst = torch.tensor([[self.worst, *self.worst_pair]], dtype=torch.float64)
        ratio, *pair = min(
            processes.gathered(worst).tolist(),
            key=lambda of: (-math.inf if math.isnan(of[0]) else of[0], of[1:]),
        )
        self.worst, self.worst_pair = ratio, (int(pair[0]), int(pair[1]))

    def result(self) -> GeodesicBoundSummary:
        if not self.pairs:
            return GeodesicBoundSummary(math.nan, math.nan, (-1, -1), 0)
        return GeodesicBoundSummary(self.kept / self.pairs, self.worst, self.worst_pair, self.pairs)


def _ends(tracks: Tracks) -> tuple[Tracks, Tracks]:
    """Return the first and the last layer, each as tracks of one point."""
    first, last = tracks.ends()
    return Tracks([first.unsqueeze(0)]), Tracks([last.unsqueeze(0)])


def _bound(a: Tensor, b: Tensor) -> Tensor:
    """Return a b / sqrt(a^2 + b^2) in units of the larger, so that nothing overflows or vanishes."""
    small, large = torch.minimum(a, b), torch.maximum(a, b)
    return small / (1 + (small / large.where(large != 0, 1.0)).square()).sqrt()
