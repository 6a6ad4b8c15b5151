# SPDX-License-Identifier: MIT
"""The engine's numbers of every step as an operation.

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

FIELD_COUNT = 5  # of StepGeometry
_KEPT_COUNT = 2  # norms of the states and lengths of the steps


def _allocate(layers: Sequence[Tensor], keep: bool) -> tuple[Tensor, Tensor | None]:
    tracks = Tracks(layers)
    fields = layers[0].new_empty((FIELD_COUNT, tracks.steps, *tracks.batch), dtype=tracks.sums_dtype)
    kept = (_KEPT_COUNT, tracks.points, *tracks.batch)
    return fields, fields.new_empty(kept, dtype=torch.float64) if keep else None


def _allocate_backward(grad_fields: Tensor, layers: Sequence[Tensor], *_: Tensor) -> list[Tensor]:
    return gradient_like(layers)


def _keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    fields, kept = output
    ctx.mark_non_differentiable(kept)
    ctx.save_for_backward(fields, kept, *inputs[0])


def _backward(ctx: Any, grad_fields: Tensor, _: Any) -> tuple[list[Tensor], None]:
    fields, kept, *layers = ctx.saved_tensors
    return step_geometry_backward(grad_fields, layers, fields, kept), None


# The fields (5, n, *batch), and for backward norms and lengths (2, n+1, *batch) in float64.
step_geometry = Operation(
    "step_geometry(Tensor[] layers, bool keep) -> (Tensor, Tensor)",
    _allocate, axes=lambda *_: ([LAYERS], [2, 2]),
)  # fmt: skip
step_geometry_backward = Operation(
    "step_geometry_backward(Tensor grad_fields, Tensor[] layers, Tensor fields, Tensor kept) -> Tensor[]",
    _allocate_backward, axes=lambda *_: ([2, LAYERS, 2, 2], [LAYERS]),
)  # fmt: skip
step_geometry.differentiate(_backward, _keep_for_backward)
step_geometry_backward.refuse_derivatives("step_geometry")
