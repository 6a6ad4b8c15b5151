# SPDX-License-Identifier: MIT
"""The engine's products of directions as a registered operation.

`layers` is one stacked tensor (n+1, *batch, d) or n+1 tensors (*batch, d).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from geodesic_fast._extension import engine, on_device, on_gpu, place_of
from geodesic_fast._tracks import (
    ZERO_STEP_CODES,
    accumulation_dtype,
    batch_shape,
    engine_tracks,
    readable,
    step_count,
)
from geodesic_fast.operations.direct import goes_direct
from geodesic_fast.operations.second_derivatives import refuse_second_derivatives


def _outputs(layers: Sequence[Tensor], each: bool) -> tuple[Tensor, Tensor]:
    n, first = step_count(layers), layers[0]
    if each:
        shape = (*batch_shape(layers), n, n)
        return first.new_empty(shape, dtype=accumulation_dtype(first.dtype)), first.new_empty(
            0, dtype=torch.int64
        )
    return first.new_zeros((n, n), dtype=torch.float64), first.new_zeros((n, n), dtype=torch.int64)


@torch.library.custom_op(
    "geodesic_fast::line_deviation",
    mutates_args=(),
    device_types=("cpu", "cuda"),
    schema="(Tensor[] layers, str zero_step, bool each) -> (Tensor, Tensor)",
)
def line_deviation(layers: Sequence[Tensor], zero_step: str, each: bool) -> tuple[Tensor, Tensor]:
    """Return each track's deviations (*batch, n, n), or sums of <u_k, u_l> (n, n) and how many were added."""
    return _run(layers, zero_step, each)


def forward(layers: Sequence[Tensor], zero_step: str, each: bool) -> tuple[Tensor, Tensor]:
    """Run the operation, without the dispatcher where that would do nothing but call the kernel."""
    return (_run if goes_direct(layers) else line_deviation)(layers, zero_step, each)


def _run(layers: Sequence[Tensor], zero_step: str, each: bool) -> tuple[Tensor, Tensor]:
    result, counts = _outputs(layers, each)
    if batch_shape(layers).numel():
        assert engine is not None
        layers = readable(layers)
        tracks, place = engine_tracks(layers), place_of(result.device)
        sums, deviation = (0, result.data_ptr()) if each else (result.data_ptr(), 0)
        with on_device(result.device):
            needed = engine.line_deviation_workspace(tracks, each, place)
            workspace = result.new_empty(needed, dtype=torch.uint8)
            engine.line_deviation_forward(
                tracks, ZERO_STEP_CODES[zero_step], sums, counts.data_ptr(), deviation, workspace.data_ptr(),
                place,
            )  # fmt: skip
    return result, counts


@line_deviation.register_fake
def _(layers: Sequence[Tensor], zero_step: str, each: bool) -> tuple[Tensor, Tensor]:
    return _outputs(layers, each)


@torch.library.custom_op(
    "geodesic_fast::line_deviation_backward",
    mutates_args=(),
    device_types=("cpu", "cuda"),
    schema="(Tensor weights, Tensor[] layers, bool each) -> Tensor[]",
)
def line_deviation_backward(weights: Tensor, layers: Sequence[Tensor], each: bool) -> list[Tensor]:
    """Return the gradient of sum weights_kl <u_k, u_l> / 2 for each tensor in `layers`, laid out like it."""
    return _run_backward(weights, layers, each)


def _run_backward(weights: Tensor, layers: Sequence[Tensor], each: bool) -> list[Tensor]:
    gradient = [torch.empty_like(layer) for layer in layers]
    if gradient[0].numel():
        assert engine is not None
        written = readable(gradient)
        layers = readable(layers)
        per_step = 2 * batch_shape(layers).numel() * step_count(layers) if on_gpu(weights.device) else 0
        workspace = weights.new_empty(per_step)  # lengths and projections
        with on_device(weights.device):
            engine.line_deviation_backward(
                engine_tracks(layers), engine_tracks(written), weights.data_ptr(), each,
                workspace.data_ptr(), place_of(weights.device),
            )  # fmt: skip
        gradient = written
    return gradient


@line_deviation_backward.register_fake
def _(weights: Tensor, layers: Sequence[Tensor], each: bool) -> list[Tensor]:
    return [torch.empty_like(layer) for layer in layers]


def _keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    layers, _, ctx.each = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(*layers)


def _backward(ctx: Any, grad: Tensor, _: Any) -> tuple[list[Tensor], None, None]:
    layers = ctx.saved_tensors
    if ctx.each:
        grad = -grad
    weights = (grad + grad.mT).to(accumulation_dtype(layers[0].dtype))
    weights = weights.masked_fill(torch.eye(weights.shape[-1], dtype=torch.bool, device=weights.device), 0.0)
    backward = _run_backward if goes_direct((weights, *layers)) else line_deviation_backward
    return backward(weights.contiguous(), layers, ctx.each), None, None


line_deviation.register_autograd(_backward, setup_context=_keep_for_backward)
refuse_second_derivatives(line_deviation_backward, "line_deviation")
