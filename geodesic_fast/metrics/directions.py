# SPDX-License-Identifier: MIT
"""Directions and lengths of any magnitude in plain torch: what the references are written in."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Vectors(NamedTuple):
    """Vectors taken apart: v = length * unit * direction. A zero vector has direction 0."""

    direction: Tensor  # (..., d)
    length: Tensor  # (...), in units of `unit`; passes no gradient where it is 0
    unit: Tensor  # a power of two, (...) or broadcast to it, without a gradient
    broken: Tensor  # (...): whether v holds NaN or inf, in place of which a zero vector is taken


def differences(a: Tensor, b: Tensor) -> Vectors:
    """Take a - b apart, each vector in a unit of its own; what overflows is made of halves."""
    v, half = a - b, a / 2 - b / 2
    doubled = (v.isinf() & half.isfinite()).any(-1)
    v = torch.where(doubled.unsqueeze(-1), half, v)
    broken = ~v.isfinite().all(-1)
    v = v.masked_fill(broken.unsqueeze(-1), 0.0)
    unit = power_of_two(v.detach().abs().amax(-1))
    scaled = v / unit.unsqueeze(-1)
    norm = torch.linalg.vector_norm(scaled, dim=-1)
    return Vectors(
        scaled / norm.where(norm != 0, torch.inf).unsqueeze(-1),
        torch.where(doubled, 2 * norm, norm),
        unit,
        broken,
    )


def steps_of(x: Tensor) -> Vectors:
    """Take the steps v_l of tracks (n+1, *batch, d) apart, all of one track in the unit of its largest."""
    u, s, unit, broken = differences(x[1:], x[:-1])
    largest = unit.amax(0)  # (*batch)
    return Vectors(u, s * (unit / largest), largest, broken)


def power_of_two(size: Tensor) -> Tensor:
    """Return a power of two near each size, 1 for size 0: a unit that costs no rounding."""
    most = 126 if size.dtype == torch.float32 else 1022
    exponent = size.where(size > 0, 1.0).log2().floor().clamp(-most, most)
    return exponent.exp2()


def at_least(value: Tensor, least: float) -> Tensor:
    """Take off what rounding left below the least value that the formula can have; gradients pass."""
    return value + (least - value.detach()).clamp(min=0)


def at_most(value: Tensor, most: float) -> Tensor:
    """Take off what rounding left above the largest value that the formula can have; gradients pass."""
    return value - (value.detach() - most).clamp(min=0)


def quotient(a: Tensor, b: Tensor, otherwise: float) -> Tensor:
    """Return a / b, and where b is 0 `otherwise`, which passes no gradient."""
    return (a / b.where(b != 0, 1.0)).where(b != 0, otherwise)


def angle_between(u: Tensor, w: Tensor) -> Tensor:
    """Return the angle of two directions, pi / 2 beside a zero vector; arccos has half the digits near 0."""
    apart = torch.linalg.vector_norm(u - w, dim=-1)
    together = torch.linalg.vector_norm(u + w, dim=-1)
    some = (apart != 0) | (together != 0)
    return 2 * torch.atan2(apart.where(some, 1.0), together.where(some, 1.0))
