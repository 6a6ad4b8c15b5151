# SPDX-License-Identifier: MIT
"""The engine's search for the nearest other track as a registered operation.

`layers` is one stacked tensor (n+1, *batch, d) or n+1 tensors (*batch, d).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from geodesic_fast._extension import engine, on_device, on_gpu, place_of
from geodesic_fast._tracks import batch_shape, step_count
from geodesic_fast.operations._parts import triangle_parts
from geodesic_fast.operations.track_distance import Pairs

_GPU_PAIRS, _GPU_ROWS = 1 << 26, 128  # distances held at once on a GPU, in whole tiles of so many rows


@torch.library.custom_op(
    "geodesic_fast::nearest_track",
    mutates_args=(),
    device_types=("cpu", "cuda"),
    schema="(Tensor[] layers, Tensor? labels) -> (Tensor, Tensor, Tensor)",
)
def nearest_track(layers: Sequence[Tensor], labels: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return distance, index and layer (m) of the nearest other track: inf, -1, -1 where there is none."""
    outputs = distance, index, layer = _outputs(layers)
    if not len(distance):
        return outputs
    assert engine is not None
    distance.fill_(torch.inf)
    index.fill_(-1)
    layer.fill_(-1)
    pairs = Pairs(layers, None)
    labels = None if labels is None else labels.reshape(-1).to(torch.int64).contiguous()
    addresses = (0 if labels is None else labels.data_ptr(), distance.data_ptr(), index.data_ptr())
    if on_gpu(distance.device):
        parts = _rows_of_all(len(distance))
        workspace = pairs.squares.new_empty(min(len(distance), _gpu_rows(len(distance))) * len(distance))
    else:
        work = (step_count(layers) + 1) * layers[0].shape[-1]
        parts = triangle_parts(len(distance), work, "nearest tracks")
        workspace = pairs.squares.new_empty(0)
    with on_device(distance.device):
        for rows, columns in parts:
            engine.nearest_track(
                pairs.view, rows.start, rows.stop, columns.start, columns.stop, *addresses, layer.data_ptr(),
                workspace.data_ptr(), place_of(distance.device),
            )  # fmt: skip
    distance.masked_fill_(pairs.kinds == 2, torch.nan)
    return outputs


def _outputs(layers: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    m, first = batch_shape(layers).numel(), layers[0]
    return (
        first.new_empty(m, dtype=torch.float64),
        first.new_empty(m, dtype=torch.int64),
        first.new_empty(m, dtype=torch.int32),
    )


@nearest_track.register_fake
def _(layers: Sequence[Tensor], labels: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    return _outputs(layers)


def _gpu_rows(m: int) -> int:
    return max(1, _GPU_PAIRS // m // _GPU_ROWS) * _GPU_ROWS


def _rows_of_all(m: int) -> Iterator[tuple[range, range]]:
    """Yield some rows at a time, and all columns."""
    for first in range(0, m, _gpu_rows(m)):
        yield range(first, min(m, first + _gpu_rows(m))), range(m)
