# SPDX-License-Identifier: MIT
"""The engine's search for the nearest other track as a registered operation.

`layers` is one stacked tensor (n+1, *batch, d) or n+1 tensors (*batch, d).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from geodesic_fast._extension import engine, on_device, place_of
from geodesic_fast._tracks import batch_shape, step_count
from geodesic_fast.operations._parts import triangle_parts
from geodesic_fast.operations.track_distance import Pairs


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
    work = (step_count(layers) + 1) * layers[0].shape[-1]
    with on_device(distance.device):
        for rows, columns in triangle_parts(len(distance), work, "nearest tracks"):
            engine.nearest_track(
                pairs.view, rows.start, rows.stop, columns.start, columns.stop, *addresses, layer.data_ptr(),
                place_of(distance.device),
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
