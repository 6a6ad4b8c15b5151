# SPDX-License-Identifier: MIT
"""Points and tracks of several processes: of one space, and none where a process has none."""

from __future__ import annotations

import torch
from torch import Tensor

from geodesic_fast._processes import Processes
from geodesic_fast._tracks import Tracks
from geodesic_fast._validation import FLOAT_DTYPES


def hold_no_pairs(x: object, y: object) -> bool:
    """Return whether these are points, but none: of any width, since nobody asks for it."""
    if not (isinstance(x, Tensor) and isinstance(y, Tensor) and x.shape == y.shape and x.ndim > 1):
        return False
    return not x.shape[:-1].numel()


def agreed_points(name: str, processes: Processes, *sets: Tensor) -> list[Tensor]:
    """Return sets of points (k, ..., d), empty ones in the shape and dtype of the other processes'."""
    points = sets[0]
    shape, layers = [1, *points.shape[1:]], points.shape[1:-1].numel()
    own = [len(points), layers, shape[-1], FLOAT_DTYPES.index(points.dtype), points.is_cuda]
    told = processes.gathered(torch.tensor([own])).tolist()
    kinds = {tuple(kind): rank for rank, (count, *kind) in reversed(list(enumerate(told))) if count}
    if not kinds:
        raise ValueError(
            f"{name} must not be empty on all processes, got none on any of the {processes.size}."
        )
    if len(kinds) > 1:
        ranks = sorted(kinds.values())[:2]
        first, second = (f"{_said(*told[rank][1:])} on process {rank}" for rank in ranks)
        raise ValueError(
            f"{name} must have the same width, dtype and kind of device on all processes, got {first} and "
            f"{second}: they are of one space."
        )
    [(layers, width, dtype, on_gpu)] = kinds
    if len(points):
        return list(sets)
    device = points.device if points.is_cuda == on_gpu else torch.device("cuda" if on_gpu else "cpu")
    middle = () if points.ndim == 2 else (layers,)
    return [torch.empty((0, *middle, width), dtype=FLOAT_DTYPES[dtype], device=device) for _ in sets]


def check_no_gradient(call: str, given: Tracks, target: Tensor | None = None) -> None:
    """Refuse what asks for a gradient, which would be cut in silence: none passes between processes."""
    of_target = torch.is_grad_enabled() and isinstance(target, Tensor) and target.requires_grad
    if given.needs_grad or of_target:
        raise NotImplementedError(
            f"{'target' if of_target else given.name} must ask for no gradient with a group, got one that "
            f"does: call {call} under torch.no_grad(), or without group for the gradient of own tracks alone."
        )


def all_tracks(given: Tracks, processes: Processes) -> tuple[Tracks, range]:
    """Return the tracks of all processes, one tensor (n+1, m, d), and which of them are this one's."""
    own = given.map(Tensor.detach).flat().stacked().transpose(0, 1)
    first = sum(processes.numbers(given.m)[: processes.rank])
    [own] = agreed_points("tracks", processes, own)
    return Tracks([processes.gathered(own).transpose(0, 1)]), range(first, first + given.m)


def _said(layers: int, width: int, dtype: int, on_gpu: int) -> str:
    where = "GPU" if on_gpu else "CPU"
    of_layers = f"{layers} layers of " if layers > 1 else ""
    return f"{of_layers}{width} features in {FLOAT_DTYPES[dtype]} on the {where}"
