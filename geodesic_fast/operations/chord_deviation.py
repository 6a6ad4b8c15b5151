# SPDX-License-Identifier: MIT
"""The engine's distances from the chord as a registered operation.

`layers` is one stacked tensor (n+1, *batch, d) or n+1 tensors (*batch, d).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from geodesic_fast._extension import engine, on_device, place_of
from geodesic_fast._tracks import (
    accumulation_dtype,
    address,
    batch_shape,
    engine_tracks,
    readable,
    step_count,
)
from geodesic_fast.operations.direct import goes_direct
from geodesic_fast.operations.second_derivatives import refuse_second_derivatives


def forward(layers: Sequence[Tensor], keep: bool) -> tuple[Tensor, Tensor | None]:
    """Run the operation, without the dispatcher where that would do nothing but call the kernel."""
    return (_run if goes_direct(layers) else chord_deviation)(layers, keep)


def _allocate(layers: Sequence[Tensor], keep: bool) -> tuple[Tensor, Tensor | None]:
    shape, dtype = (step_count(layers) + 1, *batch_shape(layers)), accumulation_dtype(layers[0].dtype)
    deviation = layers[0].new_empty(shape, dtype=dtype)
    return deviation, deviation.new_empty((2, *shape)) if keep else None


def _run(layers: Sequence[Tensor], keep: bool) -> tuple[Tensor, Tensor | None]:
    outputs = deviation, along = _allocate(layers, keep)
    if deviation.numel():
        assert engine is not None
        layers = readable(layers)
        with on_device(deviation.device):
            engine.chord_deviation_forward(
                engine_tracks(layers), deviation.data_ptr(), address(along), place_of(deviation.device)
            )
    return outputs


def _all_tensors(deviation: Tensor, along: Tensor | None) -> tuple[Tensor, Tensor]:
    """Give an operation, which returns tensors only, an empty one in place of none."""
    return deviation, deviation.new_empty(0) if along is None else along


@torch.library.custom_op(
    "geodesic_fast::chord_deviation",
    mutates_args=(),
    device_types=("cpu", "cuda"),
    schema="(Tensor[] layers, bool keep) -> (Tensor, Tensor)",
)
def chord_deviation(layers: Sequence[Tensor], keep: bool) -> tuple[Tensor, Tensor]:
    """Return the deviation (n+1, *batch), and for backward the ways along the chord (2, n+1, *batch)."""
    return _all_tensors(*_run(layers, keep))


@chord_deviation.register_fake
def _(layers: Sequence[Tensor], keep: bool) -> tuple[Tensor, Tensor]:
    return _all_tensors(*_allocate(layers, keep))


@torch.library.custom_op(
    "geodesic_fast::chord_deviation_backward",
    mutates_args=(),
    device_types=("cpu", "cuda"),
    schema="(Tensor grad, Tensor[] layers, Tensor deviation, Tensor along) -> Tensor[]",
)
def chord_deviation_backward(
    grad: Tensor, layers: Sequence[Tensor], deviation: Tensor, along: Tensor
) -> list[Tensor]:
    """Return the gradient of each tensor in `layers`, laid out like it."""
    return _run_backward(grad, layers, deviation, along)


def _run_backward(grad: Tensor, layers: Sequence[Tensor], deviation: Tensor, along: Tensor) -> list[Tensor]:
    gradient = [torch.empty_like(layer) for layer in layers]
    if gradient[0].numel():
        assert engine is not None
        written = readable(gradient)
        layers = readable(layers)
        grad = grad.contiguous()
        with on_device(deviation.device):
            engine.chord_deviation_backward(
                engine_tracks(layers), engine_tracks(written), grad.data_ptr(), deviation.data_ptr(),
                along.data_ptr(), place_of(deviation.device),
            )  # fmt: skip
        gradient = written
    return gradient


@chord_deviation_backward.register_fake
def _(grad: Tensor, layers: Sequence[Tensor], deviation: Tensor, along: Tensor) -> list[Tensor]:
    return [torch.empty_like(layer) for layer in layers]


def _keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    deviation, along = output
    ctx.mark_non_differentiable(along)
    ctx.save_for_backward(deviation, along, *inputs[0])


def _backward(ctx: Any, grad: Tensor, _: Any) -> tuple[list[Tensor], None]:
    deviation, along, *layers = ctx.saved_tensors
    direct = goes_direct((grad, deviation, along, *layers))
    backward = _run_backward if direct else chord_deviation_backward
    return backward(grad, layers, deviation, along), None


chord_deviation.register_autograd(_backward, setup_context=_keep_for_backward)
refuse_second_derivatives(chord_deviation_backward, "chord_deviation")
