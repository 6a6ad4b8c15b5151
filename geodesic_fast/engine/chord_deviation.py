# SPDX-License-Identifier: MIT
"""The engine's distances from the chord as an operation.

`layers` is one stacked tensor (n+1, *batch, d) or n+1 tensors (*batch, d).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from geodesic_fast._tracks import Tracks
from geodesic_fast.engine.handing import gradient_like
from geodesic_fast.engine.operation import LAYERS, Operation


def _allocate(layers: Sequence[Tensor], keep: bool) -> tuple[Tensor, Tensor | None]:
    tracks = Tracks(layers)
    shape = (tracks.points, *tracks.batch)
    deviation = layers[0].new_empty(shape, dtype=tracks.sums_dtype)
    return deviation, deviation.new_empty((2, *shape)) if keep else None


def _allocate_backward(grad: Tensor, layers: Sequence[Tensor], *_: Tensor) -> list[Tensor]:
    return gradient_like(layers)


def _keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    deviation, along = output
    ctx.mark_non_differentiable(along)
    ctx.save_for_backward(deviation, along, *inputs[0])


def _backward(ctx: Any, grad: Tensor, _: Any) -> tuple[list[Tensor], None]:
    deviation, along, *layers = ctx.saved_tensors
    return chord_deviation_backward(grad, layers, deviation, along), None


# The deviation (n+1, *batch), and for backward the ways along the chord (2, n+1, *batch).
chord_deviation = Operation(
    "chord_deviation(Tensor[] layers, bool keep) -> (Tensor, Tensor)",
    _allocate, axes=lambda *_: ([LAYERS], [1, 2]),
)  # fmt: skip
chord_deviation_backward = Operation(
    "chord_deviation_backward(Tensor grad, Tensor[] layers, Tensor deviation, Tensor along) -> Tensor[]",
    _allocate_backward, axes=lambda *_: ([1, LAYERS, 1, 2], [LAYERS]),
)  # fmt: skip
chord_deviation.differentiate(_backward, _keep_for_backward)
chord_deviation_backward.refuse_derivatives("chord_deviation")
