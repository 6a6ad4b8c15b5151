# SPDX-License-Identifier: MIT
"""Tracks of a network measured during its own pass, and never stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from torch import Tensor, nn

from geodesic_fast import _validation_models as _validation
from geodesic_fast._validation import check_zero_step
from geodesic_fast.metrics.track_geometry import TrackGeometry
from geodesic_fast.recording.accumulator import TrackAccumulator
from geodesic_fast.recording.hooks import LayerHooks
from geodesic_fast.recording.layers import Layers, find_layers
from geodesic_fast.recording.record import FLATTEN, as_points


@dataclass(frozen=True)
class MeasuredGroup:
    """Layers in a row whose states have one shape, and the numbers of their tracks."""

    names: list[str]
    width: int
    geometry: TrackGeometry
    ends: tuple[Tensor, Tensor] | None = None  # x^(0) and x^(n), with ends=True


class watch:
    """Measure the tracks of a network while it runs, layer by layer, without storing them.

    The numbers of `track_geometry` for x^(0) = the input of the first layer that runs and x^(l) = the
    output of the l-th, held in about three states per track however deep the network is.

    Args:
        model: the module that is called, or one that holds it.
        layers: as for `record`. `None`: the one stack of equal blocks; of a transformer, its blocks, so that
            x^(n) is the residual stream before the final norm.
        mask: which tracks count. `"auto"`: the 2-d `attention_mask` with which the modules around the layers
            are called, where there is one; with a cache of earlier tokens, its last ones. Masks of other
            names are not looked for. A tensor (*batch), true where a track counts (of torch.nn.Transformer:
            `~src_key_padding_mask`). `None`: every track counts.
        zero_step: as in `track_geometry`; bf16 residual streams do hold steps of length zero.
        inputs, flatten, repeats, missing: as for `record`.
        copy: copy the two states that are held. `False` holds the tensors of the network, and refuses one
            that changes in place before the next layer has run. In `torch.inference_mode`, where torch does
            not see such changes, states are copied all the same.
        ends: keep copies of x^(0) and x^(n), in `.ends`: `ots(*w.ends)` is the optimal transport score.

    Returns:
        A context manager. After a pass, `.geometry` is a `TrackGeometry` of (*batch) tensors, or
        (tracks that count,) under a mask; `.ends` are x^(0) and x^(n), where asked for; `.groups` holds one
        `MeasuredGroup` per shape of a network that changes its width; `.names` says where each point was
        taken. They are of the last whole pass.

    Raises:
        ValueError: nothing matches `layers`; a mask of another shape; `.geometry` of a network of several
            widths.
        RuntimeError: a layer ran twice or not at all; a state changed in place; no pass yet.

    Not differentiable, and no part of the network's own gradient: training goes on as without it.

    Example:
        >>> import torch
        >>> from geodesic_fast.recording import watch
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Sequential(*(torch.nn.Linear(8, 8) for _ in range(3)))
        >>> with watch(model, layers="*") as w:
        ...     _ = model(torch.randn(5, 8))
        >>> w.geometry.lss.shape
        torch.Size([5])
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Layers = None,
        *,
        mask: Tensor | str | None = "auto",
        zero_step: str = "skip",
        inputs: bool = True,
        flatten: str = "maps",
        repeats: str = "raise",
        missing: str = "raise",
        copy: bool = False,
        ends: bool = False,
    ):
        _validation.check_choice("flatten", flatten, FLATTEN)
        _validation.check_watch_mask(mask)
        check_zero_step(zero_step)
        self._mask, self._zero_step, self._flatten, self._copy = mask, zero_step, flatten, copy
        self._ends = ends
        self.hooks = LayerHooks(
            find_layers(model, layers), self, inputs=inputs, repeats=repeats, missing=missing
        )
        self._found_mask: Tensor | None = None
        self._earlier_tokens = False  # whether a cache holds tokens before those of the pass
        self._running: list[_Running] = []
        self._last: list[MeasuredGroup] | None = None
        self._points = 0

    def __enter__(self) -> watch:
        self.hooks.attach()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.hooks.detach()
        if error is None:
            self.hooks.finish()
        self._running = []

    @property
    def measured(self) -> bool:
        """Whether a whole pass has been measured."""
        return bool(self._last)

    def forget(self) -> None:
        """Forget the pass that was measured."""
        self._last = None

    def begin(self) -> None:
        """Start a pass (called by the hooks)."""
        self._running, self._found_mask, self._points = [], None, 0
        self._earlier_tokens = False

    def call(self, arguments: Mapping[str, Any]) -> None:
        """Look for a mask among the arguments of a call around the layers (called by the hooks)."""
        if "decoder_input_ids" in arguments or "decoder_attention_mask" in arguments:
            return  # its attention_mask is the encoder's; the decoder itself is called with its own
        mask = arguments.get("attention_mask")
        if isinstance(mask, Tensor) and mask.ndim == 2:
            self._found_mask = mask
            self._earlier_tokens = arguments.get("past_key_values") is not None

    def state(self, name: str, state: Tensor) -> None:
        """Measure a state (called by the hooks)."""
        point = as_points(state.detach(), self._flatten)
        self._points += 1
        if not self._running or self._running[-1].accumulator.shape != point.shape:
            self._let_go()
            self._running.append(_Running([], self._accumulator(point)))
        self._running[-1].accumulator.push(point)
        self._running[-1].names.append(name)

    def end(self) -> None:
        """Close a pass (called by the hooks)."""
        self._let_go()
        tracks = [run for run in self._running if len(run.names) > 1]
        self._last = [_measured(run) for run in tracks]
        self._running = []

    def _accumulator(self, point: Tensor) -> TrackAccumulator:
        mask = self._found_mask if isinstance(self._mask, str) else self._mask
        if mask is not None and mask is self._found_mask and self._earlier_tokens and point.ndim == 3:
            mask = mask[:, -point.shape[1] :]  # the tokens before these are in the cache, not in the layers
        return TrackAccumulator(zero_step=self._zero_step, mask=mask, copy=self._copy)

    def _let_go(self) -> None:
        if self._running and len(self._running[-1].names) > 1:
            run = self._running[-1]
            run.ends = run.accumulator.ends if self._ends else None
            run.accumulator.close()

    @property
    def groups(self) -> list[MeasuredGroup]:
        """One group per run of layers of equal shape; a run of a single point is no track and is left out."""
        if self._last is None:
            raise _validation.no_pass(self.hooks.names)
        return self._last

    @property
    def _only_group(self) -> MeasuredGroup:
        groups = self.groups
        if not groups:
            raise _validation.no_group(self._points)
        if len(groups) > 1:
            raise _validation.several_groups([(group.names[0], group.width) for group in groups])
        return groups[0]

    @property
    def geometry(self) -> TrackGeometry:
        """The numbers of the tracks of a network of one width."""
        return self._only_group.geometry

    @property
    def ends(self) -> tuple[Tensor, Tensor]:
        """x^(0) and x^(n), each (*batch, d) or (tracks that count, d), of a watch with ends=True."""
        ends = self._only_group.ends
        if ends is None:
            raise _validation.no_ends()
        return ends

    @property
    def names(self) -> list[str]:
        """Where each point of the tracks was taken."""
        return self._only_group.names


@dataclass
class _Running:
    names: list[str]
    accumulator: TrackAccumulator
    ends: tuple[Tensor, Tensor] | None = None


def _measured(run: _Running) -> MeasuredGroup:
    assert run.accumulator.shape is not None
    return MeasuredGroup(run.names, run.accumulator.shape[-1], run.accumulator.geometry, run.ends)
