# SPDX-License-Identifier: MIT
"""Layer by layer: how far each step goes, against the state that it starts from, and how it turns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, overload

import torch
from torch import Tensor

from geodesic_fast._arrays import (
    Array,
    Arrays,
    NamedTuple,
    NDArray,
    ResultOf,
    Tensors,
    as_tensors,
    takes_arrays,
)
from geodesic_fast._results import compared_by_value
from geodesic_fast._tracks import Tracks
from geodesic_fast.engine import step_geometry as operation
from geodesic_fast.engine.load import has_engine
from geodesic_fast.metrics.directions import differences


@compared_by_value
class StepGeometry(NamedTuple, ResultOf[Array]):
    """What `step_geometry` returns; each field has shape (n, *batch), turning_cosine (n-1, *batch)."""

    length: Array
    relative_length: Array
    state_cosine: Array
    update_cosine: Array
    turning_cosine: Array

    def profile(self, mask: Tensor | None = None) -> StepProfile:
        """Return the means over the tracks, or over those where `mask` (*batch) is true."""
        fields = [torch.as_tensor(as_tensors(field)).detach().flatten(1) for field in self]  # (n, m)
        counts = None if mask is None else mask.to(fields[0].device).bool().flatten()
        sums = [sum_defined(field, counts) for field in fields]
        tracks = fields[0].shape[1] if counts is None else int(counts.sum())
        return StepProfile.of_sums([part for part, _ in sums], [count for _, count in sums], tracks)


@compared_by_value
@dataclass(frozen=True, eq=False)
class StepProfile:
    """What each step does on average: the means of `StepGeometry` over tracks, step by step.

    A track counts in the mean of a number that it has: one with a zero state or a step of length zero has no
    cosine there, and is left out of that mean. `undefined` says how many those are.
    """

    mean: StepGeometry  # each (n,), turning_cosine (n-1,), in float64; NaN where no track has the number
    undefined: StepGeometry  # the same shapes, in int64: how many of the tracks have no such number
    tracks: int

    @staticmethod
    def of_sums(sums: Sequence[Tensor], counts: Sequence[Tensor], tracks: int) -> StepProfile:
        """Return the means, from the sum over those tracks that have a number and their count, by field."""
        mean = StepGeometry._make(s / c for s, c in zip(sums, counts, strict=True))
        return StepProfile(mean, StepGeometry._make(tracks - c.long() for c in counts), tracks)

    def sums(self) -> tuple[list[Tensor], list[Tensor]]:
        """Return the sum over those tracks that have a number and their count, by field."""
        counts = [self.tracks - lost for lost in self.undefined]
        return [
            mean.where(count > 0, 0.0) * count for mean, count in zip(self.mean, counts, strict=True)
        ], counts

    @staticmethod
    def joined(profiles: Sequence[StepProfile]) -> StepProfile:
        """Return the profile of all tracks together, of profiles of the same steps."""
        parts = [profile.sums() for profile in profiles]
        sums, counts = ([sum(each) for each in zip(*side, strict=True)] for side in zip(*parts, strict=True))
        return StepProfile.of_sums(sums, counts, sum(profile.tracks for profile in profiles))


def sum_defined(values: Tensor, counts: Tensor | None) -> tuple[Tensor, Tensor]:
    """Sum and count over the last axis of the values that are not NaN, where `counts` is true."""
    wide = torch.float32 if values.device.type == "mps" else torch.float64
    defined = ~values.isnan() if counts is None else ~values.isnan() & counts
    return values.where(defined, 0.0).sum(-1, dtype=wide), defined.sum(-1)


@overload
def step_geometry(tracks: Tensors, *, dim: int = ...) -> StepGeometry: ...
@overload
def step_geometry(tracks: Arrays, *, dim: int = ...) -> StepGeometry[NDArray]: ...
@overload  # of both, or of what nobody typed
def step_geometry(tracks: Sequence[Tensor | NDArray], **options: Any) -> Any: ...
@takes_arrays
def step_geometry(tracks: Tensor | Sequence[Tensor], *, dim: int = 0) -> StepGeometry:
    r"""Measure every step of each track: its length, and its angles with the state and with the next step.

    With states x^(l), steps v_l = x^(l) - x^(l-1) and directions u_l = v_l / |v_l|, l = 1..n:

        length           |v_l|
        relative_length  |v_l| / |x^(l-1)|
        state_cosine     cos(x^(l-1), x^(l))     1 - its mean over tracks is the block influence of layer l
        update_cosine    cos(v_l, x^(l-1))       above 0: the layer adds to what is there; below: it erases
        turning_cosine   <u_l, u_(l+1)>          1: straight on; l = 1..n-1

    arccos(state_cosine) / pi is the angular distance of two layers. A small block influence is a poor guide
    to what happens when the layer is removed: layers that hardly turn the state can still matter.

    Args:
        tracks: as for `geodesic_fast.lss`: a tensor with n+1 layers along `dim` and d features last, or a
            list or tuple of n+1 tensors of shape (*batch, d).
        dim: the layer axis of a tensor; must be 0 for a list.

    Returns:
        StepGeometry of tensors (n, *batch), turning_cosine (n-1, *batch), in float32 (float64 for float64
        tracks). A zero state or a step of length zero has no cosine: NaN there, and where a state holds NaN
        or inf, and nowhere else. The relative length of a step from zero is inf, or NaN if it is zero too.
        `.profile(mask)` gives the means over the tracks, a `StepProfile`, which `watch(model, profile=True)`
        measures while a network runs.

    Raises:
        TypeError, ValueError: as `geodesic_fast.lss`.

    Differentiable once, in one more pass over the tracks; the gradient of what is undefined is 0. None of the
    numbers is better high or low by itself.

    Source: Men et al., ShortGPT (2024), for block influence; Gromov et al. (2024), for angular distance.

    Example:
        >>> import torch, geodesic_fast
        >>> corner = torch.tensor([[1.0, 0.0], [3.0, 0.0], [3.0, 4.0]])
        >>> steps = geodesic_fast.step_geometry(corner)
        >>> steps.length.tolist(), steps.update_cosine.tolist(), steps.turning_cosine.tolist()
        ([2.0, 4.0], [1.0, 0.0], [0.0])
    """
    given = Tracks.of(tracks, dim)
    if not has_engine(given.device):
        return step_geometry_reference(tracks, dim=dim)
    given.check_no_forward_mode("step_geometry")
    fields, _ = operation.step_geometry(given.layers, given.needs_grad)
    each: Any = torch.unbind_copy(fields)  # type: ignore[func-returns-value]  # nobody's views
    return StepGeometry._make([*each[:-1], each[-1][:-1].clone()])


def step_geometry_reference(tracks: Tensor | Sequence[Tensor], *, dim: int = 0) -> StepGeometry:
    """Define `step_geometry` in plain torch."""
    x = Tracks.of(tracks, dim).in_sums_dtype()  # (n+1, *batch, d)
    states = differences(x, torch.zeros_like(x))
    steps = differences(x[1:], x[:-1])
    nowhere, still = (states.length == 0) | states.broken, (steps.length == 0) | steps.broken

    def cosine(a: Tensor, b: Tensor, undefined: Tensor) -> Tensor:
        return (a * b).sum(-1).clamp(-1, 1).masked_fill(undefined, torch.nan)

    before = states.length[:-1]  # (n, *batch), in units of their own
    from_zero = steps.length.detach() / 0  # inf, or NaN where nothing moved
    ratio = steps.length / before.masked_fill(before == 0, 1.0) * (steps.unit / states.unit[:-1])
    e, u = states.direction, steps.direction
    return StepGeometry(
        (steps.length * steps.unit).masked_fill(steps.broken, torch.nan),
        torch.where(before == 0, from_zero, ratio).masked_fill(steps.broken, torch.nan),
        cosine(e[:-1], e[1:], nowhere[:-1] | nowhere[1:]),
        cosine(u, e[:-1], still | nowhere[:-1]),
        cosine(u[:-1], u[1:], still[:-1] | still[1:]),
    )
