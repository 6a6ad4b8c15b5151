# SPDX-License-Identifier: MIT
"""The engine's per-track kernels as an operation.

Both lss and track_geometry are one pass over the tracks; `only_lss` says which of the two is asked for.
`layers` is one stacked tensor (n+1, *batch, d) or n+1 tensors (*batch, d).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from geodesic_fast._tracks import Tracks
from geodesic_fast.engine.handing import gradient_like
from geodesic_fast.engine.operation import LAYERS, Operation

FIELD_COUNT = 9  # float fields of TrackGeometry
Outputs = tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]


def _allocate(layers: Sequence[Tensor], zero_step: str, only_lss: bool, keep: bool) -> Outputs:
    tracks = Tracks(layers)
    batch, dtype, new = tracks.batch, tracks.sums_dtype, layers[0].new_empty
    return (
        new(batch if only_lss else (FIELD_COUNT, *batch), dtype=dtype),
        None if only_lss else new(batch, dtype=torch.int64),
        new((*batch, tracks.d), dtype=dtype) if keep else None,
        new((tracks.steps, *batch), dtype=dtype) if keep else None,
    )


def _allocate_backward(grad_fields: Tensor, layers: Sequence[Tensor], *_: Any) -> list[Tensor]:
    return gradient_like(layers)


def _keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    layers, ctx.zero_step, ctx.only_lss, _ = inputs
    _, zero_steps, direction_sum, lengths = output
    ctx.mark_non_differentiable(zero_steps, direction_sum, lengths)
    ctx.save_for_backward(direction_sum, lengths, *layers)


def _backward(ctx: Any, grad_fields: Tensor, *_: Any) -> tuple[list[Tensor], None, None, None]:
    direction_sum, lengths, *layers = ctx.saved_tensors
    gradient = track_geometry_backward(
        grad_fields, layers, direction_sum, lengths, ctx.zero_step, ctx.only_lss
    )
    return gradient, None, None, None


def _axes(
    layers: Sequence[Tensor], zero_step: str, only_lss: bool, keep: bool
) -> tuple[list[int], list[int]]:
    return [LAYERS], [0 if only_lss else 1, 0, 0, 1]


def _axes_backward(*args: Any) -> tuple[list[int], list[int]]:
    only_lss = args[-1]
    return [0 if only_lss else 1, LAYERS, 0, 1], [LAYERS]


# One field (*batch), or all (9, *batch) and zero_steps (*batch) in int64; and for backward, where it is kept,
# the sum of directions (*batch, d) and lengths (n, *batch).
track_geometry = Operation(
    "track_geometry(Tensor[] layers, str zero_step, bool only_lss, bool keep) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
    _allocate, axes=_axes,
)  # fmt: skip
track_geometry_backward = Operation(
    "track_geometry_backward(Tensor grad_fields, Tensor[] layers, Tensor direction_sum, Tensor lengths, "
    "str zero_step, bool only_lss) -> Tensor[]",
    _allocate_backward, axes=_axes_backward,
)  # fmt: skip
track_geometry.differentiate(_backward, _keep_for_backward)
track_geometry_backward.refuse_derivatives("lss", "track_geometry")
