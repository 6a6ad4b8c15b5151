# SPDX-License-Identifier: MIT
"""The engine's per-track kernels as registered operations: traceable, differentiable, stream-aware.

Both lss and track_geometry are one pass over the tracks; `only_lss` says which of the two is asked for.
`layers` is one stacked tensor (n+1, *batch, d) or n+1 tensors (*batch, d).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from geodesic_fast._extension import engine, on_device, place_of
from geodesic_fast._tracks import (
    ZERO_STEP_CODES,
    accumulation_dtype,
    batch_shape,
    engine_tracks,
    readable,
    step_count,
)

FIELD_COUNT = 9  # float fields of TrackGeometry


def _wide_on_gpu(layer: Tensor) -> bool:
    """Say whether the kernels may need memory for a few values per step."""
    assert engine is not None
    return layer.is_cuda and layer.shape[-1] > engine.wide_features


def _outputs(layers: Sequence[Tensor], only_lss: bool, keep: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Allocate (fields, zero_steps, direction_sum, lengths) of one forward pass."""
    batch, first = batch_shape(layers), layers[0]
    sums: dict[str, Any] = {"dtype": accumulation_dtype(first.dtype), "device": first.device}
    fields = torch.empty((1 if only_lss else FIELD_COUNT, *batch), **sums)
    zero_steps = torch.empty((0,) if only_lss else batch, dtype=torch.int64, device=first.device)
    direction_sum = torch.empty((*batch, first.shape[-1]) if keep else (0,), **sums)
    lengths = torch.empty((step_count(layers), *batch) if keep else (0,), **sums)
    return fields, zero_steps, direction_sum, lengths


@torch.library.custom_op(
    "geodesic_fast::track_geometry",
    mutates_args=(),
    device_types=("cpu", "cuda"),
    schema="(Tensor[] layers, str zero_step, bool only_lss, bool keep) -> (Tensor, Tensor, Tensor, Tensor)",
)
def track_geometry(
    layers: Sequence[Tensor], zero_step: str, only_lss: bool, keep: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return fields (1 or 9, *batch), zero_steps (*batch), and for backward sum (*batch, d), lengths."""
    outputs = fields, zero_steps, direction_sum, lengths = _outputs(layers, only_lss, keep)
    if fields.numel():
        assert engine is not None
        layers = readable(layers)
        if _wide_on_gpu(layers[0]) and not keep:
            lengths_used = fields.new_empty((step_count(layers), *batch_shape(layers)))
        else:
            lengths_used = lengths
        with on_device(fields.device):
            engine.track_geometry_forward(
                engine_tracks(layers), ZERO_STEP_CODES[zero_step], only_lss, fields.data_ptr(),
                zero_steps.data_ptr(), direction_sum.data_ptr(), lengths_used.data_ptr(),
                place_of(fields.device),
            )  # fmt: skip
    return outputs


@track_geometry.register_fake
def _(
    layers: Sequence[Tensor], zero_step: str, only_lss: bool, keep: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _outputs(layers, only_lss, keep)


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
    gradient = track_geometry_backward(
        grad_fields, layers, direction_sum, lengths, ctx.zero_step, ctx.only_lss
    )
    return gradient, None, None, None


track_geometry.register_autograd(_backward, setup_context=_keep_for_backward)


def _refuse_second_derivative(ctx: Any, *_: Any) -> None:
    raise NotImplementedError(
        "lss and track_geometry have first derivatives only: call backward without create_graph=True, "
        "or use lss_reference, which autograd can differentiate twice."
    )


track_geometry_backward.register_autograd(_refuse_second_derivative)
