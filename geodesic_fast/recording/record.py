# SPDX-License-Identifier: MIT
"""Stored tracks: what each layer of a network gave in its last pass."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from geodesic_fast import _validation_models as _validation
from geodesic_fast.recording.hooks import LayerHooks
from geodesic_fast.recording.layers import Layers, find_layers

FLATTEN = ("maps", "samples", "never")


def as_points(state: Tensor, flatten: str) -> Tensor:
    """Return `state` with its features last, (*batch, d)."""
    if (flatten == "maps" and state.ndim >= 4) or (flatten == "samples" and state.ndim >= 3):
        return state.flatten(1)
    return state


@dataclass(frozen=True)
class TrackGroup:
    """Layers in a row whose states have one shape: a track of its own, one tensor (*batch, d) per layer."""

    names: list[str]
    tracks: list[Tensor]


class record:
    """Record the tracks of a network: the input of its first layer and the output of every layer.

    x^(0) = the input of the first layer that runs, x^(l) = the output of the l-th. Where a network changes
    its shape, as convolutional networks do from stage to stage, each run of equal shape is a group of its
    own.

    Args:
        model: the module that is called, or one that holds it.
        layers: glob patterns such as `"blocks.*"` (a `*` stands for one part of a dotted name), names,
            modules, or a list of these. `None`: the one stack of equal blocks that the model holds.
        inputs: take the input of the first layer as x^(0); `False`: the first output is x^(0).
        detach: keep the states out of the gradient; `False` for a penalty.
        clone: copy each state, so that later in-place operations do not change it. `False` saves the memory
            and lets such operations through.
        flatten: `"maps"`: one track per feature map, (batch, channels, height, width) becomes (batch, d);
            `"samples"`: one track per sample, tokens and all; `"never"`: the last axis holds the features.
        repeats: `"raise"` when a layer runs twice in a pass; `"append"`: each run is a point of the track,
            for networks that apply the same block several times.
        missing: `"raise"` when a layer does not run in a pass; `"skip"`: the track goes through those that
            ran.

    Returns:
        A context manager. Inside or after it, `.tracks` is the list of layers, each (*batch, d), that every
        metric takes; `.groups` holds one `TrackGroup` per shape; `.names` says where each point was taken.
        They are of the last whole pass.

    Raises:
        ValueError: nothing matches `layers`; `.tracks` of a network that changes its shape.
        RuntimeError: a layer ran twice or not at all; `detach=False` where no gradient flows; no pass yet.

    The states carry gradients with `detach=False`. Layers that activation checkpointing runs again in the
    backward pass are recorded once. Hooks leave with the block, also after an error.

    Example:
        >>> import torch, geodesic_fast
        >>> from geodesic_fast.recording import record
        >>> _ = torch.manual_seed(0)
        >>> blocks = torch.nn.ModuleList(torch.nn.Linear(8, 8) for _ in range(3))
        >>> model = torch.nn.Sequential(*blocks)
        >>> with record(model, layers="*") as recording:
        ...     _ = model(torch.randn(5, 8))
        >>> geodesic_fast.lss(recording.tracks).shape
        torch.Size([5])
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Layers = None,
        *,
        inputs: bool = True,
        detach: bool = True,
        clone: bool = True,
        flatten: str = "maps",
        repeats: str = "raise",
        missing: str = "raise",
    ):
        _validation.check_choice("flatten", flatten, FLATTEN)
        self._detach, self._clone, self._flatten = detach, clone, flatten
        self._current: list[tuple[str, Tensor]] = []
        self._last: list[tuple[str, Tensor]] = []
        found = find_layers(model, layers)
        self._hooks = LayerHooks(found, self, inputs=inputs, repeats=repeats, missing=missing)

    def __enter__(self) -> record:
        self._hooks.attach()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hooks.detach()
        if error is None:
            self._hooks.finish()

    def begin(self) -> None:
        """Start a pass (called by the hooks)."""
        self._current = []

    def call(self, arguments: Mapping[str, Any]) -> None:
        """Learn the arguments of the model's call (called by the hooks; stored tracks need none)."""

    def state(self, name: str, state: Tensor) -> None:
        """Keep a state (called by the hooks)."""
        if self._detach:
            state = state.detach()
        elif not (state.requires_grad and torch.is_grad_enabled()) and not name.startswith("input of "):
            raise _validation.gradient_lost(name)
        self._current.append((name, state.clone() if self._clone else state))

    def end(self) -> None:
        """Close a pass (called by the hooks)."""
        self._last, self._current = self._current, []

    @property
    def groups(self) -> list[TrackGroup]:
        """One group per run of layers of equal shape; a run of a single point is no track and is left out."""
        if not self._last:
            raise _validation.no_pass(self._hooks.names)
        runs: list[list[tuple[str, Tensor]]] = []
        for name, state in self._last:
            point = (name, as_points(state, self._flatten))
            if not runs or runs[-1][-1][1].shape != point[1].shape:
                runs.append([])
            runs[-1].append(point)
        return [TrackGroup([n for n, _ in run], _alike([s for _, s in run])) for run in runs if len(run) > 1]

    @property
    def _only_group(self) -> TrackGroup:
        groups = self.groups
        if not groups:
            raise _validation.no_group(len(self._last))
        if len(groups) > 1:
            raise _validation.several_groups([(g.names[0], g.tracks[0].shape[-1]) for g in groups])
        return groups[0]

    @property
    def tracks(self) -> list[Tensor]:
        """The list of layers, x^(0) first, each (*batch, d), of a network of one width."""
        return self._only_group.tracks

    @property
    def names(self) -> list[str]:
        """Where each point of `.tracks` was taken."""
        return self._only_group.names


def _alike(states: list[Tensor]) -> list[Tensor]:
    """The states in one dtype, the widest among them, and on one device, that of the first."""
    dtype = functools.reduce(torch.promote_types, (state.dtype for state in states))
    return [state.to(device=states[0].device, dtype=dtype) for state in states]
