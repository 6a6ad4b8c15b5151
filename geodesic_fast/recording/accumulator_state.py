# SPDX-License-Identifier: MIT
"""What is held of a track while it is measured layer by layer, and how one more layer changes it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from geodesic_fast._extension import engine, has_engine, on_device, place_of
from geodesic_fast._tracks import ZERO_STEP_CODES, accumulation_dtype, engine_tracks, readable
from geodesic_fast.metrics.track_geometry import TrackGeometry
from geodesic_fast.operations.track_geometry import FIELD_COUNT

# The rows of `sums`. `step` lies along the last direction and has the length ROW_LENGTH (1 where it is zero);
# PENDING is one over that, or 0 once the direction has joined the sum of directions.
PATH, SQUARES, MEAN, SCATTER, COSINES, ANGLES, STEPS, ZEROS, PAIRS, PENDING, ROW_LENGTH = range(11)
SUM_ROWS = 11

_CHUNK_BYTES = {"cpu": 1 << 20}  # per temporary: stays in the cache
_OTHER_CHUNK_BYTES = 64 << 20


@dataclass
class TrackState:
    """m tracks of d features, after the last layer that was seen."""

    first: Tensor  # (m, d), x^(0)
    last: Tensor  # (m, d), x^(l)
    step: Tensor  # (m, d), along the last step that has a direction
    direction_sum: Tensor  # (m, d), u_1 + ... + u_l, but for what is pending
    sums: Tensor  # (SUM_ROWS, m), float64


def new_state(first: Tensor, current: Tensor) -> TrackState:
    """Return the state of tracks that stand at their first point (m, d)."""
    accumulate = accumulation_dtype(torch.promote_types(first.dtype, current.dtype))
    step, direction_sum = (torch.zeros_like(first, dtype=accumulate) for _ in range(2))  # (m, d)
    sums = torch.zeros(SUM_ROWS, len(first), dtype=_wide(first), device=first.device)
    sums[ROW_LENGTH] = 1
    return TrackState(first, first, step, direction_sum, sums)


def to_device(state: TrackState, device: torch.device) -> TrackState:
    """Return the state on another device, where the next layer lies."""
    if state.last.device == device:
        return state
    parts = (state.first, state.last, state.step, state.direction_sum, state.sums)
    return TrackState(*(part.to(device) for part in parts))


def update(state: TrackState, current: Tensor, zero_step: str) -> None:
    """Take one step to `current` (m, d)."""
    if not has_engine(current.device):
        return update_reference(state, current, zero_step)
    layers = _alike(state, state.last, current)
    if current.numel():
        _call_engine(state, layers, zero_step, False, None, None)
    state.last = current


def finish(state: TrackState, zero_step: str) -> TrackGeometry:
    """Return the numbers of the tracks as they stand, each (m)."""
    if not has_engine(state.last.device):
        return finish_reference(state, zero_step)
    m, device = len(state.last), state.last.device
    fields = torch.empty((FIELD_COUNT, m), dtype=state.step.dtype, device=device)
    zero_steps = torch.empty(m, dtype=torch.int64, device=device)
    if m:
        _call_engine(state, _alike(state, state.first, state.last), zero_step, True, fields, zero_steps)
    return TrackGeometry._make((*fields.unbind(0), zero_steps))


def _call_engine(
    state: TrackState,
    layers: list[Tensor],
    zero_step: str,
    finish: bool,
    fields: Tensor | None,
    zero_steps: Tensor | None,
) -> None:
    assert engine is not None
    policy = "propagate" if zero_step == "raise" else zero_step
    device = layers[0].device
    with on_device(device):
        engine.track_accumulator(
            engine_tracks(layers), ZERO_STEP_CODES[policy], finish,
            state.step.data_ptr(), state.direction_sum.data_ptr(), state.sums.data_ptr(),
            0 if fields is None else fields.data_ptr(), 0 if zero_steps is None else zero_steps.data_ptr(),
            place_of(device),
        )  # fmt: skip


def _alike(state: TrackState, before: Tensor, after: Tensor) -> list[Tensor]:
    """Two points of one dtype, that of the sums or narrower, which the engine can read where they lie."""
    dtype = torch.promote_types(before.dtype, after.dtype)
    if accumulation_dtype(dtype) != state.step.dtype:
        dtype = state.step.dtype
    return readable([before.to(dtype), after.to(dtype)])


def update_reference(state: TrackState, current: Tensor, zero_step: str) -> None:
    """Take one step to `current` (m, d): the definition of an update, in plain torch."""
    rows = _rows_at_once(current)
    for begin in range(0, len(current), rows):
        part = slice(begin, begin + rows)
        _update_rows(state, current, zero_step, part)
    state.last = current


def _update_rows(state: TrackState, current: Tensor, zero_step: str, part: slice) -> None:
    sums, step, direction_sum = state.sums[:, part], state.step[part], state.direction_sum[part]
    wide = sums.dtype
    v = current[part].to(wide) - state.last[part].to(wide)  # (rows, d)
    s, u = length_and_direction(v)  # (rows), (rows, d)
    before = step.to(wide) / sums[ROW_LENGTH, :, None]
    direction_sum += before.where(sums[PENDING, :, None] != 0, 0.0)
    direction_sum += u
    directed = torch.ones_like(s, dtype=torch.bool) if zero_step == "keep" else s != 0
    directions = sums[STEPS] if zero_step == "keep" else sums[STEPS] - sums[ZEROS]
    pair = directed & (directions > 0)
    cosine = (u * before).sum(-1)
    sums[COSINES] += cosine.where(pair, 0.0)
    sums[ANGLES] += cosine.clamp(-1, 1).acos().where(pair, 0.0)
    sums[PAIRS] += pair
    step.copy_(torch.where(directed[:, None], u, before))
    sums[PENDING], sums[ROW_LENGTH] = 0, 1
    sums[STEPS] += 1
    sums[ZEROS] += s == 0
    sums[PATH] += s
    sums[SQUARES] += s * s
    off = s - sums[MEAN]
    sums[MEAN] += off / sums[STEPS]
    sums[SCATTER] += off * (s - sums[MEAN])


def finish_reference(state: TrackState, zero_step: str) -> TrackGeometry:
    """Return the numbers of the tracks as they stand, each (m): their definition, in plain torch."""
    sums, out = state.sums, state.direction_sum.dtype
    resultant, chord = torch.empty_like(sums[0]), torch.empty_like(sums[0])  # (m)
    rows = _rows_at_once(state.first)
    for begin in range(0, sums.shape[1], rows):
        part = slice(begin, begin + rows)
        lacking = state.step[part].to(sums.dtype) / sums[ROW_LENGTH, part, None]
        lacking = lacking.where(sums[PENDING, part, None] != 0, 0.0)
        total = state.direction_sum[part].to(sums.dtype) + lacking
        resultant[part] = length_and_direction(total)[0]
        across = state.last[part].to(sums.dtype) - state.first[part].to(sums.dtype)
        chord[part] = length_and_direction(across)[0]
    n = sums[STEPS] - sums[ZEROS] if zero_step == "skip" else sums[STEPS]
    n = n.where((sums[ZEROS] == 0), math.nan) if zero_step == "propagate" else n
    line = (n == 1) & (sums[ZEROS] == sums[STEPS] - 1)
    lss = (n / resultant).where((n > 0) & ~line, torch.where(line, 1.0, math.nan).to(n))
    lss = lss.where(~resultant.isnan(), math.nan)
    pairs = sums[PAIRS].where((sums[PAIRS] > 0) & ~n.isnan(), math.nan)
    fields = (
        lss,
        ((lss - 1) / (n.sqrt() - 1)).where(n >= 2, math.nan),
        sums[PATH],
        chord,
        chord / sums[PATH],
        sums[COSINES] / pairs,
        sums[ANGLES] / pairs,
        (sums[SCATTER] / sums[STEPS]).sqrt() / sums[MEAN],
        sums[STEPS] * sums[SQUARES],
    )
    whole = sums[PATH].isfinite() & chord.isfinite()
    floats = (field.where(whole, math.nan).to(out) for field in fields)
    return TrackGeometry._make((*floats, sums[ZEROS].long()))


def length_and_direction(v: Tensor) -> tuple[Tensor, Tensor]:
    """Return |v| and v / |v| over the last axis, for any magnitude; a zero vector has direction zero."""
    largest = v.abs().amax(-1, keepdim=True)
    scaled = v / largest.where(largest > 0, 1.0)
    root = torch.linalg.vector_norm(scaled, dim=-1, keepdim=True)
    return (largest * root).squeeze(-1), scaled / root.where(root > 0, 1.0)


def _rows_at_once(current: Tensor) -> int:
    budget = _CHUNK_BYTES.get(current.device.type, _OTHER_CHUNK_BYTES)
    return max(1, budget // (8 * current.shape[1]))


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.float32 if tensor.device.type == "mps" else torch.float64  # MPS has no float64
