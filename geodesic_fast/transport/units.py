# SPDX-License-Identifier: MIT
"""Units and shifts that keep squares of the points in range and their differences exact, all from their box.

Units are powers of two, so that dividing by them rounds nothing.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from geodesic_fast._processes import ALONE, Processes

_BESIDE = 0.25
_ALIKE = 10  # binary digits by which the extents of x and y may differ in one unit
_USUAL = 60  # exponents of coordinates whose squares are in range, of float32 too
_FARTHEST = 1000  # binary digits by which coordinates may exceed extents in their unit
LARGEST_FLOAT32 = 2.0**100


def ldexp(value: float, exponent: int) -> float:
    """Return value times 2^exponent, infinite where that is out of range."""
    try:
        return math.ldexp(value, exponent)
    except OverflowError:
        return math.inf


def box_of(points: Tensor, processes: Processes = ALONE) -> Tensor:
    """Return the least and the largest of each feature, (2, d), over the processes that hold the points."""
    box = points.new_tensor([[torch.inf], [-torch.inf]]).repeat(1, points.shape[1])
    if len(points):
        box = torch.stack([points.amin(0), points.amax(0)])  # aminmax(dim=0) takes ten times as long
    return torch.stack([processes.lowest(box[0]), processes.highest(box[1])])


def exponents_of(box_x: Tensor, box_y: Tensor, one_unit: bool) -> tuple[tuple[int, int], int]:
    """Return the powers of two that x and y are divided by, and the one for distances of one to the other.

    0 where extents are alike and squares in range.
    """
    (large_x, wide_x), (large_y, wide_y) = _magnitudes(box_x), _magnitudes(box_y)
    any_wide = next((of for of in (wide_x, wide_y, large_x, large_y) if of is not None), 0)
    size_x, size_y = (
        max(any_wide if wide is None else wide, any_wide if large is None else large - _FARTHEST)
        for large, wide in ((large_x, wide_x), (large_y, wide_y))
    )
    wider = max(size_x, size_y)
    if one_unit or abs(size_x - size_y) <= _ALIKE:
        size_x = size_y = wider
    if all(abs(of) < _USUAL for of in (large_x, large_y, size_x, size_y) if of is not None):
        return (size_x - wider, size_y - wider), 0
    far = max((of for of in (large_x, large_y) if of is not None), default=0)
    return (min(size_x, 1023), min(size_y, 1023)), min(far, 1023)


def _magnitudes(box: Tensor) -> tuple[int | None, int | None]:
    """Return the exponents of the largest coordinate and of the largest extent, None where that is zero."""
    low, high = box.double()
    largest, half = float(box.abs().max()), float((high / 2 - low / 2).max())
    large, wide = math.frexp(largest)[1], math.frexp(half)[1] + 1
    return large if largest > 0 else None, wide if half > 0 else None


def in_units(
    both: tuple[Tensor, Tensor], boxes: tuple[Tensor, Tensor], exponents: tuple[int, int]
) -> list[tuple[Tensor, Tensor]]:
    """Return x and y divided by powers of two, and their boxes, in float64 where float32 is too narrow."""
    divided = [_times_power(box.double(), -exponent) for box, exponent in zip(boxes, exponents, strict=True)]
    kind = both[0].dtype
    if max(exponents) > 0 or max(float(box.abs().max()) for box in divided) > LARGEST_FLOAT32:
        kind = torch.float64
    return [
        (_times_power(points.to(kind), -exponent), box.to(kind))
        for points, box, exponent in zip(both, divided, exponents, strict=True)
    ]


def _times_power(points: Tensor, power: int) -> Tensor:
    """Return points times 2^power, which may itself be out of range."""
    return points if power == 0 else points * 2.0 ** (power // 2) * 2.0 ** (power - power // 2)


def shifts_of(means: tuple[Tensor, Tensor], boxes: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Return about the mean of each, or between both where these are close beside the points' extents."""
    (shift_x, extent_x), (shift_y, extent_y) = map(_shift, means, boxes)
    if (shift_x.double() - shift_y.double()).norm().item() > _BESIDE * min(extent_x, extent_y):
        return shift_x, shift_y
    middle = (shift_x / 2 + shift_y / 2).contiguous()
    return middle, middle


def _shift(mean: Tensor, box: Tensor) -> tuple[Tensor, float]:
    """Return about the mean, and the diagonal of the box that holds the points.

    In few binary digits of each feature's extent, so that subtracting it is exact on a grid of points.
    """
    extent = box[1] - box[0]
    least = torch.finfo(box.dtype).tiny
    quantum = torch.exp2(torch.frexp(extent).exponent.to(box.dtype) - 10).clamp(min=least)
    shift = torch.where(extent > 0, (mean / quantum).round_() * quantum, box[0])
    return shift.contiguous(), extent.double().norm().item()
