# SPDX-License-Identifier: MIT
"""Tracks measured while they arrive, one layer at a time, and never stored."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from geodesic_fast import _validation_models as _validation
from geodesic_fast._validation import check_zero_step
from geodesic_fast.metrics.track_geometry import TrackGeometry
from geodesic_fast.recording.accumulator_state import (
    ZEROS,
    TrackState,
    finish,
    new_state,
    to_device,
    update,
)


class TrackAccumulator:
    """Measure tracks layer by layer, in memory that does not grow with the number of layers.

    Holds x^(0), x^(l), the sum of directions u_1 + ... + u_l, the last direction (in 3 bytes per feature on
    the CPU) and a few sums per track, and gives the numbers that `track_geometry` gives of the stored track.

    Args:
        zero_step: what a step of length zero means, as in `track_geometry`.
        mask: (*batch), true where a track counts; padding is left out of every result. `None`: all count.
        copy: copy the states that are held. `False` holds the tensors themselves, which must then stay as
            they are until the next push; a change in place is refused. Tensors of `torch.inference_mode`,
            whose changes torch does not see, are copied all the same.

    Returns:
        `.push(state)` takes the next layer, (*batch, d), of any floating-point dtype and on any device:
        what is held follows it. `.geometry` is a `TrackGeometry` of (*batch) tensors, or (tracks that
        count,) with a mask, float32 (float64 for float64 states). `.points` counts the pushes, `.shape` is
        that of every state. `.reset()` starts anew.

    Raises:
        TypeError, ValueError: a state that is no float tensor or does not continue the tracks.
        RuntimeError: `.geometry` before the second push.

    Not differentiable: for a penalty take `record(model, detach=False)` and `lss`.

    Example:
        >>> import torch
        >>> from geodesic_fast.recording import TrackAccumulator
        >>> corner = torch.tensor([[[0.0, 0.0]], [[1.0, 0.0]], [[1.0, 1.0]]])
        >>> tracks = TrackAccumulator()
        >>> for layer in corner:
        ...     tracks.push(layer)
        >>> tracks.geometry.lss
        tensor([1.4142])
    """

    def __init__(self, *, zero_step: str = "skip", mask: Tensor | None = None, copy: bool = True):
        check_zero_step(zero_step)
        self._zero_step, self._mask, self._copy = zero_step, mask, copy
        self.reset()

    def reset(self) -> None:
        """Forget the tracks."""
        self.points = 0
        self.shape: tuple[int, ...] | None = None
        self._state: TrackState | None = None
        self._first: Tensor | None = None
        self._versions: dict[str, tuple[Tensor, int]] = {}
        self._result: TrackGeometry | None = None

    @torch.compiler.disable
    @torch.no_grad()
    def push(self, state: Tensor) -> None:
        """Take the next layer, (*batch, d)."""
        _validation.check_push(state, self.shape)
        self._result = None
        current = state.detach().reshape(-1, state.shape[-1])  # (m, d)
        if self.shape is None:
            self.shape = tuple(state.shape)
            if self._mask is not None:
                _validation.check_mask("mask", self._mask, self.shape[:-1])
        self._check_unchanged("last")
        if self._first is None:
            self._first = self._held(current, None)
            self._remember("first", self._first)
            self._remember("last", self._first)
        else:
            self._take_step(current)
        self.points += 1

    def _take_step(self, current: Tensor) -> None:
        assert self._first is not None
        if self._state is None:
            self._state = new_state(self._first, current)
        self._state = state = to_device(self._state, current.device)
        zeros = self._zero_steps(state) if self._zero_step == "raise" else 0
        own = None if state.last is state.first else state.last
        update(state, current, self._zero_step)
        state.last = self._held(current, own)
        self._remember("last", state.last)
        if self._zero_step == "raise" and (found := self._zero_steps(state) - zeros):
            raise _validation.zero_step_found(self.points, found)

    def _zero_steps(self, state: TrackState) -> int:
        """How many steps of length zero the tracks that count have had."""
        found = state.sums[ZEROS]
        if self._mask is not None:
            found = found[self._mask.to(device=found.device, dtype=torch.bool).reshape(-1)]
        return int(found.sum())

    def _held(self, current: Tensor, own: Tensor | None) -> Tensor:
        """What stays of a state until the next push: itself, or a copy, in the memory of the copy before."""
        if not (self._copy or current.is_inference()):  # torch counts no changes of inference tensors
            return current
        writable = own is not None and (torch.is_inference_mode_enabled() or not own.is_inference())
        if own is not None and writable and own.dtype == current.dtype:
            return own.copy_(current)
        return current.clone()

    def _remember(self, what: str, tensor: Tensor) -> None:
        if not tensor.is_inference():
            self._versions[what] = (tensor, tensor._version)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)  # a copy starts counting changes of its own tensors
        self._versions = {what: (tensor, tensor._version) for what, (tensor, _) in self._versions.items()}

    def _check_unchanged(self, what: str) -> None:
        tensor, version = self._versions.get(what, (None, 0))
        if tensor is not None and tensor._version != version:
            raise _validation.changed_in_place(what)

    @property
    def geometry(self) -> TrackGeometry:
        """The numbers of the tracks up to the last push, each (*batch), or (tracks that count,)."""
        _validation.check_pushed(self.points)
        if self._result is None:
            assert self._state is not None
            assert self.shape is not None
            self._check_unchanged("first")
            self._check_unchanged("last")
            batch = self.shape[:-1]
            flat = finish(self._state, self._zero_step)
            fields = (field.reshape(batch) for field in flat)
            if self._mask is not None:
                counts = self._mask.to(device=flat.lss.device, dtype=torch.bool)
                fields = (field[counts] for field in fields)
            self._result = TrackGeometry._make(fields)
        return self._result

    @property
    def ends(self) -> tuple[Tensor, Tensor]:
        """Copies of x^(0) and x^(l), for `ots`: each (*batch, d), or (tracks that count, d)."""
        _validation.check_pushed(self.points)
        assert self._state is not None
        assert self.shape is not None
        self._check_unchanged("first")
        self._check_unchanged("last")
        ends = [self._state.first, self._state.last]
        dtype = torch.promote_types(ends[0].dtype, ends[1].dtype)
        ends = [end.reshape(self.shape).to(dtype, copy=True) for end in ends]
        if self._mask is not None:
            counts = self._mask.to(device=ends[0].device, dtype=torch.bool)
            ends = [end[counts] for end in ends]
        return ends[0], ends[1]

    def close(self) -> TrackGeometry:
        """Return `.geometry` and let go of everything else that is held."""
        result = self.geometry
        self._state, self._first, self._versions = None, None, {}
        return result
