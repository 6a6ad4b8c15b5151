# SPDX-License-Identifier: MIT
"""What `record` and `watch` share: a pass through the layers, and groups of layers of one shape in a row."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from torch import Tensor, nn

from geodesic_fast._validation import check_choice
from geodesic_fast.recording import mask_mistakes, mistakes
from geodesic_fast.recording.hooks import LayerHooks, Sink
from geodesic_fast.recording.layers import Layers, find_layers
from geodesic_fast.recording.masks import Call
from geodesic_fast.recording.states import FLATTEN, State, as_points, is_map, is_same

if TYPE_CHECKING:
    from typing_extensions import Self


class Keeper(Protocol):
    """What is kept of the points of one group."""

    def push(self, state: Tensor) -> None:
        """Take the next point, (*batch, d)."""


Kept = TypeVar("Kept", bound=Keeper)


class NamedGroup(Protocol):
    """A finished group."""

    @property
    def names(self) -> list[str]:
        """Where each point was taken."""

    @property
    def width(self) -> int:
        """The number of features, d."""


Group = TypeVar("Group", bound=NamedGroup)


@dataclass
class Run(Generic[Kept]):
    """Layers in a row whose states have one shape, while their pass goes on."""

    shape: tuple[int, ...]  # of the states as the layers have them
    is_map: bool
    kept: Kept
    names: list[str] = field(default_factory=list)
    ends: tuple[Tensor, Tensor] | None = None  # the first and the last point, where they are kept

    def add(self, name: str, state: Tensor) -> None:
        """Take one more point."""
        self.kept.push(as_points(state, self.is_map))
        self.names.append(name)


@dataclass
class _Doubt:
    """A layer gave a state, and several tensors that it took have its shape."""

    name: str
    state: Tensor
    inputs: dict[str, Tensor]  # by argument


class Recording(ABC, Generic[Kept, Group]):
    """A context in which the passes of a network are followed; what is kept of a group is the subclass's."""

    def __init__(
        self,
        model: nn.Module,
        layers: Layers,
        *,
        inputs: bool,
        flatten: str,
        repeats: str,
        missing: str,
        state: State,
        passes: str,
        when: str,
    ):
        check_choice("flatten", flatten, FLATTEN)
        found = find_layers(model, layers)
        self._layers, self._stages = [module for _, module in found.layers], found.stages
        self._inputs, self._flatten, self._passes = inputs, flatten, passes
        sink = Sink(self._begin, self._enter, self._leave, self._end, self._say, self._refuse)
        self.hooks = LayerHooks(
            found, sink, repeats=repeats, missing=missing, passes=passes, when=when, state=state
        )
        self.refused: Exception | None = None  # why the last pass has no numbers
        self._runs: list[Run[Kept]] = []
        # What may begin a group: a layer's input, or several of which one is.
        self._waiting: Run[Kept] | dict[str, Tensor] | None = None
        self._doubt: _Doubt | None = None  # a group has begun with one of several inputs that could be its
        self._arguments: Mapping[str, Any] = {}  # of the layer that runs
        self._said: set[str] = set()
        self._points = 0
        self._done: list[list[Group]] = []

    def __enter__(self) -> Self:
        self._done, self.refused = [], None
        self.hooks.attach()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.hooks.detach()
        if error is None:
            self.hooks.finish()
        self._clear()

    def _clear(self) -> None:
        self._runs, self._waiting, self._doubt, self._arguments = [], None, None, {}

    def _new_run(self, name: str, layer: nn.Module, state: Tensor) -> Run[Kept]:
        shape = tuple(state.shape)
        flat = is_map(name, self._layers, layer, shape, self._flatten)
        point = as_points(state.detach(), flat)
        return Run(shape, flat, self._keeper(point, [*self.hooks.calls, Call.of(self._arguments)]))

    # What the hooks call.

    def _begin(self) -> None:
        """Start a pass."""
        self._runs, self._waiting, self._doubt, self._points = [], None, None, 0
        self.refused = self.refused if self._passes == "all" else None

    def _enter(
        self, name: str, layer: nn.Module, arguments: Mapping[str, Any], states: dict[str, Tensor]
    ) -> None:
        """Hold what a layer takes, if it may be the first point of a group."""
        if self.refused is not None:
            return
        if self._doubt is not None:
            self._settle(layer, states)
        self._arguments = arguments
        new = not self._runs or name in self._stages
        if self._waiting is not None or not self._inputs:
            return
        if not new:
            states = {key: state for key, state in states.items() if state.shape != self._runs[-1].shape}
        if len(states) == 1:
            try:
                self._waiting = self._started_with(name, layer, *states.values())
            except mask_mistakes.MaskUnclear as error:
                self._refuse(error)
        elif states:  # which of them, the output tells
            self._waiting = {key: state.clone() for key, state in states.items()}

    def _started_with(self, name: str, layer: nn.Module, state: Tensor) -> Run[Kept]:
        run = self._new_run(name, layer, state)
        run.add(f"input of {name}", state)
        return run

    def _leave(self, name: str, layer: nn.Module, state: Tensor) -> None:
        """Take what a layer gave into the group of its shape."""
        if self.refused is not None:
            return
        self._points += 1
        shape = tuple(state.shape)
        waiting, self._waiting = self._waiting, None
        try:
            if isinstance(waiting, dict):
                alike = {key: given for key, given in waiting.items() if given.shape == shape}
                waiting = self._started_with(name, layer, next(iter(alike.values()))) if alike else None
                self._doubt = _Doubt(name, state, alike) if len(alike) > 1 else None
            if waiting is not None and waiting.shape == shape:
                self._open(waiting)
            elif not self._runs or self._runs[-1].shape != shape or name in self._stages:
                self._open(self._new_run(name, layer, state))
        except mask_mistakes.MaskUnclear as error:
            return self._refuse(error)
        self._runs[-1].add(name, state)

    def _settle(self, layer: nn.Module, states: dict[str, Tensor]) -> None:
        """Learn under which argument the state goes on: that one of the layer before was its input."""
        assert self._doubt is not None
        doubt, self._doubt = self._doubt, None
        goes_on = [key for key, state in states.items() if is_same(state, doubt.state)]
        if len(goes_on) != 1 or goes_on[0] not in doubt.inputs:
            raise mistakes.input_unclear(doubt.name, list(doubt.inputs))
        if goes_on[0] != next(iter(doubt.inputs)):
            self._runs[-1] = self._started_with(doubt.name, layer, doubt.inputs[goes_on[0]])
            self._runs[-1].add(doubt.name, doubt.state)

    def _open(self, run: Run[Kept]) -> None:
        if self._runs:
            self._let_go(self._runs[-1])
        self._runs.append(run)

    def _end(self) -> None:
        """Close a pass."""
        if self.refused is not None:
            self._done = []
            self._clear()
            return self._say(str(self.refused))
        if self._doubt is not None:
            raise mistakes.input_unclear(self._doubt.name, list(self._doubt.inputs))
        if self._runs:
            self._let_go(self._runs[-1])
        tracks = [run for run in self._runs if len(run.names) > 1]
        if lost := [name for run in self._runs if len(run.names) == 1 for name in run.names]:
            self._say(mistakes.layers_dropped(lost))
        if short := [run.names[-1] for run in tracks if len(run.names) == 2]:
            self._say(mistakes.one_step(short))
        done = [self._group(run) for run in tracks]
        if self._passes == "all":
            self._done.append(done)
        elif self._passes == "last" or not self._done:
            self._done = [done]
        self._clear()

    def _say(self, sentence: str) -> None:
        """Warn the user, once."""
        if sentence not in self._said:
            self._said.add(sentence)
            warnings.warn(sentence, RuntimeWarning, stacklevel=2)

    def _refuse(self, error: Exception) -> None:
        """Give up the pass that runs, and keep the reason."""
        self.refused = error
        self._runs, self._waiting, self._doubt = [], None, None

    # What subclasses know.

    @abstractmethod
    def _keeper(self, point: Tensor, calls: list[Call]) -> Kept:
        """Return what keeps the points of a group that begins with `point`."""

    def _let_go(self, run: Run[Kept]) -> None:
        """Hear that no more points come to a group."""

    @abstractmethod
    def _group(self, run: Run[Kept]) -> Group:
        """Return what a group that has ended is to its user."""

    @abstractmethod
    def _joined(self, groups: list[Group]) -> Group:
        """Return the tracks of all passes as those of one group."""

    # What users read.

    @property
    def passes(self) -> list[list[Group]]:
        """The groups of each pass that was kept: the last, the first, or all."""
        if self.refused is not None:
            raise self.refused
        if not self._done:
            raise mistakes.no_pass(self.hooks.names)
        return self._done

    @property
    def groups(self) -> list[Group]:
        """One group per run of layers of equal shape; a run of a single point is no track and is left out."""
        if len(self.passes) == 1:
            return self.passes[0]
        alike: dict[tuple[Any, ...], list[Group]] = {}
        for group in (group for groups in self.passes for group in groups):
            alike.setdefault((tuple(group.names), group.width), []).append(group)
        return [groups[0] if len(groups) == 1 else self._joined(groups) for groups in alike.values()]

    @property
    def _only_group(self) -> Group:
        groups = self.groups
        if not groups:
            raise mistakes.no_group(self._points)
        if len(groups) > 1:
            raise mistakes.several_groups([(group.names[0], group.width) for group in groups])
        return groups[0]

    @property
    def names(self) -> list[str]:
        """Where each point of the tracks was taken."""
        return self._only_group.names
