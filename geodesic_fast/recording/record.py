# SPDX-License-Identifier: MIT
"""Stored tracks: what each layer of a network gave in a pass."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from geodesic_fast._results import compared_by_value
from geodesic_fast.recording import mistakes
from geodesic_fast.recording.layers import Layers
from geodesic_fast.recording.masks import Call
from geodesic_fast.recording.passes import Recording, Run
from geodesic_fast.recording.states import State


@compared_by_value
@dataclass(frozen=True, eq=False)
class TrackGroup:
    """Layers in a row whose states have one shape: a track of its own, one tensor (*batch, d) per layer."""

    names: list[str]
    tracks: list[Tensor]

    @property
    def width(self) -> int:
        """The number of features, d."""
        return self.tracks[0].shape[-1]


@dataclass
class _Stored:
    detach: bool
    clone: bool
    states: list[Tensor] = field(default_factory=list)

    def push(self, state: Tensor) -> None:
        state = state.detach() if self.detach else state
        self.states.append(state.clone() if self.clone else state)


class record(Recording[_Stored, TrackGroup]):
    """Record the tracks of a network: the input of its first layer and the output of every layer.

    x^(0) = the input of the first layer that runs, x^(l) = the output of the l-th. Where a network changes
    its shape, as convolutional networks do from stage to stage, each run of equal shape is a group of its
    own, with the input of its first layer as x^(0) where that has the same shape.

    Args:
        model: the module that is called, or one that holds it.
        layers: glob patterns such as `"blocks.*"` (a `*` stands for one part of a dotted name), names,
            modules, or a list of these. `None`: the one stack of equal blocks that the model holds, or the
            blocks in its one row of stages, a group for each stage.
        inputs: take the input of the first layer as x^(0); `False`: the first output is x^(0).
        detach: keep the states out of the gradient; `False` for a penalty.
        clone: copy each state, so that later in-place operations do not change it. `False` saves the memory
            and lets such operations through.
        flatten: `"auto"`: states with channels on their second axis, as convolutions have them, are one track
            per map, (batch, channels, *space) becomes (batch, d); of all others the last axis holds the
            features, and the layers' own norms, convolutions and linear maps tell which they are. `"maps"`:
            every state of four axes or more is a map; `"samples"`: one track per sample, tokens and all;
            `"never"`: the last axis holds the features.
        repeats: `"raise"` when a layer runs twice in a pass; `"append"`: each run is a point of the track,
            for networks that apply the same block several times to its own output.
        missing: `"raise"` when a layer does not run in a pass; `"skip"`: the track goes through those that
            ran.
        state: which tensor of what a layer gives is the state: an index, a name, or a function of the
            output. `None`: the one tensor that has the shape of the layer's input, or the only one.
        passes: `"last"`: keep the last whole pass; `"first"`: the first, after which the hooks leave;
            `"all"`: every pass of the block, each in `.passes`, joined along the tracks in `.groups`.
        when: `"always"`, or `"training"`: only passes of a model in training mode with gradients enabled.

    Returns:
        A context manager. Inside or after it, `.tracks` is the list of layers, each (*batch, d), that every
        metric takes; `.groups` holds one `TrackGroup` per shape; `.names` says where each point was taken.

    Raises:
        ValueError: nothing matches `layers`; `.tracks` of a network that changes its shape; several tensors
            that could be the state; axes that could be read in two ways.
        RuntimeError: a layer ran twice or not at all; `detach=False` where no gradient flows; no pass yet.

    The states carry gradients with `detach=False`. Layers that activation checkpointing runs again in the
    backward pass are recorded once. Hooks leave with the block, also after an error; a copy of the model that
    is made meanwhile, or one that is stored, is not followed. A group of one step and layers that belong to
    no group are told by a warning.

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
        flatten: str = "auto",
        repeats: str = "raise",
        missing: str = "raise",
        state: State = None,
        passes: str = "last",
        when: str = "always",
    ):
        self._detach, self._clone = detach, clone
        super().__init__(
            model, layers, inputs=inputs, flatten=flatten, repeats=repeats, missing=missing, state=state,
            passes=passes, when=when,
        )  # fmt: skip

    def _keeper(self, point: Tensor, calls: list[Call]) -> _Stored:
        return _Stored(self._detach, self._clone)

    def _leave(self, name: str, layer: nn.Module, state: Tensor) -> None:
        if not self._detach and not (state.requires_grad and torch.is_grad_enabled()):
            raise mistakes.gradient_lost(name)
        super()._leave(name, layer, state)

    def _group(self, run: Run[_Stored]) -> TrackGroup:
        return TrackGroup(run.names, _alike(run.kept.states))

    def _joined(self, groups: list[TrackGroup]) -> TrackGroup:
        rows = [[state.reshape(-1, state.shape[-1]) for state in group.tracks] for group in groups]
        return TrackGroup(
            groups[0].names, [torch.cat(_alike(list(layer))) for layer in zip(*rows, strict=True)]
        )

    @property
    def tracks(self) -> list[Tensor]:
        """The list of layers, x^(0) first, each (*batch, d), of a network of one width."""
        return self._only_group.tracks


def _alike(states: list[Tensor]) -> list[Tensor]:
    """The states in one dtype, the widest among them, and on one device, that of the first."""
    dtype = functools.reduce(torch.promote_types, (state.dtype for state in states))
    return [state.to(device=states[0].device, dtype=dtype) for state in states]
