# SPDX-License-Identifier: MIT
"""The engine's numbers of every step as a registered operation.

`layers` is one stacked tensor (n+1, *batch, d) or n+1 tensors (*batch, d).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from geodesic_fast._extension import engine, on_device, on_gpu, place_of
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

FIELD_COUNT = 5  # of StepGeometry
_KEPT_COUNT = 2  # norms of the states and lengths of the steps
_TERM_COUNT = 7  # unit vectors that a point's gradient is a sum of


def forward(layers: Sequence[Tensor], keep: bool) -> tuple[Tensor, Tensor | None]:
    """Run the operation, without the dispatcher where that would do nothing but call the kernel."""
    return (_run if goes_direct(layers) else step_geometry)(layers, keep)


def _allocate(layers: Sequence[Tensor], keep: bool) -> tuple[Tensor, Tensor | None]:
    first, n, batch = layers[0], step_count(layers), batch_shape(layers)
    fields = first.new_empty((FIELD_COUNT, n, *batch), dtype=accumulation_dtype(first.dtype))
    return fields, first.new_empty((_KEPT_COUNT, n + 1, *batch), dtype=torch.float64) if keep else None


def _run(layers: Sequence[Tensor], keep: bool) -> tuple[Tensor, Tensor | None]:
    outputs = fields, kept = _allocate(layers, keep)
    if fields.numel():
        assert engine is not None
        layers = readable(layers)
        with on_device(fields.device):
            engine.step_geometry_forward(
                engine_tracks(layers), fields.data_ptr(), address(kept), place_of(fields.device)
            )
    return outputs


def _all_tensors(fields: Tensor, kept: Tensor | None) -> tuple[Tensor, Tensor]:
    """Give an operation, which returns tensors only, an empty one for what is absent."""
    return fields, fields.new_empty(0, dtype=torch.float64) if kept is None else kept


@torch.library.custom_op(
    "geodesic_fast::step_geometry",
    mutates_args=(),
    device_types=("cpu", "cuda"),
    schema="(Tensor[] layers, bool keep) -> (Tensor, Tensor)",
)
def step_geometry(layers: Sequence[Tensor], keep: bool) -> tuple[Tensor, Tensor]:
    """Return the fields (5, n, *batch), and for backward norms and lengths (2, n+1, *batch) in float64."""
    return _all_tensors(*_run(layers, keep))


@step_geometry.register_fake
def _(layers: Sequence[Tensor], keep: bool) -> tuple[Tensor, Tensor]:
    return _all_tensors(*_allocate(layers, keep))


@torch.library.custom_op(
    "geodesic_fast::step_geometry_backward",
    mutates_args=(),
    device_types=("cpu", "cuda"),
    schema="(Tensor grad_fields, Tensor[] layers, Tensor fields, Tensor kept) -> Tensor[]",
)
def step_geometry_backward(
    grad_fields: Tensor, layers: Sequence[Tensor], fields: Tensor, kept: Tensor
) -> list[Tensor]:
    """Return the gradient of each tensor in `layers`."""
    return _run_backward(grad_fields, layers, fields, kept)


def _run_backward(
    grad_fields: Tensor, layers: Sequence[Tensor], fields: Tensor, kept: Tensor
) -> list[Tensor]:
    gradient = [torch.empty_like(layer) for layer in layers]
    if gradient[0].numel():
        assert engine is not None
        written, layers = readable(gradient), readable(layers)
        grad_fields, fields, kept = grad_fields.contiguous(), fields.contiguous(), kept.contiguous()
        workspace = kept.new_empty(_TERM_COUNT * kept[0].numel() if on_gpu(kept.device) else 0)
        with on_device(kept.device):
            engine.step_geometry_backward(
                engine_tracks(layers), engine_tracks(written), grad_fields.data_ptr(), fields.data_ptr(),
                kept.data_ptr(), workspace.data_ptr(), place_of(kept.device),
            )  # fmt: skip
        gradient = written
    return gradient


@step_geometry_backward.register_fake
def _(grad_fields: Tensor, layers: Sequence[Tensor], fields: Tensor, kept: Tensor) -> list[Tensor]:
    return [torch.empty_like(layer) for layer in layers]


def _keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    fields, kept = output
    ctx.mark_non_differentiable(kept)
    ctx.save_for_backward(fields, kept, *inputs[0])


def _backward(ctx: Any, grad_fields: Tensor, _: Any) -> tuple[list[Tensor], None]:
    fields, kept, *layers = ctx.saved_tensors
    direct = goes_direct((grad_fields, fields, kept, *layers))
    backward = _run_backward if direct else step_geometry_backward
    return backward(grad_fields, layers, fields, kept), None


step_geometry.register_autograd(_backward, setup_context=_keep_for_backward)
refuse_second_derivatives(step_geometry_backward, "step_geometry")
