# SPDX-License-Identifier: MIT
"""The engine's distances of pairs of tracks as a registered operation.

`layers` and `other` are one stacked tensor (n+1, m, d) or n+1 tensors (m, d) each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from geodesic_fast._extension import engine, on_device, on_gpu, place_of
from geodesic_fast._tracks import accumulation_dtype, batch_shape, engine_tracks, readable, step_count
from geodesic_fast.operations._parts import row_parts
from geodesic_fast.operations.second_derivatives import refuse_second_derivatives


class Pairs:
    """Two sets of tracks as the engine sees them, and what a first pass over them finds out."""

    def __init__(self, layers: Sequence[Tensor], other: Sequence[Tensor] | None) -> None:
        assert engine is not None
        self.symmetric = other is None
        self.layers = readable(layers)
        self.other = self.layers if other is None else readable(other)
        first, points = layers[0], step_count(layers) + 1
        m, others = batch_shape(self.layers).numel(), batch_shape(self.other).numel()
        dtype = accumulation_dtype(first.dtype)
        self.scale = first.new_empty(2, dtype=torch.float64)
        self.centre = first.new_empty((points, first.shape[-1]), dtype=dtype)  # (n+1, d)
        self.squares = first.new_empty((points, m), dtype=dtype)
        self.other_squares = self.squares if other is None else first.new_empty((points, others), dtype=dtype)
        self.kinds = first.new_empty(m, dtype=torch.uint8)  # 0 finite, 1 holds inf, 2 holds NaN
        self.other_kinds = self.kinds if other is None else first.new_empty(others, dtype=torch.uint8)
        left = engine_tracks(self.layers)
        self.view = engine.Pairs(
            tracks=left,
            other=left if other is None else engine_tracks(self.other),
            symmetric=self.symmetric,
            scale=self.scale.data_ptr(),
            centre=self.centre.data_ptr(),
            squares=self.squares.data_ptr(),
            other_squares=self.other_squares.data_ptr(),
            kinds=self.kinds.data_ptr(),
            other_kinds=self.other_kinds.data_ptr(),
        )
        with on_device(first.device):
            engine.track_pairs_prepare(self.view, place_of(first.device))


def _outputs(layers: Sequence[Tensor], other: Sequence[Tensor], keep: bool) -> tuple[Tensor, Tensor]:
    m = batch_shape(layers).numel()
    shape = (m, batch_shape(other).numel() if other else m)
    distance = layers[0].new_empty(shape, dtype=accumulation_dtype(layers[0].dtype))
    return distance, distance.new_empty(shape if keep else (0, 0), dtype=torch.int32)


@torch.library.custom_op(
    "geodesic_fast::track_distance",
    mutates_args=(),
    device_types=("cpu", "cuda"),
    schema="(Tensor[] layers, Tensor[] other, bool keep) -> (Tensor, Tensor)",
)
def track_distance(layers: Sequence[Tensor], other: Sequence[Tensor], keep: bool) -> tuple[Tensor, Tensor]:
    """Return distances (m, m') and, for backward, at which layer each is (m, m'); no `other`: of one set."""
    outputs = distance, layer = _outputs(layers, other, keep)
    if distance.numel():
        assert engine is not None
        pairs = Pairs(layers, other or None)
        addresses = distance.data_ptr(), layer.data_ptr() if keep else 0
        if on_gpu(distance.device):  # a launch returns at once: nothing to show or to interrupt
            parts = iter([range(len(distance))])
        else:
            work = (step_count(layers) + 1) * layers[0].shape[-1]
            parts = row_parts(len(distance), distance.shape[1], work, pairs.symmetric, "track distances")
        with on_device(distance.device):
            for rows in parts:
                engine.track_distance_forward(
                    pairs.view, rows.start, rows.stop, *addresses, place_of(distance.device)
                )
    return outputs


@track_distance.register_fake
def _(layers: Sequence[Tensor], other: Sequence[Tensor], keep: bool) -> tuple[Tensor, Tensor]:
    return _outputs(layers, other, keep)


@torch.library.custom_op(
    "geodesic_fast::track_distance_backward",
    mutates_args=(),
    device_types=("cpu", "cuda"),
    schema="(Tensor weights, Tensor layer, Tensor[] layers, Tensor[] other, bool of_other) -> Tensor[]",
)
def track_distance_backward(
    weights: Tensor, layer: Tensor, layers: Sequence[Tensor], other: Sequence[Tensor], of_other: bool
) -> list[Tensor]:
    """Return sum_j weights_ij (x_i - y_j) at layer_ij for each tensor of x, or of y, laid out like it."""
    gradient = [torch.empty_like(each) for each in (other if of_other else layers)]
    if weights.numel():
        assert engine is not None
        written, left = readable(gradient), readable(layers)
        right = readable(other) if other else left
        weights, layer = weights.contiguous(), layer.contiguous()
        with on_device(weights.device):
            engine.track_distance_backward(
                engine_tracks(left), engine_tracks(right), engine_tracks(written), of_other,
                weights.data_ptr(), layer.data_ptr(), place_of(weights.device),
            )  # fmt: skip
        return written
    return [each.zero_() for each in gradient]


@track_distance_backward.register_fake
def _(
    weights: Tensor, layer: Tensor, layers: Sequence[Tensor], other: Sequence[Tensor], of_other: bool
) -> list[Tensor]:
    return [torch.empty_like(each) for each in (other if of_other else layers)]


def _keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    layers, other, _ = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.count = len(layers)
    ctx.save_for_backward(*output, *layers, *other)


def _backward(ctx: Any, grad: Tensor, _: Any) -> tuple[list[Tensor], list[Tensor], None]:
    distance, layer, *points = ctx.saved_tensors
    layers, other = points[: ctx.count], points[ctx.count :]
    # Not 0 / NaN: a pair that does not count sends nothing.
    weights = torch.where((distance == 0) | (grad == 0), 0.0, grad / distance)
    if not other:
        return track_distance_backward(weights + weights.mT, layer, layers, [], False), [], None
    return (
        track_distance_backward(weights, layer, layers, other, False),
        track_distance_backward(weights, layer, layers, other, True),
        None,
    )


track_distance.register_autograd(_backward, setup_context=_keep_for_backward)
refuse_second_derivatives(track_distance_backward, "track_distance")
