# SPDX-License-Identifier: MIT
"""The means of every step over tracks that arrive layer by layer."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from geodesic_fast.metrics.step_geometry import StepProfile, step_geometry, sum_defined


class StepMeans:
    """Holds the state before the last one, for the angle between steps, and a sum and a count per number."""

    def __init__(self) -> None:
        self.before: Tensor | None = None  # (m, d), x^(l-1)
        self._sums: list[tuple[Tensor, Tensor]] = []  # per step, of the fields (5,) each

    def take(self, last: Tensor, current: Tensor, counts: Tensor | None) -> None:
        """Take the step from x^(l) to x^(l+1), each (m, d), of those tracks that count, (m)."""
        points = [point for point in (self.before, last, current) if point is not None]
        dtype = functools.reduce(torch.promote_types, (point.dtype for point in points))
        steps = step_geometry([point.to(device=current.device, dtype=dtype) for point in points])
        newest = [field[-1] if len(field) else torch.full_like(steps.length[0], torch.nan) for field in steps]
        counts = None if counts is None else counts.to(device=current.device, dtype=torch.bool)
        self._sums.append(sum_defined(torch.stack(newest), counts))
        self.before = last

    def profile(self, tracks: int) -> StepProfile:
        """Return the means of all steps so far; `tracks` is the number of those that count."""
        device = self._sums[-1][0].device
        sums, counts = (
            torch.stack([part.to(device) for part in side]).unbind(1)
            for side in zip(*self._sums, strict=True)
        )  # each (n,), by field; the first step turns from none
        return StepProfile.of_sums([*sums[:-1], sums[-1][1:]], [*counts[:-1], counts[-1][1:]], tracks)
