# SPDX-License-Identifier: MIT
"""What can be wrong with what is to be drawn: one function per mistake, one sentence each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geodesic_fast._arrays import as_tensors
from geodesic_fast._validation import check_float_tensor
from geodesic_fast.metrics.step_geometry import StepGeometry, StepProfile
from geodesic_fast.metrics.track_geometry import TrackGeometry


def classes_of(labels: Tensor | Sequence[int] | None, m: int) -> np.ndarray:
    """Return one class per track (m,), all the same where no labels are given."""
    if labels is None:
        return np.zeros(m, dtype=np.int64)
    classes = torch.as_tensor(as_tensors(labels)).detach().cpu().flatten()
    if classes.is_floating_point() or classes.is_complex():
        raise TypeError(f"labels must be integers, got {classes.dtype}: convert them with labels.long().")
    if len(classes) != m:
        raise ValueError(f"labels must hold one class per track, {m} in all, got {len(classes)}.")
    return classes.numpy()


def check_colors(colors: Sequence[Any] | None, classes: int) -> list[Any] | None:
    """Refuse fewer colours than classes."""
    if colors is not None and len(colors) < classes:
        raise ValueError(f"colors must hold one colour per class, {classes} in all, got {len(colors)}.")
    return None if colors is None else list(colors)[:classes]


def check_width(beside: Tensor, tracks: Tensor) -> Tensor:
    """Refuse tracks of another number of features."""
    if beside.shape[-1] != tracks.shape[-1]:
        raise ValueError(
            f"beside must have the {tracks.shape[-1]} features of tracks, got {beside.shape[-1]}: "
            "both are drawn in one plane."
        )
    return beside


def check_square(name: str, value: object) -> Tensor:
    """Refuse what is not a square matrix."""
    check_float_tensor(name, value)
    assert isinstance(value, Tensor)
    if value.ndim != 2 or value.shape[0] != value.shape[1]:
        raise ValueError(
            f"{name} must be a square matrix (n, n), got shape {tuple(value.shape)}: pass the mean "
            "over tracks, or one track's matrix."
        )
    return value


def check_history(history: Sequence[TrackGeometry], steps: Sequence[float] | None) -> list[float]:
    """Return where each moment lies; refuse what is not a list of geometries with as many steps."""
    listed = isinstance(history, Sequence) and not isinstance(history, TrackGeometry)
    if not listed or not all(isinstance(moment, TrackGeometry) for moment in history):
        raise TypeError(
            "history must be a list of geodesic_fast.TrackGeometry, one per moment, got "
            f"{type(history).__name__}: collect track_geometry(...) or watch(...).geometry."
        )
    if not history:
        raise ValueError("history must hold at least 1 moment, got none.")
    if steps is not None and len(steps) != len(history):
        raise ValueError(f"steps must be as many as history holds, {len(history)}, got {len(steps)}.")
    return list(range(len(history))) if steps is None else [float(step) for step in steps]


def check_steps(steps: object) -> StepProfile:
    """Return the means of the steps; refuse what holds none."""
    if isinstance(steps, StepProfile):
        return steps
    if isinstance(steps, StepGeometry):
        return steps.profile()
    raise TypeError(
        "steps must be what geodesic_fast.step_geometry returns, or its profile, got "
        f"{type(steps).__name__}: call step_geometry(tracks), or watch(model, profile=True)."
    )
