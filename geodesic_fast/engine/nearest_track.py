# SPDX-License-Identifier: MIT
"""The engine's search for the nearest other track as an operation.

`layers` is one stacked tensor (n+1, *batch, d) or n+1 tensors (*batch, d).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from geodesic_fast._tracks import Tracks
from geodesic_fast.engine.handing import address
from geodesic_fast.engine.load import engine, on_gpu, place_of
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
    distance, index, layer = outputs
    distance.fill_(torch.inf)
    index.fill_(-1)
    layer.fill_(-1)
    pairs = Pairs(layers, None)
    labels = None if labels is None else labels.reshape(-1).to(torch.int64)
    if on_gpu(distance.device):
        parts = _rows_of_all(len(distance))
        workspace = pairs.squares.new_empty(min(len(distance), _gpu_rows(len(distance))) * len(distance))
    else:
        work = Tracks(layers).points * Tracks(layers).d
        parts = triangle_parts(len(distance), work, "nearest tracks")
        workspace = pairs.squares.new_empty(0)
    for rows, columns in parts:
        engine.nearest_track(
            pairs.view, rows.start, rows.stop, columns.start, columns.stop, address(labels),
            address(distance), address(index), address(layer), address(workspace), place_of(distance.device),
        )  # fmt: skip
    distance.masked_fill_(pairs.kinds == 2, torch.nan)


def _gpu_rows(m: int) -> int:
    return max(1, _GPU_PAIRS // m // _GPU_ROWS) * _GPU_ROWS


def _rows_of_all(m: int) -> Iterator[tuple[range, range]]:
    """Yield some rows at a time, and all columns."""
    for first in range(0, m, _gpu_rows(m)):
        yield range(first, min(m, first + _gpu_rows(m))), range(m)


# Distance, index and layer (m) of the nearest other track: inf, -1, -1 where there is none.
nearest_track = Operation(
    "nearest_track(Tensor[] layers, Tensor? labels) -> (Tensor, Tensor, Tensor)", _allocate, _call
)
