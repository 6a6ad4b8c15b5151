# SPDX-License-Identifier: MIT
"""The engine's per-track kernels as registered operations: traceable, differentiable, stream-aware.

Both lss and track_geometry are one pass over the tracks; `only_lss` says which of the two is asked for.
`layers` is one stacked tensor (n+1, *batch, d) or n+1 tensors (*batch, d).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from geodesic_fast._extension import engine, on_device, on_gpu, place_of
from geodesic_fast._tracks import (
    ZERO_STEP_CODES,
    accumulation_dtype,
    address,
    batch_shape,
    engine_tracks,
    readable,
    step_count,
)
from geodesic_fast.operations.direct import goes_direct
from geodesic_fast.operations.second_derivatives import refuse_second_derivatives

FIELD_COUNT = 9  # float fields of TrackGeometry


def _wide_on_gpu(layer: Tensor) -> bool:
    """Say whether the kernels may need memory for a few values per step."""
    assert engine is not None
    return on_gpu(layer.device) and layer.shape[-1] > engine.wide_features


class Outputs(NamedTuple):
    """What one forward pass writes."""

    fields: Tensor  # (1 or 9, *batch)
    zero_steps: Tensor | None  # (*batch) int64, with all fields
    direction_sum: Tensor | None  # (*batch, d), kept for backward
    lengths: Tensor | None  # (n, *batch), kept for backward


def forward(layers: Sequence[Tensor], zero_step: str, only_lss: bool, keep: bool) -> Outputs:
    """Run the operation, without the dispatcher where that would do nothing but call the kernel."""
    if goes_direct(layers):
        return _run(layers, zero_step, only_lss, keep)
    return Outputs(*track_geometry(layers, zero_step, only_lss, keep))


def _allocate(layers: Sequence[Tensor], only_lss: bool, keep: bool) -> Outputs:
    batch, first = batch_shape(layers), layers[0]
    sums: dict[str, Any] = {"dtype": accumulation_dtype(first.dtype), "device": first.device}
    return Outputs(
        torch.empty((1 if only_lss else FIELD_COUNT, *batch), **sums),
        None if only_lss else torch.empty(batch, dtype=torch.int64, device=first.device),
        torch.empty((*batch, first.shape[-1]), **sums) if keep else None,
        torch.empty((step_count(layers), *batch), **sums) if keep else None,
    )


def _run(layers: Sequence[Tensor], zero_step: str, only_lss: bool, keep: bool) -> Outputs:
    outputs = fields, zero_steps, direction_sum, lengths = _allocate(layers, only_lss, keep)
    if fields.numel():
        assert engine is not None
        layers = readable(layers)
        if lengths is None and _wide_on_gpu(layers[0]):
            lengths = fields.new_empty((step_count(layers), *batch_shape(layers)))
        with on_device(fields.device):
            engine.track_geometry_forward(
                engine_tracks(layers), ZERO_STEP_CODES[zero_step], only_lss, fields.data_ptr(),
                address(zero_steps), address(direction_sum), address(lengths), place_of(fields.device),
            )  # fmt: skip
    return outputs


def _all_tensors(outputs: Outputs) -> tuple[Tensor, ...]:
    """Give an operation, which returns tensors only, an empty one for each that is absent."""
    dtypes = (None, torch.int64, None, None)
    return tuple(
        outputs.fields.new_empty(0, dtype=dtype) if tensor is None else tensor
        for tensor, dtype in zip(outputs, dtypes, strict=True)
    )


@torch.library.custom_op(
    "geodesic_fast::track_geometry",
    mutates_args=(),
    device_types=("cpu", "cuda"),
    schema="(Tensor[] layers, str zero_step, bool only_lss, bool keep) -> (Tensor, Tensor, Tensor, Tensor)",
)
def track_geometry(
    layers: Sequence[Tensor], zero_step: str, only_lss: bool, keep: bool
) -> tuple[Tensor, ...]:
    """Return fields (1 or 9, *batch), zero_steps (*batch), and for backward sum (*batch, d), lengths."""
    return _all_tensors(_run(layers, zero_step, only_lss, keep))


@track_geometry.register_fake
def _(layers: Sequence[Tensor], zero_step: str, only_lss: bool, keep: bool) -> tuple[Tensor, ...]:
    return _all_tensors(_allocate(layers, only_lss, keep))


@torch.library.custom_op(
    "geodesic_fast::track_geometry_backward",
    mutates_args=(),
    device_types=("cpu", "cuda"),
    schema="(Tensor grad_fields, Tensor[] layers, Tensor direction_sum, Tensor lengths, str zero_step, "
    "bool only_lss) -> Tensor[]",
)
def track_geometry_backward(
    grad_fields: Tensor,
    layers: Sequence[Tensor],
    direction_sum: Tensor,
    lengths: Tensor,
    zero_step: str,
    only_lss: bool,
) -> list[Tensor]:
    """Return the gradient of each tensor in `layers`, laid out like it."""
    return _run_backward(grad_fields, layers, direction_sum, lengths, zero_step, only_lss)


def _run_backward(
    grad_fields: Tensor,
    layers: Sequence[Tensor],
    direction_sum: Tensor,
    lengths: Tensor,
    zero_step: str,
    only_lss: bool,
) -> list[Tensor]:
    gradient = [torch.empty_like(layer) for layer in layers]
    if gradient[0].numel():
        assert engine is not None
        written = readable(gradient)
        layers = readable(layers)
        grad_fields = grad_fields.contiguous()
        tracks = lengths[0].numel()
        workspace = lengths.new_empty((4 * len(lengths) + 2) * tracks if _wide_on_gpu(layers[0]) else 0)
        with on_device(lengths.device):
            engine.track_geometry_backward(
                engine_tracks(layers), engine_tracks(written), ZERO_STEP_CODES[zero_step], only_lss,
                grad_fields.data_ptr(), direction_sum.data_ptr(), lengths.data_ptr(), workspace.data_ptr(),
                place_of(lengths.device),
            )  # fmt: skip
        gradient = written
    return gradient


@track_geometry_backward.register_fake
def _(
    grad_fields: Tensor,
    layers: Sequence[Tensor],
    direction_sum: Tensor,
    lengths: Tensor,
    zero_step: str,
    only_lss: bool,
) -> list[Tensor]:
    return [torch.empty_like(layer) for layer in layers]


def _keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    layers, ctx.zero_step, ctx.only_lss, _ = inputs
    _, zero_steps, direction_sum, lengths = output
    ctx.mark_non_differentiable(zero_steps, direction_sum, lengths)
    ctx.save_for_backward(direction_sum, lengths, *layers)


def _backward(ctx: Any, grad_fields: Tensor, *_: Any) -> tuple[list[Tensor], None, None, None]:
    direction_sum, lengths, *layers = ctx.saved_tensors
    direct = goes_direct((grad_fields, direction_sum, lengths, *layers))
    backward = _run_backward if direct else track_geometry_backward
    gradient = backward(grad_fields, layers, direction_sum, lengths, ctx.zero_step, ctx.only_lss)
    return gradient, None, None, None


track_geometry.register_autograd(_backward, setup_context=_keep_for_backward)
refuse_second_derivatives(track_geometry_backward, "lss", "track_geometry")
