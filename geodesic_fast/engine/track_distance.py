# SPDX-License-Identifier: MIT
"""The engine's distances of pairs of tracks as an operation.

`layers` and `other` are one stacked tensor (n+1, m, d) or n+1 tensors (m, d) each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from geodesic_fast._tracks import Tracks
from geodesic_fast.engine.handing import engine_tracks, gradient_like, handed, launch
from geodesic_fast.engine.load import engine, on_gpu
from geodesic_fast.engine.operation import Operation
from geodesic_fast.engine.parts import row_parts


class Pairs:
    """Two sets of tracks as the engine sees them, and what a first pass over them finds out."""

    def __init__(self, layers: Sequence[Tensor], other: Sequence[Tensor] | None) -> None:
        self.symmetric = other is None
        tracks, first = Tracks(layers), layers[0]
        points, m, others, dtype = tracks.points, tracks.m, Tracks(other or layers).m, tracks.sums_dtype
        self.scale = first.new_empty(2, dtype=torch.float64)
        self.centre = first.new_empty((points, first.shape[-1]), dtype=dtype)  # (n+1, d)
        self.squares = first.new_empty((points, m), dtype=dtype)
        self.other_squares = self.squares if other is None else first.new_empty((points, others), dtype=dtype)
        self.kinds = first.new_empty(m, dtype=torch.uint8)  # 0 finite, 1 holds inf, 2 holds NaN
        self.other_kinds = self.kinds if other is None else first.new_empty(others, dtype=torch.uint8)
        left = engine_tracks(layers)
        self.view = engine.Pairs(
            tracks=left,
            other=left if other is None else engine_tracks(other),
            symmetric=self.symmetric,
            scale=handed(self.scale),
            centre=handed(self.centre),
            squares=handed(self.squares),
            other_squares=handed(self.other_squares),
            kinds=handed(self.kinds),
            other_kinds=handed(self.other_kinds),
        )
        launch("track_pairs_prepare", first.device, self.view)


def _allocate(
    layers: Sequence[Tensor], other: Sequence[Tensor] | None, keep: bool
) -> tuple[Tensor, Tensor | None]:
    tracks = Tracks(layers)
    shape = (tracks.m, Tracks(other or layers).m)
    distance = layers[0].new_empty(shape, dtype=tracks.sums_dtype)
    return distance, distance.new_empty(shape, dtype=torch.int32) if keep else None


def _call(
    outputs: tuple[Tensor, Tensor | None], layers: Sequence[Tensor], other: Sequence[Tensor] | None, _: bool
) -> None:
    distance, layer = outputs
    pairs = Pairs(layers, other)
    if on_gpu(distance.device):  # a launch returns at once: nothing to show or to interrupt
        parts = iter([range(len(distance))])
    else:
        work = Tracks(layers).points * Tracks(layers).d
        parts = row_parts(len(distance), distance.shape[1], work, pairs.symmetric, "track distances")
    for rows in parts:
        launch("track_distance_forward", distance.device, pairs.view, rows.start, rows.stop, distance, layer)


def _allocate_backward(
    grad: Tensor,
    distance: Tensor,
    layer: Tensor,
    layers: Sequence[Tensor],
    other: Sequence[Tensor] | None,
    of_other: bool,
) -> list[Tensor]:
    return gradient_like(other if of_other and other else layers)


def _call_backward(
    gradient: list[Tensor],
    grad: Tensor,
    distance: Tensor,
    layer: Tensor,
    layers: Sequence[Tensor],
    other: Sequence[Tensor] | None,
    of_other: bool,
) -> None:
    if not grad.numel():
        for each in gradient:
            each.zero_()
        return
    launch(
        "track_distance_backward", grad.device, grad, distance, layer, layers, other or layers, of_other,
        gradient,
    )  # fmt: skip


def _keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    layers, other, _ = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.count = len(layers)
    ctx.save_for_backward(*output, *layers, *(other or []))


def _backward(ctx: Any, grad: Tensor, _: Any) -> tuple[list[Tensor], list[Tensor] | None, None]:
    distance, layer, *points = ctx.saved_tensors
    layers, other = points[: ctx.count], points[ctx.count :]
    if not other:
        return track_distance_backward(grad + grad.mT, distance, layer, layers, None, False), None, None
    return (
        track_distance_backward(grad, distance, layer, layers, other, False),
        track_distance_backward(grad, distance, layer, layers, other, True),
        None,
    )


# Distances (m, m') and, for backward, at which layer each is (m, m') int32; no `other`: of one set.
track_distance = Operation(
    "track_distance(Tensor[] layers, Tensor[]? other, bool keep) -> (Tensor, Tensor)", _allocate, _call
)
# sum_j grad_ij (x_i - y_j) / d_ij at layer_ij for each tensor of x, or of y.
track_distance_backward = Operation(
    "track_distance_backward(Tensor grad, Tensor distance, Tensor layer, Tensor[] layers, Tensor[]? other, "
    "bool of_other) -> Tensor[]",
    _allocate_backward, _call_backward,
)  # fmt: skip
track_distance.differentiate(_backward, _keep_for_backward)
track_distance_backward.refuse_derivatives("track_distance")
