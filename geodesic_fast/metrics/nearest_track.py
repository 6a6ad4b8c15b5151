# SPDX-License-Identifier: MIT
"""Nearest other track: with which sample is each one most easily mixed up?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from geodesic_fast._arrays import Array, Arrays, NamedTuple, NDArray, ResultOf, Tensors, takes_arrays
from geodesic_fast._processes import Processes, processes_of
from geodesic_fast._results import compared_by_value
from geodesic_fast._shared_points import all_tracks, check_no_gradient
from geodesic_fast._tracks import Tracks
from geodesic_fast._validation import check_labels
from geodesic_fast.engine import nearest_track as operation
from geodesic_fast.engine.load import has_engine
from geodesic_fast.metrics.track_distance import flat_points, layer_distances, norm


@compared_by_value
class NearestTrack(NamedTuple, ResultOf[Array]):
    """The nearest other track of each track, (m) each."""

    distance: Array  # float32, or float64 for float64 tracks
    track: Array  # int64: which one
    layer: Array  # int64: at which layer the two come nearest


@overload
def nearest_track(
    tracks: Tensors,
    *,
    labels: Tensor | NDArray | None = ...,
    dim: int = ...,
    group: ProcessGroup | None = ...,
) -> NearestTrack: ...
@overload
def nearest_track(
    tracks: Arrays,
    *,
    labels: Tensor | NDArray | None = ...,
    dim: int = ...,
    group: ProcessGroup | None = ...,
) -> NearestTrack[NDArray]: ...
@overload  # of both, or of what nobody typed
def nearest_track(tracks: Sequence[Tensor | NDArray], **options: Any) -> Any: ...
@takes_arrays
def nearest_track(
    tracks: Tensor | Sequence[Tensor],
    *,
    labels: Tensor | None = None,
    dim: int = 0,
    group: ProcessGroup | None = None,
) -> NearestTrack:
    r"""Find the other track that comes nearest to each track.

        distance_i = min over j != i of d_ij,   d_ij = min over layers l of |x_i^(l) - x_j^(l)|,

    and with `labels` over the j of another label alone: the margin by which sample i keeps clear of other
    classes on its way through the layers. Products of points only rule pairs out, with a bound on their
    rounding, and the others are measured from their coordinates in float64. Takes memory for a few numbers
    per track and layer, and on a GPU for a slice of the m x m distances (256 MB in float32), so that m may be
    100,000 and more; long searches on the CPU show a progress bar on a terminal and can be interrupted.

    Args:
        tracks: as for `geodesic_fast.lss`: a tensor with n+1 layers along `dim` and d features last, or a
            list or tuple of n+1 tensors of shape (*batch, d). The m tracks are those of the batch, in order.
        labels: (*batch) or (m), integers; None: all other tracks count.
        dim: the layer axis of a tensor; must be 0 for a list.
        group: processes that share the search, such as `torch.distributed.group.WORLD`. Each passes its own
            tracks, in any number, and gets what is nearest to these among those of all, which `index` numbers
            in the order of the ranks. Each holds all tracks meanwhile; what ends the call on one ends it on
            all.

    Returns:
        NearestTrack of distance, track and layer, (m) each. Of equally near tracks the lowest is named, of
        equally near layers of that pair the lowest, whatever the number of threads. A track without any
        other, or without one of another label, is at distance inf, track -1, layer -1: the minimum over
        nothing. A track that holds NaN has distance NaN, track -1, layer -1, and is nobody's neighbour; so is
        a pair infinite in the same coordinate of a layer.

    Raises:
        TypeError, ValueError: as `geodesic_fast.lss`, or labels are not one integer for each track.

    The distance is differentiable, through the nearest pair and layer, with gradient 0 where it is 0; track
    and layer are not, and with a group a gradient is refused. Larger is more robust.

    Source: Gai and Zhang, arXiv:2102.09235.

    Example:
        >>> import torch, geodesic_fast
        >>> starts = torch.tensor([[0.0], [1.0], [5.0]])  # (m, d)
        >>> found = geodesic_fast.nearest_track([starts, 2 * starts], labels=torch.tensor([0, 0, 1]))
        >>> found.distance, found.track
        (tensor([5., 4., 4.]), tensor([2, 2, 1]))
    """
    if group is not None:
        with processes_of(group, "nearest_track") as processes:
            given = Tracks.of(tracks, dim)
            check_no_gradient("nearest_track", given)
            return _of_processes(given, labels, processes)
    given = Tracks.of(tracks, dim)
    check_labels(labels, given.batch, given.device)
    if not has_engine(given.device):
        return nearest_track_reference(tracks, labels=labels, dim=dim)
    given.check_no_forward_mode("nearest_track")
    distance, track, layer = operation.nearest_track(given.map(Tensor.detach).layers, labels)
    return _result(given, distance, track, layer.long())


def nearest_track_reference(
    tracks: Tensor | Sequence[Tensor], *, labels: Tensor | None = None, dim: int = 0
) -> NearestTrack:
    """Define `nearest_track` in plain torch: the least entry of each row of the distances."""
    given = Tracks.of(tracks, dim)
    check_labels(labels, given.batch, given.device)
    detached = given.map(Tensor.detach)
    each = layer_distances(detached, None)  # (n+1, m, m)
    distance = each.amin(0)
    m = len(distance)
    left_out = torch.eye(m, dtype=torch.bool, device=distance.device) | distance.isnan()
    if labels is not None:
        left_out |= labels.reshape(-1, 1) == labels.reshape(-1)
    nan = flat_points(detached).isnan().any(-1).any(0)
    rows = torch.arange(m, device=distance.device)
    track = rows
    if m:
        nearest, track = distance.masked_fill(left_out, torch.inf).min(1)
        track = torch.where(nearest.isinf(), left_out.int().argmin(1), track)  # inf is nearer than nothing
    none = left_out[rows, track]
    layer = each[:, rows, track].argmin(0).masked_fill(none, -1)
    found = distance[rows, track].masked_fill(none, torch.inf).masked_fill(nan, torch.nan)
    return _result(given, found, track.masked_fill(none, -1), layer)


def _of_processes(given: Tracks, labels: Tensor | None, processes: Processes) -> NearestTrack:
    """Search a part of the pairs of all processes' tracks, and keep what concerns this one's."""
    check_labels(labels, given.batch, given.device)
    if len(set(processes.numbers(labels is not None))) > 1:
        raise ValueError("labels must be given on all processes or on none, got them on some.")
    every, own = all_tracks(given, processes)
    if labels is not None:
        labels = processes.gathered(labels.reshape(-1).long().to(every.device))
    if has_engine(every.device):
        found = _result(every, *operation.nearest_among(every.layers, labels, processes))
    else:
        found = nearest_track_reference(every.stacked(), labels=labels)
    return NearestTrack(*(each[own.start : own.stop] for each in found))


def _result(tracks: Tracks, found: Tensor, track: Tensor, layer: Tensor) -> NearestTrack:
    """Take the distances from the coordinates again, this time for autograd."""
    rows, exists = torch.arange(track.shape[0], device=track.device), track >= 0
    column, at = track.clamp(min=0), layer.clamp(min=0)
    flat = tracks.flat()
    if flat.is_stacked:
        x = flat.stacked()
        a, b = x[at, rows], x[at, column]  # (m, d)
    else:
        a = b = torch.zeros_like(flat.layers[0])
        for number, x in enumerate(flat.layers):
            here = (at == number).unsqueeze(-1)
            a, b = torch.where(here, x, a), torch.where(here, x[column], b)
    dtype = tracks.sums_dtype
    v = torch.where(exists.unsqueeze(-1), a.to(dtype) - b.to(dtype), 0.0)
    return NearestTrack(torch.where(exists, norm(v), found.to(dtype)), track, layer)
