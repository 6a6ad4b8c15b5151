# SPDX-License-Identifier: MIT
"""The engine's products of directions as an operation.

`layers` is one stacked tensor (n+1, *batch, d) or n+1 tensors (*batch, d).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from geodesic_fast._tracks import Tracks
from geodesic_fast.engine.handing import gradient_like, launch
from geodesic_fast.engine.operation import Operation


def _allocate(layers: Sequence[Tensor], zero_step: str, each: bool) -> tuple[Tensor, Tensor | None]:
    tracks, first = Tracks(layers), layers[0]
    n = tracks.steps
    if each:
        return first.new_empty((*tracks.batch, n, n), dtype=tracks.sums_dtype), None
    return first.new_zeros((n, n), dtype=torch.float64), first.new_zeros((n, n), dtype=torch.int64)


def _call(
    outputs: tuple[Tensor, Tensor | None], layers: Sequence[Tensor], zero_step: str, each: bool
) -> None:
    result, counts = outputs
    sums, deviation = (None, result) if each else (result, None)
    if Tracks(layers).m:
        launch("line_deviation_forward", result.device, layers, zero_step, sums, counts, deviation)


def _allocate_backward(weights: Tensor, layers: Sequence[Tensor], each: bool) -> list[Tensor]:
    return gradient_like(layers)


def _keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    layers, _, ctx.each = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(*layers)


def _backward(ctx: Any, grad: Tensor, _: Any) -> tuple[list[Tensor], None, None]:
    layers = ctx.saved_tensors
    if ctx.each:
        grad = -grad
    weights = (grad + grad.mT).to(Tracks(layers).sums_dtype)
    weights = weights.masked_fill(torch.eye(weights.shape[-1], dtype=torch.bool, device=weights.device), 0.0)
    return line_deviation_backward(weights, layers, ctx.each), None, None


# Each track's deviations (*batch, n, n), or sums of <u_k, u_l> (n, n) and how many were added.
line_deviation = Operation(
    "line_deviation(Tensor[] layers, str zero_step, bool each) -> (Tensor, Tensor)", _allocate, _call
)
# The gradient of sum weights_kl <u_k, u_l> / 2 for each tensor in `layers`.
line_deviation_backward = Operation(
    "line_deviation_backward(Tensor weights, Tensor[] layers, bool each) -> Tensor[]",
    _allocate_backward,
)  # fmt: skip
line_deviation.differentiate(_backward, _keep_for_backward)
line_deviation_backward.refuse_derivatives("line_deviation")
