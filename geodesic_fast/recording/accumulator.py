# SPDX-License-Identifier: MIT
"""Tracks measured while they arrive, one layer at a time, and never stored.

First what a user holds, then what is held of a track and how one more layer changes it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from geodesic_fast._arrays import as_tensors
from geodesic_fast._tracks import accumulation_dtype
from geodesic_fast._validation import check_zero_step, in_memory
from geodesic_fast.engine.handing import launch, readable
from geodesic_fast.engine.load import has_engine, on_gpu
from geodesic_fast.engine.torch_internals import outside_graphs
from geodesic_fast.engine.track_geometry import FIELD_COUNT
from geodesic_fast.metrics.directions import angle_between, differences
from geodesic_fast.metrics.step_geometry import StepProfile
from geodesic_fast.metrics.track_geometry import TrackGeometry
from geodesic_fast.recording import mask_mistakes, mistakes
from geodesic_fast.recording.step_means import StepMeans

# The rows of `sums`; ROW_LENGTH is that of the row that holds the last direction, UNIT what the first four
# are measured in, or its square, 0 before the first length.
PATH, SQUARES, MEAN, SCATTER, COSINES, ANGLES, STEPS, ZEROS, PAIRS, ROW_LENGTH, UNIT = range(11)
SUM_ROWS = 11

# The last direction is held for the next cosine alone, as any row along it and the length of that row. On
# the CPU a float32 row is held in 24 bits of fixed point, the upper 16 and the lower 8 apart, scaled to its
# largest feature: beside the rounding of a float32 sum that is nothing.
LARGEST = 2**23 - 4
UNITS = 256  # what the engine reads for one of these

_CHUNK_BYTES = {"cpu": 1 << 20}  # per temporary: stays in the cache
_OTHER_CHUNK_BYTES = 64 << 20


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
        profile: measure every step as well, in `.profile`; holds one more state.

    Returns:
        `.push(state)` takes the next layer, (*batch, d), of any floating-point dtype and on any device:
        what is held follows it. `.geometry` is a `TrackGeometry` of (*batch) tensors, or (tracks that
        count,) with a mask, float32 (float64 for float64 states). `.profile` is a `StepProfile`, the means
        over the tracks of what `step_geometry` gives of each step. `.points` counts the pushes, `.shape` is
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

    def __init__(
        self,
        *,
        zero_step: str = "skip",
        mask: Tensor | None = None,
        copy: bool = True,
        profile: bool = False,
    ):
        check_zero_step(zero_step)
        self._zero_step, self._mask, self._copy, self._with_profile = zero_step, mask, copy, profile
        self.reset()

    def reset(self) -> None:
        """Forget the tracks."""
        self.points = 0
        self.shape: tuple[int, ...] | None = None
        self._state: TrackState | None = None
        self._first: Tensor | None = None
        self._versions: dict[str, tuple[Tensor, int]] = {}
        # Of tensors that are held and not copied: one value of each row, for writes through `.data`, which
        # torch does not count; and whether one of them has changed.
        self._samples: dict[str, tuple[Tensor, Tensor]] = {}
        self._changed: Tensor | None = None
        self._result: TrackGeometry | None = None
        self._steps = StepMeans() if self._with_profile else None

    @outside_graphs
    @torch.no_grad()
    def push(self, state: Tensor) -> None:
        """Take the next layer, (*batch, d)."""
        state = as_tensors(state)
        mistakes.check_push(state, self.shape)
        state = in_memory("state", state.detach())
        self._result = None
        current = state.reshape(-1, state.shape[-1])  # (m, d)
        if self.shape is None:
            self.shape = tuple(state.shape)
            if self._mask is not None:
                mask_mistakes.check_mask("mask", self._mask, self.shape[:-1])
        self._check_unchanged("last")
        self._check_unchanged("last but one")
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
        own = self._spare(state)
        if self._steps is not None:
            self._steps.take(state.last, current, None if self._mask is None else self._mask.reshape(-1))
        update(state, current, self._zero_step)
        state.last = self._held(current, own)
        if self._steps is not None:
            _move(self._versions, "last", "last but one")
            _move(self._samples, "last", "last but one")
        self._remember("last", state.last)
        if self._zero_step == "raise" and (found := self._zero_steps(state) - zeros):
            raise mistakes.zero_step_found(self.points, found)

    def _spare(self, state: TrackState) -> Tensor | None:
        """The memory of a state that is no longer needed after this step."""
        oldest = state.last if self._steps is None else self._steps.before
        return None if oldest is state.first or oldest is self._first else oldest

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
        if own is not None and writable and (own.dtype, own.device) == (current.dtype, current.device):
            return own.copy_(current)
        return current.clone()

    def _remember(self, what: str, tensor: Tensor) -> None:
        if not tensor.is_inference():
            self._versions[what] = (tensor, tensor._version)
            if not self._copy:
                self._samples[what] = (tensor, _sample(tensor))

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)  # a copy starts counting changes of its own tensors
        self._versions = {what: (tensor, tensor._version) for what, (tensor, _) in self._versions.items()}

    def _check_unchanged(self, what: str) -> None:
        tensor, version = self._versions.get(what, (None, 0))
        if tensor is not None and tensor._version != version:
            raise mistakes.changed_in_place(what)
        if what in self._samples:
            held, values = self._samples[what]
            now, then = _sample(held).view(torch.uint8), values.view(torch.uint8)
            if now.device.type != "cpu":  # asking a GPU now would wait for it
                changed = (now != then).any()
                self._changed = changed if self._changed is None else changed | self._changed.to(now.device)
            elif not torch.equal(now, then):
                raise mistakes.changed_in_place(what)

    def _check_values(self) -> None:
        if self._changed is not None and bool(self._changed):
            raise mistakes.changed_in_place("held")

    @property
    def geometry(self) -> TrackGeometry:
        """The numbers of the tracks up to the last push, each (*batch), or (tracks that count,)."""
        mistakes.check_pushed(self.points)
        if self._result is None:
            assert self._state is not None
            assert self.shape is not None
            self._check_unchanged("first")
            self._check_unchanged("last")
            self._check_values()
            batch = self.shape[:-1]
            flat = finish(self._state, self._zero_step)
            fields = (field.reshape(batch) for field in flat)
            if self._mask is not None:
                counts = self._mask.to(device=flat.lss.device, dtype=torch.bool)
                fields = (field[counts] for field in fields)
            self._result = TrackGeometry._make(fields)
        return self._result

    @property
    def profile(self) -> StepProfile:
        """The means over the tracks that count of every step up to the last push."""
        mistakes.check_pushed(self.points)
        if self._steps is None:
            raise mistakes.no_profile()
        assert self.shape is not None
        tracks = math.prod(self.shape[:-1]) if self._mask is None else int(self._mask.bool().sum())
        return self._steps.profile(tracks)

    @property
    def ends(self) -> tuple[Tensor, Tensor]:
        """Copies of x^(0) and x^(l), for `ots`: each (*batch, d), or (tracks that count, d)."""
        mistakes.check_pushed(self.points)
        assert self._state is not None
        assert self.shape is not None
        self._check_unchanged("first")
        self._check_unchanged("last")
        self._check_values()
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
        self._state, self._first, self._versions, self._samples = None, None, {}, {}
        if self._steps is not None:
            self._steps.before = None
        return result


@dataclass
class TrackState:
    """m tracks of d features, after the last layer that was seen."""

    first: Tensor  # (m, d), x^(0)
    last: Tensor  # (m, d), x^(l)
    direction_sum: Tensor  # (m, d), u_1 + ... + u_l, once there is a step
    direction: Tensor  # (m, d), along the last direction, once there is one; int16: its upper bits
    direction_low: Tensor  # (m, d), uint8: its lower bits, or nothing
    sums: Tensor  # (SUM_ROWS, m), float64


def new_state(first: Tensor, current: Tensor) -> TrackState:
    """Return the state of tracks that stand at their first point (m, d)."""
    accumulate = accumulation_dtype(torch.promote_types(first.dtype, current.dtype))
    direction_sum = torch.empty(
        first.shape, dtype=accumulate, device=first.device
    )  # written before it is read
    sums = torch.zeros(SUM_ROWS, len(first), dtype=_wide(first.device), device=first.device)
    return TrackState(first, first, direction_sum, *_direction_rows(direction_sum), sums)


def _direction_rows(direction_sum: Tensor) -> tuple[Tensor, Tensor]:
    """Allocate what holds the last direction: two planes of bits, or rows and nothing."""
    device = direction_sum.device
    if device.type == "cpu" and not on_gpu(device) and direction_sum.dtype == torch.float32:
        high, low = (torch.empty(direction_sum.shape, dtype=dtype) for dtype in (torch.int16, torch.uint8))
        return high, low
    return torch.empty_like(direction_sum), direction_sum.new_empty((0, 0), dtype=torch.uint8)


def to_device(state: TrackState, device: torch.device) -> TrackState:
    """Return the state on another device, where the next layer lies."""
    if state.last.device == device:
        return state
    moved = TrackState(**{name: part.to(device) for name, part in vars(state).items()})
    moved.sums = moved.sums.to(_wide(device))
    return hold_anew(moved)


def hold_anew(state: TrackState) -> TrackState:
    """Return the state with its last direction held as its device needs it."""
    rows, low = _direction_rows(state.direction_sum)
    if rows.dtype == state.direction.dtype:
        return state
    u = _held_direction(state, slice(None))
    held = replace(state, direction=rows, direction_low=low, sums=state.sums.clone())
    _hold_direction(held, slice(None), u)
    return held


def update(state: TrackState, current: Tensor, zero_step: str) -> None:
    """Take one step to `current` (m, d)."""
    if not has_engine(current.device):
        return update_reference(state, current, zero_step)
    layers = _alike(state, state.last, current)
    if current.numel():
        _launch("track_accumulator_update", state, layers, zero_step, None, None)
    state.last = current


def finish(state: TrackState, zero_step: str) -> TrackGeometry:
    """Return the numbers of the tracks as they stand, each (m)."""
    if not has_engine(state.last.device):
        return finish_reference(state, zero_step)
    m, device = len(state.last), state.last.device
    fields = torch.empty((FIELD_COUNT, m), dtype=state.direction_sum.dtype, device=device)
    zero_steps = torch.empty(m, dtype=torch.int64, device=device)
    if m:
        ends = _alike(state, state.first, state.last)
        _launch("track_accumulator_finish", state, ends, zero_step, fields, zero_steps)
    return TrackGeometry._make((*fields.unbind(0), zero_steps))


def _launch(
    kernel: str, state: TrackState, layers: Sequence[Tensor], zero_step: str, *outputs: Tensor | None
) -> None:
    policy = "propagate" if zero_step == "raise" else zero_step
    held = state.direction_sum, state.direction, state.direction_low, state.sums
    launch(kernel, layers[0].device, layers, policy, *held, *outputs)


def _alike(state: TrackState, before: Tensor, after: Tensor) -> Sequence[Tensor]:
    """Two points of one dtype, that of the sums or narrower, which the engine can read where they lie."""
    dtype = torch.promote_types(before.dtype, after.dtype)
    if accumulation_dtype(dtype) != state.direction_sum.dtype:
        dtype = state.direction_sum.dtype
    return readable([before.to(dtype), after.to(dtype)])


def update_reference(state: TrackState, current: Tensor, zero_step: str) -> None:
    """Take one step to `current` (m, d): the definition of an update, in plain torch."""
    rows = _rows_at_once(current)
    for begin in range(0, len(current), rows):
        part = slice(begin, begin + rows)
        _update_rows(state, current, zero_step, part)
    state.last = current


def _update_rows(state: TrackState, current: Tensor, zero_step: str, part: slice) -> None:
    sums, direction_sum = state.sums[:, part], state.direction_sum[part]
    wide = sums.dtype
    u, s, unit, broken = differences(current[part].to(wide), state.last[part].to(wide))  # (rows, d), (rows)
    s = _in_unit(sums, s.masked_fill(broken, math.nan), unit)
    u = u.masked_fill(broken[:, None], math.nan)
    before = _held_direction(state, part)
    direction_sum.copy_(direction_sum.where(sums[STEPS, :, None] > 0, 0.0) + u)
    directed = torch.ones_like(s, dtype=torch.bool) if zero_step == "keep" else s != 0
    directions = sums[STEPS] if zero_step == "keep" else sums[STEPS] - sums[ZEROS]
    pair = directed & (directions > 0)
    cosine = (u * before).sum(-1)
    sums[COSINES] += cosine.clamp(-1, 1).where(pair, 0.0)
    sums[ANGLES] += angle_between(u, before).where(pair, 0.0)
    sums[PAIRS] += pair
    _hold_direction(state, part, torch.where(directed[:, None], u, before))
    sums[STEPS] += 1
    sums[ZEROS] += s == 0
    sums[PATH] += s
    sums[SQUARES] += s * s
    off = s - sums[MEAN]
    sums[MEAN] += off / sums[STEPS]
    sums[SCATTER] += off * (s - sums[MEAN])


def _in_unit(sums: Tensor, s: Tensor, unit: Tensor) -> Tensor:
    """Return the lengths s, given in units of `unit`, in those of the sums, brought to the longest."""
    longest = torch.where(s > 0, torch.maximum(sums[UNIT], unit), sums[UNIT])
    wanted = longest.where(longest > 0, 1.0)
    change = sums[UNIT] / wanted
    sums[PATH], sums[MEAN] = sums[PATH] * change, sums[MEAN] * change
    sums[SQUARES], sums[SCATTER] = sums[SQUARES] * change * change, sums[SCATTER] * change * change
    sums[UNIT] = longest
    return s * (unit / wanted)


def _held_direction(state: TrackState, part: slice) -> Tensor:
    """Return the last direction of some tracks, (rows, d)."""
    rows = state.direction[part]
    if rows.dtype == torch.int16:
        rows = ((rows.to(torch.int32) << 8) + state.direction_low[part]) * UNITS
    return rows.to(state.sums.dtype) / state.sums[ROW_LENGTH, part, None]


def _hold_direction(state: TrackState, part: slice, u: Tensor) -> None:
    """Hold the last direction of some tracks, (rows, d), for the next step."""
    rows = u
    if state.direction.dtype == torch.int16:
        largest = u.abs().amax(-1, keepdim=True)
        rows = (u / largest.where(largest > 0, 1.0) * LARGEST).nan_to_num().round()
        units = rows.to(torch.int32)
        state.direction[part], state.direction_low[part] = units >> 8, units & 255
        rows = rows * UNITS
    else:
        state.direction[part] = u
    length = torch.linalg.vector_norm(rows, dim=-1)
    state.sums[ROW_LENGTH, part] = length.where(length > 0, 1.0).to(state.sums.dtype)


def finish_reference(state: TrackState, zero_step: str) -> TrackGeometry:
    """Return the numbers of the tracks as they stand, each (m): their definition, in plain torch."""
    sums, out = state.sums, state.direction_sum.dtype
    resultant, chord, chord_unit = (torch.empty_like(sums[0]) for _ in range(3))  # (m)
    unit = sums[UNIT].where(sums[UNIT] > 0, 1.0)
    rows = _rows_at_once(state.first)
    for begin in range(0, sums.shape[1], rows):
        part = slice(begin, begin + rows)
        resultant[part] = torch.linalg.vector_norm(state.direction_sum[part].to(sums.dtype), dim=-1)
        ends = (end[part].to(sums.dtype) for end in (state.last, state.first))
        _, length, chord_unit[part], broken = differences(*ends)
        chord[part] = length.masked_fill(broken, math.nan)
    n = sums[STEPS] - sums[ZEROS] if zero_step == "skip" else sums[STEPS]
    n = n.where((sums[ZEROS] == 0), math.nan) if zero_step == "propagate" else n
    line = (n == 1) & (sums[ZEROS] == sums[STEPS] - 1)
    lss = (n / resultant).clamp(min=1).where((n > 0) & ~line, torch.where(line, 1.0, math.nan).to(n))
    lss = lss.where(~resultant.isnan(), math.nan)
    pairs = sums[PAIRS].where((sums[PAIRS] > 0) & ~n.isnan(), math.nan)
    fields = (
        lss,
        ((lss - 1) / (n.sqrt() - 1)).where(n >= 2, math.nan),
        sums[PATH] * unit,
        chord * chord_unit,
        (chord * (chord_unit / unit) / sums[PATH]).clamp(max=1),
        sums[COSINES] / pairs,
        sums[ANGLES] / pairs,
        (sums[SCATTER] / sums[STEPS]).sqrt() / sums[MEAN],
        sums[STEPS] * sums[SQUARES] * unit * unit,
    )
    whole = ~(sums[PATH].isnan() | chord.isnan())
    floats = (field.where(whole, math.nan).to(out) for field in fields)
    return TrackGeometry._make((*floats, sums[ZEROS].long()))


def _sample(rows: Tensor) -> Tensor:
    """A copy of at least one value of each row (m, d), where they lie together of columns that move on."""
    if rows.is_contiguous():
        values = rows.view(-1)[:: max(rows.shape[1] - 1, 1)]  # a view: gathering them is slow
    else:
        values = rows[:, rows.shape[1] // 2]
    return values.clone(memory_format=torch.contiguous_format)  # else one value or none keeps its stride


def _move(kept: dict[str, Any], key: str, to: str) -> None:
    if key in kept:
        kept[to] = kept.pop(key)


def _rows_at_once(current: Tensor) -> int:
    budget = _CHUNK_BYTES.get(current.device.type, _OTHER_CHUNK_BYTES)
    return max(1, budget // (8 * current.shape[1]))


def _wide(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64  # MPS has no float64
