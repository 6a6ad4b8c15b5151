# SPDX-License-Identifier: MIT
"""The engine's search for the nearest other track as an operation.

`layers` is one stacked tensor (n+1, *batch, d) or n+1 tensors (*batch, d).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from geodesic_fast._processes import Processes
from geodesic_fast._tracks import Tracks
from geodesic_fast.engine.handing import launch, readable
from geodesic_fast.engine.load import on_gpu
from geodesic_fast.engine.operation import Operation
from geodesic_fast.engine.parts import triangle_parts
from geodesic_fast.engine.track_distance import Pairs

_GPU_PAIRS, _GPU_ROWS = 1 << 26, 128  # distances held at once on a GPU, in whole tiles of so many rows


def _allocate(layers: Sequence[Tensor], _: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    m, first = Tracks(layers).m, layers[0]
    return (
        first.new_empty(m, dtype=torch.float64),
        first.new_empty(m, dtype=torch.int64),
        first.new_empty(m, dtype=torch.int32),
    )


def _call(outputs: tuple[Tensor, Tensor, Tensor], layers: Sequence[Tensor], labels: Tensor | None) -> None:
    _search(outputs, layers, labels, range(len(outputs[0])))


def nearest_among(
    layers: Sequence[Tensor], labels: Tensor | None, processes: Processes
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what the operation does, each process looking at a part of the pairs."""
    layers = readable(layers)
    distance, index, layer = found = _allocate(layers, labels)
    m, device = len(distance), distance.device
    _search(found, layers, labels, _part(m, processes.rank, processes.size, on_gpu(device)))
    if processes.size == 1:
        return distance, index, layer.long()
    parts = processes.gathered(torch.stack([distance.view(torch.int64), index, layer.long()])[None])
    for bits, others_index, others_layer in parts:
        other = bits.contiguous().view(torch.float64)
        first = torch.where(others_index < 0, m, others_index) < torch.where(index < 0, m, index)
        nearer = (other < distance) | ((other == distance) & first)
        distance = torch.where(nearer, other, distance)
        index = torch.where(nearer, others_index, index)
        layer = torch.where(nearer, others_layer, layer.long())
    return distance, index, layer


def _part(m: int, rank: int, size: int, whole_rows: bool) -> range:
    """Return the rows of one process: as many as of any other, or with as many pairs behind the diagonal."""
    shares = [part / size if whole_rows else 1 - math.sqrt(1 - part / size) for part in (rank, rank + 1)]
    first, last = (round(m * share) for share in shares)
    return range(first, last)


def _search(
    outputs: tuple[Tensor, Tensor, Tensor], layers: Sequence[Tensor], labels: Tensor | None, rows: range
) -> None:
    """Find the nearest of some rows among all on a GPU, and elsewhere from the pairs behind the diagonal."""
    distance, index, layer = outputs
    distance.fill_(torch.inf)
    index.fill_(-1)
    layer.fill_(-1)
    pairs = Pairs(layers, None)
    labels = None if labels is None else labels.reshape(-1).to(torch.int64)
    if on_gpu(distance.device):
        parts = _rows_of_all(rows, len(distance))
    else:
        work = Tracks(layers).points * Tracks(layers).d
        parts = triangle_parts(rows, len(distance), work, "nearest tracks")
    for part, columns in parts:
        launch(
            "nearest_track", distance.device, pairs.view, part.start, part.stop, columns.start, columns.stop,
            labels, distance, index, layer,
        )  # fmt: skip
    distance.masked_fill_(pairs.kinds == 2, torch.nan)


def _gpu_rows(m: int) -> int:
    return max(1, _GPU_PAIRS // m // _GPU_ROWS) * _GPU_ROWS


def _rows_of_all(rows: range, m: int) -> Iterator[tuple[range, range]]:
    """Yield some rows at a time, and all columns."""
    for first in range(rows.start, rows.stop, _gpu_rows(m)):
        yield range(first, min(rows.stop, first + _gpu_rows(m))), range(m)


# Distance, index and layer (m) of the nearest other track: inf, -1, -1 where there is none.
nearest_track = Operation(
    "nearest_track(Tensor[] layers, Tensor? labels) -> (Tensor, Tensor, Tensor)", _allocate, _call
)
